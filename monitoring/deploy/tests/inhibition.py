#!/usr/bin/env python3
"""Checks in a real Alertmanager that runs with ../alertmanager.yml who is silenced by whom: `inhibition.py http://127.0.0.1:9093`.
Its alerts are called off again at the end. Python's standard library only.
"""

import json
import sys
import time
import urllib.request

# What is going on at once, and what of it operators are to be told.
CASES = {
    "a lost host silences its tenants and all else of it": (
        ["HostLost host=h1", "OdooDown tenant=alfa host=h1", "PostgreSQLDown tenant=alfa host=h1", "HostNotScraped host=h1",
         "OdooDown tenant=beta host=h2", "EdgeConfigurationRejected"],
        {"HostLost h1", "OdooDown beta", "EdgeConfigurationRejected"},
    ),
    "so does one that is in maintenance": (
        ["HostMaintenance host=h1", "HostLost host=h1", "OdooDown tenant=alfa host=h1", "OdooDown tenant=beta host=h2", "EdgeConfigurationRejected"],
        {"HostMaintenance h1", "OdooDown beta", "EdgeConfigurationRejected"},
    ),
    "so does a suspect one": (["HostSuspect host=h1", "OdooDown tenant=alfa host=h1"], {"HostSuspect h1"}),
    "a host that is not scraped silences what is said of its tenants": (
        ["HostNotScraped host=h1 job=host", "HostNotScraped host=h2 job=containers", "OdooDown tenant=alfa host=h1 job=odoo",
         "OdooDown tenant=beta host=h2 job=odoo"],
        {"HostNotScraped h1", "HostNotScraped h2", "OdooDown beta"},
    ),
    "a host's Docker that does not answer silences what is said of its tenants, and nothing of the host itself": (
        ["HostDockerDown host=h1", "HostDiskFull host=h1", "OdooDown tenant=alfa host=h1", "TenantUnreachable tenant=alfa host=h1",
         "ContainerOOMKilled tenant=alfa host=h1", "PostgreSQLDown tenant=beta host=h2"],
        {"HostDockerDown h1", "HostDiskFull h1", "PostgreSQLDown beta"},
    ),
    "a relay that is away explains who is not reached, and nobody on another host": (
        ["HostRelayDown host=h1", "TenantUnreachable tenant=alfa host=h1", "TenantUnreachable tenant=beta host=h2", "OdooDown tenant=gama host=h1"],
        {"HostRelayDown h1", "TenantUnreachable beta", "OdooDown gama"},
    ),
    "PostgreSQL explains its Odoo, and nobody else's": (
        ["PostgreSQLDown tenant=alfa host=h1", "OdooDown tenant=alfa host=h1", "OdooCronStuck tenant=alfa host=h1",
         "ContainerOOMKilled tenant=alfa host=h1", "OdooDown tenant=beta host=h1", "HostDiskFull host=h1"],
        {"PostgreSQLDown alfa", "ContainerOOMKilled alfa", "OdooDown beta", "HostDiskFull h1"},
    ),
    "an Odoo that is down is not slow": (
        ["OdooDown tenant=alfa host=h1", "OdooHighResponseTime tenant=alfa host=h1", "TenantUnreachable tenant=alfa host=h1"],
        {"OdooDown alfa"},
    ),
    "stuck actions explain waiting mail": (
        ["OdooCronStuck tenant=alfa host=h1", "OdooMailQueue tenant=alfa host=h1", "OdooMailQueue tenant=beta host=h1"],
        {"OdooCronStuck alfa", "OdooMailQueue beta"},
    ),
    "an edge that is down explains its own silence, and no tenant's": (
        ["EdgeDown", "EdgeNotScraped", "EdgeNotFollowing", "TenantUnreachable tenant=alfa host=h1"],
        {"EdgeDown", "TenantUnreachable alfa"},
    ),
}


def call(url, body=None):
    """GET, or POST of a body."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.loads(answer.read() or "null")


def labels_of(text):
    """`NAME key=value …` as labels."""
    name, *pairs = text.split()
    return {"alertname": name, "severity": "warning", **dict(pair.split("=") for pair in pairs)}


def post(base, alerts, ends_in):
    """Starts alerts, or ends them."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + ends_in))
    call(f"{base}/api/v2/alerts", [{"labels": labels_of(alert), "endsAt": stamp} for alert in alerts])


def told(base):
    """The alerts that are not silenced."""
    seen = call(f"{base}/api/v2/alerts?active=true&inhibited=false&silenced=false")
    name = lambda of: " ".join(filter(None, [of["alertname"], of.get("tenant") or of.get("host")]))
    return {name(alert["labels"]) for alert in seen}


def main():
    """See the module."""
    base = sys.argv[1].rstrip("/")
    for name, (alerts, wanted) in CASES.items():
        post(base, alerts, 300)
        until = time.monotonic() + 10
        while (seen := told(base)) != wanted and time.monotonic() < until:
            time.sleep(0.2)
        post(base, alerts, -1)
        if seen != wanted:
            sys.exit(f"FAIL {name}: told {sorted(seen)} in place of {sorted(wanted)}")
        while told(base):
            time.sleep(0.2)
        print(f"ok   {name}")


if __name__ == "__main__":
    main()

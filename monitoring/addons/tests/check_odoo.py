#!/usr/bin/env python3
"""Checks the addon in a running Odoo, from outside: `check_odoo.py http://127.0.0.1:8069 --token-file F [--websocket
http://127.0.0.1:8072] [--recycles] [--database down]`. Prints what it checked; ends with 1 at the first thing that is wrong.

The Odoo should serve nobody else meanwhile: counts are compared exactly (health probes do no harm). `--recycles` says
that workers are expected to be replaced during the run (`limit_request` of some dozen in odoo.conf); `--database down`
that PostgreSQL has been paused, and then nothing else is checked. Python's standard library only.
"""

import argparse
import base64
import http.client
import os
import re
import socket
import sys
import threading
import time
import urllib.parse
import xmlrpc.client
from pathlib import Path

_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
# A worker that serves a slow first page, and a scrape that waits for a broken database.
_TIMEOUT_SECONDS = 60
# Odoo notices a closed websocket when it next reads from it; a killed worker is replaced at the master's next beat.
_SETTLE_SECONDS = 20


class Failure(Exception):
    """What is wrong."""


class Page:
    """The samples of one scrape."""

    def __init__(self, text):
        self.samples = []
        for line in text.splitlines():
            if not line or line.startswith("#"):
                continue
            match = _SAMPLE.match(line)
            if not match:
                raise Failure(f"not a sample: {line!r}")
            self.samples.append((match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])))

    def sum(self, name, **labels):
        """Over all samples with these labels; None where there is none."""
        values = [v for n, of, v in self.samples if n == name and labels.items() <= of.items()]
        return sum(values) if values else None

    def count(self, name, **labels):
        """As `sum`, 0 where there is none."""
        return self.sum(name, **labels) or 0


class Odoo:
    """Requests to one server, each on a connection of its own."""

    def __init__(self, url, token):
        self.address = urllib.parse.urlsplit(url).netloc
        self.url, self.token = url, token

    def ask(self, path, headers=None, method="GET"):
        """`(status, headers, body)`."""
        connection = http.client.HTTPConnection(self.address, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(method, path, headers=headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def scrape(self, accept="*/*"):
        """The page, read with the token."""
        status, headers, body = self.ask("/metrics", {"Authorization": f"Bearer {self.token}", "Accept": accept})
        if status != 200:
            raise Failure(f"/metrics with the token: {status}")
        return Page(body.decode()), headers, body.decode()

    def page(self):
        """Its samples."""
        return self.scrape()[0]


def expect(what, seen, wanted):
    """Equal, or it is a failure."""
    if seen != wanted:
        raise Failure(f"{what}: {seen!r} in place of {wanted!r}")
    print(f"ok   {what}: {seen!r}")


def expect_true(what, true, seen=""):
    """True, or it is a failure."""
    if not true:
        raise Failure(f"{what} {seen}".strip())
    print(f"ok   {what} {seen}".rstrip())


def settled(what, read, wanted):
    """Equal before long."""
    until = time.monotonic() + _SETTLE_SECONDS
    while (seen := read()) != wanted and time.monotonic() < until:
        time.sleep(0.2)
    expect(what, seen, wanted)


def in_parallel(clients, each, work):
    """Runs `work()` `each` times in as many threads; the first error is raised."""
    errors = []

    def run():
        try:
            for _ in range(each):
                work()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def check_token(odoo):
    """Who has not the token sees what Odoo says of any unknown path."""
    plain = odoo.ask("/metrics-that-are-not-there")
    bearer = f"Bearer {odoo.token}"
    for name, headers in {
        "without a token": {}, "with a wrong token": {"Authorization": bearer + "x"},
        "with another scheme": {"Authorization": f"Basic {odoo.token}"},
        "through a proxy": {"Authorization": bearer, "X-Forwarded-For": "192.0.2.1"},
    }.items():
        status, of_answer, body = odoo.ask("/metrics", headers)
        expect(f"/metrics {name}", status, 404)
        expect_true(f"  looks like any other 404 ({name})", of_answer["Content-Type"] == plain[1]["Content-Type"])
        expect_true("  and tells nothing", b"odoo_http_requests" not in body)
    expect("/metrics by POST", odoo.ask("/metrics", {"Authorization": bearer}, "POST")[0] in (400, 404, 405), True)


def check_format(odoo):
    """Both formats, with what must be on the page."""
    page, headers, _ = odoo.scrape()
    expect_true("plain text", headers["Content-Type"].startswith("text/plain; version=0.0.4"))
    _, headers, text = odoo.scrape("application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    expect_true("OpenMetrics on demand", headers["Content-Type"].startswith("application/openmetrics-text"))
    expect_true("  with its end", text.endswith("# EOF\n"))
    for name in (
        "odoo_build_info", "odoo_sql_queries_total", "odoo_longpolling_connections", "odoo_database_size",
        "odoo_cron_lag_seconds", "odoo_active_users", "odoo_sessions", "odoo_login_failures_total",
        "odoo_last_activity_time_seconds",
    ):
        expect_true(f"{name} is there:", page.sum(name) is not None, page.sum(name))
    expect_true("odoo_database_size in bytes:", page.sum("odoo_database_size") > 1_000_000)
    for _, labels, value in (s for s in page.samples if s[0] == "odoo_metrics_hook_active"):
        expect(f"hook {labels['hook']} in place", value, 1)
    expect("errors of the hooks", page.sum("odoo_metrics_errors_total", source="hook"), 0)


def check_exact(odoo, clients, each):
    """As many requests as were sent, no more, no less, by method, code and route."""
    wanted = {
        ("GET", "200", "login"): "/web/login", ("GET", "404", "other"): "/no/such/page",
        ("HEAD", "200", "static"): "/web/static/img/favicon.ico",
    }
    before = odoo.page()
    for (method, code, _), path in wanted.items():
        def one(method=method, code=code, path=path):
            status = odoo.ask(path, method=method)[0]
            if status != int(code):
                raise Failure(f"{method} {path}: {status}")
        in_parallel(clients, each, one)
    after = odoo.page()
    for method, code, route in wanted:
        labels = {"method": method, "code": code, "route": route}
        name = "odoo_http_requests_total"
        expect(f"{name}{labels}", after.count(name, **labels) - before.count(name, **labels), clients * each)
        name = "odoo_http_request_duration_seconds_count"
        expect(f"{name} of {route}", after.count(name, route=route) - before.count(name, route=route), clients * each)
    spent = after.count("odoo_http_request_duration_seconds_sum", route="login")
    spent -= before.count("odoo_http_request_duration_seconds_sum", route="login")
    expect_true("time per login page, seconds:", 0.0005 < spent / (clients * each) < 10, round(spent / clients / each, 5))
    queries = after.count("odoo_sql_queries_total") - before.count("odoo_sql_queries_total")
    expect_true("SQL queries were counted:", queries >= clients * each, int(queries))


def check_sql(odoo):
    """The histogram is one: rising buckets, the last of them the count."""
    page = odoo.page()
    name = "odoo_sql_query_duration_seconds"
    buckets = [value for n, _, value in page.samples if n == f"{name}_bucket"]
    expect_true("SQL buckets rise", buckets == sorted(buckets) and len(buckets) > 5)
    expect("the last is the count", buckets[-1], page.sum(f"{name}_count"))
    expect("and the number of queries", buckets[-1], page.sum("odoo_sql_queries_total"))
    mean = page.sum(f"{name}_sum") / buckets[-1]
    expect_true("mean time of a query, seconds:", 0.00001 < mean < 1, round(mean, 6))


def open_websocket(address):
    """A connection that Odoo has upgraded."""
    host, _, port = address.rpartition(":")
    opened = socket.create_connection((host, int(port)), timeout=_TIMEOUT_SECONDS)
    key = base64.b64encode(os.urandom(16)).decode()
    opened.sendall((
        f"GET /websocket?version=check HTTP/1.1\r\nHost: {address}\r\nOrigin: http://{address}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode())
    answer = opened.recv(4096).split(b"\r\n", 1)[0]
    if b" 101 " not in answer:
        raise Failure(f"websocket refused: {answer!r}")
    return opened


def check_websockets(odoo, url):
    """As many as are open, while they are."""
    def connections():
        return odoo.page().sum("odoo_longpolling_connections")

    address = urllib.parse.urlsplit(url).netloc
    settled("open websockets before", connections, 0)
    opened = [open_websocket(address) for _ in range(5)]
    settled("open websockets", connections, 5)
    for connection in opened[:2]:
        connection.close()
    settled("after closing two", connections, 3)
    for connection in opened[2:]:
        connection.close()
    settled("after closing all", connections, 0)
    status = Odoo(url, odoo.token).ask("/metrics", {"Authorization": f"Bearer {odoo.token}"})[0]
    if url != odoo.url:
        expect("/metrics of the evented process", status, 404)


def check_logins(odoo):
    """Refusals, by the door that checks a login and by the one that checks each call."""
    database = next(labels["datname"] for name, labels, _ in odoo.page().samples if name == "odoo_database_size")
    before = odoo.page().sum("odoo_login_failures_total")
    for attempt in range(3):
        common = xmlrpc.client.ServerProxy(f"{odoo.url}/xmlrpc/2/common")
        expect("a wrong password", common.authenticate(database, "nobody", f"wrong{attempt}", {}), False)
    try:
        xmlrpc.client.ServerProxy(f"{odoo.url}/xmlrpc/2/object").execute_kw(database, 2, "wrong", "res.users", "read", [[2]])
        raise Failure("a call with a wrong password was let in")
    except xmlrpc.client.Fault:
        pass
    expect("login failures", odoo.page().sum("odoo_login_failures_total") - before, 4)


def check_workers(odoo, workers, recycles):
    """All there, and replaced as told."""
    if workers:
        for kind, wanted in {"main": 1, "http": workers, "gevent": 1}.items():
            settled(f"workers, {kind}", lambda kind=kind: odoo.page().sum("odoo_workers", kind=kind), wanted)
        seen = odoo.page().sum("odoo_worker_recycles_total", kind="http")
        expect_true("HTTP workers replaced:", (seen > 0) == recycles, int(seen))
    else:
        expect("the one process", odoo.page().sum("odoo_workers", kind="threaded"), 1)


def check_broken(odoo):
    """Without its database Odoo still tells that it is without its database.

    To be had by `docker pause` of PostgreSQL, after at least one request to each worker: when PostgreSQL is stopped,
    Odoo 19's prefork server ends by itself, and does not start before PostgreSQL is back.
    """
    until = time.monotonic() + _SETTLE_SECONDS
    while True:
        begin = time.monotonic()
        page = odoo.page()
        spent = time.monotonic() - begin
        expect_true("/metrics answers before a scrape gives up, seconds:", spent < 8, round(spent, 2))
        # Each worker's last answers are good for 10 seconds.
        if page.sum("odoo_database_up") == 0 or time.monotonic() > until:
            break
        time.sleep(1)
    expect("odoo_database_up", page.sum("odoo_database_up"), 0)
    expect("odoo_database_size is left out", page.sum("odoo_database_size"), None)
    expect_true("the error is counted", page.count("odoo_metrics_errors_total", source="connect") > 0)
    expect_true("what needs no database is there", page.sum("odoo_sql_queries_total") is not None)


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--token-file", required=True)
    parser.add_argument("--websocket", help="URL of the evented port; the same as the first with workers = 0")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--each", type=int, default=50, help="requests of each client and kind")
    parser.add_argument("--recycles", action="store_true")
    parser.add_argument("--database", choices=("up", "down"), default="up")
    options = parser.parse_args()
    odoo = Odoo(options.url.rstrip("/"), Path(options.token_file).read_text().strip())
    try:
        if options.database == "down":
            check_broken(odoo)
        else:
            check_format(odoo)
            check_token(odoo)
            check_exact(odoo, options.clients, options.each)
            check_sql(odoo)
            if options.websocket:
                check_websockets(odoo, options.websocket.rstrip("/"))
            check_logins(odoo)
            check_workers(odoo, options.workers, options.recycles)
            check_format(odoo)
    except (Failure, OSError) as failure:
        print(f"FAIL {failure}", file=sys.stderr)
        sys.exit(1)
    print("all checked")


if __name__ == "__main__":
    main()

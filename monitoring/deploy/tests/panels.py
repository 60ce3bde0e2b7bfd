#!/usr/bin/env python3
"""Asks a Prometheus every query of every dashboard: `panels.py http://127.0.0.1:9090 cliente=odoo_alfa tenant=alfa host=h1
[--may-be-empty REGEX]`. A query that fails or finds nothing ends it with 1, unless its dashboard and title (`host: Waiting`)
match the expression (a kernel without pressure figures, an Odoo without the mail module). `--syntax` only asks whether
Prometheus understands them. Variables of dashboards are checked as well. Python's standard library only.
"""

import argparse
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

DASHBOARDS = Path(__file__).resolve().parent.parent / "grafana" / "dashboards"
_LABEL_VALUES = re.compile(r"label_values\((.*), *(\w+)\)$")


def ask(prometheus, expression):
    """The series found. `ValueError` with what Prometheus has against the query."""
    address = f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': expression})}"
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise ValueError(json.load(error)["error"]) from error


def queries():
    """`(dashboard, title, expression)` of all panels and variables."""
    for file in sorted(DASHBOARDS.glob("*.json")):
        dashboard = json.loads(file.read_text())
        for variable in dashboard["templating"]["list"]:
            yield file.stem, f"${variable['name']}", _LABEL_VALUES.match(variable["query"])[1]
        for panel in dashboard["panels"]:
            for target in panel.get("targets", ()):
                yield file.stem, panel["title"], target["expr"]


def with_values(expression, values):
    """Grafana's variables, as it would put them in."""
    return re.sub(r"\$(\w+)", lambda match: values[match[1]], expression)


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus")
    parser.add_argument("values", nargs="*", help="NAME=VALUE of a variable")
    parser.add_argument("--may-be-empty", default="^$")
    parser.add_argument("--syntax", action="store_true")
    options = parser.parse_args()
    values = {"cliente": "odoo_alfa", "tenant": "alfa", "host": "h1"} | dict(v.split("=", 1) for v in options.values)
    asked = bad = 0
    for dashboard, title, expression in queries():
        asked += 1
        try:
            found = ask(options.prometheus.rstrip("/"), with_values(expression, values))
        except ValueError as error:
            print(f"WRONG {dashboard}: {title}: {error}\n      {expression}", file=sys.stderr)
            bad += 1
            continue
        if not found and not options.syntax and not re.search(options.may_be_empty, f"{dashboard}: {title}"):
            print(f"EMPTY {dashboard}: {title}\n      {expression}", file=sys.stderr)
            bad += 1
    print(f"{asked} queries, {bad} of them without what they should show")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()

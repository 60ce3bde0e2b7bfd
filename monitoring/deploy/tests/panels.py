#!/usr/bin/env python3
"""Asks a Prometheus every query of every dashboard: `panels.py http://127.0.0.1:9090 cliente=odoo_alfa tenant=alfa host=h1
[--may-be-empty REGEX] [--only REGEX]`. A query that fails or finds nothing ends it with 1, unless its dashboard and title (`host: Waiting`)
match the expression (a kernel without pressure figures, an Odoo without the mail module). `--only` asks those that match, and there
must be some. `--syntax` only asks whether
Prometheus understands them. A panel that shows 0 where there is nothing (`or vector(0)`) must have the series that it counts, whatever
their values. Variables of dashboards are checked as well. Python's standard library only.
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
_ZERO = " or vector(0)"
# A selector: a name that is no function, and its labels.
_SELECTOR = re.compile(r"(?<![\w.])([a-zA-Z_]\w*)(?:\{([^}]*)\}|(?![\w(]))")
_EQUAL = re.compile(r'[a-z_]+="[^"]*"')
# Prometheus' own series of what fires: there are none where all is well.
_ALERTS = "ALERTS"
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


def counted(expression):
    """The selectors of a query that shows 0 in place of nothing, with no label that only says what is wrong."""
    for name, labels in _SELECTOR.findall(re.sub(r"\[\w+\]", "", expression.replace(_ZERO, ""))):
        if name != _ALERTS:
            chosen = ",".join(_EQUAL.findall(labels))
            yield f"{name}{{{chosen}}}"


def found_by(prometheus, expression):
    """Whether a query shows something that is not made up."""
    found = ask(prometheus, expression)
    return found and (_ZERO not in expression or all(ask(prometheus, part) for part in counted(expression)))


def main():
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus")
    parser.add_argument("values", nargs="*", help="NAME=VALUE of a variable")
    parser.add_argument("--may-be-empty", default="^$")
    parser.add_argument("--only", default="")
    parser.add_argument("--syntax", action="store_true")
    options = parser.parse_args()
    values = {"cliente": "odoo_alfa", "tenant": "alfa", "host": "h1"} | dict(v.split("=", 1) for v in options.values)
    asked = bad = 0
    for dashboard, title, expression in queries():
        if not re.search(options.only, f"{dashboard}: {title}"):
            continue
        asked += 1
        try:
            found = found_by(options.prometheus.rstrip("/"), with_values(expression, values))
        except ValueError as error:
            print(f"WRONG {dashboard}: {title}: {error}\n      {expression}", file=sys.stderr)
            bad += 1
            continue
        if not found and not options.syntax and not re.search(options.may_be_empty, f"{dashboard}: {title}"):
            print(f"EMPTY {dashboard}: {title}\n      {expression}", file=sys.stderr)
            bad += 1
    print(f"{asked} queries, {bad} of them without what they should show")
    sys.exit(1 if bad or not asked else 0)


if __name__ == "__main__":
    main()

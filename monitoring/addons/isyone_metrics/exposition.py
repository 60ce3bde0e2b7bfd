"""Numbers as text that Prometheus reads: its own format, or OpenMetrics for who asks for that. Pure."""

from . import addresses, layout

PLAIN = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def escape(value):
    """A label's value."""
    return str(value).replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


def number(value):
    """As both formats write it."""
    return str(value) if isinstance(value, int) else repr(float(value))


class Text:
    """A page in the making."""

    def __init__(self, openmetrics=False):
        self._openmetrics = openmetrics
        self._lines = []

    def family(self, name, kind, text, samples):
        """A metric with its samples, `(labels as a dictionary, value)`. Without samples there is nothing to say."""
        samples = list(samples)
        if samples:
            self._head(name, kind, text)
            self._lines += [self._sample(name, labels, value) for labels, value in samples]

    def histogram(self, name, text, label, rows):
        """`rows` are `(label's value, Histogram, cells)`; a label without a name is none."""
        self._head(name, "histogram", text)
        for value, cells, row in rows:
            labels = {label: value} if label else {}
            running = 0
            for index, bound in enumerate((*map(repr, cells.buckets), "+Inf")):
                running += row[cells.first + index]
                self._lines.append(self._sample(f"{name}_bucket", {**labels, "le": bound}, running))
            self._lines.append(self._sample(f"{name}_sum", labels, row[cells.sum] / layout.NANOSECONDS))
            self._lines.append(self._sample(f"{name}_count", labels, running))

    def _head(self, name, kind, text):
        # OpenMetrics names a counter without the ending that its samples have.
        if self._openmetrics and kind == "counter":
            name = name.removesuffix("_total")
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]

    @staticmethod
    def _sample(name, labels, value):
        inner = ",".join(f'{key}="{escape(text)}"' for key, text in labels.items())
        return f"{name}{{{inner}}} {number(value)}" if inner else f"{name} {number(value)}"

    def finish(self):
        """The page, and its content type."""
        end = ["# EOF"] if self._openmetrics else []
        return "\n".join([*self._lines, *end, ""]).encode(), OPENMETRICS if self._openmetrics else PLAIN


def total(row, histogram):
    """How many values a histogram has seen."""
    return sum(row[histogram.first:histogram.sum])


def counted(text, row, workers):
    """What the processes count."""
    text.family(
        "odoo_http_requests_total", "counter", "HTTP requests answered, scrapes of this page not counted",
        (({"method": method, "code": code, "route": route}, count)
         for method, code, route, count in layout.requests(row)),
    )
    seen = [(name, cells, row) for name, cells in zip(layout.ROUTES, layout.HTTP) if total(row, cells)]
    text.histogram("odoo_http_request_duration_seconds", "Time until Odoo had the answer", "route", seen)
    text.family("odoo_sql_queries_total", "counter", "SQL queries run", [({}, total(row, layout.SQL))])
    text.histogram("odoo_sql_query_duration_seconds", "Time of an SQL query", None, [(None, layout.SQL, row)])
    text.family(
        "odoo_longpolling_connections", "gauge", "Open websockets", [({}, row[layout.OPEN_WEBSOCKETS])],
    )
    kinds = list(enumerate(layout.KINDS))
    text.family(
        "odoo_workers", "gauge", "Living processes by kind", (({"kind": kind}, workers[at]) for at, kind in kinds),
    )
    text.family(
        "odoo_worker_recycles_total", "counter", "Processes that ended and whose place was taken by another",
        (({"kind": kind}, row[layout.RECYCLES + at]) for at, kind in kinds),
    )
    text.family("odoo_login_failures_total", "counter", "Logins refused", [({}, row[layout.LOGIN_FAILURES])])
    text.family(
        "odoo_login_failures_by_address_total", "counter", "Logins refused, of the addresses with most of them",
        (({"address": address}, count) for address, count in addresses.shown(row)),
    )
    text.family("odoo_cron_runs_total", "counter", "Scheduled actions run", [({}, row[layout.CRON_RUNS])])
    text.family(
        "odoo_cron_failures_total", "counter", "Scheduled actions that failed", [({}, row[layout.CRON_FAILURES])],
    )
    for cell, name, explanation in layout.GUARDED:
        text.family(name, "counter", explanation, [({}, row[cell])])
    kinds = (("anonymous", layout.ANONYMOUS_FILES), ("other", layout.SESSION_FILES))
    text.family(
        "odoo_session_files", "gauge", "Session files when they were last counted",
        (({"kind": kind}, row[cell]) for kind, cell in kinds),
    )


def itself(text, row, hooks):
    """What the addon says of itself. `hooks` are `(name, whether it is in place)`."""
    text.family(
        "odoo_metrics_hook_active", "gauge", "Whether a place of Odoo is being watched",
        (({"hook": name}, int(active)) for name, active in hooks),
    )
    text.family(
        "odoo_metrics_errors_total", "counter", "Numbers that could not be had, by source",
        (({"source": source}, row[layout.ERRORS + at]) for at, source in enumerate(layout.SOURCES)),
    )
    text.family("odoo_metrics_scrapes_total", "counter", "Times that this page was asked for", [({}, row[layout.SCRAPES])])
    text.family(
        "odoo_metrics_refused_total", "counter", "Times that it was asked for without the right to",
        [({}, row[layout.REFUSED])],
    )

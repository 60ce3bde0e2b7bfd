"""Which numbers a process keeps and where: the label sets (all of them bounded) and the cells that they map to. Pure.

A process's numbers are one row of unsigned 64-bit cells. Not here: the memory that the rows live in (segment), and how
they are printed (exposition).
"""

from bisect import bisect_left

METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "other")
# The codes that Odoo and werkzeug answer with; any other is counted under its class.
CODES = (
    "101", "200", "201", "202", "204", "206", "301", "302", "303", "304", "307", "308",
    "400", "401", "403", "404", "405", "406", "408", "409", "410", "411", "413", "415", "416", "422", "426", "429",
    "500", "501", "502", "503", "504", "1xx", "2xx", "3xx", "4xx", "5xx",
)
ROUTES = (
    "web", "rpc", "login", "static", "content", "report", "health", "websocket", "jsonrpc", "xmlrpc", "json2",
    "database", "other",
)
# What a process is: the prefork master, an HTTP or cron worker, the evented (websocket) process, the one process of
# `workers = 0`, or something that a module forked.
KINDS = ("main", "http", "cron", "gevent", "threaded", "other")
# Where a number was lost.
SOURCES = ("hook", "connect", "size", "cron", "mail", "devices", "activity", "modules", "address")

# Seconds. A page takes 20 ms to some seconds; `limit_time_real` ends it at 120 s.
HTTP_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
# Seconds. An indexed look-up takes 0.1 to 0.5 ms.
SQL_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

NANOSECONDS = 1_000_000_000

_METHOD = {name: index for index, name in enumerate(METHODS)}
_CODE = {name: index for index, name in enumerate(CODES)}
_ROUTE = {name: index for index, name in enumerate(ROUTES)}
# The first segment of a path; `None` asks for the second.
_FIRST = {
    "web": None, "websocket": "websocket", "longpolling": "websocket", "bus": "web",
    "jsonrpc": "jsonrpc", "xmlrpc": "xmlrpc", "json": "json2", "report": "report", "odoo": "web", "favicon.ico": "static",
}
_SECOND_OF_WEB = {
    "health": "health", "login": "login", "session": "login", "signup": "login", "reset_password": "login",
    "dataset": "rpc", "action": "rpc", "assets": "static", "image": "content", "content": "content", "binary": "content",
    "database": "database",
}


class Histogram:
    """Cells of a histogram: a count per bucket (not cumulative, the last for what is above all), then the sum in ns."""

    def __init__(self, first, buckets):
        self.first = first
        self.buckets = buckets
        self.bounds = tuple(round(bound * NANOSECONDS) for bound in buckets)
        self.sum = first + len(buckets) + 1
        self.end = self.sum + 1

    def cell(self, nanoseconds):
        """Of the bucket that a duration falls in; a bound belongs to the bucket below it, as `le` says."""
        return self.first + bisect_left(self.bounds, nanoseconds)


# A process's row: what it is, then its gauges (worth something only while it lives), then its counters, then the
# addresses.
KIND = 0  # 1 + index of the kind of the last owner; 0 while nobody has had the row
PID = 1
OPEN_WEBSOCKETS = 2
SESSION_FILES = 3  # by the process that swept last
ANONYMOUS_FILES = 4
GAUGES = (OPEN_WEBSOCKETS, SESSION_FILES, ANONYMOUS_FILES)
LOGIN_FAILURES = 5
CRON_RUNS = 6
CRON_FAILURES = 7
SCRAPES = 8
REFUSED = 9
# What the guard did, in the order of `GUARDED`.
CRON_RECONNECTS = 10
POOL_WAITS = 11
POOL_REFUSALS = 12
DATABASE_AWAY = 13
SPAWNS_PUT_OFF = 14
SESSIONS_REMOVED = 15
# Whose logins were refused: pairs of an address (`addresses.key`) and a count. Not summed like counters.
ADDRESSES = 16
ADDRESS_SLOTS = 16
RECYCLES = ADDRESSES + 2 * ADDRESS_SLOTS
ERRORS = RECYCLES + len(KINDS)
SQL = Histogram(ERRORS + len(SOURCES), SQL_BUCKETS)
_HTTP_STEP = len(HTTP_BUCKETS) + 2
HTTP = tuple(Histogram(SQL.end + index * _HTTP_STEP, HTTP_BUCKETS) for index in range(len(ROUTES)))
REQUESTS = HTTP[-1].end
CELLS = REQUESTS + len(METHODS) * len(CODES) * len(ROUTES)


def route_of(path):
    """The class that a path is counted under."""
    parts = path.split("/", 3)
    first = parts[1] if len(parts) > 1 else ""
    second = parts[2] if len(parts) > 2 else ""
    if second == "static":
        return "static"
    if not first:
        return "web"  # the start page
    route = _FIRST.get(first, "other")
    if route is None:
        route = _SECOND_OF_WEB.get(second, "web")
    return route


def route_index(path):
    """As `ROUTES` counts."""
    return _ROUTE[route_of(path)]


def request_cell(method, code, route):
    """Of the requests with this method and three-digit code, both as text, and route, as its index."""
    of_code = _CODE.get(code)
    if of_code is None:
        of_code = _CODE.get(code[:1] + "xx", _CODE["5xx"])
    return REQUESTS + (_METHOD.get(method, len(METHODS) - 1) * len(CODES) + of_code) * len(ROUTES) + route


def requests(row):
    """`(method, code, route, count)` of everything that has been counted in a row."""
    cell = REQUESTS
    for method in METHODS:
        for code in CODES:
            for route in ROUTES:
                if row[cell]:
                    yield method, code, route, row[cell]
                cell += 1


# What the guard counts: cell, metric, meaning.
GUARDED = (
    (CRON_RECONNECTS, "odoo_cron_reconnects_total", "Times that a cron thread lost its database and connected anew"),
    (POOL_WAITS, "odoo_pool_waits_total", "Times that a request waited for a database connection of its process"),
    (POOL_REFUSALS, "odoo_pool_refusals_total", "Times that it waited in vain and got 503"),
    (DATABASE_AWAY, "odoo_database_away_total", "Requests that got 503 because the database was away"),
    (SPAWNS_PUT_OFF, "odoo_spawns_put_off_total", "Times that a worker could not be started because the database was away"),
    (SESSIONS_REMOVED, "odoo_session_files_removed_total", "Session files of nobody that were removed"),
)

"""What only the database knows: its size, overdue crons, waiting mail, who is there. Short read-only queries on a
connection of their own, which cannot hold a worker for longer than a stated time, whatever PostgreSQL does.

Not here: anything counted by Odoo's processes (recorder).
"""

import logging
import select
import threading
from time import monotonic

_logger = logging.getLogger(__name__)

# For one database: connecting and all its queries. Prometheus gives up after 10 s by default.
BUDGET_SECONDS = 2.0
# Counted by PostgreSQL itself, per query.
_STATEMENT_MS = 1000
# How long an answer is good for. A size costs a look at each of some thousand files.
_FRESH_SECONDS = 10.0
_SIZE_FRESH_SECONDS = 60.0
# More databases than this in `db_name` are not looked at.
MAX_DATABASES = 8
# Odoo notes a session's activity once an hour, so this is as exact as it gets.
_DEVICES = """
    SELECT count(DISTINCT user_id), count(DISTINCT session_identifier) FROM res_device_log
    WHERE revoked IS NOT TRUE AND last_activity > (now() AT TIME ZONE 'UTC') - interval '1 hour'"""
# For ever: Odoo keeps the last row of each device. An index gives it at once; 0 when nobody was ever there.
_ACTIVITY = "SELECT extract(epoch FROM max(last_activity))::float8 FROM res_device_log"
_CRON = """
    SELECT greatest(0, extract(epoch FROM (now() AT TIME ZONE 'UTC') - least(
               min(nextcall) FILTER (WHERE active),
               (SELECT min(t.call_at) FROM ir_cron_trigger t JOIN ir_cron c ON c.id = t.cron_id WHERE c.active)
           )))::float8,
           count(*) FILTER (WHERE failure_count > 0)
    FROM ir_cron"""
_MAIL = """
    SELECT count(*) FILTER (WHERE state = 'outgoing'), count(*) FILTER (WHERE state = 'exception')
    FROM mail_mail WHERE state IN ('outgoing', 'exception')"""

# Modules that are to be installed, upgraded or removed, and for how long none of them has changed; 0 while somebody is at it: who
# installs has a transaction open for each module, and other modules change when theirs is done.
_MODULES = """
    SELECT count(*), CASE WHEN count(*) = 0 OR EXISTS (
            SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
            AND xact_start < now() - interval '60 s'
        ) THEN 0 ELSE greatest(0, extract(epoch FROM (now() AT TIME ZONE 'UTC') - (
            SELECT max(write_date) FROM ir_module_module
        ))) END::float8
    FROM ir_module_module WHERE state IN ('to install', 'to upgrade', 'to remove')"""

# The address that Odoo believes to have, as a number that says nothing of it: whoever gave it one compares (the first 48 bits of
# its SHA-256). A dump that was restored brings another tenant's.
_ADDRESS = """
    SELECT (SELECT ('x' || substr(encode(sha256(convert_to(value, 'UTF8')), 'hex'), 1, 12))::bit(48)::bigint::float8
            FROM ir_config_parameter WHERE key = 'web.base.url')"""


class Query:
    """One query of one row: `columns` are `(metric, labels)` for each of its values."""

    def __init__(self, source, sql, columns, table=None, fresh=_FRESH_SECONDS):
        self.source = source
        self.sql = sql
        self.columns = columns
        self.table = table  # asked for first; where it is not, there is nothing to tell
        self.fresh = fresh


QUERIES = (
    Query("size", "SELECT pg_database_size(current_database())", [("odoo_database_size", {})], fresh=_SIZE_FRESH_SECONDS),
    Query("cron", _CRON, [("odoo_cron_lag_seconds", {}), ("odoo_cron_failing", {})], "ir_cron"),
    Query("modules", _MODULES, [("odoo_modules_pending", {}), ("odoo_modules_pending_seconds", {})], "ir_module_module"),
    Query("address", _ADDRESS, [("odoo_address_digest", {})], "ir_config_parameter"),
    Query("mail", _MAIL, [("odoo_mail_queue", {"state": s}) for s in ("outgoing", "exception")], "mail_mail"),
    Query("devices", _DEVICES, [("odoo_active_users", {}), ("odoo_sessions", {})], "res_device_log"),
    Query(
        "activity", _ACTIVITY, [("odoo_last_activity_time_seconds", {})], "res_device_log", fresh=_SIZE_FRESH_SECONDS
    ),
)
# Type and explanation of each, in the order of the page.
FAMILIES = (
    ("odoo_database_up", "Whether the database answers"),
    ("odoo_database_size", "Size of the database, bytes"),
    ("odoo_cron_lag_seconds", "How long the most overdue active scheduled action has been waiting"),
    ("odoo_cron_failing", "Scheduled actions whose last run failed"),
    ("odoo_modules_pending", "Modules that are to be installed, upgraded or removed"),
    ("odoo_modules_pending_seconds", "For how long nothing has changed about them; 0 while somebody is at it"),
    ("odoo_address_digest", "web.base.url as a number: the first 48 bits of its SHA-256"),
    ("odoo_mail_queue", "E-mails waiting to be sent, or failed"),
    ("odoo_active_users", "Users seen within the last hour"),
    ("odoo_sessions", "Sessions seen within the last hour"),
    ("odoo_last_activity_time_seconds", "When a user was last seen, Unix time; 0: never"),
)


def names(setting):
    """The databases of `db_name`: a list in Odoo 19, text with commas in 18. None set: none looked at."""
    if not setting:
        return []
    listed = setting.split(",") if isinstance(setting, str) else list(setting)
    return [name.strip() for name in listed if name.strip()][:MAX_DATABASES]


class Session:
    """A connection that is given up at a deadline. psycopg2's asynchronous mode, because its other one waits for a
    PostgreSQL that has stopped without closing for as long as that takes."""

    def __init__(self, connect, seconds=BUDGET_SECONDS):
        self._deadline = monotonic() + seconds
        self._connection = connect()
        try:
            self._wait()
        except BaseException:
            self.close()
            raise

    def _wait(self):
        while True:
            state = self._connection.poll()
            if state == 0:  # POLL_OK
                return
            left = self._deadline - monotonic()
            poller = select.poll()
            poller.register(self._connection.fileno(), select.POLLIN if state == 1 else select.POLLOUT)
            if left <= 0 or not poller.poll(left * 1000):
                raise TimeoutError("the database did not answer in time")

    def row(self, sql, values=None):
        """The first row of a query's answer."""
        cursor = self._connection.cursor()
        cursor.execute(sql, values)
        self._wait()
        return cursor.fetchone()

    def close(self):
        """Whatever state it is in."""
        try:
            self._connection.close()
        except Exception:
            pass


def opener(info):
    """How to open a connection with Odoo's own parameters for a database."""
    import psycopg2

    options = f"-c default_transaction_read_only=on -c statement_timeout={_STATEMENT_MS} -c lock_timeout=200"
    parameters = {**info, "options": options, "application_name": "isyone_metrics"}
    return lambda: psycopg2.connect(async_=1, **parameters)


class Watch:
    """The last answers of each database, and when they were had. One per process."""

    def __init__(self, connection_info, on_error):
        self._info = connection_info
        self._on_error = on_error
        self._answers = {}  # (database, source) → (until, [(metric, labels, value)])
        self._lock = threading.Lock()

    def samples(self, databases):
        """`{metric: [(labels, value)]}`. What could not be had is missing."""
        found = {}
        with self._lock:
            for database in databases:
                for metric, labels, value in self._of(database):
                    found.setdefault(metric, []).append(({"datname": database, **labels}, value))
        return found

    def _of(self, database):
        now = monotonic()
        stale = [query for query in QUERIES if self._answers.get((database, query.source), (0,))[0] <= now]
        up_until, up = self._answers.get((database, "up"), (0, []))
        if up_until <= now or (stale and up[0][2]):
            up = [("odoo_database_up", {}, self._refresh(database, stale))]
            self._answers[database, "up"] = (monotonic() + _FRESH_SECONDS, up)
        if not up[0][2]:
            return up
        return up + [
            sample for query in QUERIES for sample in self._answers.get((database, query.source), (0, []))[1]
        ]

    def _refresh(self, database, stale):
        """Whether the database answered."""
        session = None
        try:
            session = Session(opener(self._info(database)))
            for query in stale or QUERIES[:1]:
                self._ask(session, database, query)
        except Exception as error:
            _logger.warning("isyone_metrics: %s does not answer: %s", database, str(error).strip())
            self._on_error("connect")
            return 0
        finally:
            if session:
                session.close()
        return 1

    def _ask(self, session, database, query):
        samples = []
        try:
            if query.table is None or session.row("SELECT to_regclass(%s)::text", (query.table,))[0]:
                values = session.row(query.sql)
                samples = [
                    (metric, labels, value or 0) for (metric, labels), value in zip(query.columns, values, strict=True)
                ]
        except TimeoutError:
            raise
        except Exception as error:
            _logger.warning("isyone_metrics: %s of %s: %s", query.source, database, str(error).strip())
            self._on_error(query.source)
        self._answers[database, query.source] = (monotonic() + query.fresh, samples)

"""Label bounds, text format, token, hooks: everything that needs neither Odoo nor a database."""

import os
import re
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import context  # noqa: F401
from isyone_metrics import database, endpoint, exposition, hooks, layout
from isyone_metrics.recorder import Recorder
from isyone_metrics.segment import Segment

TOKEN = "0123456789abcdef0123456789abcdef"
SAMPLE = re.compile(r'^([a-z_]+)(\{([a-z_]+="(?:[^"\\\n]|\\.)*",?)+\})? (-?[0-9.e+-]+)$')


def fresh(rows=4):
    """A recorder of this process on a segment of its own."""
    recorder = Recorder(Segment.create(rows))
    recorder.become("http")
    return recorder


class Labels(unittest.TestCase):
    def test_paths(self):
        for path, route in {
            "/": "web", "/web": "web", "/odoo/apps": "web", "/web/login": "login", "/web/session/authenticate": "login",
            "/web/health": "health", "/web/static/src/a.js": "static", "/sale/static/x": "static",
            "/web/assets/1/x.js": "static", "/web/image/12": "content", "/web/dataset/call_kw/res.users/read": "rpc",
            "/websocket": "websocket", "/websocket/health": "websocket", "/longpolling/poll": "websocket",
            "/jsonrpc": "jsonrpc", "/xmlrpc/2/common": "xmlrpc", "/json/2/res.partner/read": "json2",
            "/report/pdf/x/1": "report", "/web/database/manager": "database", "/shop/a-1": "other", "": "web",
            "//": "web", "no/slash": "other", "/metrics": "other",
        }.items():
            self.assertEqual(layout.route_of(path), route, path)
            self.assertEqual(layout.ROUTES[layout.route_index(path)], route)

    def test_whatever_is_asked_the_labels_are_of_the_known_sets(self):
        recorder = fresh()
        for number in range(3_000):
            recorder.request(f"M{number}", str(100 + number % 900), f"/p{number}/q", number)
        seen = list(layout.requests(recorder.segment.totals()[0]))
        self.assertEqual(sum(count for *_, count in seen), 3_000)
        self.assertEqual({method for method, *_ in seen}, {"other"})
        self.assertLessEqual({code for _, code, *_ in seen}, set(layout.CODES))
        self.assertIn("5xx", {code for _, code, *_ in seen})

    def test_each_query_that_fails_can_be_counted(self):
        self.assertLessEqual({query.source for query in database.QUERIES}, set(layout.SOURCES))

    def test_cells_do_not_overlap(self):
        cells = [
            layout.request_cell(method, code, route)
            for method in layout.METHODS for code in layout.CODES for route in range(len(layout.ROUTES))
        ]
        self.assertEqual(sorted(cells), list(range(layout.REQUESTS, layout.CELLS)))
        ends = [layout.ERRORS + len(layout.SOURCES), layout.SQL.end, *(times.end for times in layout.HTTP)]
        starts = [layout.SQL.first, *(times.first for times in layout.HTTP), layout.REQUESTS]
        self.assertEqual(ends, starts)

    def test_a_bound_belongs_to_its_bucket(self):
        sql = layout.SQL
        self.assertEqual(sql.cell(0), sql.first)
        self.assertEqual(sql.cell(500_000), sql.first)
        self.assertEqual(sql.cell(500_001), sql.first + 1)
        self.assertEqual(sql.cell(10**15), sql.sum - 1)

    def test_nothing_raises(self):
        recorder = fresh()
        recorder.request(None, None, None, None)
        recorder.query(None)
        recorder.add(10**9)
        self.assertEqual(recorder.segment.totals()[0][layout.ERRORS], 2)


class Page(unittest.TestCase):
    def page(self, openmetrics):
        recorder = fresh()
        recorder.request("GET", "200", "/web", 20_000_000)
        recorder.request("POST", "303", "/web/login", 90_000_000)
        recorder.query(300_000)
        recorder.query(2_000_000_000)
        watch = mock.Mock()
        watch.samples.return_value = {"odoo_database_size": [({"datname": 'a"b\\c\n'}, 8_000_000)]}
        page = endpoint.Endpoint(recorder, watch, ["a"], "/none", {"version": "19.0"}, lambda: [("http", True)])
        body, content_type = page.page(openmetrics)
        return body.decode(), content_type

    def values(self, text):
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in text.splitlines() if line[0] != "#"}

    def test_every_line_is_well_formed_and_every_family_declared_once(self):
        for openmetrics in (False, True):
            text, _ = self.page(openmetrics)
            families = {}
            for line in text.splitlines():
                if line.startswith("# TYPE "):
                    _, _, name, kind = line.split(" ")
                    self.assertNotIn(name, families)
                    families[name] = kind
                elif not line.startswith("#"):
                    match = SAMPLE.match(line)
                    self.assertTrue(match, line)
                    endings = re.sub(r"_(bucket|sum|count)$", "", match[1])
                    stem = match[1].removesuffix("_total") if openmetrics else match[1]
                    self.assertTrue({match[1], endings, stem} & set(families), line)

    def test_histograms_are_cumulative(self):
        values = self.values(self.page(False)[0])
        self.assertEqual(values['odoo_sql_query_duration_seconds_bucket{le="0.0005"}'], 1)
        self.assertEqual(values['odoo_sql_query_duration_seconds_bucket{le="1.0"}'], 1)
        self.assertEqual(values['odoo_sql_query_duration_seconds_bucket{le="2.5"}'], 2)
        self.assertEqual(values['odoo_sql_query_duration_seconds_bucket{le="+Inf"}'], 2)
        self.assertEqual(values["odoo_sql_query_duration_seconds_count"], 2)
        self.assertAlmostEqual(values["odoo_sql_query_duration_seconds_sum"], 2.0003)
        self.assertEqual(values["odoo_sql_queries_total"], 2)
        self.assertEqual(values['odoo_http_request_duration_seconds_bucket{route="login",le="0.1"}'], 1)

    def test_values(self):
        values = self.values(self.page(False)[0])
        self.assertEqual(values['odoo_http_requests_total{method="POST",code="303",route="login"}'], 1)
        self.assertEqual(values['odoo_workers{kind="http"}'], 1)
        self.assertEqual(values['odoo_database_size{datname="a\\"b\\\\c\\n"}'], 8_000_000)

    def test_formats(self):
        plain, of_plain = self.page(False)
        opened, of_open = self.page(True)
        self.assertIn("# TYPE odoo_http_requests_total counter\n", plain)
        self.assertIn("# TYPE odoo_http_requests counter\n", opened)
        self.assertTrue(opened.endswith("# EOF\n") and "# EOF" not in plain)
        self.assertTrue(of_plain.startswith("text/plain") and of_open.startswith("application/openmetrics-text"))
        self.assertEqual(set(self.values(plain)), set(self.values(opened)))


class Token(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.addCleanup(self.directory.cleanup)
        self.path = os.path.join(self.directory.name, "token")
        Path(self.path).write_text(TOKEN + "\n")

    def allowed(self, authorization=f"Bearer {TOKEN}", method="GET", **more):
        environ = {"REQUEST_METHOD": method, "HTTP_AUTHORIZATION": authorization, **more}
        return endpoint.allowed(environ, self.path)

    def test_who_may(self):
        self.assertTrue(self.allowed())
        self.assertTrue(self.allowed(f"bearer  {TOKEN}"))
        for refused in ("", "Bearer", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer é"):
            self.assertFalse(self.allowed(refused), refused)
        self.assertFalse(self.allowed(method="POST"))
        self.assertFalse(endpoint.allowed({"REQUEST_METHOD": "GET"}, self.path))

    def test_never_through_a_proxy(self):
        for header in ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_HOST", "HTTP_FORWARDED"):
            self.assertFalse(self.allowed(**{header: "1.2.3.4"}))

    def test_without_a_token_nobody_may(self):
        for content in ("", "   \n", "short"):
            Path(self.path).write_text(content)
            self.assertFalse(self.allowed(f"Bearer {content.strip()}"))
        os.unlink(self.path)
        self.assertFalse(self.allowed())
        self.assertFalse(self.allowed("Bearer "))

    def test_a_new_token_counts_at_once(self):
        Path(self.path).write_text(TOKEN[::-1])
        self.assertFalse(self.allowed())
        self.assertTrue(self.allowed(f"Bearer {TOKEN[::-1]}"))

    def test_where_the_token_is(self):
        conf = os.path.join(self.directory.name, "odoo.conf")
        Path(conf).write_text("[options]\nworkers = 2\n[isyone_metrics]\ntoken_file = /run/t\n")
        with mock.patch.dict(os.environ):
            os.environ.pop(endpoint.TOKEN_VARIABLE, None)
            self.assertEqual(endpoint.token_file(conf), "/run/t")
            self.assertEqual(endpoint.token_file(None), endpoint.DEFAULT_TOKEN_FILE)
            self.assertEqual(endpoint.token_file("/no/such"), endpoint.DEFAULT_TOKEN_FILE)
            os.environ[endpoint.TOKEN_VARIABLE] = "/run/u"
            self.assertEqual(endpoint.token_file(conf), "/run/u")


class Hooks(unittest.TestCase):
    def application(self, code="200 OK", error=None, answer=lambda environ: None):
        class Application:
            def __call__(self, environ, start_response):
                if error:
                    raise error
                start_response(code, [])
                return Answer()

        class Answer(list):
            closed = False

            def close(self):
                self.closed = True
                self.open = recorder.segment.totals()[0][layout.OPEN_WEBSOCKETS]

        recorder = fresh()
        hooks.watch_http(Application, recorder, answer)
        return Application(), recorder

    def seen(self, recorder):
        return [entry for entry in layout.requests(recorder.segment.totals()[0])]

    def test_requests_are_counted_with_their_code(self):
        application, recorder = self.application("404 NOT FOUND")
        started = []
        application({"PATH_INFO": "/web/x", "REQUEST_METHOD": "GET"}, lambda *what: started.append(what))
        self.assertEqual(started, [("404 NOT FOUND", [])])
        self.assertEqual(self.seen(recorder), [("GET", "404", "web", 1)])

    def test_an_error_passes_and_is_counted_as_500(self):
        application, recorder = self.application(error=RuntimeError("x"))
        with self.assertRaises(RuntimeError):
            application({"PATH_INFO": "/", "REQUEST_METHOD": "GET"}, lambda *what: None)
        self.assertEqual(self.seen(recorder), [("GET", "500", "web", 1)])

    def test_a_websocket_is_open_while_it_is_served(self):
        application, recorder = self.application("101 Switching Protocols")
        answer = application({"PATH_INFO": "/websocket", "REQUEST_METHOD": "GET"}, lambda *what: None)
        self.assertEqual(list(answer), [])
        answer.close()
        self.assertEqual(answer._answer.open, 1)
        self.assertEqual(recorder.segment.totals()[0][layout.OPEN_WEBSOCKETS], 0)

    def test_metrics_is_answered_or_left_to_odoo_and_never_breaks(self):
        environ = {"PATH_INFO": "/metrics", "REQUEST_METHOD": "GET"}
        started = []
        application, recorder = self.application(answer=lambda environ: (b"x 1\n", "text/plain"))
        self.assertEqual(application(environ, lambda *what: started.append(what)), [b"x 1\n"])
        self.assertEqual((started[0][0], self.seen(recorder)), ("200 OK", []))
        for answer in (lambda environ: None, lambda environ: 1 / 0):
            application, recorder = self.application("404 NOT FOUND", answer=answer)
            with mock.patch("logging.Logger.exception"):
                application(environ, lambda *what: None)
            self.assertEqual(self.seen(recorder), [("GET", "404", "other", 1)])

    def test_queries_are_timed_and_errors_pass(self):
        class Cursor:
            def execute(self, query, params=None, log_exceptions=True):
                if query == "bad":
                    raise ValueError
                return (query, params, log_exceptions)

        recorder = fresh()
        hooks.watch_sql(Cursor, recorder)
        self.assertEqual(Cursor().execute("q", (1,), log_exceptions=False), ("q", (1,), False))
        with self.assertRaises(ValueError):
            Cursor().execute("bad")
        self.assertEqual(exposition.total(recorder.segment.totals()[0], layout.SQL), 2)

    def test_refusals_are_counted_on_methods_and_class_methods(self):
        class Denied(Exception):
            pass

        class Users:
            _name = "res.users"

            @classmethod
            def authenticate(cls, db, fail):
                if fail:
                    raise Denied
                return cls, db

            def _check_uid_passwd(self, fail):
                if fail:
                    raise Denied
                return self

        recorder = fresh()
        hooks.watch_logins(Users, Denied, recorder)
        self.assertEqual(Users.authenticate("d", False), (Users, "d"))
        user = Users()
        self.assertIs(user._check_uid_passwd(False), user)
        for call in (lambda: Users.authenticate("d", True), lambda: user._check_uid_passwd(True)):
            with self.assertRaises(Denied):
                call()
        self.assertEqual(recorder.segment.totals()[0][layout.LOGIN_FAILURES], 2)

    def test_crons(self):
        class Cron:
            def _update_failure_count(self, job, status):
                return job, status

        recorder = fresh()
        hooks.watch_crons(Cron, recorder)
        for status in ("fully done", "failed", "partially done"):
            self.assertEqual(Cron()._update_failure_count(1, status), (1, status))
        row = recorder.segment.totals()[0]
        self.assertEqual((row[layout.CRON_RUNS], row[layout.CRON_FAILURES]), (3, 1))

    def test_a_place_that_is_not_there_is_told(self):
        with mock.patch.dict(hooks._active, clear=True), self.assertLogs(level="WARNING"):
            hooks.hook_all(fresh(), lambda environ: None)
            self.assertEqual(set(hooks._active.items()), {(n, False) for n in ("http", "sql", "workers", "logins", "crons")})


class FakeConnection:
    """psycopg2's asynchronous connection, as far as it is used."""

    def __init__(self, answers, log):
        self.answers, self.log = answers, log

    def poll(self):
        return 0

    def cursor(self):
        return self

    def execute(self, sql, values=None):
        self.log.append(sql)
        self.row = ("t",) if "to_regclass" in sql else self.answers(sql)

    def fetchone(self):
        return self.row

    def close(self):
        self.log.append("close")


# Queries that answer with one number.
ONE = ("size", "max(last", "convert_to")


class Databases(unittest.TestCase):
    def watch(self, answers):
        log, errors = [], []
        watch = database.Watch(lambda name: {"database": name}, errors.append)
        opened = mock.patch.object(database, "opener", lambda info: lambda: FakeConnection(answers, log))
        opened.start()
        self.addCleanup(opened.stop)
        return watch, log, errors

    def test_names(self):
        self.assertEqual(database.names(False), [])
        self.assertEqual(database.names("a, b"), ["a", "b"])
        self.assertEqual(database.names(["a"]), ["a"])
        self.assertEqual(len(database.names([f"d{n}" for n in range(100)])), database.MAX_DATABASES)

    def test_values_and_their_labels(self):
        watch, log, errors = self.watch(lambda sql: (7,) if any(word in sql for word in ONE) else (3, None))
        samples = watch.samples(["a"])
        self.assertEqual(samples["odoo_database_size"], [({"datname": "a"}, 7)])
        self.assertEqual(samples["odoo_mail_queue"][1], ({"datname": "a", "state": "exception"}, 0))
        self.assertEqual(samples["odoo_database_up"], [({"datname": "a"}, 1)])
        self.assertEqual({metric for metric, _ in database.FAMILIES}, set(samples))
        self.assertEqual(errors, [])
        asked = len(log)
        self.assertEqual(watch.samples(["a"]), samples)
        self.assertEqual(len(log), asked, "fresh answers are not asked for again")

    def test_nobody_was_ever_there_is_not_the_same_as_unknown(self):
        watch, _, _ = self.watch(lambda sql: (None,) if any(word in sql for word in ONE) else (0, 0))
        self.assertEqual(watch.samples(["a"])["odoo_last_activity_time_seconds"], [({"datname": "a"}, 0)])

    def test_one_failing_query_costs_only_its_own_numbers(self):
        def answers(sql):
            if "mail_mail" in sql:
                raise ValueError("permission denied")
            return (1,) if any(word in sql for word in ONE) else (1, 1)

        watch, _, errors = self.watch(answers)
        with self.assertLogs(level="WARNING"):
            samples = watch.samples(["a"])
        self.assertNotIn("odoo_mail_queue", samples)
        self.assertIn("odoo_sessions", samples)
        self.assertEqual(errors, ["mail"])

    def test_a_database_that_is_away(self):
        def answers(sql):
            raise TimeoutError

        watch, log, errors = self.watch(answers)
        with self.assertLogs(level="WARNING"):
            self.assertEqual(watch.samples(["a"]), {"odoo_database_up": [({"datname": "a"}, 0)]})
        asked = len(log)
        self.assertEqual(watch.samples(["a"]), {"odoo_database_up": [({"datname": "a"}, 0)]})
        self.assertEqual(len(log), asked, "not asked again at once")
        self.assertEqual(errors, ["connect"])

    def test_a_silent_server_is_given_up(self):
        read, write = os.pipe()
        self.addCleanup(os.close, read)
        self.addCleanup(os.close, write)
        silent = mock.Mock(poll=lambda: 1, fileno=lambda: read)
        with self.assertRaises(TimeoutError):
            database.Session(lambda: silent, seconds=0.05)
        silent.close.assert_called_once()


if __name__ == "__main__":
    unittest.main()

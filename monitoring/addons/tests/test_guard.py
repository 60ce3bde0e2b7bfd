"""The guard's mends, each around a stand-in for its place of Odoo."""

import os
import tempfile
import threading
import time
import types
import unittest
from pathlib import Path
from unittest import mock

import context  # noqa: F401
from isyone_metrics import addresses, exposition, guard, layout
from isyone_metrics.guard import away, cron, memory, pool, search, sessions, signup, stop
from isyone_metrics.recorder import Recorder
from isyone_metrics.segment import Segment


def fresh(rows=4):
    """A recorder of this process on a segment of its own."""
    recorder = Recorder(Segment.create(rows))
    recorder.become("threaded")
    return recorder


def counted(recorder, cell):
    """What all processes have counted there."""
    return recorder.segment.totals()[0][cell]


class Addresses(unittest.TestCase):
    def test_a_key_is_an_address_or_a_customers_network(self):
        for address, name in {
            "203.0.113.7": "203.0.113.7", "::ffff:203.0.113.7": "203.0.113.7", "2001:db8:1:2:3::4": "2001:db8:1:2::/64",
            "fe80::1%eth0": "fe80::/64",
        }.items():
            self.assertEqual(addresses.name(addresses.key(address)), name)
        self.assertEqual(addresses.key(None), 0)

    def test_however_many_try_the_table_is_bounded_and_holds_who_tries_most(self):
        recorder = fresh()
        for number in range(5_000):
            recorder.refused(f"198.51.{number % 200}.{number % 7}")
            recorder.refused("203.0.113.7")
        recorder.refused("no address")
        recorder.refused(None)
        row = recorder.segment.totals()[0]
        self.assertEqual(row[layout.LOGIN_FAILURES], 10_002)
        shown = addresses.shown(row)
        self.assertEqual(len(shown), layout.ADDRESS_SLOTS)
        self.assertEqual(shown[0], ("203.0.113.7", 5_000))
        text = exposition.Text()
        exposition.counted(text, row, [0] * len(layout.KINDS))
        self.assertIn(b'odoo_login_failures_by_address_total{address="203.0.113.7"} 5000\n', text.finish()[0])

    def test_rows_are_added_up_by_address(self):
        rows = [[0] * layout.CELLS for _ in range(2)]
        for row in rows:
            for _ in range(3):
                addresses.count(row, addresses.key("192.0.2.1"))
        addresses.count(rows[1], addresses.key("192.0.2.2"))
        totals = {}
        for row in rows:
            addresses.merge(totals, row)
        total = [0] * layout.CELLS
        addresses.put(total, totals)
        self.assertEqual(addresses.shown(total), [("192.0.2.1", 6)], "one mistake is no series")


class Full(Exception):
    """As psycopg2's."""


class Pool:
    """As much of Odoo's as is wrapped."""

    def __init__(self, most):
        self.free = most

    def borrow(self, info):
        if not self.free:
            raise Full
        self.free -= 1
        return info

    def give_back(self, connection, keep_in_pool=True):
        self.free += 1


def guarded_pool(most, wait_seconds):
    recorder = fresh()
    kind = type("Guarded", (Pool,), {"borrow": Pool.borrow, "give_back": Pool.give_back})
    pool.wait_for_connections(kind, Full, away.busy(Full), recorder, wait_seconds)
    return kind(most), recorder


class Pools(unittest.TestCase):
    def test_who_waits_is_served_in_order(self):
        connections, recorder = guarded_pool(1, 5)
        connections.borrow("a")
        served, threads = [], []

        def ask(number):
            connections.borrow("b")
            served.append(number)
            connections.give_back("b")

        for number in range(5):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            while counted(recorder, layout.POOL_WAITS) <= number:
                time.sleep(0.001)
        connections.give_back("a")
        for thread in threads:
            thread.join(5)
        self.assertEqual(served, list(range(5)))
        self.assertEqual((counted(recorder, layout.POOL_REFUSALS), connections.free), (0, 1))

    def test_who_has_one_already_goes_first(self):
        connections, recorder = guarded_pool(2, 5)
        connections.borrow("a")
        other = threading.Thread(target=lambda: (connections.borrow("x"), connections.borrow("y")))
        other.start()
        while not counted(recorder, layout.POOL_WAITS):
            time.sleep(0.001)
        connections.free += 1
        self.assertEqual(connections.borrow("b"), "b")
        connections.give_back("b")
        other.join(5)
        self.assertFalse(other.is_alive())

    def test_waiting_ends_with_the_exception_that_odoo_knows_and_that_answers_503(self):
        connections, recorder = guarded_pool(0, 0.05)
        with self.assertRaises(Full) as caught:
            connections.borrow("a")
        started = []
        body = caught.exception.error_response({"REQUEST_METHOD": "POST"}, lambda *what: started.append(what))
        self.assertTrue(started[0][0].startswith("503"))
        self.assertEqual(dict(started[0][1])["Retry-After"], "5")
        self.assertEqual(dict(started[0][1])["Content-Length"], str(len(b"".join(body))))
        self.assertEqual(counted(recorder, layout.POOL_REFUSALS), 1)
        connections.free = 1
        self.assertEqual(connections.borrow("a"), "a", "nobody is left in the line")


class Psycopg2:
    """The exceptions that tell."""

    class Error(Exception):
        pgcode = None

    class OperationalError(Error):
        pass

    class InterfaceError(Error):
        pass


class RegistryError(Exception):
    pass


def serving(error, path="/web"):
    class Request:
        httprequest = mock.Mock(path=path)

        def _serve_db(self):
            if error:
                raise error
            return "page"

    recorder = fresh()
    away.answer_for_database(Request, RegistryError, Psycopg2, recorder)
    return Request(), recorder


def caused(cause):
    error = RegistryError("no registry")
    error.__cause__ = cause
    return error


def coded(code, kind=Psycopg2.OperationalError):
    error = kind("x")
    error.pgcode = code
    return error


class Away(unittest.TestCase):
    def test_a_database_that_is_away_is_503(self):
        gone = Psycopg2.OperationalError("connection refused\nis the server running?")
        for error in (caused(gone), gone, coded("57P01"), coded("08006"), Psycopg2.InterfaceError("cursor already closed")):
            request, recorder = serving(error)
            with self.assertRaises(away.Unavailable) as caught:
                request._serve_db()
            self.assertNotIn("\n", str(caught.exception))
            self.assertEqual(counted(recorder, layout.DATABASE_AWAY), 1)

    def test_all_else_is_as_it_was(self):
        for error in (caused(AttributeError()), coded("40001"), ValueError(), Psycopg2.Error("syntax")):
            request, recorder = serving(error)
            with self.assertRaises(type(error)):
                request._serve_db()
            self.assertEqual(counted(recorder, layout.DATABASE_AWAY), 0)
        self.assertEqual(serving(None)[0]._serve_db(), "page")

    def test_health_is_answered_without_a_database(self):
        request, _ = serving(caused(Psycopg2.OperationalError("refused")), "/web/health")
        with self.assertRaises(RegistryError):
            request._serve_db()

    def test_a_page_for_people_and_a_line_for_programs(self):
        def ask(**environ):
            return b"".join(away.answer(environ, lambda *what: None))

        self.assertIn(b"http-equiv", ask(REQUEST_METHOD="GET", HTTP_ACCEPT="text/html,*/*"))
        self.assertNotIn(b"<", ask(REQUEST_METHOD="POST", HTTP_ACCEPT="text/html"))
        self.assertEqual(ask(REQUEST_METHOD="HEAD"), b"")

    def test_which_database_there_is_is_not_asked(self):
        http = mock.Mock(db_filter=lambda names, host: names, db_list=lambda force, host: ["asked"])
        away.know_the_database(http, ["odoo_a"])
        self.assertEqual(http.db_list(True), ["odoo_a"])
        self.assertEqual(http.db_list(), ["asked"])
        for names in ([], ["a", "b"], "a,b", None, False):
            with self.assertRaises(LookupError):
                away.know_the_database(http, names)


class Enough(BaseException):
    """Ends what never returns."""


class Crons(unittest.TestCase):
    def test_the_thread_connects_anew_with_growing_pauses(self):
        pauses, recorder = [], fresh()

        class Server:
            def cron_thread(self, number):
                if len(pauses) == 8:
                    raise Enough
                raise OSError("refused")

        cron.keep_connecting(Server, recorder, pauses.append, lambda: 0.0)
        with self.assertRaises(Enough), self.assertLogs(level="WARNING"):
            Server().cron_thread(0)
        self.assertEqual(pauses, [1, 2, 4, 8, 16, 30, 30, 30])
        self.assertEqual(counted(recorder, layout.CRON_RECONNECTS), 8)

    def test_after_a_while_of_work_it_is_another_trouble(self):
        pauses, times = [], iter(range(0, 10_000, 100))

        class Server:
            def cron_thread(self, number):
                if len(pauses) == 3:
                    raise Enough
                raise OSError("refused")

        cron.keep_connecting(Server, fresh(), pauses.append, lambda: next(times))
        with self.assertRaises(Enough), self.assertLogs(level="WARNING"):
            Server().cron_thread(0)
        self.assertEqual(pauses, [1, 1, 1])

    def test_workers_are_replaced_later(self):
        recorder = fresh()

        class Server:
            error = OSError("away")

            def process_spawn(self):
                if self.error:
                    raise self.error
                return 7

        cron.keep_spawning(Server, OSError, recorder)
        server = Server()
        with self.assertLogs(level="WARNING"):
            self.assertIsNone(server.process_spawn())
        self.assertEqual(counted(recorder, layout.SPAWNS_PUT_OFF), 1)
        server.error = None
        self.assertEqual(server.process_spawn(), 7)
        server.error = ValueError()
        with self.assertRaises(ValueError):
            server.process_spawn()


class Stops(unittest.TestCase):
    def server(self, limit=60):
        log = []

        class Server:
            httpd = mock.Mock()
            limits_reached_threads = set()

            def stop(self):
                log.append(time.monotonic())

        class Application:
            def __call__(self, seconds):
                time.sleep(seconds)

        stop.wait_for_requests(Server, lambda: limit)
        stop.mark_requests(Application)
        return Server(), Application(), log

    def request(self, kind, target, *arguments):
        thread = threading.Thread(target=target, args=arguments)
        thread.type, thread.start_time = kind, time.time()
        thread.start()
        time.sleep(0.05)
        return thread

    def test_requests_end_before_the_server_does(self):
        server, application, log = self.server()
        self.request("http", application, 0.3)
        begin = time.monotonic()
        server.stop()
        self.assertGreater(log[0] - begin, 0.15)
        server.httpd.shutdown.assert_called_once()
        server.httpd.socket.close.assert_called_once()

    def test_a_silent_connection_a_websocket_and_one_beyond_its_time_are_not_waited_for(self):
        server, application, log = self.server(limit=0.01)
        self.request("http", time.sleep, 0.5)
        self.request("websocket", application, 0.5)
        self.request("http", application, 0.5)
        begin = time.monotonic()
        server.stop()
        self.assertLess(log[0] - begin, 0.2)

    def test_whatever_goes_wrong_the_server_stops(self):
        server, _, log = self.server()
        server.httpd.shutdown.side_effect = OSError
        with self.assertLogs(level="ERROR"):
            server.stop()
        self.assertEqual(len(log), 1)
        server.httpd = None
        server.stop()
        self.assertEqual(len(log), 2)


class Memory(unittest.TestCase):
    def test_a_stack_is_added_for_each_thread_and_what_was_mapped_at_the_beginning(self):
        with mock.patch.object(memory, "mapped_and_used", lambda: (300, 100)), \
                mock.patch.object(memory, "threads", lambda: 3), mock.patch.object(memory, "stack_bytes", lambda: 10):
            bound = memory.Bound(650, 1000, None, lambda: 1000)
            self.assertEqual(bound.limit(650, 3), 650 + 200 + 20)
            self.assertEqual(bound.limit(650, 103), 650 + 200 + 1020)
            self.assertEqual(bound.limit(650, 1), 650 + 200 + 20)

    def test_it_follows_the_container(self):
        self.assertEqual(memory.Bound(650, 1000, None, lambda: 2000).bytes(), 1300)
        self.assertIsNone(memory.Bound(650, 1000, None, lambda: None).bytes())

    def test_one_that_is_above_the_container_is_cut(self):
        self.assertEqual(memory.Bound(3500, 1000, None, lambda: 1000).bytes(), 950)

    def test_without_a_limit_there_is_no_bound(self):
        for configured, container in ((0, 1000), (650, None)):
            with self.assertRaises(LookupError):
                memory.Bound(configured, container)

    def test_a_containers_limit_is_read(self):
        with tempfile.TemporaryDirectory() as directory:
            first, second = (os.path.join(directory, name) for name in ("a", "b"))
            Path(first).write_text("max\n")
            self.assertIsNone(memory.container_bytes((first, second)))
            Path(second).write_text("805306368\n")
            self.assertEqual(memory.container_bytes((first, second)), 805306368)
            Path(second).write_text(str((1 << 63) - 4096))
            self.assertIsNone(memory.container_bytes((first, second)))

    def test_this_process_is_read(self):
        mapped, used = memory.mapped_and_used()
        self.assertTrue(mapped > used > 0)
        self.assertGreaterEqual(memory.threads(), 1)
        self.assertTrue(1 << 12 <= memory.stack_bytes() <= 64 << 20)


class Store:
    """As Odoo's, in one directory of two letters."""

    def __init__(self, path):
        self.path = path

    def get_session_filename(self, sid):
        return os.path.join(self.path, sid[:2], sid)

    def save(self, session):
        os.makedirs(os.path.join(self.path, session.sid[:2]), exist_ok=True)
        Path(self.get_session_filename(session.sid)).write_text("{}")


class Session(dict):
    def __init__(self, sid, **values):
        super().__init__(values)
        self.sid = sid


class Sessions(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.now = time.time()
        kind = type("Aged", (Store,), {"save": Store.save})
        sessions.age(kind, lambda: self.now)
        self.store, self.recorder = kind(directory.name), fresh()

    def sweep(self, hours=0.0, most=100):
        sweeper = sessions.Sweeper(self.store.path, self.recorder, lambda: self.now + hours * 3600, most)
        removed = sweeper.sweep()
        left = sorted(name for _, path in sessions.files(self.store.path) for name in [os.path.basename(path)])
        return removed, left

    def test_those_of_nobody_go_after_hours_and_others_are_left_alone(self):
        self.store.save(Session("aa-nobody", uid=None, db="a", debug="1", context={"lang": "en_US"}))
        self.store.save(Session("aa-somebody", uid=7, db="a"))
        self.store.save(Session("bb-cart", uid=None, sale_order_id=3))
        self.assertEqual(self.sweep(5.9)[0], 0)
        row = self.recorder.segment.totals()[0]
        self.assertEqual((row[layout.ANONYMOUS_FILES], row[layout.SESSION_FILES]), (1, 2))
        self.assertEqual(self.sweep(6.1), (1, ["aa-somebody", "bb-cart"]))
        self.assertEqual(self.sweep(24 * 365), (0, ["aa-somebody", "bb-cart"]))
        self.assertEqual(counted(self.recorder, layout.SESSIONS_REMOVED), 1)

    def test_who_signs_in_is_kept(self):
        session = Session("aa-x", uid=None)
        self.store.save(session)
        session["uid"] = 2
        self.store.save(session)
        self.assertEqual(self.sweep(100), (0, ["aa-x"]))

    def test_of_too_many_the_oldest_go(self):
        for number in range(5):
            self.now += 1
            self.store.save(Session(f"aa-{number}", uid=None))
        self.assertEqual(self.sweep(most=2), (3, ["aa-3", "aa-4"]))

    def test_links_are_not_followed(self):
        with tempfile.TemporaryDirectory() as other:
            victim = os.path.join(other, "victim")
            Path(victim).write_text("x")
            os.utime(victim, (1, 1))
            os.symlink(other, os.path.join(self.store.path, "cc"))
            os.makedirs(os.path.join(self.store.path, "dd"))
            os.symlink(victim, os.path.join(self.store.path, "dd", "link"))
            self.assertEqual(self.sweep(100)[0], 0)
            self.assertTrue(os.path.exists(victim))

    def test_a_directory_that_is_not_there_is_no_trouble(self):
        sessions.Sweeper("/no/such", self.recorder).when_due()


class Signup(unittest.TestCase):
    """Fails where an app that is installed lets everybody register."""

    def setUp(self):
        class Parameters:
            """What Odoo does: a dictionary, and a registry that is ready or not."""

            def __init__(self):
                self.values = {}
                self.env = mock.Mock()

            def sudo(self):
                return self

            def get_param(self, key):
                return self.values.get(key, False)

            def set_param(self, key, value):
                old = self.get_param(key)
                self.values[key] = value
                return old

        signup.keep_choice(Parameters)
        self.parameters = Parameters()

    def set(self, value, ready, key=signup.SCOPE):
        self.parameters.env.registry.ready = ready
        self.parameters.set_param(key, value)
        return self.parameters.values[key]

    def test_what_an_app_brings_does_not_open_what_was_closed(self):
        self.assertEqual(self.set("b2c", ready=False), "b2c")  # nobody had chosen
        self.assertEqual(self.set("b2b", ready=True), "b2b")
        self.assertEqual(self.set("b2c", ready=False), "b2b")

    def test_people_change_it(self):
        self.set("b2b", ready=True)
        self.assertEqual(self.set("b2c", ready=True), "b2c")

    def test_other_parameters_are_as_ever(self):
        self.set("a", ready=True, key="other")
        self.assertEqual(self.set("b", ready=False, key="other"), "b")


class Search(unittest.TestCase):
    def says_no(self, text):
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(text)
            file.flush()
            return search.says_no(file.name)

    def test_only_the_files_own_word_counts(self):
        self.assertTrue(self.says_no("[options]\nunaccent = False\n"))
        for text in ("[options]\nunaccent = True\n", "[options]\nworkers = 2\n", "[isyone]\nunaccent = False\n", ""):
            self.assertFalse(self.says_no(text), text)
        self.assertFalse(search.says_no("/nowhere"))

    def test_a_registry_finds_no_function_then(self):
        databases = types.SimpleNamespace(has_unaccent=lambda cr: 2, FunctionStatus=types.SimpleNamespace(MISSING=0))
        search.as_written(databases)
        self.assertEqual(databases.has_unaccent(None), 0)
        older = types.SimpleNamespace(has_unaccent=lambda cr: True)
        search.as_written(older)
        self.assertFalse(older.has_unaccent(None))


class Install(unittest.TestCase):
    def test_each_mend_is_tried_by_itself(self):
        tried = {False: [], True: []}
        for evented in tried:
            guard.install(fresh(), lambda name, hook: tried[evented].append(name), evented)
        self.assertEqual(len(tried[False]), 11)
        self.assertEqual(tried[True], ["guard_away", "guard_database", "guard_memory", "guard_sessions", "guard_search"])


if __name__ == "__main__":
    unittest.main()

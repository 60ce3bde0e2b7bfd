"""The places of Odoo that are watched. Each is looked for and wrapped by itself: what a version of Odoo does not have is
left out, is told by `odoo_metrics_hook_active`, and costs no other number.

A wrapper calls the original with what it was given and passes on whatever it returns or raises.
"""

import functools
import importlib
import logging
import os
import sys
import threading
from time import perf_counter_ns

from . import database, endpoint, guard, layout
from .recorder import Recorder
from .segment import Segment

_logger = logging.getLogger(__name__)

VERSION = "1.1.0"
# Tells the evented process, and this one after a reload, where the numbers are.
SEGMENT_VARIABLE = "ISYONE_METRICS_SEGMENT"
# Rows beyond those of the configured processes, twice (a reload runs both generations side by side): for workers
# added by signal, and for what modules fork.
_SPARE_ROWS = 32
# By these a model's class may check a password; versions differ in which they have.
_LOGIN_METHODS = ("authenticate", "check", "_check_uid_passwd")

_active = {}
# The request that a thread serves. Odoo puts the visitor's address into it as `proxy_mode` says.
_serving = threading.local()


def attempt(name, hook):
    """Puts a hook in place, or says that it could not."""
    try:
        hook()
        _active[name] = True
    except Exception as error:
        _active[name] = False
        _logger.warning("isyone_metrics: nothing to watch for %s: %r", name, error)


class Upgraded:
    """The answer to a websocket's handshake. Odoo serves the websocket in its `close`."""

    def __init__(self, answer, recorder):
        self._answer = answer
        self._recorder = recorder

    def __iter__(self):
        return iter(self._answer)

    def close(self):
        """Returns when the websocket has been closed."""
        self._recorder.add(layout.OPEN_WEBSOCKETS, 1)
        try:
            if hasattr(self._answer, "close"):
                self._answer.close()
        finally:
            self._recorder.add(layout.OPEN_WEBSOCKETS, -1)


def watch_http(application, recorder, answer):
    """Counts requests; `answer` is for `/metrics`. `application` is the class of the WSGI application."""
    original = application.__call__

    @functools.wraps(original)
    def call(self, environ, start_response):
        path = environ.get("PATH_INFO", "")
        if path == endpoint.PATH and (page := metrics_page(answer, environ, recorder)):
            body, content_type = page
            start_response("200 OK", [
                ("Content-Type", content_type), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"),
            ])
            return [body]
        method = environ.get("REQUEST_METHOD", "")
        code = "500"

        def started(status, *more, **named):
            nonlocal code
            code = status[:3]
            return start_response(status, *more, **named)

        begin = perf_counter_ns()
        _serving.environ = environ
        try:
            result = original(self, environ, started)
        except BaseException:
            recorder.request(method, "500", path, perf_counter_ns() - begin)
            raise
        finally:
            _serving.environ = {}
        recorder.request(method, code, path, perf_counter_ns() - begin)
        return Upgraded(result, recorder) if code == "101" else result

    application.__call__ = call


def metrics_page(answer, environ, recorder):
    """The page, or None; a page that cannot be made is as good as none."""
    try:
        return answer(environ)
    except Exception:
        _logger.exception("isyone_metrics: no page")
        recorder.error("hook")
        return None


def watch_sql(cursor, recorder):
    """Times queries."""
    original = cursor.execute
    ended = recorder.query

    @functools.wraps(original)
    def execute(self, *arguments, **named):
        begin = perf_counter_ns()
        try:
            return original(self, *arguments, **named)
        finally:
            ended(perf_counter_ns() - begin)

    cursor.execute = execute


def watch_workers(worker, cron_worker, recorder):
    """Tells what a forked process is. Prefork's workers all come by `Worker.start`."""
    original = worker.start

    @functools.wraps(original)
    def start(self, *arguments, **named):
        try:
            recorder.become("cron" if isinstance(self, cron_worker) else "http")
        except Exception:
            recorder.error("hook")
        return original(self, *arguments, **named)

    worker.start = start


def model(module, name, method):
    """The class of a model in a module of Odoo that has a method; the class's own name differs between versions."""
    for candidate in vars(importlib.import_module(module)).values():
        if isinstance(candidate, type) and getattr(candidate, "_name", None) == name and method in vars(candidate):
            return candidate
    raise LookupError(f"{module} has no {name} with {method}")


def watch_logins(users, denied, recorder, visitor=lambda: None):
    """Counts refusals. `denied` is the exception that means one, `visitor` gives the address of who is being served."""
    for name in _LOGIN_METHODS:
        if name in vars(users):
            setattr(users, name, counting_refusals(vars(users)[name], denied, recorder, visitor))


def counting_refusals(attribute, denied, recorder, visitor):
    """A method or class method that counts when it raises `denied`."""
    of_class = isinstance(attribute, classmethod)
    original = attribute.__func__ if of_class else attribute

    @functools.wraps(original)
    def check(*arguments, **named):
        try:
            return original(*arguments, **named)
        except denied:
            recorder.refused(visitor())
            raise

    return classmethod(check) if of_class else check


def watch_crons(crons, recorder):
    """Counts runs and failures, where Odoo itself notes them."""
    original = crons._update_failure_count

    @functools.wraps(original)
    def update(self, job, status, *arguments, **named):
        recorder.add(layout.CRON_RUNS)
        if str(getattr(status, "value", status)) == "failed":
            recorder.add(layout.CRON_FAILURES)
        return original(self, job, status, *arguments, **named)

    crons._update_failure_count = update


def segment_for(configuration):
    """The server's segment: that of the parent or of the time before a reload, or a new one."""
    address = os.environ.get(SEGMENT_VARIABLE)
    if address:
        try:
            return Segment.attach(address)
        except (OSError, ValueError) as error:
            _logger.info("isyone_metrics: no segment at %s: %s", address, error)
    processes = int(configuration["workers"] or 0) + int(configuration["max_cron_threads"] or 0) + 2
    segment = Segment.create(2 * processes + _SPARE_ROWS)
    os.environ[SEGMENT_VARIABLE] = segment.address()
    return segment


def install():
    """Starts counting in this process and those that it will fork. Does nothing the second time."""
    if _active:
        return
    import odoo
    from odoo import release, sql_db
    from odoo.tools import config

    evented = bool(getattr(odoo, "evented", False))
    recorder = Recorder(segment_for(config))
    mode = "prefork" if config["workers"] else "threaded"
    recorder.become("gevent" if evented else "main" if mode == "prefork" else "threaded")
    watch = database.Watch(lambda name: sql_db.connection_info_for(name)[1], recorder.error)
    build = {"version": release.version, "addon": VERSION, "mode": mode, "python": sys.version.split()[0]}
    configuration = config.get("config") or getattr(config, "rcfile", None)
    page = endpoint.Endpoint(
        recorder, watch, database.names(config["db_name"]), endpoint.token_file(configuration), build,
        lambda: sorted(_active.items()),
    )
    # In the evented process one slow answer would hold every websocket, so it does not answer.
    hook_all(recorder, (lambda environ: None) if evented else page.answer)
    guard.install(recorder, attempt, evented)
    _logger.info("isyone_metrics %s: watching %s", VERSION, ", ".join(name for name, on in _active.items() if on))


def hook_all(recorder, answer):
    """Every hook, each by itself."""
    def http():
        watch_http(importlib.import_module("odoo.http").Application, recorder, answer)

    def sql():
        watch_sql(importlib.import_module("odoo.sql_db").Cursor, recorder)

    def workers():
        server = importlib.import_module("odoo.service.server")
        watch_workers(server.Worker, server.WorkerCron, recorder)

    def logins():
        users = model("odoo.addons.base.models.res_users", "res.users", "authenticate")
        denied = importlib.import_module("odoo.exceptions").AccessDenied
        watch_logins(users, denied, recorder, lambda: getattr(_serving, "environ", {}).get("REMOTE_ADDR"))

    def crons():
        watch_crons(model("odoo.addons.base.models.ir_cron", "ir.cron", "_update_failure_count"), recorder)

    for name, hook in (("http", http), ("sql", sql), ("workers", workers), ("logins", logins), ("crons", crons)):
        attempt(name, hook)

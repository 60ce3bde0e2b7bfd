"""A threaded server that is told to stop lets its requests end first, where Odoo's closes their database connections after
a second. (The prefork server waits by itself.)

It takes no new ones meanwhile: its port is closed, so who asks is refused at once and may wait elsewhere. Websockets are not
waited for; a second signal ends the server at once, as before.
"""

import functools
import logging
import threading
import time

_logger = logging.getLogger(__name__)

# Seconds. What runs by schedule is begun again at the next start; short work is let to its end.
CRON_SECONDS = 30.0
_LOOK_SECONDS = 0.05
# On a thread: it serves a request, rather than waits for one on a silent connection.
_MARK = "isyone_serving"


def mark_requests(application):
    """Marks threads that serve a request, until they end with its answer."""
    original = application.__call__

    @functools.wraps(original)
    def call(self, *arguments, **named):
        setattr(threading.current_thread(), _MARK, True)
        return original(self, *arguments, **named)

    application.__call__ = call


def is_working(thread, given_up, now, request_seconds):
    """Whether a thread is waited for: it is at work, and within its time."""
    began = getattr(thread, "start_time", None)
    if not thread.is_alive() or thread in given_up or not began:
        return False
    kind = getattr(thread, "type", None)
    if kind == "cron":
        return True
    return kind == "http" and getattr(thread, _MARK, False) and now - began < request_seconds


def wait_for_requests(server_class, request_seconds, sleep=time.sleep, clock=time.time):
    """Around the stop of the threaded server. `request_seconds()` is how long a request may take, 0: any time."""
    original = server_class.stop

    def wait(self):
        if not self.httpd:
            return
        self.httpd.shutdown()
        self.httpd.socket.close()
        begin, me, told = clock(), threading.current_thread(), False
        limit = request_seconds() or float("inf")
        while True:
            now = clock()
            working = [
                thread for thread in threading.enumerate()
                if thread is not me and is_working(thread, self.limits_reached_threads, now, limit)
                and (thread.type == "http" or now - begin < CRON_SECONDS)
            ]
            if not working:
                return
            if not told:
                _logger.info("Waiting for %d requests or scheduled actions to end", len(working))
                told = True
            sleep(_LOOK_SECONDS)

    @functools.wraps(original)
    def stop(self):
        try:
            wait(self)
        except Exception:
            _logger.exception("isyone_metrics: not waited for requests")
        return original(self)

    server_class.stop = stop

"""Sessions of nobody are removed after hours, where Odoo keeps them for a week: anybody makes one by asking for
`/web?debug=1`, or by a websocket.

The file of a session in which nobody has signed in and nothing was put (no cart of a shop) is dated back by years when it is
written: that tells it from the others without reading them, which are left to Odoo's own rule. (That one, once a day, finds
those of nobody old as well.) Above a stated number the oldest of them go first.
"""

import contextlib
import functools
import logging
import os
import threading
import time

from .. import layout

_logger = logging.getLogger(__name__)

# How long a session of nobody is kept: longer than somebody leaves a login page open and comes back to it.
ANONYMOUS_SECONDS = 6 * 3600
# By how much they are dated back: nobody sets a session's lifetime to years.
DATED_BACK_SECONDS = 10 * 365 * 86_400
# Session files of nobody at most, 4 KiB each; a public site has some thousands of visitors in six hours.
MOST_ANONYMOUS = 20_000
SWEEP_SECONDS = 300.0
# What Odoo puts into every session by itself, and what a visitor's address can set.
_PLAIN = frozenset((
    "context", "create_time", "db", "debug", "login", "uid", "session_token", "_trace", "geoip", "sid", "_geoip",
))


def is_nobodys(session):
    """Nobody has signed in and nothing was put into it."""
    return not session.get("uid") and all(key in _PLAIN or not session[key] for key in session)


def age(store_class, clock=time.time):
    """Around the writing of a session."""
    original = store_class.save

    @functools.wraps(original)
    def save(self, session, *arguments, **named):
        result = original(self, session, *arguments, **named)
        with contextlib.suppress(Exception):
            if is_nobodys(session):
                when = clock() - DATED_BACK_SECONDS
                os.utime(self.get_session_filename(session.sid), (when, when))
        return result

    store_class.save = save


def files(directory):
    """`(date, path)` of every session's file; Odoo keeps them in directories of two letters."""
    with os.scandir(directory) as outer:
        for entry in outer:
            if not entry.is_dir(follow_symlinks=False):
                continue
            with contextlib.suppress(OSError), os.scandir(entry.path) as inner:
                for file in inner:
                    with contextlib.suppress(OSError):
                        if file.is_file(follow_symlinks=False):
                            yield file.stat(follow_symlinks=False).st_mtime, file.path


class Sweeper:
    """Removes what is old, now and then."""

    def __init__(self, directory, recorder, clock=time.time, most=MOST_ANONYMOUS):
        self._directory = directory
        self._recorder = recorder
        self._clock = clock
        self._most = most
        self._next = 0.0

    def sweep(self):
        """Now. Returns how many files were removed."""
        now = self._clock()
        old, nobodys, others = [], [], 0
        for date, path in files(self._directory):
            age = now - date - DATED_BACK_SECONDS
            if age < -DATED_BACK_SECONDS / 2:
                others += 1
            elif age > ANONYMOUS_SECONDS:
                old.append(path)
            else:
                nobodys.append((date, path))
        nobodys.sort()
        excess = max(len(nobodys) - self._most, 0)
        old += [path for _, path in nobodys[:excess]]
        removed = 0
        for path in old:
            with contextlib.suppress(OSError):
                os.unlink(path)
                removed += 1
        self._recorder.gauge(layout.ANONYMOUS_FILES, len(nobodys) - excess)
        self._recorder.gauge(layout.SESSION_FILES, others)
        self._recorder.add(layout.SESSIONS_REMOVED, removed)
        return removed

    def when_due(self):
        """At most every `SWEEP_SECONDS`; never raises."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + SWEEP_SECONDS
        try:
            self.sweep()
        except FileNotFoundError:
            pass  # nobody has ever come
        except Exception:
            _logger.exception("isyone_metrics: sessions are not swept")

    def forever(self):
        """For a thread of its own."""
        while True:
            self.when_due()
            time.sleep(SWEEP_SECONDS)


def sweep_beside_crons(server, sweeper):
    """In a thread beside the threaded server's, and between the scheduled actions of the prefork server's cron worker."""
    spawn, work = server.ThreadedServer.cron_spawn, server.WorkerCron.process_work

    @functools.wraps(spawn)
    def cron_spawn(self):
        threading.Thread(target=sweeper.forever, name="isyone.sessions", daemon=True).start()
        return spawn(self)

    @functools.wraps(work)
    def process_work(self):
        sweeper.when_due()
        return work(self)

    server.ThreadedServer.cron_spawn, server.WorkerCron.process_work = cron_spawn, process_work

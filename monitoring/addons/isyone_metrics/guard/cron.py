"""Scheduled actions go on after the database was away: the threaded server's cron thread connects anew, where Odoo's dies
for good at the first refusal; the prefork master tries again to replace workers, where Odoo's ends the whole server.
"""

import functools
import logging
import time

from .. import layout

_logger = logging.getLogger(__name__)

# Seconds between tries: from the first to the longest. A restart of PostgreSQL takes some seconds, a recovery minutes.
FIRST_SECONDS = 1.0
LONGEST_SECONDS = 30.0
# Who ran for so long had a connection; the next trouble is another one.
_WAS_WELL_SECONDS = 60.0


def keep_connecting(server_class, recorder, sleep=time.sleep, clock=time.monotonic):
    """Around the thread that runs scheduled actions; it never returns."""
    original = server_class.cron_thread

    @functools.wraps(original)
    def cron_thread(self, number):
        pause = FIRST_SECONDS
        while True:
            begin = clock()
            try:
                return original(self, number)
            except Exception as error:
                if clock() - begin > _WAS_WELL_SECONDS:
                    pause = FIRST_SECONDS
                recorder.add(layout.CRON_RECONNECTS)
                _logger.warning("cron%s lost its database and connects anew in %.0f s: %s", number, pause, error)
            sleep(pause)
            pause = min(pause * 2, LONGEST_SECONDS)

    server_class.cron_thread = cron_thread


def keep_spawning(server_class, away, recorder):
    """Around the prefork master's replacing of workers. `away` is what it raises without a database; its next beat, some
    seconds later, tries again."""
    original = server_class.process_spawn

    @functools.wraps(original)
    def process_spawn(self):
        try:
            return original(self)
        except away as error:
            recorder.add(layout.SPAWNS_PUT_OFF)
            _logger.warning("workers are replaced once the database is back: %s", error)
            return None

    server_class.process_spawn = process_spawn

"""A request waits for a connection while all of its process are taken, in the order of arrival and for a bounded time,
where Odoo fails at once (`The Connection Pool Is Full`, a 500).

A thread that has a connection already goes first: the others wait for it.
"""

import collections
import functools
import threading
from time import monotonic

from .. import layout

# Seconds. People reload after that; a proxy in front waits longer.
WAIT_SECONDS = 10.0
# A connection may become free without `give_back` (one that was lost): look again at least this often.
_LOOK_SECONDS = 0.5


class Line:
    """Who waits for a pool's connections, in order."""

    def __init__(self):
        self._lock = threading.Lock()
        self._waiting = collections.deque()

    def join(self, before_others):
        """A place at the end, or before the others."""
        place = threading.Event()
        with self._lock:
            (self._waiting.appendleft if before_others else self._waiting.append)(place)
        return place

    def leave(self, place):
        """Gives the place up; the next one may have a try."""
        with self._lock:
            self._waiting.remove(place)
        self.wake()

    def first(self, place):
        """Whether it is this one's turn."""
        with self._lock:
            return self._waiting[0] is place

    def wake(self):
        """A connection may be free."""
        with self._lock:
            if self._waiting:
                self._waiting[0].set()

    def empty(self):
        """Nobody waits."""
        return not self._waiting


def wait_for_connections(pool_class, full, busy, recorder, wait_seconds=WAIT_SECONDS):
    """`full` is what the pool raises when it is, `busy` the class of what is raised after waiting in vain."""
    borrow, give_back = pool_class.borrow, pool_class.give_back
    lines = {}
    held = threading.local()

    def line_of(pool):
        return lines.setdefault(id(pool), Line())  # a process has two pools, for its whole life

    def in_turn(self, line, has, arguments, named):
        recorder.add(layout.POOL_WAITS)
        deadline, place = monotonic() + wait_seconds, line.join(has > 0)
        try:
            while (left := deadline - monotonic()) > 0:
                if line.first(place):
                    place.clear()
                    try:
                        return borrow(self, *arguments, **named)
                    except full:
                        pass
                place.wait(min(left, _LOOK_SECONDS))
        finally:
            line.leave(place)
        recorder.add(layout.POOL_REFUSALS)
        raise busy(f"no database connection became free within {wait_seconds:.0f} s")

    @functools.wraps(borrow)
    def borrowing(self, *arguments, **named):
        line = line_of(self)
        has = getattr(held, "count", 0)
        try:
            if has <= 0 and not line.empty():
                raise full("others wait")
            connection = borrow(self, *arguments, **named)
        except full:
            connection = in_turn(self, line, has, arguments, named)
        held.count = max(has, 0) + 1
        return connection

    @functools.wraps(give_back)
    def giving_back(self, *arguments, **named):
        # Given back by another thread than borrowed it: both counts are off by one, and only the order suffers.
        held.count = getattr(held, "count", 0) - 1
        try:
            return give_back(self, *arguments, **named)
        finally:
            line_of(self).wake()

    pool_class.borrow, pool_class.give_back = borrowing, giving_back

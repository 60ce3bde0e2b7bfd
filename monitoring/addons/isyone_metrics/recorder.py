"""Counting in one process: finds the process's row, and adds to it. What is called for each request and query is here,
so it is short, and none of it raises.

Not here: when it is called (hooks).
"""

import os
import threading
from time import monotonic

from . import addresses, layout

# Between two tries of a process that found no free row.
_RETRY_SECONDS = 10.0


class Recorder:
    """Of this process and, after a fork, of the child."""

    def __init__(self, segment):
        self.segment = segment
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self):
        # The row is the parent's; the lock may be held by a thread that does not exist here.
        self._lock = threading.Lock()
        self._cells = None
        self._shared = False
        self._retry_at = 0.0

    def become(self, kind):
        """Takes a row as a process of this kind, a word of `KINDS`."""
        with self._lock:
            self._claim(layout.KINDS.index(kind))

    def _claim(self, kind):
        if self._shared:
            return self._cells
        row = self.segment.claim(kind)
        if row is None:
            # Counted on the side; added to the row as soon as there is one.
            self._cells = self._cells or [0] * layout.CELLS
            self._retry_at = monotonic() + _RETRY_SECONDS
            return self._cells
        if self._cells:
            for index, value in enumerate(self._cells):
                if value and not layout.ADDRESSES <= index < layout.RECYCLES:
                    row[index] += value
        self._cells, self._shared = row, True
        return row

    def _row(self):
        """To be called with the lock."""
        if self._shared or (self._cells and monotonic() < self._retry_at):
            return self._cells
        return self._claim(layout.KINDS.index("other"))

    def add(self, cell, amount=1):
        """To a counter or gauge."""
        try:
            with self._lock:
                self._row()[cell] += amount
        except Exception:  # a number is never worth a request
            pass

    def gauge(self, cell, value):
        """Of this process."""
        try:
            with self._lock:
                self._row()[cell] = value
        except Exception:
            self.error("hook")

    def refused(self, address):
        """A login was refused; `address` is the visitor's, as text, or None."""
        self.add(layout.LOGIN_FAILURES)
        try:
            key = addresses.key(address)
            if key:
                with self._lock:
                    addresses.count(self._row(), key)
        except Exception:
            self.error("hook")

    def error(self, source):
        """Something, a word of `SOURCES`, could not be told."""
        self.add(layout.ERRORS + layout.SOURCES.index(source))

    def query(self, nanoseconds):
        """An SQL query ended."""
        try:
            sql = layout.SQL
            cell = sql.cell(nanoseconds)
            with self._lock:
                row = self._cells if self._shared else self._row()
                row[cell] += 1
                row[sql.sum] += nanoseconds
        except Exception:
            self.error("hook")

    def request(self, method, code, path, nanoseconds):
        """An HTTP request was answered."""
        try:
            route = layout.route_index(path)
            times = layout.HTTP[route]
            cell = times.cell(nanoseconds)
            count = layout.request_cell(method, code, route)
            with self._lock:
                row = self._cells if self._shared else self._row()
                row[cell] += 1
                row[times.sum] += nanoseconds
                row[count] += 1
        except Exception:
            self.error("hook")

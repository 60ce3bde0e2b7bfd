"""The memory that an Odoo server's processes share: one row of cells for each, in a memory file that has no name.

A row has one owner at a time, so nobody waits for anybody and no count is lost to a race. Ownership is a POSIX record
lock on the row's byte of the file: the kernel gives it back when the process dies, however it dies. The next process
takes the row over and counts on, so what dead workers counted stays. The file goes with the last process.

Not here: what the cells mean (layout).
"""

import errno
import fcntl
import mmap
import os
import struct
import time

from . import addresses, layout

_MAGIC = b"ISYMETR2"
_HEADER = struct.Struct("=8sQQQQ")  # magic, cells per row, rows, creation in ns since 1970, key
_HEADER_BYTES = 4096
# Rows start at a cache line, so two processes never write to the same one.
_ROW_BYTES = -(-layout.CELLS * 8 // 64) * 64
# `struct flock` of 64-bit Linux: type, whence, start, length, pid.
_FLOCK = struct.Struct("@hhqqi4x")
# Far behind the rows' own bytes, which nobody locks.
_LOCKS_AT = 1 << 40


class Segment:
    """A mapped file of rows; see the module."""

    def __init__(self, descriptor, key=None):
        """On a descriptor that stays open for as long as the process lives: closing any of a file's descriptors gives
        back all of the process's locks on it, and the map has one too. So what is not ours is told before mapping."""
        size = os.fstat(descriptor).st_size
        header = os.pread(descriptor, _HEADER.size, 0)
        if len(header) < _HEADER.size:
            raise ValueError("not a segment")
        magic, cells, self.rows, created_ns, self.key = _HEADER.unpack(header)
        if magic != _MAGIC or cells != layout.CELLS or size != _HEADER_BYTES + self.rows * _ROW_BYTES:
            raise ValueError("a segment of another version")
        if key not in (None, self.key):
            raise ValueError("another segment")
        self.descriptor = descriptor
        self.created = created_ns / layout.NANOSECONDS
        self._map = mmap.mmap(descriptor, size)
        whole = memoryview(self._map)
        self._rows = [self._row(whole, index) for index in range(self.rows)]
        self._own = None  # (process, index) of the row that was claimed by it

    @staticmethod
    def _row(whole, index):
        start = _HEADER_BYTES + index * _ROW_BYTES
        return whole[start:start + layout.CELLS * 8].cast("Q")

    @classmethod
    def create(cls, rows):
        """A new one. Its descriptor outlives an exec, so that a reloaded server counts on."""
        descriptor = os.memfd_create("isyone_metrics", 0)
        os.ftruncate(descriptor, _HEADER_BYTES + rows * _ROW_BYTES)
        key = int.from_bytes(os.urandom(8), "little")
        os.pwrite(descriptor, _HEADER.pack(_MAGIC, layout.CELLS, rows, time.time_ns(), key), 0)
        return cls(descriptor)

    def address(self):
        """By which a child of this process finds the segment, whatever it closed; for `attach`."""
        return f"{os.getpid()}:{self.descriptor}:{self.key}"

    @classmethod
    def attach(cls, address):
        """The segment at an address. `OSError` or `ValueError` when it is not there (any more)."""
        pid, descriptor, key = (int(part) for part in address.split(":"))
        own = pid == os.getpid()
        found = descriptor if own else os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR)
        try:
            return cls(found, key)
        except (OSError, ValueError):
            if not own:
                os.close(found)
            raise

    def claim(self, kind):
        """A row for this process to write to, or None when all are taken. `kind` is its index in `KINDS`."""
        for index, row in enumerate(self._rows):
            try:
                fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKS_AT + index)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    continue
                raise
            if row[layout.KIND]:  # its owner is gone
                row[layout.RECYCLES + row[layout.KIND] - 1] += 1
            for gauge in layout.GAUGES:
                row[gauge] = 0
            row[layout.PID] = os.getpid()
            row[layout.KIND] = kind + 1
            self._own = (os.getpid(), index)
            return row
        return None

    def _alive(self, index):
        """Whether a row's owner lives. One's own lock is no obstacle to oneself, so that one is remembered."""
        if self._own == (os.getpid(), index):
            return True
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKS_AT + index, 1, 0)
        answer = fcntl.fcntl(self.descriptor, fcntl.F_GETLK, request)
        return _FLOCK.unpack(answer)[0] != fcntl.F_UNLCK

    def totals(self):
        """One row with the sums over all processes, dead ones included, and the number of living ones by kind.

        Gauges are those of the living. The addresses are the most frequent ones of all.
        """
        total, refused = [0] * layout.CELLS, {}
        workers = [0] * len(layout.KINDS)
        for index, row in enumerate(self._rows):
            if not row[layout.KIND]:
                continue  # rows are handed out from the first on, but a racing claim may leave a gap
            values = row.tolist()
            if self._alive(index):
                workers[values[layout.KIND] - 1] += 1
            else:
                for gauge in layout.GAUGES:
                    values[gauge] = 0
            addresses.merge(refused, values)
            total = list(map(int.__add__, total, values))
        addresses.put(total, refused)
        return total, workers

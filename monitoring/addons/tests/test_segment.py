"""The shared rows: exact under concurrency, kept when processes die, found by address, bounded."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import unittest
from pathlib import Path

import context  # noqa: F401
from isyone_metrics import layout
from isyone_metrics.recorder import Recorder
from isyone_metrics.segment import Segment

FORK = multiprocessing.get_context("fork")


def in_children(count, work):
    """Runs `work(number)` in as many forked processes at once, and waits."""
    children = [FORK.Process(target=work, args=(number,)) for number in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0, child.exitcode


class Rows(unittest.TestCase):
    def setUp(self):
        self.segment = Segment.create(16)
        self.recorder = Recorder(self.segment)
        self.recorder.become("main")

    def totals(self):
        return self.segment.totals()

    def requests(self):
        return sum(count for *_, count in layout.requests(self.totals()[0]))

    def test_processes_and_threads_count_exactly(self):
        def work(_number):
            self.recorder.become("http")
            threads = [threading.Thread(target=count) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        def count():
            for _ in range(2_000):
                self.recorder.request("GET", "200", "/web", 1_000_000)
                self.recorder.query(400_000)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # threads change places within an addition, if they can
        try:
            in_children(8, work)
        finally:
            sys.setswitchinterval(interval)
        row, _ = self.totals()
        self.assertEqual(self.requests(), 8 * 4 * 2_000)
        self.assertEqual(sum(row[layout.SQL.first:layout.SQL.sum]), 8 * 4 * 2_000)
        self.assertEqual(row[layout.SQL.sum], 8 * 4 * 2_000 * 400_000)

    def test_recycled_workers_lose_nothing_and_are_counted(self):
        def work(_number):
            self.recorder.become("http")
            for _ in range(10):
                self.recorder.request("GET", "200", "/web", 1)

        for _ in range(40):  # more generations than rows
            in_children(1, work)
        row, workers = self.totals()
        self.assertEqual(self.requests(), 400)
        self.assertEqual(row[layout.RECYCLES + layout.KINDS.index("http")], 39)
        self.assertEqual(workers[layout.KINDS.index("http")], 0)
        self.assertEqual(workers[layout.KINDS.index("main")], 1)

    def test_a_killed_worker_frees_its_row_and_its_gauges(self):
        ready = FORK.Event()

        def work():
            self.recorder.become("gevent")
            self.recorder.add(layout.OPEN_WEBSOCKETS, 3)
            self.recorder.request("GET", "101", "/websocket", 1)
            ready.set()
            time.sleep(60)

        child = FORK.Process(target=work)
        child.start()
        self.assertTrue(ready.wait(10))
        row, workers = self.totals()
        self.assertEqual((row[layout.OPEN_WEBSOCKETS], workers[layout.KINDS.index("gevent")]), (3, 1))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        row, workers = self.totals()
        self.assertEqual((row[layout.OPEN_WEBSOCKETS], workers[layout.KINDS.index("gevent")]), (0, 0))
        self.assertEqual(self.requests(), 1)
        in_children(1, lambda _number: self.recorder.become("gevent"))
        self.assertEqual(self.totals()[0][layout.OPEN_WEBSOCKETS], 0)

    def test_a_child_that_nobody_announced_has_a_row_of_its_own(self):
        self.recorder.query(1)
        in_children(3, lambda _number: self.recorder.query(1))
        row, workers = self.totals()
        self.assertEqual(sum(row[layout.SQL.first:layout.SQL.sum]), 4)
        self.assertEqual(sum(workers), 1)

    def test_without_a_free_row_it_counts_on_the_side(self):
        segment = Segment.create(1)
        Recorder(segment).become("main")
        late = []

        def work(_number):
            recorder = Recorder(segment)
            recorder.become("http")
            for _ in range(5):
                recorder.query(1)
            recorder._retry_at = 0.0
            recorder.query(1)
            assert sum(recorder._cells[layout.SQL.first:layout.SQL.sum]) == 6
            late.append(recorder)

        in_children(1, work)
        self.assertEqual(sum(segment.totals()[0][layout.SQL.first:layout.SQL.sum]), 0)

    def test_what_was_counted_on_the_side_is_added_when_a_row_is_free(self):
        segment = Segment.create(1)
        held, done = FORK.Event(), FORK.Event()

        def holder():
            Recorder(segment).become("main")
            held.set()
            done.wait(10)

        child = FORK.Process(target=holder)
        child.start()
        self.assertTrue(held.wait(10))
        recorder = Recorder(segment)
        recorder.become("http")
        recorder.query(1)
        done.set()
        child.join()
        recorder._retry_at = 0.0
        recorder.query(1)
        self.assertEqual(sum(segment.totals()[0][layout.SQL.first:layout.SQL.sum]), 2)

    def test_another_program_finds_it_by_its_address(self):
        program = (
            "import sys; sys.path.insert(0, sys.argv[1])\n"
            "from isyone_metrics.recorder import Recorder; from isyone_metrics.segment import Segment\n"
            "recorder = Recorder(Segment.attach(sys.argv[2])); recorder.become('gevent')\n"
            "[recorder.query(1) for _ in range(7)]\n"
        )
        addons = Path(__file__).resolve().parent.parent
        subprocess.run([sys.executable, "-c", program, addons, self.segment.address()], check=True)
        self.assertEqual(sum(self.totals()[0][layout.SQL.first:layout.SQL.sum]), 7)

    def test_a_wrong_address_is_refused_and_costs_no_lock(self):
        pid, descriptor, key = self.segment.address().split(":")
        for address in ("1:9999:1", "nonsense", f"{pid}:{descriptor}:{int(key) ^ 1}", f"{pid}:0:1"):
            with self.assertRaises((OSError, ValueError)):
                Segment.attach(address)
        in_children(1, lambda _number: self.recorder.become("http"))
        self.assertEqual(self.totals()[1][layout.KINDS.index("main")], 1)

    def test_a_program_that_starts_anew_in_place_counts_on(self):
        """As Odoo's reload does: exec, same process, same descriptor."""
        program = (
            "import os, sys; sys.path.insert(0, sys.argv[1])\n"
            "from isyone_metrics import layout\n"
            "from isyone_metrics.recorder import Recorder; from isyone_metrics.segment import Segment\n"
            "segment = Segment.attach(sys.argv[2]) if len(sys.argv) > 2 else Segment.create(4)\n"
            "recorder = Recorder(segment); recorder.become('main'); recorder.query(1)\n"
            "if len(sys.argv) == 2: os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:], segment.address()])\n"
            "row, workers = segment.totals()\n"
            "print(sum(row[layout.SQL.first:layout.SQL.sum]), sum(workers), row[layout.RECYCLES])\n"
        )
        addons = Path(__file__).resolve().parent.parent
        done = subprocess.run([sys.executable, "-c", program, addons], check=True, capture_output=True, text=True)
        self.assertEqual(done.stdout.split(), ["2", "1", "1"])


if __name__ == "__main__":
    unittest.main()

"""A request that wants more memory than there is gets a MemoryError, where the kernel would end the container's Odoo with
everybody's requests.

Odoo's `limit_memory_hard` is a limit on address space (RLIMIT_AS). Of that a threaded server has far more than it uses:
8 MiB for each thread's stack, 64 MiB for each of malloc's arenas. (Smaller stacks are no way out: with 1 MiB, 100 kB of
`[` end the process, because Python 3.12 and newer trusts to have 8.) So the limit is moved by what was mapped and not used when
the server began, and by a stack for each thread since: it bounds what is used, and as long as little is mapped that could be
used without the limit having a say. malloc is told so: few arenas, and what is large comes from the kernel and goes back there.
The limit follows the container's memory, which may be changed while it runs.

What was used and is free again is given back to the kernel when much of the bound is used: the next large request would be
refused for the last one's sake otherwise.

Programs that a request starts (wkhtmltopdf) are not held to it: they need more address space than memory. The kernel ends
them before Odoo.
"""

import ctypes
import functools
import os
import resource
import subprocess
import time

_PAGE = os.sysconf("SC_PAGE_SIZE")
# Of the container's memory at most, whatever odoo.conf says: one that was written for another size, or by an older agent.
_MOST = 0.95
_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
# cgroup version 1 says "no limit" by a number of this order.
_UNLIMITED = 1 << 60
# mallopt's names of glibc, and what they are set to: arenas, and from which size on a block comes from the kernel. (Setting that
# keeps it from growing to 32 MiB with the blocks that are freed.)
_ARENAS = (-8, 2)
_LARGE_BYTES = (-3, 1 << 20)
# Where the stack's limit is none or a wonder: glibc's own.
_STACK_BYTES = 8 << 20
_MOST_STACK_BYTES = 64 << 20
# Threads that may begin beside the one that the limit is moved for.
_SPARE_THREADS = 2
# Used share of the bound above which memory is given back, and seconds between two times: it takes some milliseconds.
_TRIM_ABOVE = 0.5
_TRIM_SECONDS = 5.0
# For a started program, in the kernel's units from -1000 to 1000.
_PROGRAMS_SCORE = b"500"


def container_bytes(files=_FILES):
    """The container's memory, or None where nothing limits it."""
    for path in files:
        try:
            with open(path, "rb") as file:
                value = int(file.read())
        except (OSError, ValueError):
            continue
        if 0 < value < _UNLIMITED:
            return value
    return None


def stack_bytes():
    """Address space of a thread's stack."""
    limit = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return limit if 0 < limit <= _MOST_STACK_BYTES else _STACK_BYTES


def threads():
    """How many this process has, those of libraries too."""
    return len(os.listdir("/proc/self/task"))


def tell_malloc():
    """Few arenas, and large blocks from the kernel. Returns glibc's way to give back what is free, or None."""
    library = ctypes.CDLL(None)
    for setting in (_ARENAS, _LARGE_BYTES):
        getattr(library, "mallopt", lambda *_: None)(*setting)
    return getattr(library, "malloc_trim", None)


def mapped_and_used():
    """Bytes of address space and of memory of this process."""
    with open("/proc/self/statm", "rb") as file:
        mapped, used = file.read().split()[:2]
    return int(mapped) * _PAGE, int(used) * _PAGE


class Bound:
    """How much memory this process may use: a share of its container's."""

    def __init__(self, configured, container, trim=None, read=container_bytes):
        """`configured` is `limit_memory_hard`, written for a container of `container` bytes. To be made when the server
        begins: what is mapped then and not used is its programs' own."""
        if not configured or not container:
            raise LookupError("no limit, or no container")
        self._share = min(configured / container, _MOST)
        self._read = read
        self._trim = trim
        self._next_trim = 0.0
        mapped, used = mapped_and_used()
        self._unused = max(mapped - used, 0)
        self._threads = threads()

    def bytes(self):
        """What may be used, or None where nothing limits the container (any more)."""
        container = self._read()
        return int(self._share * container) if container else None

    def limit(self, allowed, now_threads):
        """As RLIMIT_AS, in bytes."""
        begun = max(now_threads - self._threads, 0) + _SPARE_THREADS
        return allowed + self._unused + begun * stack_bytes()

    def apply(self):
        """To this process, as it is now."""
        allowed = self.bytes()
        if not allowed:
            return
        if self._trim and time.monotonic() > self._next_trim and mapped_and_used()[1] > _TRIM_ABOVE * allowed:
            self._next_trim = time.monotonic() + _TRIM_SECONDS
            self._trim(0)
        limit, hard = self.limit(allowed, threads()), resource.getrlimit(resource.RLIMIT_AS)[1]
        if hard == resource.RLIM_INFINITY or limit <= hard:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def bound(server, bound, popen=subprocess.Popen):
    """In place of Odoo's own way of setting the limit, and before each thread of the threaded server, which needs room for a
    stack. `server` is the module `odoo.service.server`."""
    own = server.set_limit_memory_hard

    @functools.wraps(own)
    def set_limit_memory_hard():
        try:
            bound.apply()
        except Exception:
            own()

    server.set_limit_memory_hard = set_limit_memory_hard
    before(server.ThreadedWSGIServerReloadable, "process_request", set_limit_memory_hard)
    before(server.GeventServer, "process_limits", set_limit_memory_hard)
    free_programs(popen)


def before(owner, name, first):
    """Has a method do something first."""
    original = getattr(owner, name)

    @functools.wraps(original)
    def method(*arguments, **named):
        first()
        return original(*arguments, **named)

    setattr(owner, name, method)


def free_programs(popen):
    """Lets a program that is started have as much address space as it likes, and be the first to go."""
    original = popen.__init__

    @functools.wraps(original)
    def begin(self, *arguments, **named):
        original(self, *arguments, **named)
        try:
            soft, hard = resource.getrlimit(resource.RLIMIT_AS)
            if soft != resource.RLIM_INFINITY and self.pid:
                resource.prlimit(self.pid, resource.RLIMIT_AS, (hard, hard))
                with open(f"/proc/{self.pid}/oom_score_adj", "wb") as file:
                    file.write(_PROGRAMS_SCORE)
        except (OSError, ValueError, AttributeError):
            pass  # it has ended already

    popen.__init__ = begin

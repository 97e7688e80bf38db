"""Deadlines, and all intervals that the package itself chooses, with their effect on users.

A timeout becomes a deadline once, in the call that takes it. Everything that waits for that call is
given the deadline. Times are in seconds, and deadlines are values of `time.monotonic()`.
"""

from __future__ import annotations

import time

from . import _arguments
from ._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# A thread that waits runs signal handlers at least this often. The kernel may deliver a signal to
# any thread, but Python's handlers run in the main thread only. So Ctrl-C ends a wait after this
# time at the latest.
LONGEST_SLEEP = 0.5

# A claim or look-up that waits for a channel looks again this often. A holder that dies wakes no
# other participant, so the side of a killed process is claimed this much later at the latest.
LOOK_AGAIN = 0.1

# A call waits this long while another process creates or removes a heap of the same name, then
# raises HeapBusy.
PATIENCE = 10.0

# An initialiser that adds another segment waits this long for the initialiser of that one, which
# may be waiting for it in turn, then raises ChannelBusy.
INITIALISER_PATIENCE = 10.0

# `Heap.attach` with a timeout looks for the heap at intervals that grow from the first to the
# second of these. So it returns at most the second after the heap is ready.
SHORTEST_NAP = 0.0005
LONGEST_NAP = 0.01

# `Heap.set_lock_timeout` uses this for a longer timeout: about 30 years.
LONGEST_LOCK_TIMEOUT = 1e9


def deadline_of(timeout: float | None) -> float:
    """Return the end of a timeout, infinity for None; ValueError or TypeError if it is none."""
    return time.monotonic() + _arguments.timeout(timeout)


def time_left(deadline: float) -> float:
    """Return the seconds until a deadline; 0 or less if it has passed."""
    return deadline - time.monotonic()


def in_nanoseconds(seconds: float) -> int:
    """Return a time in nanoseconds, as the core takes it; 0 for a negative one."""
    return int(max(seconds, 0.0) * 1e9)


def sleep(step: Callable[[int], int], deadline: float) -> int:
    """Call `step` with nanoseconds until it returns another code than TIMED_OUT, or time is up.

    Returns the last code. Signal handlers run between the calls, and their exceptions propagate.
    """
    while True:
        left = time_left(deadline)
        code = step(in_nanoseconds(min(left, LONGEST_SLEEP)))
        if code == lib.IPCHEAP_INTERRUPTED:
            continue
        if code != lib.IPCHEAP_TIMED_OUT or left <= LONGEST_SLEEP:
            return code

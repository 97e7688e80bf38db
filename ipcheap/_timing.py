"""Deadlines, and every time that the package chooses by itself, with what a user notices of it.

A timeout becomes a deadline once, in the call that takes it; all that waits on its behalf is
given the deadline. Times are seconds, deadlines are of `time.monotonic()`.
"""

from __future__ import annotations

import time

from . import _arguments
from ._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# A thread that waits runs signal handlers at least this often. The kernel may give a signal to
# any thread, and Python's handlers run in the main thread only: Ctrl-C ends a wait after
# this time at the latest.
LONGEST_SLEEP = 0.5

# A claim or look-up that waits for a channel looks again this often. A holder that dies wakes
# no one: the side of a killed process is claimed this much later at the latest.
LOOK_AGAIN = 0.1

# A call waits this long while another process creates or removes a heap of the same name, then
# raises HeapBusy.
PATIENCE = 10.0

# `Heap.attach` with a timeout looks for the heap at intervals that grow from the first to the
# second: it returns at most this much later than the heap was ready.
SHORTEST_NAP = 0.0005
LONGEST_NAP = 0.01

# `Heap.set_lock_timeout` takes no more than this; a longer one is as good.
LONGEST_LOCK_TIMEOUT = 1e9


def deadline_of(timeout: float | None) -> float:
    """Return when a timeout is over, infinity for None; ValueError or TypeError for a bad one."""
    return time.monotonic() + _arguments.timeout(timeout)


def time_left(deadline: float) -> float:
    """Return the seconds until a deadline; 0 or less if it has passed."""
    return deadline - time.monotonic()


def in_nanoseconds(seconds: float) -> int:
    """Return seconds as the core wants them; 0 for what is below."""
    return int(max(seconds, 0.0) * 1e9)


def sleep(step: Callable[[int], int], deadline: float) -> int:
    """Call `step` with nanoseconds until it returns other than TIMED_OUT, or the deadline passes.

    Returns what `step` returned last. Signal handlers run between the calls, and what they
    raise comes out of here.
    """
    while True:
        left = time_left(deadline)
        code = step(in_nanoseconds(min(left, LONGEST_SLEEP)))
        if code == lib.IPCHEAP_INTERRUPTED:
            continue
        if code != lib.IPCHEAP_TIMED_OUT or left <= LONGEST_SLEEP:
            return code

"""Processes that stop before each system call by which they could disturb each other.

A tracer continues them from stop to stop in any order, and kills them at any stop. So each state
that a race of system calls can reach is reached by counting, on one core, and not by luck. Not
covered: what happens within one system call, which is the kernel's, and stores to shared memory
between two calls, before each of which native/tests/test_crash.c kills.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING

import seccomp

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Sequence

# The calls by which one process sees or changes what another one sees, except looks at what is open
# already. "getppid", which nothing else makes, stands between two acts.
CALLS = (
    "getppid", "open", "openat", "close", "stat", "lstat", "newfstatat", "fcntl", "pread64",
    "pwrite64", "ftruncate", "fallocate", "fchmod", "mknod", "mknodat", "unlink", "unlinkat",
    "access", "faccessat", "readlink", "readlinkat", "getdents64", "shmget", "shmat", "shmctl",
    "shmdt", "semget", "semctl",
)  # fmt: skip
_BY_PATH = ("newfstatat",)
_PAUSE = CALLS.index("getppid")
_LOCK = CALLS.index("fcntl")

# These calls are not made, so that no process sleeps: one that waits repeats calls of the above.
_SKIPPED = dict.fromkeys(("nanosleep", "clock_nanosleep"), 0)
_SKIPPED |= dict.fromkeys(("semtimedop", "futex", "futex_waitv"), errno.EINTR)

_MOST_LOCKS = 2  # in a row that an act has which need not wait: a slot, and the end of the creation
_LONGEST_TURN = 200  # stops: more than any act has that need not wait

_TRACE_ME, _CONTINUE, _SET_OPTIONS, _GET_EVENT = 0, 7, 0x4200, 0x4201
_OPTION_SECCOMP, _OPTION_EXIT_KILL = 0x80, 0x100000
_SECCOMP_STOP = signal.SIGTRAP | 7 << 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def _ptrace(request: int, pid: int, data: int = 0) -> None:
    if _libc.ptrace(request, pid, None, data) < 0:
        raise OSError(ctypes.get_errno(), f"ptrace({request:#x})")


def pause() -> None:
    """Stop between two acts until the tracer says what comes next."""
    os.getppid()


def is_possible() -> bool:
    """Whether children can be traced: no sandbox forbids it, and the calls' numbers are known."""
    if os.uname().machine not in seccomp.NUMBERS:
        return False
    child = os.fork()
    if child == 0:
        os._exit(_libc.ptrace(_TRACE_ME, 0, None, None) != 0)
    return os.waitpid(child, 0)[1] == 0


class Stepped:
    """A child that runs `body`, which calls `pause` between two acts."""

    def __init__(self, body: Callable[[], None]) -> None:
        self.stops = 0  # in this act
        self.locks = 0  # in a row, up to this stop
        self.ended = False
        self._event = ctypes.c_ulong()
        self._place = ctypes.addressof(self._event)
        sys.stdout.flush()
        sys.stderr.flush()
        gc.disable()
        self.pid = os.fork()
        if self.pid == 0:
            _be_stepped(body)
        gc.enable()
        _, status = os.waitpid(self.pid, 0)
        assert os.WIFSTOPPED(status), f"a process ended with status {status:#x}"
        _ptrace(_SET_OPTIONS, self.pid, _OPTION_SECCOMP | _OPTION_EXIT_KILL)
        self.at = -1
        while self.at != _PAUSE:
            self.step()

    @property
    def pauses(self) -> bool:
        """Whether it stands between two acts."""
        return self.at == _PAUSE

    def step(self) -> None:
        """Continue it to its next stop."""
        passed = 0
        while True:
            _ptrace(_CONTINUE, self.pid, passed)
            _, status = os.waitpid(self.pid, 0)
            if not os.WIFSTOPPED(status):
                self.ended = True
                raise AssertionError(f"a process ended with status {status:#x}")
            if status >> 8 == _SECCOMP_STOP:
                break
            passed = os.WSTOPSIG(status)
        _ptrace(_GET_EVENT, self.pid, self._place)
        self.at = self._event.value
        self.stops += 1
        self.locks = self.locks + 1 if self.at == _LOCK else 0

    def kill(self) -> None:
        """Kill it where it stands."""
        if not self.ended:
            self.ended = True
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)


def _be_stepped(body: Callable[[], None]) -> None:
    code = 1
    try:
        _ptrace(_TRACE_ME, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        seccomp.trace(CALLS, _BY_PATH, _SKIPPED)
        body()
        code = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(code)


def interleave(
    actors: Sequence[Stepped],
    chance: random.Random,
    changes: Callable[[Stepped], bool],
    kills: dict[int, int],
) -> None:
    """Let each actor perform its act, the first one first, until all pause or are dead.

    `changes` says of an actor that has stopped whether another one goes on. `kills` says at which
    stop an actor is killed, if it comes to that.
    """
    for actor in actors:
        actor.stops = 0
    going = list(range(len(actors)))
    number = turn = 0
    while going:
        actor = actors[number]
        turn += 1
        actor.step()
        over = actor.pauses
        if actor.stops == kills.get(number) and not over:
            actor.kill()
            over = True
        if over:
            going.remove(number)
        elif not (actor.locks > _MOST_LOCKS or turn > _LONGEST_TURN or changes(actor)):
            continue  # an actor that locks so often, or takes so long, waits for another one
        turn = 0
        if going:
            number = chance.choice([other for other in going if other != number] or going)

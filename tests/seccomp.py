"""System calls of the calling process fail, stop it for its tracer, or kill it."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

# The calls that these tests are about, on the machines that they run on.
NUMBERS = {
    "x86_64": {
        "futex": 202, "futex_waitv": 449, "membarrier": 324, "read": 0, "write": 1, "poll": 7,
        "ppoll": 271, "select": 23, "epoll_wait": 232, "epoll_pwait": 281, "sched_yield": 24,
        "nanosleep": 35, "clock_nanosleep": 230, "openat": 257, "pidfd_open": 434, "mremap": 25,
        "open": 2, "close": 3, "stat": 4, "lstat": 6, "newfstatat": 262, "fcntl": 72,
        "pread64": 17, "pwrite64": 18, "ftruncate": 77, "fallocate": 285, "fchmod": 91,
        "mknod": 133, "mknodat": 259, "unlink": 87, "unlinkat": 263, "getdents64": 217,
        "access": 21, "faccessat": 269, "readlink": 89, "readlinkat": 267,
        "shmget": 29, "shmat": 30, "shmctl": 31, "shmdt": 67, "semget": 64, "semctl": 66,
        "semtimedop": 220, "getppid": 110,
        "mmap": 9, "mprotect": 10, "munmap": 11, "brk": 12, "madvise": 28, "exit_group": 231,
    },
    "aarch64": {
        "futex": 98, "futex_waitv": 449, "membarrier": 283, "read": 63, "write": 64, "ppoll": 73,
        "epoll_pwait": 22, "sched_yield": 124, "nanosleep": 101, "clock_nanosleep": 115,
        "openat": 56, "pidfd_open": 434, "mremap": 216,
        "close": 57, "newfstatat": 79, "fcntl": 25,
        "pread64": 67, "pwrite64": 68, "ftruncate": 46, "fallocate": 47, "fchmod": 52,
        "mknodat": 33, "unlinkat": 35, "getdents64": 61, "faccessat": 48, "readlinkat": 78,
        "shmget": 194, "shmat": 196, "shmctl": 195, "shmdt": 197, "semget": 190, "semctl": 191,
        "semtimedop": 192, "getppid": 173,
        "mmap": 222, "mprotect": 226, "munmap": 215, "brk": 214, "madvise": 233, "exit_group": 94,
    },
}  # fmt: skip

_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_NUMBER, _FIRST_ARGUMENT = 0, 16  # places in what a filter sees of a call
_CURRENT_FOLDER = 2**32 - 100  # AT_FDCWD
_ALLOW, _KILL, _ERRNO, _TRACE = 0x7FFF0000, 0x80000000, 0x00050000, 0x7FF00000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _install(
    verdicts: dict[str, int], by_path: tuple[str, ...] = (), otherwise: int = _ALLOW
) -> None:
    known = NUMBERS[os.uname().machine]
    code = [struct.pack("HBBI", _LOAD, 0, 0, _NUMBER)]
    for name, verdict in verdicts.items():
        if name not in known:
            continue
        code.append(
            struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 4 if name in by_path else 1, known[name])
        )
        if name in by_path:
            code.append(struct.pack("HBBI", _LOAD, 0, 0, _FIRST_ARGUMENT))
            code.append(struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 1, _CURRENT_FOLDER))
        code.append(struct.pack("HBBI", _RETURN, 0, 0, verdict))
        if name in by_path:
            code.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
    code.append(struct.pack("HBBI", _RETURN, 0, 0, otherwise))
    raw = ctypes.create_string_buffer(b"".join(code))
    program = _Program(len(code), ctypes.cast(raw, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    for request in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0),
        (_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(program)),
    ):
        if libc.prctl(*request, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")


def refuse(*names: str) -> None:
    """Make system calls fail with EPERM from now on, in this thread and those that it starts."""
    _install(dict.fromkeys(names, _ERRNO | errno.EPERM))


def forbid(*names: str) -> None:
    """Make them kill the process."""
    _install(dict.fromkeys(names, _KILL))


def forbid_all_but(*names: str) -> None:
    """Make every other system call kill the process."""
    _install(dict.fromkeys(names, _ALLOW), otherwise=_KILL)


def trace(names: tuple[str, ...], by_path: tuple[str, ...], skipped: dict[str, int]) -> None:
    """Stop before each of these calls for the tracer, which sees the call's place in `names`.

    Those that are also in `by_path` stop only with a path from the root or the current folder. The
    calls in `skipped` are not made; they return 0, or fail with that number.
    """
    stops = {name: _TRACE | place for place, name in enumerate(names)}
    _install(stops | {name: _ERRNO | number for name, number in skipped.items()}, by_path)

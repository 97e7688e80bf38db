"""System calls taken away from the calling process: they fail, or kill it."""

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
    },
    "aarch64": {
        "futex": 98, "futex_waitv": 449, "membarrier": 283, "read": 63, "write": 64, "ppoll": 73,
        "epoll_pwait": 22, "sched_yield": 124, "nanosleep": 101, "clock_nanosleep": 115,
        "openat": 56, "pidfd_open": 434, "mremap": 216,
    },
}  # fmt: skip

_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _MODE_FILTER = 22, 38, 2


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _install(names: tuple[str, ...], verdict: int) -> None:
    known = NUMBERS[os.uname().machine]
    code = [struct.pack("HBBI", _LOAD, 0, 0, 0)]  # the number of the call
    for name in names:
        if name in known:
            code.append(struct.pack("HBBI", _JUMP_IF_EQUAL, 0, 1, known[name]))
            code.append(struct.pack("HBBI", _RETURN, 0, 0, verdict))
    code.append(struct.pack("HBBI", _RETURN, 0, 0, _ALLOW))
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
    _install(names, _ERRNO | errno.EPERM)


def forbid(*names: str) -> None:
    """Make them kill the process."""
    _install(names, _KILL)

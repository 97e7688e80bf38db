"""Counts the instructions of the calling thread, where the kernel and the processor allow it."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

CALL = {"x86_64": 298, "aarch64": 241}  # the number of perf_event_open
SIZE = 64  # of the first version of struct perf_event_attr
HARDWARE, INSTRUCTIONS = 0, 1
USER_ONLY = 1 << 5 | 1 << 6  # exclude_kernel, exclude_hv


class Instructions:
    """A counter, from its creation; `why` says why there is none."""

    def __init__(self):
        self.fd, self.why = -1, None
        number = CALL.get(platform.machine())
        if number is None:
            self.why = f"not known for {platform.machine()}"
            return
        about = struct.pack("=IIQQQQQ", HARDWARE, SIZE, INSTRUCTIONS, 0, 0, 0, USER_ONLY)
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.syscall(number, about.ljust(SIZE, b"\0"), 0, -1, -1, 0)
        if self.fd < 0:
            self.why = os.strerror(ctypes.get_errno())

    def __call__(self):
        """Return the instructions so far, None if they are not counted."""
        return None if self.fd < 0 else int.from_bytes(os.read(self.fd, 8), "little")

    def close(self):
        """End the count."""
        if self.fd >= 0:
            os.close(self.fd)

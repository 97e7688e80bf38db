"""Sealed bytes: written once, and read by any number of processes."""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import TYPE_CHECKING

from .errors import FormatMismatch

if TYPE_CHECKING:
    from typing import Any, Self

    import numpy.typing

    from .array import Shape

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def sealed(data: Any) -> Sealed:
    """Copy a bytes-like object into memory that no process can change any more.

    The result pickles to other processes, which map the same memory. TypeError for what has no
    buffer, OSError if there is no memory for the copy.
    """
    view = memoryview(data).cast("B") if memoryview(data).c_contiguous else memoryview(bytes(data))
    fd = os.memfd_create("ipcheap-sealed", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        while len(view):
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        return Sealed(fd)
    finally:
        os.close(fd)


class Sealed:
    """Bytes in a memfd that is sealed against writing, growing, shrinking and unsealing.

    `Sealed(fd)` takes a descriptor that came another way, and keeps a duplicate of it;
    FormatMismatch if it does not have those seals. A context manager; views outlive `close()`.
    """

    def __init__(self, fd: int) -> None:
        try:
            seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        except OSError as reason:
            raise FormatMismatch(f"descriptor {fd} cannot be sealed: {reason.strerror}") from None
        if seals & _SEALS != _SEALS:
            raise FormatMismatch(f"descriptor {fd} is not sealed against every change")
        self._fd = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
        self._nbytes = os.fstat(self._fd).st_size
        if self._nbytes:
            # Private, because before Linux 6.7 sealed memory cannot be mapped in any shared way.
            self._memory: Any = mmap.mmap(
                self._fd, self._nbytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ
            )
        else:
            self._memory = b""  # nothing can be mapped

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return self._nbytes

    @property
    def view(self) -> memoryview:
        """The bytes, read-only."""
        return memoryview(self._memory)

    def array(
        self, dtype: numpy.typing.DTypeLike = "u1", shape: Shape | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a read-only NumPy array over the bytes, of this dtype and `shape`.

        Without `shape` it has one dimension. ValueError if the bytes are no such array, TypeError
        for a dtype that holds Python objects.
        """
        from .array import make_array

        array = make_array(self.view, dtype)
        return array if shape is None else array.reshape(shape)

    def fileno(self) -> int:
        """Return the descriptor, to be passed to another process; ValueError after `close()`."""
        if self._fd < 0:
            raise ValueError("the sealed bytes are closed")
        return self._fd

    def close(self) -> None:
        """Close the descriptor; views stay valid."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()

    def __len__(self) -> int:
        return self._nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        from multiprocessing import reduction  # here only, because its import is slow

        return _received, (reduction.DupFd(self.fileno()),)

    def __repr__(self) -> str:
        return f"<Sealed, {self._nbytes} bytes{', closed' if self._fd < 0 else ''}>"


def _received(passed: Any) -> Sealed:
    fd = passed.detach()
    try:
        return Sealed(fd)
    finally:
        os.close(fd)

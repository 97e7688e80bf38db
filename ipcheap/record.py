"""Records: what a user allocates, fills, sends, receives and frees."""

from __future__ import annotations

import math
import os
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from . import _native
from ._core import ffi, lib
from .errors import RecordError

if TYPE_CHECKING:
    import numpy
    import numpy.typing

    from ._arguments import ChannelId
    from ._core import CData
    from ._native import Handle

_free = lib.py_free
_usable = lib.py_usable
DEBUG = os.environ.get("IPCHEAP_DEBUG", "") not in ("", "0")


def _give_back(handle: Handle, endpoint: object, core: CData, _pointer: object) -> None:
    """Free a record whose last view has gone; `endpoint` is only to outlive this."""
    del endpoint
    _free(handle.pointer, core)
    handle.spare.append(core)


class Record:
    """A stretch of shared memory that travels by offset.

    A record is writable until it is sent and belongs to whoever received it until it is
    freed. `view` and `array()` alias the shared bytes; the block returns to the heap when
    the record is freed *and* the last of them is gone. One left to the garbage collector is
    freed. After `free()` or a send every further use raises `RecordError`.

    Records come from `allocate_record()` and `recv_record()`; `len(record)` and
    `record.nbytes` are its size in bytes, `bytes(record)` copies it.
    """

    __slots__ = ("__weakref__", "_buffer", "_channel", "_core", "_endpoint", "_fate", "_handle")

    def __init__(
        self,
        handle: Handle,
        core: CData,
        endpoint: CData | None = None,
        channel: ChannelId | None = None,
    ) -> None:
        self._handle = handle
        self._core: CData | None = core
        self._endpoint = endpoint  # of the consumer, for as long as it waits to be freed there
        self._channel = channel
        self._buffer: Any = None  # an ffi.buffer, which all views and arrays keep alive

    @property
    def nbytes(self) -> int:
        """Its size in bytes, as asked for."""
        return int(self._usable().core.nbytes)

    def __len__(self) -> int:
        return self.nbytes

    @property
    def view(self) -> memoryview:
        """A writable memoryview of its bytes; uninitialised after allocation."""
        return memoryview(self._buffer or self._export())

    def array(
        self, dtype: numpy.typing.DTypeLike = "u1", shape: int | tuple[int, ...] | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a NumPy array that aliases it.

        `shape` None makes it one-dimensional, and -1 in it is worked out; it may take less
        than the whole. Raises ValueError for a dtype that does not divide the record or a
        shape that does not fit, TypeError for one that holds Python objects.
        """
        return make_array(self._buffer or self._export(), self.nbytes, dtype, shape)

    def free(self) -> None:
        """Give it back; of a received one this acknowledges it."""
        core = self._core
        if core is None:
            raise self._gone("freed")
        if self._buffer is None:
            code = _free(self._handle.pointer, core)
            if code and code != lib.IPCHEAP_HEAP_BUSY:
                raise self._error(code)
            self._handle.spare.append(core)
        else:
            self._check_process(core)
            self._buffer = None  # whose finaliser frees the block
        self._core = None
        self._fate = "freed"

    def keep(self) -> None:
        """Take it out of the channel it came from, whose slot is then free again.

        It stays the caller's beyond the consumer's end. Does nothing for others.
        """
        code = lib.py_keep(self._handle.pointer, self._usable())
        if code:
            raise self._error(code)

    def __enter__(self) -> Self:
        self._usable()
        return self

    def __exit__(self, *_: object) -> None:
        if self._core is not None:
            self.free()

    def __del__(self) -> None:
        core = getattr(self, "_core", None)
        if core is not None and self._buffer is None:
            _free(self._handle.pointer, core)

    def __bytes__(self) -> bytes:
        return bytes(self._buffer or self._export())

    def __buffer__(self, flags: int, /) -> memoryview:
        return self.view

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return dict(self.array().__array_interface__)

    def __repr__(self) -> str:
        of = self._handle if self._channel is None else f"channel {self._channel!r}"
        if self._core is None:
            return f"<{type(self).__name__} of {of}, {self._fate}>"
        return f"<{type(self).__name__} of {of}, {self._core.core.nbytes} bytes>"

    # For producers ------------------------------------------------------------------------

    def _outgoing(self, handle: Handle) -> CData:
        """Return the core's record, to be sent on a channel of that heap."""
        core = self._core
        if core is None:
            raise self._gone("sent")
        if self._handle is not handle:
            raise RecordError(f"a record of {self._handle} cannot be sent in {handle}")
        if DEBUG and self._buffer is not None:
            self._check_no_views()
        return core

    def _sent(self) -> None:
        """Note that it has been sent: the views that there may be no longer keep it."""
        if self._buffer is not None:
            _exporters.pop(self._buffer).cancel()
            self._buffer = None
        core, self._core = self._core, None
        self._fate = "sent"
        self._handle.spare.append(core)  # type: ignore[arg-type]

    # Inside -------------------------------------------------------------------------------

    def _usable(self) -> CData:
        if self._core is None:
            raise self._gone("used")
        return self._core

"""Static segments: named memory that all participants map, and atomics on it."""

from __future__ import annotations

from functools import partial

from . import _arguments, _timing
from ._core import ffi, lib
from ._directory import key_of
from ._failures import error
from .array import make_array
from .channel import Channel, HeapMethods

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import numpy.typing

    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle
    from .heap import Heap


def _outlive(handle: Handle, pointer: object) -> None:
    """Do nothing: only to keep the mapping until then."""
    del handle, pointer


class StaticSegment(Channel, kind=lib.IPCHEAP_STATIC_SEGMENT):
    """A stretch of the heap that stays where it is, for all to read and write.

    Zero to begin with. `view`, arrays and atomics keep the mapping alive, also after
    `heap.close()`. `Event`, `Barrier` and `Lock` can be laid into it.
    """

    def __init__(self, heap: Heap, channel_id: ChannelId, entry: CData) -> None:
        super().__init__(heap, channel_id, entry)
        self._handle = handle = heap._directory.handle
        data = lib.ipcheap_static_data(handle.pointer, entry)
        if data == ffi.NULL:
            raise error(lib.IPCHEAP_CHANNEL_NOT_FOUND, handle, channel_id)
        self._data = ffi.gc(data, partial(_outlive, handle))
        self._buffer: Any = ffi.buffer(self._data, entry.shape)

    @property
    def nbytes(self) -> int:
        """Its size in bytes."""
        return int(self._entry.shape)

    def __len__(self) -> int:
        return self.nbytes

    @property
    def view(self) -> memoryview:
        """A writable memoryview of it."""
        return memoryview(self._buffer)

    def array(
        self, dtype: numpy.typing.DTypeLike = "u1", shape: int | tuple[int, ...] | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a NumPy array that aliases it, from its start on.

        `shape` None makes it one-dimensional and as long as the segment; another may take
        less than the whole. Raises ValueError for a dtype that does not divide the segment
        or a shape that is too large, TypeError for a dtype that holds Python objects.
        """
        array = make_array(self._buffer, dtype)
        if shape is None:
            return array
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        if -1 not in shape:
            size = 1
            for length in shape:
                size *= length
            if size <= len(array):
                array = array[:size]
        return array.reshape(shape)

    def atomic(self, offset: int, dtype: str = "u8") -> Atomic:
        """Return the cell at an offset, for atomic operations.

        `dtype` is "u4", "i4", "u8" or "i8"; the offset is in bytes. ValueError if it is not a
        multiple of the cell's size, or the cell not inside the segment.
        """
        return Atomic(self, offset, dtype)

    def _address(self, offset: int, nbytes: int, align: int, what: str) -> CData:
        """Return a pointer into the segment after a look at where it leads."""
        offset = _arguments.whole_number(offset, "offset")
        if offset < 0 or offset + nbytes > self.nbytes:
            raise ValueError(
                f"{what} of {nbytes} bytes at offset {offset} is not inside the {self.nbytes} "
                f"bytes of {self!r}"
            )
        if offset % align:
            raise ValueError(f"{what} must be at a multiple of {align} bytes, not at {offset}")
        return ffi.cast("char *", self._data) + offset

    def __buffer__(self, flags: int, /) -> memoryview:
        return self.view

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return dict(self.array().__array_interface__)

    def __repr__(self) -> str:
        return f"<StaticSegment {self._id!r} of {self._heap.label}, {self.nbytes} bytes>"

    @classmethod
    def _is_ready(cls, handle: Handle, entry: CData) -> bool:
        """Whether it has been initialised."""
        return bool(lib.ipcheap_static_data(handle.pointer, entry) != ffi.NULL)

    @classmethod
    def _describe(cls, entry: CData) -> str:
        return f"a static segment of {entry.shape} bytes"


class StaticMethods(HeapMethods):
    """What `Heap` offers of static segments."""

    def add_static_segment(
        self,
        id: ChannelId,
        nbytes: int | None = None,
        init: Callable[[memoryview], object] | None = None,
    ) -> StaticSegment:
        """Add a segment of `nbytes` zero bytes, or take the one of that size that is there.

        `init(view)` runs once, before anybody else gets the segment; if it raises, that
        comes out here and the next one who adds the segment runs theirs. Without `nbytes`
        a segment that is there is taken whatever its size. ChannelTypeError when the size
        differs or the ID is that of a channel, ChannelNotFound when there is none and no size
        is given, HeapFull when there is no room.
        """
        channel_id = _arguments.channel_id(id)
        size = 0 if nbytes is None else _arguments.count(nbytes, "nbytes", least=1)
        directory, key = self._directory, key_of(channel_id)
        handle, entry = directory.handle, ffi.new("ipcheap_channel *")

        def attempt() -> int:
            return int(lib.py_add_static_segment(handle.pointer, key, size, entry))

        code = directory.repeat(attempt, (lib.IPCHEAP_WOULD_BLOCK,), float("inf"))
        wanted = "not a static segment" + (f" of {size} bytes" if size else "")
        if directory.check(code, channel_id, asked=size, wanted=wanted) == 0:
            return StaticSegment(self._this_heap(), channel_id, entry)
        try:
            segment = StaticSegment(self._this_heap(), channel_id, entry)
            if init is not None:
                init(segment.view)
        except BaseException:
            lib.py_static_ready(handle.pointer, entry, 0)
            raise
        directory.check(lib.py_static_ready(handle.pointer, entry, 1), channel_id)
        return segment


_WIDTHS = {"u4": (4, False), "i4": (4, True), "u8": (8, False), "i8": (8, True)}


class Atomic:
    """A cell of 4 or 8 bytes that many processes may change at once.

    All operations are sequentially consistent. Arithmetic wraps around; a value to be
    stored or compared that the cell cannot hold is a ValueError.
    """

    __slots__ = ("_address", "_dtype", "_high", "_low", "_mask", "_segment", "_width")

    def __init__(self, segment: StaticSegment, offset: int, dtype: str = "u8") -> None:
        if str(dtype).lstrip("<=") not in _WIDTHS:
            name = getattr(dtype, "__name__", None) or str(dtype)
            raise ValueError(f"dtype must be one of 'u4', 'i4', 'u8', 'i8', not {name!r}")
        self._dtype = str(dtype).lstrip("<=")
        self._width, signed = _WIDTHS[self._dtype]
        self._address = segment._address(offset, self._width, self._width, "an atomic cell")
        self._segment = segment
        span = 1 << (8 * self._width)
        self._mask = span - 1
        self._low = -span // 2 if signed else 0
        self._high = self._low + span

    def load(self) -> int:
        """Return the value."""
        return self._result(lib.py_atomic_load(self._address, self._width))

    def store(self, value: int) -> None:
        """Set the value."""
        lib.py_atomic_store(self._address, self._width, self._operand(value))

    def exchange(self, value: int) -> int:
        """Set the value and return what it was."""
        operand = self._operand(value)
        return self._result(lib.py_atomic_exchange(self._address, self._width, operand))

    def compare_exchange(self, expected: int, desired: int) -> bool:
        """Set the value to `desired` if it is `expected`; return whether it was."""
        return bool(
            lib.py_atomic_compare_exchange(
                self._address, self._width, self._operand(expected), self._operand(desired)
            )
        )

    def fetch_add(self, operand: int = 1) -> int:
        """Add to the value, wrapping around; return what it was."""
        operand = self._wrapped(operand)
        return self._result(lib.py_atomic_fetch_add(self._address, self._width, operand))

    def fetch_sub(self, operand: int = 1) -> int:
        """Subtract from the value, wrapping around; return what it was."""
        operand = self._wrapped(operand)
        return self._result(lib.py_atomic_fetch_sub(self._address, self._width, operand))

    def fetch_and(self, operand: int) -> int:
        """Keep only the bits of the operand; return what the value was."""
        operand = self._wrapped(operand)
        return self._result(lib.py_atomic_fetch_and(self._address, self._width, operand))

    def fetch_or(self, operand: int) -> int:
        """Set the bits of the operand; return what the value was."""
        operand = self._wrapped(operand)
        return self._result(lib.py_atomic_fetch_or(self._address, self._width, operand))

    def fetch_xor(self, operand: int) -> int:
        """Turn over the bits of the operand; return what the value was."""
        operand = self._wrapped(operand)
        return self._result(lib.py_atomic_fetch_xor(self._address, self._width, operand))

    def wait(self, expected: int, timeout: float | None = None) -> bool:
        """Sleep while the value is `expected`; return False if it is so for `timeout` seconds.

        Who changes the value must `notify()`. Of 8-byte cells a change of the low half
        wakes; one of the high half alone may be noticed late.
        """
        operand = self._operand(expected)
        pointer = self._segment._handle.pointer

        def step(nanoseconds: int) -> int:
            if lib.py_atomic_load(self._address, self._width) != operand:
                return 0
            code = lib.py_word_wait(pointer, self._address, operand, self._width, nanoseconds)
            if code == 0 and lib.py_atomic_load(self._address, self._width) == operand:
                return int(lib.IPCHEAP_INTERRUPTED)  # woken for nothing: look again
            return int(code)

        code = _timing.sleep(step, _timing.deadline_of(timeout))
        if code not in (0, lib.IPCHEAP_TIMED_OUT):
            raise error(code, self._segment._handle, self._segment.id)
        return code == 0 or lib.py_atomic_load(self._address, self._width) != operand

    def notify(self, n: int = 1) -> int:
        """Wake up to `n` who wait on the cell; return how many were woken."""
        n = min(_arguments.count(n, "n"), 2**31 - 1)
        return int(lib.ipcheap_word_wake(self._address, n)) if n else 0  # the kernel wakes one

    def __repr__(self) -> str:
        return f"<Atomic {self._dtype} in {self._segment!r}: {self.load()}>"

    def _wrapped(self, value: int) -> int:
        return _arguments.whole_number(value, "an operand") & self._mask

    def _operand(self, value: int) -> int:
        value = _arguments.whole_number(value, "the value of a cell")
        if not self._low <= value < self._high:
            raise ValueError(f"{value} does not fit into a cell of dtype {self._dtype!r}")
        return value & self._mask

    def _result(self, raw: int) -> int:
        return raw if raw < self._high else raw - self._mask - 1

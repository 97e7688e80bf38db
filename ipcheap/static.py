"""Static segments: named memory that all participants share, and atomics on it."""

from __future__ import annotations

from _thread import get_ident

from . import _arguments, _timing, errors
from ._core import ffi, lib
from ._directory import key_of
from ._failures import error, holder_text
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


# What each thread is initialising at the moment, by the thread's number.
_initialising: dict[int, list[ChannelId]] = {}


def _hold(handle: Handle, channel_id: ChannelId, entry: CData) -> CData:
    """Return a pointer to a segment's bytes. While it lives, this process is one of the users."""
    place = ffi.new("void **")
    pointer = handle.pointer
    code = lib.py_static_hold(pointer, entry, place)
    if code:
        raise error(code, handle, channel_id)

    let_go = lib.py_static_release  # the module may have gone by then

    def release(_: CData) -> None:
        let_go(pointer, entry)

    return ffi.gc(place[0], release)


class StaticSegment(Channel, kind=lib.IPCHEAP_STATIC_SEGMENT):
    """A part of the heap at a fixed place, which all participants read and write.

    Its bytes are zero at first. `view`, arrays and atomics stay valid after `heap.close()`, and
    after the segment has been removed. `Event`, `Barrier` and `Lock` can be placed in it.
    """

    def __init__(self, heap: Heap, channel_id: ChannelId, entry: CData) -> None:
        super().__init__(heap, channel_id, entry)
        self._handle = handle = heap._directory.handle
        self._data = _hold(handle, channel_id, entry)
        self._buffer: Any = ffi.buffer(self._data, entry.shape)

    @property
    def nbytes(self) -> int:
        """The size in bytes."""
        return int(self._entry.shape)

    def __len__(self) -> int:
        return self.nbytes

    @property
    def view(self) -> memoryview:
        """A writable memoryview of the segment."""
        return memoryview(self._buffer)

    def array(
        self, dtype: numpy.typing.DTypeLike = "u1", shape: int | tuple[int, ...] | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a NumPy array that aliases the segment from its beginning.

        With `shape` None the array has one dimension and the size of the segment; another shape may
        use a part of the segment. ValueError if the segment is no whole number of items of the
        dtype, or if the shape is too large; TypeError for a dtype that holds Python objects.
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
        """Return the cell at an offset in bytes, for atomic operations.

        `dtype` is "u4", "i4", "u8" or "i8". ValueError if the offset is not a multiple of the
        cell's size, or if the cell is not inside the segment.
        """
        return Atomic(self, offset, dtype)

    def _address(self, offset: int, nbytes: int, align: int, what: str) -> CData:
        """Return a pointer into the segment; ValueError if it would be outside or misaligned."""
        offset = _arguments.whole_number(offset, "offset")
        if offset < 0 or offset + nbytes > self.nbytes:
            raise ValueError(
                f"{what} of {nbytes} bytes at offset {offset} is not inside the {self.nbytes} "
                f"bytes of {self!r}"
            )
        if offset % align:
            raise ValueError(f"{what} must be at a multiple of {align} bytes, not at {offset}")
        return ffi.cast("char *", self._data) + offset

    def _is_removed(self) -> bool:
        """Whether the segment has been removed from the heap since."""
        return bool(lib.ipcheap_static_removed(self._handle.pointer, self._entry))

    def _while_there(self, step: Callable[[int], int]) -> Callable[[int], int]:
        """Return a step of a wait that reports CHANNEL_NOT_FOUND once the segment is removed."""

        def look(nanoseconds: int) -> int:
            code = step(nanoseconds)
            if code == lib.IPCHEAP_TIMED_OUT and self._is_removed():
                return int(lib.IPCHEAP_CHANNEL_NOT_FOUND)
            return code

        return look

    def _wait_error(self, code: int) -> Exception:
        """Return the exception for a wait on something in the segment."""
        if code == lib.IPCHEAP_CHANNEL_NOT_FOUND:
            return errors.ChannelNotFound(
                f"channel {self._id!r} of {self._handle} has been removed; its memory is valid as "
                "long as this process uses it, but there is nothing to wait for"
            )
        return error(code, self._handle, self._id)

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
    """The methods of `Heap` for static segments."""

    def add_static_segment(
        self,
        id: ChannelId,
        nbytes: int | None = None,
        init: Callable[[memoryview], object] | None = None,
    ) -> StaticSegment:
        """Add a segment of `nbytes` zero bytes, or return the existing one.

        `init(view)` runs once, before any other participant gets the segment. If it raises, the
        exception propagates, and the next call that adds the segment runs its own `init`. Without
        `nbytes` an existing segment is returned whatever its size. ChannelTypeError if the size
        differs or the ID belongs to a record channel; ChannelNotFound if there is no segment and no
        size is given; HeapFull if there is no room. ChannelBusy if `init` adds the segment that it
        initialises, or waits 10 s for the initialiser of another one.
        """
        channel_id = _arguments.channel_id(id)
        size = 0 if nbytes is None else _arguments.count(nbytes, "nbytes", least=1)
        directory, key = self._directory, key_of(channel_id)
        handle, entry = directory.handle, ffi.new("ipcheap_channel *")

        def attempt() -> int:
            return int(lib.py_add_static_segment(handle.pointer, key, size, entry))

        mine = _initialising.get(get_ident(), [])
        deadline = _timing.deadline_of(_timing.INITIALISER_PATIENCE if mine else None)
        code = directory.repeat(attempt, (lib.IPCHEAP_WOULD_BLOCK,), deadline)
        if code in (lib.IPCHEAP_CHANNEL_BUSY, lib.IPCHEAP_WOULD_BLOCK):
            raise _initialiser_waits(handle, channel_id, entry, mine)
        wanted = "not a static segment" + (f" of {size} bytes" if size else "")
        if directory.check(code, channel_id, asked=size, wanted=wanted) == 0:
            return StaticSegment(self._this_heap(), channel_id, entry)
        try:
            segment = StaticSegment(self._this_heap(), channel_id, entry)
            if init is not None:
                _initialise(segment, init)
        except BaseException:
            lib.py_static_ready(handle.pointer, entry, 0)
            raise
        directory.check(lib.py_static_ready(handle.pointer, entry, 1), channel_id)
        return segment


def _initialise(segment: StaticSegment, init: Callable[[memoryview], object]) -> None:
    """Run an initialiser, noting that this thread does."""
    thread = get_ident()
    mine = _initialising.setdefault(thread, [])
    mine.append(segment.id)
    try:
        init(segment.view)
    finally:
        mine.pop()
        if not mine:
            del _initialising[thread]


def _initialiser_waits(
    handle: Handle, channel_id: ChannelId, entry: CData, mine: list[ChannelId]
) -> Exception:
    """Return the exception for an initialiser that would wait for itself, or for another one."""
    holder = ffi.new("ipcheap_holder *")
    other = lib.ipcheap_static_initialiser(handle.pointer, entry, holder) == 1
    if not mine or (other and holder.ours and channel_id in mine):
        text = "its own initialiser adds it; use the view that the initialiser is given"
    else:
        by = holder_text(holder) if other else "another participant"
        text = (
            f"it has been initialised by {by} for {_timing.INITIALISER_PATIENCE:.0f} s, while this "
            f"thread initialises {mine[-1]!r}; if each of the two needs the other one's segment, "
            "add them one after the other instead"
        )
    return error(lib.IPCHEAP_CHANNEL_BUSY, handle, channel_id, holder=text)


_WIDTHS = {"u4": (4, False), "i4": (4, True), "u8": (8, False), "i8": (8, True)}


class Atomic:
    """A cell of 4 or 8 bytes that many processes may change concurrently.

    All operations are sequentially consistent. Arithmetic wraps around. ValueError for a value to
    store or compare that does not fit into the cell.
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
        """Set the value and return the previous one."""
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
        """Add to the value, wrapping around; return the previous value."""
        operand = self._wrapped(operand)
        return self._result(lib.py_atomic_fetch_add(self._address, self._width, operand))

    def fetch_sub(self, operand: int = 1) -> int:
        """Subtract from the value, wrapping around; return the previous value."""
        operand = self._wrapped(operand)
        return self._result(lib.py_atomic_fetch_sub(self._address, self._width, operand))

    def fetch_and(self, operand: int) -> int:
        """Clear all bits that the operand lacks; return the previous value."""
        operand = self._wrapped(operand)
        return self._result(lib.py_atomic_fetch_and(self._address, self._width, operand))

    def fetch_or(self, operand: int) -> int:
        """Set the bits of the operand; return the previous value."""
        operand = self._wrapped(operand)
        return self._result(lib.py_atomic_fetch_or(self._address, self._width, operand))

    def fetch_xor(self, operand: int) -> int:
        """Flip the bits of the operand; return the previous value."""
        operand = self._wrapped(operand)
        return self._result(lib.py_atomic_fetch_xor(self._address, self._width, operand))

    def wait(self, expected: int, timeout: float | None = None) -> bool:
        """Sleep while the value is `expected`; return False if that lasts `timeout` seconds.

        None waits indefinitely. A participant that changes the value must call `notify()`. In an
        8-byte cell a change of the low half wakes waiters; a change of the high half alone may be
        noticed late. ChannelNotFound if the segment has been removed.
        """
        operand = self._operand(expected)
        pointer = self._segment._handle.pointer

        def step(nanoseconds: int) -> int:
            if lib.py_atomic_load(self._address, self._width) != operand:
                return 0
            code = lib.py_word_wait(pointer, self._address, operand, self._width, nanoseconds)
            if code == 0 and lib.py_atomic_load(self._address, self._width) == operand:
                return int(lib.IPCHEAP_INTERRUPTED)  # a spurious wake-up: look again
            return int(code)

        look = self._segment._while_there(step)
        code = _timing.sleep(look, _timing.deadline_of(timeout))
        if code not in (0, lib.IPCHEAP_TIMED_OUT):
            raise self._segment._wait_error(code)
        return code == 0 or lib.py_atomic_load(self._address, self._width) != operand

    def notify(self, n: int = 1) -> int:
        """Wake up to `n` waiters of the cell; return how many were woken."""
        n = min(_arguments.count(n, "n"), 2**31 - 1)
        return (
            int(lib.ipcheap_word_wake(self._address, n)) if n else 0
        )  # for 0 the kernel would wake one

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

"""Items: what kernels are given and give, and the records that carry them."""

from __future__ import annotations

import os
import pickle
import sys
import weakref
from typing import TYPE_CHECKING, Any

from ipcheap import HeapFull, Record

from .here import here

if TYPE_CHECKING:
    import numpy.typing

    from ipcheap import Producer

# With IPCHEAP_DEBUG a record that has views cannot be sent, so arrays are copied.
_COPIES = os.environ.get("IPCHEAP_DEBUG", "") not in ("", "0")
# What is sent as an object whatever is in it.
_OBJECTS = frozenset((int, float, str, bool, complex, tuple, list, dict, set, frozenset))
# Equal if they are the same, and nobody can have changed them: a record of one may go on.
_CONSTANT = (bytes, str, int, float, bool, complex)


class _ReadOnly:
    """The pickle codec, whose arrays cannot be written to."""

    def encode(self, obj: Any, /) -> list[Any]:
        raise NotImplementedError  # records are sent by the default codec, whose form this reads

    def decode(self, pieces: list[memoryview], /) -> Any:
        return pickle.loads(pieces[0], buffers=[piece.toreadonly() for piece in pieces[1:]])

    decode_one = staticmethod(pickle.loads)


_READ_ONLY: Any = _ReadOnly()


def is_mark(record: Record) -> bool:
    """Whether a record ends a turn, or stands for a turn without an item."""
    return not record.nbytes and record.form == "bytes"


def item_of(record: Record, wanted: type | None, inplace: bool) -> Any:
    """Return the item in a record: a view of its memory, except for bytes."""
    if wanted is Record:
        return record
    if wanted is memoryview:
        return record.view if inplace else record.view.toreadonly()
    form = record.form
    if form == "array":
        array = record.array()
        if not inplace:
            array.setflags(write=False)
        return array
    if form == "bytes":
        return bytes(record)
    return record.object() if inplace else record.object(codec=_READ_ONLY)


def copied(item: Any) -> Any:
    """Return an item that does not need its record: arrays and records are copied."""
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(item, numpy.ndarray):
        return item.copy()
    if isinstance(item, Record):
        return bytes(item)
    if isinstance(item, _CONSTANT):
        return item
    return pickle.loads(pickle.dumps(item, 5))


def goes_on(value: Any, item: Any) -> bool:
    """Whether the record of `item` may be sent for `value`, the very object that was received."""
    if value is not item:
        return False
    if isinstance(value, (*_CONSTANT, Record)):
        return True
    if isinstance(value, memoryview):
        return not _COPIES
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray or _COPIES:
        return False  # an object may have been changed
    base = value.base
    return base is not None and value.nbytes == memoryview(base).nbytes


def apart(item: Any) -> Any:
    """Return what to send for an item whose record stays where it is."""
    return item_of(item, None, False) if isinstance(item, Record) else item


def send(producer: Producer, value: Any, timeout: float | None = None, lends: bool = True) -> None:
    """Send an item by a record of its own.

    That of an array of `empty()`, and a record, is sent itself, unless others are to get it, too.
    """
    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
    lent = _lent.get(id(value))
    if lent is not None and lends and _send_lent(producer, value, lent, timeout):
        return
    if kind in _OBJECTS:
        producer.send_object(value, timeout)
    elif kind is bytes:
        if value:
            producer.send(value, timeout)
        else:
            producer.send_object(value, timeout)  # a mark has no bytes
    elif kind is bytearray or kind is memoryview:
        send(producer, bytes(value), timeout)
    elif isinstance(value, Record):
        if not lends:
            send(producer, apart(value), timeout, False)
        elif value.nbytes or value.form != "bytes":
            producer.send_record(value, timeout)
        else:
            producer.send_object(b"", timeout)
    elif not _send_array(producer, value, timeout):
        producer.send_object(value, timeout)


def _send_array(producer: Producer, value: Any, timeout: float | None) -> bool:
    """Send an array without Python objects; return False for anything else."""
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray or value.dtype.hasobject:
        return False
    try:
        record = producer.allocate_array(value.shape, value.dtype)
    except TypeError:
        return False  # a dtype without a description
    try:
        if value.flags.c_contiguous and value.ndim and value.nbytes and value.dtype.kind in "biufc":
            record[:] = value
        else:
            record.array()[...] = value
        producer.send_record(record, timeout)
    except BaseException:
        record.free()
        raise
    return True


# Arrays in the heap -------------------------------------------------------------------------


class _Lent(weakref.ref[Any]):
    """An array that empty() has made, and its record; None if it was sent."""

    __slots__ = ("number", "record")

    number: int
    record: Record | None


_lent: dict[int, _Lent] = {}  # by the id of the array


def _forget(lent: Any, found: dict[int, _Lent] = _lent) -> None:
    found.pop(lent.number, None)


def _send_lent(producer: Producer, array: Any, lent: _Lent, timeout: float | None) -> bool:
    """Send an array of empty() by its own record; return False if it must be copied."""
    record = lent.record
    if record is None:
        raise ValueError("an array of empty() can be sent once: its receiver may have changed it")
    try:
        producer.send_record(record, timeout)
    except BufferError:  # IPCHEAP_DEBUG reports views, and the array is one
        del _lent[lent.number]
        return False
    array.setflags(write=False)
    lent.record = None
    return True


def numpy_module() -> Any:
    """Return NumPy; ImportError if it is not installed."""
    try:
        import numpy
    except ModuleNotFoundError:
        raise ImportError("arrays need NumPy: pip install numpy") from None
    return numpy


def empty(
    shape: int | tuple[int, ...], dtype: numpy.typing.DTypeLike = "f8", order: Any = "C"
) -> numpy.typing.NDArray[Any]:
    """Return a new array of `shape` and dtype in the heap of the graph, sent without a copy.

    It must be returned or yielded as it is: a part of it is copied. Its items are not initialised.
    Outside of a graph it is that of `numpy.empty`, so that a kernel can be tested alone. HeapFull
    if there is no room.
    """
    now = here()
    if now is None or not now._allocators or _COPIES:  # a sink sends nothing
        return numpy_module().empty(shape, dtype, order)  # type: ignore[no-any-return]
    allocate = now._allocators[0].allocate_array
    try:
        made = allocate(shape, dtype, order=order)
    except HeapFull:
        made = now._room(lambda: allocate(shape, dtype, order=order))
    array = made.array()
    lent = _Lent(array, _forget)
    lent.number, lent.record = id(array), made
    _lent[lent.number] = lent
    return array

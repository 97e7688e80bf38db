"""Items: what kernels are given and give, and the records that carry them."""

from __future__ import annotations

import pickle
import sys
import weakref
from typing import TYPE_CHECKING, Any

from ipcheap import Record

from .here import here

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing

    from ipcheap import Producer

# Equal if they are the same, and nobody can have changed them: a record of one may go on.
_CONSTANT = (bytes, str, int, float, bool, complex)


class _ReadOnly:
    """The pickle codec, whose arrays cannot be written to."""

    def encode(self, obj: Any, /) -> list[Any]:
        raise NotImplementedError  # records are sent by the default codec, whose form this reads

    def decode(self, pieces: list[memoryview], /) -> Any:
        return pickle.loads(pieces[0], buffers=[piece.toreadonly() for piece in pieces[1:]])


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
    if form == "bytes":
        return bytes(record)
    if form == "array":
        array = record.array()
        if not inplace:
            array.flags.writeable = False
        return array
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
    if isinstance(value, (*_CONSTANT, Record, memoryview)):
        return True
    numpy = sys.modules.get("numpy")
    if numpy is None or type(value) is not numpy.ndarray:
        return False  # an object may have been changed
    base = value.base
    return base is not None and value.nbytes == memoryview(base).nbytes


def send(producer: Producer, value: Any, timeout: float | None) -> None:
    """Send an item by a record of its own."""
    kind = type(value)
    if kind is bytes:
        if value:
            producer.send(value, timeout)
        else:
            producer.send_object(value, timeout)  # a mark has no bytes
    elif kind is bytearray or kind is memoryview:
        send(producer, bytes(value), timeout)
    elif isinstance(value, Record):
        if value.nbytes or value.form != "bytes":
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
    lent = _lent.pop(id(value), None)
    if lent is not None:
        record = lent[1]
        try:
            producer.send_record(record, timeout)
        except BufferError:  # reported, as IPCHEAP_DEBUG asks for, of views: but it is not changed
            pass
        except BaseException:
            _lent[id(value)] = lent
            raise
        else:
            value.flags.writeable = False
            return True
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

# The records of arrays that empty() has made and that were not sent.
_lent: dict[int, tuple[weakref.ref[Any], Record]] = {}


def empty(
    shape: int | tuple[int, ...], dtype: numpy.typing.DTypeLike = "f8", order: Any = "C"
) -> numpy.typing.NDArray[Any]:
    """Return a new array in the heap of the graph, which is sent without a copy.

    It must be returned or yielded as it is: a part of it is copied. Its items are not initialised.
    Outside of a graph it is that of `numpy.empty`, so that a kernel can be tested alone. HeapFull
    if there is no room.
    """
    import numpy as np

    now = here()
    if now is None or not now._allocators:  # a sink sends nothing
        return np.empty(shape, dtype, order)
    made = now._room(lambda: now._allocators[0].allocate_array(shape, dtype, order=order))
    array = made.array()
    number = id(array)
    reference = weakref.ref(array, _forgetter(number))
    _lent[number] = reference, made
    return array


def _forgetter(number: int, lent: dict[int, Any] = _lent) -> Callable[[object], None]:
    return lambda _: lent.pop(number, None)

"""The sending side of a record channel."""

from __future__ import annotations

from . import _arguments, _timing
from ._core import lib
from ._endpoint import FAIR, RecordEndpoint
from ._native import address
from ._types import ProducerCore
from .errors import RecordError
from .objects import PICKLE, encode
from .record import (
    OF_THE_RECORD,
    Record,
    allocate_array,
    allocate_described,
    allocate_packed,
    packed,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable
    from typing import Any, ClassVar, NoReturn, TypeAlias

    import numpy.typing

    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle
    from .array import Shape
    from .codec import Codec

    BytesLike: TypeAlias = Any  # bytes, bytearray, memoryview, a C-contiguous ndarray, ...

_WOULD_BLOCK = lib.IPCHEAP_WOULD_BLOCK


class Producer(RecordEndpoint, ProducerCore):
    """The sending side of a record channel; see `Heap.producer`.

    A send waits `timeout` seconds for room in the ring, None indefinitely. It either hands the
    record over and returns, or raises and leaves everything as it was: `TimeoutError` if there was
    no room, `ChannelClosed` or `PeerDied` if it would have to wait for a consumer that has closed
    or died. `send_many` and `send_records` send everything, or raise an exception whose attribute
    `done` says how many were sent; the rest is still the caller's. What was sent stays until it is
    received or the channel is removed, whatever becomes of the producer.
    """

    _side: ClassVar[str] = "producer"
    _stalled: ClassVar[str] = "there was no room in the ring"

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData) -> None:
        super().__init__(handle, channel, pointer)
        self._bind(address(pointer), handle, handle)

    # allocate_record(), send_record() and the other methods on the path of a message are in C: see
    # _types.py.

    def allocate_records(self, nbytes: int, count: int) -> list[Record]:
        """Return `count` new records of `nbytes` bytes; HeapFull if there is no room for all."""
        return self._handle.allocate_many(nbytes, _arguments.count(count, "count"))

    def allocate_array(
        self, shape: Shape, dtype: numpy.typing.DTypeLike, *, order: str = "C"
    ) -> Record:
        """Return a new record whose `array()` has this shape and dtype, also for its receiver.

        The items are not initialised. `order` is "C" or "F". HeapFull if there is no room,
        ValueError for a `shape` or dtype that no array can have, TypeError for a dtype that holds
        Python objects.
        """
        return allocate_array(self._handle, shape, dtype, order)

    def allocate_described(self, description: bytes, nbytes: int) -> Record:
        """Return a new record of the form that `Record.describe()` returned, also for its receiver.

        Its bytes are not initialised; fill them with those of the record that was described. It is
        how a record is carried to another heap without looking into it. HeapFull if there is no
        room, ValueError for a description that is not one of a record of `nbytes` bytes.
        """
        return allocate_described(self._handle, description, nbytes)

    def loan(
        self,
        shape: Shape,
        dtype: numpy.typing.DTypeLike,
        timeout: float | None = None,
        *,
        order: str = "C",
    ) -> contextlib.AbstractContextManager[numpy.typing.NDArray[Any]]:
        """Return a context manager that yields an array, and sends it when the block ends.

        The array has this `shape` and dtype, and its items are not initialised. If the block
        raises, the array is freed instead. Sending waits `timeout` seconds for room in the ring,
        None indefinitely, and raises as `send_record` does. An array that was not sent is freed;
        one that was sent becomes read-only.
        """
        return Loan(self._handle, (shape, dtype, order), lambda r: self.send_record(r, timeout))

    async def asend_record(self, record: Record) -> None:
        """Send a record as soon as there is room: `send_record()` for asyncio.

        A call that is cancelled has sent nothing. `asyncio.timeout()` limits the wait.
        """
        code = self._sendable(record)
        if code:
            raise self._not_sent(code, record)
        await self._soon(lambda: self._try(record))

    async def asend(self, data: BytesLike) -> None:
        """Send a copy of a bytes-like object as soon as there is room: `send()` for asyncio."""
        await self._soon(lambda: self._try_bytes(data))

    def send_object(self, obj: Any, timeout: float | None = None, *, codec: Codec = PICKLE) -> None:
        """Send an object, encoded by `codec`: by default as a pickle.

        The buffers of arrays in the object are copied once, directly into the record. Waits
        `timeout` seconds for room in the ring, None indefinitely. HeapFull if there is no room for
        the copy. An exception of the codec propagates, with a note of the channel.
        """
        pieces = encode(codec, obj, "sent by", self)
        unsent = self._send_packed(pieces)
        if unsent is None:
            return
        record = packed(self._handle, unsent, pieces)
        try:
            self.send_record(record, timeout)
        finally:
            record._done_with()

    async def asend_object(self, obj: Any, *, codec: Codec = PICKLE) -> None:
        """Send an object as soon as there is room: `send_object()` for asyncio."""
        record = allocate_packed(self._handle, encode(codec, obj, "sent by", self))
        try:
            await self.asend_record(record)
        finally:
            record._done_with()

    # Inside -------------------------------------------------------------------------------

    async def _soon(self, attempt: Callable[[], int]) -> None:
        self._turns += 1
        if self._turns % FAIR == 0:
            await self._give_way()
        code = attempt()
        if code:
            await self._eventually(attempt, code)

    def _try(self, record: Record) -> int:
        code = self._attempt(record)
        if code not in (0, _WOULD_BLOCK):
            raise self._not_sent(code, record)
        return code

    def _try_bytes(self, data: BytesLike) -> int:
        code = self._attempt_bytes(data)
        if code not in (0, _WOULD_BLOCK):
            raise self._refusal(code, data)
        return code

    def _send_when_ready(self, code: int, record: Record, timeout: float | None) -> None:
        if code != _WOULD_BLOCK:
            raise self._not_sent(code, record)
        self._insist(lambda: self._try(record), timeout)

    def _send_later(self, code: int, data: BytesLike, timeout: float | None) -> None:
        if code != _WOULD_BLOCK:
            raise self._refusal(code, data)
        self._insist(lambda: self._try_bytes(data), timeout)

    def _await_room(
        self, code: int, record: Record, timeout: float | None, deadline: float | None
    ) -> float:
        if code != _WOULD_BLOCK:
            raise self._not_sent(code, record)
        return self._await_side(timeout, deadline)

    def _await_room_for_bytes(
        self, code: int, data: BytesLike, timeout: float | None, deadline: float | None
    ) -> float:
        if code != _WOULD_BLOCK:
            raise self._refusal(code, data)
        return self._await_side(timeout, deadline)

    def _await_side(self, timeout: float | None, deadline: float | None) -> float:
        """Wait until there may be room; return the deadline, which the first wait sets."""
        if deadline is None:
            deadline = _timing.deadline_of(timeout)
        code = self._wait(deadline)
        if code:
            raise self._error(code, doing=self._stalled)
        return deadline

    def _error(self, code: int, doing: str = "not done", asked: int | None = None) -> Exception:
        if code == lib.IPCHEAP_TIMED_OUT and doing == self._stalled:
            numbers = self._numbers()
            if numbers.sent - numbers.received < numbers.capacity:
                doing = (
                    f"{doing}, because the consumer holds the oldest record that it has received,"
                )
        return super()._error(code, doing, asked)

    def _refuse(self, code: int, record: Record) -> NoReturn:
        raise self._not_sent(code, record)

    def _not_sent(self, code: int, record: Record) -> Exception:
        if code == lib.PY_TWICE:
            return RecordError("a record is in the list more than once: it would be sent twice")
        if code == lib.PY_NOT_A_RECORD:
            return TypeError(f"this call sends a Record, not {type(record).__name__}")
        if code in OF_THE_RECORD:
            return record._refusal(code, "sent")
        if code == lib.IPCHEAP_RECORD and record._source.handle is not self._handle:
            return RecordError(
                f"{record!r} cannot be sent in another heap, {self._handle}: send its bytes"
            )
        return self._error(code)

    def _refusal(self, code: int, data: BytesLike) -> Exception:
        refused = no_bytes(code, data, "send")
        if refused is not None:
            return refused
        asked = memoryview(data).nbytes if code in _ABOUT_SIZE else None
        return self._error(code, asked=asked)


class Loan:
    """An array that is sent when a block ends; see `Producer.loan` and `Bus.loan`."""

    __slots__ = ("_array", "_handle", "_record", "_send", "_what")

    _array: numpy.typing.NDArray[Any]
    _record: Record

    def __init__(
        self,
        handle: Handle,
        what: tuple[Shape, numpy.typing.DTypeLike, str],
        send: Callable[[Record], object],
    ) -> None:
        self._handle = handle
        self._what = what
        self._send = send

    def __enter__(self) -> numpy.typing.NDArray[Any]:
        shape, dtype, order = self._what
        self._record = record = allocate_array(self._handle, shape, dtype, order)
        self._array = record._lend()
        return self._array

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._send(self._record)
                self._array.flags.writeable = False
        finally:
            del self._array
            self._record._done_with()


def no_bytes(code: int, data: BytesLike, verb: str) -> Exception | None:
    """Return why an object's bytes cannot be sent; None if the code is about something else."""
    name = type(data).__name__
    if code == lib.PY_OBJECTS:
        return TypeError(
            f"the {name} holds Python objects, whose addresses mean nothing to another "
            f"process: try {verb}_object()"
        )
    if code != lib.PY_NOT_BYTES:
        return None
    try:
        memoryview(data)
    except TypeError:
        return TypeError(f"this call {verb}s bytes-like objects, not {name}: try {verb}_object()")
    return ValueError(f"the bytes of a {name} are not in one piece: {verb} a copy")


_ABOUT_SIZE = (lib.IPCHEAP_HEAP_FULL, lib.IPCHEAP_MEMORY_FULL, lib.IPCHEAP_NO_MEMORY)

"""What endpoints that receive records have in common: consumers, and listeners of a bus."""

from __future__ import annotations

from . import _arguments
from ._core import lib
from ._endpoint import FAIR, Endpoint
from ._native import address
from ._types import ConsumerCore
from .errors import ChannelClosed, RecordError
from .objects import PICKLE
from .record import Record, array_of, object_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any, ClassVar, NoReturn, Self, TypeVar

    import numpy.typing

    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle
    from ._types import Block
    from .codec import Codec

    T = TypeVar("T")

_WOULD_BLOCK = lib.IPCHEAP_WOULD_BLOCK
_ARRAY, _OBJECT = lib.IPCHEAP_ARRAY, lib.IPCHEAP_OBJECT


class _Source:
    """The part of an endpoint that the records it received keep alive."""

    __slots__ = ("channel", "handle", "pointer")

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData) -> None:
        self.handle = handle
        self.channel = channel
        self.pointer = pointer


class _Attempt:
    """Calls a function that returns a result or a code; returns the code, 0 for a result."""

    __slots__ = ("_call", "result")

    result: Any

    def __init__(self, call: Callable[[], Any]) -> None:
        self._call = call

    def __call__(self) -> int:
        found = self._call()
        if isinstance(found, int):
            return found
        self.result = found
        return 0


class _Records:
    """The iterator of `async for`, which frees each record when the next one is requested.

    A generator would be closed by the event loop some time after a `break`, and hold the last
    record until then.
    """

    __slots__ = ("_consumer", "_last")

    def __init__(self, consumer: Receiver) -> None:
        self._consumer = consumer
        self._last: Record | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        if self._last is not None:
            self._last._done_with()
            self._last = None
        consumer = self._consumer  # what follows is arecv_record(), without another coroutine
        consumer._turns += 1
        if consumer._turns % FAIR == 0:
            await consumer._give_way()
        record = consumer._attempt()
        if not isinstance(record, Record):
            try:
                record = await consumer._receive_eventually(consumer._attempt, record)
            except ChannelClosed:
                raise StopAsyncIteration from None
        self._last = record
        return record


class Receiver(Endpoint, ConsumerCore):
    """An endpoint that receives records."""

    _sends_objects: ClassVar[str] = "send_object"  # the method of the other side

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData) -> None:
        super().__init__(handle, channel, pointer)
        source = _Source(handle, channel, self._pointer)
        self._bind(address(pointer), handle, source)
        self._source = source

    @property
    def pending(self) -> int:
        """The number of records that have been sent and not yet received."""
        count = lib.ipcheap_pending(self._pointer)
        if count < 0:
            raise self._error(count)
        return int(count) + self._left_over

    # recv_record(), recv() and the other methods on the path of a message are in C: see _types.py.

    def recv_array(self, timeout: float | None = None) -> numpy.typing.NDArray[Any]:
        """Return the next record as the array it was allocated as, without a copy.

        The record is freed when the array and all its views are gone. RecordError if the next
        record was not made by `allocate_array` or `loan`; that record stays in the channel, for
        `recv_record`. Waits `timeout` seconds for a record, None indefinitely.
        """
        return array_of(self._receive(_ARRAY, timeout), self._source)

    def recv_object(self, timeout: float | None = None, *, codec: Codec = PICKLE) -> Any:
        """Return the next object. `codec` must be the one that sent it; unpickling runs code.

        Arrays in the object alias the record, which is freed when the last of them is gone, or
        immediately if there are none. RecordError if the next record was not made by `send_object`;
        that record stays in the channel. Waits `timeout` seconds, None indefinitely. An exception
        of the codec propagates, with a note of the channel, and the record is freed.
        """
        return self._decoded(self._receive(_OBJECT, timeout), codec)

    def __iter__(self) -> Iterator[Record]:
        while True:
            try:
                record = self.recv_record()
            except ChannelClosed:
                return
            yield record
            record._done_with()

    async def arecv_record(self) -> Record:
        """Return the next record: `recv_record()` for asyncio.

        A call that is cancelled has received nothing. `asyncio.timeout()` limits the wait.
        """
        self._turns += 1
        if self._turns % FAIR == 0:
            await self._give_way()
        record = self._attempt()
        if isinstance(record, Record):
            return record
        return await self._receive_eventually(self._attempt, record)

    async def arecv(self) -> bytes:
        """Return a copy of the next record: `recv()` for asyncio."""
        self._turns += 1
        if self._turns % FAIR == 0:
            await self._give_way()
        data = self._attempt_bytes()
        if isinstance(data, bytes):
            return data
        return await self._receive_eventually(self._attempt_bytes, data)

    async def arecv_array(self) -> numpy.typing.NDArray[Any]:
        """Return the next record as the array it was allocated as: `recv_array()` for asyncio."""
        return array_of(await self._areceive(_ARRAY), self._source)

    async def arecv_object(self, *, codec: Codec = PICKLE) -> Any:
        """Return the next object: `recv_object()` for asyncio. Unpickling runs code."""
        return self._decoded(await self._areceive(_OBJECT), codec)

    def __aiter__(self) -> AsyncIterator[Record]:
        return _Records(self)

    # Inside -------------------------------------------------------------------------------

    def _has_left_over(self) -> bool:
        return self._left_over > 0

    async def _receive_eventually(self, receive: Callable[[], T | int], code: int) -> T:
        attempt = _Attempt(receive)
        await self._eventually(attempt, code)
        return attempt.result  # type: ignore[no-any-return]

    def _receive_when_ready(self, code: int, timeout: float | None) -> Record:
        return self._when_ready(self._attempt, code, timeout)

    def _receive_later(self, code: int, timeout: float | None) -> bytes:
        return self._when_ready(self._attempt_bytes, code, timeout)

    def _receive_records_later(self, code: int, limit: int, timeout: float | None) -> list[Record]:
        return self._list_later(self._receive_some, code, limit, timeout)

    def _receive_many_later(self, code: int, limit: int, timeout: float | None) -> list[bytes]:
        return self._list_later(self._receive_some_bytes, code, limit, timeout)

    def _list_later(
        self, receive: Callable[[list[T], int], int], code: int, limit: int, timeout: float | None
    ) -> list[T]:
        _arguments.count(limit, "limit", least=1)
        if code != _WOULD_BLOCK:
            raise self._error(code)
        found: list[T] = []
        self._insist(lambda: receive(found, limit), timeout)
        return found

    def _receive(self, form: int, timeout: float | None) -> Block:
        """Receive the block of a record of that form, or leave the record in the channel."""
        block = self._receive_form(form)
        if not isinstance(block, int):
            return block
        return self._when_ready(lambda: self._receive_form(form), block, timeout)

    async def _areceive(self, form: int) -> Block:
        """Do what `_receive` does, for asyncio."""
        self._turns += 1
        if self._turns % FAIR == 0:
            await self._give_way()
        block = self._receive_form(form)
        if not isinstance(block, int):
            return block
        return await self._receive_eventually(lambda: self._receive_form(form), block)

    def _decoded(self, block: Block, codec: Codec) -> Any:
        """Return the object in a block, which is freed with the last array that aliases it."""
        try:
            return object_of(block, self._source, codec)
        except Exception as error:
            error.add_note(f"The object was received by {self!r}.")
            raise
        finally:
            del block  # a traceback would keep it alive

    def _when_ready(self, receive: Callable[[], T | int], code: int, timeout: float | None) -> T:
        if code != _WOULD_BLOCK:
            raise self._error(code)
        attempt = _Attempt(receive)
        self._insist(attempt, timeout)
        return attempt.result  # type: ignore[no-any-return]

    def _refuse(self, code: int) -> NoReturn:
        raise self._error(code)

    def _error(self, code: int, doing: str = "not done", asked: int | None = None) -> Exception:
        if code == lib.PY_OTHER_FORM:
            return RecordError(
                f"the next record of channel {self._channel!r} of {self._handle} is of another "
                "kind: recv_array() takes records of allocate_array() and loan(), recv_object() "
                f"those of {self._sends_objects}(), recv_record() any"
            )
        return super()._error(code, doing, asked)

"""The sending side of a record channel."""

from __future__ import annotations

import contextlib
import time
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from . import _arguments
from . import record as _record
from ._core import lib
from ._endpoint import FAIR, Endpoint
from .errors import RecordError
from .objects import PICKLE
from .record import Record, allocate_array, allocate_many, allocate_packed, allocation_error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import numpy.typing

    from ._core import CData
    from .array import Shape
    from .objects import Codec

BytesLike: TypeAlias = Any  # bytes, bytearray, memoryview, a C-contiguous ndarray, ...

_allocate = lib.py_allocate
_send = lib.py_send
_try_send = lib.py_try_send
_try_send_many = lib.py_try_send_many
_send_bytes = lib.py_send_bytes
_send_many_bytes = lib.py_send_many_bytes
_WOULD_BLOCK = lib.IPCHEAP_WOULD_BLOCK
_BAD_VALUE = lib.IPCHEAP_BAD_VALUE


class Producer(Endpoint):
    """The sending side of a record channel; see `Heap.producer`.

    A send waits `timeout` seconds for room in the ring, None for ever. It either hands the record
    over and returns, or raises and leaves all as it was: `TimeoutError` when there was no room,
    `ChannelClosed` or `PeerDied` when it would have to wait for a consumer that has closed or
    died. What was sent stays until it is received or the channel is removed, whatever becomes
    of the producer.
    """

    _side: ClassVar[str] = "producer"
    _stalled: ClassVar[str] = "there was no room in the ring"

    def allocate_record(self, nbytes: int) -> Record:
        """Return a record of so many bytes, not initialised; HeapFull if there is no room."""
        core = self._spare.pop() if self._spare else self._handle.new_record()
        try:
            code = _allocate(core, nbytes)
        except OverflowError:
            code = _BAD_VALUE
        if code:
            self._spare.append(core)
            raise allocation_error(code, self._handle, nbytes)
        return Record(self._handle, core)

    def allocate_records(self, nbytes: int, count: int) -> list[Record]:
        """Return so many records of `nbytes` bytes each, or raise HeapFull and allocate none."""
        return allocate_many(self._handle, nbytes, count)

    def allocate_array(
        self, shape: Shape, dtype: numpy.typing.DTypeLike, *, order: str = "C"
    ) -> Record:
        """Return a record whose `array()` has that shape and dtype, here and where it arrives.

        Its items are not initialised. `order` is "C" or "F". Raises HeapFull, ValueError for a
        `shape` or dtype that no array has, TypeError for a dtype that holds Python objects.
        """
        return allocate_array(self._handle, shape, dtype, order)

    @contextlib.contextmanager
    def loan(
        self,
        shape: Shape,
        dtype: numpy.typing.DTypeLike,
        timeout: float | None = None,
        *,
        order: str = "C",
    ) -> Iterator[numpy.typing.NDArray[Any]]:
        """Lend an array to be filled, and send it on leaving; on an exception free it.

        It has that `shape` and dtype, and uninitialised items; once sent it is read-only. Waits
        `timeout` seconds for room in the ring, None for ever; what cannot be sent is freed.
        """
        record = allocate_array(self._handle, shape, dtype, order)
        record._lent = 1
        try:
            array = record.array()
            yield array
            self.send_record(record, timeout)
            array.flags.writeable = False
        finally:
            record._done_with()

    def send_record(self, record: Record, timeout: float | None = None) -> None:
        """Send a record, allocated or received on any channel of this heap; it is then dead.

        RecordError for one that has been freed or sent, or is of another heap.
        """
        try:
            core, viewed = record._core, record._block is not None
            if core is None or (viewed and _record.DEBUG):
                core = record._outgoing()
        except AttributeError:
            raise _not_a_record(record) from None
        code = _send(self._core, core)
        if code:
            self._send_when_ready(code, record, core, timeout)
        record._core = record._block = None  # as _end() does
        record._fate = "sent"
        self._spare.append(core)

    def try_send_record(self, record: Record) -> bool:
        """Send a record if there is room for it; return whether it was sent.

        Raises as `send_record` does, but for TimeoutError.
        """
        try:
            core = record._outgoing()
        except AttributeError:
            raise _not_a_record(record) from None
        code = _try_send(self._core, core)
        if code == 0:
            record._end("sent", core)
            return True
        if code == _WOULD_BLOCK:
            return False
        raise self._not_sent(code, record)

    def send_records(self, records: Iterable[Record], timeout: float | None = None) -> int:
        """Send records in order; return how many went, those after them stay the caller's.

        Waits for room for all of them; TimeoutError if not one went in time. RecordError, with
        none sent, for one that cannot be sent or stands in the list twice.
        """
        records = list(records)
        cores = [_outgoing(record) for record in records]
        if len(set(records)) < len(records):
            raise RecordError("a record stands in the list more than once: sent twice")

        def attempt(sent: int) -> int:
            batch = cores[sent : sent + _BATCH]
            went = int(_try_send_many(self._core, batch, len(batch)))
            for i in range(sent, sent + went):
                records[i]._end("sent", cores[i])
            return went

        return self._send_all(attempt, len(records), timeout)

    def send(self, data: BytesLike, timeout: float | None = None) -> None:
        """Send a copy of a bytes-like object, which must be C-contiguous.

        HeapFull when there is no room for the copy; TypeError for what has no buffer.
        """
        self._box[0] = data
        code = _send_bytes(self._core)
        if code:
            self._send_later(code, data, timeout)

    def send_many(self, buffers: Iterable[BytesLike], timeout: float | None = None) -> int:
        """Send copies of bytes-like objects in order; return how many went.

        Waits for room for all of them; TimeoutError if not one went in time.
        """
        box = self._box
        box[:] = buffers

        def attempt(sent: int) -> int:
            went = _send_many_bytes(self._core, sent)
            if went < 0 and sent == 0 and went != _WOULD_BLOCK:
                raise self._refusal(went, box[0])
            return int(went)

        try:
            return self._send_all(attempt, len(box), timeout)
        finally:
            box[:] = (None,)

    async def asend_record(self, record: Record) -> None:
        """Send a record as soon as there is room; asyncio's `send_record()`.

        One that is cancelled has sent nothing; `asyncio.timeout()` limits how long it waits.
        """
        core = _outgoing(record)

        def attempt() -> int:
            code = _try_send(self._core, record._outgoing())
            if code not in (0, _WOULD_BLOCK):
                raise self._not_sent(code, record)
            return code

        await self._soon(attempt)
        record._end("sent", core)

    async def asend(self, data: BytesLike) -> None:
        """Send a copy of a bytes-like object as soon as there is room; asyncio's `send()`."""

        def attempt() -> int:
            self._box[0] = data
            code = _send_bytes(self._core)
            if code not in (0, _WOULD_BLOCK):
                raise self._refusal(code, data)
            return code

        await self._soon(attempt)

    def send_object(self, obj: Any, timeout: float | None = None, *, codec: Codec = PICKLE) -> None:
        """Send an object; pickled, unless by another codec.

        The buffers of arrays in it are copied once, straight into the record. Waits `timeout`
        seconds for room in the ring, None for ever.
        """
        record = allocate_packed(self._handle, codec.encode(obj))
        try:
            self.send_record(record, timeout)
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

    def _not_sent(self, code: int, record: Record) -> Exception:
        if code == lib.IPCHEAP_RECORD and record._source.handle is not self._handle:
            return RecordError(f"{record!r} cannot be sent in another heap, {self._handle}")
        return self._error(code)

    def _send_when_ready(
        self, code: int, record: Record, core: CData, timeout: float | None
    ) -> None:
        if code != _WOULD_BLOCK:
            raise self._not_sent(code, record)
        self._insist(partial(_send, self._core, core), timeout)

    def _send_later(self, code: int, data: BytesLike, timeout: float | None) -> None:
        if code != _WOULD_BLOCK:
            raise self._refusal(code, data)

        def attempt() -> int:
            self._box[0] = data
            return _send_bytes(self._core)

        self._insist(attempt, timeout)

    def _send_all(self, attempt: Callable[[int], int], total: int, timeout: float | None) -> int:
        """Send from a position on, again and again; an error counts only if nothing went."""
        deadline = time.monotonic() + _arguments.timeout(timeout)
        sent = 0
        while sent < total:
            code = attempt(sent)
            if code > 0:
                sent += code
                continue
            if code in (0, _WOULD_BLOCK):
                code = self._wait(deadline - time.monotonic())
                if code == 0:
                    continue
            if sent:
                break
            raise self._error(code, doing=self._stalled)
        return sent

    def _refusal(self, code: int, data: BytesLike) -> Exception:
        if code != lib.PY_NOT_BYTES:
            asked = memoryview(data).nbytes if code in _ABOUT_SIZE else None
            return self._error(code, asked=asked)
        try:
            memoryview(data)
        except TypeError as error:
            return error
        return ValueError(f"{type(data).__name__} of bytes that do not lie in one piece")


_ABOUT_SIZE = (lib.IPCHEAP_HEAP_FULL, lib.IPCHEAP_MEMORY_FULL, lib.IPCHEAP_NO_MEMORY)
_BATCH = lib.PY_BATCH


def _outgoing(record: Record) -> CData:
    try:
        return record._outgoing()
    except AttributeError:
        raise _not_a_record(record) from None


def _not_a_record(thing: object) -> TypeError:
    return TypeError(f"a Record can be sent so, not {type(thing).__name__}")

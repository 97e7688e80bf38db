"""The receiving side of a record channel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from . import _arguments
from ._core import lib
from ._endpoint import FAIR, Endpoint
from .errors import ChannelClosed, RecordError
from .objects import PICKLE
from .record import Record, array_of, object_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import numpy.typing

    from ._arguments import ChannelId
    from ._core import CData
    from ._native import Handle
    from .objects import Codec

_receive = lib.py_receive
_try_receive = lib.py_try_receive
_try_receive_many = lib.py_try_receive_many
_receive_bytes = lib.py_receive_bytes
_receive_many_bytes = lib.py_receive_many_bytes
_receive_form = lib.py_receive_form
_WOULD_BLOCK = lib.IPCHEAP_WOULD_BLOCK
_BATCH = lib.PY_BATCH
_ARRAY, _OBJECT = lib.IPCHEAP_ARRAY, lib.IPCHEAP_OBJECT


@dataclass(frozen=True, slots=True)
class _Source:
    """What records keep of the consumer that received them."""

    handle: Handle
    channel: ChannelId
    pointer: CData


class Consumer(Endpoint):
    """The receiving side of a record channel; see `Heap.consumer`.

    Records come in the order sent, each once. One that has been received is the caller's to
    `free()`, and keeps its slot of the ring until then. Receiving waits `timeout` seconds, None
    for ever; it raises `TimeoutError` when nothing came in time, `ChannelClosed` or `PeerDied`
    when all has been received and the producer has closed or died.

    Iterating, by `for` or `async for`, gives record after record, each freed when the next
    one is asked for, and stops when the producer has closed.
    """

    _side: ClassVar[str] = "consumer"
    _stalled: ClassVar[str] = "nothing came"

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData) -> None:
        super().__init__(handle, channel, pointer)
        self._source = _Source(handle, channel, self._pointer)

    @property
    def pending(self) -> int:
        """How many records have been sent and not yet received."""
        count = lib.ipcheap_pending(self._pointer)
        if count < 0:
            raise self._error(count)
        return int(count) + lib.py_waiting(self._core)

    def recv_record(self, timeout: float | None = None) -> Record:
        """Return the next record; RecordError if this consumer holds every slot itself."""
        core = self._spare.pop() if self._spare else self._handle.new_record()
        code = _receive(self._core, core)
        if code:
            try:
                if code != _WOULD_BLOCK:
                    raise self._error(code)
                self._insist(partial(_receive, self._core, core), timeout)
            except BaseException:
                self._spare.append(core)
                raise
        return Record(self._source, core)

    def try_recv_record(self) -> Record | None:
        """Return the next record, None when there is none yet; raises as `recv_record` does."""
        core = self._spare.pop() if self._spare else self._handle.new_record()
        code = _try_receive(self._core, core)
        if code == 0:
            return Record(self._source, core)
        self._spare.append(core)
        if code == _WOULD_BLOCK:
            return None
        raise self._error(code)

    def recv_records(self, limit: int, timeout: float | None = None) -> list[Record]:
        """Return up to `limit` records: as many as there are, but at least one.

        ValueError for a limit below 1.
        """
        limit = _arguments.count(limit, "limit", least=1)
        found: list[CData] = []

        def attempt() -> int:
            while len(found) < limit:
                size = min(limit - len(found), _BATCH)
                batch = [self._handle.new_record() for _ in range(size)]
                got = int(_try_receive_many(self._core, batch, size))
                found.extend(batch[: max(got, 0)])
                self._spare.extend(batch[max(got, 0) :])
                if got < size:
                    return 0 if found else got
            return 0

        code = attempt()
        if code:
            if code != _WOULD_BLOCK:
                raise self._error(code)
            self._insist(attempt, timeout)
        source = self._source
        return [Record(source, core) for core in found]

    def recv(self, timeout: float | None = None) -> bytes:
        """Return a copy of the next record, which is given back at once."""
        code = _receive_bytes(self._core)
        if code:
            self._receive_later(code, timeout)
        box = self._box
        data: bytes = box[0]
        box[0] = None
        return data

    def recv_many(self, limit: int = 256, timeout: float | None = None) -> list[bytes]:
        """Return copies of up to `limit` records: as many as there are, but at least one.

        ValueError for a limit below 1.
        """
        limit = _arguments.count(limit, "limit", least=1)
        box = self._box

        def attempt() -> int:
            while len(box) <= limit:
                size = min(limit + 1 - len(box), _BATCH)
                got = int(_receive_many_bytes(self._core, size))
                if got < size:
                    return 0 if len(box) > 1 else got
            return 0

        code = attempt()
        if code:
            if code != _WOULD_BLOCK:
                raise self._error(code)
            self._insist(attempt, timeout)
        found = box[1:]
        del box[1:]
        return found

    def recv_array(self, timeout: float | None = None) -> numpy.typing.NDArray[Any]:
        """Return the next record as the array it was allocated as, without a copy.

        It frees its record when it dies, it and all views of it. RecordError if the next
        record was not made by `allocate_array` or `loan`: it is left where it is, for
        `recv_record`. Waits `timeout` seconds for a record, None for ever.
        """
        return array_of(self._source, self._receive_form(_ARRAY, timeout))

    def recv_object(self, timeout: float | None = None, *, codec: Codec = PICKLE) -> Any:
        """Return the next object, made by the codec that it was sent by; unpickling runs code.

        Arrays in it alias the record, which is freed when the last of them dies, or at once
        when there are none. RecordError if the next record was not made by `send_object`: it
        is left where it is. An error of the codec's comes through, and the record is freed.
        """
        return object_of(self._source, self._receive_form(_OBJECT, timeout), codec)

    def __iter__(self) -> Iterator[Record]:
        while True:
            try:
                record = self.recv_record()
            except ChannelClosed:
                return
            yield record
            record._done_with()

    async def arecv_record(self) -> Record:
        """Return the next record; asyncio's `recv_record()`.

        One that is cancelled has taken nothing; `asyncio.timeout()` limits how long it waits.
        """
        self._turns += 1
        if self._turns % FAIR == 0:
            await self._give_way()
        core = self._spare.pop() if self._spare else self._handle.new_record()
        code = _try_receive(self._core, core)
        if code:
            await self._receive_eventually(core, code)
        return Record(self._source, core)

    async def arecv(self) -> bytes:
        """Return a copy of the next record; asyncio's `recv()`."""
        self._turns += 1
        if self._turns % FAIR == 0:
            await self._give_way()
        code = _receive_bytes(self._core)
        if code:
            await self._eventually(partial(_receive_bytes, self._core), code)
        data: bytes = self._box[0]
        self._box[0] = None
        return data

    async def __aiter__(self) -> AsyncIterator[Record]:
        while True:  # arecv_record(), but for the cost of a coroutine
            self._turns += 1
            if self._turns % FAIR == 0:
                await self._give_way()
            core = self._spare.pop() if self._spare else self._handle.new_record()
            code = _try_receive(self._core, core)
            if code:
                try:
                    await self._receive_eventually(core, code)
                except ChannelClosed:
                    return
            record = Record(self._source, core)
            yield record
            record._done_with()

    async def _receive_eventually(self, core: CData, code: int) -> None:
        try:
            await self._eventually(partial(_try_receive, self._core, core), code)
        except BaseException:
            self._spare.append(core)
            raise

    def _receive_later(self, code: int, timeout: float | None) -> None:
        if code != _WOULD_BLOCK:
            raise self._error(code)
        self._insist(partial(_receive_bytes, self._core), timeout)

    def _receive_form(self, form: int, timeout: float | None) -> CData:
        """Receive a record of that form, or leave it."""
        core = self._spare.pop() if self._spare else self._handle.new_record()
        code = _receive_form(self._core, core, form)
        if code:
            try:
                if code == _WOULD_BLOCK:
                    self._insist(partial(_receive_form, self._core, core, form), timeout)
                else:
                    raise self._error(code)
            except BaseException:
                self._spare.append(core)
                raise
        return core

    def _error(self, code: int, doing: str = "not done", asked: int | None = None) -> Exception:
        if code == lib.PY_OTHER_FORM:
            return RecordError(
                f"the next record of channel {self._channel!r} of {self._handle} is of another "
                "kind: recv_array() takes what allocate_array() and loan() made, recv_object() "
                "what send_object() did, recv_record() any"
            )
        if code == lib.IPCHEAP_TIMED_OUT and (held := self.statistics().held):
            doing = f"{doing} (this consumer holds {held} records, which keep their slots)"
        return super()._error(code, doing, asked)

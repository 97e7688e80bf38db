"""The receiving side of a record channel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from . import _arguments
from ._core import lib
from ._endpoint import Endpoint
from .errors import ChannelClosed
from .record import Record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from ._arguments import ChannelId
    from ._core import CData
    from ._native import Handle

_receive = lib.py_receive
_try_receive = lib.py_try_receive
_try_receive_many = lib.py_try_receive_many
_receive_bytes = lib.py_receive_bytes
_receive_many_bytes = lib.py_receive_many_bytes
_WOULD_BLOCK = lib.IPCHEAP_WOULD_BLOCK
_BATCH = lib.PY_BATCH


@dataclass(frozen=True, slots=True)
class _Source:
    """What records keep of the consumer that received them."""

    handle: Handle
    channel: ChannelId
    pointer: CData


class Consumer(Endpoint):
    """The receiving side of a record channel; see `Heap.consumer`.

    Records come in the order sent, each once. One that has been received is the caller's to
    `free()`, and keeps its slot of the ring until then. Receiving raises `TimeoutError`
    when nothing came in time, `ChannelClosed` or `PeerDied` when all has been received and
    the producer has closed or died.

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
        """Return the next record; wait `timeout` seconds for it, None for ever."""
        core = self._spare()
        code = _receive(self._core, core)
        if code:
            try:
                if code != _WOULD_BLOCK:
                    raise self._error(code)
                self._insist(partial(_receive, self._core, core), timeout)
            except BaseException:
                self._handle.spare.append(core)
                raise
        return Record(self._source, core)

    def try_recv_record(self) -> Record | None:
        """Return the next record, None when there is none yet."""
        core = self._spare()
        code = _try_receive(self._core, core)
        if code == 0:
            return Record(self._source, core)
        self._handle.spare.append(core)
        if code == _WOULD_BLOCK:
            return None
        raise self._error(code)

    def recv_records(self, limit: int, timeout: float | None = None) -> list[Record]:
        """Return up to `limit` records: as many as there are, but at least one."""
        limit = _arguments.count(limit, "limit", least=1)
        found: list[CData] = []

        def attempt() -> int:
            while len(found) < limit:
                size = min(limit - len(found), _BATCH)
                batch = [self._handle.new_record() for _ in range(size)]
                got = int(_try_receive_many(self._core, batch, size))
                found.extend(batch[: max(got, 0)])
                self._handle.spare.extend(batch[max(got, 0) :])
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
        """Return copies of up to `limit` records: as many as there are, but at least one."""
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
        core = self._spare()
        try:
            await self._eventually(partial(_try_receive, self._core, core))
        except BaseException:
            self._handle.spare.append(core)
            raise
        return Record(self._source, core)

    async def arecv(self) -> bytes:
        """Return a copy of the next record; asyncio's `recv()`."""
        await self._eventually(partial(_receive_bytes, self._core))
        data: bytes = self._box[0]
        self._box[0] = None
        return data

    async def __aiter__(self) -> AsyncIterator[Record]:
        while True:
            try:
                record = await self.arecv_record()
            except ChannelClosed:
                return
            yield record
            record._done_with()

    def _receive_later(self, code: int, timeout: float | None) -> None:
        if code != _WOULD_BLOCK:
            raise self._error(code)
        self._insist(partial(_receive_bytes, self._core), timeout)

    def _spare(self) -> CData:
        try:
            return self._handle.spare.pop()
        except IndexError:
            return self._handle.new_record()

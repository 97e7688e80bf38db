"""The writing side of a store."""

from __future__ import annotations

from . import _arguments
from ._core import ffi, lib
from ._failures import holder_text
from ._native import address
from ._store_endpoint import StoreEndpoint
from ._store_limits import MOST, nanoseconds
from ._types import StoreWriterCore
from .array import describe
from .errors import HeapFull, RecordError
from .objects import PICKLE, encode
from .record import OF_THE_RECORD, allocate_array, allocate_packed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, ClassVar, NoReturn

    import numpy.typing

    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle
    from ._types import Key
    from .array import Shape
    from .codec import Codec
    from .producer import BytesLike
    from .record import Record
    from .results import StoreWriterStatistics
    from .store import Store


class StoreWriter(StoreEndpoint, StoreWriterCore):
    """The writing side of a store; see `Heap.store_writer`.

    Once `put` has returned, every reader sees its result. The writer never waits for a reader. A
    put either commits and returns a version, or raises and changes nothing: HeapFull, whose text
    names the limit, and the reader that holds the most dead bytes.
    """

    _side: ClassVar[str] = "writer"
    _stalled: ClassVar[str] = "not done"

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData, store: Store) -> None:
        super().__init__(handle, channel, pointer, store)
        self._pending: list[tuple[Record, bool]] = []  # of a transaction, and whether lent
        self._most_bytes = min(store.heap.capacity, self.max_bytes or MOST)
        self._bind(address(pointer), handle, handle)

    # put(), append(), put_record(), delete() and collect() are in C: see _types.py.

    def put_many(
        self,
        items: Mapping[Any, BytesLike] | Iterable[tuple[Any, BytesLike]],
        ttl: float | None = None,
    ) -> int:
        """Put copies of several bytes-like objects, a mapping or pairs, as one commit.

        Returns the newest version. All are put or none: if it raises, nothing has changed, and the
        exception has `done`, 0. Inside a transaction they are part of it, all or none. `ttl`, in
        seconds, and errors are those of `put`.
        """
        try:
            given: Any = items
            return self._put_many(list(given.items() if hasattr(given, "items") else given), ttl)
        except BaseException as reason:
            reason.done = 0  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            raise

    def put_object(
        self, key: Key | None, obj: Any, ttl: float | None = None, *, codec: Codec = PICKLE
    ) -> int:
        """Put an object, encoded by `codec`: by default as a pickle. Return its version.

        The buffers of arrays in the object are copied once, directly into the chunk. An exception
        of the codec propagates, with a note of the store. `ttl` and errors are those of `put`.
        """
        pieces = encode(codec, obj, "put by", self)
        nbytes = sum(memoryview(piece).nbytes for piece in pieces)
        record = self._make(nbytes, lambda: allocate_packed(self._handle, pieces))
        return self._put_own(key, record, ttl)

    def allocate_record(self, nbytes: int) -> Record:
        """Return a new record of `nbytes` bytes, not initialised, for `put_record`.

        HeapFull if there is no room.
        """
        return self._make(nbytes, lambda: self._handle.allocate(nbytes))

    def allocate_array(
        self, shape: Shape, dtype: numpy.typing.DTypeLike, *, order: str = "C"
    ) -> Record:
        """Return a new record whose `array()` has this shape and dtype, also as a chunk.

        The items are not initialised. `order` is "C" or "F". HeapFull if there is no room,
        ValueError for a `shape` or dtype that no array can have, TypeError for a dtype that holds
        Python objects.
        """
        _, nbytes, _ = describe(shape, dtype, order)
        return self._make(nbytes, lambda: allocate_array(self._handle, shape, dtype, order))

    def loan(
        self,
        key: Key | None,
        shape: Shape,
        dtype: numpy.typing.DTypeLike,
        ttl: float | None = None,
        *,
        order: str = "C",
    ) -> contextlib.AbstractContextManager[numpy.typing.NDArray[Any]]:
        """Return a context manager that yields an array, and puts it when the block ends.

        The array has this `shape` and dtype, and its items are not initialised. It becomes
        read-only when it is put. If the block or the put raises, the array is freed instead. Inside
        a transaction it is committed with it. `ttl` and errors are those of `put`; an array that
        could never fit is HeapFull immediately.
        """
        _, nbytes, _ = describe(shape, dtype, order)
        if nbytes > (self.max_bytes or MOST):
            raise HeapFull(self._limit(nbytes))
        return _Loan(self, key, (shape, dtype, order), ttl)

    def transaction(self) -> contextlib.AbstractContextManager[None]:
        """Return a context manager whose puts and deletions are one commit.

        No reader sees any of them before the block ends, and each sees all or none. The last change
        of a key counts. An exception that leaves the block undoes all of them. ValueError inside
        another transaction.
        """
        return _Transaction(self)

    def statistics(self) -> StoreWriterStatistics:
        """Return how many versions this writer has committed, and the newest one of the store."""
        from .results import StoreWriterStatistics

        version = int(lib.ipcheap_store_version(self._pointer))
        return StoreWriterStatistics(version=version, committed=int(self._numbers().given))

    # Inside -----------------------------------------------------------------------------------

    def _make(self, nbytes: int, make: Callable[[], Record]) -> Record:
        """Allocate; the oldest chunks make way if the store says so and it may help."""
        while True:
            try:
                return make()
            except HeapFull as reason:
                fits = nbytes <= self._most_bytes
                if not fits or not self.evict or self._evict(nbytes) <= 0:
                    raise HeapFull(self._with_blocker(str(reason))) from None

    def _put_own(self, key: Any, record: Record, ttl: float | None) -> int:
        """Put a record that nobody else has; it is freed if that fails."""
        try:
            version = self.put_record(key, record, ttl)
        except BaseException:
            record._done_with()
            raise
        if self._pending and self._pending[-1][0] is record:
            self._pending[-1] = record, True
        return version

    def _nanoseconds(self, ttl: Any) -> int:
        return nanoseconds(ttl, never=-1)

    def _in_transaction(self, record: Record) -> None:
        self._pending.append((record, False))

    def _end(self, end: Callable[[], int], *, commits: bool) -> None:
        """End the transaction, and with it what becomes of its records."""
        code = end()
        pending, self._pending = self._pending, []
        for record, lent in pending:
            self._settle(record, commits and code == 0)
            if lent and not (commits and code == 0):
                record._done_with()
        if code and commits:
            raise self._full(code, None)

    def _put_refused(self, code: int, data: Any) -> NoReturn:
        if code == lib.PY_OBJECTS:
            raise TypeError(
                f"the {type(data).__name__} holds Python objects, whose addresses mean nothing to "
                "another process: try put_object()"
            )
        if code != lib.PY_NOT_BYTES:
            raise self._full(code, data)
        try:
            memoryview(data)
        except TypeError:
            name = type(data).__name__
            raise TypeError(
                f"this call puts bytes-like objects, not {name}: try put_object()"
            ) from None
        raise ValueError(f"the bytes of a {type(data).__name__} are not in one piece: put a copy")

    def _record_refused(self, code: int, record: Any) -> NoReturn:
        if code == lib.PY_NOT_A_RECORD:
            raise TypeError(f"this call puts a Record, not {type(record).__name__}")
        if code in OF_THE_RECORD:
            raise record._refusal(code, "put")
        if code == lib.IPCHEAP_RECORD and record._source.handle is not self._handle:
            raise RecordError(
                f"{record!r} cannot be put in another heap, {self._handle}: put its bytes"
            )
        raise self._full(code, record)

    def _full(self, code: int, data: Any) -> Exception:
        """Return the exception for a put that failed."""
        asked = None if data is None else memoryview(data).nbytes
        if code == lib.IPCHEAP_STORE_FULL:
            return HeapFull(self._with_blocker(self._limit(asked)))
        reason = self._error(code, asked=asked)
        if isinstance(reason, HeapFull):
            return HeapFull(self._with_blocker(str(reason)))
        return reason

    def _limit(self, asked: int | None) -> str:
        """Return which limit a put has reached, and the way out."""
        it = f"channel {self._channel!r} of {self._handle}"
        most, most_bytes = self.max_chunks, self.max_bytes
        if most_bytes is not None and asked is not None and asked > most_bytes:
            return f"{it}: {asked} bytes can never fit, because max_bytes is {most_bytes}"
        met = int(lib.ipcheap_store_limits_met(self._pointer))
        chunks = met & lib.IPCHEAP_GIVEN_MAX_CHUNKS and ("chunks", f"max_chunks={most}")
        of_bytes = met & lib.IPCHEAP_GIVEN_MAX_BYTES and ("bytes", f"max_bytes={most_bytes}")
        full = [each for each in (chunks, of_bytes) if each]
        limits = " and ".join(limit for _, limit in full)
        if self.evict:
            return f"{it}: one commit would have more than {limits} allows; put less by one commit"
        return (
            f"{it} has as many live {' and '.join(what for what, _ in full)} as {limits} allows; "
            "delete some, let them expire, or add it with evict=True"
        )

    def _with_blocker(self, text: str) -> str:
        """Return a text, with the reader that holds the most dead bytes."""
        info = ffi.new("ipcheap_store_reader_info *")
        if lib.py_store_blocker(self._handle.pointer, self._entry, info) != 1:
            return text
        since = _timing_text(info.oldest_ns / 1e9)
        return (
            f"{text}. The reader that holds the most dead bytes is {holder_text(info.holder)}: "
            f"{info.dead} chunks of {_arguments.show_size(int(info.dead_bytes))}, the oldest for "
            f"{since}"
        )


def _timing_text(seconds: float) -> str:
    return f"{seconds:.0f} s"


class _Transaction:
    """Puts and deletions that are one commit; see `StoreWriter.transaction`."""

    __slots__ = ("_writer",)

    def __init__(self, writer: StoreWriter) -> None:
        self._writer = writer

    def __enter__(self) -> None:
        code = self._writer._begin()
        if code == lib.IPCHEAP_TRANSACTION:
            raise ValueError(f"{self._writer!r} has a transaction open already; leave its block")
        if code:
            raise self._writer._error(code)

    def __exit__(self, kind: object, *_: object) -> None:
        writer = self._writer
        if kind is None:
            writer._end(writer._commit, commits=True)
        else:
            writer._end(writer._abort, commits=False)


class _Loan:
    """An array that a writer puts when a block ends; see `StoreWriter.loan`."""

    __slots__ = ("_array", "_key", "_record", "_ttl", "_what", "_writer")

    _array: numpy.typing.NDArray[Any]
    _record: Record

    def __init__(
        self,
        writer: StoreWriter,
        key: Any,
        what: tuple[Shape, numpy.typing.DTypeLike, str],
        ttl: float | None,
    ) -> None:
        self._writer = writer
        self._key = key if key is None else writer._plain_key(key)
        self._what = what
        self._ttl = ttl
        if ttl is not None:
            writer._nanoseconds(ttl)

    def __enter__(self) -> numpy.typing.NDArray[Any]:
        shape, dtype, order = self._what
        self._record = record = self._writer.allocate_array(shape, dtype, order=order)
        self._array = record._lend()
        return self._array

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._writer._put_own(self._key, self._record, self._ttl)
                self._array.flags.writeable = False
            else:
                self._record._done_with()
        finally:
            del self._array

"""A reader of a store, and the iterator over the chunks that it follows."""

from __future__ import annotations

from . import _timing
from ._arguments import count
from ._core import ffi, lib
from ._endpoint import FAIR
from ._native import address
from ._store_endpoint import LAST, StoreEndpoint
from ._types import FollowCore, StoreReaderCore
from .chunk import Home
from .errors import ChannelClosed, RecordError
from .objects import PICKLE
from .record import array_of, object_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from typing import Any, ClassVar

    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle
    from ._types import Key
    from .chunk import Chunk
    from .codec import Codec
    from .results import StoreReaderStatistics
    from .store import Store

_WOULD_BLOCK = lib.IPCHEAP_WOULD_BLOCK
_TIMED_OUT = lib.IPCHEAP_TIMED_OUT
_ARRAY, _OBJECT = lib.IPCHEAP_ARRAY, lib.IPCHEAP_OBJECT


class Follow(FollowCore):
    """A reader's next chunks, one after the other; see `StoreReader.follow`."""

    # A chunk that is there is returned in C: see _types.py.

    def __init__(self, reader: StoreReader) -> None:
        self._reader = reader
        self._start(reader)

    def close(self) -> None:
        """Release the chunk that was returned last."""
        self._release()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        return self

    async def __anext__(self) -> Chunk:
        self._release()
        try:
            return self._give(await self._reader.anext())
        except ChannelClosed:
            raise StopAsyncIteration from None

    def _late(self, code: int) -> Chunk:
        try:
            return self._reader._next_later(code, None)
        except ChannelClosed:
            raise StopIteration from None


class StoreReader(StoreEndpoint, StoreReaderCore):
    """A reader of a store; see `Heap.store_reader`.

    It looks up the newest chunk of a key by `get` and its forms, and follows all chunks, in order,
    by `next`, which moves its position. What `get`, `get_many`, `history`, `next` and `wait_for`
    return is held until it is released. A reader never slows the writer or other readers.

    `key in reader`, `len(reader)`, `reader[key]` and iteration are those of a mapping. Iterating
    goes by ascending version.
    """

    _side: ClassVar[str] = "reader"
    _stalled: ClassVar[str] = "nothing came"

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData, store: Store) -> None:
        super().__init__(handle, channel, pointer, store)
        self._source = Home(handle, channel)
        self._awaited: list[int] = []  # up to which version each coroutine has looked
        self._bind(address(pointer), handle, self._source)

    # get(), get_bytes(), get_many(), keys(), next(), try_next() and wait_for() are in C: see
    # _types.py.

    def get_array(self, key: Key, default: Any = None) -> Any:
        """Return the newest chunk of a key as the array it was put as, without a copy.

        The array is read-only; the hold lasts as long as it and its views. `default` if there is no
        chunk. RecordError if that was not put by `loan`, or as a record of `allocate_array`.
        """
        grip = self._grip(key, _ARRAY)
        if grip is None:
            return default
        return array_of(self._found(grip), self._source)

    def get_object(self, key: Key, default: Any = None, *, codec: Codec = PICKLE) -> Any:
        """Return the newest chunk of a key as the object that `put_object` put.

        `codec` must be the one that put it; unpickling runs code. Arrays in the object alias the
        chunk, and keep the hold; without any it is released immediately. `default` if there is no
        chunk, RecordError if it is no object. An exception of the codec propagates, with a note.
        """
        grip = self._grip(key, _OBJECT)
        if grip is None:
            return default
        grip = self._found(grip)
        try:
            return object_of(grip, self._source, codec)
        except Exception as reason:
            reason.add_note(f"The object was got by {self!r}.")
            raise
        finally:
            del grip  # a traceback would keep it alive

    def history(self, key: Key) -> list[Chunk]:
        """Return the live chunks of a key, up to the store's depth, oldest first.

        TimeoutError and RecordError as `get_many`; then none is held.
        """
        return self._history(key, min(self.depth, lib.IPCHEAP_MOST_HOLDS))

    def items(self) -> Iterator[tuple[Key, Chunk]]:
        """Iterate over keys and their newest chunks, by ascending version.

        Each chunk is released when the next one is requested; `get_many` holds several. Keys that
        have no chunk by then are left out.
        """
        for key in self.keys():
            chunk = self.get(key)
            if chunk is not None:
                yield key, chunk
                chunk._done_with()

    def values(self) -> Iterator[Chunk]:
        """Iterate over the newest chunks of all keys; see `items`."""
        for key in self.keys():
            chunk = self.get(key)
            if chunk is not None:
                yield chunk
                chunk._done_with()

    def follow(self) -> Follow:
        """Return an iterator over the chunks above the position, for `for` and `async for`.

        Each is released when the next one is requested. After everything that was put, it ends if
        the writer has closed, and raises PeerDied if the writer has died.
        """
        return Follow(self)

    def seek(self, version: int | None = None) -> int:
        """Continue after a version: 0 starts again, None moves behind the newest one.

        Returns the position, which is at most the version of the newest commit.
        """
        position = ffi.new("uint64_t *")
        target = LAST if version is None else self._plain_version(version)
        self._checked(lib.py_store_seek(self._pointer, target, position))
        return int(position[0])

    @property
    def position(self) -> int:
        """The version after which `next` continues; 0 at first."""
        return self._number(lib.ipcheap_store_position)

    def statistics(self) -> StoreReaderStatistics:
        """Return how many chunks this reader was given and missed, and how many it holds."""
        from .results import StoreReaderStatistics

        numbers = self._numbers()
        return StoreReaderStatistics(
            given=int(numbers.given),
            skipped=int(numbers.skipped),
            held=int(numbers.held),
            parks=int(numbers.parks),
        )

    def __iter__(self) -> Iterator[Key]:
        return iter(self.keys())

    # asyncio ----------------------------------------------------------------------------------

    async def anext(self) -> Chunk:
        """Return the next chunk: `next()` for asyncio.

        A call that is cancelled has taken nothing. `asyncio.timeout()` limits the wait.
        """
        return await self._eventual(self._attempt, lambda: int(self.position))

    async def await_for(self, key: Key, newer_than: int = 0) -> Chunk:
        """Return the newest chunk of a key above `newer_than`: `wait_for()` for asyncio.

        A call that is cancelled has taken nothing. Several coroutines may wait with one reader.
        """
        version = self._plain_version(newer_than)

        def attempt() -> Chunk | int:
            found = self._wait_for(key, version, 0)
            return _WOULD_BLOCK if isinstance(found, int) and found == _TIMED_OUT else found

        return await self._eventual(attempt, lambda: self.version)

    # Inside -----------------------------------------------------------------------------------

    def _found(self, grip: Any) -> Any:
        if isinstance(grip, int):
            raise self._error(grip)
        return grip

    def _plain_version(self, version: Any) -> int:
        return min(count(version, "a version"), LAST)

    def _wait_for_later(self, key: Key, newer_than: int, timeout: float | None) -> Chunk:
        deadline = _timing.deadline_of(timeout)
        found: Any = None

        def step(nanoseconds: int) -> int:
            nonlocal found
            found = self._wait_for(key, newer_than, nanoseconds)
            return found if isinstance(found, int) else 0

        code = _timing.sleep(step, deadline)
        if code:
            raise self._error(code, doing=self._stalled)
        return found  # type: ignore[no-any-return]

    def _next_later(self, code: int, timeout: float | None) -> Chunk:
        deadline = _timing.deadline_of(timeout)
        while True:
            if code == _WOULD_BLOCK:
                code = self._wait(deadline)
            if code:
                raise self._error(code, doing=self._stalled)
            found = self._attempt()
            if not isinstance(found, int):
                return found
            code = found

    async def _eventual(
        self, attempt: Callable[[], Chunk | int], looked: Callable[[], int]
    ) -> Chunk:
        """Try until the result is a chunk; wait for versions above what `looked` returns."""
        self._turns += 1
        if self._turns % FAIR == 0:
            await self._give_way()
        while True:
            self._insist_open()
            seen = looked()
            found = attempt()
            if not isinstance(found, int):
                return found
            if found != _WOULD_BLOCK:
                raise self._error(found, doing=self._stalled)
            await self._until_above(seen)

    async def _until_above(self, version: int) -> None:
        """Wait until there is a version above that. The descriptor obeys the lowest one."""
        await self._until_least(version, self._awaited, self._notice)

    def _notice(self) -> int:
        return int(lib.py_store_notice(self._pointer, min(self._awaited, default=0)))

    def _error(self, code: int, doing: str = "", asked: int | None = None) -> Exception:
        if code == lib.PY_OTHER_FORM:
            return RecordError(
                f"the chunk of channel {self._channel!r} of {self._handle} is of another kind: "
                "get_array() takes arrays of loan() and allocate_array(), get_object() takes "
                "objects of put_object(), get() and get_bytes() take any"
            )
        if code == _TIMED_OUT and not doing:  # of a call that does not wait
            return TimeoutError(
                f"channel {self._channel!r} of {self._handle}: collections intervened in each of "
                "1,000 attempts; try again, or get fewer keys at a time"
            )
        if code == lib.IPCHEAP_HOLDS:
            doing = f"hold={self.hold}"
        return super()._error(code, doing or "not done", asked)

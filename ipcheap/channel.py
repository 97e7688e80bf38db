"""Channels of a heap: what the directory says of them, and record channels."""

from __future__ import annotations

from ._core import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._arguments import ChannelId
    from ._core import CData
    from .consumer import Consumer
    from .heap import Heap
    from .producer import Producer


def key_of(channel_id: ChannelId) -> CData:
    """Return the core's key for an ID."""
    key = ffi.new("ipcheap_key *")
    if isinstance(channel_id, str):
        text = channel_id.encode()
        lib.ipcheap_key_text(key, text, len(text))
    else:
        lib.ipcheap_key_int(key, channel_id)
    return key


def id_of(key: CData) -> ChannelId:
    """Return the ID that a key of the core stands for."""
    raw = bytes(ffi.buffer(key.bytes, key.length))
    if key.kind == lib.IPCHEAP_KEY_TEXT:
        return raw.decode(errors="replace")
    return int.from_bytes(raw, "little")


def _find_again(heap: Heap, channel_id: ChannelId) -> Any:
    return heap.channel(channel_id)


class Channel:
    """An entry in a heap's directory. It outlives its endpoints.

    It pickles: the other process attaches to the heap and finds it there, or ChannelNotFound.
    """

    def __init__(self, heap: Heap, channel_id: ChannelId, entry: CData) -> None:
        self._heap = heap
        self._id = channel_id
        self._entry = entry

    @property
    def id(self) -> ChannelId:
        """Its ID, an int or a str."""
        return self._id

    @property
    def heap(self) -> Heap:
        """The heap that it is in."""
        return self._heap

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Channel):
            return NotImplemented
        mine, its = self._entry, other._entry
        return bool(
            self._heap.identity == other._heap.identity
            and (mine.index, mine.incarnation) == (its.index, its.incarnation)
        )

    def __hash__(self) -> int:
        return hash((self._heap.identity, self._entry.index, self._entry.incarnation))

    def __reduce__(self) -> tuple[Any, ...]:
        return _find_again, (self._heap, self._id)


class RecordChannel(Channel):
    """A channel of records: one producer, one consumer, first in, first out."""

    @property
    def capacity(self) -> int:
        """How many records may be in flight and held: a power of two."""
        return int(self._entry.shape)

    def producer(self, timeout: float | None = 0.0) -> Producer:
        """Claim the sending side for this thread, in `timeout` seconds; see `Heap.producer`."""
        return self._heap.producer(self._id, timeout)

    def consumer(self, timeout: float | None = 0.0) -> Consumer:
        """Claim the receiving side for this thread, in `timeout` seconds; see `Heap.consumer`."""
        return self._heap.consumer(self._id, timeout)

    def __repr__(self) -> str:
        return f"<RecordChannel {self._id!r} of {self._heap.label}, {self.capacity} slots>"

"""Channels of a heap: the part that all kinds share."""

from __future__ import annotations

from ._directory import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, ClassVar

    from ._arguments import ChannelId
    from ._core import CData
    from ._directory import Directory
    from ._handle import Handle
    from .heap import Heap


def _find_again(heap: Heap, channel_id: ChannelId) -> Any:
    return heap.channel(channel_id)


class Channel:
    """An entry in a heap's directory. It outlives its endpoints.

    Channels pickle: the other process attaches to the heap and looks the channel up, which raises
    ChannelNotFound if it is gone. Two Channel objects are equal if they are the same entry.
    """

    _noun: ClassVar[str]  # of a kind whose sides can be claimed, with its article
    _sides: ClassVar[Mapping[int, str]] = {}  # the sides that can be claimed, by the core's number

    def __init_subclass__(cls, kind: int, **more: Any) -> None:
        super().__init_subclass__(**more)
        KINDS[kind] = cls

    def __init__(self, heap: Heap, channel_id: ChannelId, entry: CData) -> None:
        self._heap = heap
        self._id = channel_id
        self._entry = entry

    @property
    def id(self) -> ChannelId:
        """The ID, an int or a str."""
        return self._id

    @property
    def heap(self) -> Heap:
        """The heap that the channel is in."""
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

    def _claim(self, side: int, timeout: float | None) -> tuple[Handle, ChannelId, CData]:
        """Claim a side of this channel, not of another with its ID: see `Directory.claim`."""
        entry = self._entry
        return self._heap._directory.claim(self._id, entry.kind, side, timeout, only=entry)

    # What the directory needs to know of each kind.

    @classmethod
    def _is_ready(cls, handle: Handle, entry: CData) -> bool:
        """Whether a channel of this kind has been initialised, so that others may see it."""
        del handle, entry
        return True

    @classmethod
    def _others(cls, handle: Handle, entry: CData) -> list[str]:
        """Return who uses the channel beside the holders of its sides, as parts of a sentence."""
        del handle, entry
        return []

    @classmethod
    def _describe(cls, entry: CData) -> str:
        """Return the kind and shape as words."""
        raise NotImplementedError


class HeapMethods:
    """Methods that a kind of channel adds to `Heap`: Heap derives from one such class per kind."""

    _directory: Directory

    def _this_heap(self) -> Heap:
        return self  # type: ignore[return-value]  # pyright: ignore[reportReturnType]

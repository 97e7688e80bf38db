"""The channels of a heap, as a mapping."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .channel import Channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._arguments import ChannelId
    from .heap import Heap


class Channels(Mapping["ChannelId", Channel]):
    """The channels of a heap by ID: each look-up sees the current ones."""

    def __init__(self, heap: Heap) -> None:
        self._heap = heap

    def __getitem__(self, channel_id: ChannelId) -> Channel:
        return self._heap.channel(channel_id)

    def __iter__(self) -> Iterator[ChannelId]:
        return iter(self._heap._directory)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __repr__(self) -> str:
        return f"<channels of {self._heap.label}: {', '.join(map(repr, self))}>"

"""What a graph keeps in its heap: record channels, and static segments for the board and notes."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from ipcheap import Heap, RecordChannel, StaticSegment


def record_channel(heap: Heap, id: str) -> RecordChannel:
    """Return a channel that is known to be a record channel."""
    return cast("RecordChannel", heap.channel(id))


def static_segment(heap: Heap, id: str) -> StaticSegment:
    """Return a channel that is known to be a static segment."""
    return cast("StaticSegment", heap.channel(id))

"""Participants as the core describes them."""

from __future__ import annotations

from ._failures import holder_state
from ._native import text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._core import CData
    from .results import Participant

_LONG_COPY = 16 << 10  # bytes: shorter copies go through the caches


def participant_of(holder: CData) -> Participant:
    """Return a participant of the core's as a result."""
    from .results import Participant

    return Participant(
        name=text_of(holder.name),
        pid=int(holder.pid),
        thread=int(holder.tid),
        state=holder_state(holder),
        elsewhere=bool(holder.elsewhere),
        since=holder.since_ns / 1e9,
        extents="in-turn" if holder.in_turn else "lowest",
        copies_past=tuple(_LONG_COPY << n for n in range(31) if holder.copies_past >> n & 1),
    )

"""The writer of a stream, and its successor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..park.words import OPEN
from ..steps import Violation, choose, get, when
from .endpoint import close_side, ipcheap_claim
from .flow import (
    into_ring,
    ipcheap_stream_reset,
    ipcheap_stream_write,
    ipcheap_window_close,
    ipcheap_window_open,
)
from .waiting import ipcheap_stream_wait
from .words import READER, WOULD_BLOCK, Own, StreamEndpoint, X, is_over

if TYPE_CHECKING:
    from ..steps import Steps, View


def has_ended(view: View, who: str) -> Any:
    """Wait until a process is dead or has closed its side: its successor may come then."""
    return ({}, None) if not view["alive", who] or view["ended", who] else None


def ends(view: View, who: str) -> Any:
    return {("ended", who): True}, None


def begins(e: StreamEndpoint, after: str, claims: bool) -> Steps:
    """Return what the holder of a side knows: of a new stream, or of what others left."""
    if after:
        yield when(f"{after} has gone", has_ended, after, rest=True)
    if not after and not claims:
        return Own()
    return (yield from ipcheap_claim(e))


def closes(e: StreamEndpoint) -> Steps:
    yield from close_side(e)
    yield when("ends", ends, e.base.me)


def reader_is_open(view: View) -> Any:
    state, who = view["holder", X, READER]
    return ({}, None) if state == OPEN and view["alive", who] else None


def has_no_room(view: View, e: StreamEndpoint, position: int, items: int) -> Any:
    """Return what is wrong if a writer without a reader finds no room."""
    state, _ = view["holder", X, READER]
    dropped = max(view["position", READER], view["reset",])
    wrong = is_over(state) and position + items <= dropped + e.capacity
    return {}, f"no room at {position}, though all was dropped up to {dropped}" if wrong else ""


def stalls(e: StreamEndpoint, o: Own, items: int) -> Steps:
    """Wait for the next reader, if there ever is one; before that, there must be no room."""
    fault = yield when("has no room", has_no_room, e, o.position, items)
    if fault:
        raise Violation(fault)
    yield when("a reader comes", reader_is_open, rest=True)


def writes_some(e: StreamEndpoint, o: Own, items: int) -> Steps:
    """Call try_write(), and wait for room for one item if there was none."""
    o, went = yield from ipcheap_stream_write(e, o, items)
    if went == WOULD_BLOCK:
        o, _ = yield from ipcheap_stream_wait(e, o, 1)
    elif not isinstance(went, int):
        yield from stalls(e, o, 1)
    return o


def hesitates(e: StreamEndpoint, o: Own, items: int) -> Steps:
    """Fill a window, commit none of it, and fill another."""
    o = yield from fills(e, o, items, 0)
    return (yield from fills(e, o, items))


def fills(e: StreamEndpoint, o: Own, items: int, commits: int | None = None) -> Steps:
    """Write in a window."""
    while True:
        o, room, _ = yield from ipcheap_window_open(e, o, items, items, 0)
        if isinstance(room, int):
            break
        if room == WOULD_BLOCK:
            o, _ = yield from ipcheap_stream_wait(e, o, items)
        else:
            yield from stalls(e, o, items)
    if not e.copies:
        yield from into_ring(e, o.position, items)
    return (yield from ipcheap_window_close(e, o, items if commits is None else commits))


def is_due(position: int, cut: int, resets: tuple[int, ...]) -> bool:
    return any(cut < at <= position for at in resets)


def room_is_back(view: View, position: int) -> Any:
    return ({}, None) if view["position", READER] == position else None


def writes(
    e: StreamEndpoint,
    total: int,
    portions: tuple[int, ...],
    *,
    after: str = "",
    claims: bool = False,
    ways: tuple[Any, ...] = (writes_some,),
    resets: tuple[int, ...] = (),
    awaits: bool = False,
    stays: bool = False,
) -> Steps:
    """Write the items up to `total`, from where the stream stands, and reset at some positions.

    A writer that `awaits` the room of a reset goes on only when a reader has given it back.
    """
    o = yield from begins(e, after, claims)
    while o.position < total:
        if resets and is_due(o.position, (yield get(("cut",))), resets):
            o = yield from ipcheap_stream_reset(e, o)
            if awaits:
                yield when("the room comes back", room_is_back, o.position)
        o = yield from (yield choose(*ways))(
            e, o, min((yield choose(*portions)), total - o.position)
        )
    if not stays:
        yield from closes(e)

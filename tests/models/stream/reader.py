"""The reader of a stream, and its successor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..park.words import CLOSED, OPEN
from ..steps import Violation, choose, when
from .flow import (
    ipcheap_stream_history,
    ipcheap_stream_read,
    ipcheap_stream_ready,
    ipcheap_stream_reset,
    ipcheap_window_close,
    ipcheap_window_open,
)
from .waiting import ipcheap_stream_wait, ipcheap_stream_want, wait_inside
from .words import (
    READER,
    WOULD_BLOCK,
    WRITER,
    Own,
    StreamEndpoint,
    X,
    compare,
    delivered,
    from_ring,
    is_ready_now,
    reset_until,
)
from .writer import begins, closes

if TYPE_CHECKING:
    from ..steps import Steps, View


def writer_has_come(view: View) -> Any:
    """Wait until another writer is there, or has been there."""
    state, who = view["holder", X, WRITER]
    return ({}, None) if state == CLOSED or (state == OPEN and view["alive", who]) else None


def can_read(view: View, e: StreamEndpoint, few: int) -> Any:
    reset = view["cut",] > view["position", READER]
    return ({}, None) if reset or is_ready_now(view, e, few) else None


# One try of a call: the endpoint, and how many items it delivered or why none ---------------------


def takes(e: StreamEndpoint, o: Own, few: int, many: int, known: int) -> Steps:
    """Read a copy."""
    o, count = yield from ipcheap_stream_read(e, o, few, many)
    if isinstance(count, int):
        yield from delivered(e, o.position - count, o.position, known)
    return o, count


def skips(e: StreamEndpoint, o: Own, few: int, many: int, known: int) -> Steps:
    return (yield from ipcheap_stream_read(e, o, few, many, True))


def remembers(e: StreamEndpoint, o: Own, few: int, many: int, known: int) -> Steps:
    """Read again what was read before, and then a copy of what follows."""
    o, count = yield from ipcheap_stream_history(e, o, e.backlog)
    yield from delivered(e, o.position - count, o.position, known)
    return (yield from takes(e, o, few, many, known))


def looks(e: StreamEndpoint, o: Own, few: int, many: int, known: int) -> Steps:
    """Read in a window, which stays whole while it is open, also if the reader asks for more."""
    o, items, back = yield from ipcheap_window_open(e, o, few, many, e.backlog)
    if not isinstance(items, int):
        return o, items
    yield from delivered(e, o.window - back, o.window + items, known)
    if not e.overwrite:
        compare(e, o.window - back, (yield from from_ring(e, o.window - back, back + items)))
        o, _ = yield from ipcheap_stream_ready(e, o)
        compare(e, o.window - back, (yield from from_ring(e, o.window - back, back + items)))
    return (yield from ipcheap_window_close(e, o, items)), items


# How a call waits ---------------------------------------------------------------------------------


def sleeps(e: StreamEndpoint, o: Own, few: int) -> Steps:
    return (yield from ipcheap_stream_wait(e, o, few))


def watches(e: StreamEndpoint, o: Own, few: int) -> Steps:
    """Wait in one step, where parking is not the subject."""
    yield when("waits for items", can_read, e, few)
    return o, True


def gives_up(e: StreamEndpoint, o: Own, few: int) -> Steps:
    """Wait for a time that may end at any moment, and then for one item."""
    o, found = yield from ipcheap_stream_wait(e, o, few, few > 1)
    return o, found


def sleeps_among(e: StreamEndpoint, o: Own, few: int) -> Steps:
    """Wait as one of several endpoints do, by the watermark."""
    o = yield from wait_inside(e, (yield from ipcheap_stream_want(e, o, few)))
    return o, True


def gives_up_among(e: StreamEndpoint, o: Own, few: int) -> Steps:
    return (yield from (gives_up if few > 1 else sleeps_among)(e, o, few))


# The reader ---------------------------------------------------------------------------------------


def calls(
    e: StreamEndpoint, o: Own, total: int, way: Any, wanted: tuple[int, int], waits: Any
) -> Steps:
    """Try and wait until something is delivered; return how much, and whether all is over."""
    few, many = wanted
    known = yield when("a call begins", reset_until)
    while True:
        o, found = yield from way(e, o, few, many, known)
        if isinstance(found, int):
            return o, found, False
        if found == CLOSED:
            if o.position != total:
                raise Violation(f"{e.base.me} is told the end at {o.position} of {total}")
            return o, 0, True
        if found != WOULD_BLOCK:
            yield when("another writer comes", writer_has_come, rest=True)
            return o, 0, False
        o, came = yield from waits(e, o, few)
        few = few if came else 1


def reads(
    e: StreamEndpoint,
    total: int,
    wants: tuple[tuple[int, int], ...],
    *,
    after: str = "",
    claims: bool = False,
    ways: tuple[Any, ...] = (takes,),
    waits: Any = sleeps,
    resets: int = 0,
    leaves: int | None = None,
    stays: bool = False,
) -> Steps:
    """Read until the writer has ended; reset once at `resets` items, close at `leaves`.

    If the writer stays, it is over when all is read.
    """
    o = yield from begins(e, after, claims)
    start = o.position  # when it claimed, and then moved by what is delivered
    while leaves is None or o.position < leaves:
        if stays and o.position == total:
            return
        if 0 < resets <= o.position:
            o, resets = (yield from ipcheap_stream_reset(e, o)), 0
            continue
        way, wanted = (yield choose(*ways)), (yield choose(*wants))
        o, got, over = yield from calls(e, o, total, way, wanted, waits)
        if e.overwrite:
            start += got
        if e.overwrite and o.position != start + o.lost + o.dropped:
            raise Violation(f"{e.base.me} is at {o.position}: {start} delivered, {o.lost} lost")
        if over:
            break
    yield from closes(e)

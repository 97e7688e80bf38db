"""A side of a stream that polls its descriptor, and what must hold of that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..park.words import CLOSED, DIED, OPEN, Bell
from ..steps import Violation, choose, when
from .flow import (
    ipcheap_stream_peek,
    ipcheap_stream_read,
    ipcheap_stream_ready,
    ipcheap_stream_write,
)
from .waiting import bell_settle, ipcheap_stream_want
from .words import Own, StreamEndpoint, X, is_ready_now
from .writer import begins, closes

if TYPE_CHECKING:
    from ..steps import Steps, View


# What must hold -----------------------------------------------------------------------------------


def is_readable(view: View, side: int) -> bool:
    watched = view["pidfd",]
    return bool(view["pipe", X, side]) or (watched is not None and not view["alive", watched])


def on_the_way(view: View) -> bool:
    return any(view[name] and view["alive", name[1]] for name in view.names("way"))


def is_told(e: StreamEndpoint, view: View) -> str | None:
    """Check that a ready endpoint's descriptor is readable, or a living process about to ring."""
    watermark = view["outside",]
    if not watermark or not is_ready_now(view, e, watermark):
        return None
    if is_readable(view, e.side) or on_the_way(view):
        return None
    return "it is ready, the descriptor is not readable, and nobody is on the way"


def nobody_waits(e: StreamEndpoint, view: View) -> str | None:
    """Check that in the end a poller waits only if nothing is to be done and nobody has died."""
    state, who = view["holder", X, 1 - e.side]
    if not view["outside",] or is_readable(view, e.side):
        return None
    if is_ready_now(view, e, view["outside",]):
        return "the poller sleeps indefinitely"
    dead = state == OPEN and not view["alive", who] and view["way", who] != "claims"
    return "the poller is not notified of a death" if dead else None


# The poller ---------------------------------------------------------------------------------------


def goes_out(view: View, e: StreamEndpoint, watermark: int) -> Any:
    """Leave a call: if nothing was to be done, nor on its way, the descriptor is not readable."""
    dead = view["calm",]
    left = view["pipe", X, e.side] or view["pidfd",] in (dead or ())
    if dead is not None and left and not is_ready_now(view, e, watermark):
        return {}, "nothing is to be done, but the descriptor stays readable"
    return {("outside",): watermark}, None


def comes_in(view: View, e: StreamEndpoint, watermark: int, waits: bool) -> Any:
    if waits and not is_readable(view, e.side):
        return None
    calm = not is_ready_now(view, e, watermark) and not on_the_way(view)
    dead = tuple(name for _, name in view.names("alive") if not view["alive", name])
    return {("outside",): 0, ("calm",): dead if calm else None}, None


def not_died(view: View, side: int) -> Any:
    return None if view["holder", X, side][0] == DIED else ({}, None)


# Its calls: the endpoint, and "" or why it got nothing --------------------------------------------


def reads(e: StreamEndpoint, o: Own, items: int) -> Steps:
    return (yield from ipcheap_stream_read(e, o, 1, items))


def peeks(e: StreamEndpoint, o: Own, items: int) -> Steps:
    return (yield from ipcheap_stream_peek(e, o, 1, items))


def writes(e: StreamEndpoint, o: Own, items: int) -> Steps:
    return (yield from ipcheap_stream_write(e, o, items))


def asks(e: StreamEndpoint, o: Own, items: int) -> Steps:
    o, _ = yield from ipcheap_stream_ready(e, o)
    return o, ""


def wants(e: StreamEndpoint, o: Own, items: int) -> Steps:
    return (yield from ipcheap_stream_want(e, o, items)), ""


def polls(
    e: StreamEndpoint,
    total: int,
    calls: tuple[tuple[Any, int], ...],
    *,
    claims: bool = False,
    after: str = "",
    watermark: int = 1,
    unasked: bool = True,
) -> Steps:
    """Call when the descriptor is readable, and sometimes, `unasked`, when it is not."""
    o = yield from begins(e, after, claims)
    o, _ = yield from bell_settle(e, o._replace(bell=Bell(), watermark=watermark, need=watermark))
    while o.position < total:
        fault = yield when("goes outside", goes_out, e, o.watermark)
        if fault:
            raise Violation(fault)
        waits = (yield choose(True, False)) if unasked else True
        yield when("comes in", comes_in, e, o.watermark, waits, rest=True)
        call, items = yield choose(*calls)
        o, found = yield from call(e, o, items)
        if found == CLOSED:
            break
        if found == DIED:
            yield when("waits for the next", not_died, 1 - e.side, rest=True)
    yield from closes(e)

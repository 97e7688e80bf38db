"""What the positions mean: how far a side may go, and when it wakes the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mirror import Mirror
from ..park.park import wake_peer
from ..park.words import AWAKE
from ..steps import Violation, compiler_fence, full_fence, get, get_acquire, put, put_release
from .words import (
    READER,
    WRITER,
    Own,
    StreamEndpoint,
    X,
    has_notified,
    is_over,
    publishing,
    replaceable,
)

if TYPE_CHECKING:
    from ..steps import Steps


# Publishing: flow.c -------------------------------------------------------------------------------


@replaceable
def notify(e: StreamEndpoint, o: Own) -> Steps:
    if e.base.fences:
        yield full_fence()
    yield compiler_fence()
    if (yield get(("parked", X, 1 - e.side))) == AWAKE:
        return
    if o.position < (yield get(("wanted", 1 - e.side))):
        return
    yield from wake_peer(e.base)


@replaceable
def set_position(e: StreamEndpoint, o: Own, position: int) -> Steps:
    yield put_release(("position", e.side), position, publishing(e))
    return o._replace(position=position)


def look_at_peer(e: StreamEndpoint, o: Own) -> Steps:
    seen = yield get_acquire(("position", 1 - e.side))
    distance = o.position - seen if e.side == WRITER else seen - o.position
    if distance < 0 or (distance > e.capacity and not e.overwrite):
        raise Violation(f"{e.base.me} poisons the stream: at {o.position} it sees {seen}")
    return o._replace(seen=seen)


@replaceable
def notice_cut(e: StreamEndpoint, o: Own) -> Steps:
    while o.window < 0:
        cut = yield get_acquire(("cut",))
        if cut <= o.position:
            break
        o = yield from look_at_peer(e, o)
        if cut > o.seen:
            raise Violation(f"{e.base.me} poisons the stream: a cut at {cut}, above {o.seen}")
        o = o._replace(dropped=o.dropped + cut - o.position)
        o = yield from set_position(e, o, cut)
        yield from notify(e, o)
        yield from has_notified(e)
    return o


# Looking: endpoint.h, stream.c --------------------------------------------------------------------


def items_seen(e: StreamEndpoint, o: Own) -> int:
    if e.side == WRITER:
        return e.capacity if e.overwrite else o.seen + e.capacity - o.position
    return min(o.seen - o.position, e.capacity)


@replaceable
def first_to_read(e: StreamEndpoint, o: Own, written: int) -> Steps:
    first = max(o.position, (yield get_acquire(("cut",))))
    if not e.overwrite:
        return first
    floor = yield get_acquire(("floor",))
    return max(first, floor, written - e.capacity)


def items_now(e: StreamEndpoint, o: Own) -> Steps:
    if e.side == WRITER:
        if e.overwrite:
            return e.capacity
        released = yield get_acquire(("position", READER))
        return min(released + e.capacity - o.position, e.capacity)
    written = yield get_acquire(("position", WRITER))
    first = yield from first_to_read(e, o, written)
    return max(0, written - first)


def can_go_on(e: StreamEndpoint, o: Own) -> Steps:
    return (yield from items_now(e, o)) >= o.need


def ready(e: StreamEndpoint, o: Own) -> Steps:
    if (yield from can_go_on(e, o)):
        return True
    state, _ = yield get_acquire(("holder", X, 1 - e.side))
    return is_over(state)


# Before sleeping: stream.c ------------------------------------------------------------------------


@replaceable
def before_waiting(e: StreamEndpoint, o: Own) -> Steps:
    if e.side == READER:
        o = yield from notice_cut(e, o)
    return o


@replaceable
def want(e: StreamEndpoint, o: Own) -> Steps:
    """Return whether that has changed."""
    position = o.position + o.need
    if e.side == WRITER:
        position = max(0, position - e.capacity)
    else:
        written = yield get_acquire(("position", WRITER))
        position = (yield from first_to_read(e, o, written)) + o.need
    if (yield get(("wanted", e.side))) == position:
        return False
    yield put(("wanted", e.side), position)
    return True


FLOW, STREAM = "stream/flow.c", "stream/stream.c"
MIRRORS = (
    Mirror(FLOW, notify, ignored=frozenset({"wakes"}), calls=frozenset({"wake_peer"})),
    Mirror(FLOW, set_position, aliases=(("side", "position"),)),
    Mirror(FLOW, look_at_peer),
    Mirror(FLOW, notice_cut),
    Mirror(STREAM, first_to_read),
    Mirror(STREAM, items_now),
    Mirror(STREAM, can_go_on),
    # In C it also answers true if the positions are impossible, as in a corrupted heap.
    Mirror(STREAM, ready),
    Mirror(STREAM, before_waiting),
    Mirror(STREAM, want),
)

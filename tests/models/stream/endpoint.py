"""Claiming a side, closing it, and recovering its dead holder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..park import endpoint
from ..park.park import bell_ring, side_end, unpark
from ..park.recover import heap_lock, heap_unlock, side_recover
from ..park.recover import recover_if_dead as park_recover_if_dead
from ..park.words import AWAKE, CLOSED, OPEN, claiming
from ..steps import Violation, full_fence, get, get_acquire, put, put_release, when
from .words import READER, WRITER, Own, StreamEndpoint, X, has_notified, publishing, replaceable

if TYPE_CHECKING:
    from ..steps import Steps, View


def follow_cut(e: StreamEndpoint) -> Steps:
    cut = yield get_acquire(("cut",))
    if cut > (yield get(("position", READER))):
        yield put_release(("position", READER), cut, publishing(e))


@replaceable
def take_side(e: StreamEndpoint) -> Steps:
    if e.side == READER:
        yield from follow_cut(e)
    released = yield get_acquire(("position", READER))
    written = yield get_acquire(("position", WRITER))
    return Own(written, released) if e.side == WRITER else Own(released, written)


def recover(channel: str, side: int, dead: str, me: str) -> Steps:
    """Recover a side as that of any channel: nothing of a stream has to be repaired."""
    yield from side_recover(channel, side, dead, me)


recover_if_dead = partial(park_recover_if_dead, side_recover=recover)
side_taken = partial(endpoint.side_taken, recover_if_dead=recover_if_dead)


def claim(e: StreamEndpoint) -> Steps:
    """Under the lock; return what the new holder knows."""
    yield from side_taken(e.base, e.side)
    o = yield from take_side(e)
    yield put(("parked", X, e.side), AWAKE)
    yield put_release(("holder", X, e.side), (OPEN, e.base.me), claiming(e.base.me))
    yield full_fence()
    if not (yield from unpark(X, 1 - e.side)):
        yield from bell_ring(X, 1 - e.side)
    return o


def stands_there(view: View, side: int, position: int) -> Any:
    there = view["position", side]
    return {}, "" if there == position else f"begins at {position} instead of {there}"


def ipcheap_claim(e: StreamEndpoint) -> Steps:
    yield from heap_lock(e.base.me)
    o = yield from claim(e)
    fault = yield when("where the last one stood", stands_there, e.side, o.position)
    if fault:
        raise Violation(f"{e.base.me} {fault}")
    yield from heap_unlock()
    yield from has_notified(e)
    return o


def keep_held(e: StreamEndpoint) -> Steps:
    """Store nothing: a reset that the reader has not followed is left to others."""
    yield from ()


def end_side(e: StreamEndpoint) -> Steps:
    yield from side_end(X, e.side, CLOSED, e.base.me)


def close_side(e: StreamEndpoint) -> Steps:
    yield from keep_held(e)
    yield from end_side(e)
    yield from has_notified(e)


MIRRORS = (
    Mirror("stream/stream.c", follow_cut, aliases=(("released", "position"),)),
    Mirror("stream/stream.c", take_side),
    Mirror("stream/stream.c", keep_held),
    # In C also the last steps of removing a channel.
    Mirror(
        "endpoint/endpoint.c",
        end_side,
        ignored=frozenset({"heap_lock", "heap_unlock"}),
        calls=frozenset({"side_end"}),
    ),
    Mirror("endpoint/endpoint.c", close_side),
    Mirror("stream/stream.c", recover, calls=frozenset({"side_recover"})),
    Mirror(
        "endpoint/endpoint.c",
        claim,
        calls=frozenset({"side_taken", "unpark", "bell_ring"}),
    ),
)

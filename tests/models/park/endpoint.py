"""Claiming, removing, closing: endpoint.c, removal.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import View, full_fence, put, put_and, put_or, put_release, when
from .park import bell_ring, unpark
from .recover import heap_lock, heap_unlock, recover_if_dead
from .words import (
    AWAKE,
    CLOSING,
    CONSUMER,
    DESERTED,
    GONE,
    INSIDE,
    OPEN,
    PRODUCER,
    SHUT,
    Endpoint,
    atomic_compare_exchange_strong,
    atomic_fetch_and,
    atomic_fetch_or,
    claiming,
    tells,
)

if TYPE_CHECKING:
    from ..steps import Steps


def side_taken(e: Endpoint, side: int, recover_if_dead: Any = recover_if_dead) -> Steps:
    yield from recover_if_dead(e, side, locked=True)


def take_side(e: Endpoint) -> Steps:
    if e.side == PRODUCER:
        yield put_and(("flags", e.channel), ~DESERTED)


def claim(e: Endpoint, side_taken: Any = side_taken) -> Steps:
    """Under the lock."""
    yield from side_taken(e, e.side)
    yield from take_side(e)
    yield put(("parked", e.channel, e.side), AWAKE)
    yield put_release(("holder", e.channel, e.side), (OPEN, e.me), claiming(e.me))
    yield full_fence()
    if not (yield from unpark(e.channel, 1 - e.side)):
        yield from bell_ring(e.channel, 1 - e.side)


def channel_end(e: Endpoint) -> Steps:
    """Under the lock."""
    yield when("removes the channel", tells, e.me)
    yield put_or(("flags", e.channel), GONE)
    yield full_fence()
    yield from unpark(e.channel, PRODUCER)
    yield from unpark(e.channel, CONSUMER)


def remove_channel(e: Endpoint) -> Steps:
    yield from channel_end(e)


def ipcheap_remove_channel(e: Endpoint) -> Steps:
    yield from heap_lock(e.me)
    yield from remove_channel(e)
    yield from heap_unlock()


def count_closing(view: View) -> Any:
    return {("closings",): view["closings",] + 1}, None


def finish_closing() -> Steps:
    yield when("closes it", count_closing)
    yield atomic_fetch_or(("use",), SHUT)


def start_closing(e: Endpoint) -> Steps:
    """Mirror the call by another thread; return whether the caller is to close the endpoint."""
    use = yield atomic_fetch_or(("use",), CLOSING)
    if use & CLOSING:
        return False
    if not use & INSIDE:
        return True
    yield from unpark(e.channel, e.side)
    return False


def ipcheap_endpoint_enter(e: Endpoint) -> Steps:
    """Return whether the call may go on; not asked if no other thread can close the endpoint."""
    return not e.shared or (yield atomic_compare_exchange_strong(("use",), 0, INSIDE)) == 0


def ipcheap_endpoint_leave(e: Endpoint) -> Steps:
    """Return whether another thread asked for it to be closed meanwhile."""
    if not e.shared or not (yield atomic_fetch_and(("use",), ~INSIDE)) & CLOSING:
        return False
    yield from finish_closing()
    return True


END = "endpoint/endpoint.c"
MIRRORS = (
    # In C it also ends the side of a participant that never existed, as in a corrupted heap.
    Mirror("channel/side.c", side_taken, ignored=frozenset({"side_end"})),
    Mirror("record/endpoint.c", take_side),
    Mirror(END, claim),
    Mirror("channel/removal.c", channel_end),
    Mirror("channel/removal.c", remove_channel),
    Mirror("channel/removal.c", ipcheap_remove_channel, ignored=frozenset({"side_taken"})),
    Mirror(END, start_closing),
    Mirror(END, finish_closing),
    Mirror(END, ipcheap_endpoint_enter),
    Mirror(END, ipcheap_endpoint_leave),
)

"""Keeping a descriptor in line with its endpoint: bell.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import View, get, get_acquire, put, when
from .park import bell_disarm, endpoint_ready, sleeper_fence
from .recover import recover_if_dead
from .words import (
    ARMED,
    OPEN,
    PARKED,
    PARKED_BELL,
    RUNG,
    Bell,
    Endpoint,
    ask_alive,
    os_pipe_clear,
    os_pipe_clear_soon,
    os_pipe_ring,
)

if TYPE_CHECKING:
    from ..steps import Steps


def ring_self(e: Endpoint, b: Bell) -> Steps:
    yield from bell_disarm(e, b)
    yield os_pipe_ring(e.channel, e.side)
    return Bell(RUNG)


def arm(e: Endpoint, b: Bell, emptied: bool) -> Steps:
    b = yield from bell_disarm(e, b)
    if not (yield os_pipe_clear(e.channel, e.side)) and not emptied and b.due:
        yield from os_pipe_clear_soon(e.channel, e.side)
    yield put(("parked", e.channel, e.side), PARKED_BELL)
    yield from sleeper_fence(e)
    return Bell(ARMED)


def has_late_byte(e: Endpoint, b: Bell) -> Steps:
    return b.state == ARMED and bool((yield os_pipe_clear(e.channel, e.side)))


def pidfd_open(view: View, holder: Any) -> Any:
    """Watch the holder of the other side for its end, unless that has already come."""
    state, who = holder
    watched = who if state == OPEN and view["alive", who] else None
    return {("watched",): holder, ("pidfd",): watched}, None


def watch(holder: Any) -> Steps:
    yield when(f"watches {holder[1]}", pidfd_open, holder)


def peer_is_lost(e: Endpoint, recover_if_dead: Any = recover_if_dead) -> Steps:
    holder = yield get_acquire(("holder", e.channel, 1 - e.side))
    if holder != (yield get(("watched",))):
        yield from watch(holder)
    if holder[0] != OPEN or (yield when("is it alive?", ask_alive, holder[1])):
        return False
    yield from recover_if_dead(e, 1 - e.side)
    return False


def bell_bring_in_line(
    e: Endpoint,
    n: int,
    b: Bell,
    arm: Any = arm,
    has_late_byte: Any = has_late_byte,
    peer_is_lost: Any = peer_is_lost,
    ring_self: Any = ring_self,
) -> Steps:
    """Return the bell, and whether settling it found something new."""
    if (yield from endpoint_ready(e, n)):
        if b.state != RUNG or b.due:
            b = yield from ring_self(e, b)
        return b, False
    late = yield from has_late_byte(e, b)
    if late or b.state != ARMED or (yield get(("parked", e.channel, e.side))) != PARKED_BELL:
        b = yield from arm(e, b, late)
    lost = yield from peer_is_lost(e)
    ready = yield from endpoint_ready(e, n)
    if lost or ready:
        b = yield from ring_self(e, b)
    return b, ready


BELL = "endpoint/bell.c"
MIRRORS = (
    Mirror(BELL, ring_self),
    Mirror(BELL, arm, aliases=PARKED),
    Mirror(BELL, has_late_byte),
    Mirror(BELL, peer_is_lost, calls=frozenset({"recover_if_dead", "watch"})),
    Mirror(BELL, bell_bring_in_line),
)

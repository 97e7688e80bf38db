"""Sleeping and polling with wants: park.c, bell.c, wait.c, wait_any.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..park.bell import arm, has_late_byte, peer_is_lost, ring_self
from ..park.park import bell_disarm, sleeper_fence
from ..park.words import (
    ARMED,
    AWAKE,
    PARKED,
    PARKED_AMONG,
    PARKED_BELL,
    PARKED_HERE,
    RUNG,
)
from ..steps import get, get_acquire, os_futex_wait, os_futex_wait_any, put
from .endpoint import recover_if_dead
from .position import before_waiting, can_go_on, ready, want
from .words import MISSED, WOULD_BLOCK, Own, StreamEndpoint, X, is_over, replaceable

if TYPE_CHECKING:
    from ..steps import Steps, View


def endpoint_want(e: StreamEndpoint, o: Own) -> Steps:
    return (yield from want(e, o))


def endpoint_ready(e: StreamEndpoint, o: Own) -> Steps:
    return (yield from ready(e, o))


def endpoint_why_not(e: StreamEndpoint, o: Own) -> Steps:
    """Return "" if there is something to do now."""
    state, _ = yield get_acquire(("holder", X, 1 - e.side))
    if not is_over(state):
        return WOULD_BLOCK
    return "" if (yield from can_go_on(e, o)) else state


# Parking ------------------------------------------------------------------------------------------


def any_time(_: View) -> bool:
    return True


def look_after_peer(e: StreamEndpoint) -> Steps:
    yield from recover_if_dead(e.base, 1 - e.side)


@replaceable
def park(e: StreamEndpoint, o: Own, ends: bool = False) -> Steps:
    """Return the endpoint, and whether it is ready; if the wait `ends`, it does so at any time."""
    if (yield from ready(e, o)):
        return o, True
    o = o._replace(bell=(yield from bell_disarm(e.base, o.bell)))
    while True:
        result = ""
        yield from endpoint_want(e, o)
        yield put(("parked", X, e.side), PARKED_HERE)
        yield from sleeper_fence(e.base)
        if not (yield from ready(e, o)):
            o = yield from before_waiting(e, o)
            timed = any_time if ends else MISSED[e.side]
            result = yield os_futex_wait(("parked", X, e.side), PARKED_HERE, timed=timed)
        yield put(("parked", X, e.side), AWAKE)
        if (yield from ready(e, o)):
            return o, True
        if result == "timed out":
            yield from look_after_peer(e)
        if result == "timed out" and ends:
            return o, (yield from ready(e, o))


def sleep_and_learn(e: StreamEndpoint, o: Own, ends: bool) -> Steps:
    return (yield from park(e, o, ends))


def endpoint_wait(e: StreamEndpoint, o: Own, ends: bool = False) -> Steps:
    o = yield from before_waiting(e, o)
    o, found = yield from sleep_and_learn(e, o, ends)
    o, _ = yield from bell_settle(e, o)
    return o, found


def ipcheap_stream_wait(e: StreamEndpoint, o: Own, items: int, ends: bool = False) -> Steps:
    o = o._replace(need=items)
    o, found = yield from endpoint_wait(e, o, ends)
    o = o._replace(need=o.watermark)
    o, _ = yield from bell_settle(e, o)
    return o, found


# Polling ------------------------------------------------------------------------------------------


@replaceable
def bell_bring_in_line(e: StreamEndpoint, o: Own) -> Steps:
    """Return the endpoint, and whether that found something new."""
    bell: Any = o.bell
    if (yield from endpoint_ready(e, o)):
        if bell.state != RUNG or bell.due:
            bell = yield from ring_self(e.base, bell)
        return o._replace(bell=bell), False
    late = yield from has_late_byte(e.base, bell)
    wants = yield from endpoint_want(e, o)
    armed = not late and not wants and bell.state == ARMED
    if not armed or (yield get(("parked", X, e.side))) != PARKED_BELL:
        bell = yield from arm(e.base, bell, late)
    o = yield from before_waiting(e, o._replace(bell=bell))
    lost = yield from peer_is_lost(e.base, recover_if_dead)
    found = yield from endpoint_ready(e, o)
    if lost or found:
        o = o._replace(bell=(yield from ring_self(e.base, bell)))
    return o, found


def bell_settle(e: StreamEndpoint, o: Own) -> Steps:
    if o.bell is None:
        return o, False
    return (yield from bell_bring_in_line(e, o))


def ipcheap_stream_want(e: StreamEndpoint, o: Own, items: int) -> Steps:
    o, _ = yield from bell_settle(e, o._replace(watermark=items, need=items))
    return o


# Waiting for any of several; here, of one ---------------------------------------------------------


@replaceable
def lie_down(e: StreamEndpoint, o: Own) -> Steps:
    o = o._replace(bell=(yield from bell_disarm(e.base, o.bell)))
    yield from endpoint_want(e, o)
    yield put(("parked", X, e.side), PARKED_AMONG)
    yield from sleeper_fence(e.base)
    return o


def get_up(e: StreamEndpoint) -> Steps:
    yield put(("parked", X, e.side), AWAKE)


def is_ready(e: StreamEndpoint, o: Own) -> Steps:
    return (yield from endpoint_ready(e, o))


def look(e: StreamEndpoint, o: Own) -> Steps:
    return (yield from is_ready(e, o))


def sleep_a_while(e: StreamEndpoint, o: Own) -> Steps:
    seen = yield get_acquire(("knock", e.base.me))
    o = yield from lie_down(e, o)
    idle = not (yield from look(e, o))
    if idle:
        o = yield from before_waiting(e, o)
    if idle and not (yield from look(e, o)):
        yield os_futex_wait_any(((("knock", e.base.me), seen),))
    yield from get_up(e)
    return o


def wait_inside(e: StreamEndpoint, o: Own) -> Steps:
    o = yield from before_waiting(e, o)
    while not (yield from look(e, o)):
        o = yield from sleep_a_while(e, o)
    return o


WAIT, BELL, ANY = "endpoint/wait.c", "endpoint/bell.c", "heap/wait_any.c"
MIRRORS = (
    Mirror("endpoint/endpoint.h", endpoint_want),
    Mirror("endpoint/endpoint.h", endpoint_ready),
    Mirror(WAIT, endpoint_why_not),
    Mirror(WAIT, sleep_and_learn),
    # In C it also spins and dozes first, which stores nothing.
    Mirror(WAIT, endpoint_wait, ignored=frozenset({"endpoint_ready"})),
    Mirror(
        "endpoint/park.c",
        park,
        aliases=PARKED,
        ignored=frozenset({"parks", "core"}),
        calls=frozenset({"look_after_peer", "sleeper_fence", "bell_disarm"}),
    ),
    Mirror("stream/stream.c", ipcheap_stream_wait),
    Mirror("stream/stream.c", ipcheap_stream_want),
    Mirror(
        BELL,
        bell_bring_in_line,
        calls=frozenset({"ring_self", "has_late_byte", "arm", "peer_is_lost"}),
    ),
    Mirror("endpoint/bell.h", bell_settle),
    Mirror(ANY, is_ready),
    Mirror(ANY, look),
    Mirror(ANY, lie_down),
    Mirror(ANY, get_up),
    Mirror(ANY, sleep_a_while, calls=frozenset({"os_futex_wait_any"})),
)

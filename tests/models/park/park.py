"""Wakers and sleepers: wake.c and park.c, and what they use of endpoints and bells."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import (
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    os_futex_wait,
    os_futex_wake,
    os_membarrier,
    put,
    put_add,
    put_exchange,
    put_if,
    put_or,
    put_release,
)
from .words import (
    ARMED,
    ATOMICS,
    AWAKE,
    CLOSED,
    CLOSING,
    DESERTED,
    DIED,
    GONE,
    PARKED,
    PARKED_AMONG,
    PARKED_BELL,
    PARKED_HERE,
    PRODUCER,
    QUIET,
    RUNG,
    SYSTEM,
    Bell,
    Endpoint,
    os_pipe_ring,
    telling,
)

if TYPE_CHECKING:
    from ..steps import Steps


# What wakers do -----------------------------------------------------------------------------------


def knock(holder: str) -> Steps:
    yield put_add(("knock", holder), 1)
    yield os_futex_wake(("knock", holder))


def pull_it(channel: str, side: Any, pull: str = "") -> Steps:
    if pull == "none left":
        return False
    yield os_pipe_ring(channel, side)
    return True


def bell_ring(channel: str, side: Any, pull: str = "") -> Steps:
    if not (yield from pull_it(channel, side, pull)):
        yield put_if(("parked", channel, side), AWAKE, PARKED_BELL)


def unpark(channel: str, side: Any, pull: str = "") -> Steps:
    if (yield get(("parked", channel, side))) == AWAKE:
        return False
    how = yield put_exchange(("parked", channel, side), AWAKE)
    if how == AWAKE:
        return False
    if how == PARKED_BELL:
        yield from bell_ring(channel, side, pull)
    elif how == PARKED_AMONG:
        _, holder = yield get_acquire(("holder", channel, side))
        yield from knock(holder)
    else:
        yield os_futex_wake(("parked", channel, side))
    return True


def wake_peer(e: Endpoint, pull: str = "") -> Steps:
    yield from unpark(e.channel, 1 - e.side, pull)


def endpoint_notify(e: Endpoint, pull: str = "") -> Steps:
    if e.fences:
        yield full_fence()
    yield compiler_fence()
    if (yield get(("parked", e.channel, 1 - e.side))) != AWAKE:
        yield from wake_peer(e, pull)


def side_end(channel: str, side: int, state: str, me: str) -> Steps:
    _, holder = yield get(("holder", channel, side))
    if side == PRODUCER:
        yield put_or(("flags", channel), DESERTED)
    yield put_release(("holder", channel, side), (state, holder), telling(me))
    yield full_fence()
    yield from unpark(channel, 1 - side)


# What sleepers do ---------------------------------------------------------------------------------


def endpoint_ready(e: Endpoint, n: int) -> Steps:
    """Return whether there is something to do, or the other side's end to report."""
    word = yield get_acquire(("word", e.channel))
    if word == 2 * n + e.side:
        return True
    state, _ = yield get_acquire(("holder", e.channel, 1 - e.side))
    if state in (CLOSED, DIED):
        return True
    return e.removable and bool((yield get(("flags", e.channel))) & GONE)


def endpoint_is_closing(e: Endpoint) -> Steps:
    return e.shared and bool((yield get(("use",))) & CLOSING)


def sleeper_fence(e: Endpoint) -> Steps:
    yield from os_membarrier(*(() if e.fences else e.others))
    if e.fences:
        yield put(("fences",), 1)
    yield full_fence()


def bell_disarm(e: Endpoint, b: Bell | None) -> Steps:
    if b is None or b.state != ARMED:
        return b
    due = (yield put_exchange(("parked", e.channel, e.side), AWAKE)) != PARKED_BELL
    return Bell(RUNG if due else QUIET, due)


def park(e: Endpoint, n: int, b: Bell | None = None, ready: Any = endpoint_ready) -> Steps:
    """Return the bell."""
    if (yield from ready(e, n)):
        return b
    b = yield from bell_disarm(e, b)
    while True:
        yield put(("parked", e.channel, e.side), PARKED_HERE)
        yield from sleeper_fence(e)
        result = ""
        if not (yield from ready(e, n)) and not (yield from endpoint_is_closing(e)):
            result = yield os_futex_wait(("parked", e.channel, e.side), PARKED_HERE)
        yield put(("parked", e.channel, e.side), AWAKE)
        if (yield from ready(e, n)):
            return b
        if (yield from endpoint_is_closing(e)):
            return b
        if result == "timed out" and (yield from ready(e, n)):
            return b


WAKE = "channel/wake.c"
MIRRORS = (
    Mirror(WAKE, knock, aliases=(("word", "knock"),)),
    Mirror(WAKE, unpark, calls=SYSTEM | ATOMICS),
    Mirror("endpoint/notify.h", wake_peer),
    Mirror("endpoint/notify.h", endpoint_notify, ignored=frozenset({"wakes"})),
    Mirror("channel/wake.h", sleeper_fence),
    Mirror("endpoint/park.c", park, aliases=PARKED, ignored=frozenset({"parks", "core"})),
    Mirror("endpoint/endpoint.h", endpoint_is_closing),
    Mirror("endpoint/endpoint.h", endpoint_ready, ignored=frozenset({"ready"})),
    Mirror(WAKE, pull_it),
    Mirror(WAKE, bell_ring),
    Mirror("endpoint/bell.c", bell_disarm),
    Mirror("channel/side.c", side_end),
)

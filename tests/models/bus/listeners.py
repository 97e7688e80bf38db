"""Registering and leaving: listeners.c, channel.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import full_fence, get, get_acquire, now, put, put_and, put_or, put_release
from .receive import listener_wake_writers
from .reclaim import bus_tidy, is_active
from .words import (
    AWAKE,
    CLOSED,
    GONE,
    JOINING,
    LOSSY,
    NONE,
    OPEN,
    SHUT,
    Bus,
    Own,
    X,
    bus_end,
    bus_return,
    bus_stay,
    history_from,
    replaceable,
)

if TYPE_CHECKING:
    from ..steps import Steps, View


def is_registered(view: View, n: str, end: int) -> Any:
    """Note from which position on a listener gets all."""
    return {("start", n): end}, None


@replaceable
def listener_take(bus: Bus, history: int, lossy: bool) -> Steps:
    """Register the caller, under the lock; return its endpoint."""
    yield put(("joined", bus.me), JOINING)
    yield put(("lost", bus.me), 0)
    yield put(("lost_from", bus.me), 0)
    yield put(("lost_to", bus.me), 0)
    yield put(("passed", bus.me), 0)
    yield put(("flags", bus.me), LOSSY if lossy else 0)
    end = yield from bus_end(bus)
    yield put(("position", bus.me), max(end - history, 0))
    yield put_release(("holder", X, bus.me), (OPEN, bus.me))
    yield put_or(("active", bus.me), 1)
    yield full_fence()
    end = yield from bus_end(bus)
    begin = max(history_from(bus, end), (yield get(("floor",))))
    if end - begin > history:
        begin = end - history
    o = Own(min(begin, end), free=tuple(range(bus.words))[::-1])
    yield put(("position", bus.me), o.position)
    yield now("is registered", is_registered, bus.me, end)
    yield put_release(("joined", bus.me), end)
    return o


@replaceable
def listener_free(bus: Bus, n: str, how: str) -> Steps:
    yield put(("parked", X, n), AWAKE)
    yield put_and(("polled", n), 0)
    yield put_and(("active", n), 0)
    _, holder = yield get(("holder", X, n))
    yield put_release(("holder", X, n), (how, holder))
    yield from listener_wake_writers(bus, n)


def listener_holds_nothing(bus: Bus, n: str) -> Steps:
    used = yield get_acquire(("used", n))
    for i in range(used):
        if (yield get_acquire(("hold", n, i))) is not NONE:
            return False
    return True


@replaceable
def listeners_tidy(bus: Bus) -> Steps:
    """Free records that are closed and hold nothing; return whether any is left in use."""
    left = False
    for n in bus.listeners:
        if not (yield from is_active(n)):
            continue
        closed = (yield get(("flags", n))) & SHUT
        if closed and (yield from listener_holds_nothing(bus, n)):
            yield from listener_free(bus, n, CLOSED)
        else:
            left = True
    return left


@replaceable
def leave_seat(bus: Bus, lingers: bool) -> Steps:
    before = yield from bus_stay(bus)
    if not lingers:
        yield from listener_free(bus, bus.me, CLOSED)
    if not (yield get(("flags", X))) & GONE:
        yield from bus_tidy(bus)
    yield from bus_return(bus, before)


def keep_held(bus: Bus) -> Steps:
    yield put_or(("flags", bus.me), SHUT)
    yield from listener_wake_writers(bus, bus.me)


LISTENERS, CHANNEL = "bus/listeners.c", "bus/channel.c"
MIRRORS = (
    Mirror(
        LISTENERS,
        listener_take,
        ignored=frozenset({"parks", "wakes", "since", "marks", "stalled"}),
    ),
    Mirror(LISTENERS, listener_free, ignored=frozenset({"since"})),
    Mirror(LISTENERS, listener_holds_nothing),
    Mirror(LISTENERS, listeners_tidy),
    Mirror(CHANNEL, leave_seat),
    Mirror(CHANNEL, keep_held),
)

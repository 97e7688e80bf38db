"""Waking those who sleep on a bus, and writers that wait for a listener: wake.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..park.park import bell_ring, knock, pull_it
from ..park.words import AWAKE, PARKED_AMONG, PARKED_BELL, PARKED_HERE
from ..steps import (
    choose,
    full_fence,
    get,
    get_acquire,
    os_futex_wait_as,
    os_futex_wake,
    os_membarrier,
    put,
    put_add,
    put_if,
    put_or,
    when,
)
from .words import ARMING, HERE, OTHERS, Bus, X, replaceable

if TYPE_CHECKING:
    from ..steps import Steps, View

FLAGS = HERE | OTHERS


# Wakers -------------------------------------------------------------------------------------------


def never(_: View) -> Any:
    return None


def may_stop(bus: Bus) -> Steps:
    """Let a process be stopped here, indefinitely and without dying."""
    if bus.stops and (yield choose(False, True)):
        yield when("is stopped", never, rest=True)


@replaceable
def seat_rouse(bus: Bus, n: str) -> Steps:
    how = yield get(("parked", X, n))
    yield from may_stop(bus)
    if how == PARKED_BELL:
        yield from pull_it(X, n)
    elif how == PARKED_AMONG:
        _, holder = yield get_acquire(("holder", X, n))
        yield from knock(holder)


@replaceable
def wake_polled(bus: Bus) -> Steps:
    for n in bus.listeners:
        if (yield get_acquire(("polled", n))):
            yield from seat_rouse(bus, n)


@replaceable
def bus_wake_sleepers(bus: Bus) -> Steps:
    seen = yield get_acquire(("sleepers",))
    yield from may_stop(bus)
    if seen & HERE:
        yield put_add(("wake",), 1)
        for _ in bus.listeners:  # all that sleep
            yield os_futex_wake(("wake",))
    if seen & OTHERS:
        yield from wake_polled(bus)
    yield from may_stop(bus)
    yield put_if(("sleepers",), seen, seen & ~FLAGS)


@replaceable
def bus_tell(bus: Bus) -> Steps:
    if (yield get(("sleepers",))) & FLAGS:
        yield from bus_wake_sleepers(bus)


def ring_listeners(bus: Bus) -> Steps:
    """Ring all bells, in case that a dead writer was about to."""
    for n in bus.listeners:
        if (yield get(("active", n))):
            yield from bell_ring(X, n)
    yield from bus_wake_all(bus)


def bus_wake_all(bus: Bus) -> Steps:
    """Wake all that sleep here: the models that wake by this have sleepers that look again."""
    yield from ()


@replaceable
def listener_expect(bus: Bus, n: str, what: int) -> Steps:
    """Ask a listener to wake the caller; return the value to sleep on."""
    seen = yield get_acquire(("turns", n))
    yield put_or(("waiters", n), what)
    yield from os_membarrier(*(() if bus.refused else bus.others))
    if bus.refused:
        yield put(("fences",), 1)
    yield full_fence()
    return seen


# Sleepers -----------------------------------------------------------------------------------------


@replaceable
def arm(bus: Bus, how: int) -> Steps:
    seen = yield get(("sleepers",))
    while True:
        found = yield put_if(("sleepers",), seen, (seen + ARMING) | how)
        if found == seen:
            break
        seen = found
    yield full_fence()


def listener_before_waiting(bus: Bus) -> Steps:
    if (yield get(("parked", X, bus.me))) == AWAKE:
        return
    if not (yield get(("polled", bus.me))):
        yield put_or(("polled", bus.me), 1)
    yield from arm(bus, OTHERS)


def ready(bus: Bus, p: int) -> Steps:
    return (yield get_acquire(("posted",))) > p


def somebody_died(view: View) -> bool:
    return not all(view[name] for name in view.names("alive"))


def sleep_here(bus: Bus, seen: int) -> Steps:
    """Sleep; in C for half a second at most, which would hide a lost wake-up among the living."""
    return (yield os_futex_wait_as(("wake",), seen, timed=somebody_died))


@replaceable
def listener_park(bus: Bus, p: int) -> Steps:
    """Sleep until message p is there; return False after a sleep that ended without it."""
    if (yield from ready(bus, p)):
        return True
    while True:
        seen = yield get_acquire(("wake",))
        yield put(("parked", X, bus.me), PARKED_HERE)
        yield from arm(bus, HERE)
        result = ""
        if not (yield from ready(bus, p)):
            result = yield from sleep_here(bus, seen)
        yield put(("parked", X, bus.me), AWAKE)
        if (yield from ready(bus, p)):
            return True
        if result == "timed out":
            return (yield from ready(bus, p))


WAKE = "bus/wake.c"
MIRRORS = (
    Mirror("channel/wake.c", seat_rouse, calls=frozenset({"pull_it", "knock"})),
    Mirror(WAKE, wake_polled),
    Mirror(WAKE, bus_wake_sleepers),
    # On x86 the read-modify-write before it is the fence.
    Mirror("bus/wake.h", bus_tell, ignored=frozenset({"full_fence"})),
    Mirror("bus/recover.c", ring_listeners, calls=frozenset({"bell_ring"})),
    Mirror(WAKE, listener_expect),
    Mirror(WAKE, arm),
    Mirror(WAKE, listener_before_waiting),
    Mirror(WAKE, sleep_here, calls=frozenset({"os_futex_wait_as"})),
    Mirror(
        WAKE,
        listener_park,
        aliases=(("word", "parked"),),
        ignored=frozenset({"ready", "bell_disarm"}),
    ),
)

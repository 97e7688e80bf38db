"""Writers that wait for listeners, one after the other: await.c, and broadcast.c from there on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..explorer import Model, Process
from ..mirror import Mirror
from ..steps import Violation, choose, get, get_acquire, now, os_futex_wait, when
from .receive import free_message, keep_message, receive_one
from .setups import QUIET, begun
from .wake import listener_expect
from .words import (
    HELD,
    NONE,
    OPEN,
    RELEASE,
    SHUT,
    TIMED_OUT,
    Bus,
    Own,
    X,
    is_alive,
    replaceable,
    shared,
)

if TYPE_CHECKING:
    from ..steps import Steps, View

OWED, RELEASED, GONE, SLOW = "owed", "released", "gone", "slow"


def has_unreleased(bus: Bus, n: str, first: int, end: int) -> Steps:
    used = yield get_acquire(("used", n))
    for i in range(used):
        hold = yield get_acquire(("hold", n, i))
        if hold is not NONE and hold[0] == HELD and first <= hold[1] < end:
            return True
    return False


@replaceable
def debt_now(bus: Bus, n: str, first: int, end: int) -> Steps:
    if (yield get_acquire(("holder", X, n))) != (OPEN, n):
        return GONE
    if (yield get(("flags", n))) & SHUT:
        return GONE
    cursor = yield get_acquire(("position", n))
    if cursor < end:
        return SLOW if (yield get(("passed", n))) == cursor + 1 else OWED
    return OWED if (yield from has_unreleased(bus, n, first, end)) else RELEASED


def is_settled(bus: Bus, n: str, position: int) -> Steps:
    return (yield from debt_now(bus, n, position, position + 1))


def may_time_out(view: View, n: str, hurried: bool) -> bool:
    """Return whether a sleep may end by itself: the listener is dead, or the deadline near.

    In C it ends after 1 to 50 ms, which would hide a lost wake-up among the living.
    """
    return hurried or not view["alive", n]


@replaceable
def writer_sleep(bus: Bus, n: str, position: int, hurried: bool) -> Steps:
    """Return how it is with a listener, and TIMED_OUT or 0."""
    seen = yield from listener_expect(bus, n, RELEASE)
    debt = yield from is_settled(bus, n, position)
    if debt != OWED:
        return debt, 0
    if hurried and (yield choose(False, True)):
        return debt, TIMED_OUT
    yield os_futex_wait(("turns", n), seen, timed=partial(may_time_out, n=n, hurried=hurried))
    return debt, 0


@replaceable
def await_one(bus: Bus, n: str, position: int, hurried: bool, late: bool) -> Steps:
    """Return how it is with a listener, and whether the deadline has passed."""
    debt = yield from is_settled(bus, n, position)
    while debt == OWED:
        result = TIMED_OUT
        if not late:
            debt, result = yield from writer_sleep(bus, n, position, hurried)
            if result == TIMED_OUT:
                late = True
                yield now("is late", is_late, bus, position)
            elif debt == OWED:
                debt = yield from is_settled(bus, n, position)
        if debt == OWED and not (yield from is_alive(n)):
            return GONE, late
        if result == TIMED_OUT:
            break
    return debt, late


@replaceable
def ipcheap_await_releases(bus: Bus, position: int, hurried: bool) -> Steps:
    """Return how it is with each listener."""
    late = False
    debts: tuple[str, ...] = ()
    for n in bus.listeners:
        debt, late = yield from await_one(bus, n, position, hurried, late)
        debts = (*debts, debt)
    return debts


# Those who wait, and those who release ------------------------------------------------------------


def has_released(view: View, n: str, position: int) -> bool:
    held = [view[h] for h in view.names("hold") if h[1] == n and view[h] is not NONE]
    unreleased = any(hold[0] == HELD and hold[1] == position for hold in held)
    return view["position", n] > position and not unreleased


def is_late(view: View, bus: Bus, position: int) -> Any:
    """Note what is so when the deadline passes: it must not be reported as slow."""
    done = tuple(
        n for n in bus.listeners if not view["alive", n] or has_released(view, n, position)
    )
    return {("late", bus.me): done}, None


def reports(view: View, bus: Bus, position: int, debts: tuple[str, ...]) -> Any:
    for n, debt in zip(bus.listeners, debts, strict=True):
        if debt == RELEASED and not has_released(view, n, position):
            return {}, f"{n} has not released {position}"
        if debt == GONE and view["alive", n]:
            return {}, f"{n} is not gone"
        if debt == OWED and n in view["late", bus.me]:
            return {}, f"{n} is reported as slow, and had released or died"
    return {}, ""


def awaits(bus: Bus, position: int, hurried: bool) -> Steps:
    debts = yield from ipcheap_await_releases(bus, position, hurried)
    fault = yield when("reports", reports, bus, position, debts)
    if fault:
        raise Violation(f"{bus.me} reports {fault}")


def releases(bus: Bus, total: int, keeps: bool) -> Steps:
    o = Own(free=tuple(range(bus.words))[::-1], used=bus.words)
    while o.position < total:
        o, got = yield from receive_one(bus, o, False)
        if not isinstance(got, tuple):
            raise Violation(f"{bus.me} receives {got}")
        if keeps:
            yield from keep_message(bus, *got)
        else:
            o = yield from free_message(bus, o, *got)


def awaiting(
    name: str,
    writers: str = "V",
    listeners: str = "L",
    *,
    keeps: str = "",
    hurried: str = "",
    kills: int = 0,
    tso: bool = False,
    fences: bool = False,
    instead: tuple[tuple[str, Any], ...] = (),
) -> Model:
    """Build a model: V and W wait until all listeners have released a message of theirs."""
    total = len(writers)
    names = (*writers, *listeners)
    bus = Bus(
        "",
        total,
        tuple(listeners),
        tuple(writers),
        words=total,
        refused=fences,
        instead=instead,
    )
    memory = shared(bus, names, blocks=total) | begun(total, total)
    memory["fences",] = int(fences)
    processes = []
    for i, w in enumerate(writers):
        mine = bus._replace(me=w, others=tuple(listeners))
        memory["late", w] = ()
        processes.append(Process(w, partial(awaits, mine, i, w in hurried)))
    for n in listeners:
        body = partial(releases, bus._replace(me=n), total, n in keeps)
        processes.append(Process(n, body, kills > 0))
    quiet = (QUIET | {"slot", "floor", "tag", "late"}) - {"waiters", "turns"}
    return Model(
        f"bus, {name}",
        tuple(processes),
        memory,
        kills=kills,
        tso=tso,
        private=frozenset(quiet),
        inert=frozenset(quiet),
    )


AWAIT, BROADCAST = "bus/await.c", "bus/broadcast.c"
INSIDE = frozenset({"bus_enter", "bus_leave"})  # removal.py
MIRRORS = (
    Mirror(BROADCAST, has_unreleased),
    Mirror(BROADCAST, debt_now),
    Mirror(AWAIT, writer_sleep, ignored=INSIDE),
    Mirror(BROADCAST, await_one, ignored=INSIDE),
    Mirror(BROADCAST, ipcheap_await_releases, ignored=INSIDE),
)

"""A bus is removed while others are inside: view.c, removal.c, and what closes and frees."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..explorer import Model, Process
from ..mirror import Mirror
from ..steps import (
    Violation,
    full_fence,
    get,
    get_acquire,
    now,
    os_membarrier,
    put,
    put_or,
    put_release,
    when,
)
from .listeners import leave_seat, listeners_tidy
from .post import bus_enter
from .receive import listener_tell
from .reclaim import hold_end
from .words import (
    GONE,
    HELD,
    NONE,
    RELEASE,
    SENT,
    SHUT,
    Bus,
    Message,
    X,
    bus_leave,
    bus_return,
    bus_stay,
    heap_lock,
    heap_unlock,
    is_alive,
    replaceable,
    shared,
)

if TYPE_CHECKING:
    from ..steps import Steps, View


# The memory of the bus ----------------------------------------------------------------------------


def is_there(view: View, who: str) -> Any:
    return {}, "" if view["there",] else f"{who} touches a bus that is gone"


def touches(bus: Bus) -> Steps:
    """Check, at the moment of the step before, that the bus still has its memory."""
    fault = yield now("touches the bus", is_there, bus.me)
    if fault:
        raise Violation(fault)


def drops(view: View, who: tuple[str, ...]) -> Any:
    """Free the memory, which must be needed by nobody, and nothing may be left to be undone."""
    for name in who:
        if view["intent", name] is not NONE and not view["alive", name]:
            return {("there",): False}, f"what {name} left is forgotten"
    return {("there",): False}, ""


# Removing -----------------------------------------------------------------------------------------


@replaceable
def bus_is_occupied(bus: Bus) -> Steps:
    """Return whether somebody is inside, or was as it died and is not recovered."""
    yield from os_membarrier(*bus.others)
    for name in bus.writers:
        if (yield get_acquire(("bus", name))):
            return True
    return False


@replaceable
def lingers(bus: Bus) -> Steps:
    return (yield from listeners_tidy(bus)) or (yield from bus_is_occupied(bus))


def channel_drop_if_done(bus: Bus) -> Steps:
    """Drop a channel that was removed, under the lock."""
    if not (yield get(("flags", X))) & GONE or not (yield get(("there",))):
        return
    if (yield from lingers(bus)):
        return
    fault = yield when("drops the bus", drops, bus.writers)
    if fault:
        raise Violation(fault)


def channel_end(bus: Bus) -> Steps:
    yield put_or(("flags", X), GONE)
    yield full_fence()
    yield from channel_drop_if_done(bus)


def removes(bus: Bus) -> Steps:
    yield from heap_lock(bus.me)
    yield from channel_end(bus)
    yield from heap_unlock()


# Those who are inside -----------------------------------------------------------------------------


def posts(bus: Bus, times: int) -> Steps:
    """Be inside so many times, and post there: an intent stands for all that must be undone."""
    for _ in range(times):
        if (yield from bus_enter(bus)):
            return
        yield put(("intent", bus.me), (HELD, 0, 0))
        yield from touches(bus)
        yield get(("floor",))
        yield from touches(bus)
        yield put(("intent", bus.me), NONE)
        yield from bus_leave(bus)


def closes(bus: Bus) -> Steps:
    """Close a listener that holds nothing."""
    yield from leave_seat(bus, False)
    yield from dropping(bus)


def dropping(bus: Bus) -> Steps:
    """Drop the channel if it was removed meanwhile, by a process that saw us open."""
    if (yield get(("flags", X))) & GONE:
        yield from heap_lock(bus.me)
        yield from channel_drop_if_done(bus)
        yield from heap_unlock()


@replaceable
def clean_up(bus: Bus) -> Steps:
    """Free what is left of a closed listener; in C only if the lock can be had immediately."""
    yield from heap_lock(bus.me)
    same = yield get(("there",))
    if same:
        yield from listeners_tidy(bus)
        yield from touches(bus)
    if same:
        yield from channel_drop_if_done(bus)
    yield from heap_unlock()


@replaceable
def free_elsewhere(bus: Bus, n: str, m: Message) -> Steps:
    before = yield from bus_stay(bus)
    yield from hold_end(bus, (n, 0), m)
    yield from touches(bus)
    yield from listener_tell(bus, n, RELEASE)
    yield from touches(bus)
    yield from bus_return(bus, before)
    yield from clean_up(bus)


def recovers(view: View, me: str, who: str) -> Any:
    if view["alive", who] or (view["lock"] and view["alive", view["lock"]]):
        return None
    return {"lock": me}, None


def buries(bus: Bus, who: str) -> Steps:
    """Recover one that died inside."""
    yield when(f"waits for {who}'s death", recovers, bus.me, who, rest=True)
    yield put(("intent", who), NONE)
    yield put_release(("bus", who), 0)
    yield from channel_drop_if_done(bus)
    yield from heap_unlock()


# All of them --------------------------------------------------------------------------------------


def the_last(bus: Bus) -> Steps:
    """Look once more, as a participant that is short of memory does."""
    yield from channel_drop_if_done(bus)


def is_dropped(view: View) -> str | None:
    return "the bus is never dropped" if view["there",] else None


def removing(
    name: str,
    *,
    posters: str = "",
    closers: str = "",
    holders: str = "",
    times: int = 1,
    extents: bool = False,
    kills: int = 0,
    tso: bool = False,
    instead: tuple[tuple[str, Any], ...] = (),
) -> Model:
    """Build a model: R removes a bus while others post, close, and free a last message."""
    who = (*posters, *closers, *holders)
    bus = Bus("", 1, (*closers, *holders), who, extents=extents, instead=instead)
    names = (*who, "R", *(("K",) if kills else ()))
    memory = shared(bus, names, blocks=1) | {("there",): True}
    memory |= {("slot", 0): (0, 0), ("tag", 0): (SENT, 0), ("head",): 1, ("posted",): 1}
    for n in bus.listeners:
        memory["position", n] = 1
    for n in holders:
        memory |= {("flags", n): SHUT, ("hold", n, 0): (HELD, 0, 0)}
    processes = [Process("R", partial(removes, bus._replace(me="R", others=who)))]
    for n in who:
        mine = bus._replace(me=n, others=tuple(o for o in who if o != n))
        if n in posters:
            processes.append(Process(n, partial(posts, mine, times), kills > 0))
        elif n in closers:
            processes.append(Process(n, partial(closes, mine)))
        else:
            processes.append(Process(n, partial(free_elsewhere, mine, n, Message(0, 0))))
    if kills:
        k = bus._replace(me="K", others=who)
        processes += [Process("K", partial(buries, k, n)) for n in posters]
    quiet = {"letting", "payload", "head", "laggard", "fences", "used", "polled", "parked"}
    quiet |= {"joined", "turns", "holder", "position", "start", "from"}
    return Model(
        f"bus, {name}",
        tuple(processes),
        memory,
        last=partial(the_last, bus._replace(me="last", others=())),
        finally_=is_dropped,
        kills=kills,
        tso=tso,
        private=frozenset(quiet),
        inert=frozenset(quiet),
    )


REMOVAL = "channel/removal.c"
MIRRORS = (
    Mirror("bus/view.c", bus_is_occupied, ignored=frozenset({"fences", "full_fence"})),
    Mirror("bus/channel.c", lingers),
    Mirror(REMOVAL, channel_drop_if_done),
    Mirror(REMOVAL, channel_end, ignored=frozenset({"unpark", "channel_withdraw"})),
    Mirror("bus/receive.c", clean_up, calls=frozenset({"heap_unlock"})),
    Mirror("bus/receive.c", free_elsewhere, ignored=frozenset({"word_return"})),
)
__all__ = ["is_alive"]

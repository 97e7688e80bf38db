"""The floor, and how messages below it are freed exactly once: reclaim.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import (
    Step,
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    os_membarrier,
    put,
    put_if,
    put_release,
)
from .words import (
    HELD,
    KEPT,
    LOSSY,
    NONE,
    OPEN,
    OWN,
    PART,
    RELEASING,
    SENT,
    SHUT,
    Bus,
    Message,
    X,
    block_drop,
    bus_end,
    bus_leave,
    bus_return,
    bus_stay,
    history_from,
    place_is,
    replaceable,
    slot,
)

if TYPE_CHECKING:
    from ..steps import Steps

FAR = 999


# The floor ----------------------------------------------------------------------------------------


def is_active(n: str) -> Steps:
    return (yield get_acquire(("active", n)))


def bus_has_listeners(bus: Bus) -> Steps:
    for n in bus.listeners:
        if (yield from is_active(n)):
            return True
    return False


@replaceable
def bus_survey(bus: Bus) -> Steps:
    """Return the least cursors: of those that count, of those that were passed, of lossy ones."""
    counted = passed = lossy = FAR
    for n in bus.listeners:
        if not (yield from is_active(n)):
            continue
        flags = yield get(("flags", n))
        if flags & SHUT:
            continue
        cursor = yield get_acquire(("position", n))
        if flags & LOSSY:
            lossy = min(lossy, cursor)
        elif not bus.patient and (yield get(("passed", n))) == cursor + 1:
            passed = min(passed, cursor)
        else:
            counted = min(counted, cursor)
    return counted, passed, lossy


def floor_raise(bus: Bus, to: int) -> Steps:
    seen = yield get(("floor",))
    while seen < to:
        found = yield put_if(("floor",), seen, to)
        if found == seen:
            return
        seen = found


# Barriers -----------------------------------------------------------------------------------------


@replaceable
def bus_settle(bus: Bus) -> Steps:
    yield from os_membarrier(*(() if bus.refused else bus.others))
    if not bus.refused:
        return
    yield put(("fences",), 1)
    yield full_fence()
    for other in bus.others:  # a nap, after which all see that word
        yield Step("interrupt", other)
    yield full_fence()


@replaceable
def settle_floor(bus: Bus) -> Steps:
    """Make sure that each message below the floor that was received shows in a hold."""
    to = yield get(("floor",))
    seen = yield get_acquire(("settled",))
    if seen >= to:
        return
    if (yield from bus_has_listeners(bus)):
        yield from bus_settle(bus)
    while seen < to:
        found = yield put_if(("settled",), seen, to)
        if found == seen:
            return
        seen = found


@replaceable
def holder_fence(bus: Bus) -> Steps:
    yield compiler_fence()
    if (yield get(("fences",))):
        yield full_fence()


# Holds --------------------------------------------------------------------------------------------


def hold_uses(hold: Any) -> bool:
    return hold is not NONE and hold[0] in (HELD, KEPT)


@replaceable
def message_is_held(bus: Bus, m: Message, but: Any = NONE) -> Steps:
    for n in bus.listeners:
        if not (yield from is_active(n)):
            continue
        used = yield get_acquire(("used", n))
        for i in range(used):
            if (n, i) == but:
                continue
            hold = yield get_acquire(("hold", n, i))
            if hold_uses(hold) and hold[1:] == m:
                return True
    return False


@replaceable
def look_at_holds(bus: Bus, first: int, count: int) -> Steps:
    """Return which positions are held."""
    held: tuple[int, ...] = ()
    for n in bus.listeners:
        if not (yield from is_active(n)):
            continue
        used = yield get_acquire(("used", n))
        for i in range(used):
            hold = yield get_acquire(("hold", n, i))
            if not hold_uses(hold) or not first <= hold[1] < first + count:
                continue
            if (yield get(slot(bus, hold[1]))) == hold[1:]:
                held = (*held, hold[1])
    return held


# Freeing ------------------------------------------------------------------------------------------


def free_mine(bus: Bus, block: int) -> Steps:
    yield from block_drop(bus, block)


def free_taken(bus: Bus, block: int) -> Steps:
    yield from block_drop(bus, block)


def payload_free(bus: Bus, block: int) -> Steps:
    payload = yield get(("payload", block))
    if not (yield from place_is(payload, (PART, block))):
        return
    yield put_release(("tag", payload), (OWN, bus.me))
    yield from block_drop(bus, payload)


@replaceable
def message_let_go(bus: Bus, m: Message) -> Steps:
    tag = (SENT, m.position)
    if not bus.apart:
        if (yield put_if(("tag", m.block), tag, (OWN, bus.me))) == tag:
            yield from free_mine(bus, m.block)
        return
    if (yield get(("tag", m.block))) != tag:
        return
    yield put(("letting", bus.me), m.block)
    if (yield put_if(("tag", m.block), tag, (OWN, bus.me))) == tag:
        yield from payload_free(bus, m.block)
        yield from free_taken(bus, m.block)
    yield put(("letting", bus.me), NONE)


def sweep_batch(bus: Bus, first: int, count: int, held: tuple[int, ...]) -> Steps:
    for position in range(first, first + count):
        if position in held:
            continue
        at, block = yield get_acquire(slot(bus, position))
        if at != position:
            continue
        yield from message_let_go(bus, Message(position, block))


@replaceable
def bus_sweep(bus: Bus) -> Steps:
    first = yield get_acquire(("swept",))
    to = yield get(("floor",))
    if first >= to:
        return
    first = max(first, to - bus.capacity)
    yield from settle_floor(bus)
    held = yield from look_at_holds(bus, first, to - first)
    yield from sweep_batch(bus, first, to - first, held)
    seen = yield get(("swept",))
    while seen < to:
        found = yield put_if(("swept",), seen, to)
        if found == seen:
            break
        seen = found


@replaceable
def bus_tidy(bus: Bus) -> Steps:
    end = yield from bus_end(bus)
    survey = yield from bus_survey(bus)
    yield from floor_raise(bus, min(*survey, end, history_from(bus, end)))
    yield from bus_sweep(bus)


# Extents ------------------------------------------------------------------------------------------


def is_behind(bus: Bus, n: str, m: Message) -> Steps:
    state, _ = yield get_acquire(("holder", X, n))
    if state != OPEN:
        return False
    flags = yield get(("flags", n))
    if not flags & SHUT and (yield get_acquire(("position", n))) <= m.position:
        return True
    used = yield get_acquire(("used", n))
    for i in range(used):
        hold = yield get_acquire(("hold", n, i))
        if hold_uses(hold) and hold[1:] == m:
            return True
    return False


@replaceable
def any_is_behind(bus: Bus, m: Message) -> Steps:
    laggard = yield get(("laggard",))
    if (yield from is_behind(bus, bus.listeners[laggard], m)):
        return True
    for i, n in enumerate(bus.listeners):
        if not (yield from is_active(n)) or not (yield from is_behind(bus, n, m)):
            continue
        yield put(("laggard",), i)
        return True
    return False


@replaceable
def extent_let_go(bus: Bus, m: Message) -> Steps:
    yield full_fence()
    if bus.history and history_from(bus, (yield from bus_end(bus))) <= m.position:
        return
    if (yield from any_is_behind(bus, m)):
        return
    yield from bus_tidy(bus)


def hold_message(bus: Bus, hold: Any) -> Steps:
    """Return what a hold word, or an intent, names; none if that is no message any more."""
    tag = yield get(("tag", hold[2]))
    return Message(*hold[1:]) if tag == (SENT, hold[1]) else NONE


@replaceable
def hold_end(bus: Bus, hold: Any, m: Message) -> Steps:
    """End the hold of a message, with a word of the caller's or of a dead listener."""
    small = not bus.extents or (yield get(("floor",))) > m.position
    yield put_release(("hold", *hold), (RELEASING, *m))
    yield from holder_fence(bus)
    if small and (yield get(("floor",))) <= m.position:
        yield put_release(("hold", *hold), NONE)
        return
    before = yield from bus_stay(bus)
    if (yield get(("floor",))) <= m.position:
        yield put_release(("hold", *hold), NONE)
        yield from extent_let_go(bus, m)
    else:
        yield full_fence()
        yield from settle_floor(bus)
        if not (yield from message_is_held(bus, m, hold)):
            yield from message_let_go(bus, m)
        yield put_release(("hold", *hold), NONE)
    yield from bus_return(bus, before)


RECLAIM, HEADER = "bus/reclaim.c", "bus/bus.h"
MIRRORS = (
    Mirror(RECLAIM, bus_survey),
    Mirror(RECLAIM, floor_raise),
    # How long the nap still has to be, is no subject here.
    Mirror(RECLAIM, bus_settle, ignored=frozenset({"fences_since"})),
    Mirror(RECLAIM, settle_floor),
    Mirror(RECLAIM, holder_fence),
    Mirror(RECLAIM, message_is_held),
    Mirror(RECLAIM, look_at_holds),
    Mirror(RECLAIM, payload_free, calls=frozenset({"block_drop"})),
    Mirror(
        RECLAIM,
        message_let_go,
        aliases=(("mine", "tag"),),
        calls=frozenset({"free_taken", "free_mine"}),
        ignored=frozenset({"block_drop"}),
    ),
    Mirror(RECLAIM, sweep_batch),
    Mirror(RECLAIM, bus_sweep),
    Mirror(RECLAIM, bus_tidy),
    Mirror(RECLAIM, is_behind),
    Mirror(RECLAIM, any_is_behind),
    Mirror(RECLAIM, extent_let_go),
    Mirror(RECLAIM, hold_end),
    Mirror(HEADER, bus_stay),
    Mirror(HEADER, bus_leave),
    Mirror(HEADER, bus_return),
)

"""What dead participants leave on a bus: recover.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import get, get_acquire, now, os_futex_wake, put, put_add, put_if, put_release
from .listeners import listener_free, listeners_tidy
from .reclaim import bus_tidy, hold_end, hold_message, is_active, payload_free
from .wake import ring_listeners
from .words import (
    DIED,
    FREE,
    NONE,
    OPEN,
    OWN,
    PART,
    SENT,
    Bus,
    Message,
    X,
    block_drop,
    block_free,
    bus_return,
    bus_stay,
    place_is,
    replaceable,
    slot,
)

if TYPE_CHECKING:
    from ..steps import Steps, View


# What was not posted ------------------------------------------------------------------------------


@replaceable
def is_named(bus: Bus, m: Message) -> Steps:
    """Return whether a hold names the message, in whatever state."""
    for n in bus.listeners:
        if not (yield from is_active(n)):
            continue
        used = yield get_acquire(("used", n))
        for i in range(used):
            hold = yield get_acquire(("hold", n, i))
            if hold is not NONE and hold[1:] == m:
                return True
    return False


@replaceable
def is_unposted(bus: Bus, intent: Any, tag: Any) -> Steps:
    if tag[0] == OWN:
        return True
    m = yield from hold_message(bus, intent)
    if m is NONE or tag != (SENT, m.position):
        return False
    at, block = yield get_acquire(slot(bus, m.position))
    if at < m.position:
        return True
    if at == m.position:
        return block != m.block
    if (yield from is_named(bus, m)):
        return False
    return (yield get_acquire(("tag", m.block))) == tag


def payload_undo(bus: Bus, block: int) -> Steps:
    """Free the payload of an envelope; a forwarded one would get its tag back."""
    payload = yield get(("payload", block))
    if payload is NONE or not (yield from place_is(payload, (PART, block))):
        return
    yield from block_free(payload, (PART, block))


@replaceable
def undo_intent(bus: Bus, dead: str, intent: Any) -> Steps:
    block = intent[2]
    tag = yield get_acquire(("tag", block))
    if tag[0] == OWN and tag[1] != dead:
        return
    if not (yield from is_unposted(bus, intent, tag)):
        return
    if bus.apart:
        yield from payload_undo(bus, block)
    if tag[0] == OWN:
        return
    if (yield put_if(("tag", block), tag, (OWN, bus.me))) != tag:
        return
    yield from block_drop(bus, block)


@replaceable
def complete_letting(bus: Bus, dead: str, block: int) -> Steps:
    if (yield get(("tag", block))) == (OWN, dead):
        yield from payload_free(bus, block)


@replaceable
def recover_writer(bus: Bus, dead: str) -> Steps:
    turn = yield get(("turn",))
    if turn and turn[0] == dead and (yield put_if(("turn",), turn, 0)) == turn:
        yield put_add(("turn_wake",), 1)
        yield os_futex_wake(("turn_wake",))
    if not (yield get(("bus", dead))):
        return
    intent = yield get(("intent", dead))
    if intent is not NONE:
        yield from undo_intent(bus, dead, intent)
    letting = yield get(("letting", dead))
    if letting is not NONE:
        yield from complete_letting(bus, dead, letting)
    yield from ring_listeners(bus)
    yield put(("intent", dead), NONE)
    yield put(("letting", dead), NONE)
    yield put_release(("bus", dead), 0)


# Listeners ----------------------------------------------------------------------------------------


@replaceable
def end_holds(bus: Bus, n: str) -> Steps:
    used = yield get_acquire(("used", n))
    for i in range(used):
        hold = yield get_acquire(("hold", n, i))
        if hold is NONE:
            continue
        m = yield from hold_message(bus, hold)
        if m is not NONE:
            yield from hold_end(bus, (n, i), m)
        else:
            yield put_release(("hold", n, i), NONE)


@replaceable
def recover_listeners_of_dead(bus: Bus, dead: str) -> Steps:
    for n in bus.listeners:
        if (yield get(("holder", X, n))) != (OPEN, dead):
            continue
        yield from end_holds(bus, n)
        yield from listener_free(bus, n, DIED)
    yield from listeners_tidy(bus)


@replaceable
def free_what_is_left(bus: Bus) -> Steps:
    """Free what the dead one was about to free, and what only it still had to receive."""
    before = yield from bus_stay(bus)
    yield from bus_tidy(bus)
    yield from bus_return(bus, before)


# Memory -------------------------------------------------------------------------------------------


def owned_by_dead(view: View, dead: str) -> Any:
    owned = {name: FREE for name in view.names("tag") if view[name] == (OWN, dead)}
    return owned, None


def recovers(bus: Bus, dead: str) -> Steps:
    """Recover a participant, under the lock: writers first."""
    yield from recover_writer(bus, dead)
    yield from recover_listeners_of_dead(bus, dead)
    yield from free_what_is_left(bus)
    yield now("frees what the dead one owned", owned_by_dead, dead)


RECOVER = "bus/recover.c"
MIRRORS = (
    Mirror(RECOVER, is_named),
    Mirror(RECOVER, is_unposted),
    # The C function also gives a forwarded payload its tag back.
    Mirror(
        RECOVER,
        payload_undo,
        ignored=frozenset({"tag"}),
        calls=frozenset({"block_free"}),
    ),
    Mirror(RECOVER, undo_intent),
    Mirror(RECOVER, complete_letting),
    Mirror(RECOVER, recover_writer, calls=frozenset({"ring_listeners"})),
    Mirror(RECOVER, end_holds, aliases=(("at", "hold"),)),
    Mirror(RECOVER, recover_listeners_of_dead),
    Mirror(RECOVER, free_what_is_left),
)

"""Those who post and listen, and those who recover them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..steps import Violation, now, put, when
from .listeners import listener_take
from .post import post_and_tell
from .receive import free_message, receive_one
from .reclaim import bus_sweep
from .recover import recovers
from .words import (
    FREE,
    LOSSY,
    NONE,
    NOT_FOUND,
    POSTED,
    SENT,
    SHUT,
    WOULD_BLOCK,
    Bus,
    Letter,
    Own,
    X,
    bus_end,
    heap_lock,
    heap_unlock,
    looks_for,
    take_blocks,
    uses,
)

if TYPE_CHECKING:
    from ..steps import Steps, View


# Writers ------------------------------------------------------------------------------------------


def has_room(view: View, bus: Bus) -> Any:
    """Wait until a post may succeed, or somebody else has posted."""
    q = view["posted",]
    need = q - bus.capacity + 1
    if view["floor",] >= need:
        return {}, None
    for n in bus.listeners:
        in_the_way = view["active", n] and not view["flags", n] & (LOSSY | SHUT)
        if (
            in_the_way
            and view["position", n] < need
            and view["passed", n] != view["position", n] + 1
        ):
            return None
    return {}, None


def writes(bus: Bus, count: int) -> Steps:
    for _ in range(count):
        blocks = yield when("allocates", take_blocks, bus.me, 1 + bus.apart)
        letter = Letter(*blocks)
        while True:
            letter, done = yield from post_and_tell(bus, letter)
            if done == POSTED:
                break
            if bus.patient:
                yield when("waits for room", has_room, bus, rest=True)


# Listeners ----------------------------------------------------------------------------------------


def something_there(view: View, bus: Bus, p: int) -> Any:
    at, _ = view["slot", p % bus.capacity]
    return ({}, None) if at >= p or view["floor",] > p else None


def keeps_on(bus: Bus, o: Own, total: int, keeps: int, lossy: bool) -> Steps:
    """Receive up to a position; release the oldest message when more than `keeps` are held."""
    held: tuple[Any, ...] = ()
    while o.position < total:
        yield when(f"message {o.position}", something_there, bus, o.position, rest=True)
        o, got = yield from receive_one(bus, o, lossy)
        if not isinstance(got, tuple):
            continue
        yield from uses(bus, got[1])
        held = (*held, got)
        if len(held) > keeps:
            yield from uses(bus, held[0][1])
            o = yield from free_message(bus, o, *held[0])
            held = held[1:]
    while held:
        yield from uses(bus, held[0][1])
        o = yield from free_message(bus, o, *held[0])
        held = held[1:]
    return o


def listens(
    bus: Bus, total: int, keeps: int = 0, lossy: bool = False, late: bool = False, history: int = 0
) -> Steps:
    o = Own(free=tuple(range(bus.words))[::-1], used=bus.words)
    if late:
        yield from heap_lock(bus.me)
        o = yield from listener_take(bus, history, lossy)
        yield from heap_unlock()
    yield from keeps_on(bus, o, total, keeps, lossy)


# Recovery -----------------------------------------------------------------------------------------


def next_dead(view: View, me: str) -> Any:
    """Find a participant that is dead and not recovered; takes the lock, also of a dead one."""
    if view["lock"] and view["alive", view["lock"]]:
        return None
    for name in view.names("recovered"):
        if not view["alive", name[1]] and not view[name]:
            return {"lock": me}, name[1]
    return None


def buries(bus: Bus) -> Steps:
    while True:
        dead = yield when("waits for a death", next_dead, bus.me, rest=True)
        yield from recovers(bus, dead)
        yield put(("recovered", dead), True)
        yield from heap_unlock()


# When all is over ---------------------------------------------------------------------------------


def extents_are_free(view: View, bus: Bus) -> Any:
    """Return which extent is still there although nobody needs it."""
    end = view["posted",]
    for i in range(bus.capacity):
        p, block = view["slot", i]
        if block is NONE or p >= end - bus.history:
            continue
        behind = any(
            view["active", n] and not view["flags", n] & SHUT and view["position", n] <= p
            for n in bus.listeners
        )
        held = any(hold and hold[1] == p for hold in (view[h] for h in view.names("hold")))
        if view["tag", block] == (SENT, p) and not behind and not held:
            return {}, f"extent {p} is not free, and nobody needs it"
    return {}, ""


def the_last(bus: Bus, dead: tuple[str, ...]) -> Steps:
    """Recover all that are dead, and free what is left."""
    if bus.extents:
        fault = yield now("looks at extents", extents_are_free, bus)
        if fault:
            raise Violation(fault)
    for one in dead:
        if not (yield now("is it alive?", looks_for, one)):
            yield from recovers(bus, one)
    end = yield from bus_end(bus)
    yield put(("floor",), end)
    yield from bus_sweep(bus)


def accounted(view: View, bus: Bus, total: int) -> str | None:
    """Check that all living listeners got everything, and that each block is free or held."""
    held: set[Any] = set()
    for n in bus.listeners:
        if not view["alive", n] or view["start", n] is NONE:
            continue
        if view["position", n] < min(total, view["posted",]):
            return f"{n} is at {view['position', n]} of {view['posted',]}"
        if view["lost", n] and bus.patient and not view["flags", n] & LOSSY:
            return f"{n} has lost {view['lost', n]}"
        held |= {view[h][2] for h in view.names("hold") if h[1] == n and view[h] is not NONE}
    held |= {view["payload", block] for block in held}
    for _, block in view.names("tag"):
        if view["tag", block] != FREE and block not in held:
            return f"block {block} is lost: {view['tag', block]}"
    return None


def begins_rightly(view: View, bus: Bus) -> str | None:
    """Check that no listener begins above what was posted."""
    for n in bus.listeners:
        start = view["start", n]
        if start is not NONE and start > view["posted",]:
            return f"{n} begins at {start} of {view['posted',]}"
    return None


__all__ = ["NOT_FOUND", "WOULD_BLOCK", "X"]

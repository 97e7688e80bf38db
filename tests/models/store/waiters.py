"""Those that wait for a store, those that wake them, and what must hold of a descriptor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..park.words import CLOSED, DIED, OPEN, Bell, has_told
from ..steps import choose, get_acquire, now, put_release, when
from .commit import log_put, wake_readers
from .processes import claim, ipcheap_chunk_release, is_dead, recovers
from .recover import side_end
from .wait import Sleeper, bell_bring_in_line, key_sleep, key_there, sleep_a_while, store_park
from .words import NONE, WRITER, Lists, Store, X, check, heap_lock, heap_unlock

if TYPE_CHECKING:
    from ..steps import Steps, View


# Wakers -------------------------------------------------------------------------------------------


def way(me: str) -> tuple[tuple[Any, Any], ...]:
    return ((("way", me), True), (("calm",), None))


def tells(s: Store, at: Lists, total: int, ends: str = "") -> Steps:
    """Commit so many versions without chunks, and wake those that wait for them."""
    while at.head < total:
        at = at._replace(head=at.head + 1)
        yield put_release(("head",), at.head, way(s.me))
        yield from log_put(s, at, at.head, NONE)
        yield from wake_readers(s, ())
        yield now("has told", has_told, s.me)
    if ends:
        yield from side_end(s, CLOSED)
        yield now("has told", has_told, s.me)


def sets_out(view: View, me: str) -> Any:
    return dict(way(me)), None


def tells_after(s: Store, total: int) -> Steps:
    """Recover the writer, and commit the rest."""
    yield when("waits for a death", is_dead, "W", rest=True)
    yield from heap_lock(s.me)
    yield now("sets out", sets_out, s.me)
    yield from recovers(s, "W")
    at = yield from claim(s)
    yield now("has told", has_told, s.me)
    yield from heap_unlock()
    yield from tells(s, at, total)


# Sleepers -----------------------------------------------------------------------------------------


def catches_up(e: Sleeper) -> Steps:
    head = yield get_acquire(("head",))
    return e.at(head)


def parks(e: Sleeper, total: int) -> Steps:
    """Sleep until all versions are there, or the writer's end."""
    e = yield from catches_up(e)
    while e.o.position < total:
        e = yield from store_park(e)
        state, _ = yield get_acquire(("holder", X, WRITER))
        e = yield from catches_up(e)
        if state == CLOSED:
            return
        if state == DIED and e.o.position < total:
            yield when("waits for the next", not_died, rest=True)


def not_died(view: View) -> Any:
    return None if view["holder", X, WRITER][0] == DIED else ({}, None)


def sleeps_among(e: Sleeper, total: int) -> Steps:
    e = yield from catches_up(e)
    while e.o.position < total:
        yield from sleep_a_while(e)
        e = yield from catches_up(e)


# A poller -----------------------------------------------------------------------------------------


def is_ready_now(view: View) -> bool:
    state, _ = view["holder", X, WRITER]
    version = view["position",] + 1
    written, _ = view["log", 1, version % 4]
    return bool(state in (CLOSED, DIED) or written >= version)


def is_readable(view: View) -> bool:
    watched = view["pidfd",]
    return bool(view["pipe", X, 1]) or (watched is not None and not view["alive", watched])


def on_the_way(view: View) -> bool:
    return any(view[name] and view["alive", name[1]] for name in view.names("way"))


def is_told(view: View) -> str | None:
    """Check that a ready reader's descriptor is readable, or a living process about to ring."""
    if not view["outside",] or not is_ready_now(view) or is_readable(view) or on_the_way(view):
        return None
    return "it is ready, the descriptor is not readable, and nobody is on the way"


def nobody_waits(view: View) -> str | None:
    """Check that in the end a poller waits only if nothing is to be done and nobody has died."""
    if not view["outside",] or is_readable(view):
        return None
    if is_ready_now(view):
        return "the poller sleeps indefinitely"
    state, who = view["holder", X, WRITER]
    dead = state == OPEN and not view["alive", who]
    return "the poller is not notified of a death" if dead else None


def goes_out(view: View, position: int) -> Any:
    """Leave a call: if nothing was to be done, nor on its way, the descriptor is not readable."""
    dead = view["calm",]
    left = view["pipe", X, 1] or view["pidfd",] in (dead or ())
    if dead is not None and left and not is_ready_now(view):
        return {}, "nothing is to be done, but the descriptor stays readable"
    return {("outside",): True}, ""


def comes_in(view: View, waits: bool) -> Any:
    if waits and not is_readable(view):
        return None
    calm = not is_ready_now(view) and not on_the_way(view)
    dead = tuple(name for _, name in view.names("alive") if not view["alive", name])
    return {("outside",): False, ("calm",): dead if calm else None}, None


def moves_to(view: View, position: int) -> Any:
    return {("position",): position}, None


def polls(e: Sleeper, total: int, unasked: int = 1) -> Steps:
    """Call when the descriptor is readable, and sometimes when it is not."""
    e, _ = yield from bell_bring_in_line(e._replace(bell=Bell()))
    while True:
        check((yield now("goes outside", goes_out, e.o.position)))
        waits = (yield choose(True, False)) if unasked else True
        unasked -= not waits
        yield when("comes in", comes_in, waits, rest=True)
        while True:
            state, _ = yield get_acquire(("holder", X, WRITER))
            before = e.o.position
            e = yield from catches_up(e)
            yield now("moves", moves_to, e.o.position)
            if state == CLOSED or e.o.position == total:
                return
            if state == DIED:
                yield when("waits for the next", not_died, rest=True)
            e, again = yield from bell_bring_in_line(e)
            if not again or e.o.position > before:
                break


# Those that wait for a key ------------------------------------------------------------------------


def waits_for(e: Sleeper, key: str, newer: int) -> Steps:
    """Wait until a key has a chunk newer than that; as key_wait_inside()."""
    e, got = yield from key_there(e, key, newer)
    while got is NONE:
        e, got = yield from key_sleep(e, key, newer)
        if got is NONE:
            e, got = yield from key_there(e, key, newer)
    yield from ipcheap_chunk_release(e.s, e.o, got[0])

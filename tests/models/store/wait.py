"""Sleeping and polling until the next version, or until a key changes: wait.c, store.c."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..mirror import Mirror
from ..park.bell import arm, has_late_byte, peer_is_lost, ring_self
from ..park.park import bell_disarm, sleeper_fence
from ..park.words import (
    ARMED,
    AWAKE,
    CLOSED,
    DIED,
    OPEN,
    PARKED_AMONG,
    PARKED_BELL,
    PARKED_HERE,
    RUNG,
    Bell,
    Endpoint,
    ask_alive,
)
from ..steps import get, get_acquire, now, os_futex_wait_any, put
from .bells import bell_arm, bell_poll
from .holds import unhold
from .next import next_is_there
from .processes import recovers
from .reader import find_cell, follow_pieces, reader_get
from .words import FOUND, NONE, WRITER, Own, Store, X, heap_lock, heap_unlock, replaceable

if TYPE_CHECKING:
    from ..steps import Steps, View


class Sleeper(NamedTuple):
    """A reader's endpoint: its entry is a seat, and what it waits for."""

    s: Store
    base: Endpoint
    o: Own = Own()
    bell: Bell | None = None
    blind: bool = False  # the writer is in another PID namespace

    @property
    def instead(self) -> Any:
        """Return the mistakes of its store."""
        return self.s.instead

    def at(self, position: int) -> Sleeper:
        """Return the endpoint at a position."""
        return self._replace(o=self.o._replace(position=position))


def is_over(state: str) -> bool:
    return state in (CLOSED, DIED)


def can_go_on(e: Sleeper) -> Steps:
    return (yield from next_is_there(e.s, e.o))


def ready(e: Sleeper) -> Steps:
    if (yield from can_go_on(e)):
        return True
    state, _ = yield get_acquire(("holder", X, WRITER))
    return is_over(state)


endpoint_ready = ready


@replaceable
def before_waiting(e: Sleeper) -> Steps:
    if (yield get(("parked", X, e.base.side))) == AWAKE:
        return
    yield from bell_poll(())
    yield from sleeper_fence(e.base)


def recover_if_dead(base: Endpoint, side: int, s: Store) -> Steps:
    state, holder = yield get_acquire(("holder", X, side))
    if state != OPEN or (yield now("is it alive?", ask_alive, holder)):
        return
    yield from heap_lock(base.me)
    yield from recovers(s, holder)
    yield from heap_unlock()


def look_after_peer(e: Sleeper) -> Steps:
    yield from recover_if_dead(e.base, WRITER, e.s)


# Sleeping -----------------------------------------------------------------------------------------


def is_missed(view: View) -> bool:
    """Return whether a death may have kept sleepers from being woken.

    In C each sleep ends after half a second, which would hide a lost wake-up among the living.
    """
    return not all(view[name] for name in view.names("alive"))


def sleep_once(e: Sleeper, bell: Any, armed: int) -> Steps:
    words = ((("bell", *bell), armed), (("parked", X, e.base.side), PARKED_HERE))
    return (yield os_futex_wait_any(words, timed=is_missed))


@replaceable
def store_park(e: Sleeper) -> Steps:
    if (yield from ready(e)):
        return e
    e = e._replace(bell=(yield from bell_disarm(e.base, e.bell)))
    while True:
        armed = yield from bell_arm(())
        yield put(("parked", X, e.base.side), PARKED_HERE)
        yield from sleeper_fence(e.base)
        result = ""
        if not (yield from ready(e)):
            result = yield from sleep_once(e, (), armed)
        yield put(("parked", X, e.base.side), AWAKE)
        if (yield from ready(e)):
            return e
        if result == "timed out":
            yield from look_after_peer(e)
            if (yield from ready(e)):
                return e


# Polling ------------------------------------------------------------------------------------------


@replaceable
def bell_bring_in_line(e: Sleeper) -> Steps:
    """Return the endpoint, and whether that found something new."""
    bell: Any = e.bell
    if (yield from endpoint_ready(e)):
        if bell.state != RUNG or bell.due:
            bell = yield from ring_self(e.base, bell)
        return e._replace(bell=bell), False
    late = yield from has_late_byte(e.base, bell)
    if late or bell.state != ARMED or (yield get(("parked", X, e.base.side))) != PARKED_BELL:
        bell = yield from arm(e.base, bell, late)
    yield from before_waiting(e)
    lost = not e.blind and (yield from peer_is_lost(e.base, partial(recover_if_dead, s=e.s)))
    found = yield from endpoint_ready(e)
    if lost or found:
        bell = yield from ring_self(e.base, bell)
    return e._replace(bell=bell), found


# Waiting for any of several; here, of one ---------------------------------------------------------


def lie_down(e: Sleeper) -> Steps:
    yield from bell_disarm(e.base, None)
    yield put(("parked", X, e.base.side), PARKED_AMONG)
    yield from sleeper_fence(e.base)


def get_up(e: Sleeper) -> Steps:
    yield put(("parked", X, e.base.side), AWAKE)


def look(e: Sleeper) -> Steps:
    return (yield from ready(e))


def sleep_a_while(e: Sleeper) -> Steps:
    seen = yield get_acquire(("knock", e.base.me))
    yield from lie_down(e)
    idle = not (yield from look(e))
    if idle:
        yield from before_waiting(e)
    if idle and not (yield from look(e)):
        yield os_futex_wait_any(((("knock", e.base.me), seen),), timed=is_missed)
    yield from get_up(e)


# Keys ---------------------------------------------------------------------------------------------


def reader_cell(s: Store, o: Own, key: str) -> Steps:
    """Return the endpoint, and the cell on whose bell those that wait for a key sleep."""
    o = yield from follow_pieces(s, o)
    o, found, look = yield from find_cell(s, o, key, 0)
    yield from unhold(s, 0)
    return o, (look.cell[0] if found == FOUND else NONE)


def key_there(e: Sleeper, key: str, newer: int) -> Steps:
    """Return the endpoint, and the hold word and version of a chunk that is newer."""
    o, got = yield from reader_get(e.s, e.o, key)
    if got is not NONE and got[1] <= newer:
        yield from unhold(e.s, got[0])
        o, got = o._replace(free=(*o.free, got[0])), NONE
    return e._replace(o=o), got


@replaceable
def key_sleep(e: Sleeper, key: str, newer: int) -> Steps:
    o, cell = yield from reader_cell(e.s, e.o, key)
    bell = () if cell is NONE else (cell,)
    if bell:
        yield put(("keyed",), 1)
    armed = yield from bell_arm(bell)
    yield put(("parked", X, e.base.side), PARKED_HERE)
    yield from sleeper_fence(e.base)
    e, there = yield from key_there(e._replace(o=o), key, newer)
    o, again = yield from reader_cell(e.s, e.o, key)
    if there is NONE and again == cell:
        yield from sleep_once(e, bell, armed)
    yield put(("parked", X, e.base.side), AWAKE)
    return e._replace(o=o), there


WAIT, STORE, BELL, ANY = "store/wait.c", "store/store.c", "endpoint/bell.c", "heap/wait_any.c"
PARKED = (("word", "parked"),)
SLEEPING = frozenset({"sleeper_fence", "bell_disarm"})
MIRRORS = (
    Mirror(STORE, can_go_on),
    Mirror(STORE, ready),
    Mirror(STORE, before_waiting, calls=frozenset({"sleeper_fence"})),
    Mirror(
        "endpoint/park.c",
        sleep_once,
        ignored=frozenset({"parks", "core"}),
        calls=frozenset({"os_futex_wait_any"}),
    ),
    Mirror(WAIT, store_park, aliases=PARKED, calls=SLEEPING | {"look_after_peer"}),
    Mirror(
        BELL,
        bell_bring_in_line,
        calls=frozenset({"ring_self", "has_late_byte", "arm", "peer_is_lost", "endpoint_ready"}),
    ),
    Mirror(ANY, lie_down),
    Mirror(ANY, get_up),
    Mirror(ANY, sleep_a_while),
    Mirror("store/reader.c", reader_cell),
    Mirror(WAIT, key_sleep),
)

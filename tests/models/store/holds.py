"""Hold words: holds.h, and looking at those of all readers: readers.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..park.words import AWAKE, OPEN
from ..steps import compiler_fence, full_fence, get, get_acquire, put, put_release
from .words import DEAD, LIVE, NONE, Own, Store, X, replaceable

if TYPE_CHECKING:
    from ..steps import Steps


@replaceable
def hold_at(s: Store, o: Own, word: int, slot: int) -> Steps:
    """Return the endpoint, and the slot's word if the slot stays as it is."""
    if word >= o.used:
        o = o._replace(used=word + 1)
        yield put(("used", s.me), word + 1)
    yield put_release(("words", s.me, word), slot)
    yield compiler_fence()
    if (yield get(("fences",))):
        yield full_fence()
    state, version = yield get_acquire(("word", slot))
    return o, ((state, version) if state in (LIVE, DEAD) else NONE)


def hold_slot(s: Store, o: Own, word: int, slot: int) -> Steps:
    return (yield from hold_at(s, o, word, slot))


def unhold(s: Store, word: int) -> Steps:
    yield put_release(("words", s.me, word), NONE, ((("has", s.me, word), NONE),))


def hold_free(o: Own) -> int:
    """Return a free word; it is not taken yet. Models have as many as they need."""
    return o.free[-1]


def hold_keep(o: Own) -> Own:
    return o._replace(free=o.free[:-1])


def hold_return(s: Store, o: Own, word: int) -> Steps:
    o = o._replace(free=(*o.free, word))
    if o.used > s.many and len(o.free) == 1:
        o = o._replace(used=1)
        yield put_release(("used", s.me), 1)
    return o


# Those of all readers -----------------------------------------------------------------------------


def hold_step(s: Store, r: str) -> Steps:
    """Return what one reader holds."""
    state, _ = yield get_acquire(("holder", X, r))
    if state != OPEN:
        return ()
    used = yield get_acquire(("used", r))
    held: tuple[Any, ...] = ()
    for word in range(used):
        held = (*held, (yield get_acquire(("words", r, word))))
    return held


@replaceable
def look_at_holds(s: Store) -> Steps:
    """Return the slots that readers hold."""
    held: tuple[Any, ...] = ()
    for r in s.readers:
        held += yield from hold_step(s, r)
    return held


@replaceable
def entry_free(s: Store, r: str, how: str) -> Steps:
    """End an entry: its holder has, or has nothing left."""
    used = yield get(("used", r))
    for word in range(used):
        if (yield get(("words", r, word))) is not NONE:
            yield put_release(("words", r, word), NONE)
    yield put_release(("used", r), 0)
    yield put(("closed", r), 0)
    yield put(("parked", X, r), AWAKE)
    _, holder = yield get(("holder", X, r))
    yield put_release(("holder", X, r), (how, holder))


def entry_holds_nothing(s: Store, r: str) -> Steps:
    used = yield get(("used", r))
    for word in range(used):
        if (yield get_acquire(("words", r, word))) is not NONE:
            return False
    return True


@replaceable
def entries_tidy(s: Store) -> Steps:
    """Free entries that were closed and hold nothing any more."""
    for r in s.readers:
        state, _ = yield get_acquire(("holder", X, r))
        if state == OPEN and (yield get(("closed", r))) and (yield from entry_holds_nothing(s, r)):
            yield from entry_free(s, r, "closed")


HOLDS, READERS = "store/holds.h", "store/readers.c"
MIRRORS = (
    Mirror(HOLDS, hold_at),
    Mirror(HOLDS, hold_slot),
    Mirror(HOLDS, unhold),
    Mirror(HOLDS, hold_return),
    Mirror(READERS, hold_step),
    Mirror(READERS, entry_free, aliases=(("holds", "words"),), ignored=frozenset({"since"})),
    Mirror(READERS, entry_holds_nothing),
    Mirror(READERS, entries_tidy),
    Mirror("store/collect.c", look_at_holds),
)

"""Freeing what is dead and not held, by a writer or for one: collect.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mirror import Mirror
from ..park.words import OPEN
from ..steps import (
    Step,
    choose,
    full_fence,
    get,
    get_acquire,
    os_membarrier,
    put,
    put_and,
    put_or,
    put_release,
)
from .holds import look_at_holds
from .lists import expire, key_gone, lists_build, store_turn
from .words import (
    FREE,
    LEAVING,
    NONE,
    REVOKED,
    STORED,
    WRITER,
    Lists,
    Store,
    X,
    block_free,
    place_is,
    replaceable,
)

if TYPE_CHECKING:
    from ..steps import Steps


@replaceable
def fence_readers(s: Store, at: Lists) -> Steps:
    """Return the lists, and whether all readers have executed a fence since."""
    yield from os_membarrier(*(() if s.refused else s.others))
    if not s.refused:
        return at, True
    yield put(("fences",), 1)
    yield full_fence()
    if at.fences == 0:
        yield put(("fences_since",), 1)
    if at.fences == 1:  # 10 ms have passed: what was buffered then is seen by now
        for other in s.others:
            yield Step("interrupt", other)
    return at._replace(fences=at.fences + 1), at.fences > 0


@replaceable
def free_chunk(s: Store, slot: int) -> Steps:
    """Return whether it is free; an extent may have to wait."""
    block = yield get(("offset", slot))
    if s.extents and (yield choose(False, True)):
        return False
    if block is not NONE and (yield from place_is(block, (STORED, slot))):
        yield from block_free(block)
    yield put_release(("word", slot), (FREE, 0))
    return True


def deletions_end(s: Store, at: Lists) -> Steps:
    """Take the keys away of which a deletion is the newest."""
    for key in sorted({c.key for c in at.live if c.block is NONE}):
        if at.chain(key)[-1].block is NONE:
            at = yield from key_gone(s, at, key)
    return at


def slot_free(s: Store, at: Lists, slot: int) -> Steps:
    """Return the lists, and whether a slot that nobody holds is free, with its block."""
    if not (yield from free_chunk(s, slot)):
        return at, False
    return at._replace(free=(*at.free, slot)), True


def spare_drop(s: Store, at: Lists) -> Steps:
    if not at.spares:
        return at
    spare = at.spares[-1]
    at, freed = yield from slot_free(s, at._replace(spares=at.spares[:-1]), spare[0])
    return at if freed else at._replace(dead=(*at.dead, spare))


@replaceable
def collect(s: Store, at: Lists, spared: int = 0) -> Steps:
    at = yield from expire(s, at)
    at = yield from store_turn(s, at)
    at = yield from deletions_end(s, at)
    for _ in at.spares:
        at = yield from spare_drop(s, at)
    if not at.dead:
        return at
    for slot, version in at.dead:
        if (yield get(("word", slot))) != (LEAVING, version):
            yield put_release(("word", slot), (LEAVING, version))
    at, fenced = yield from fence_readers(s, at)
    if not fenced:
        return at
    held = yield from look_at_holds(s)
    for slot, version in at.dead:
        if slot in held:
            continue
        if len(at.spares) < spared and (yield get(("offset", slot))) is not NONE:
            at, gone = at._replace(spares=(*at.spares, (slot, version))), True
        else:
            at, gone = yield from slot_free(s, at, slot)
        if gone:
            at = at._replace(dead=tuple(pair for pair in at.dead if pair[0] != slot))
    return at._replace(held=len(at.dead))


@replaceable
def collect_alone(s: Store) -> Steps:
    before = yield get(("collector",))
    yield put(("collector",), s.me)
    at = yield from lists_build(s)
    if at is NONE:
        yield put(("collector",), before)
        return
    yield from collect(s, at)
    yield put_release(("collector",), NONE)


def collect_completed(s: Store) -> Steps:
    if (yield get(("collector",))) is not NONE:
        yield put(("collector",), NONE)


# For a writer that lives --------------------------------------------------------------------------


def participant_settled(who: str) -> Steps:
    """Look again any number of times, or give up."""
    while (yield get_acquire(("busy", who))) != 0:
        if (yield choose("looks again", "gives up")) == "gives up":
            return False
    return True


@replaceable
def store_reclaim(s: Store) -> Steps:
    """Collect if the writer, if there is one, can be kept outside; under the lock."""
    state, holder = yield get_acquire(("holder", X, WRITER))
    if state != OPEN:
        yield from collect_alone(s)
        return
    was = yield put_or(("flags",), REVOKED)
    yield from os_membarrier(*(() if s.refused else s.others))
    if not s.refused and (yield from participant_settled(holder)):
        yield from collect_alone(s)
    elif not was & REVOKED:
        yield put_and(("flags",), ~REVOKED)


COLLECT = "store/collect.c"
MIRRORS = (
    # In C membarrier may be refused from some time on.
    Mirror(COLLECT, fence_readers),
    Mirror(COLLECT, free_chunk, calls=frozenset({"block_free", "place_is"})),
    Mirror(COLLECT, slot_free),
    Mirror(COLLECT, spare_drop),
    Mirror(COLLECT, deletions_end),
    Mirror(COLLECT, collect, ignored=frozenset({"collections"})),
    Mirror(COLLECT, collect_alone),
    Mirror(COLLECT, collect_completed),
    Mirror("segment/participant.c", participant_settled),
    Mirror(COLLECT, store_reclaim),
)

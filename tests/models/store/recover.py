"""Recovering the dead: recover.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..park.park import bell_ring
from ..park.words import DIED, OPEN
from ..steps import full_fence, get, now, put_and, put_release
from .bells import bells_tell_all
from .collect import collect_alone, collect_completed, free_chunk
from .holds import entry_free
from .lists import cell_clear, cell_put, chains_build, lists_build, snapshot, store_turn
from .words import (
    LEAVING,
    NONE,
    PREPARED,
    REVOKED,
    SENT,
    STORED,
    WRITER,
    Chunk,
    Lists,
    Store,
    X,
    entry_of,
    place_is,
    replaceable,
)

if TYPE_CHECKING:
    from ..steps import Steps, View

__all__ = ["chains_build"]


def holds_it(view: View, block: int, origin: Any) -> Any:
    """Return whether the place in the ring with that tag still has the block."""
    there = (
        origin is not NONE
        and origin[0] == SENT
        and ("slot",) in view
        and view["slot",] == ("FULL", block)
    )
    return {}, there


@replaceable
def give_back(s: Store, slot: int) -> Steps:
    origin = yield get(("died", slot))
    block = yield get(("offset", slot))
    if block is NONE or not (yield from place_is(block, (STORED, slot))):
        return
    if (yield now("does the ring have it?", holds_it, block, origin)):
        yield put_release(("tag", block), origin)


@replaceable
def cell_undo(s: Store, at: Lists, c: Chunk, older: Any) -> Steps:
    """Let the cell of a pending slot lead to what it was about to replace."""
    number = next((i for i, word in enumerate(at.table) if word == (c.key, c.slot)), NONE)
    if number is NONE:
        return at
    before = next((b for b in at.live if b.slot == older), NONE)
    if before is not NONE and before.version <= at.head and before.key == c.key:
        return (yield from cell_put(s, at, number, c.key, before.slot))
    return (yield from cell_clear(s, at, number))


def prepared(view: View, s: Store) -> Any:
    return {}, tuple(slot for _, slot in view.names("word") if view["word", slot][0] == PREPARED)


@replaceable
def undo(s: Store, at: Lists, older: tuple[Any, ...]) -> Steps:
    ready = yield now("looks what is prepared", prepared, s)
    pending = {c.slot: c for c in at.live if c.version > at.head}
    for slot in range(len(older)):
        if slot in ready:
            yield from give_back(s, slot)
            yield from free_chunk(s, slot)
        elif slot in pending:
            at = yield from cell_undo(s, at, pending[slot], older[slot])
            yield from give_back(s, slot)
            yield put_release(("word", slot), (LEAVING, pending[slot].version))
    return at._replace(live=tuple(c for c in at.live if c.slot not in pending))


@replaceable
def log_complete(s: Store, at: Lists) -> Steps:
    length = s.log * at.pieces
    for c in at.live:
        if at.head - c.version < length:
            right = (c.version, NONE if c.block is NONE else c.slot)
            if (yield get(("log", *entry_of(s, at.pieces, c.version)))) != right:
                yield put_release(("log", *entry_of(s, at.pieces, c.version)), right)
    for version in range(max(1, at.head - length + 1), at.head + 1):
        if (yield get(("log", *entry_of(s, at.pieces, version))))[0] != version:
            yield put_release(("log", *entry_of(s, at.pieces, version)), (version, NONE))


@replaceable
def ring_readers(s: Store) -> Steps:
    for r in s.readers:
        state, _ = yield get(("holder", X, r))
        if state == OPEN:
            yield from bell_ring(X, r)


def side_end(s: Store, state: str) -> Steps:
    """End the writer's side; a store's readers sit on seats of their own."""
    _, holder = yield get(("holder", X, WRITER))
    yield put_release(("holder", X, WRITER), (state, holder))
    yield full_fence()
    yield from bells_tell_all(s)


def side_recover(s: Store) -> Steps:
    yield from side_end(s, DIED)


@replaceable
def recover_writer(s: Store, dead: str) -> Steps:
    if (yield get(("holder", X, WRITER))) != (OPEN, dead):
        return
    at, older = yield now("looks at all slots", snapshot, s)
    at = yield from store_turn(s, at)
    at = yield from undo(s, at, older)
    yield from log_complete(s, at)
    yield from collect_alone(s)
    yield from ring_readers(s)
    yield from side_recover(s)


@replaceable
def recover_readers_of_dead(s: Store, dead: str) -> Steps:
    freed = False
    for r in s.readers:
        if (yield get(("holder", X, r))) == (OPEN, dead):
            yield from entry_free(s, r, DIED)
            freed = True
    if freed and (yield get(("holder", X, WRITER)))[0] != OPEN:
        yield from collect_alone(s)


@replaceable
def recover_collector(s: Store, dead: str) -> Steps:
    if (yield get(("collector",))) == dead:
        yield from collect_alone(s)


def take_side(s: Store) -> Steps:
    """Return the lists of a writer that claims the store."""
    at = yield from lists_build(s)
    yield from collect_completed(s)
    yield put_and(("flags",), ~REVOKED)
    return at


RECOVER = "store/recover.c"
MIRRORS = (
    Mirror(RECOVER, give_back),
    Mirror(RECOVER, cell_undo),
    Mirror(RECOVER, undo),
    Mirror(RECOVER, log_complete, aliases=(("entry", "log"),)),
    Mirror(RECOVER, ring_readers, calls=frozenset({"bell_ring"})),
    Mirror(RECOVER, recover_writer, calls=frozenset({"side_recover"})),
    Mirror(RECOVER, recover_readers_of_dead),
    Mirror(RECOVER, recover_collector),
    Mirror("store/store.c", take_side),
)

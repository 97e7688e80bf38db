"""What a writer has put and not committed, and growing: changes.c, tables.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..mirror import Mirror
from ..steps import get, put, put_and, put_release
from .bells import bell_fence, bells_of_cells
from .collect import collect, collect_completed, free_chunk, spare_drop
from .lists import lists_build
from .words import (
    FREE,
    LEAVING,
    NONE,
    OWN,
    PREPARED,
    REVOKED,
    STORED,
    Change,
    Lists,
    Store,
    entry_of,
    heap_lock,
    heap_unlock,
    participant_enter,
    participant_leave,
    place_is,
    replaceable,
    slots_of,
    table_of,
)

if TYPE_CHECKING:
    from ..steps import Steps


class Writer(NamedTuple):
    """Mirrors what changes in a writer's endpoint."""

    at: Lists
    changes: tuple[Change, ...] = ()


# Entering -----------------------------------------------------------------------------------------


@replaceable
def rebuild_lists(s: Store, w: Writer) -> Steps:
    yield from heap_lock(s.me)
    at = yield from lists_build(s)
    if at is not NONE:
        yield from collect_completed(s)
        yield put_and(("flags",), ~REVOKED)
    yield from heap_unlock()
    return w._replace(at=at)


def store_stopped(s: Store, w: Writer) -> Steps:
    return (yield from rebuild_lists(s, w))


@replaceable
def store_enter(s: Store, w: Writer) -> Steps:
    while True:
        yield from participant_enter(s)
        if not (yield get(("flags",))) & REVOKED:
            return w
        yield from participant_leave(s)
        w = yield from store_stopped(s, w)


# Growing ------------------------------------------------------------------------------------------


def cell_move(s: Store, at: Lists, word: Any) -> Steps:
    """Give a key of the old table its cell in the new one, which nobody uses yet."""
    number = next(i for i, found in enumerate(at.table) if found is NONE)
    yield put(("cell", table_of(s, at.pieces)[number]), word)
    return at._replace(table=(*at.table[:number], word, *at.table[number + 1 :]))


@replaceable
def log_fill(s: Store, at: Lists) -> Steps:
    length = s.log * at.pieces
    for version in range(max(1, at.head - length + 1), at.head + 1):
        yield put(("log", *entry_of(s, at.pieces, version)), (version, NONE))
    for c in at.live:
        if c.block is not NONE and at.head - c.version < length:
            yield put(("log", *entry_of(s, at.pieces, c.version)), (c.version, c.slot))


def store_prepare_piece(s: Store, at: Lists) -> Steps:
    """Return the lists with the next table, which is not published."""
    old = tuple(word for word in at.table if word is not NONE and word[1] is not NONE)
    pieces = at.pieces + 1
    at = at._replace(pieces=pieces, table=(NONE,) * len(table_of(s, pieces)))
    for word in old:
        at = yield from cell_move(s, at, word)
    yield from log_fill(s, at)
    return at


def store_publish_piece(at: Lists) -> Steps:
    yield put_release(("pieces",), at.pieces)


@replaceable
def grow(s: Store, w: Writer) -> Steps:
    yield from heap_lock(s.me)
    at = yield from store_prepare_piece(s, w.at)
    yield from store_publish_piece(at)
    more = tuple(range(slots_of(s, w.at.pieces), slots_of(s, at.pieces)))[::-1]
    yield from bell_fence(s)
    yield from bells_of_cells(s, w.at.pieces)
    yield from heap_unlock()
    return w._replace(at=at._replace(free=(*at.free, *more)))


@replaceable
def enter_with_slot(s: Store, w: Writer) -> Steps:
    while True:
        w = yield from store_enter(s, w)
        if w.at.free:
            return w
        if w.at.dead:
            w = w._replace(at=(yield from collect(s, w.at, s.spared)))
        if not w.at.free:
            w = w._replace(at=(yield from spare_drop(s, w.at)))
        if w.at.free:
            return w
        yield from participant_leave(s)
        w = yield from grow(s, w)


# Changes ------------------------------------------------------------------------------------------


@replaceable
def slot_fill(s: Store, at: int, key: str, block: Any, origin: Any) -> Steps:
    yield put(("offset", at), block)
    yield put(("hash", at), key)
    yield put(("died", at), origin)
    yield put_release(("word", at), (PREPARED, 0))


@replaceable
def change_add(s: Store, w: Writer, key: str, block: Any, origin: Any = NONE) -> Steps:
    """Add a change: a block of the writer's or one that a ring lends; none for a deletion."""
    w = yield from enter_with_slot(s, w)
    slot = w.at.free[-1]
    w = w._replace(at=w.at._replace(free=w.at.free[:-1]))
    yield from slot_fill(s, slot, key, block, origin or (OWN, s.me))
    if block is not NONE:
        yield put_release(("tag", block), (STORED, slot))
    yield from participant_leave(s)
    earlier = tuple(c._replace(superseded=c.superseded or c.key == key) for c in w.changes)
    return w._replace(changes=(*earlier, Change(slot, key, block, origin)))


def give_back(s: Store, change: Change) -> Steps:
    """Give a record that was not put back to where it came from."""
    if (yield from place_is(change.block, (STORED, change.slot))):
        yield put_release(("tag", change.block), change.origin)


@replaceable
def change_drop(s: Store, w: Writer, change: Change, record: bool = False) -> Steps:
    if record:
        yield from give_back(s, change)
    elif not (yield from free_chunk(s, change.slot)):
        yield put_release(("word", change.slot), (LEAVING, 0))
        return w._replace(at=w.at._replace(dead=(*w.at.dead, (change.slot, 0))))
    yield put_release(("word", change.slot), (FREE, 0))
    return w._replace(at=w.at._replace(free=(*w.at.free, change.slot)))


def changes_undo(s: Store, w: Writer) -> Steps:
    while w.changes:
        change = w.changes[-1]
        w = w._replace(changes=w.changes[:-1])
        w = yield from change_drop(s, w, change, change.origin is not NONE)
    return w


CHANGES, TABLES = "store/changes.c", "store/tables.c"
LOCK = frozenset({"heap_lock", "heap_unlock"})
MIRRORS = (
    Mirror(CHANGES, rebuild_lists, calls=LOCK),
    Mirror(CHANGES, store_stopped),
    Mirror("store/changes.h", store_enter),
    Mirror(TABLES, cell_move, aliases=(("word", "cell"),)),
    Mirror(TABLES, log_fill),
    Mirror(TABLES, store_prepare_piece),
    Mirror(TABLES, store_publish_piece, ignored=frozenset({"piece"})),
    Mirror(CHANGES, grow),
    Mirror(CHANGES, enter_with_slot),
    Mirror(CHANGES, slot_fill, ignored=frozenset({"size", "form", "key"})),
    Mirror(CHANGES, change_add),
    Mirror(CHANGES, give_back),
    Mirror(CHANGES, change_drop),
    Mirror(CHANGES, changes_undo),
    Mirror("segment/participant.h", participant_enter),
    Mirror("segment/participant.h", participant_leave),
)

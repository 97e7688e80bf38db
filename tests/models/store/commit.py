"""Making all changes of a writer one commit: commit.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import get, now, put, put_release
from .bells import bell_fence, bell_tell
from .changes import Writer, change_drop, store_enter
from .collect import collect
from .lists import bury, cell_find, cell_for, cell_put, chunk_gone, expire, tail_gone
from .words import (
    LIVE,
    NONE,
    Change,
    Chunk,
    Lists,
    Store,
    entry_of,
    participant_leave,
    replaceable,
    table_of,
)

if TYPE_CHECKING:
    from ..steps import Steps, View


# Room ---------------------------------------------------------------------------------------------


def evict(s: Store, at: Lists) -> Steps:
    """Take the oldest chunk away."""
    return (yield from chunk_gone(s, at, next(c for c in at.live if c.block is not NONE)))


def make_room(s: Store, w: Writer) -> Steps:
    """Make the commit fit the limit of the store; every change is a put of another key."""
    while s.most and len(w.at.live) + len(w.changes) > s.most:
        w = w._replace(at=(yield from evict(s, w.at)))
    return w


# Committing ---------------------------------------------------------------------------------------


@replaceable
def make_pending(s: Store, at: Lists, change: Change, version: int) -> Steps:
    chain = at.chain(change.key)
    yield put(("older", change.slot), chain[-1].slot if chain else NONE)
    yield put_release(("word", change.slot), (LIVE, version))


def enter_cell(s: Store, at: Lists, change: Change) -> Steps:
    """Return the lists, and the change with its cell."""
    number = cell_find(at, change.key)
    if number is NONE:
        number = cell_for(at)
    at = yield from cell_put(s, at, number, change.key, change.slot)
    return at, change._replace(cell=table_of(s, at.pieces)[number])


@replaceable
def log_put(s: Store, at: Lists, version: int, slot: Any) -> Steps:
    yield put_release(("log", *entry_of(s, at.pieces, version)), (version, slot))


@replaceable
def end_replaced(s: Store, at: Lists, change: Change, version: int) -> Steps:
    chain = at.chain(change.key)
    c = Chunk(change.slot, version, change.key, change.block)
    at = at._replace(live=(*at.live, c))
    if change.block is NONE:
        while at.chain(change.key)[0] != c:
            at = yield from tail_gone(s, at, change.key)
    elif chain and chain[-1].block is NONE:
        at = yield from bury(s, at, chain[-1])
    else:
        while len(at.chain(change.key)) > s.depth:
            at = yield from tail_gone(s, at, change.key)
    return at


def mark_idle(w: Writer) -> Writer:
    """Note which changes have no effect."""
    marked = []
    for change in w.changes:
        chain = w.at.chain(change.key)
        nothing = change.block is NONE and (not chain or chain[-1].block is NONE)
        marked.append(change._replace(superseded=change.superseded or nothing))
    return w._replace(changes=tuple(marked))


@replaceable
def taken(s: Store, change: Change) -> Steps:
    """Release the place in a ring from which the record has been forwarded."""
    yield put_release(("slot",), ("EMPTY", NONE))


@replaceable
def end_change(s: Store, w: Writer, change: Change) -> Steps:
    if change.superseded:
        w = yield from change_drop(s, w, change)
    if change.origin is not NONE:
        yield from taken(s, change)
    return w


def end_changes(s: Store, w: Writer) -> Steps:
    for change in w.changes:
        w = yield from end_change(s, w, change)
    return w


def committing(s: Store, at: Lists, changes: tuple[Change, ...]) -> Any:
    """Return the ghost of the store that commits: which versions each key has then."""
    first = at.head + 1 - len(changes)
    chains: tuple[Any, ...] = ()
    for key in s.keys:
        chain = tuple(c.version for c in at.chain(key))
        if at.chain(key) and at.chain(key)[-1].block is NONE:
            chain = ()
        for i, change in enumerate(changes):
            if change.key == key and not change.superseded:
                chain = () if change.block is NONE else (*chain, first + i)
        chains = (*chains, chain[-s.depth :])
    blocks = tuple((("by", first + i), c.block) for i, c in enumerate(changes))
    return ((("moment", at.head), chains), *blocks)


@replaceable
def commit_inside(s: Store, w: Writer) -> Steps:
    at, first = w.at, w.at.head + 1
    for i, change in enumerate(w.changes):
        if not change.superseded:
            yield from make_pending(s, at, change, first + i)
    changes: tuple[Change, ...] = ()
    for change in w.changes:
        if not change.superseded:
            at, change = yield from enter_cell(s, at, change)
        changes = (*changes, change)
    at = at._replace(head=at.head + len(changes))
    yield put_release(("head",), at.head, committing(s, at, changes))
    for i, change in enumerate(changes):
        chunk = not change.superseded and change.block is not NONE
        yield from log_put(s, at, first + i, change.slot if chunk else NONE)
    for i, change in enumerate(changes):
        if not change.superseded:
            at = yield from end_replaced(s, at, change, first + i)
    return Writer(at, changes)


@replaceable
def wake_readers(s: Store, changes: tuple[Change, ...]) -> Steps:
    yield from bell_fence(s)
    yield from bell_tell(s, ())
    for change in changes:
        if not change.superseded and change.cell is not NONE:
            yield from bell_tell(s, (change.cell,))


@replaceable
def collect_now(s: Store, w: Writer) -> Steps:
    w = yield from store_enter(s, w)
    w = w._replace(at=(yield from collect(s, w.at, s.spared)))
    yield from participant_leave(s)
    return w


def is_due(s: Store, at: Lists) -> bool:
    return len(at.dead) - at.held + len(at.spares) > s.garbage


@replaceable
def commit(s: Store, w: Writer, room: bool = True) -> Steps:
    w = yield from store_enter(s, w)
    w = w._replace(at=(yield from expire(s, w.at)))
    w = yield from make_room(s, w)
    if not room:
        yield from participant_leave(s)
        return w
    w = yield from commit_inside(s, mark_idle(w))
    yield from participant_leave(s)
    w = yield from end_changes(s, w)
    yield from wake_readers(s, w.changes)
    if is_due(s, w.at):
        w = yield from collect_now(s, w)
    return w._replace(changes=())


# A put in a spare ---------------------------------------------------------------------------------


@replaceable
def fill_spare(s: Store, at: Lists, slot: int, key: str, version: int) -> Steps:
    chain = at.chain(key)
    yield put(("hash", slot), key)
    yield put(("older", slot), chain[-1].slot if chain else NONE)
    yield put(("died", slot), NONE)
    yield put_release(("word", slot), (LIVE, version))


def end_before(s: Store, at: Lists, c: Chunk) -> Steps:
    chain = at.chain(c.key)
    at = at._replace(live=(*at.live, c))
    if chain and s.depth == 1:
        return (yield from bury(s, at, chain[-1]))
    while len(at.chain(c.key)) > s.depth:
        at = yield from tail_gone(s, at, c.key)
    return at


@replaceable
def commit_spare_inside(s: Store, at: Lists, slot: int, key: str) -> Steps:
    """Return the lists, and the change with its cell."""
    change = Change(slot, key, (yield get(("offset", slot))))
    yield from fill_spare(s, at, slot, key, at.head + 1)
    number = cell_find(at, key)
    at = yield from cell_put(s, at, number, key, slot)
    at = at._replace(head=at.head + 1)
    yield put_release(("head",), at.head, committing(s, at, (change,)))
    yield from log_put(s, at, at.head, slot)
    at = yield from end_before(s, at, Chunk(slot, at.head, key, change.block))
    return at, change._replace(cell=table_of(s, at.pieces)[number])


def overwritten(view: View, slot: int, key: str) -> Any:
    """Fill the block, whose bytes nobody looks at any more."""
    return {("data", view["offset", slot]): key}, NONE


def commit_spare(s: Store, w: Writer, key: str) -> Steps:
    """Return the writer, and whether a spare was there for a key that has a chunk."""
    if not w.at.spares:
        return w, False
    w = yield from store_enter(s, w)
    w = w._replace(at=(yield from expire(s, w.at)))
    chain = w.at.chain(key)
    if not w.at.spares or not chain or chain[-1].block is NONE:
        yield from participant_leave(s)
        return w, False
    slot = w.at.spares[-1][0]
    yield now("copies", overwritten, slot, key)
    at = w.at._replace(spares=w.at.spares[:-1])
    at, change = yield from commit_spare_inside(s, at, slot, key)
    w = w._replace(at=at)
    yield from participant_leave(s)
    yield from bell_fence(s)
    yield from bell_tell(s, ())
    yield from bell_tell(s, (change.cell,))
    if is_due(s, w.at):
        w = yield from collect_now(s, w)
    return w, True


COMMIT = "store/commit.c"
MIRRORS = (
    Mirror(COMMIT, evict),
    Mirror(COMMIT, make_room),
    Mirror(COMMIT, make_pending, ignored=frozenset({"time", "expires"})),
    Mirror(COMMIT, enter_cell),
    Mirror(COMMIT, log_put),
    Mirror(COMMIT, end_replaced),
    Mirror(COMMIT, end_change, calls=frozenset({"taken"})),
    Mirror(COMMIT, end_changes),
    Mirror(COMMIT, commit_inside),
    Mirror(COMMIT, wake_readers),
    Mirror(COMMIT, collect_now),
    Mirror(COMMIT, commit),
    Mirror(
        COMMIT,
        fill_spare,
        ignored=frozenset({"offset", "size", "expires", "time", "form", "key"}),
    ),
    Mirror(COMMIT, end_before),
    Mirror(COMMIT, commit_spare_inside),
    Mirror(COMMIT, commit_spare),
)

"""What a writer knows of its chunks, and taking chunks away: lists.c, cells.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import now, put, put_release, when
from .bells import bell_fence, bell_tell
from .words import (
    DEAD,
    FREE,
    LEAVING,
    LIVE,
    NONE,
    Chunk,
    Lists,
    Store,
    check,
    replaceable,
    slots_of,
    table_of,
)

if TYPE_CHECKING:
    from ..steps import Steps, View


# Cells --------------------------------------------------------------------------------------------


def cell_find(at: Lists, key: str) -> Any:
    """Return the number of a key's cell in the table, or none."""
    for i, word in enumerate(at.table):
        if word is NONE:
            return NONE
        if word[0] == key and word[1] is not NONE:
            return i
    return NONE


def cell_for(at: Lists) -> int:
    """Return the number of the cell that a new key gets."""
    return next(i for i, word in enumerate(at.table) if word is NONE or word[1] is NONE)


def in_table(at: Lists, number: int, word: Any) -> Lists:
    return at._replace(table=(*at.table[:number], word, *at.table[number + 1 :]))


@replaceable
def cell_put(s: Store, at: Lists, number: int, key: str, slot: int) -> Steps:
    yield put_release(("cell", table_of(s, at.pieces)[number]), (key, slot))
    return in_table(at, number, (key, slot))


@replaceable
def cell_clear(s: Store, at: Lists, number: int) -> Steps:
    cells = table_of(s, at.pieces)
    yield put_release(("cell", cells[number]), (at.table[number][0], NONE))
    at = in_table(at, number, (at.table[number][0], NONE))
    yield from bell_fence(s)
    yield from bell_tell(s, (cells[number],))
    if number + 1 < len(cells) and at.table[number + 1] is not NONE:
        return at
    while number >= 0 and at.table[number] is not NONE and at.table[number][1] is NONE:
        yield put(("cell", cells[number]), NONE)
        at = in_table(at, number, NONE)
        number -= 1
    return at


# Taking chunks away -------------------------------------------------------------------------------


@replaceable
def store_turn(s: Store, at: Lists) -> Steps:
    yield put_release(("epoch",), at.epoch + 1)
    return at._replace(epoch=at.epoch + 1)


@replaceable
def bury(s: Store, at: Lists, c: Chunk) -> Steps:
    yield put(("died", c.slot), "now")
    yield put_release(("word", c.slot), (DEAD, c.version))
    live = tuple(other for other in at.live if other != c)
    return at._replace(live=live, dead=(*at.dead, (c.slot, c.version)))


@replaceable
def key_gone(s: Store, at: Lists, key: str) -> Steps:
    number = cell_find(at, key)
    at = yield from store_turn(s, at)
    if number is not NONE:
        at = yield from cell_clear(s, at, number)
    while at.chain(key):
        at = yield from bury(s, at, at.chain(key)[-1])
    return at


def tail_gone(s: Store, at: Lists, key: str) -> Steps:
    return (yield from bury(s, at, at.chain(key)[0]))


@replaceable
def middle_gone(s: Store, at: Lists, c: Chunk) -> Steps:
    chain = at.chain(c.key)
    place = chain.index(c)
    at = yield from store_turn(s, at)
    yield put_release(("older", chain[place + 1].slot), chain[place - 1].slot)
    return (yield from bury(s, at, c))


def chunk_gone(s: Store, at: Lists, c: Chunk) -> Steps:
    """Take a chunk with a key away: it has expired, or is evicted."""
    chain = at.chain(c.key)
    if c == chain[-1]:
        return (yield from key_gone(s, at, c.key))
    if c != chain[0]:
        return (yield from middle_gone(s, at, c))
    return (yield from tail_gone(s, at, c.key))


def has_expired(view: View, live: tuple[Chunk, ...]) -> Any:
    return {}, next((c for c in live if c.version in view["gone",]), NONE)


def expire_some(s: Store, at: Lists) -> Steps:
    """Take away what has expired."""
    while c := (yield when("looks what has expired", has_expired, at.live)):
        at = yield from chunk_gone(s, at, c)
    return at


def expire(s: Store, at: Lists) -> Steps:
    """Do the same; in most models nothing expires."""
    return (yield from expire_some(s, at)) if s.expires else at


# Building -----------------------------------------------------------------------------------------


def snapshot(view: View, s: Store) -> Any:
    """Return what all slots and cells say, for one that is alone with them."""
    pieces = view["pieces",]
    slots = range(slots_of(s, pieces))
    at = Lists(
        free=tuple(slot for slot in slots if view["word", slot][0] == FREE)[::-1],
        dead=tuple(
            (slot, view["word", slot][1])
            for slot in slots
            if view["word", slot][0] in (DEAD, LEAVING)
        ),
        live=tuple(
            sorted(
                (
                    Chunk(slot, view["word", slot][1], view["hash", slot], view["offset", slot])
                    for slot in slots
                    if view["word", slot][0] == LIVE
                ),
                key=lambda c: c.version,
            )
        ),
        table=tuple(view["cell", i] for i in table_of(s, pieces)),
        head=view["head",],
        epoch=view["epoch",],
        pieces=pieces,
    )
    return {}, (at, tuple(view["older", slot] for slot in slots))


def chains_build(s: Store, at: Lists, older: tuple[Any, ...]) -> Any:
    """Return the slots of chunks to which a cell leads; none if one leads astray."""
    chunks = {c.slot: c for c in at.live}
    found: set[int] = set()
    for word in at.table:
        if word is NONE or word[1] is NONE:
            continue
        if word[1] not in chunks:
            return NONE
        c = chunks[word[1]]
        found.add(c.slot)
        for _ in range(s.depth - 1 if c.block is not NONE else 0):
            before = chunks.get(older[c.slot])
            if before is None or before.block is NONE or before.version >= c.version:
                break
            if before.key != c.key:
                break
            c = before
            found.add(c.slot)
    return frozenset(found)


@replaceable
def live_add(s: Store, at: Lists, found: frozenset[int]) -> Steps:
    lost = tuple(c for c in at.live if c.slot not in found)
    for c in lost:
        at = yield from bury(s, at, c)
    return at


def lists_build(s: Store) -> Steps:
    """Return the lists; none if the store is corrupt."""
    at, older = yield now("looks at all slots", snapshot, s)
    found = chains_build(s, at, older)
    if found is NONE or any(c.version > at.head for c in at.live):
        check("a sound store is taken for corrupt")
        return NONE
    return (yield from live_add(s, at, found))


LISTS = "store/lists.c"
CELL = (("word", "cell"),)
MIRRORS = (
    Mirror("store/cells.h", cell_put, aliases=CELL),
    Mirror("store/cells.c", cell_clear, aliases=CELL),
    Mirror(LISTS, store_turn),
    Mirror("store/lists.h", bury),
    Mirror(LISTS, key_gone),
    Mirror(LISTS, tail_gone),
    Mirror(LISTS, middle_gone),
    Mirror(LISTS, chunk_gone, ignored=frozenset({"bury"})),
    Mirror("store/lists.h", expire),
    Mirror(LISTS, expire_some, ignored=frozenset({"expired"})),
    Mirror(LISTS, live_add),
    Mirror(LISTS, lists_build),
)

"""Looking up: reader.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..mirror import Mirror
from ..steps import get, get_acquire, now
from .holds import hold_at, hold_free, hold_keep, hold_return, hold_slot, unhold
from .words import (
    ABSENT,
    AGAIN,
    FOUND,
    HOLDS,
    LIVE,
    NONE,
    Own,
    Store,
    check,
    replaceable,
    table_of,
)

if TYPE_CHECKING:
    from ..steps import Steps, View


class Look(NamedTuple):
    """Mirrors struct look: where a look led; and struct found, of what was found."""

    slot: Any = NONE
    word: Any = NONE
    cell: Any = NONE  # what led there
    back: bool = False


def follow_pieces(s: Store, o: Own) -> Steps:
    return o._replace(pieces=(yield get_acquire(("pieces",))))


def reader_follow(s: Store, o: Own) -> Steps:
    return (yield from follow_pieces(s, o))


def slot_has_key(slot: int, key: str) -> Steps:
    return (yield get(("hash", slot))) == key


@replaceable
def find_cell(s: Store, o: Own, key: str, word: int) -> Steps:
    """Return the endpoint, what the look for a key found, and where it led."""
    for cell in table_of(s, o.pieces):
        found = yield get_acquire(("cell", cell))
        if found is NONE:
            return o, ABSENT, Look()
        if found[0] != key or found[1] is NONE:
            continue
        slot = found[1]
        o, held = yield from hold_slot(s, o, word, slot)
        if held is NONE:
            return o, AGAIN, Look(slot, (yield get(("word", slot))), (cell, found))
        if (yield from slot_has_key(slot, key)):
            return o, FOUND, Look(slot, held, (cell, found))
        return o, AGAIN, Look(slot, held, (cell, found))
    return o, ABSENT, Look()


def older_of(slot: int) -> Steps:
    return (yield get_acquire(("older", slot)))


@replaceable
def go_back(s: Store, o: Own, key: str, word: int, head: int, look: Look) -> Steps:
    look = look._replace(back=True)
    while look.word[1] > head:
        version = look.word[1]
        older = yield from older_of(look.slot)
        if older is NONE:
            return o, ABSENT, look
        o, held = yield from hold_slot(s, o, word, older)
        look = look._replace(slot=older, word=held)
        if held is NONE or held[1] >= version:
            return o, AGAIN, look
        if not (yield from slot_has_key(older, key)):
            return o, AGAIN, look
    return o, FOUND, look


def is_over(slot: int) -> Steps:
    """Return whether it is a deletion. In models of expiring, what has expired may be found."""
    return (yield get(("offset", slot))) is NONE


@replaceable
def find_newest(s: Store, o: Own, key: str, word: int) -> Steps:
    doubt: Any = NONE
    while True:
        epoch = yield get_acquire(("epoch",))
        head = yield get_acquire(("head",))
        o = yield from follow_pieces(s, o)
        o, found, look = yield from find_cell(s, o, key, word)
        if found == FOUND and look.word[1] > head:
            o, found, look = yield from go_back(s, o, key, word, head, look)
        if look.back and found != AGAIN and (yield get_acquire(("epoch",))) != epoch:
            continue
        if found != AGAIN:
            return o, found, look
        if doubt == (look.cell, look.word, epoch):
            check(f"{s.me} takes the store for corrupt: {look}")
        doubt = (look.cell, look.word, epoch)


@replaceable
def find_at_once(s: Store, o: Own, key: str, word: int) -> Steps:
    """Do what find_newest() does, if the first look finds the key and nothing intervenes."""
    head = yield get_acquire(("head",))
    if (yield get_acquire(("pieces",))) != o.pieces:
        return o, NONE
    cell = table_of(s, o.pieces)[0]
    found = yield get_acquire(("cell", cell))
    if found is NONE or found[0] != key or found[1] is NONE:
        return o, NONE
    o, held = yield from hold_at(s, o, word, found[1])
    if held is NONE or held[1] > head or not (yield from slot_has_key(found[1], key)):
        return o, NONE
    return o, Look(found[1], held, (cell, found))


@replaceable
def get_in(s: Store, o: Own, key: str, word: int) -> Steps:
    o, look = yield from find_at_once(s, o, key, word)
    found = FOUND
    if look is NONE:
        o, found, look = yield from find_newest(s, o, key, word)
    if found == FOUND and not (yield from is_over(look.slot)):
        yield now("holds it", takes, s.me, word, look, key)
        return o, look.word[1]
    yield from unhold(s, word)
    return o, NONE


@replaceable
def reader_get(s: Store, o: Own, key: str) -> Steps:
    """Return the endpoint, and the hold word and version of the chunk that it has got."""
    word = hold_free(o)
    o, version = yield from get_in(s, o, key, word)
    return (o, NONE) if version is NONE else (hold_keep(o), (word, version))


def takes(view: View, r: str, word: int, look: Look, key: str) -> Any:
    """Note what a caller is given; from now on `held_is_stored` watches over it."""
    slot, version = look.slot, look.word[1]
    block = view["offset", slot]
    if version > view["head",]:
        check(f"{r} is given version {version}, which is not committed")
    if view["hash", slot] != key or view["data", block] != key:
        check(f"{r} is given {view['hash', slot]}, {view['data', block]} instead of {key}")
    if view["by", version] != block:
        check(f"{r} is given another chunk than the one that was committed as {version}")
    return {("has", r, word): (slot, block, version)}, NONE


def reader_release(s: Store, o: Own, word: int) -> Steps:
    """End a hold as the reader's own thread does."""
    yield from unhold(s, word)
    return (yield from hold_return(s, o, word))


# Several as of one moment -------------------------------------------------------------------------


def release_all(s: Store, o: Own, words: tuple[Any, ...]) -> Steps:
    for word in words:
        if word is not NONE:
            yield from unhold(s, word)
            o = yield from hold_return(s, o, word)
    return o


@replaceable
def get_at(s: Store, o: Own, key: str, head: int) -> Steps:
    if not o.free:
        return o, HOLDS, Look(), NONE
    word = hold_free(o)
    o, found, look = yield from find_cell(s, o, key, word)
    if found == FOUND and look.word[1] > head:
        o, found, look = yield from go_back(s, o, key, word, head, look)
    if found == FOUND and not (yield from is_over(look.slot)):
        yield now("holds it", takes, s.me, word, look, key)
        return hold_keep(o), FOUND, look, word
    if found == FOUND:
        found = ABSENT
    yield from unhold(s, word)
    return o, found, look, NONE


@replaceable
def get_all(s: Store, o: Own, keys: str) -> Steps:
    """Return the endpoint, and versions and hold words of all keys; none if it was overtaken."""
    epoch = yield get_acquire(("epoch",))
    head = yield get_acquire(("head",))
    versions: tuple[Any, ...] = ()
    words: tuple[Any, ...] = ()
    unsure = False
    o = yield from follow_pieces(s, o)
    for key in keys:
        o, found, look, word = yield from get_at(s, o, key, head)
        unsure = unsure or found == ABSENT or look.back
        if found == AGAIN:
            return (yield from release_all(s, o, words)), NONE, ()
        if found == HOLDS:
            return (yield from release_all(s, o, words)), HOLDS, ()
        versions = (*versions, look.word[1] if found == FOUND else NONE)
        words = (*words, word)
    if not unsure or (yield get_acquire(("epoch",))) == epoch:
        return o, versions, words
    return (yield from release_all(s, o, words)), NONE, ()


def ipcheap_store_get_many(s: Store, o: Own, keys: str) -> Steps:
    while True:
        o, versions, words = yield from get_all(s, o, keys)
        if versions is not NONE:
            return o, versions, words


@replaceable
def follow_older(s: Store, o: Own, key: str, look: Look) -> Steps:
    """Return the endpoint, and versions and hold words of what a held chunk leads to."""
    versions: tuple[int, ...] = ()
    words: tuple[int, ...] = ()
    for _ in range(s.depth - 1):
        version = look.word[1]
        older = yield from older_of(look.slot)
        word = hold_free(o)
        if older is NONE:
            break
        o, held = yield from hold_slot(s, o, word, older)
        look = Look(older, held)
        ours = held is not NONE and held[1] < version and (yield from slot_has_key(older, key))
        ours = ours and not (yield from is_over(older))
        if ours and held[0] == LIVE:
            yield now("holds it", takes, s.me, word, look, key)
            o = hold_keep(o)
            versions, words = (*versions, held[1]), (*words, word)
            continue
        if not ours:
            yield from unhold(s, word)
            break
    return o, versions, words


@replaceable
def history_once(s: Store, o: Own, key: str) -> Steps:
    epoch = yield get_acquire(("epoch",))
    head = yield get_acquire(("head",))
    o = yield from follow_pieces(s, o)
    o, found, look, word = yield from get_at(s, o, key, head)
    if found == AGAIN:
        return o, NONE, ()
    if found == ABSENT and not look.back:
        return o, (), ()
    versions: tuple[int, ...] = ()
    words: tuple[int, ...] = ()
    if found == FOUND:
        o, versions, words = yield from follow_older(s, o, key, look)
        versions, words = (look.word[1], *versions), (word, *words)
    o, found, again = yield from find_cell(s, o, key, 0)
    same = found == FOUND and again.cell == look.cell
    same = same and (not look.back or (yield get_acquire(("head",))) == head)
    yield from unhold(s, 0)
    yield from unhold(s, hold_free(o))
    if same and (yield get_acquire(("epoch",))) == epoch:
        return o, versions, words
    return (yield from release_all(s, o, words)), NONE, ()


# All keys -----------------------------------------------------------------------------------------


def look_at_cell(s: Store, o: Own, cell: int, pieces: int) -> Steps:
    """Return the endpoint, and the key and version to which a cell leads, or why there is none."""
    while True:
        found = yield get_acquire(("cell", cell))
        if found is NONE or found[1] is NONE:
            return o, ABSENT
        o = yield from follow_pieces(s, o)
        if o.pieces != pieces:
            return o, AGAIN
        o, held = yield from hold_slot(s, o, 0, found[1])
        if held is NONE or not (yield from slot_has_key(found[1], found[0])):
            continue
        o, there, look = yield from find_newest(s, o, found[0], 0)
        if there != FOUND or (yield from is_over(look.slot)):
            return o, ABSENT
        return o, (found[0], look.word[1])


def keys_once(s: Store, o: Own) -> Steps:
    o = yield from follow_pieces(s, o)
    entries: tuple[Any, ...] = ()
    for cell in table_of(s, o.pieces):
        o, entry = yield from look_at_cell(s, o, cell, o.pieces)
        if entry == AGAIN:
            return o, NONE
        entries = entries if entry == ABSENT else (*entries, entry)
    return o, entries


def ipcheap_store_keys(s: Store, o: Own) -> Steps:
    entries = NONE
    while entries is NONE:
        o, entries = yield from keys_once(s, o)
    yield from unhold(s, 0)
    return o, entries


READER = "store/reader.c"
MIRRORS = (
    Mirror(READER, follow_pieces),
    Mirror(READER, reader_follow),
    Mirror(READER, find_cell),
    Mirror(READER, older_of),
    Mirror(READER, go_back),
    Mirror(READER, find_newest),
    # In C it also ends a hold if the slot's offset is impossible.
    Mirror(READER, release_all),
    Mirror(READER, get_all),
    Mirror(READER, ipcheap_store_get_many),
    Mirror(READER, get_at),
    Mirror(READER, follow_older),
    Mirror(READER, history_once),
    Mirror(READER, find_at_once),
    Mirror(READER, get_in),
    Mirror(READER, reader_get),
    Mirror(READER, look_at_cell),
    Mirror(READER, keys_once),
    Mirror(READER, ipcheap_store_keys),
)

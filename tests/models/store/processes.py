"""Writers, readers and those that collect, claim and recover, as the models run them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..park.words import AWAKE, CLOSED, OPEN, ask_alive
from ..steps import (
    Violation,
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    now,
    put,
    put_release,
    when,
)
from .bells import bells_tell_all
from .changes import Writer, change_add, changes_undo
from .collect import collect_alone, store_reclaim
from .commit import commit, commit_spare
from .holds import entries_tidy, entry_free, hold_return, unhold
from .moments import as_of_one, asks, was_history
from .next import next_now
from .reader import history_once, ipcheap_store_get_many, ipcheap_store_keys, reader_get
from .recover import (
    recover_collector,
    recover_readers_of_dead,
    recover_writer,
    side_end,
    take_side,
)
from .words import (
    LIVE,
    NONE,
    SENT,
    WRITER,
    Own,
    Store,
    X,
    check,
    heap_lock,
    heap_unlock,
    recover_memory,
    replaceable,
    take_block,
)

if TYPE_CHECKING:
    from ..steps import Steps, View


# Writers ------------------------------------------------------------------------------------------


def is_dead(view: View, who: str) -> Any:
    return None if view["alive", who] else ({}, None)


def writes(s: Store, w: Writer, plan: tuple[tuple[str, ...], ...], ends: str = "") -> Steps:
    """Commit transactions: "A" puts, "-A" deletes, ">A" forwards a record."""
    for transaction in plan:
        if len(transaction) == 1 and transaction[0].isalpha():
            w, committed = yield from commit_spare(s, w, transaction[0])
            if committed:
                yield put(("done",), w.at.head)
                continue
        for what in transaction:
            if what[0] == "-":
                w = yield from change_add(s, w, what[1], NONE)
            elif what[0] == ">":
                w = yield from change_add(s, w, what[1], 0, (SENT, "ring"))
            else:
                block = yield when("allocates", take_block, s.me, what)
                w = yield from change_add(s, w, what, block)
        if ends == "undoes":
            w = yield from changes_undo(s, w)
        else:
            w = yield from commit(s, w)
        yield put(("done",), w.at.head)
    if ends == "closes":
        yield from heap_lock(s.me)
        yield from side_end(s, CLOSED)
        yield from heap_unlock()
    yield put(("over",), True)


def recovers(s: Store, dead: str) -> Steps:
    """Recover a participant, under the lock: writers first."""
    yield from recover_writer(s, dead)
    yield from recover_collector(s, dead)
    yield from recover_readers_of_dead(s, dead)
    yield from recover_memory(dead)


def claim(s: Store) -> Steps:
    """Return the lists of the new writer; under the lock."""
    at = yield from take_side(s)
    yield put_release(("holder", X, WRITER), (OPEN, s.me))
    yield full_fence()
    yield from bells_tell_all(s)
    return at


def succeeds(s: Store, dead: tuple[str, ...], plan: tuple[tuple[str, ...], ...]) -> Steps:
    """Wait for the death of a writer, recover it, claim and go on."""
    yield when("waits for a death", is_dead, dead[0], rest=True)
    yield from heap_lock(s.me)
    for one in dead:
        if not (yield now("is it alive?", ask_alive, one)):
            yield from recovers(s, one)
    at = yield from claim(s)
    yield from heap_unlock()
    yield put(("done",), at.head)
    yield from writes(s, Writer(at), plan)


def buries(s: Store, dead: str) -> Steps:
    """Recover a participant when it is dead."""
    yield when("waits for a death", is_dead, dead, rest=True)
    yield from heap_lock(s.me)
    yield from recovers(s, dead)
    yield from heap_unlock()


def reclaims(s: Store, times: int) -> Steps:
    """Collect for others, as a participant that is short of memory does."""
    for _ in range(times):
        yield from heap_lock(s.me)
        yield from store_reclaim(s)
        yield from heap_unlock()


def expires(versions: tuple[int, ...]) -> Steps:
    """Time passes."""
    for i in range(len(versions)):
        yield put(("gone",), versions[: i + 1])


# Readers ------------------------------------------------------------------------------------------


def gets(s: Store, keys: str, loose: bool = False) -> Steps:
    """Get one key after the other, and release each; `loose`: keys may go by themselves."""
    o = Own()
    for i in range(len(keys)):
        since = yield when("asks", asks)
        o, got = yield from reader_get(s, o, keys[i])
        if got is not NONE or not loose:
            yield from as_of_one(s, keys[i], (got and got[1],), since)
        if got is not NONE:
            o = yield from ipcheap_chunk_release(s, o, got[0])


def gets_many(s: Store, keys: str, times: int = 1) -> Steps:
    o = Own(free=(3, 2, 1)[-len(keys) :])
    for _ in range(times):
        since = yield when("asks", asks)
        o, versions, words = yield from ipcheap_store_get_many(s, o, keys)
        yield from as_of_one(s, keys, versions, since)
        for word in words:
            if word is not NONE:
                o = yield from ipcheap_chunk_release(s, o, word)


def gets_in_order(s: Store) -> Steps:
    """Get two keys, of which the first one goes first."""
    o, versions, words = yield from ipcheap_store_get_many(s, Own(free=(2, 1)), "AB")
    if versions[0] is not NONE and versions[1] is NONE:
        raise Violation(f"{s.me} finds only A, though A has expired first")
    for word in words:
        if word is not NONE:
            o = yield from ipcheap_chunk_release(s, o, word)


def gets_history(s: Store, key: str) -> Steps:
    o = Own(free=(4, 3, 2, 1))
    since = yield when("asks", asks)
    while True:
        o, versions, words = yield from history_once(s, o, key)
        if versions is not NONE:
            break
    if not (yield now("compares", was_history, s, key, versions[::-1], since)):
        raise Violation(f"{s.me} finds the history {versions[::-1]}")
    for word in words:
        o = yield from ipcheap_chunk_release(s, o, word)


def lists_keys(s: Store) -> Steps:
    """List the newest of all keys; each was so at a moment of its own."""
    since = yield when("asks", asks)
    _, entries = yield from ipcheap_store_keys(s, Own())
    for key, version in entries:
        yield from as_of_one(s, key, (version,), since)


def has_news(view: View, s: Store, o: Own) -> Any:
    """Wait until the next version is there, or none will come."""
    if view["over",] and view["head",] <= o.position:
        return {}, False
    return ({}, True) if view["head",] > o.position else None


def is_right(view: View, s: Store, version: int, since: int) -> Any:
    """Return whether a version was not replaced yet at that head."""
    moment = view["moment", since]
    return {}, version > since or any(version in chain for chain in moment)


def given(view: View, r: str, version: int) -> Any:
    return {("got", r): (*view["got", r], version)}, None


def follows(s: Store) -> Steps:
    """Take the next chunk until no more will come."""
    o, seen = Own(), 0
    while True:
        since = yield when("asks", asks)
        o, got = yield from next_now(s, o)
        if got is NONE:
            if not (yield when("waits", has_news, s, o, rest=True)):
                return
            continue
        if got[1] <= seen:
            check(f"{s.me} is given version {got[1]} after {seen}")
        if not (yield now("compares", is_right, s, got[1], since)):
            check(f"{s.me} is given version {got[1]}, which had been replaced")
        seen = got[1]
        yield now(f"is given {seen}", given, s.me, seen)
        o = yield from ipcheap_chunk_release(s, o, got[0])


# Releasing ----------------------------------------------------------------------------------------


def heap_try_lock(view: View, me: str) -> Any:
    owner = view["lock"]
    return ({}, False) if owner and view["alive", owner] else ({"lock": me}, True)


def is_deserted() -> Steps:
    return (yield get(("holder", X, WRITER)))[0] != OPEN


def clean_up(s: Store, closed: bool) -> Steps:
    if closed:
        yield from entries_tidy(s)
    if (yield from is_deserted()):
        yield from collect_alone(s)


def release_deserted(s: Store, slot: int) -> Steps:
    """Collect in the writer's place, after the release of a chunk that is not live."""
    if (yield get(("word", slot)))[0] == LIVE:
        return
    if (yield when("tries to lock", heap_try_lock, s.me)):
        yield from clean_up(s, False)
        yield from heap_unlock()


def release_here(s: Store, o: Own, word: int) -> Steps:
    """End a hold in the reader's own thread."""
    slot = yield get(("words", s.me, word))
    yield from unhold(s, word)
    o = yield from hold_return(s, o, word)
    yield compiler_fence()
    return o, slot


@replaceable
def ipcheap_chunk_release(s: Store, o: Own, word: int) -> Steps:
    o, slot = yield from release_here(s, o, word)
    if (yield from is_deserted()):
        yield from release_deserted(s, slot)
    return o


def ipcheap_chunk_release_beside(s: Store, o: Own, word: int) -> Steps:
    """Do the same under the heap's mutex, up to the look at the writer's seat."""
    o, slot = yield from release_here(s, o, word)
    if (yield from is_deserted()):
        yield from release_deserted(s, slot)
    return o


# A reader's seat ----------------------------------------------------------------------------------


def entry_take(s: Store, r: str) -> Steps:
    """Take an entry that is free; under the lock."""
    yield from entries_tidy(s)
    yield put(("closed", r), 0)


def leaves(s: Store, o: Own, word: Any = NONE) -> Steps:
    """Close the endpoint, while it holds a chunk or not."""
    if word is not NONE:
        yield put(("closed", s.me), 1)
        yield from unhold(s, word)
        if (yield when("tries to lock", heap_try_lock, s.me)):
            yield from clean_up(s, True)
            yield from heap_unlock()
        return
    yield from entry_free(s, s.me, CLOSED)


def sits_down(s: Store, key: str) -> Steps:
    """Claim an entry, get once, and close."""
    yield from heap_lock(s.me)
    yield from entry_take(s, s.me)
    yield put(("parked", X, s.me), AWAKE)
    yield put_release(("holder", X, s.me), (OPEN, s.me))
    yield full_fence()
    yield from heap_unlock()
    o = Own()
    since = yield when("asks", asks)
    o, got = yield from reader_get(s, o, key)
    yield from as_of_one(s, key, (got and got[1],), since)
    yield from leaves(s, o, got and got[0])


# When all is over ---------------------------------------------------------------------------------


def the_last(s: Store, dead: tuple[str, ...]) -> Steps:
    """Recover all that may be dead, and collect what is left."""
    for one in dead:
        if not (yield now("is it alive?", ask_alive, one)):
            yield from recovers(s, one)
    for r in s.readers:
        if (yield get_acquire(("holder", X, r)))[0] == OPEN:
            yield from entry_free(s, r, CLOSED)
    yield from collect_alone(s)
    yield from collect_alone(s)


RELEASE = "store/release.c"
MIRRORS = (
    Mirror(RELEASE, clean_up),
    Mirror(RELEASE, release_deserted, calls=frozenset({"heap_unlock"})),
    Mirror(RELEASE, release_here),
    Mirror(RELEASE, ipcheap_chunk_release, ignored=frozenset({"release_elsewhere"})),
    Mirror(RELEASE, ipcheap_chunk_release_beside, ignored=frozenset({"ipcheap_chunk_release"})),
)

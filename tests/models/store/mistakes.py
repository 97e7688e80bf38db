"""What must fail: the same protocol with one mistake."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..park.bell import arm, peer_is_lost, ring_self
from ..park.park import sleeper_fence
from ..park.words import ARMED, AWAKE, PARKED_BELL, PARKED_HERE, RUNG
from ..steps import (
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    now,
    os_futex_wake,
    os_membarrier,
    put,
    put_and,
    put_if,
    put_or,
    put_release,
)
from . import bells, changes, commit, wait
from . import recover as recovering
from .bells import bell_arm, wake_seats
from .changes import Writer, cell_move, log_fill, slot_fill
from .collect import collect_alone, fence_readers, free_chunk, participant_settled
from .commit import committing, end_replaced, enter_cell, log_put, make_pending
from .holds import hold_slot, look_at_holds, unhold
from .lists import bury, cell_clear, cell_find, store_turn
from .next import find_next, log_at
from .processes import follows, gets, gets_history, gets_in_order, gets_many
from .reader import (
    Look,
    find_cell,
    follow_older,
    follow_pieces,
    get_at,
    go_back,
    is_over,
    older_of,
    reader_follow,
    release_all,
    takes,
)
from .setups import all_given, forwarding, store, waiting, waiting_for
from .wait import recover_if_dead, sleep_once
from .waiters import parks, polls
from .words import (
    ABSENT,
    AGAIN,
    COUNT,
    DEAD,
    FOUND,
    FREE,
    LEAVING,
    LIVE,
    NONE,
    OWN,
    POLLING,
    REVOKED,
    SLEEPING,
    STORED,
    WRITER,
    Change,
    Chunk,
    Lists,
    Own,
    Store,
    X,
    block_free,
    entry_of,
    heap_lock,
    heap_unlock,
    participant_enter,
    participant_leave,
    slots_of,
    table_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model
    from ..steps import Steps
    from .wait import Sleeper


def nothing(*_: Any) -> Steps:
    """Leave the step out."""
    yield from ()


def the_same(s: Any, what: Any, *_: Any) -> Steps:
    """Leave the step out of a function that returns its second argument."""
    yield from ()
    return what


def rightly(s: Any) -> Any:
    """Return the store, or the endpoint, without mistakes."""
    if isinstance(s, Store):
        return s._replace(instead=())
    return s._replace(s=s.s._replace(instead=()))


# Holding ------------------------------------------------------------------------------------------


def hold_looking_first(s: Store, o: Own, word: int, slot: int) -> Steps:
    found = yield get_acquire(("word", slot))
    o, _ = yield from hold_slot(rightly(s), o, word, slot)
    return o, found if found[0] in (LIVE, DEAD) else NONE


def hold_by(*order: str) -> Any:
    """Mirror hold_at() in another order."""

    def hold_at(s: Store, o: Own, word: int, slot: int) -> Steps:
        fences = 0
        for what in order:
            if what == "fences":
                fences = yield get(("fences",))
            elif what == "used" and word >= o.used:
                o = o._replace(used=word + 1)
                yield put(("used", s.me), word + 1)
            elif what == "word":
                yield put_release(("words", s.me, word), slot)
            elif what == "fence" and fences:
                yield full_fence()
        found = yield get_acquire(("word", slot))
        if "used last" in order and word >= o.used:
            o = o._replace(used=word + 1)
            yield put(("used", s.me), word + 1)
        return o, found if found[0] in (LIVE, DEAD) else NONE

    return hold_at


def fence_only_here(s: Store, at: Lists) -> Steps:
    yield full_fence()
    return at, True


def fence_at_once(s: Store, at: Lists) -> Steps:
    """Believe that readers see `fences` immediately."""
    yield put(("fences",), 1)
    yield full_fence()
    return at, True


def hold_nothing(s: Store) -> Steps:
    yield from ()
    return ()


def collect_by(order: str) -> Any:
    """Mirror collect() with LEAVING, the membarrier and the look at holds in another order."""

    def collect(s: Store, at: Lists, spared: int = 0) -> Steps:
        s = rightly(s)
        held: tuple[Any, ...] = ()
        at = yield from store_turn(s, at)
        for what in order:
            if what == "l":
                for slot, version in at.dead:
                    yield put_release(("word", slot), (LEAVING, version))
            elif what == "m":
                at, _ = yield from fence_readers(s, at)
            elif what == "h":
                held = yield from look_at_holds(s)
        for slot, _ in at.dead:
            if slot not in held:
                yield from free_chunk(s, slot)
                at = at._replace(free=(*at.free, slot))
        return at._replace(dead=tuple(pair for pair in at.dead if pair[0] in held))

    return collect


def free_slot_first(s: Store, slot: int) -> Steps:
    block = yield get(("offset", slot))
    yield put_release(("word", slot), (FREE, 0))
    if block is not NONE and (yield get_acquire(("tag", block))) == (STORED, slot):
        yield from block_free(block)
    return True


# Committing ---------------------------------------------------------------------------------------


def commit_by(order: str) -> Any:
    """Mirror commit_inside() in another order: p pending, c cells, h head, l log, d dead."""

    def commit_inside(s: Store, w: Writer) -> Steps:
        at, first = w.at, w.at.head + 1
        changes = w.changes
        for what in order:
            entered: tuple[Change, ...] = ()
            for i, change in enumerate(changes):
                if what == "p":
                    yield from make_pending(s, at, change, first + i)
                elif what == "c":
                    at, change = yield from enter_cell(s, at, change)
                elif what == "h" and i == len(changes) - 1:
                    at = at._replace(head=at.head + len(changes))
                    ghosts = committing(s, at._replace(live=w.at.live), changes)
                    yield put_release(("head",), at.head, ghosts)
                elif what == "l":
                    slot = NONE if change.block is NONE else change.slot
                    yield from log_put(s, at, first + i, slot)
                elif what == "d":
                    at = yield from end_replaced(s, at, change, first + i)
                entered = (*entered, change)
            changes = entered
        return Writer(at, changes)

    return commit_inside


def commit_key_by_key(s: Store, w: Writer) -> Steps:
    """Store head once for each key."""
    at = w.at
    for i, change in enumerate(w.changes):
        yield from make_pending(s, at, change, at.head + 1 + i)
    for change in w.changes:
        at, _ = yield from enter_cell(s, at, change)
        at = at._replace(head=at.head + 1)
        ghosts = ()
        if change == w.changes[-1]:
            ghosts = committing(s, at._replace(live=w.at.live), w.changes)
        yield put_release(("head",), at.head, ghosts)
    for i, change in enumerate(w.changes):
        at = yield from end_replaced(s, at, change, w.at.head + 1 + i)
    return Writer(at, w.changes)


def pending_without_older(s: Store, at: Lists, change: Change, version: int) -> Steps:
    yield put(("older", change.slot), NONE)
    yield put_release(("word", change.slot), (LIVE, version))


def change_tagged_first(s: Store, w: Writer, key: str, block: Any, origin: Any = NONE) -> Steps:
    yield from participant_enter(s)
    slot = w.at.free[-1]
    yield put_release(("tag", block), (STORED, slot))
    yield from slot_fill(s, slot, key, block, origin or (OWN, s.me))
    yield from participant_leave(s)
    w = w._replace(at=w.at._replace(free=w.at.free[:-1]))
    return w._replace(changes=(*w.changes, Change(slot, key, block, origin)))


def key_gone_without_turning(s: Store, at: Lists, key: str) -> Steps:
    number = cell_find(at, key)
    if number is not NONE:
        at = yield from cell_clear(s, at, number)
    while at.chain(key):
        at = yield from bury(s, at, at.chain(key)[-1])
    return at


def middle_gone_without_turning(s: Store, at: Lists, c: Chunk) -> Steps:
    chain = at.chain(c.key)
    place = chain.index(c)
    yield put_release(("older", chain[place + 1].slot), chain[place - 1].slot)
    return (yield from bury(s, at, c))


def middle_gone_unlinked_last(s: Store, at: Lists, c: Chunk) -> Steps:
    """Leave the chain as it is: what is behind cannot be reached once the chunk is collected."""
    at = yield from store_turn(s, at)
    return (yield from bury(s, at, c))


# Reading ------------------------------------------------------------------------------------------


def get_by_a_later_head(s: Store, o: Own, key: str, word: int) -> Steps:
    while True:
        o = yield from follow_pieces(s, o)
        o, found, look = yield from find_cell(s, o, key, word)
        head = yield get_acquire(("head",))
        if found == FOUND and look.word[1] > head:
            o, found, look = yield from go_back(s, o, key, word, head, look)
        if found != AGAIN:
            return o, found, look


def get_without_head(s: Store, o: Own, key: str, word: int) -> Steps:
    while True:
        o, found, look = yield from find_cell(s, o, key, word)
        if found != AGAIN:
            return o, found, look


def back_without_versions(s: Store, o: Own, key: str, word: int, head: int, look: Look) -> Steps:
    """Believe whatever `older` leads to."""
    older = yield from older_of(look.slot)
    if older is NONE:
        return o, ABSENT, look._replace(back=True)
    o, held = yield from hold_slot(s, o, word, older)
    look = look._replace(slot=older, word=held, back=True)
    return o, (AGAIN if held is NONE else FOUND), look


def back_letting_go(s: Store, o: Own, key: str, word: int, head: int, look: Look) -> Steps:
    """Release a slot before looking where it leads."""
    yield from unhold(s, word)
    return (yield from go_back(rightly(s), o, key, word, head, look))


def get_all_one_by_one(s: Store, o: Own, keys: str) -> Steps:
    versions: tuple[Any, ...] = ()
    words: tuple[Any, ...] = ()
    for key in keys:
        head = yield get_acquire(("head",))
        o, found, look, word = yield from get_at(s, o, key, head)
        if found == AGAIN:
            return (yield from release_all(s, o, words)), NONE, ()
        versions = (*versions, look.word[1] if found == FOUND else NONE)
        words = (*words, word)
    return o, versions, words


def get_all_without_epoch(s: Store, o: Own, keys: str) -> Steps:
    head = yield get_acquire(("head",))
    versions: tuple[Any, ...] = ()
    words: tuple[Any, ...] = ()
    for key in keys:
        o, found, look, word = yield from get_at(s, o, key, head)
        if found == AGAIN:
            return (yield from release_all(s, o, words)), NONE, ()
        versions = (*versions, look.word[1] if found == FOUND else NONE)
        words = (*words, word)
    return o, versions, words


def history_by(*looks: str) -> Any:
    """Mirror history_once() without some of its looks in the end."""

    def history_once(s: Store, o: Own, key: str) -> Steps:
        epoch = yield get_acquire(("epoch",))
        head = yield get_acquire(("head",))
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
        same = True
        if "cell" in looks:
            o, found, again = yield from find_cell(s, o, key, 0)
            same = found == FOUND and again.cell == look.cell
        if "head" in looks:
            same = same and (not look.back or (yield get_acquire(("head",))) == head)
        if same and (yield get_acquire(("epoch",))) == epoch:
            return o, versions, words
        return (yield from release_all(s, o, words)), NONE, ()

    return history_once


# Following ----------------------------------------------------------------------------------------


def next_by(believes: Any) -> Any:
    """Mirror next_now(), which believes a slot by other signs."""

    def next_now(s: Store, o: Own) -> Steps:
        while True:
            o, found = yield from find_next(s, o)
            if found is NONE:
                return o, NONE
            version, slot = found
            o, held = yield from hold_slot(s, o, 1, slot)
            if held is not NONE and believes(held, version) and not (yield from is_over(slot)):
                key = yield get(("hash", slot))
                yield now("holds it", takes, s.me, 1, Look(slot, held), key)
                return o._replace(position=version, free=()), (1, held[1])
            o = o._replace(position=version)

    return next_now


def find_next_skipping(s: Store, o: Own) -> Steps:
    """Go on with what the log has."""
    written, slot = yield from log_at(s, o, o.position + 1)
    if written <= o.position:
        return o, NONE
    return o._replace(position=written - 1), (written, slot)


def scan_reading_head_last(s: Store, o: Own) -> Steps:
    o = yield from reader_follow(s, o)
    found: tuple[tuple[int, int], ...] = ()
    for slot in range(slots_of(s, o.pieces)):
        state, version = yield get(("word", slot))
        if state == LIVE and version > o.position:
            found = (*found, (version, slot))
    head = yield get_acquire(("head",))
    return o._replace(backlog=tuple(sorted(found, reverse=True)), scanned=head)


def scan_what_is_known(s: Store, o: Own) -> Steps:
    """Look at the slots of the pieces that were there before head was read."""
    head = yield get_acquire(("head",))
    found: tuple[tuple[int, int], ...] = ()
    for slot in range(slots_of(s, o.pieces)):
        state, version = yield get(("word", slot))
        if state == LIVE and o.position < version <= head:
            found = (*found, (version, slot))
    return o._replace(backlog=tuple(sorted(found, reverse=True)), scanned=head)


def log_complete_gaps_first(s: Store, at: Lists) -> Steps:
    for version in range(max(1, at.head - s.log + 1), at.head + 1):
        if (yield get(("log", *entry_of(s, 1, version))))[0] != version:
            yield put_release(("log", *entry_of(s, 1, version)), (version, NONE))
    yield from recovering.log_complete(rightly(s), at)


def grow_publishing_first(s: Store, w: Writer) -> Steps:
    yield from heap_lock(s.me)
    pieces = w.at.pieces + 1
    yield put_release(("pieces",), pieces)
    at = w.at._replace(pieces=pieces, table=(NONE,) * len(table_of(s, pieces)))
    for word in w.at.table:
        if word is not NONE:
            at = yield from cell_move(s, at, word)
    yield from log_fill(s, at)
    yield from heap_unlock()
    more = tuple(range(slots_of(s, pieces - 1), slots_of(s, pieces)))
    return w._replace(at=at._replace(free=(*at.free, *more)))


# Recovering ---------------------------------------------------------------------------------------


def undo_by(*order: str) -> Any:
    """Mirror undo() of a pending chunk in another order."""

    def undo(s: Store, at: Lists, older: tuple[Any, ...]) -> Steps:
        at_rightly = yield from recovering.undo(rightly(s), at._replace(live=()), older)
        for c in at.live:
            if c.version <= at.head:
                continue
            for what in order:
                if what == "cell":
                    at = yield from recovering.cell_undo(s, at, c, older[c.slot])
                elif what == "leaving":
                    yield put_release(("word", c.slot), (LEAVING, c.version))
                elif what == "free":
                    yield from free_chunk(s, c.slot)
        del at_rightly
        return at._replace(live=tuple(c for c in at.live if c.version <= at.head))

    return undo


def taken_before_commit(s: Store, w: Writer) -> Steps:
    for change in w.changes:
        if change.origin is not NONE:
            yield put_release(("slot",), ("EMPTY", NONE))
    return (yield from commit.commit_inside(rightly(s), w))


def slot_filled_without_origin(s: Store, at: int, key: str, block: Any, origin: Any) -> Steps:
    yield from slot_fill(rightly(s), at, key, block, (OWN, s.me))


def undoes_nothing(s: Store, tag: Any, block: int, origin: Any) -> Steps:
    yield from ()
    return False


# Collecting for others ----------------------------------------------------------------------------


def reclaim_by(*steps: str) -> Any:
    """Mirror store_reclaim() without some of its steps."""

    def store_reclaim(s: Store) -> Steps:
        _, holder = yield get_acquire(("holder", X, WRITER))
        was = yield put_or(("flags",), REVOKED)
        if "membarrier" in steps:
            yield from os_membarrier(*s.others)
        if "settled" not in steps or (yield from participant_settled(holder)):
            yield from collect_alone(s)
            if "clear" in steps:
                yield put_and(("flags",), ~REVOKED)
        elif not was & REVOKED:
            yield put_and(("flags",), ~REVOKED)

    return store_reclaim


def enter_looking_first(s: Store, w: Writer) -> Steps:
    while (yield get(("flags",))) & REVOKED:
        w = yield from changes.rebuild_lists(s, w)
    yield from participant_enter(s)
    return w


def rebuild_nothing(s: Store, w: Writer) -> Steps:
    yield from heap_lock(s.me)
    yield put_and(("flags",), ~REVOKED)
    yield from heap_unlock()
    return w


# Waking -------------------------------------------------------------------------------------------


def park_without_a_barrier(e: Sleeper) -> Steps:
    return (yield from wait.store_park(rightly(e)._replace(base=e.base._replace(others=()))))


def park_without_looking_again(e: Sleeper) -> Steps:
    while not (yield from wait.ready(e)):
        armed = yield from bell_arm(())
        yield put(("parked", X, e.base.side), PARKED_HERE)
        yield from sleeper_fence(e.base)
        yield from sleep_once(e, (), armed)
        yield put(("parked", X, e.base.side), AWAKE)
    return e


def park_arming_last(e: Sleeper) -> Steps:
    """Arm the bell after looking again."""
    while not (yield from wait.ready(e)):
        yield put(("parked", X, e.base.side), PARKED_HERE)
        yield from sleeper_fence(e.base)
        found = yield from wait.ready(e)
        armed = yield from bell_arm(())
        if not found:
            yield from sleep_once(e, (), armed)
        yield put(("parked", X, e.base.side), AWAKE)
    return e


def wake_by(*order: str) -> Any:
    """Mirror bell_wake() in another order, or without its count."""

    def bell_wake(s: Store, bell: Any) -> Steps:
        seen = yield get_acquire(("bell", *bell))
        if seen & POLLING and "seats" in order:
            yield from wake_seats(s)
        more = COUNT if "count" in order else 0
        yield put_if(("bell", *bell), seen, (seen + more) & ~(SLEEPING | POLLING))
        if seen & POLLING and "seats last" in order:
            yield from wake_seats(s)
        if seen & SLEEPING:
            while (yield os_futex_wake(("bell", *bell))) and "one" not in order:
                pass

    return bell_wake


def wait_before(*steps: str) -> Any:
    """Mirror before_waiting() without some of its steps."""

    def before_waiting(e: Sleeper) -> Steps:
        if (yield get(("parked", X, e.base.side))) == AWAKE:
            return
        if "count" in steps:
            yield from bells.bell_poll(())
        elif "poll" in steps:
            yield put_or(("bell",), POLLING)
        if "fence" in steps:
            yield from sleeper_fence(e.base)

    return before_waiting


def settle_polling_first(e: Sleeper) -> Steps:
    """Set POLLING before `parked`."""
    bell: Any = e.bell
    if (yield from wait.ready(e)):
        if bell.state != RUNG or bell.due:
            bell = yield from ring_self(e.base, bell)
        return e._replace(bell=bell), False
    yield from bells.bell_poll(())
    yield from sleeper_fence(e.base)
    if bell.state != ARMED or (yield get(("parked", X, e.base.side))) != PARKED_BELL:
        bell = yield from arm(e.base, bell, False)
    yield from peer_is_lost(e.base, lambda b, side, s=e.s: recover_if_dead(b, side, s))
    return e._replace(bell=bell), False


def fence_of_the_compiler(s: Store) -> Steps:
    yield compiler_fence()


def cell_clear_silently(s: Store, at: Lists, number: int) -> Steps:
    silent = ("bell_wake", nothing)
    return (yield from cell_clear(s._replace(instead=(silent,)), at, number))


def key_sleep_by(*looks: str) -> Any:
    """Mirror key_sleep() without some of its looks."""

    def key_sleep(e: Sleeper, key: str, newer: int) -> Steps:
        o, cell = yield from wait.reader_cell(e.s, e.o, key)
        bell = () if cell is NONE or "store" in looks else (cell,)
        if bell:
            yield put(("keyed",), 1)
        armed = yield from bell_arm(bell)
        yield put(("parked", X, e.base.side), PARKED_HERE)
        yield from sleeper_fence(e.base)
        e, there, again = e._replace(o=o), NONE, cell
        if "key" in looks:
            e, there = yield from wait.key_there(e, key, newer)
        if "cell" in looks:
            o, again = yield from wait.reader_cell(e.s, e.o, key)
        if there is NONE and again == cell:
            yield from sleep_once(e, bell, armed)
        yield put(("parked", X, e.base.side), AWAKE)
        return e, there

    return key_sleep


# Models -------------------------------------------------------------------------------------------


def one(*mistakes: tuple[str, Any], **how: Any) -> Callable[[], Model]:
    how = {"plan": (("A",), ("A",)), "readers": (partial(gets, keys="A"),)} | how
    return lambda: store("control", instead=mistakes, **how)


def two(*mistakes: tuple[str, Any], **how: Any) -> Callable[[], Model]:
    how = {
        "plan": (("A", "B"),),
        "chunks": ("A", "B"),
        "keys": "AB",
        "cells": 3,
        "slots": 4,
        "words": 3,
        "readers": (partial(gets_many, keys="AB"),),
    } | how
    return one(*mistakes, **how)


def follow(*mistakes: tuple[str, Any], **how: Any) -> Callable[[], Model]:
    how = {
        "plan": (("B",), ("B",), ("B",)),
        "keys": "AB",
        "cells": 2,
        "slots": 4,
        "readers": (follows,),
        "about": ("log",),
        "finally_": all_given,
    } | how
    return one(*mistakes, **how)


def history(*mistakes: tuple[str, Any], **how: Any) -> Callable[[], Model]:
    how = {
        "chunks": ("A", "A"),
        "depth": 2,
        "slots": 4,
        "words": 5,
        "readers": (partial(gets_history, key="A"),),
    } | how
    return one(*mistakes, **how)


def waits(*mistakes: tuple[str, Any], who: Any = (parks,), **how: Any) -> Callable[[], Model]:
    return lambda: waiting("control", *who, instead=mistakes, **how)


def waits_key(*mistakes: tuple[str, Any], **how: Any) -> Callable[[], Model]:
    return lambda: waiting_for("control", instead=mistakes, **how)


def gives(*mistakes: tuple[str, Any], **how: Any) -> Callable[[], Model]:
    return lambda: forwarding("control", instead=mistakes, **how)


W_DIES: dict[str, Any] = {"mortal": "W", "kills": 1}
MIDDLE: dict[str, Any] = {
    "plan": (("A",), ("A",)),
    "chunks": ("A", "A"),
    "depth": 3,
    "gone": (2,),
    "slots": 5,
    "readers": (partial(gets, keys="A", loose=True),),
    "about": ("older",),
}
GROWS: dict[str, Any] = {"plan": (("B",), ("A",)), "slots": 1, "pieces": 2, "blocks": 3}
BESIDE: dict[str, Any] = {
    "plan": (("A",),),
    "gone": (1,),
    "collects": 1,
    "slots": 4,
    "readers": (partial(gets, keys="A", loose=True),),
    "about": ("busy", "flags"),
}
KEYS: dict[str, Any] = {"plan": (("-A",), ("B",), ("A",)), "keys": "AB", "cells": 2, "slots": 4}
FENCED: dict[str, Any] = {"refused": True, "fenced": 2, "plan": (("A",),), "tso": True}
patient = partial(polls, unasked=0)

CONTROLS: dict[str, Callable[[], Model]] = {
    "looked at before it is held": one(("hold_at", hold_looking_first)),
    "used stored last": one(("hold_at", hold_by("word", "used last")), about=("used",)),
    "no membarrier": one(("fence_readers", fence_only_here), tso=True),
    "holds not looked at": one(("look_at_holds", hold_nothing)),
    "holds looked at before the membarrier": one(("collect", collect_by("lhm")), tso=True),
    "not LEAVING": one(("collect", collect_by("mh"))),
    "LEAVING after the membarrier": one(("collect", collect_by("mlh")), tso=True),
    "the slot freed before its block": one(("free_chunk", free_slot_first), **W_DIES),
    "fences: freed immediately": one(
        ("fence_readers", fence_at_once), refused=True, about=("fences",), tso=True
    ),
    "fences: not looked at": one(("hold_at", hold_by("used", "word")), **FENCED),
    "cells before LIVE": one(("commit_inside", commit_by("cphld"))),
    "head before cells": two(("commit_inside", commit_by("phcld"))),
    "dead before head": one(("commit_inside", commit_by("pcdhl"))),
    "no older on pending": one(("make_pending", pending_without_older)),
    "the tag before the slot": one(("change_add", change_tagged_first), **W_DIES),
    "each key with its own head": two(("commit_inside", commit_key_by_key)),
    "head read last": one(("find_newest", get_by_a_later_head), after=(("A",),), **W_DIES),
    "head not read": one(("find_newest", get_without_head)),
    "older believed without its version": two(
        ("go_back", back_without_versions), plan=(("A", "B"), ("B",)), slots=5
    ),
    "many: one by one": two(("get_all", get_all_one_by_one)),
    "many: absent without the epoch": two(("get_all", get_all_without_epoch), plan=(("-A", "B"),)),
    "many: a key goes without the epoch": two(
        ("key_gone", key_gone_without_turning),
        keys="ABC",
        slots=4,
        plan=(("C",),),
        gone=(1, 2),
        readers=(gets_in_order,),
    ),
    "history: the cell not looked at again": history(("history_once", history_by("head"))),
    "history: the commit of a pending chunk not noticed": history(
        ("history_once", history_by("cell"))
    ),
    "history: a chain is not mended": history(
        ("middle_gone", middle_gone_unlinked_last),
        plan=(("A",),),
        chunks=("A", "A", "A"),
        depth=3,
        gone=(2,),
        slots=5,
        about=("older",),
    ),
    "a chain is cut without the epoch": one(("middle_gone", middle_gone_without_turning), **MIDDLE),
    "log before head": follow(("commit_inside", commit_by("pclhd"))),
    "the dead are given": follow(
        ("next_now", next_by(lambda held, v: held[1] == v)), slots=5, garbage=9
    ),
    "a slot believed without its version": follow(
        ("next_now", next_by(lambda held, _: held[0] == LIVE))
    ),
    "the overtaken skip": follow(("find_next", find_next_skipping)),
    "scanned before head is read": follow(("scan", scan_reading_head_last)),
    "scanned as far as was known": follow(
        ("scan", scan_what_is_known), **GROWS | {"about": ("pieces", "log")}
    ),
    "the log is not completed": follow(
        ("log_complete", nothing), plan=(("A",), ("B",)), chunks=(), log=4, **W_DIES
    ),
    "the log is completed gaps first": follow(
        ("log_complete", log_complete_gaps_first), plan=(("A",),), chunks=(), **W_DIES
    ),
    "pieces before its table": one(
        ("grow", grow_publishing_first), keys="AB", cells=2, **GROWS | {"about": ("pieces",)}
    ),
    "recover: nothing is undone": one(("undo", undo_by()), **W_DIES),
    "recover: the cell stays": one(("undo", undo_by("leaving")), **W_DIES),
    "recover: LEAVING before the cell": one(("undo", undo_by("leaving", "cell")), **W_DIES),
    "recover: what is replaced stays": one(
        ("live_add", the_same), plan=(("A",),), readers=(), **W_DIES
    ),
    "forward: not given back": gives(("give_back", nothing)),
    "forward: taken before the commit": gives(("commit_inside", taken_before_commit)),
    "forward: its place not noted": gives(("slot_fill", slot_filled_without_origin)),
    "forward: never taken": gives(("taken", nothing), kills=0),
    "forward: the store not asked": gives(("store_awaits", undoes_nothing), split=True),
    "for another: no membarrier": one(
        ("store_reclaim", reclaim_by("settled")), tso=True, **BESIDE | {"readers": ()}
    ),
    "for another: busy not waited for": one(("store_reclaim", reclaim_by("membarrier")), **BESIDE),
    "for another: REVOKED cleared by the collector": one(
        ("store_reclaim", reclaim_by("membarrier", "settled", "clear")), **BESIDE
    ),
    "for another: REVOKED looked at before busy": one(
        ("store_enter", enter_looking_first), **BESIDE
    ),
    "for another: lists not rebuilt": one(("rebuild_lists", rebuild_nothing), **BESIDE),
    "a spare that is held": one(("look_at_holds", hold_nothing), spared=1),
    "a spare that another has freed": one(
        ("rebuild_lists", rebuild_nothing),
        **BESIDE | {"plan": (("A",), ("A",)), "gone": (), "readers": (), "spared": 1},
    ),
    "sleep: no membarrier": waits(("store_park", park_without_a_barrier)),
    "sleep: not looking again": waits(("store_park", park_without_looking_again)),
    "sleep: armed last": waits(("store_park", park_arming_last)),
    "sleep: no count": waits(("bell_wake", wake_by("seats")), who=(parks, parks), total=1),
    "sleep: only one woken": waits(
        ("bell_wake", wake_by("seats", "count", "one")), who=(parks,) * 2
    ),
    "sleep: no fence on the waker's side": waits(
        ("bell_fence", fence_of_the_compiler), fences=True
    ),
    "poll: not armed": waits(("before_waiting", wait_before("fence")), who=(patient,)),
    "poll: armed without a count": waits(
        ("before_waiting", wait_before("poll", "fence")), who=(patient, patient)
    ),
    "poll: no second fence": waits(
        ("before_waiting", wait_before("poll", "count")), who=(patient,)
    ),
    "poll: armed before parked": waits(
        ("bell_bring_in_line", settle_polling_first), who=(patient,)
    ),
    "poll: recovery does not ring": waits(
        ("ring_readers", nothing), who=(patient,), kills=1, blind=True
    ),
    "key: a cell goes in silence": waits_key(
        ("cell_clear", cell_clear_silently),
        plan=(("-A", "-B"), ("A",)),
        chunks=("B", "A"),
        newer=2,
        keys="BA",
        cells=3,
        slots=5,
    ),
    "key: the cell not looked at again": waits_key(("key_sleep", key_sleep_by("key")), **KEYS),
    "key: not looking again": waits_key(("key_sleep", key_sleep_by("cell")), plan=(("A",),)),
    "key: growth in silence": waits_key(
        ("bells_of_cells", nothing),
        keys="AB",
        cells=2,
        **GROWS | {"about": ("bell", "keyed", "pieces")},
    ),
}

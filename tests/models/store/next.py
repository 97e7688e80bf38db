"""Following versions in order: next.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import get, get_acquire, now
from .holds import hold_free, hold_keep, hold_slot, unhold
from .reader import Look, is_over, reader_follow, takes
from .words import LIVE, NONE, Own, Store, entry_of, replaceable, slots_of

if TYPE_CHECKING:
    from ..steps import Steps

NOTHING, CANDIDATE = "nothing", "candidate"


def log_at(s: Store, o: Own, version: int) -> Steps:
    return (yield get_acquire(("log", *entry_of(s, o.pieces, version))))


def log_mask(s: Store, o: Own) -> int:
    return s.log * o.pieces - 1


@replaceable
def next_is_there(s: Store, o: Own) -> Steps:
    if o.backlog or o.position < o.scanned:
        return True
    if (yield get(("pieces",))) != o.pieces:
        return (yield get_acquire(("head",))) > o.position
    written, _ = yield from log_at(s, o, o.position + 1)
    if written > o.position:
        return True
    head = yield get_acquire(("head",))
    return head > o.position and head - o.position > log_mask(s, o)


@replaceable
def scan(s: Store, o: Own) -> Steps:
    """Find all live versions after the position, up to head."""
    head = yield get_acquire(("head",))
    o = yield from reader_follow(s, o)
    found: tuple[tuple[int, int], ...] = ()
    for slot in range(slots_of(s, o.pieces)):
        state, version = yield get(("word", slot))
        if state == LIVE and o.position < version <= head:
            found = (*found, (version, slot))
    return o._replace(backlog=tuple(sorted(found, reverse=True)), scanned=head)


@replaceable
def find_next(s: Store, o: Own) -> Steps:
    """Return the endpoint, and the version and the slot of what may be live; or none."""
    while True:
        if o.backlog:
            return o._replace(backlog=o.backlog[:-1]), o.backlog[-1]
        if o.position < o.scanned:
            o = o._replace(position=o.scanned)
        o = yield from reader_follow(s, o)
        version = o.position + 1
        written, slot = yield from log_at(s, o, version)
        if written < version:
            head = yield get_acquire(("head",))
            if head < version or head - o.position <= log_mask(s, o):
                return o, NONE
        if written != version:
            o = yield from scan(s, o)
            continue
        if slot is not NONE:
            return o, (version, slot)
        o = o._replace(position=version)


@replaceable
def next_now(s: Store, o: Own) -> Steps:
    """Return the endpoint, and the hold word and version of the next live chunk."""
    word = hold_free(o)
    while True:
        o, following = yield from find_next(s, o)
        if following is NONE:
            break
        version, slot = following
        o, held = yield from hold_slot(s, o, word, slot)
        if held == (LIVE, version) and not (yield from is_over(slot)):
            key = yield get(("hash", slot))
            yield now("holds it", takes, s.me, word, Look(slot, held), key)
            return hold_keep(o)._replace(position=version), (word, version)
        o = o._replace(position=version)
    yield from unhold(s, word)
    return o, NONE


NEXT: Any = "store/next.c"
MIRRORS = (
    Mirror(NEXT, log_at),
    Mirror(NEXT, next_is_there, calls=frozenset({"log_at"})),
    Mirror(NEXT, scan),
    Mirror(NEXT, find_next, ignored=frozenset({"move_to"})),
    Mirror(NEXT, next_now),
)

"""A record that a ring lends and a store is given: the store's half, and the ring's recovery."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..park.words import OPEN, ask_alive
from ..steps import get, get_acquire, now, put, put_release, when
from .moments import accounted
from .processes import is_dead, recovers
from .words import (
    LIVE,
    PREPARED,
    SENT,
    STORED,
    WRITER,
    Store,
    X,
    heap_lock,
    heap_unlock,
    replaceable,
)

if TYPE_CHECKING:
    from ..steps import Steps, View

HERE = (SENT, "ring")
BLOCK = 0
RING = {("slot",): ("FULL", BLOCK), ("tag", BLOCK): HERE, ("data", BLOCK): "A"}


@replaceable
def store_awaits(s: Store, tag: Any, block: int, origin: Any) -> Steps:
    """Return whether the store's writer is dead and had not committed the block."""
    state, holder = yield get_acquire(("holder", X, WRITER))
    if tag[0] != STORED or state != OPEN:
        return False
    if (yield now("is it alive?", ask_alive, holder)):
        return False
    found, version = yield get(("word", tag[1]))
    pending = found == PREPARED or (found == LIVE and version > (yield get_acquire(("head",))))
    there = yield get(("offset", tag[1]))
    return pending and there == block and (yield get(("died", tag[1]))) == origin


def is_half_forwarded(s: Store, tag: Any, block: int, here: Any) -> Steps:
    return (yield from store_awaits(s, tag, block, here))


@replaceable
def recover_consumer(s: Store) -> Steps:
    """Recover the consumer of a ring of one slot, as ring/recover.py does."""
    state, block = yield get_acquire(("slot",))
    if state != "FULL":
        return
    if (yield from is_half_forwarded(s, (yield get(("tag", block))), block, HERE)):
        yield put(("tag", block), HERE)
    if (yield get(("tag", block))) != HERE:
        yield put_release(("slot",), ("EMPTY", None))


def buries_consumer(s: Store, writer: str) -> Steps:
    """Recover the participant that was the consumer; its thread ended with that of the writer."""
    yield when("waits for a death", is_dead, writer, rest=True)
    yield from heap_lock(s.me)
    yield from recover_consumer(s)
    yield from heap_unlock()


def the_last_of_both(s: Store, dead: tuple[str, ...]) -> Steps:
    from .processes import the_last

    if not (yield now("is it alive?", ask_alive, "W")):
        yield from recovers(s, "W")
        yield from recover_consumer(s)
    yield from the_last(s, dead)


def in_one_place(view: View) -> str | None:
    """Check that the record is in the ring or in the store, or was replaced there."""
    in_ring = view["slot",][0] == "FULL"
    if in_ring != (view["tag", BLOCK] == HERE):
        return f"the ring's slot is {view['slot',]}, and the block {view['tag', BLOCK]}"
    if not in_ring and view["head",] == 0:
        return "the record is neither in the ring nor in the store"
    if not in_ring:
        return accounted(view)
    if view["done",] > 0 and view["alive", "W"]:
        return "the put has returned, and the record is still in the ring"
    return None


MIRRORS = (
    Mirror("store/recover.c", store_awaits),
    Mirror(
        "record/recover.c",
        recover_consumer,
        aliases=(("word", "slot"),),
        ignored=frozenset({"position"}),
        calls=frozenset({"is_half_forwarded"}),
    ),
)

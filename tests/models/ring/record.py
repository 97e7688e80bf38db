"""Sending and receiving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..mirror import Mirror
from ..steps import View, Violation, compiler_fence, get, get_acquire, put, put_release, when
from .recover import recover_if_dead
from .world import (
    CLOSED,
    CONSUMER,
    DESERTED,
    DONE,
    EMPTY,
    FULL,
    GONE,
    OPEN,
    OWN,
    PRODUCER,
    RECEIVED,
    RELEASED,
    SENT,
    Channel,
    World,
    block_free,
    is_alive,
    place_is,
    take_block,
)

if TYPE_CHECKING:
    from ..steps import Steps


# Sending ------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """What a producer knows of its next slot."""

    writable: bool = False
    released: Any = None


def collect_slot(c: Channel, position: int, word: Any) -> Steps:
    if (yield from place_is(word[2], c.sent_tag(position - c.slots))):
        yield from block_free(word[2])


def look_at_slot(c: Channel, position: int) -> Steps:
    """Return whether the slot is writable, and its word if a block came back in it."""
    word = yield get_acquire(("word", *c.slot(position)))
    writable = word[0] != FULL and word[1] == c.lap(position)
    return Seen(writable, word if writable and word[0] == RELEASED else None)


def free_released(c: Channel, position: int, seen: Seen) -> Steps:
    if seen.released:
        yield from collect_slot(c, position, seen.released)


def fill_slot(c: Channel, position: int, block: int, number: int) -> Steps:
    tag = yield get(("tag", block))
    yield put(("from", c.name), tag)
    yield put(("intent", c.name), block)
    yield put_release(("tag", block), c.sent_tag(position))
    yield put(("size", *c.slot(position)), number)
    yield put_release(("word", *c.slot(position)), c.full(position, block), sent_now(c, number))
    yield put(("intent", c.name), None)
    yield put_release(("position", c.name, PRODUCER), position + 1)


def sent_now(c: Channel, number: int) -> Any:
    """Return the ghosts of the store that sends a record."""
    published = ((("published", c.name), number + 1),)
    return (*published, (("done", number), (SENT, c.name)))


def room(view: View, c: Channel, position: int) -> Any:
    """Return what ends the producer's wait, or None."""
    word = view["word", *c.slot(position)]
    if word[0] != FULL and word[1] == c.lap(position):
        return {}, "room"
    state, holder = view["holder", c.name, CONSUMER]
    return ({}, "dead") if state == OPEN and not is_alive(view, holder) else None


def not_dead(view: View, c: Channel, side: int) -> Any:
    state, holder = view["holder", c.name, side]
    return None if state == OPEN and not is_alive(view, holder) else ({}, None)


def wait_for_slot(world: World, me: str, c: Channel, position: int, seen: Seen) -> Steps:
    """Return what was seen of the slot once it is writable."""
    while not seen.writable:
        seen = yield from look_at_slot(c, position)
        if seen.writable:
            break
        found = yield when("waits for room", room, c, position, rest=True)
        if found == "dead":
            if not world.watchful:
                yield when("waits for the next consumer", not_dead, c, CONSUMER, rest=True)
            yield from recover_if_dead(world, me, c, CONSUMER)
    return seen


def enter_slot(world: World, me: str, c: Channel, position: int, seen: Seen) -> Steps:
    seen = yield from wait_for_slot(world, me, c, position, seen)
    yield from free_released(c, position, seen)


def send_one(
    world: World,
    me: str,
    c: Channel,
    position: int,
    seen: Seen,
    block: int,
    number: int,
    held: Any = None,
    fill_slot: Any = fill_slot,
) -> Steps:
    """Return what is seen of the next slot."""
    yield from enter_slot(world, me, c, position, seen)
    yield from fill_slot(c, position, block, number)
    seen = yield from look_at_slot(c, position + 1)
    yield from free_released(c, position + 1, seen)
    if held is not None:
        origin, at = held
        yield from slot_let_go(origin, at, EMPTY, None)
    return Seen(seen.writable)


# Sending copies -----------------------------------------------------------------------------------


def copied(view: View, block: int, number: int) -> Any:
    """Fill a block, in one step: its contents are private to the producer that fills it."""
    return {("data", block): number}, None


def refill_slot(c: Channel, position: int, word: Any, number: int) -> Steps:
    """Return whether a block that came back was filled."""
    if word[0] != RELEASED or word[1] != c.lap(position):
        return False
    if (yield get(("tag", word[2]))) != c.sent_tag(position - c.slots):
        return False
    yield when(f"copies {number}", copied, word[2], number)
    yield put(("tag", word[2]), c.sent_tag(position))
    yield put(("size", *c.slot(position)), number)
    return True


def refill_slots(
    c: Channel,
    position: int,
    released: Any,
    number: int,
    most: int,
    refill_slot: Any = refill_slot,
) -> Steps:
    """Return how many were sent, and what is seen of the slot after them."""
    words: tuple[Any, ...] = ()
    word = released
    while (yield from refill_slot(c, position + len(words), word, number + len(words))):
        words = (*words, word)
        if len(words) == min(most, c.slots):
            break
        word = yield get_acquire(("word", *c.slot(position + len(words))))
    i = 0
    while i < len(words):
        full = c.full(position + i, words[i][2])
        yield put_release(("word", *c.slot(position + i)), full, sent_now(c, number + i))
        i += 1
    if not words:
        return 0, Seen()
    yield put_release(("position", c.name, PRODUCER), position + len(words))
    return len(words), (yield from look_at_slot(c, position + len(words)))


def send_new(world: World, me: str, c: Channel, position: int, seen: Seen, number: int) -> Steps:
    """Return what is seen of the next slot."""
    block = yield when(f"allocates for {number}", take_block, world, me, number, rest=True)
    yield from enter_slot(world, me, c, position, seen)
    yield from fill_slot(c, position, block, number)
    return (yield from look_at_slot(c, position + 1))


def send_copies(
    world: World,
    me: str,
    c: Channel,
    position: int,
    seen: Seen,
    number: int,
    most: int,
    refill_slots: Any = refill_slots,
) -> Steps:
    """Return how many were sent, one at least, and what is seen of the slot after them."""
    seen = yield from wait_for_slot(world, me, c, position, seen)
    if seen.released:
        went, after = yield from refill_slots(c, position, seen.released, number, most)
        if went:
            return went, after
    return 1, (yield from send_new(world, me, c, position, seen, number))


# Receiving ----------------------------------------------------------------------------------------


def slot_leave(
    c: Channel, position: int, state: str, block: int | None, number: int | None = None
) -> Steps:
    ghosts = () if number is None else ((("done", number), DONE),)
    yield put_release(("word", *c.slot(position)), (state, c.lap(position) + 1, block), ghosts)


def slot_let_go(
    c: Channel, position: int, state: str, block: int | None, number: int | None = None
) -> Steps:
    yield from slot_leave(c, position, state, block, number)


def take_out(me: str, c: Channel, position: int, block: int, number: int) -> Steps:
    yield put(("tag", block), (OWN, me), ((("done", number), DONE),))
    yield from slot_let_go(c, position, EMPTY, None)


def free(me: str, c: Channel, position: int, block: int, number: int) -> Steps:
    """Mirror ipcheap_free() of a received record."""
    flags = yield get(("flags", c.name))
    if not flags & (DESERTED | GONE):
        yield from slot_let_go(c, position, RELEASED, block, number)
        return
    yield from take_out(me, c, position, block, number)
    yield from block_free(block)


def detach(me: str, c: Channel, position: int, block: int, number: int) -> Steps:
    """Take out the record that the consumer holds in the slot that it waits for."""
    yield from take_out(me, c, position, block, number)


def settle_doubtful(c: Channel, position: int, word: Any) -> Steps:
    if word[0] != FULL or word[1] != c.lap(position):
        return False
    if (yield get(("tag", word[2]))) == c.sent_tag(position):
        return True
    yield from slot_let_go(c, position, EMPTY, None)
    return False


def readable(view: View, c: Channel, position: int) -> Any:
    """Return what ends the consumer's wait, or None."""
    word = view["word", *c.slot(position)]
    if word[0] == FULL and word[1] == c.lap(position):
        return {}, "a record"
    state, holder = view["holder", c.name, PRODUCER]
    if state == CLOSED:
        return {}, "the end"
    return ({}, "dead") if state == OPEN and not is_alive(view, holder) else None


def deliver(view: View, c: Channel, me: str, block: int, number: int) -> Any:
    """Deliver a record to the user; return a fault if it is not this record's turn."""
    if view["data", block] != number:
        return {}, f"length {number} came with record {view['data', block]}"
    state = view["done", number]
    again = state[0] == RECEIVED and state[1] == c.name and not is_alive(view, state[2])
    if state != (SENT, c.name) and not again:
        return {}, f"{me} gets record {number}, which is {state}"
    for _, earlier in view.names("done"):
        passed = view["done", earlier]
        on_its_way = passed == (SENT, c.name)
        if passed and passed[:2] == (RECEIVED, c.name):
            on_its_way = not is_alive(view, passed[2])
        if earlier < number and on_its_way:
            return {}, f"{me} gets record {number} before {earlier}"
    return {("done", number): (RECEIVED, c.name, me)}, None


def find_record(
    world: World,
    me: str,
    c: Channel,
    position: int,
    doubtful: int,
    settle_doubtful: Any = settle_doubtful,
) -> Steps:
    """Return the position and the word of the next record; None at the end."""
    word = yield get_acquire(("word", *c.slot(position)))
    while position < doubtful and not (yield from settle_doubtful(c, position, word)):
        position += 1
        word = yield get_acquire(("word", *c.slot(position)))
    while word[0] != FULL or word[1] != c.lap(position):
        found = yield when("waits for a record", readable, c, position, rest=True)
        if found == "the end":
            return None
        if found == "dead":
            if not world.watchful:
                yield when("waits for the next producer", not_dead, c, PRODUCER, rest=True)
            yield from recover_if_dead(world, me, c, PRODUCER)
        word = yield get_acquire(("word", *c.slot(position)))
    return position, word


def move_to(c: Channel, position: int) -> Steps:
    yield put(("position", c.name, CONSUMER), position)


def move_on(c: Channel, position: int, count: int) -> Steps:
    """Return whether what was found is the consumer's."""
    yield from move_to(c, position + count)
    yield compiler_fence()
    if (yield get(("flags", c.name))) & GONE:
        yield from move_to(c, position)
        return False
    return True


def receive_one(
    world: World,
    me: str,
    c: Channel,
    position: int,
    doubtful: int,
    settle_doubtful: Any = settle_doubtful,
) -> Steps:
    """Return position, block and number; None at the end."""
    found = yield from find_record(world, me, c, position, doubtful, settle_doubtful)
    if found is None:
        return None
    position, word = found
    number = yield get(("size", *c.slot(position)))
    if not (yield from move_on(c, position, 1)):
        return None
    fault = yield when(f"has record {number}", deliver, c, me, word[2], number)
    if fault:
        raise Violation(fault)
    return position, word[2], number


MIRRORS = (
    Mirror("record/send.c", fill_slot),
    Mirror("record/send.c", look_at_slot),
    Mirror("record/send.c", send_one, calls=frozenset({"enter_slot", "free_released"})),
    Mirror("record/send.c", refill_slot),
    Mirror("record/send.c", refill_slots),
    Mirror(
        "record/send.c",
        send_new,
        ignored=frozenset({"block_drop"}),
        calls=frozenset({"enter_slot"}),
    ),
    Mirror("record/record.h", slot_leave),
    Mirror("record/record.h", slot_let_go),
    Mirror("record/record.c", take_out),
    Mirror("record/record.c", detach, ignored=frozenset({"detached"})),
    Mirror("record/receive.c", settle_doubtful),
    Mirror("record/receive.c", find_record),
    Mirror("record/receive.c", move_to),
    Mirror("record/receive.c", move_on),
    Mirror("record/receive.c", receive_one),
)

"""The ring of a record channel: killed anywhere, nothing is lost, repeated or leaked.

Producers send numbered records in blocks of a small pool; consumers free, keep or forward
them, hold one while they take the next, and are killed before any store, as is who recovers
them. Successors claim the side and go on. At the end somebody recovers what is left, takes
what is pending, and everything must add up. The heap lock is one step; freeing a block is one
store to its tag.

    word     (state, lap, block)        tag     FREE, (OWN, who) or (SENT, channel, position)
    done     what has become of a record: "", (SENT, channel), (RECEIVED, channel, who), DONE
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .explorer import (
    Model,
    Process,
    View,
    Violation,
    choose,
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    put,
    put_and,
    put_or,
    put_release,
    when,
)
from .mirror import Mirror

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .explorer import Steps

EMPTY, FULL, RELEASED = "EMPTY", "FULL", "RELEASED"
FREE, OWN, SENT, RECEIVED, DONE = "FREE", "OWN", "SENT", "RECEIVED", "DONE"
NEVER, OPEN, CLOSED, DIED = "NEVER", "OPEN", "CLOSED", "DIED"
PRODUCER, CONSUMER = 0, 1
GONE, DESERTED = 2, 4


class Channel(NamedTuple):
    """A channel's name, how many slots its ring has, and whether hints are read only once."""

    name: str
    slots: int
    trusting: bool = False

    def slot(self, position: int) -> tuple[str, int]:
        """Return where in memory a position's slot is."""
        return self.name, position % self.slots

    def lap(self, position: int) -> int:
        """Return the lap a position is in."""
        return position // self.slots

    def full(self, position: int, block: int) -> Any:
        """Return the word of a slot in which a record is."""
        return (FULL, self.lap(position), block)

    def sent_tag(self, position: int) -> Any:
        """Return the tag of a block that was sent there."""
        return (SENT, self.name, position)


class World(NamedTuple):
    """What all processes know."""

    channels: tuple[Channel, ...]
    blocks: int
    records: int
    watchful: bool = True  # who waits for a dead side recovers it

    def channel(self, name: str) -> Channel:
        """Return the channel of a name."""
        return next(c for c in self.channels if c.name == name)


def is_alive(view: View, who: str) -> bool:
    """Two participants of one process, "M.in" and "M.out", die together."""
    return bool(view[("alive", who.split(".", maxsplit=1)[0])])


# The heap lock, in one step: a dead owner is robbed -----------------------------------------------


def lock_is_taken(view: View, me: str) -> Any:
    owner = view["lock"]
    if owner and owner != me and is_alive(view, owner):
        return None
    return {"lock": me}, None


def heap_lock(me: str) -> Steps:
    yield when("takes the lock", lock_is_taken, me)


def ask_locked(view: View, me: str) -> Any:
    return {}, view["lock"] == me


def heap_unlock() -> Steps:
    yield put("lock", 0)


# Blocks -------------------------------------------------------------------------------------------


def take_block(view: View, world: World, me: str, number: int) -> Any:
    for block in range(world.blocks):
        if view["tag", block] == FREE:
            return {("tag", block): (OWN, me), ("data", block): number}, block
    return None


def block_free(block: int) -> Steps:
    """One store, for which the tag has been judged: of the tag, or of its remote bit."""
    yield put(("tag", block), FREE)


def place_is(block: int, tag: Any) -> Steps:
    return (yield get_acquire(("tag", block))) == tag


# Rings --------------------------------------------------------------------------------------------


def was_sent(c: Channel, position: int) -> Steps:
    word = yield get_acquire(("word", *c.slot(position)))
    if word[0] == FULL:
        return word[1] == c.lap(position)
    return word[1] == c.lap(position) + 1


def ring_sent(c: Channel) -> Steps:
    while True:
        hint = position = yield get_acquire(("position", c.name, PRODUCER))
        while position < hint + c.slots and (yield from was_sent(c, position)):
            position += 1
        if c.trusting or (yield get(("position", c.name, PRODUCER))) == hint:
            return position


def ring_oldest(c: Channel, sent: int) -> Steps:
    position = max(0, sent - c.slots)
    while position < sent:
        word = yield get_acquire(("word", *c.slot(position)))
        if word[0] == FULL and word[1] == c.lap(position):
            break
        position += 1
    return position


def ring_holds(world: World, tag: Any, block: int) -> Steps:
    c = world.channel(tag[1])
    word = yield get_acquire(("word", *c.slot(tag[2])))
    return word == c.full(tag[2], block)


def ring_collect(c: Channel) -> Steps:
    sent = yield from ring_sent(c)
    position = sent
    while position < sent + c.slots:
        word = yield get_acquire(("word", *c.slot(position)))
        lap = c.lap(position)
        if word[0] == RELEASED and word[1] == lap:
            ours = yield from place_is(word[2], c.sent_tag(position - c.slots))
            if ours:
                yield from block_free(word[2])
            yield put_release(("word", *c.slot(position)), (EMPTY, lap, None))
        position += 1


def side_end(c: Channel, side: int, state: str) -> Steps:
    if side == PRODUCER:
        yield put_or(("flags", c.name), DESERTED)
    yield put_release(("holder", c.name, side), (state, None))
    yield full_fence()


# Sending ------------------------------------------------------------------------------------------


def collect_slot(c: Channel, position: int, word: Any) -> Steps:
    if (yield from place_is(word[2], c.sent_tag(position - c.slots))):
        yield from block_free(word[2])


def look_at_slot(c: Channel, position: int) -> Steps:
    word = yield get_acquire(("word", *c.slot(position)))
    writable = word[0] != FULL and word[1] == c.lap(position)
    if writable and word[0] == RELEASED:
        yield from collect_slot(c, position, word)
    return writable


def fill_slot(c: Channel, position: int, block: int, number: int) -> Steps:
    tag = yield get(("tag", block))
    yield put(("from", c.name), tag)
    yield put(("intent", c.name), block)
    yield put_release(("tag", block), c.sent_tag(position))
    yield put(("size", *c.slot(position)), number)
    yield put_release(("word", *c.slot(position)), c.full(position, block), sent_now(c, number))
    yield put(("intent", c.name), None)
    yield put(("position", c.name, PRODUCER), position + 1)


def sent_now(c: Channel, number: int) -> Any:
    """Return the ghosts of the store that sends a record."""
    published = ((("published", c.name), number + 1),)
    return (*published, (("done", number), (SENT, c.name)))


def room(view: View, c: Channel, position: int) -> Any:
    """The producer waits: what for?"""
    word = view["word", *c.slot(position)]
    if word[0] != FULL and word[1] == c.lap(position):
        return {}, "room"
    state, holder = view["holder", c.name, CONSUMER]
    return ({}, "dead") if state == OPEN and not is_alive(view, holder) else None


def not_dead(view: View, c: Channel, side: int) -> Any:
    state, holder = view["holder", c.name, side]
    return None if state == OPEN and not is_alive(view, holder) else ({}, None)


def enter_slot(world: World, me: str, c: Channel, position: int, writable: bool) -> Steps:
    while not writable:
        writable = yield from look_at_slot(c, position)
        if writable:
            return
        found = yield when("waits for room", room, c, position, rest=True)
        if found == "dead":
            if not world.watchful:
                yield when("waits for the next consumer", not_dead, c, CONSUMER, rest=True)
            yield from recover_if_dead(world, me, c, CONSUMER)


def send_one(
    world: World,
    me: str,
    c: Channel,
    position: int,
    writable: bool,
    block: int,
    number: int,
    held: Any = None,
    fill_slot: Any = fill_slot,
) -> Steps:
    """Return whether the next slot is writable."""
    yield from enter_slot(world, me, c, position, writable)
    yield from fill_slot(c, position, block, number)
    writable = yield from look_at_slot(c, position + 1)
    if held is not None:
        origin, at = held
        yield from slot_let_go(origin, at, EMPTY, None)
    return writable


# Receiving ----------------------------------------------------------------------------------------


def slot_let_go(
    c: Channel, position: int, state: str, block: int | None, number: int | None = None
) -> Steps:
    ghosts = () if number is None else ((("done", number), DONE),)
    yield put_release(("word", *c.slot(position)), (state, c.lap(position) + 1, block), ghosts)


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


def settle_doubtful(c: Channel, position: int, word: Any) -> Steps:
    if word[0] != FULL or word[1] != c.lap(position):
        return False
    if (yield get(("tag", word[2]))) == c.sent_tag(position):
        return True
    yield from slot_let_go(c, position, EMPTY, None)
    return False


def readable(view: View, c: Channel, position: int) -> Any:
    """The consumer waits: what for?"""
    word = view["word", *c.slot(position)]
    if word[0] == FULL and word[1] == c.lap(position):
        return {}, "a record"
    state, holder = view["holder", c.name, PRODUCER]
    if state == CLOSED:
        return {}, "the end"
    return ({}, "dead") if state == OPEN and not is_alive(view, holder) else None


def deliver(view: View, c: Channel, me: str, block: int, number: int) -> Any:
    """The user has it. Is it his turn?"""
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
    yield put(("position", c.name, CONSUMER), position + 1)
    yield compiler_fence()
    if (yield get(("flags", c.name))) & GONE:
        yield put(("position", c.name, CONSUMER), position)
        return None
    fault = yield when(f"has record {number}", deliver, c, me, word[2], number)
    if fault:
        raise Violation(fault)
    return position, word[2], number


# Recovery, under the lock -------------------------------------------------------------------------


def side_is_dead(c: Channel, side: int, dead: str) -> Steps:
    holder = yield get(("holder", c.name, side))
    if holder[0] != OPEN:
        return False
    return holder[1] == dead or not (yield when("is he alive?", ask_alive, holder[1]))


def ask_alive(view: View, who: str) -> Any:
    return {}, is_alive(view, who)


def is_half_forwarded(world: World, dead: str, tag: Any, block: int, here: Any) -> Steps:
    if tag[0] != SENT:
        return False
    c = world.channel(tag[1])
    if not (yield from side_is_dead(c, PRODUCER, dead)):
        return False
    intent = yield get(("intent", c.name))
    origin = yield get(("from", c.name))
    if intent != block or origin != here:
        return False
    sent = yield from ring_sent(c)
    return tag == c.sent_tag(sent)


def recover_producer(world: World, c: Channel, ring_collect: Any = ring_collect) -> Steps:
    sent = yield from ring_sent(c)
    intent = yield get(("intent", c.name))
    origin = yield get(("from", c.name))
    if intent is not None and (yield from place_is(intent, c.sent_tag(sent))):
        if origin[0] == SENT and (yield from ring_holds(world, origin, intent)):
            yield put_release(("tag", intent), origin)
        else:
            yield from block_free(intent)
    yield put(("position", c.name, PRODUCER), sent)
    yield put(("intent", c.name), None)
    yield from ring_collect(c)


def recover_consumer(
    world: World, dead: str, c: Channel, is_half_forwarded: Any = is_half_forwarded
) -> Steps:
    sent = yield from ring_sent(c)
    position = max(0, sent - c.slots)
    while position < sent:
        word = yield get_acquire(("word", *c.slot(position)))
        if word[0] == FULL and word[1] == c.lap(position):
            here = c.sent_tag(position)
            tag = yield get(("tag", word[2]))
            if (yield from is_half_forwarded(world, dead, tag, word[2], here)):
                yield put(("tag", word[2]), here)
            if (yield get(("tag", word[2]))) != here:
                yield put_release(("word", *c.slot(position)), (EMPTY, c.lap(position) + 1, None))
        position += 1
    yield put(("position", c.name, CONSUMER), (yield from ring_oldest(c, sent)))


def recover_memory(world: World, dead: str) -> Steps:
    while (yield when("frees a block of the dead", owned_by_dead, world, dead)):
        pass


def owned_by_dead(view: View, world: World, dead: str) -> Any:
    for block in range(world.blocks):
        if view["tag", block] == (OWN, dead):
            return {("tag", block): FREE}, True
    return {}, False


def recover_channels(
    world: World,
    dead: str,
    side: int,
    recover_producer: Any = recover_producer,
    recover_consumer: Any = recover_consumer,
) -> Steps:
    for c in world.channels:
        holder = yield get(("holder", c.name, side))
        if holder != (OPEN, dead):
            continue
        if side == PRODUCER:
            yield from recover_producer(world, c)
        else:
            yield from recover_consumer(world, dead, c)
        yield from side_end(c, side, DIED)


def recover_participant(world: World, dead: str, recover_channels: Any = recover_channels) -> Steps:
    yield from recover_channels(world, dead, PRODUCER)
    yield from recover_channels(world, dead, CONSUMER)
    yield from recover_memory(world, dead)


def recover_if_dead(
    world: World, me: str, c: Channel, side: int, recover_participant: Any = recover_participant
) -> Steps:
    holder = yield get_acquire(("holder", c.name, side))
    if holder[0] != OPEN or (yield when("is he alive?", ask_alive, holder[1])):
        return
    locked = yield when("has he the lock?", ask_locked, me)
    if not locked:
        yield from heap_lock(me)
    yield from recover_participant(world, holder[1])
    if not locked:
        yield from heap_unlock()


# Claiming and closing -----------------------------------------------------------------------------


def take_position(c: Channel, side: int) -> Steps:
    """Return where to go on, and up to where tags are looked at."""
    sent = yield from ring_sent(c)
    if side == PRODUCER:
        position = sent
        yield from ring_collect(c)
    else:
        position = yield from ring_oldest(c, sent)
    yield put(("position", c.name, side), position)
    return position, sent


def claim(
    world: World, me: str, c: Channel, side: int, recover_if_dead: Any = recover_if_dead
) -> Steps:
    yield from heap_lock(me)
    yield from recover_if_dead(world, me, c, side)
    places = yield from take_position(c, side)
    if side == PRODUCER:
        yield put_and(("flags", c.name), ~DESERTED)
    yield put_release(("holder", c.name, side), (OPEN, me))
    yield full_fence()
    yield from heap_unlock()
    return places


def close_producer(me: str, c: Channel) -> Steps:
    yield from heap_lock(me)
    yield from side_end(c, PRODUCER, CLOSED)
    yield from ring_collect(c)
    yield from heap_unlock()


RECORD, RING, RECOVER = "channel/record.c", "channel/ring.c", "channel/recover.c"
FREEING = frozenset({"block_free"})
MIRRORS = (
    Mirror(RECORD, fill_slot),
    Mirror(RECORD, look_at_slot),
    Mirror(RECORD, send_one, calls=frozenset({"enter_slot"})),
    Mirror(RECORD, slot_let_go),
    Mirror(RECORD, take_out),
    Mirror(RECORD, settle_doubtful),
    Mirror(RECORD, find_record),
    Mirror(RECORD, receive_one),
    Mirror(RING, ring_collect, calls=FREEING),
    Mirror(RING, side_end),
    Mirror(RECOVER, is_half_forwarded),
    Mirror(RECOVER, recover_producer, calls=FREEING),
    Mirror(RECOVER, recover_consumer, calls=frozenset({"ring_oldest"})),
    Mirror("channel/endpoint.c", take_position),
)


# The processes ------------------------------------------------------------------------------------


def has_died(view: View, who: str) -> Any:
    return None if view["alive", who] else ({}, None)


def produces(
    world: World, me: str, c: Channel, after: str = "", claim: Any = claim, **how: Any
) -> Steps:
    """Send what has not been sent yet, then close."""
    position, writable = 0, False
    if after:
        yield when(f"{after} has died", has_died, after, rest=True)
        position, _ = yield from claim(world, me, c, PRODUCER)
    number = yield get(("published", c.name))
    while number < world.records:
        block = yield when(f"allocates for {number}", take_block, world, me, number, rest=True)
        writable = yield from send_one(world, me, c, position, writable, block, number, **how)
        position += 1
        number += 1
    yield from close_producer(me, c)


def ways(number: int, holds: bool, slots: int) -> tuple[str, ...]:
    """Return what a consumer may do with a record: little, but each of it somewhere."""
    if holds:
        return ("free",)
    return ("free", "hold") if slots > 1 else ("free", "keep")


def consumes(
    world: World,
    me: str,
    c: Channel,
    after: str = "",
    take_out: Any = take_out,
    settle_doubtful: Any = settle_doubtful,
    claim: Any = claim,
) -> Steps:
    """Free or keep what comes; hold one while the next is taken, and free them in disorder."""
    position = doubtful = 0
    held: Any = None
    if after:
        yield when(f"{after} has died", has_died, after, rest=True)
        position, doubtful = yield from claim(world, me, c, CONSUMER)
    while True:
        if held is not None:
            word = yield get(("word", *c.slot(position)))
            if word[0] != FULL or word[1] != c.lap(position):
                yield from free(me, c, *held)
                held = None
        got = yield from receive_one(
            world, me, c, position, doubtful, settle_doubtful=settle_doubtful
        )
        if got is None:
            break
        position = got[0] + 1
        way = yield choose(*ways(got[2], held is not None, c.slots))
        if way == "hold":
            held = got
            continue
        if way == "keep":
            yield from take_out(me, c, *got)
            yield from block_free(got[1])
        else:
            yield from free(me, c, *got)
            if held is not None:
                yield from free(me, c, *held)
                held = None
    yield from side_end(c, CONSUMER, CLOSED)


def forwards(
    world: World,
    me: str,
    into: Channel,
    out: Channel,
    after: str = "",
    threads: bool = False,
    claim: Any = claim,
    **how: Any,
) -> Steps:
    """Pass on what comes, or free it. With `threads` each side is a participant of its own."""
    reader, writer = (f"{me}.in", f"{me}.out") if threads else (me, me)
    position = doubtful = onward = 0
    writable = False
    if after:
        yield when(f"{after} has died", has_died, after, rest=True)
        reads_first = yield choose(True, False)
        if reads_first:
            position, doubtful = yield from claim(world, reader, into, CONSUMER)
        onward, _ = yield from claim(world, writer, out, PRODUCER)
        if not reads_first:
            position, doubtful = yield from claim(world, reader, into, CONSUMER)
    while True:
        got = yield from receive_one(world, reader, into, position, doubtful)
        if got is None:
            break
        position, block, number = got
        if (yield choose("forward", "free")) == "free":
            yield from free(reader, into, position, block, number)
        else:
            writable = yield from send_one(
                world, writer, out, onward, writable, block, number, (into, position), **how
            )
            onward += 1
        position += 1
    yield from side_end(into, CONSUMER, CLOSED)
    yield from close_producer(writer, out)


# Both ends of what is forwarded, in one step a record: one_channel() has looked at them.


def feed(view: View, c: Channel, number: int) -> Any:
    word = view["word", *c.slot(number)]
    if word[0] == FULL or word[1] != c.lap(number):
        return None
    stores: dict[Any, Any] = {}
    if word[0] == RELEASED and view["tag", word[2]] == c.sent_tag(number - c.slots):
        stores["tag", word[2]] = FREE
    blocks = [n[1] for n in view.names("tag") if FREE in (view[n], stores.get(n))]
    if not blocks:
        return None
    block = blocks[0]
    stores |= {("tag", block): c.sent_tag(number), ("data", block): number}
    stores |= {("size", *c.slot(number)): number, ("position", c.name, PRODUCER): number + 1}
    stores |= {("word", *c.slot(number)): c.full(number, block), **dict(sent_now(c, number))}
    return stores, None


def feeds(world: World, me: str, c: Channel) -> Steps:
    for number in range(world.records):
        yield when(f"sends {number}", feed, c, number, rest=True)
    yield from close_producer(me, c)


def eat(view: View, c: Channel, me: str, position: int) -> Any:
    """Receive and free, in one step."""
    found = readable(view, c, position)
    if found is None or found[1] != "a record":
        return ({}, None) if found and found[1] == "the end" else None
    word, number = view["word", *c.slot(position)], view["size", *c.slot(position)]
    stores, fault = deliver(view, c, me, word[2], number)
    if fault:
        return {}, fault
    deserted = view["flags", c.name] & DESERTED
    stores = {("done", number): DONE, ("position", c.name, CONSUMER): position + 1}
    stores["word", *c.slot(position)] = (
        (EMPTY, word[1] + 1, None) if deserted else (RELEASED, word[1] + 1, word[2])
    )
    if deserted:
        stores["tag", word[2]] = FREE
    return stores, ""


def eats(world: World, me: str, c: Channel) -> Steps:
    position = 0
    while True:
        fault = yield when(f"takes what is at {position}", eat, c, me, position, rest=True)
        if fault is None:
            break
        if fault:
            raise Violation(fault)
        position += 1
    yield from side_end(c, CONSUMER, CLOSED)


# The end ------------------------------------------------------------------------------------------


def settle(world: World, recover_participant: Any = recover_participant) -> Steps:
    """Recover all the dead, then take what is left on the channels nobody reads."""
    yield from heap_lock("last")
    dead = yield when("who is dead?", the_dead)
    for who in dead:
        yield from recover_participant(world, who)
    yield from heap_unlock()
    for c in world.channels:
        state, _ = yield get(("holder", c.name, CONSUMER))
        if state == OPEN:
            continue
        position, doubtful = yield from claim(world, "last", c, CONSUMER)
        sent = yield from ring_sent(c)
        while position < sent:
            word = yield get(("word", *c.slot(position)))
            if word[0] == FULL and word[1] == c.lap(position):
                got = yield from receive_one(world, "last", c, position, doubtful)
                yield from free("last", c, *got)
            position += 1
    for c in world.channels:
        yield from ring_collect(c)


def the_dead(view: View) -> Any:
    """Return the participants of the dead, those who recover half first."""
    dead = [name for _, name in view.names("alive") if not view["alive", name]]
    return {}, tuple(who for name in dead for who in (name, f"{name}.in", f"{name}.out"))


def adds_up(world: World, view: View) -> str | None:
    """Everything that was sent has been received, every block is in one place."""
    for _, number in view.names("done"):
        if view["done", number] not in ("", DONE):
            return f"record {number} is lost: {view['done', number]}"
    if view["done", world.records - 1] == "" and all(view[n] for n in view.names("alive")):
        return "something was not sent, though nobody died"
    for _, block in view.names("tag"):
        tag = view["tag", block]
        if tag != FREE and not (tag[0] == OWN and is_alive(view, tag[1])):
            return f"block {block} leaks: {tag}"
    for name in view.names("word"):
        if view[name][0] != EMPTY and view["holder", name[1], PRODUCER][0] != OPEN:
            return f"slot {name[1:]} is left {view[name]}"
    return None


# Models -------------------------------------------------------------------------------------------


def shared(world: World, processes: Sequence[Process], holders: dict[Any, str]) -> dict[Any, Any]:
    """Return memory in which the first holders have claimed their sides."""
    memory: dict[Any, Any] = {"lock": 0}
    for c in world.channels:
        for slot in range(c.slots):
            memory["word", c.name, slot] = (EMPTY, 0, None)
            memory["size", c.name, slot] = None
        for side in (PRODUCER, CONSUMER):
            memory["position", c.name, side] = 0
            memory["holder", c.name, side] = (OPEN, holders[c.name, side])
        memory |= {
            ("flags", c.name): 0,
            ("intent", c.name): None,
            ("from", c.name): FREE,
            ("published", c.name): 0,
        }
    memory |= {("tag", block): FREE for block in range(world.blocks)}
    memory |= {("data", block): None for block in range(world.blocks)}
    memory |= {("done", number): "" for number in range(world.records)}
    memory |= {("alive", process.name): True for process in processes}
    return memory | {("alive", "last"): True}


def one_channel(
    name: str,
    *,
    slots: int,
    records: int,
    kills: int,
    producer: Any = None,
    consumer: Any = None,
    watchful: bool = False,
    trusting: bool = False,
    private: tuple[str, ...] = ("intent", "from"),
    fast: str = "",
    mortal: str = "PC",
    settle: Any = settle,
) -> Model:
    """One channel; producer P and consumer C, and who comes after them.

    `fast` are those who take one step a record, and live.
    """
    c = Channel("X", slots, trusting)
    world = World((c,), slots + 2, records, watchful)
    sending, receiving = producer or {}, consumer or {}
    processes = []
    if fast == "P":
        processes += [Process("P", partial(feeds, world, "P", c))]
    else:
        body = partial(produces, world, c=c, **sending)
        processes += [Process("P", partial(body, me="P"), "P" in mortal)]
    if fast == "C":
        processes += [Process("C", partial(eats, world, "C", c))]
    else:
        body = partial(consumes, world, c=c, **receiving)
        processes += [Process("C", partial(body, me="C"), "C" in mortal)]
    if "P" in mortal:
        body = partial(produces, world, c=c, **sending)
        processes += [Process("P2", partial(body, me="P2", after="P"), True)]
    if "C" in mortal:
        body = partial(consumes, world, c=c, **receiving)
        processes += [Process("C2", partial(body, me="C2", after="C"), True)]
    memory = shared(world, processes, {("X", PRODUCER): "P", ("X", CONSUMER): "C"})
    return Model(
        f"ring, {name}",
        tuple(processes),
        memory,
        last=partial(settle, world),
        finally_=partial(adds_up, world),
        kills=kills,
        private=frozenset(private),
    )


def two_channels(
    name: str,
    *,
    records: int,
    kills: int,
    threads: bool = False,
    settle: Any = settle,
    **how: Any,
) -> Model:
    """P sends on X, M forwards to Y, C takes it there; M2 comes after M."""
    x, y = Channel("X", 1), Channel("Y", 1)
    world = World((x, y), 3, records)
    processes = (
        Process("P", partial(feeds, world, "P", x)),
        Process("M", partial(forwards, world, "M", x, y, threads=threads, **how), True),
        Process("C", partial(eats, world, "C", y)),
        Process("M2", partial(forwards, world, "M2", x, y, "M", threads=threads, **how), True),
    )
    middle = ("M.in", "M.out") if threads else ("M", "M")
    holders = {
        ("X", PRODUCER): "P",
        ("X", CONSUMER): middle[0],
        ("Y", PRODUCER): middle[1],
        ("Y", CONSUMER): "C",
    }
    return Model(
        f"ring, {name}",
        processes,
        shared(world, processes, holders),
        last=partial(settle, world),
        finally_=partial(adds_up, world),
        kills=kills,
        private=frozenset({"intent", "from"}),
    )


# What must fail -----------------------------------------------------------------------------------


def fill_slot_before_the_tag(c: Channel, position: int, block: int, number: int) -> Steps:
    tag = yield get(("tag", block))
    yield put(("from", c.name), tag)
    yield put(("intent", c.name), block)
    yield put(("size", *c.slot(position)), number)
    yield put(("word", *c.slot(position)), c.full(position, block), sent_now(c, number))
    yield put(("tag", block), c.sent_tag(position))
    yield put(("intent", c.name), None)
    yield put(("position", c.name, PRODUCER), position + 1)


def fill_slot_without_intent(c: Channel, position: int, block: int, number: int) -> Steps:
    tag = yield get(("tag", block))
    yield put(("from", c.name), tag)
    yield put(("intent", c.name), block)
    yield put(("tag", block), c.sent_tag(position))
    yield put(("intent", c.name), None)
    yield put(("size", *c.slot(position)), number)
    yield put(("word", *c.slot(position)), c.full(position, block), sent_now(c, number))
    yield put(("position", c.name, PRODUCER), position + 1)


def fill_slot_length_last(c: Channel, position: int, block: int, number: int) -> Steps:
    tag = yield get(("tag", block))
    yield put(("from", c.name), tag)
    yield put(("intent", c.name), block)
    yield put(("tag", block), c.sent_tag(position))
    yield put(("word", *c.slot(position)), c.full(position, block), sent_now(c, number))
    yield put(("size", *c.slot(position)), number)
    yield put(("intent", c.name), None)
    yield put(("position", c.name, PRODUCER), position + 1)


def take_out_slot_first(me: str, c: Channel, position: int, block: int, number: int) -> Steps:
    yield from slot_let_go(c, position, EMPTY, None, number)
    yield put(("tag", block), (OWN, me))


def settle_no_doubt(c: Channel, position: int, word: Any) -> Steps:
    """Wait where the predecessor had freed out of order."""
    while word[0] != FULL or word[1] != c.lap(position):
        found = yield when("waits for a record", readable, c, position, rest=True)
        word = yield get_acquire(("word", *c.slot(position)))
        if found[1] == "the end":
            return False
    return True


def collect_slot_first(c: Channel) -> Steps:
    sent = yield from ring_sent(c)
    position = sent
    while position < sent + c.slots:
        word = yield get_acquire(("word", *c.slot(position)))
        lap = c.lap(position)
        if word[0] == RELEASED and word[1] == lap:
            ours = yield from place_is(word[2], c.sent_tag(position - c.slots))
            yield put_release(("word", *c.slot(position)), (EMPTY, lap, None))
            if ours:
                yield from block_free(word[2])
        position += 1


def never_half_forwarded(world: World, dead: str, tag: Any, block: int, here: Any) -> Steps:
    yield from ()
    return False


def recovering(recover_participant: Any) -> dict[str, Any]:
    """Return what makes successors, and the last, recover in another way."""
    how = partial(recover_if_dead, recover_participant=recover_participant)
    return {"claim": partial(claim, recover_if_dead=how)}


def with_channels(**how: Any) -> Any:
    return partial(recover_participant, recover_channels=partial(recover_channels, **how))


not_put_back = partial(recover_consumer, is_half_forwarded=never_half_forwarded)
slots_first = with_channels(
    recover_producer=partial(recover_producer, ring_collect=collect_slot_first)
)
never_put_back = with_channels(recover_consumer=not_put_back)


def consumers_first(world: World, dead: str) -> Steps:
    for side in (CONSUMER, PRODUCER):
        yield from recover_channels(world, dead, side, recover_consumer=not_put_back)
    yield from recover_memory(world, dead)


def sending(fill_slot: Any) -> Callable[[], Model]:
    return lambda: one_channel(
        "control", slots=1, records=2, kills=1, producer={"fill_slot": fill_slot}, private=()
    )


MODELS: dict[str, Callable[[], Model]] = {
    "one slot, two die": lambda: one_channel(
        "one slot, two die", slots=1, records=2, kills=2, watchful=True
    ),
    "one slot, three laps": lambda: one_channel(
        "one slot, three laps", slots=1, records=3, kills=1, watchful=True
    ),
    "two slots, consumers die": lambda: one_channel(
        "two slots, consumers die", slots=2, records=4, kills=1, mortal="C"
    ),
    "two slots, producers die": lambda: one_channel(
        "two slots, producers die", slots=2, records=4, kills=2, mortal="P", fast="C"
    ),
    "forwarding": lambda: two_channels("forwarding", records=2, kills=2),
    "forwarding, two threads": lambda: two_channels(
        "forwarding, two threads", records=2, kills=1, threads=True
    ),
}

CONTROLS: dict[str, Callable[[], Model]] = {
    "FULL before the tag": sending(fill_slot_before_the_tag),
    "intent cleared before FULL": sending(fill_slot_without_intent),
    "the length after FULL": sending(fill_slot_length_last),
    "taken out: slot before tag": lambda: one_channel(
        "control", slots=1, records=2, kills=1, consumer={"take_out": take_out_slot_first}
    ),
    "a producer's hint believed at once": lambda: one_channel(
        "control", slots=2, records=4, kills=1, mortal="C", trusting=True
    ),
    "what was freed out of order is waited for": lambda: one_channel(
        "control",
        slots=2,
        records=3,
        kills=1,
        mortal="C",
        consumer={"settle_doubtful": settle_no_doubt},
    ),
    "garbage: slot before block": lambda: one_channel(
        "control",
        slots=1,
        records=2,
        kills=2,
        producer=recovering(slots_first),
        consumer=recovering(slots_first),
        watchful=False,
        settle=partial(settle, recover_participant=slots_first),
    ),
    "half forwarded: consumers first": lambda: two_channels(
        "control",
        records=1,
        kills=1,
        settle=partial(settle, recover_participant=consumers_first),
        **recovering(consumers_first),
    ),
    "half forwarded by two threads: not put back": lambda: two_channels(
        "control",
        records=1,
        kills=1,
        threads=True,
        settle=partial(settle, recover_participant=never_put_back),
        **recovering(never_put_back),
    ),
}

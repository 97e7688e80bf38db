"""Recovering the dead, under the lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import View, get, get_acquire, put, put_release, when
from .ring import ring_collect, ring_holds, ring_oldest, ring_sent, side_end
from .world import (
    CONSUMER,
    DIED,
    EMPTY,
    FREE,
    FULL,
    OPEN,
    OWN,
    PRODUCER,
    SENT,
    Channel,
    World,
    ask_alive,
    ask_locked,
    block_free,
    heap_lock,
    heap_unlock,
    place_is,
)

if TYPE_CHECKING:
    from ..steps import Steps


def side_is_dead(c: Channel, side: int, dead: str) -> Steps:
    holder = yield get(("holder", c.name, side))
    if holder[0] != OPEN:
        return False
    return holder[1] == dead or not (yield when("is it alive?", ask_alive, holder[1]))


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
    yield put_release(("intent", c.name), None)
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
    if holder[0] != OPEN or (yield when("is it alive?", ask_alive, holder[1])):
        return
    locked = yield when("does it have the lock?", ask_locked, me)
    if not locked:
        yield from heap_lock(me)
    yield from recover_participant(world, holder[1])
    if not locked:
        yield from heap_unlock()


RECOVER = "record/recover.c"
MIRRORS = (
    Mirror(RECOVER, is_half_forwarded),
    Mirror(RECOVER, recover_producer, calls=frozenset({"block_free"})),
    Mirror(RECOVER, recover_consumer, calls=frozenset({"ring_oldest"})),
)

"""The ring itself: what the slots say, how the ring is collected, and how a side ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import full_fence, get, get_acquire, put_or, put_release
from .world import DESERTED, EMPTY, FULL, PRODUCER, RELEASED, Channel, World, block_free, place_is

if TYPE_CHECKING:
    from ..steps import Steps


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
    intent = yield get(("intent", c.name))
    position = sent
    while position < sent + c.slots:
        word = yield get_acquire(("word", *c.slot(position)))
        lap = c.lap(position)
        if word[0] == RELEASED and word[1] == lap:
            ours = yield from place_is(word[2], c.sent_tag(position - c.slots))
            if not ours and word[2] != intent:
                ours = yield from place_is(word[2], c.sent_tag(position))
            if ours:
                yield from block_free(word[2])
            yield put_release(("word", *c.slot(position)), (EMPTY, lap, None))
        position += 1


def side_end(c: Channel, side: int, state: str) -> Steps:
    if side == PRODUCER:
        yield put_or(("flags", c.name), DESERTED)
    yield put_release(("holder", c.name, side), (state, None))
    yield full_fence()


RING = "record/ring.c"
MIRRORS = (
    Mirror(RING, ring_collect, calls=frozenset({"block_free"})),
    Mirror("channel/side.c", side_end),
)

"""Claiming a side, and closing it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import full_fence, put, put_and, put_release
from .recover import recover_if_dead
from .ring import ring_collect, ring_oldest, ring_sent, side_end
from .world import CLOSED, DESERTED, OPEN, PRODUCER, Channel, World, heap_lock, heap_unlock

if TYPE_CHECKING:
    from ..steps import Steps


def take_position(c: Channel, side: int) -> Steps:
    """Return the position to go on from, and the position up to which tags are checked."""
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


MIRRORS = (Mirror("record/endpoint.c", take_position),)

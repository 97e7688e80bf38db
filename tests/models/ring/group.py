"""Receiving copies: several records are read in place and released together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from ..mirror import Mirror
from ..steps import Violation, get, get_acquire, when
from .record import deliver, find_record, move_on, move_to, settle_doubtful, slot_leave, take_out
from .world import DESERTED, FULL, GONE, RELEASED, Channel, World, block_free

if TYPE_CHECKING:
    from ..steps import Steps

Group: TypeAlias = tuple[tuple[int, int, int], ...]


def group_find(
    world: World, me: str, c: Channel, position: int, doubtful: int, settle_doubtful: Any
) -> Steps:
    """Return position, block and number of each; None at the end."""
    found = yield from find_record(world, me, c, position, doubtful, settle_doubtful)
    if found is None:
        return None
    position, word = found
    group: Group = ()
    while True:
        number = yield get(("size", *c.slot(position)))
        group += ((position, word[2], number),)
        position += 1
        if len(group) == c.slots or position < doubtful:
            return group
        word = yield get_acquire(("word", *c.slot(position)))
        if word[0] != FULL or word[1] != c.lap(position):
            return group


def block_drop(block: int) -> Steps:
    yield from block_free(block)


def receive_extent(me: str, c: Channel, position: int, block: int, number: int) -> Steps:
    yield from take_out(me, c, position, block, number)
    yield from block_drop(block)


def group_end(me: str, c: Channel, group: Group) -> Steps:
    deserted = (yield get(("flags", c.name))) & (DESERTED | GONE)
    for position, block, number in group:
        if deserted:
            yield from receive_extent(me, c, position, block, number)
            continue
        yield from slot_leave(c, position, RELEASED, block, number)


def show(me: str, c: Channel, group: Group) -> Steps:
    """Check that the records stay in place while the consumer reads them."""
    for _, block, number in group:
        fault = yield when(f"looks at {number}", deliver, c, me, block, number)
        if fault:
            raise Violation(fault)


def receive_group(
    world: World,
    me: str,
    c: Channel,
    position: int,
    doubtful: int,
    refuse: bool,
    settle_doubtful: Any = settle_doubtful,
    show: Any = show,
) -> Steps:
    """Return the position to go on from; None at the end."""
    group = yield from group_find(world, me, c, position, doubtful, settle_doubtful)
    if group is None:
        return None
    position = group[0][0]
    if not (yield from move_on(c, position, len(group))):
        return None
    if refuse:
        yield from move_to(c, position)
        return position
    yield from show(me, c, group)
    yield from group_end(me, c, group)
    return position + len(group)


MIRRORS = (
    Mirror("record/receive.c", group_find),
    Mirror("record/receive.c", receive_extent, calls=frozenset({"block_drop"})),
    Mirror("record/receive.c", group_end),
    Mirror("record/receive.c", receive_group, ignored=frozenset({"receive_alone"})),
)

"""Processes that send, receive and forward: step by step, or in one step a record."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..steps import View, Violation, choose, get, when
from .endpoint import claim, close_producer
from .group import receive_group
from .record import (
    Seen,
    deliver,
    detach,
    free,
    readable,
    receive_one,
    send_copies,
    send_one,
    sent_now,
    settle_doubtful,
    take_out,
)
from .ring import side_end
from .world import (
    CLOSED,
    CONSUMER,
    DESERTED,
    DONE,
    EMPTY,
    FREE,
    FULL,
    PRODUCER,
    RELEASED,
    Channel,
    World,
    block_free,
    take_block,
)

if TYPE_CHECKING:
    from ..steps import Steps


def has_died(view: View, who: str) -> Any:
    return None if view["alive", who] else ({}, None)


def first_position(world: World, me: str, c: Channel, after: str, claim: Any) -> Steps:
    """Return a producer's first position: in an empty ring, or where its dead predecessor stood."""
    if not after:
        return 0
    yield when(f"{after} has died", has_died, after, rest=True)
    position, _ = yield from claim(world, me, c, PRODUCER)
    return position


def produces(
    world: World, me: str, c: Channel, after: str = "", claim: Any = claim, **how: Any
) -> Steps:
    """Send what has not been sent yet, then close."""
    position = yield from first_position(world, me, c, after, claim)
    seen = Seen()
    number = yield get(("published", c.name))
    while number < world.records:
        block = yield when(f"allocates for {number}", take_block, world, me, number, rest=True)
        seen = yield from send_one(world, me, c, position, seen, block, number, **how)
        position += 1
        number += 1
    yield from close_producer(me, c)


def produces_copies(
    world: World, me: str, c: Channel, after: str = "", claim: Any = claim, **how: Any
) -> Steps:
    """Send copies, as many at a time as are left, then close."""
    position = yield from first_position(world, me, c, after, claim)
    seen = Seen()
    number = yield get(("published", c.name))
    while number < world.records:
        most = world.records - number
        went, seen = yield from send_copies(world, me, c, position, seen, number, most, **how)
        position += went
        number += went
    yield from close_producer(me, c)


def ways(number: int, holds: bool, slots: int) -> tuple[str, ...]:
    """Return what a consumer may do with a record: few ways here, but each of them somewhere."""
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
    """Free or keep what comes; hold one while taking the next, and free them out of order."""
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


def hoards(
    world: World,
    me: str,
    c: Channel,
    after: str = "",
    detach: Any = detach,
    claim: Any = claim,
) -> Steps:
    """Hold everything to the end. What stands in the slot that is waited for is detached."""
    position = doubtful = 0
    held: tuple[Any, ...] = ()
    detached: tuple[int, ...] = ()
    if after:
        yield when(f"{after} has died", has_died, after, rest=True)
        position, doubtful = yield from claim(world, me, c, CONSUMER)
    while True:
        if held and held[0][0] == position - c.slots:
            yield from detach(me, c, *held[0])
            detached = (*detached, held[0][1])
            held = held[1:]
        got = yield from receive_one(world, me, c, position, doubtful)
        if got is None:
            break
        position = got[0] + 1
        held = (*held, got)
    for each in held:
        yield from free(me, c, *each)
    for block in detached:
        yield from block_free(block)
    yield from side_end(c, CONSUMER, CLOSED)


def consumes_groups(
    world: World, me: str, c: Channel, after: str = "", claim: Any = claim, **how: Any
) -> Steps:
    """Copy what comes, as much at a time as there is; reject the first group once."""
    position: int | None = 0
    doubtful = 0
    refuse = not after
    if after:
        yield when(f"{after} has died", has_died, after, rest=True)
        position, doubtful = yield from claim(world, me, c, CONSUMER)
    while position is not None:
        position = yield from receive_group(world, me, c, position, doubtful, refuse, **how)
        refuse = False
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
    """Forward what comes, or free it. With `threads` each side is a participant of its own."""
    reader, writer = (f"{me}.in", f"{me}.out") if threads else (me, me)
    position = doubtful = onward = 0
    seen = Seen()
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
            seen = yield from send_one(
                world, writer, out, onward, seen, block, number, (into, position), **how
            )
            onward += 1
        position += 1
    yield from side_end(into, CONSUMER, CLOSED)
    yield from close_producer(writer, out)


# Both ends of a forwarder take one step a record: one_channel() explores their steps.


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

"""What must fail: the same protocol with one mistake."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..steps import get, get_acquire, put, put_release, when
from .endpoint import claim
from .group import Group, group_end, show
from .record import copied, readable, refill_slots, sent_now, slot_let_go
from .recover import (
    recover_channels,
    recover_consumer,
    recover_if_dead,
    recover_memory,
    recover_participant,
    recover_producer,
)
from .ring import ring_sent
from .setups import one_channel, settle, two_channels
from .world import (
    CONSUMER,
    EMPTY,
    FULL,
    OWN,
    PRODUCER,
    RELEASED,
    Channel,
    World,
    block_free,
    place_is,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model
    from ..steps import Steps


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


def hold_on(me: str, c: Channel, position: int, block: int, number: int) -> Steps:
    """Hold every slot of the ring: the producer never gets one back."""
    yield from ()


def settle_no_doubt(c: Channel, position: int, word: Any) -> Steps:
    """Wait at a slot that the predecessor had freed out of order."""
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


def collect_by_the_old_tag(c: Channel) -> Steps:
    sent = yield from ring_sent(c)
    position = sent
    while position < sent + c.slots:
        word = yield get_acquire(("word", *c.slot(position)))
        lap = c.lap(position)
        if word[0] == RELEASED and word[1] == lap:
            if (yield from place_is(word[2], c.sent_tag(position - c.slots))):
                yield from block_free(word[2])
            yield put_release(("word", *c.slot(position)), (EMPTY, lap, None))
        position += 1


def refill_slot_tag_kept(c: Channel, position: int, word: Any, number: int) -> Steps:
    if word[0] != RELEASED or word[1] != c.lap(position):
        return False
    if (yield get(("tag", word[2]))) != c.sent_tag(position - c.slots):
        return False
    yield when(f"copies {number}", copied, word[2], number)
    yield put(("size", *c.slot(position)), number)
    return True


def never_half_forwarded(world: World, dead: str, tag: Any, block: int, here: Any) -> Steps:
    yield from ()
    return False


def recovering(recover_participant: Any) -> dict[str, Any]:
    """Return the arguments that make successors, and the last process, recover in another way."""
    how = partial(recover_if_dead, recover_participant=recover_participant)
    return {"claim": partial(claim, recover_if_dead=how)}


def with_channels(**how: Any) -> Any:
    return partial(recover_participant, recover_channels=partial(recover_channels, **how))


not_put_back = partial(recover_consumer, is_half_forwarded=never_half_forwarded)
slots_first = with_channels(
    recover_producer=partial(recover_producer, ring_collect=collect_slot_first)
)
old_tag_only = with_channels(
    recover_producer=partial(recover_producer, ring_collect=collect_by_the_old_tag)
)
never_put_back = with_channels(recover_consumer=not_put_back)


def consumers_first(world: World, dead: str) -> Steps:
    for side in (CONSUMER, PRODUCER):
        yield from recover_channels(world, dead, side, recover_consumer=not_put_back)
    yield from recover_memory(world, dead)


def show_given_back(me: str, c: Channel, group: Group) -> Steps:
    yield from group_end(me, c, group)
    yield from show(me, c, group)


def sending(fill_slot: Any) -> Callable[[], Model]:
    return lambda: one_channel(
        "control", slots=1, records=2, kills=1, producer={"fill_slot": fill_slot}, private=()
    )


def copying(refill_slot: Any) -> Callable[[], Model]:
    how = {"refill_slots": partial(refill_slots, refill_slot=refill_slot)}
    return lambda: one_channel(
        "control", slots=1, records=3, kills=1, producer=how, consumer={}, copies=True
    )


CONTROLS: dict[str, Callable[[], Model]] = {
    "copies: the tag stays": copying(refill_slot_tag_kept),
    "copies: garbage by its old tag only": lambda: one_channel(
        "control",
        slots=1,
        records=2,
        kills=1,
        producer=recovering(old_tag_only),
        consumer=recovering(old_tag_only),
        watchful=False,
        copies=True,
        settle=partial(settle, recover_participant=old_tag_only),
    ),
    "FULL before the tag": sending(fill_slot_before_the_tag),
    "intent cleared before FULL": sending(fill_slot_without_intent),
    "the length after FULL": sending(fill_slot_length_last),
    "taken out: slot before tag": lambda: one_channel(
        "control", slots=1, records=2, kills=1, consumer={"take_out": take_out_slot_first}
    ),
    "detached: slot before tag": lambda: one_channel(
        "control",
        slots=1,
        records=2,
        kills=1,
        hoarders=("C", "C2"),
        consumer={"detach": take_out_slot_first},
    ),
    "nothing is detached": lambda: one_channel(
        "control",
        slots=2,
        records=4,
        kills=0,
        mortal="",
        hoarders=("C",),
        consumer={"detach": hold_on},
    ),
    "a producer's hint believed unchecked": lambda: one_channel(
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
    "groups: released before they are read": lambda: one_channel(
        "control",
        slots=2,
        records=3,
        kills=0,
        mortal="",
        groups=("C",),
        consumer={"show": show_given_back},
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
    "half forwarded by two threads: the tag not restored": lambda: two_channels(
        "control",
        records=1,
        kills=1,
        threads=True,
        settle=partial(settle, recover_participant=never_put_back),
        **recovering(never_put_back),
    ),
}

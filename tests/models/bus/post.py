"""Posting, and making room: post.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import choose, full_fence, get, get_acquire, put, put_exchange, put_if, put_release
from .reclaim import (
    bus_has_listeners,
    bus_survey,
    bus_sweep,
    bus_tidy,
    extent_let_go,
    floor_raise,
    is_active,
)
from .wake import bus_tell
from .words import (
    AGAIN,
    GONE,
    HELD,
    LOSSY,
    NONE,
    NOT_FOUND,
    OWN,
    PART,
    POSTED,
    SENT,
    SHUT,
    WOULD_BLOCK,
    Bus,
    Letter,
    Message,
    X,
    bus_end,
    bus_leave,
    bus_stay,
    history_from,
    posted,
    replaceable,
    slot,
)

if TYPE_CHECKING:
    from ..steps import Steps


@replaceable
def bus_enter(bus: Bus) -> Steps:
    """Return 0, or why not."""
    yield from bus_stay(bus)
    if (yield get(("fences",))):
        yield full_fence()
    if not (yield get(("flags", X))) & GONE:
        return 0
    yield from bus_leave(bus)
    return NOT_FOUND


# Room ---------------------------------------------------------------------------------------------


def is_passed(bus: Bus, n: str, cursor: int) -> Steps:
    """Return whether writers go on without a listener; its time may be up at any moment."""
    if bus.patient:
        return False
    if (yield get(("passed", n))) == cursor + 1:
        return True
    if (yield choose(False, True)):
        return False
    yield put_exchange(("passed", n), cursor + 1)
    return True


def pass_all(bus: Bus, need: int) -> Steps:
    free = True
    for n in bus.listeners:
        if not (yield from is_active(n)):
            continue
        cursor = yield get_acquire(("position", n))
        flags = yield get(("flags", n))
        if cursor >= need or flags & (SHUT | LOSSY):
            continue
        if not (yield from is_passed(bus, n, cursor)):
            free = False
    return free


@replaceable
def floor_for(bus: Bus, q: int, need: int) -> Steps:
    counted, passed, lossy = yield from bus_survey(bus)
    most = max(history_from(bus, q), need)
    everybody = min(counted, passed, lossy, most)
    if everybody >= need:
        return everybody
    if counted < need:
        return 0
    if passed < need:
        return need
    return min(counted, passed, most, need + bus.capacity // 8)


def make_room(bus: Bus, q: int) -> Steps:
    need = q - bus.capacity + 1
    to = yield from floor_for(bus, q, need)
    if to < need:
        if not (yield from pass_all(bus, need)):
            return False
        to = need
    yield from floor_raise(bus, to)
    return True


def room_at(bus: Bus, q: int) -> Steps:
    if q < bus.capacity or (yield get(("floor",))) > q - bus.capacity:
        return True
    return (yield from make_room(bus, q))


# Posting ------------------------------------------------------------------------------------------


@replaceable
def post_once(bus: Bus, letter: Letter) -> Steps:
    """Return the letter, and POSTED, AGAIN or WOULD_BLOCK."""
    q = yield from bus_end(bus)
    if not (yield from room_at(bus, q)):
        return letter, WOULD_BLOCK
    seen = yield get_acquire(slot(bus, q))
    if seen[0] >= q:
        return letter, AGAIN
    if q >= bus.capacity and (yield get_acquire(("swept",))) < q - bus.capacity + 1:
        yield from bus_sweep(bus)
    letter = letter._replace(position=q)
    yield put(("intent", bus.me), (HELD, q, letter.block))
    if letter.payload is not NONE and letter.origin is NONE:
        letter = letter._replace(origin=(OWN, bus.me))
        yield put(("from", bus.me), letter.origin)
        yield put_release(("tag", letter.payload), (PART, letter.block))
    yield put_release(("tag", letter.block), (SENT, q))
    if (yield put_if(("slot", q % bus.capacity), seen, (q, letter.block))) == seen:
        yield from posted(q, letter.block)
        yield put_release(("head",), q + 1)
        return letter, POSTED
    yield put_release(("tag", letter.block), (OWN, bus.me))
    return letter, AGAIN


def payload_return(letter: Letter) -> Steps:
    if letter.origin is NONE:
        return letter
    yield put_release(("tag", letter.payload), letter.origin)
    return letter._replace(origin=NONE)


@replaceable
def tidy_slowly(bus: Bus, m: Message) -> Steps:
    if not (yield from bus_has_listeners(bus)):
        yield from bus_tidy(bus)
        return
    leaves = m
    if bus.history:
        if m.position < bus.history:
            return
        position = m.position - bus.history
        at, block = yield get_acquire(slot(bus, position))
        if at != position:
            return
        leaves = Message(position, block)
    if bus.extents and (yield get(("floor",))) <= leaves.position:
        yield from extent_let_go(bus, leaves)


@replaceable
def tidy_after(bus: Bus, m: Message) -> Steps:
    listened = yield get(("active", bus.listeners[0]))
    if bus.extents or bus.history or not listened:
        yield from tidy_slowly(bus, m)


@replaceable
def letter_post(bus: Bus, letter: Letter) -> Steps:
    """Return the letter, and POSTED or why it was not."""
    done: Any = AGAIN
    while done == AGAIN:
        letter, done = yield from post_once(bus, letter)
    if done == POSTED:
        yield put(("intent", bus.me), NONE)
        yield from tidy_after(bus, Message(letter.position, letter.block))
        return letter, done
    letter = yield from payload_return(letter)
    yield put(("intent", bus.me), NONE)
    return letter, done


@replaceable
def post_and_tell(bus: Bus, letter: Letter) -> Steps:
    """Return the letter, and POSTED or why it was not."""
    error: Any = yield from bus_enter(bus)
    if error:
        return letter, error
    letter, done = yield from letter_post(bus, letter)
    if done == POSTED:
        yield from bus_tell(bus)
    yield from bus_leave(bus)
    return letter, done


POST = "bus/post.c"
MIRRORS = (
    Mirror("bus/view.c", bus_enter),
    # Since when it has been in the way is a choice here.
    Mirror(POST, is_passed, ignored=frozenset({"stalled", "passes"})),
    Mirror(POST, pass_all),
    Mirror(POST, floor_for),
    Mirror(POST, make_room),
    Mirror("bus/post.c", room_at),
    Mirror(POST, post_once),
    Mirror(POST, payload_return),
    Mirror(POST, tidy_slowly),
    Mirror(POST, tidy_after),
    Mirror(POST, letter_post),
    Mirror(POST, post_and_tell),
)

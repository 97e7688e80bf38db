"""What must fail: the same protocol with one mistake."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..park.words import AWAKE, PARKED_HERE
from ..steps import (
    Violation,
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    now,
    os_futex_wait,
    os_futex_wake,
    os_membarrier,
    put,
    put_add,
    put_and,
    put_exchange,
    put_if,
    put_or,
    put_release,
)
from .awaits import OWED, await_one, awaiting, is_settled, may_time_out
from .broadcast import is_released, turn_notify, turns
from .listeners import is_registered, listener_free, listeners_tidy
from .post import room_at
from .receive import listener_tell
from .reclaim import bus_survey, bus_sweep, bus_tidy, floor_raise, hold_end, message_let_go
from .recover import is_unposted, payload_undo
from .removal import channel_drop_if_done, clean_up, removing, touches
from .setups import begun, log
from .waiters import parks, polls, waiting
from .wake import FLAGS, arm, may_stop, ready, sleep_here, wake_polled
from .words import (
    AGAIN,
    CLOSED,
    GONE,
    HELD,
    HERE,
    JOINING,
    LOSSY,
    NONE,
    NOT_FOUND,
    OPEN,
    OTHERS,
    OWN,
    PART,
    POSTED,
    RELEASING,
    SENT,
    WOULD_BLOCK,
    Bus,
    Letter,
    Message,
    Own,
    X,
    block_drop,
    block_free,
    bus_end,
    bus_return,
    bus_stay,
    heap_lock,
    heap_unlock,
    history_from,
    is_alive,
    place_is,
    posted,
    slot,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model
    from ..steps import Steps
    from .broadcast import Broadcast


def nothing(*_: Any) -> Steps:
    """Leave the step out."""
    yield from ()


def no(*_: Any) -> Steps:
    yield from ()
    return False


def yes(*_: Any) -> Steps:
    yield from ()
    return True


def rightly(bus: Any) -> Any:
    """Return the bus without mistakes."""
    return bus._replace(instead=())


# Posting ------------------------------------------------------------------------------------------


def tidy_by_the_end(bus: Bus) -> Steps:
    survey = yield from bus_survey(bus)
    yield from floor_raise(bus, min(*survey, (yield from bus_end(bus))))
    yield from bus_sweep(bus)


def floor_over_cursors(bus: Bus, q: int, need: int) -> Steps:
    yield from ()
    return need


def post_by(*, tags: bool = True, takes_back: bool = True) -> Any:
    """Mirror post_once() without an envelope, with a mistake about the tag."""

    def post_once(bus: Bus, letter: Letter) -> Steps:
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
        if tags:
            yield put_release(("tag", letter.block), (SENT, q))
        if (yield put_if(slot(bus, q), seen, (q, letter.block))) == seen:
            yield from posted(q, letter.block)
            if not tags:
                yield put_release(("tag", letter.block), (SENT, q))
            yield put_release(("head",), q + 1)
            return letter, POSTED
        if takes_back:
            yield put_release(("tag", letter.block), (OWN, bus.me))
        return letter, AGAIN

    return post_once


# Reclaiming ---------------------------------------------------------------------------------------


def let_go_by_a_store(bus: Bus, m: Message) -> Steps:
    if (yield from place_is(m.block, (SENT, m.position))):
        yield put(("tag", m.block), (OWN, bus.me))
        yield from block_drop(bus, m.block)


def let_go_silently(bus: Bus, m: Message) -> Steps:
    tag = (SENT, m.position)
    if (yield put_if(("tag", m.block), tag, (OWN, bus.me))) == tag:
        payload = yield get(("payload", m.block))
        yield from block_free(payload, (PART, m.block))
        yield from block_drop(bus, m.block)


def let_go_envelope_first(bus: Bus, m: Message) -> Steps:
    tag = (SENT, m.position)
    yield put(("letting", bus.me), m.block)
    if (yield put_if(("tag", m.block), tag, (OWN, bus.me))) == tag:
        payload = yield get(("payload", m.block))
        yield from block_drop(bus, m.block)
        yield from block_free(payload, (PART, m.block))
    yield put(("letting", bus.me), NONE)


def end_by(
    *, first: Any = RELEASING, fence: bool = True, settles: bool = True, frees: bool = True
) -> Any:
    """Mirror hold_end() without extents, with a mistake."""

    def hold_end(bus: Bus, hold: Any, m: Message) -> Steps:
        yield put(("hold", *hold), first and (first, *m))
        if frees and (yield get(("floor",))) > m.position:
            before = yield from bus_stay(bus)
            if fence:
                yield full_fence()
            if settles:
                yield from settle(bus, m.position)
            if not (yield from is_held(bus, m, hold)):
                yield from message_let_go(bus, m)
            yield from bus_return(bus, before)
        yield put_release(("hold", *hold), NONE)

    return hold_end


def settle(bus: Bus, position: int) -> Steps:
    """Run a membarrier if none was run since the floor was raised above that."""
    if (yield get_acquire(("settled",))) <= position:
        to = yield get(("floor",))
        yield from os_membarrier(*bus.others)
        seen = yield get(("settled",))
        yield put_if(("settled",), seen, max(seen, to))


def is_held(bus: Bus, m: Message, but: Any) -> Steps:
    for n in bus.listeners:
        for i in range(bus.words):
            if (n, i) == but:
                continue
            hold = yield get_acquire(("hold", n, i))
            if hold is not NONE and hold[0] != RELEASING and hold[1:] == m:
                return True
    return False


def settle_without_a_nap(bus: Bus) -> Steps:
    yield put(("fences",), 1)
    yield full_fence()


def let_extent_go_without_a_fence(bus: Bus, m: Message) -> Steps:
    for n in bus.listeners:
        if (yield get_acquire(("position", n))) <= m.position:
            return
        for i in range(bus.words):
            hold = yield get_acquire(("hold", n, i))
            if hold is not NONE and hold[0] != RELEASING and hold[1:] == m:
                return
    yield from bus_tidy(bus)


# Receiving ----------------------------------------------------------------------------------------


def next_by(*, moves: bool = False, looks: bool = True, ends: bool = True) -> Any:
    """Mirror hold_next() with a mistake about the hold."""

    def hold_next(bus: Bus, o: Own, number: int, lossy: bool) -> Steps:
        while True:
            at, block = yield get_acquire(slot(bus, o.position))
            if at < o.position and (yield get(("floor",))) <= o.position:
                return o, WOULD_BLOCK
            if at == o.position:
                m = Message(o.position, block)
                if moves:
                    yield put_release(("position", bus.me), o.position + 1)
                yield put(("hold", bus.me, number), (HELD, *m))
                if not looks or (yield get(("floor",))) <= m.position:
                    return o, m
                if ends:
                    yield from hold_end(bus, (bus.me, number), m)
                else:
                    yield put(("hold", bus.me, number), NONE)
            to = yield get_acquire(("floor",))
            if to > o.position and not lossy:
                raise Violation(f"{bus.me} has lost {to - o.position} messages")
            o = o._replace(position=to, lost=o.lost + to - o.position)
            yield put_release(("position", bus.me), to)

    return hold_next


# Listening ----------------------------------------------------------------------------------------


def take_by(*, again: bool = True, low: bool = True) -> Any:
    """Mirror listener_take(), with a mistake about where it begins."""

    def listener_take(bus: Bus, history: int, lossy: bool) -> Steps:
        yield put(("joined", bus.me), JOINING)
        yield put(("flags", bus.me), LOSSY if lossy else 0)
        end = yield from bus_end(bus)
        yield put(("position", bus.me), max(end - history, 0) if low else end)
        yield put_release(("holder", X, bus.me), (OPEN, bus.me))
        yield put_or(("active", bus.me), 1)
        yield full_fence()
        if again:
            end = yield from bus_end(bus)
        begin = max(history_from(bus, end), (yield get(("floor",))) if again else 0)
        if end - begin > history:
            begin = end - history
        o = Own(min(begin, end), free=tuple(range(bus.words))[::-1])
        yield put(("position", bus.me), o.position)
        yield now("is registered", is_registered, bus.me, end)
        yield put_release(("joined", bus.me), end)
        return o

    return listener_take


# Recovering ---------------------------------------------------------------------------------------


def free_the_seat_first(bus: Bus, n: str, how: str) -> Steps:
    _, holder = yield get(("holder", X, n))
    yield put_release(("holder", X, n), (how, holder))
    yield put_and(("active", n), 0)


def undo_any_position(bus: Bus, dead: str, intent: Any) -> Steps:
    """Believe that the block is still that of the intent, whatever its position."""
    tag = yield get(("tag", intent[2]))
    if tag[0] != SENT:
        return
    at, block = yield get_acquire(slot(bus, tag[1]))
    if at < tag[1] or (at == tag[1] and block != intent[2]):
        yield from block_free(intent[2], tag)


def undo_by_a_look(bus: Bus, dead: str, intent: Any) -> Steps:
    block = intent[2]
    tag = yield get(("tag", block))
    if tag != (SENT, intent[1]):
        return
    at, there = yield get_acquire(slot(bus, intent[1]))
    if (at, there) == intent[1:] or (
        at > intent[1] and (yield from is_held(bus, Message(*intent[1:]), NONE))
    ):
        return
    if (yield from place_is(block, tag)):
        yield from block_free(block, tag)


def undo_taking_first(bus: Bus, dead: str, intent: Any) -> Steps:
    block = intent[2]
    tag = yield get(("tag", block))
    if not (yield from is_unposted(bus, intent, tag)):
        return
    if tag[0] == OWN:
        if tag[1] == dead:
            yield from payload_undo(bus, block)
        return
    if (yield put_if(("tag", block), tag, (OWN, bus.me))) == tag:
        yield from payload_undo(bus, block)
        yield from block_drop(bus, block)


# Waking -------------------------------------------------------------------------------------------


def park_by(*, looks: bool = True, first: bool = True) -> Any:
    """Mirror listener_park(), with a mistake about the order."""

    def listener_park(bus: Bus, p: int) -> Steps:
        if (yield from ready(bus, p)):
            return True
        while True:
            seen = yield get_acquire(("wake",))
            yield put(("parked", X, bus.me), PARKED_HERE)
            yield from arm(bus, HERE)
            there = looks and (yield from ready(bus, p))
            if not first:
                seen = yield get_acquire(("wake",))
            if not there:
                yield from sleep_here(bus, seen)
            yield put(("parked", X, bus.me), AWAKE)
            if (yield from ready(bus, p)):
                return True

    return listener_park


def arm_uncounted(bus: Bus, how: int) -> Steps:
    yield put_or(("sleepers",), how)


def wake_by(*, swaps: bool = True, first: bool = False) -> Any:
    """Mirror bus_wake_sleepers(), with a mistake about the flags."""

    def bus_wake_sleepers(bus: Bus) -> Steps:
        seen = yield get_acquire(("sleepers",))
        if first and (yield put_if(("sleepers",), seen, seen & ~FLAGS)) != seen:
            return
        yield from may_stop(bus)
        if seen & HERE:
            yield put_add(("wake",), 1)
            for _ in bus.listeners:
                yield os_futex_wake(("wake",))
        if seen & OTHERS:
            yield from wake_polled(bus)
        if first:
            return
        if swaps:
            yield put_if(("sleepers",), seen, seen & ~FLAGS)
        else:
            yield put(("sleepers",), seen & ~FLAGS)

    return bus_wake_sleepers


def take_the_word(bus: Bus, n: str) -> Steps:
    how = yield get(("parked", X, n))
    if how == AWAKE or (yield put_exchange(("parked", X, n), AWAKE)) == AWAKE:
        return
    yield from may_stop(bus)
    yield put_exchange(("pipe", X, n), 1)


# Waiting for listeners ----------------------------------------------------------------------------


def expect_by(*, barrier: bool = True, last: bool = False) -> Any:
    """Mirror listener_expect(), with a mistake."""

    def listener_expect(bus: Bus, n: str, what: int) -> Steps:
        seen = yield get_acquire(("turns", n))
        yield put_or(("waiters", n), what)
        if barrier:
            yield from os_membarrier(*bus.others)
        if last:
            seen = yield get_acquire(("turns", n))
        return seen

    return listener_expect


def sleep_without_looking(bus: Bus, n: str, position: int, hurried: bool) -> Steps:
    seen = yield get_acquire(("turns", n))
    yield put_or(("waiters", n), 1)
    yield from os_membarrier(*bus.others)
    yield os_futex_wait(("turns", n), seen, timed=partial(may_time_out, n=n, hurried=hurried))
    return OWED, 0


def sleep_reading_turns_last(bus: Bus, n: str, position: int, hurried: bool) -> Steps:
    yield put_or(("waiters", n), 1)
    yield from os_membarrier(*bus.others)
    debt = yield from is_settled(bus, n, position)
    if debt != OWED:
        return debt, 0
    seen = yield get_acquire(("turns", n))
    yield os_futex_wait(("turns", n), seen, timed=partial(may_time_out, n=n, hurried=hurried))
    return debt, 0


def tell_by(*, fence: bool = True, early: bool = False, counts: bool = True, most: int = 2) -> Any:
    """Mirror listener_tell() and what it calls, with a mistake."""

    def listener_tell(bus: Bus, n: str, what: int) -> Steps:
        if fence and (yield get(("fences",))):
            yield full_fence()
        yield compiler_fence()
        if early:
            yield put_add(("turns", n), 1)
        if (yield get(("waiters", n))) & what:
            yield put_exchange(("waiters", n), 0)
            if counts and not early:
                yield put_add(("turns", n), 1)
            for _ in bus.writers[:most]:
                yield os_futex_wake(("turns", n))

    return listener_tell


def await_until_late(bus: Bus, position: int, hurried: bool) -> Steps:
    """Look at nobody after the first one that is late."""
    debts: tuple[str, ...] = ()
    late = False
    for n in bus.listeners:
        debt = OWED
        if not late:
            debt, late = yield from await_one(bus, n, position, hurried, late)
        debts = (*debts, debt)
    return debts


# Turns --------------------------------------------------------------------------------------------


def note_elsewhere(b: Broadcast, turn: Any, position: int) -> Steps:
    """Keep the end with the participant, who then broadcasts on another bus."""
    yield put_release(("turn_message",), (turn, position + 1))
    yield put_release(("turn_until",), (turn, 0, True))


def over_by_any_count(b: Broadcast, turn: Any) -> Steps:
    """Believe what the last turn has left."""
    _, until, _ = yield get_acquire(("turn_until",))
    _, message = yield get_acquire(("turn_message",))
    if (yield get(("clock",))) >= until:
        return True
    return bool(message) and (yield from is_released(message - 1))


def end_by_a_store(b: Broadcast, turn: Any) -> Steps:
    yield put(("turn",), 0)
    yield from turn_notify(b)


# Removing -----------------------------------------------------------------------------------------


def occupied_by(*, barrier: bool = True, dead: bool = True) -> Any:
    """Mirror bus_is_occupied(), with a mistake."""

    def bus_is_occupied(bus: Bus) -> Steps:
        if barrier:
            yield from os_membarrier(*bus.others)
        for name in bus.writers:
            if not (yield get_acquire(("bus", name))):
                continue
            if dead or (yield from is_alive(name)):
                return True
        return False

    return bus_is_occupied


def enter_looking_first(bus: Bus) -> Steps:
    if (yield get(("flags", X))) & GONE:
        return NOT_FOUND
    yield from bus_stay(bus)
    return 0


def leave_outside(bus: Bus, lingers: bool) -> Steps:
    yield from listener_free(bus, bus.me, CLOSED)
    yield from touches(bus)


def free_outside(bus: Bus, n: str, m: Message) -> Steps:
    yield from hold_end(bus, (n, 0), m)
    yield from listener_tell(bus, n, 1)
    yield from touches(bus)
    yield from clean_up(bus)


def clean_up_unasked(bus: Bus) -> Steps:
    yield from heap_lock(bus.me)
    yield from listeners_tidy(bus)
    yield from touches(bus)
    yield from channel_drop_if_done(bus)
    yield from heap_unlock()


# All of them --------------------------------------------------------------------------------------


def control(make: Any, name: str, mistake: Any, *arguments: Any, **how: Any) -> Callable[[], Model]:
    return partial(make, "control", *arguments, instead=((name, mistake),), **how)


TWO: dict[str, Any] = {"counts": (1, 1), "listeners": "LM"}
BACK: dict[str, Any] = {"counts": (2, 1), "keeps": "L", "blocks": 4}
DIE: dict[str, Any] = {"counts": (1, 1), "absent": "L", "kills": 2, "mortal": "VW", "keepers": "K"}
ALONE: dict[str, Any] = {"counts": (1, 2), "absent": "L", "mortal": "V", "kills": 1}
ALONE |= {"keepers": "K", "blocks": 2}
HOLDER: dict[str, Any] = {"counts": (2,), "keeps": "L", "mortal": "VL", "blocks": 4}
HOLDER |= {"kills": 2, "keepers": "K"}
LAP: dict[str, Any] = {"counts": (1, 1), "keeps": "L", "kills": 1, "mortal": "V", "blocks": 4}
LAP |= {"keepers": "K"}
RECOVERER: dict[str, Any] = {"counts": (2,), "keeps": "L", "kills": 2, "mortal": "VLJ"}
RECOVERER |= {"keepers": "JK", "blocks": 4}
APART: dict[str, Any] = {"counts": (1,), "apart": True, "kills": 2, "mortal": "VLJ"}
APART |= {"keepers": "JK", "blocks": 4}
FULL: dict[str, Any] = {"counts": (1,), "listeners": "LM", "memory": begun(1, 1), "total": 1}
BESIDE: dict[str, Any] = FULL | {"lossy": "M"}
LOSING: dict[str, Any] = FULL | {"lossy": "LM", "tso": True}
REFUSED: dict[str, Any] = {"counts": (2,), "lossy": "L", "refused": True, "tso": True}
REFUSED |= {"about": ("fences",)}
JOINS: dict[str, Any] = {"counts": (1,), "late": "L", "capacity": 2, "tidies": "T"}
JOINS |= {"memory": begun(2, 1)}
HISTORY: dict[str, Any] = {"counts": (3,), "late": "L", "asks": 2, "history": 2, "capacity": 4}
HISTORY |= {"blocks": 5, "memory": begun(4, 2)}
EXTENTS: dict[str, Any] = {"counts": (1,), "listeners": "LM", "capacity": 2, "extents": True}
KEPT: dict[str, Any] = {"counts": (2,), "capacity": 2, "history": 1, "extents": True, "tso": True}

CONTROLS: dict[str, Callable[[], Model]] = {
    "no membarrier before looking at holds": control(log, "bus_settle", nothing, **LOSING),
    "a release looks at holds without a membarrier": control(
        log, "hold_end", end_by(settles=False), **LOSING
    ),
    "freed without taking the tag": control(
        log, "message_let_go", let_go_by_a_store, **LOSING | {"tso": False}
    ),
    "the end of the log read after the cursors": control(log, "bus_tidy", tidy_by_the_end, **JOINS),
    "the end of the log read before announcing": control(
        log, "listener_take", take_by(again=False), counts=(2,), late="L"
    ),
    "the floor raised over a cursor": control(log, "floor_for", floor_over_cursors, **TWO),
    "a slot used again without a sweep": control(log, "bus_sweep", nothing, **TWO),
    "tagged after posting": control(log, "post_once", post_by(tags=False), counts=(1, 1)),
    "intents not recovered": control(log, "undo_intent", nothing, **DIE),
    "an intent without its position": control(log, "undo_intent", undo_any_position, **ALONE),
    "another position tried without taking the tag back": control(
        log, "post_once", post_by(takes_back=False), **DIE
    ),
    "an evicted message taken for unposted": control(log, "is_named", no, **LAP),
    "an intent undone without taking the tag": control(log, "undo_intent", undo_by_a_look, **LAP),
    "an intent undone, its payload last": control(log, "undo_intent", undo_taking_first, **APART),
    "a hold cleared before looking": control(log, "hold_end", end_by(first=NONE), **HOLDER),
    "the last holder does not free": control(log, "hold_end", end_by(frees=False), **BACK),
    "no fence between releasing and looking at others": control(
        log, "hold_end", end_by(fence=False), **LOSING
    ),
    "nobody says what it frees": control(log, "message_let_go", let_go_silently, **APART),
    "the envelope freed before its payload": control(
        log, "message_let_go", let_go_envelope_first, **APART
    ),
    "a hold taken back without reclaiming": control(
        log, "hold_next", next_by(ends=False), **BESIDE
    ),
    "the floor not looked at again": control(log, "hold_next", next_by(looks=False), **BESIDE),
    "the cursor moved before the hold": control(
        log, "hold_next", next_by(moves=True), counts=(1, 1)
    ),
    "membarrier is refused: fences believed immediately": control(
        log, "bus_settle", settle_without_a_nap, **REFUSED
    ),
    "a listener with a history announces the end": control(
        log, "listener_take", take_by(low=False), **HISTORY
    ),
    "a seat ended before it is out of the way": control(
        log, "listener_free", free_the_seat_first, **RECOVERER
    ),
    "extents: no fence after the release": control(
        log, "extent_let_go", let_extent_go_without_a_fence, **EXTENTS, tso=True
    ),
    "extents: what leaves the history is left": control(log, "tidy_slowly", nothing, **KEPT),
    "waking: not looking again": control(
        waiting, "listener_park", park_by(looks=False), parks, tso=True
    ),
    "waking: `wake` read after the look": control(
        waiting, "listener_park", park_by(first=False), parks, tso=True
    ),
    "waking: armings not counted": control(waiting, "arm", arm_uncounted, parks, counts=(1, 1)),
    "waking: flags taken by a store": control(
        waiting, "bus_wake_sleepers", wake_by(swaps=False), parks, counts=(1, 1)
    ),
    "waking: flags taken before waking": control(
        waiting, "bus_wake_sleepers", wake_by(first=True), polls, counts=(1, 1), stops="V"
    ),
    "waking: a word taken before its bell is rung": control(
        waiting, "seat_rouse", take_the_word, polls, counts=(1, 1), stops="V"
    ),
    "awaiting: no membarrier": control(
        awaiting, "listener_expect", expect_by(barrier=False), "V", "LM", tso=True
    ),
    "awaiting: not looking again": control(
        awaiting, "writer_sleep", sleep_without_looking, "V", "LM", tso=True
    ),
    "awaiting: `turns` read after the look": control(
        awaiting, "writer_sleep", sleep_reading_turns_last, "VW", "L", tso=True
    ),
    "awaiting: turns not counted": control(
        awaiting, "listener_tell", tell_by(counts=False), "VW", "L", tso=True
    ),
    "awaiting: turns counted before the flag is looked at": control(
        awaiting, "listener_tell", tell_by(early=True), "VW", "L", tso=True
    ),
    "awaiting: one of several woken": control(
        awaiting, "listener_tell", tell_by(most=1), "VW", "L", tso=True
    ),
    "awaiting: no fence by the listener": control(
        awaiting, "listener_tell", tell_by(fence=False), "V", "L", keeps="L", fences=True, tso=True
    ),
    "awaiting: nobody looked at after a late one": control(
        awaiting, "ipcheap_await_releases", await_until_late, "V", "LM", hurried="V"
    ),
    "turns: nobody waits for the one before": control(turns, "turn_is_over", yes, "VW", "L"),
    "turns: what the turn is about kept with its caller": control(
        turns, "turn_note", note_elsewhere, "VW", "L"
    ),
    "turns: what the last one was about believed": control(
        turns, "turn_is_over", over_by_any_count, "VW", "L", counts=(2, 1)
    ),
    "turns: ended by a store": control(turns, "turn_end", end_by_a_store, "VW", "L", counts=(2, 1)),
    "turns: nobody notified": control(turns, "turn_notify", nothing, "VW", "L"),
    "removed: no membarrier before looking who is inside": control(
        removing, "bus_is_occupied", occupied_by(barrier=False), posters="V", tso=True
    ),
    "removed: looked at before entering": control(
        removing, "bus_enter", enter_looking_first, posters="V", tso=True
    ),
    "removed: a closer is not inside": control(
        removing, "leave_seat", leave_outside, closers="L", tso=True
    ),
    "removed: a hold ended from outside": control(
        removing, "free_elsewhere", free_outside, holders="M", tso=True
    ),
    "removed: cleaned up unasked": control(
        removing, "clean_up", clean_up_unasked, holders="M", tso=True
    ),
    "removed: a dead one inside forgotten": control(
        removing, "bus_is_occupied", occupied_by(dead=False), posters="V", kills=1
    ),
}

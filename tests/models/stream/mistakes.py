"""What must fail: the same protocol with one mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..park.bell import arm, has_late_byte, ring_self
from ..park.park import sleeper_fence, wake_peer
from ..park.recover import heap_lock, heap_unlock
from ..park.words import ARMED, AWAKE, PARKED_AMONG, PARKED_BELL, PARKED_HERE, RUNG
from ..steps import (
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    os_futex_wait,
    put,
    put_release,
)
from .flow import (
    advance,
    cut_for_nobody,
    find,
    into_ring,
    lose_until,
    spoil,
    why_not,
)
from .poller import asks, wants
from .position import (
    items_seen,
    look_at_peer,
    notice_cut,
    notify,
    ready,
    set_position,
)
from .reader import gives_up_among, looks
from .setups import GIVES_UP, RESET_BETWEEN, no_end, reset_at, stream
from .waiting import any_time, endpoint_want, park
from .words import (
    MISSED,
    NONE,
    READER,
    WOULD_BLOCK,
    WRITER,
    Own,
    StreamEndpoint,
    X,
    compare,
    from_ring,
)
from .writer import fills

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model
    from ..steps import Steps


def rightly(e: StreamEndpoint) -> StreamEndpoint:
    """Return the endpoint without mistakes."""
    return e._replace(instead=())


# Committing and releasing -------------------------------------------------------------------------


def commit_before_filling(e: StreamEndpoint, o: Own, count: int) -> Steps:
    o = yield from advance(e, o, count)
    yield from into_ring(e, o.position - count, count)
    return o


def commit_before_the_last(e: StreamEndpoint, o: Own, count: int) -> Steps:
    yield from into_ring(e, o.position, count - 1)
    o = yield from advance(e, o, count)
    yield from into_ring(e, o.position - 1, 1)
    return o


def release_before_looking(e: StreamEndpoint, o: Own, few: int, many: int) -> Steps:
    o, count = yield from find(e, o, few, many)
    if isinstance(count, int):
        o = yield from advance(e, o, count)
        compare(e, o.position - count, (yield from from_ring(e, o.position - count, count)))
    return o, count


def find_without_a_second_look(e: StreamEndpoint, o: Own, few: int, many: int) -> Steps:
    o = yield from look_at_peer(e, o)
    if items_seen(e, o) >= few:
        return o, min(items_seen(e, o), many)
    state, _ = yield get_acquire(("holder", X, 1 - e.side))
    return o, (WOULD_BLOCK if state == "open" else state)


# Successors ---------------------------------------------------------------------------------------


def take_from_the_other_side(e: StreamEndpoint) -> Steps:
    position = yield get_acquire(("position", 1 - e.side))
    return Own(position, position)


def take_without_following(e: StreamEndpoint) -> Steps:
    """Begin at the cut, but leave its room to the predecessor."""
    released = yield get_acquire(("position", READER))
    written = yield get_acquire(("position", WRITER))
    cut = yield get_acquire(("cut",))
    return Own(written, released) if e.side == WRITER else Own(max(cut, released), written)


def take_with_a_floor_of_its_own(e: StreamEndpoint) -> Steps:
    """Believe that the dead writer was writing nothing."""
    released = yield get_acquire(("position", READER))
    written = yield get_acquire(("position", WRITER))
    if e.side == WRITER:
        yield put(("floor",), max(0, written - e.cells))
        return Own(written, released)
    return Own(released, written)


# Wants --------------------------------------------------------------------------------------------


def park_without_a_barrier(e: StreamEndpoint, o: Own, ends: bool = False) -> Steps:
    return (yield from park(rightly(e)._replace(base=e.base._replace(others=())), o, ends))


def notify_without_a_fence(e: StreamEndpoint, o: Own) -> Steps:
    yield from notify(rightly(e)._replace(base=e.base._replace(fences=False)), o)


def park_without_looking_again(e: StreamEndpoint, o: Own, ends: bool = False) -> Steps:
    while not (yield from ready(e, o)):
        yield from endpoint_want(e, o)
        yield put(("parked", X, e.side), PARKED_HERE)
        yield from sleeper_fence(e.base)
        yield os_futex_wait(("parked", X, e.side), PARKED_HERE, timed=MISSED[e.side])
        yield put(("parked", X, e.side), AWAKE)
    return o, True


def park_wanting_last(e: StreamEndpoint, o: Own, ends: bool = False) -> Steps:
    """Store `wanted` after the barrier; between `parked` and the barrier would still be right."""
    while not (yield from ready(e, o)):
        yield put(("parked", X, e.side), PARKED_HERE)
        yield from sleeper_fence(e.base)
        yield from endpoint_want(e, o)
        result = ""
        if not (yield from ready(e, o)):
            timed = any_time if ends else None
            result = yield os_futex_wait(("parked", X, e.side), PARKED_HERE, timed=timed)
        yield put(("parked", X, e.side), AWAKE)
        if result == "timed out":
            return o, (yield from ready(e, o))
    return o, True


def notify_one_late(e: StreamEndpoint, o: Own) -> Steps:
    yield from notify(rightly(e), o._replace(position=o.position - 1))


def advance_wanted_first(e: StreamEndpoint, o: Own, items: int) -> Steps:
    """Read what the other side wants before the commit, and believe it afterwards."""
    wanted = yield get(("wanted", 1 - e.side))
    o = o._replace(position=o.position + items)
    yield put_release(("position", e.side), o.position)
    yield compiler_fence()
    if (yield get(("parked", X, 1 - e.side))) != AWAKE and o.position >= wanted:
        yield from wake_peer(e.base)
    return o


def advance_waking_first(e: StreamEndpoint, o: Own, items: int) -> Steps:
    o = o._replace(position=o.position + items)
    yield from notify(e, o)
    yield put_release(("position", e.side), o.position)
    return o


def lie_down_wanting_nothing(e: StreamEndpoint, o: Own) -> Steps:
    yield put(("parked", X, e.side), PARKED_AMONG)
    yield from sleeper_fence(e.base)
    return o


def settle_keeping_the_want(e: StreamEndpoint, o: Own) -> Steps:
    """An armed bell stays as it is."""
    bell: Any = o.bell
    if (yield from ready(e, o)):
        if bell.state != RUNG or bell.due:
            bell = yield from ring_self(e.base, bell)
        return o._replace(bell=bell), False
    late = yield from has_late_byte(e.base, bell)
    if late or bell.state != ARMED or (yield get(("parked", X, e.side))) != PARKED_BELL:
        yield from endpoint_want(e, o)
        bell = yield from arm(e.base, bell, late)
    found = yield from ready(e, o)
    if found:
        bell = yield from ring_self(e.base, bell)
    return o._replace(bell=bell), found


def settle_wanting_last(e: StreamEndpoint, o: Own) -> Steps:
    """Store `wanted` after the barrier."""
    bell: Any = o.bell
    if (yield from ready(e, o)):
        if bell.state != RUNG or bell.due:
            bell = yield from ring_self(e.base, bell)
        return o._replace(bell=bell), False
    late = yield from has_late_byte(e.base, bell)
    bell = yield from arm(e.base, bell, late)
    yield from endpoint_want(e, o)
    found = yield from ready(e, o)
    if found:
        bell = yield from ring_self(e.base, bell)
    return o._replace(bell=bell), found


def answer_without_settling(e: StreamEndpoint, o: Own) -> Steps:
    o = yield from notice_cut(e, o)
    return o, 0


# Overwriting --------------------------------------------------------------------------------------


def spoil_after_filling(e: StreamEndpoint, o: Own, count: int) -> Steps:
    yield from into_ring(e, o.position, count)
    yield from spoil(e, o, count)
    return (yield from advance(e, o, count))


def spoil_nothing(e: StreamEndpoint, o: Own, items: int) -> Steps:
    yield from ()


def spoil_what_is_written(e: StreamEndpoint, o: Own, items: int) -> Steps:
    yield from spoil(rightly(e), o, 0)


def copy_unchecked(e: StreamEndpoint, first: int, items: int) -> Steps:
    return (yield from from_ring(e, first, items))


def copy_checked_before(e: StreamEndpoint, first: int, items: int) -> Steps:
    floor = yield get(("floor",))
    found = yield from from_ring(e, first, items)
    return found if floor <= first else None


def copy_checked_by_position(e: StreamEndpoint, first: int, items: int) -> Steps:
    found = yield from from_ring(e, first, items)
    written = yield get_acquire(("position", WRITER))
    return found if written - e.cells <= first else None


def copy_without_its_overlap(e: StreamEndpoint, first: int, items: int) -> Steps:
    """Check that the items are whole, but not the older ones before them."""
    found = yield from from_ring(e, first, items)
    return found if (yield get(("floor",))) <= first + e.backlog else None


def find_whole_looking_again(e: StreamEndpoint, o: Own, few: int, many: int) -> Steps:
    """Load the writer's position again where `floor` is above it, but not the reset."""
    while True:
        o = yield from notice_cut(e, (yield from look_at_peer(e, o)))
        floor = yield get_acquire(("floor",))
        if floor > o.seen:
            o = yield from look_at_peer(e, o)
        first = max(o.position, floor, o.seen - e.capacity)
        if o.seen >= first + few:
            o = yield from lose_until(e, o, first)
            return o, min(o.seen - first, many)
        if (yield from why_not(e, o, few)) == WOULD_BLOCK:
            return o, WOULD_BLOCK


def lose_without_moving(e: StreamEndpoint, o: Own, position: int) -> Steps:
    """Count what is lost at each try, and move only with what is read."""
    if position <= o.position:
        return o
    lost = o.lost + 2 * (position - o.position)
    return (yield from set_position(e, o._replace(lost=lost), position))


# Resets -------------------------------------------------------------------------------------------


def reset_moving_the_reader(e: StreamEndpoint, o: Own) -> Steps:
    yield from heap_lock(e.base.me)
    yield put_release(("cut",), o.position)
    yield put_release(("position", READER), o.position)
    yield full_fence()
    yield from heap_unlock()
    return o


def reset_silently(e: StreamEndpoint, o: Own) -> Steps:
    yield from heap_lock(e.base.me)
    yield put_release(("cut",), o.position)
    yield full_fence()
    yield from cut_for_nobody(e, o.position)
    yield from heap_unlock()
    return o


def reset_the_reader_only(e: StreamEndpoint, o: Own) -> Steps:
    """Leave the backlog."""
    o = yield from look_at_peer(e, o)
    o = yield from notice_cut(e, o)
    o = yield from set_position(e, o, o.seen)
    yield from notify(e, o)
    return o


def notice_nothing(e: StreamEndpoint, o: Own) -> Steps:
    yield from ()
    return o


def notice_in_a_window(e: StreamEndpoint, o: Own) -> Steps:
    noticed = yield from notice_cut(rightly(e), o._replace(window=NONE))
    return noticed._replace(window=o.window)


def notice_once(e: StreamEndpoint, o: Own) -> Steps:
    cut = yield get_acquire(("cut",))
    if o.window >= 0 or cut <= o.position:
        return o
    o = yield from look_at_peer(e, o)
    o = yield from set_position(e, o, cut)
    yield from notify(e, o)
    return o


def notice_silently(e: StreamEndpoint, o: Own) -> Steps:
    cut = yield get_acquire(("cut",))
    if o.window >= 0 or cut <= o.position:
        return o
    o = yield from look_at_peer(e, o)
    return (yield from set_position(e, o, cut))


def find_noticing_first(e: StreamEndpoint, o: Own, few: int, many: int) -> Steps:
    while True:
        if e.side == READER:
            o = yield from notice_cut(e, o)
        o = yield from look_at_peer(e, o)
        if items_seen(e, o) >= few:
            return o, min(items_seen(e, o), many)
        why = yield from why_not(e, o, few)
        if why:
            return o, why


def wait_without_noticing(e: StreamEndpoint, o: Own) -> Steps:
    yield from ()
    return o


def give_nothing_back(e: StreamEndpoint, o: Own) -> Steps:
    yield from ()


def close_counting_again(e: StreamEndpoint, o: Own, items: int) -> Steps:
    """Release a window's items although a reset has dropped them."""
    o = yield from notice_cut(e, o._replace(window=NONE))
    return (yield from advance(e, o, items))


def control(*mistakes: tuple[str, Any], **how: Any) -> Callable[[], Model]:
    return lambda: stream("control", instead=mistakes, **how)


def polled(*mistakes: tuple[str, Any], **how: Any) -> Callable[[], Model]:
    how = {"total": 2, "capacity": 3, "portions": (1,), "poller": "R"} | how
    return control(*mistakes, **how)


PAIR: dict[str, Any] = {"total": 3, "portions": (2,), "wants": ((1, 2),)}
OVER: dict[str, Any] = {"total": 3, "portions": (1,), "wants": ((1, 2),), "overwrite": True}
SHOWN: dict[str, Any] = {"reader": {"ways": (looks,)}}
FILLED: dict[str, Any] = {"writer": {"ways": (fills,)}}
DEATHS: dict[str, Any] = {
    "total": 2,
    "portions": (2,),
    "wants": ((1, 1),),
    "kills": 1,
    "tso": False,
}
RESET_FULL: dict[str, Any] = reset_at(1, total=2, capacity=1, portions=(1,), wants=((1, 1),))


CONTROLS: dict[str, Callable[[], Model]] = {
    "committed before it is filled": control(("write_items", commit_before_filling), **PAIR),
    "committed before the last item": control(("write_items", commit_before_the_last), **PAIR),
    "released before it is read": control(("ipcheap_stream_read", release_before_looking), **PAIR),
    "the end believed without a second look": control(("find", find_without_a_second_look), **PAIR),
    "more than half the capacity waited for": control(
        total=4, portions=(2,), wants=((1, 1), (2, 2)), **FILLED
    ),
    "a reader begins where the writer stands": control(
        ("take_side", take_from_the_other_side), **DEATHS, mortal="R"
    ),
    "a writer begins where the reader stands": control(
        ("take_side", take_from_the_other_side), **DEATHS, mortal="W"
    ),
    "no membarrier": control(("park", park_without_a_barrier), **PAIR),
    "no fence on the waker's side": control(
        ("notify", notify_without_a_fence), **PAIR, fences=True
    ),
    "not looking again": control(("park", park_without_looking_again), **PAIR),
    "wanted stored after the barrier": control(("park", park_wanting_last), **GIVES_UP),
    "woken before the commit": control(("advance", advance_waking_first), **PAIR),
    "wanted read before the commit": control(("advance", advance_wanted_first), **GIVES_UP),
    "woken one item late": control(("notify", notify_one_late), **GIVES_UP | {"wants": ((1, 1),)}),
    "among: nothing wanted": control(
        ("lie_down", lie_down_wanting_nothing),
        **GIVES_UP | {"reader": {"waits": gives_up_among, "stays": True}},
    ),
    "bell: armed for what was wanted before": polled(
        ("bell_bring_in_line", settle_keeping_the_want),
        reader={"calls": ((wants, 1), (wants, 2)), "watermark": 2},
        writer={"stays": True},
    ),
    "bell: wanted stored after the barrier": polled(
        ("bell_bring_in_line", settle_wanting_last),
        reader={"calls": ((wants, 1), (wants, 2)), "watermark": 2},
        writer={"stays": True},
    ),
    "bell: a call that does not settle it": polled(
        ("ipcheap_stream_ready", answer_without_settling),
        reader={"calls": ((asks, 1),), "watermark": 2},
        writer={"resets": (1,)},
    ),
    "overwriting: floor stored after the items": control(
        ("write_items", spoil_after_filling), **OVER
    ),
    "overwriting: no floor": control(("spoil", spoil_nothing), **OVER),
    "overwriting: floor of what is written": control(("spoil", spoil_what_is_written), **OVER),
    "overwriting: copies not checked": control(("copy_whole", copy_unchecked), **OVER),
    "overwriting: copies checked before": control(("copy_whole", copy_checked_before), **OVER),
    "overwriting: copies checked by the position": control(
        ("copy_whole", copy_checked_by_position), **OVER
    ),
    "overwriting: the backlog not checked": control(
        ("copy_whole", copy_without_its_overlap), **OVER | SHOWN | {"total": 4}, backlog=1
    ),
    "overwriting: a loss counted twice": control(("lose_until", lose_without_moving), **OVER),
    "overwriting: a reset not looked at after the position": control(
        ("find_whole", find_whole_looking_again), **RESET_BETWEEN, overwrite=True
    ),
    "overwriting: a successor's floor of its own": control(
        ("take_side", take_with_a_floor_of_its_own),
        **OVER | FILLED | {"portions": (2,), "total": 4},
        kills=1,
        mortal="W",
        tso=False,
    ),
    "reset: the writer moves the reader": control(
        ("reset_by_writer", reset_moving_the_reader), **reset_at(1) | SHOWN
    ),
    "reset: the sleeper not woken": control(
        ("reset_by_writer", reset_silently),
        total=3,
        capacity=3,
        portions=(1,),
        wants=((2, 2),),
        writer={"resets": (1,), "awaits": True},
    ),
    "reset: never noticed": control(("notice_cut", notice_nothing), **reset_at(1)),
    "reset: noticed before the position is read": control(
        ("find", find_noticing_first), **reset_at(1)
    ),
    "reset: noticed in a window": control(("notice_cut", notice_in_a_window), **RESET_FULL | SHOWN),
    "reset: only one noticed": control(
        ("notice_cut", notice_once), **reset_at(1, 2, capacity=3, portions=(1,)), tso=False
    ),
    "reset: the writer not woken": control(("notice_cut", notice_silently), **RESET_FULL),
    "reset: not noticed before sleeping": control(
        ("before_waiting", wait_without_noticing), **RESET_FULL
    ),
    "reset: a stale release counts": control(
        ("ipcheap_window_close", close_counting_again), **reset_at(1) | SHOWN
    ),
    "reset: room not given back after the reader's end": control(
        ("give_room_back", give_nothing_back),
        **reset_at(1, total=2, capacity=1, portions=(1,), wants=((1, 1),)),
        reader={"leaves": 0},
        ends=no_end,
    ),
    "reset: a claim does not follow it": control(
        ("take_side", take_without_following),
        **reset_at(1, total=2, capacity=1, portions=(1,), wants=((1, 1),)),
        kills=1,
        mortal="R",
        tso=False,
    ),
    "reset: the backlog not forgotten": control(
        ("reset_by_reader", reset_the_reader_only),
        total=3,
        backlog=1,
        wants=((1, 1),),
        reader={"ways": (looks,), "resets": 1},
    ),
}

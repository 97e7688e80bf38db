"""Broadcasts take turns: broadcast.c."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from ..explorer import Model, Process
from ..mirror import Mirror
from ..steps import (
    Violation,
    choose,
    get,
    get_acquire,
    now,
    os_futex_wait,
    os_futex_wake,
    put,
    put_add,
    put_exchange,
    put_if,
    put_release,
    when,
)
from .words import is_alive, looks_for, replaceable

if TYPE_CHECKING:
    from ..steps import Steps, View

NEVER = 9


class Broadcast(NamedTuple):
    """Mirrors struct ipcheap_broadcast: a caller, and what it wants."""

    me: str
    callers: tuple[str, ...] = ()
    until: int = NEVER  # when its timeout ends
    tight: bool = False  # once, room that was there may be gone when it posts
    stops: bool = False  # it may be stopped when it has posted
    instead: tuple[tuple[str, Any], ...] = ()


# The turn -----------------------------------------------------------------------------------------


def all_have_released(view: View, q: int) -> bool:
    return all(view[name] > q for name in view.names("done") if view["alive", name[1]])


def asks_released(view: View, q: int) -> Any:
    return {}, all_have_released(view, q)


def is_released(q: int) -> Steps:
    """Look at all listeners: see awaits.py."""
    return (yield when(f"has everybody released {q}?", asks_released, q))


@replaceable
def turn_is_over(b: Broadcast, turn: Any) -> Steps:
    if not (yield when(f"is {turn[0]} alive?", looks_for, turn[0])):
        return True
    until = yield get_acquire(("turn_until",))
    message = yield get_acquire(("turn_message",))
    if (yield get_acquire(("turn",))) != turn:
        return False
    if until[0] == turn and (yield get(("clock",))) >= until[1]:
        return True
    if message[0] != turn:
        return False
    return (yield from is_released(message[1] - 1))


@replaceable
def turn_notify(b: Broadcast) -> Steps:
    if not (yield put_exchange(("turn_waiters",), 0)):
        return
    yield put_add(("turn_wake",), 1)
    for _ in b.callers:  # all that sleep
        yield os_futex_wake(("turn_wake",))


@replaceable
def turn_take(b: Broadcast, count: int) -> Steps:
    until = yield get_acquire(("turn_until",))
    seen = yield get_acquire(("turn",))
    if seen and not (yield from turn_is_over(b, seen)):
        return 0
    mine = (b.me, count)
    if (yield put_if(("turn_until",), until, (mine, b.until, False))) != until:
        return 0
    if (yield put_if(("turn",), seen, mine)) != seen:
        return 0
    until = yield get_acquire(("turn_until",))
    while (yield get_acquire(("turn",))) == mine:
        found = yield put_if(("turn_until",), until, (mine, b.until, True))
        if found == until:
            break
        until = found
    return mine


@replaceable
def turn_note(b: Broadcast, turn: Any, position: int) -> Steps:
    if (yield get(("turn",))) == turn:
        yield put_release(("turn_message",), (turn, position + 1))


@replaceable
def turn_end(b: Broadcast, turn: Any) -> Steps:
    if (yield put_if(("turn",), turn, 0)) == turn:
        yield from turn_notify(b)


def is_missed(view: View, until: int) -> bool:
    """Return whether the holder of the turn may never notify anybody.

    In C a sleep ends after 1 to 50 ms, which would hide a lost wake-up among the living.
    """
    turn = view["turn",]
    stopped = bool(turn) and view["stopped", turn[0]]
    dead = not all(view[name] for name in view.names("alive"))
    return stopped or dead or view["clock",] >= until


@replaceable
def sleep_for_turn(b: Broadcast) -> Steps:
    seen = yield get_acquire(("turn_wake",))
    yield put_exchange(("turn_waiters",), 1)
    turn = yield get_acquire(("turn",))
    if not turn or (yield from turn_is_over(b, turn)):
        return
    yield os_futex_wait(("turn_wake",), seen, timed=partial(is_missed, until=b.until))


# A broadcast --------------------------------------------------------------------------------------


def is_waited_for(view: View, who: str) -> bool:
    """Return whether a living caller, which is not late, waits for releases that are missing."""
    q = view["waits", who]
    if q is None or not view["alive", who] or view["clock",] >= view["ends", who]:
        return False
    return not all_have_released(view, q)


def posts(view: View, b: Broadcast) -> Any:
    q = len(view["log",])
    late = view["clock",] >= b.until  # and then its turn may have been taken
    for who in b.callers:
        if not late and is_waited_for(view, who):
            return {}, f"{b.me} posts while {who} waits for {view['waits', who]}"
    return {("log",): (*view["log",], b.me), ("waits", b.me): q, ("ends", b.me): b.until}, q


def posts_in_turn(b: Broadcast, turn: Any, tight: bool) -> Steps:
    """Post in the turn that was taken; return the position, or none without room."""
    if tight and (yield choose(False, True)):
        yield from turn_end(b, turn)
        return None
    position = yield when("posts", posts, b)
    if isinstance(position, str):
        raise Violation(position)
    yield from turn_note(b, turn, position)
    return position


def is_done(view: View, b: Broadcast, q: int) -> Any:
    """Wait until all have released, or the deadline."""
    if all_have_released(view, q) or view["clock",] >= b.until:
        return {}, None
    return None


def returns(view: View, me: str) -> Any:
    return {("waits", me): None}, None


def is_stopped(view: View, me: str) -> Any:
    return {("stopped", me): True}, None


def never(_: View) -> Any:
    return None


def broadcasts(b: Broadcast, count: int) -> Steps:
    tight = b.tight
    for i in range(count):
        while True:
            turn = yield from turn_take(b, i)
            position = None
            if turn:
                position = yield from posts_in_turn(b, turn, tight)
                tight = tight and position is not None
            if position is not None:
                break
            if (yield get(("clock",))) >= b.until:
                return  # by its own deadline, without having posted
            yield from sleep_for_turn(b)
        if b.stops and (yield choose(False, True)):
            yield when("is stopped", is_stopped, b.me)
            yield when("goes on", never, rest=True)
        yield when("waits for releases", is_done, b, position)
        yield now("returns", returns, b.me)
        yield from turn_end(b, turn)


def next_is_there(view: View, n: str) -> Any:
    p = view["done", n]
    return ({("done", n): p + 1}, None) if len(view["log",]) > p else None


def acknowledges(n: str) -> Steps:
    """Release one after the other, each at any time."""
    while True:
        yield when("releases the next", next_is_there, n, rest=True)


def passes() -> Steps:
    yield put(("clock",), 1)


def all_came_through(view: View, callers: tuple[Broadcast, ...]) -> str | None:
    """Check that nobody waits for the turn in the end."""
    turn = view["turn",]
    if turn and view["alive", turn[0]] and not view["stopped", turn[0]]:
        return f"{turn[0]} has kept the turn"
    return None


def turns(
    name: str,
    callers: str = "VW",
    listeners: str = "LM",
    *,
    counts: tuple[int, ...] = (),
    hurried: str = "",
    tight: str = "",
    stops: str = "",
    kills: int = 0,
    mortal: str = "",
    instead: tuple[tuple[str, Any], ...] = (),
) -> Model:
    """Build a model: callers broadcast, listeners release; the hurried have a deadline."""
    memory: dict[Any, Any] = {("turn",): 0, ("turn_wake",): 0, ("turn_waiters",): 0}
    memory |= {
        ("turn_message",): (0, 0),
        ("turn_until",): (0, 0, False),
        ("clock",): 0,
        ("log",): (),
    }
    memory |= {("alive", who): True for who in (*callers, *listeners)}
    memory |= {("waits", who): None for who in callers} | {("ends", who): 0 for who in callers}
    memory |= {("stopped", who): False for who in callers} | {("done", n): 0 for n in listeners}
    processes, all_callers = [], []
    for who, count in zip(callers, counts or (1,) * len(callers), strict=True):
        until = 1 if who in hurried else NEVER
        b = Broadcast(who, tuple(callers), until, who in tight, who in stops, instead)
        all_callers.append(b)
        processes.append(Process(who, partial(broadcasts, b, count), who in mortal))
    processes += [Process(n, partial(acknowledges, n), n in mortal) for n in listeners]
    if hurried:
        processes.append(Process("T", passes))
    return Model(
        f"bus, {name}",
        tuple(processes),
        memory,
        finally_=partial(all_came_through, callers=tuple(all_callers)),
        kills=kills,
    )


BROADCAST = "bus/broadcast.c"
INSIDE = frozenset({"bus_enter", "bus_leave"})  # removal.py
MIRRORS = (
    Mirror(BROADCAST, turn_is_over),
    Mirror(BROADCAST, turn_notify),
    Mirror(BROADCAST, turn_take),
    Mirror(BROADCAST, turn_note),
    Mirror(BROADCAST, turn_end, ignored=INSIDE),
    Mirror(BROADCAST, sleep_for_turn, ignored=INSIDE),
)
__all__ = ["is_alive"]

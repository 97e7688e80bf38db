"""Parking: no wake-up is lost, though a message needs no fence.

Producers send numbered records through rings of one slot to a consumer who sleeps in one of
three ways: in park(), among several endpoints, or as a poller at a descriptor. Stores are
buffered, sleeping has no time-out (in C it has one of half a second, which would hide a lost
wake-up for that long; a poller has none in C either).

    word      2 n: free for record n      2 n + 1: record n is in it
    pipe      1: there are bytes in it. Reading and writing it takes the kernel's lock of it
    watched   whose end makes the descriptor readable, too
    taken     how many records the consumer has received  } ghosts, which only
    way       who has published and not told yet          } the properties
    outside   the poller is outside of all calls          } look at
    calm      None; or, since his call began nothing was to be done or on its way: the dead then
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .explorer import (
    Model,
    Process,
    Step,
    View,
    Violation,
    choose,
    compiler_fence,
    full_fence,
    get,
    get_acquire,
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
    when,
)
from .mirror import Mirror

if TYPE_CHECKING:
    from collections.abc import Callable

    from .explorer import Steps

PRODUCER, CONSUMER = 0, 1
NEVER, OPEN, CLOSED, DIED = "never", "open", "closed", "died"
AWAKE, PARKED_HERE, PARKED_BELL, PARKED_AMONG = "awake", "here", "bell", "among"
QUIET, ARMED, RUNG = "quiet", "armed", "rung"
GONE, DESERTED = 2, 4
INSIDE, CLOSING, SHUT = 1, 2, 4


class Endpoint(NamedTuple):
    """One side of a channel, and what its holder knows."""

    channel: str
    side: int
    me: str
    others: tuple[str, ...]  # whom a membarrier interrupts
    fences: bool = False  # it is refused, and wakers know
    shared: bool = False  # another thread may close it
    removable: bool = False
    poor: bool = False  # once, there is no descriptor left for the bell


class Bell(NamedTuple):
    """Mirrors struct own_bell."""

    state: str = QUIET
    due: bool = False


# Steps of the operating system and of private words -----------------------------------------------


def os_pipe_ring(channel: str) -> Step:
    return Step("exchange", ("pipe", channel), 1)


def os_pipe_clear(channel: str) -> Step:
    return Step("exchange", ("pipe", channel), 0)


def os_pipe_clear_soon(channel: str) -> Steps:
    """What is on its way comes in time, or does not."""
    if (yield choose(True, False)):
        yield os_pipe_clear(channel)


def os_futex_wait_any(words: tuple[tuple[Any, int], ...]) -> Step:
    """Of one word: all endpoints here are of one participant."""
    ((name, expected),) = words
    return os_futex_wait(name, expected)


atomic_fetch_or, atomic_fetch_and = put_or, put_and
atomic_compare_exchange_strong = put_if


def telling(me: str) -> tuple[tuple[Any, Any], ...]:
    """Return the ghosts of a store after which somebody is to be told."""
    return ((("way", me), True), (("calm",), None))


# What wakers do -----------------------------------------------------------------------------------


def knock(holder: str) -> Steps:
    yield put_add(("knock", holder), 1)
    yield os_futex_wake(("knock", holder))


def bell_ring(channel: str, side: int, pull: str = "") -> Steps:
    if pull == "none left":
        yield put_if(("parked", channel, side), AWAKE, PARKED_BELL)
        return
    yield os_pipe_ring(channel)


def unpark(channel: str, side: int, pull: str = "") -> Steps:
    if (yield get(("parked", channel, side))) == AWAKE:
        return
    how = yield put_exchange(("parked", channel, side), AWAKE)
    if how == PARKED_BELL:
        yield from bell_ring(channel, side, pull)
    elif how == PARKED_AMONG:
        _, holder = yield get_acquire(("holder", channel, side))
        yield from knock(holder)
    elif how == PARKED_HERE:
        yield os_futex_wake(("parked", channel, side))


def wake_peer(e: Endpoint, pull: str = "") -> Steps:
    yield from unpark(e.channel, 1 - e.side, pull)


def endpoint_notify(e: Endpoint, pull: str = "") -> Steps:
    if e.fences:
        yield full_fence()
    yield compiler_fence()
    if (yield get(("parked", e.channel, 1 - e.side))) != AWAKE:
        yield from wake_peer(e, pull)


def side_end(channel: str, side: int, state: str, me: str) -> Steps:
    _, holder = yield get(("holder", channel, side))
    if side == PRODUCER:
        yield put_or(("flags", channel), DESERTED)
    yield put_release(("holder", channel, side), (state, holder), telling(me))
    yield full_fence()
    yield from unpark(channel, 1 - side)


# What sleepers do ---------------------------------------------------------------------------------


def endpoint_ready(e: Endpoint, n: int) -> Steps:
    """Something to do, or the other side's end."""
    word = yield get_acquire(("word", e.channel))
    if word == 2 * n + e.side:
        return True
    state, _ = yield get_acquire(("holder", e.channel, 1 - e.side))
    if state in (CLOSED, DIED):
        return True
    return e.removable and bool((yield get(("flags", e.channel))) & GONE)


def endpoint_is_closing(e: Endpoint) -> Steps:
    return e.shared and bool((yield get(("use",))) & CLOSING)


def sleeper_fence(e: Endpoint) -> Steps:
    yield from os_membarrier(*(() if e.fences else e.others))
    if e.fences:
        yield put(("fences",), 1)
    yield full_fence()


def bell_disarm(e: Endpoint, b: Bell | None) -> Steps:
    if b is None or b.state != ARMED:
        return b
    due = (yield put_exchange(("parked", e.channel, e.side), AWAKE)) != PARKED_BELL
    return Bell(RUNG if due else QUIET, due)


def park(e: Endpoint, n: int, b: Bell | None = None, ready: Any = endpoint_ready) -> Steps:
    """Return the bell."""
    if (yield from ready(e, n)):
        return b
    b = yield from bell_disarm(e, b)
    while True:
        yield put(("parked", e.channel, e.side), PARKED_HERE)
        yield from sleeper_fence(e)
        result = ""
        if not (yield from ready(e, n)) and not (yield from endpoint_is_closing(e)):
            result = yield os_futex_wait(("parked", e.channel, e.side), PARKED_HERE)
        yield put(("parked", e.channel, e.side), AWAKE)
        if (yield from ready(e, n)):
            return b
        if (yield from endpoint_is_closing(e)):
            return b
        if result == "timed out" and (yield from ready(e, n)):
            return b


# Among several: one participant's endpoints, each with the record that it waits for.

Items = tuple[tuple[Endpoint, int], ...]


def is_ready(e: Endpoint, n: int) -> Steps:
    return (yield from endpoint_ready(e, n))


def look(items: Items) -> Steps:
    for e, n in items:
        if (yield from is_ready(e, n)):
            return True
    return False


def gather(items: Items) -> Steps:
    """Return the words to sleep on, and what they are now."""
    me = items[0][0].me
    seen = yield get_acquire(("knock", me))
    return ((("knock", me), seen),)


def lie_down(items: Items) -> Steps:
    for e, _ in items:
        yield from bell_disarm(e, None)
        yield put(("parked", e.channel, e.side), PARKED_AMONG)
    yield from sleeper_fence(items[0][0])


def get_up(items: Items) -> Steps:
    for e, _ in items:
        yield put(("parked", e.channel, e.side), AWAKE)


def is_closing(items: Items) -> Steps:
    for e, _ in items:
        if (yield from endpoint_is_closing(e)):
            return True
    return False


def sleep_a_while(items: Items) -> Steps:
    words = yield from gather(items)
    yield from lie_down(items)
    if not (yield from look(items)) and not (yield from is_closing(items)):
        yield os_futex_wait_any(words)
    yield from get_up(items)


# The bell.


def ring_self(e: Endpoint, b: Bell) -> Steps:
    b = yield from bell_disarm(e, b)
    if b.state == QUIET:
        yield os_pipe_ring(e.channel)
    return b._replace(state=RUNG)


def arm(e: Endpoint, b: Bell, emptied: bool) -> Steps:
    b = yield from bell_disarm(e, b)
    if not (yield os_pipe_clear(e.channel)) and not emptied and b.due:
        yield from os_pipe_clear_soon(e.channel)
    yield put(("parked", e.channel, e.side), PARKED_BELL)
    yield from sleeper_fence(e)
    return Bell(ARMED)


def has_late_byte(e: Endpoint, b: Bell) -> Steps:
    return b.state == ARMED and bool((yield os_pipe_clear(e.channel)))


def pidfd_open(view: View, holder: Any) -> Any:
    """A poller watches whoever holds the other side; of one who is gone it learns at once."""
    return {("watched",): holder}, None


def watch(holder: Any) -> Steps:
    yield when(f"watches {holder[1]}", pidfd_open, holder)


def ask_alive(view: View, who: str) -> Any:
    return {}, view["alive", who]


def peer_is_lost(e: Endpoint) -> Steps:
    holder = yield get_acquire(("holder", e.channel, 1 - e.side))
    if holder != (yield get(("watched",))):
        yield from watch(holder)
    if holder[0] != OPEN or (yield when("is he alive?", ask_alive, holder[1])):
        return False
    yield from recover_if_dead(e, holder)
    return False


def bell_bring_in_line(
    e: Endpoint,
    n: int,
    b: Bell,
    arm: Any = arm,
    has_late_byte: Any = has_late_byte,
    bell_disarm: Any = bell_disarm,
) -> Steps:
    """Return the bell, and whether there is something new."""
    if (yield from endpoint_ready(e, n)):
        if b.state != RUNG:
            b = yield from ring_self(e, b)
        return b, False
    late = yield from has_late_byte(e, b)
    if late or b.state != ARMED or (yield get(("parked", e.channel, e.side))) != PARKED_BELL:
        b = yield from arm(e, b, late)
    lost = yield from peer_is_lost(e)
    ready = yield from endpoint_ready(e, n)
    if lost or ready:
        b = yield from ring_self(e, b)
    return b, ready


# Claiming, recovering, removing, closing ----------------------------------------------------------


def lock_is_taken(view: View, me: str) -> Any:
    owner = view["lock"]
    return None if owner and view["alive", owner] else ({"lock": me}, None)


def heap_lock(me: str) -> Steps:
    """In one step: a dead owner is robbed."""
    yield when("takes the lock", lock_is_taken, me)


def recover_channel(channel: str, side: int, dead: str, me: str) -> Steps:
    """What concerns sleepers: under the lock."""
    holder = yield get(("holder", channel, side))
    if holder != (OPEN, dead):
        return
    yield put(("parked", channel, side), AWAKE, telling(me))
    yield from side_end(channel, side, DIED, me)


def recover_if_dead(e: Endpoint, holder: Any) -> Steps:
    state, dead = holder
    if state != OPEN or (yield when("is he alive?", ask_alive, dead)):
        return
    yield from heap_lock(e.me)
    yield from recover_channel(e.channel, 1 - e.side if dead != e.me else e.side, dead, e.me)
    yield put("lock", 0)


def side_taken(e: Endpoint, side: int) -> Steps:
    holder = yield get_acquire(("holder", e.channel, side))
    if holder[0] == OPEN and not (yield when("is he alive?", ask_alive, holder[1])):
        yield from recover_channel(e.channel, side, holder[1], e.me)


def claim(e: Endpoint) -> Steps:
    """Under the lock."""
    yield from side_taken(e, e.side)
    yield put(("parked", e.channel, e.side), AWAKE)
    if e.side == PRODUCER:
        yield put_and(("flags", e.channel), ~DESERTED)
    yield put_release(("holder", e.channel, e.side), (OPEN, e.me), telling(e.me))
    yield full_fence()
    yield from unpark(e.channel, 1 - e.side)

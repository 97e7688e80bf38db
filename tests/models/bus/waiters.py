"""Those who sleep on a bus or poll it, and those who post to them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..explorer import Model, Process
from ..mirror import Mirror
from ..park.bell import arm, has_late_byte, ring_self
from ..park.park import sleeper_fence
from ..park.words import ARMED, AWAKE, PARKED_AMONG, PARKED_BELL, RUNG, Bell, Endpoint
from ..steps import get, get_acquire, now, os_futex_wait_any, put, put_add, when
from .wake import bus_tell, listener_before_waiting, listener_park, ready, somebody_died
from .words import Bus, X, replaceable, shared

if TYPE_CHECKING:
    from ..steps import Steps, View

before_waiting = listener_before_waiting
endpoint_ready = ready


# Wakers -------------------------------------------------------------------------------------------


def has_told(view: View, n: int) -> Any:
    return {("told",): max(view["told",], n)}, None


def tells(bus: Bus, count: int) -> Steps:
    """Post so many messages: what counts here is a read-modify-write, and who is woken."""
    for _ in range(count):
        n = yield put_add(("posted",), 1)
        yield from bus_tell(bus)
        yield now("has told", has_told, n + 1)


# Sleepers -----------------------------------------------------------------------------------------


def is_there(view: View, p: int) -> Any:
    return ({}, None) if view["posted",] > p else None


def catches_up(bus: Bus, p: int) -> Steps:
    return max(p, (yield get_acquire(("posted",))))


def moves_to(view: View, n: str, p: int) -> Any:
    return {("position", n): p}, None


def parks(bus: Bus, total: int) -> Steps:
    p = 0
    while p < total:
        if not (yield from listener_park(bus, p)):
            yield when(f"message {p}", is_there, p, rest=True)
        p = yield from catches_up(bus, p)
        yield now("moves", moves_to, bus.me, p)


def lie_down(e: Endpoint) -> Steps:
    yield put(("parked", X, e.side), PARKED_AMONG)
    yield from sleeper_fence(e)


def sleeps_among(bus: Bus, total: int) -> Steps:
    """Wait for any of several things; as wait_any.c does."""
    e = Endpoint(X, bus.me, bus.me, bus.others)
    p = 0
    while p < total:
        seen = yield get_acquire(("knock", bus.me))
        yield from lie_down(e)
        idle = not (yield from ready(bus, p))
        result = ""
        if idle:
            yield from before_waiting(bus)
        if idle and not (yield from ready(bus, p)):
            words = ((("knock", bus.me), seen),)
            result = yield os_futex_wait_any(words, timed=somebody_died)
        yield put(("parked", X, bus.me), AWAKE)
        if result == "timed out" and not (yield from ready(bus, p)):
            yield when(f"message {p}", is_there, p, rest=True)
        p = yield from catches_up(bus, p)
        yield now("moves", moves_to, bus.me, p)


# A poller -----------------------------------------------------------------------------------------


def deaths(view: View) -> int:
    return sum(not view[name] for name in view.names("alive"))


def hears(view: View, n: str) -> Any:
    """Read what the watch of the heap's file says: that some process has closed it."""
    return {("heard", n): deaths(view)}, None


def peer_is_lost(bus: Bus) -> Steps:
    yield when("reads its watch", hears, bus.me)
    return False


@replaceable
def bell_bring_in_line(bus: Bus, e: Endpoint, bell: Any, p: int) -> Steps:
    """Return the bell, and whether that found something new."""
    if (yield from endpoint_ready(bus, p)):
        if bell.state != RUNG or bell.due:
            bell = yield from ring_self(e, bell)
        return bell, False
    late = yield from has_late_byte(e, bell)
    if late or bell.state != ARMED or (yield get(("parked", X, e.side))) != PARKED_BELL:
        bell = yield from arm(e, bell, late)
    yield from before_waiting(bus)
    lost = yield from peer_is_lost(bus)
    found = yield from endpoint_ready(bus, p)
    if lost or found:
        bell = yield from ring_self(e, bell)
    return bell, found


def is_readable(view: View, n: str) -> bool:
    return bool(view["pipe", X, n]) or deaths(view) > view["heard", n]


def comes_in(view: View, n: str) -> Any:
    return ({}, None) if is_readable(view, n) else None


def polls(bus: Bus, total: int) -> Steps:
    """Call when the descriptor is readable."""
    e = Endpoint(X, bus.me, bus.me, bus.others)
    bell, p = Bell(), 0
    bell, _ = yield from bell_bring_in_line(bus, e, bell, p)
    while p < total:
        yield when("is readable", comes_in, bus.me, rest=True)
        again = True
        while again and p < total:
            before = p
            p = yield from catches_up(bus, p)
            yield now("moves", moves_to, bus.me, p)
            bell, again = yield from bell_bring_in_line(bus, e, bell, p)
            again = again or p > before


# What must hold -----------------------------------------------------------------------------------


def nobody_sleeps_on(view: View, bus: Bus) -> str | None:
    """Check that all have what was posted, or what calls that have returned have posted."""
    wanted = view["told",] if bus.stops else view["posted",]
    for n in bus.listeners:
        if view["position", n] < wanted:
            return f"{n} sleeps at {view['position', n]} of {wanted}"
    return None


def waiting(
    name: str,
    *sleepers: Any,
    counts: tuple[int, ...] = (1,),
    kills: int = 0,
    stops: str = "",
    tso: bool = False,
    instead: tuple[tuple[str, Any], ...] = (),
) -> Model:
    """Build a model: V and W post so many messages each, and listeners wait, each in its way."""
    writers = tuple("VW"[: len(counts)])
    who = tuple("LMN"[: len(sleepers)])
    bus = Bus("", listeners=who, instead=instead, stops=bool(stops))
    memory = shared(bus, (*writers, *who)) | {("told",): 0}
    processes = []
    for w, count in zip(writers, counts, strict=True):
        mine = bus._replace(me=w, stops=w in stops)
        processes.append(Process(w, partial(tells, mine, count), kills > 0))
    for n, sleeps in zip(who, sleepers, strict=True):
        memory |= {("pipe", X, n): int(sleeps is not polls), ("heard", n): 0, ("knock", n): 0}
        mine = bus._replace(me=n, others=writers)
        processes.append(Process(n, partial(sleeps, mine, sum(counts))))
    return Model(
        f"bus, {name}",
        tuple(processes),
        memory,
        finally_=partial(nobody_sleeps_on, bus=bus),
        kills=kills,
        tso=tso,
        private=frozenset({"holder", "active", "position"}),
    )


BELL, ANY = "endpoint/bell.c", "heap/wait_any.c"
MIRRORS = (
    Mirror(
        BELL,
        bell_bring_in_line,
        calls=frozenset({"ring_self", "has_late_byte", "peer_is_lost", "endpoint_ready"}),
    ),
)

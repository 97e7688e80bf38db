"""Parking: no wake-up is lost, though a message needs no fence.

Producers send numbered records through rings of one slot to a consumer who sleeps in one of
three ways: in park(), among several endpoints, or as a poller at a descriptor. Stores are
buffered, sleeping has no time-out (in C it has one of half a second, which would hide a lost
wake-up for that long; a poller has none in C either).

    word      2 n: free for record n      2 n + 1: record n is in it
    pipe      1: there are bytes in it. Reading and writing it takes the kernel's lock of it
    pidfd     whose end makes the descriptor readable, too
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
    nothing_wrong,
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


def tells(_: View, me: str) -> Any:
    return dict(telling(me)), None


def has_told(_: View, me: str) -> Any:
    return {("way", me): False}, None


def telling(me: str) -> tuple[tuple[Any, Any], ...]:
    """Return the ghosts of a store after which somebody is to be told."""
    return ((("way", me), True), (("calm",), None))


def claiming(me: str) -> tuple[tuple[Any, Any], ...]:
    """Return the ghosts of the store that claims."""
    return ((("way", me), "claims"), (("calm",), None))


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
        return False
    how = yield put_exchange(("parked", channel, side), AWAKE)
    if how == AWAKE:
        return False
    if how == PARKED_BELL:
        yield from bell_ring(channel, side, pull)
    elif how == PARKED_AMONG:
        _, holder = yield get_acquire(("holder", channel, side))
        yield from knock(holder)
    else:
        yield os_futex_wake(("parked", channel, side))
    return True


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
    yield from bell_disarm(e, b)
    yield os_pipe_ring(e.channel)
    return Bell(RUNG)


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
    """Watch whoever holds the other side: for his end, if he has not come to it yet."""
    state, who = holder
    watched = who if state == OPEN and view["alive", who] else None
    return {("watched",): holder, ("pidfd",): watched}, None


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
    yield from recover_if_dead(e, 1 - e.side)
    return False


def bell_bring_in_line(
    e: Endpoint,
    n: int,
    b: Bell,
    arm: Any = arm,
    has_late_byte: Any = has_late_byte,
    peer_is_lost: Any = peer_is_lost,
    ring_self: Any = ring_self,
) -> Steps:
    """Return the bell, and whether there is something new."""
    if (yield from endpoint_ready(e, n)):
        if b.state != RUNG or b.due:
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


def heap_unlock() -> Steps:
    yield put("lock", 0)


def recover_channel(channel: str, side: int, dead: str, me: str) -> Steps:
    """What concerns sleepers: under the lock."""
    holder = yield get(("holder", channel, side))
    if holder != (OPEN, dead):
        return
    yield put(("parked", channel, side), AWAKE, telling(me))
    yield from bell_ring(channel, 1 - side)
    yield from side_end(channel, side, DIED, me)


def recover_if_dead(
    e: Endpoint, side: int, locked: bool = False, recover_channel: Any = recover_channel
) -> Steps:
    state, dead = yield get_acquire(("holder", e.channel, side))
    if state != OPEN or (yield when("is he alive?", ask_alive, dead)):
        return
    if not locked:
        yield from heap_lock(e.me)
    yield from recover_channel(e.channel, side, dead, e.me)
    if not locked:
        yield from heap_unlock()


def side_taken(e: Endpoint, side: int, recover_if_dead: Any = recover_if_dead) -> Steps:
    yield from recover_if_dead(e, side, locked=True)


def claim(e: Endpoint, side_taken: Any = side_taken) -> Steps:
    """Under the lock."""
    yield from side_taken(e, e.side)
    yield put(("parked", e.channel, e.side), AWAKE)
    if e.side == PRODUCER:
        yield put_and(("flags", e.channel), ~DESERTED)
    yield put_release(("holder", e.channel, e.side), (OPEN, e.me), claiming(e.me))
    yield full_fence()
    if not (yield from unpark(e.channel, 1 - e.side)):
        yield from bell_ring(e.channel, 1 - e.side)


def ipcheap_remove_channel(e: Endpoint) -> Steps:
    yield from heap_lock(e.me)
    yield when("removes the channel", tells, e.me)
    yield put_or(("flags", e.channel), GONE)
    yield full_fence()
    yield from unpark(e.channel, PRODUCER)
    yield from unpark(e.channel, CONSUMER)
    yield from heap_unlock()


def count_closing(view: View) -> Any:
    return {("closings",): view["closings",] + 1}, None


def finish_closing() -> Steps:
    yield when("closes it", count_closing)
    yield atomic_fetch_or(("use",), SHUT)


def start_closing(e: Endpoint) -> Steps:
    """By another thread: true when the caller is the one who closes it."""
    use = yield atomic_fetch_or(("use",), CLOSING)
    if use & CLOSING:
        return False
    if not use & INSIDE:
        return True
    yield from unpark(e.channel, e.side)
    return False


def ipcheap_endpoint_enter(e: Endpoint) -> Steps:
    """Return whether one may; where nobody else can close it, that is not looked at."""
    return not e.shared or (yield atomic_compare_exchange_strong(("use",), 0, INSIDE)) == 0


def ipcheap_endpoint_leave(e: Endpoint) -> Steps:
    """Return whether it was to be closed meanwhile."""
    if not e.shared or not (yield atomic_fetch_and(("use",), ~INSIDE)) & CLOSING:
        return False
    yield from finish_closing()
    return True


PARK, BELL, ANY, END = (f"channel/{name}.c" for name in ("park", "bell", "wait_any", "endpoint"))
WORD = (("word", "parked"),)
ATOMICS = frozenset(
    {"atomic_fetch_or", "atomic_fetch_and", "atomic_compare_exchange_strong", "ready"}
)
SYSTEM = frozenset({"os_pipe_ring", "os_pipe_clear", "os_pipe_clear_soon", "os_futex_wait_any"})
MIRRORS = (
    Mirror(PARK, knock, aliases=(("word", "knock"),)),
    Mirror(PARK, unpark, calls=SYSTEM | ATOMICS),
    Mirror(PARK, wake_peer),
    Mirror("channel/park.h", endpoint_notify, ignored=frozenset({"wakes"})),
    Mirror("channel/park.h", sleeper_fence),
    Mirror(PARK, park, aliases=WORD, ignored=frozenset({"parks", "core"})),
    Mirror("channel/endpoint.h", endpoint_is_closing),
    Mirror(END, endpoint_ready),
    Mirror(BELL, bell_ring),
    Mirror(BELL, bell_disarm),
    Mirror(BELL, ring_self),
    Mirror(BELL, arm, aliases=WORD),
    Mirror(BELL, has_late_byte),
    Mirror(BELL, peer_is_lost, calls=frozenset({"recover_if_dead", "watch"})),
    Mirror(BELL, bell_bring_in_line),
    Mirror(ANY, is_ready),
    Mirror(ANY, look),
    Mirror(ANY, lie_down),
    Mirror(ANY, get_up),
    Mirror(ANY, is_closing),
    Mirror(ANY, sleep_a_while, calls=frozenset({"gather"})),
    Mirror("channel/ring.c", side_end),
    Mirror("channel/recover.c", recover_channel, ignored=frozenset({"ready"})),
    # It also ends the side of one who never was, which only a spoilt heap has.
    Mirror(END, side_taken, ignored=frozenset({"side_end"})),
    Mirror(END, claim),
    Mirror(END, ipcheap_remove_channel, ignored=frozenset({"side_taken", "heap_lock"})),
    Mirror(END, start_closing),
    Mirror(END, finish_closing),
    Mirror(END, ipcheap_endpoint_enter),
    Mirror(END, ipcheap_endpoint_leave),
)


# The processes ------------------------------------------------------------------------------------


def produce(e: Endpoint, records: int, parks: Any = park, notifies: Any = endpoint_notify) -> Steps:
    """Send, and sleep while there is no room."""
    for n in range(records):
        while (yield get_acquire(("word", e.channel))) != 2 * n:
            yield from parks(e, n)
        yield put_release(("word", e.channel), 2 * n + 1)
        yield from notifies(e)
    yield from side_end(e.channel, PRODUCER, CLOSED, e.me)


def consume(e: Endpoint, records: int, parks: Any = park, notifies: Any = endpoint_notify) -> Steps:
    n = 0
    while True:
        word = yield get_acquire(("word", e.channel))
        if word == 2 * n + 1:
            n += 1
            yield put_release(("word", e.channel), 2 * n)
            yield from notifies(e)
            continue
        state, _ = yield get_acquire(("holder", e.channel, PRODUCER))
        if state == CLOSED:
            # The slot first, then the state: whatever was sent before the end comes before it.
            if (yield get_acquire(("word", e.channel))) == 2 * n + 1:
                continue
            if n != records:
                raise Violation(f"the end came after {n} of {records} records")
            return
        if not (yield from ipcheap_endpoint_enter(e)):
            return
        yield from parks(e, n)
        if (yield from ipcheap_endpoint_leave(e)):
            return


def closes(e: Endpoint) -> Steps:
    """Another thread closes it."""
    if (yield from start_closing(e)):
        yield from finish_closing()


def has_room(view: View, channel: str, n: int) -> Any:
    return ({}, None) if view["word", channel] == 2 * n else None


def has_died(view: View, who: str) -> Any:
    return None if view["alive", who] else ({}, None)


def sends(
    e: Endpoint,
    records: int,
    after: str = "",
    claims: bool = False,
    stays: bool = False,
    claim: Any = claim,
    notifies: Any = endpoint_notify,
) -> Steps:
    """Send what is not sent yet; room is waited for in one step."""
    if after:
        yield when(f"{after} has died", has_died, after, rest=True)
    if after or claims:
        yield from heap_lock(e.me)
        yield from claim(e)
        yield from heap_unlock()
        yield when("has told", has_told, e.me)
    n = ((yield get(("word", e.channel))) + 1) // 2
    while n < records:
        yield when("waits for room", has_room, e.channel, n, rest=e.removable)
        yield put_release(("word", e.channel), 2 * n + 1, telling(e.me))
        yield from notifies(e, "none left" if e.poor else "")
        yield when("has told", has_told, e.me)
        n += 1
    if not stays:
        yield from side_end(e.channel, PRODUCER, CLOSED, e.me)
        yield when("has told", has_told, e.me)


def removes(e: Endpoint) -> Steps:
    yield from ipcheap_remove_channel(e)
    yield when("has told", has_told, e.me)


def sends_and_stays(e: Endpoint, records: int, notifies: Any = endpoint_notify) -> Steps:
    """The end is left to the other models."""
    for n in range(records):
        yield when("waits for room", has_room, e.channel, n)
        yield put_release(("word", e.channel), 2 * n + 1)
        yield from notifies(e)


def waits_for_any(items: Items, records: int, sleeps: Any = sleep_a_while) -> Steps:
    """Take so many from each, as they come."""
    while items:
        found = 0
        for e, n in items:
            if (yield get_acquire(("word", e.channel))) == 2 * n + 1:
                yield put_release(("word", e.channel), 2 * n + 2)
                items = tuple((x, k + (x == e)) for x, k in items)
                items = tuple(item for item in items if item[1] < records)
                found = 1
                break
        if found:
            continue
        if not (yield from ipcheap_endpoint_enter(e)):
            return
        yield from sleeps(items)
        if (yield from ipcheap_endpoint_leave(e)):
            return


# The poller, and what must hold of the descriptor.


def is_readable(view: View, channel: str) -> bool:
    watched = view["pidfd",]
    return bool(view["pipe", channel]) or (watched is not None and not view["alive", watched])


def is_ready_now(view: View, channel: str) -> bool:
    if view["word", channel] == 2 * view["taken",] + 1 or view["flags", channel] & GONE:
        return True
    return view["holder", channel, PRODUCER][0] in (CLOSED, DIED)


def on_the_way(view: View) -> bool:
    return any(view[name] and view["alive", name[1]] for name in view.names("way"))


def is_told(view: View) -> str | None:
    """An endpoint that is ready makes the descriptor readable, or somebody living will."""
    if not view["outside",] or not is_ready_now(view, "X"):
        return None
    if is_readable(view, "X") or on_the_way(view):
        return None
    return "it is ready, the descriptor is not readable, and nobody is on the way"


def nobody_waits(view: View) -> str | None:
    """In the end, only he still polls to whom nothing happens, and who is told of a death."""
    state, who = view["holder", "X", PRODUCER]
    if not view["outside",] or is_readable(view, "X"):
        return None
    if is_ready_now(view, "X"):
        return "the poller sleeps for ever"
    # Who claims and is killed before he has told of it is noticed by the next who comes.
    dead = state == OPEN and not view["alive", who] and view["way", who] != "claims"
    return "the poller is not told of a death" if dead else None


def goes_out(view: View, channel: str) -> Any:
    """After a call in which nothing was to be done, nor on its way, nothing is readable."""
    dead = view["calm",]
    left = view["pipe", channel] or view["pidfd",] in (dead or ())
    if dead is not None and left and not is_ready_now(view, channel):
        return {}, "nothing is to be done, but the descriptor stays readable"
    return {("outside",): True}, None


def comes_in(view: View, channel: str, way: str) -> Any:
    if way == "polls" and not is_readable(view, channel):
        return None
    calm = not is_ready_now(view, channel) and not on_the_way(view)
    dead = tuple(name for _, name in view.names("alive") if not view["alive", name])
    return {("outside",): False, ("calm",): dead if calm else None}, None


def not_died(view: View, channel: str) -> Any:
    return None if view["holder", channel, PRODUCER][0] == DIED else ({}, None)


def receives(e: Endpoint, n: int, records: int) -> Steps:
    """Return "a record", "nothing", or which end it is."""
    word = yield get_acquire(("word", e.channel))
    if word != 2 * n + 1:
        if e.removable and (yield get(("flags", e.channel))) & GONE:
            return "removed"
        state, _ = yield get_acquire(("holder", e.channel, PRODUCER))
        if state not in (CLOSED, DIED):
            return "nothing"
        word = yield get_acquire(("word", e.channel))
        if word != 2 * n + 1:
            if state == CLOSED and n != records:
                raise Violation(f"the end came after {n} of {records} records")
            return state
    yield put_release(("word", e.channel), 2 * n + 2, ((("taken",), n + 1),))
    return "a record"


def polls(
    e: Endpoint,
    records: int,
    ways: tuple[str, ...] = ("polls", "comes by himself"),
    settles: Any = bell_bring_in_line,
) -> Steps:
    """Call when the descriptor is readable, and sometimes when it is not."""
    n = 0
    b, _ = yield from settles(e, n, Bell())
    while True:
        fault = yield when("goes outside", goes_out, e.channel)
        if fault:
            raise Violation(fault)
        way = yield choose(*ways)
        yield when(way, comes_in, e.channel, way, rest=True)
        if way == "parks":
            b = yield from park(e, n, b)
            b, _ = yield from settles(e, n, b)
        while True:
            found = yield from receives(e, n, records)
            if found in (CLOSED, "removed"):
                return
            if found == DIED:
                yield when("waits for the next producer", not_died, e.channel, rest=True)
            n += found == "a record"
            b, again = yield from settles(e, n, b)
            if not again or found == "a record":
                break


# Models -------------------------------------------------------------------------------------------


def shared(channels: str, names: tuple[str, ...], producer: Any) -> dict[Any, Any]:
    memory: dict[Any, Any] = {"lock": 0, ("fences",): 0, ("use",): 0, ("closings",): 0}
    memory |= {("knock", "consumer"): 0, ("outside",): False, ("calm",): None, ("taken",): 0}
    memory |= {("watched",): None, ("pidfd",): None}
    for channel in channels:
        memory |= {("word", channel): 0, ("flags", channel): 0, ("pipe", channel): 0}
        memory |= {("parked", channel, side): AWAKE for side in (PRODUCER, CONSUMER)}
        memory["holder", channel, PRODUCER] = producer
        memory["holder", channel, CONSUMER] = (OPEN, "consumer")
    memory |= {("alive", name): True for name in names}
    return memory | {("way", name): False for name in names}


def here(
    name: str,
    *,
    records: int = 2,
    fences: bool = False,
    closer: bool = False,
    **how: Any,
) -> Model:
    """A producer and a consumer who both park; perhaps one who closes the consumer's endpoint."""
    names = ("producer", "consumer", *(("closer",) if closer else ()))
    out = Endpoint("X", PRODUCER, "producer", ("consumer",), fences)
    into = Endpoint("X", CONSUMER, "consumer", ("producer",), fences, shared=closer)
    sending = partial(produce, out, records, **how)
    if closer:  # who is what the consumer waits for in the end
        sending = partial(sends, out._replace(removable=True), records, stays=True)
    processes = [
        Process("producer", sending),
        Process("consumer", partial(consume, into, records, **how)),
    ]
    if closer:
        processes.append(Process("closer", partial(closes, into)))
    memory = shared("X", names, (OPEN, "producer"))
    return Model(f"park, {name}", tuple(processes), memory, finally_=closed_once, tso=True)


def closed_once(view: View) -> str | None:
    return "it is closed twice" if view["closings",] > 1 else None


def among(
    name: str,
    *,
    channels: str = "XY",
    records: int = 1,
    fences: bool = False,
    closer: bool = False,
    notifies: Any = endpoint_notify,
    **how: Any,
) -> Model:
    """A consumer who waits for any of some channels; perhaps one who closes an endpoint."""
    others = tuple(f"producer of {c}" for c in channels)
    memory = shared(channels, (*others, "consumer", "closer"), None)
    processes, items = [], []
    for c, other in zip(channels, others, strict=True):
        memory["holder", c, PRODUCER] = (OPEN, other)
        out = Endpoint(c, PRODUCER, other, (), fences)
        processes.append(Process(other, partial(sends_and_stays, out, records, notifies)))
        items.append((Endpoint(c, CONSUMER, "consumer", others, fences, shared=closer), 0))
    processes.append(Process("consumer", partial(waits_for_any, tuple(items), records, **how)))
    if closer:
        processes.append(Process("closer", partial(closes, items[0][0])))
    return Model(f"park, {name}", tuple(processes), memory, finally_=closed_once, tso=True)


def bell(
    name: str,
    *,
    records: int = 2,
    fences: bool = False,
    kills: int = 0,
    claims: bool = False,
    poor: bool = False,
    remover: bool = False,
    producer: dict[str, Any] | None = None,
    **how: Any,
) -> Model:
    """A consumer who polls; the producer, and one who comes after him, may be killed."""
    fences = fences or bool(kills)
    names = (
        "producer",
        "consumer",
        *(("successor",) if kills else ()),
        *(("remover",) if remover else ()),
    )
    others = tuple(n for n in names if n != "consumer")
    into = Endpoint("X", CONSUMER, "consumer", others, fences, removable=remover)
    out = Endpoint("X", PRODUCER, "producer", (), fences, removable=remover, poor=poor)
    send = partial(sends, records=records, **(producer or {}))
    processes = [
        Process("producer", partial(send, out, claims=claims), bool(kills)),
        Process("consumer", partial(polls, into, records, **how)),
    ]
    if kills:
        after = partial(send, out._replace(me="successor"), after="producer")
        processes.append(Process("successor", after, True))
    if remover:
        processes.append(Process("remover", partial(removes, out._replace(me="remover"))))
    memory = shared("X", names, (NEVER, None) if claims else (OPEN, "producer"))
    return Model(
        f"park, {name}",
        tuple(processes),
        memory,
        always=is_told if not poor else nothing_wrong,
        finally_=nobody_waits,
        kills=kills,
        private=frozenset({"watched"}),
        tso=not kills,  # buffers are for those models in which nobody dies
    )


# What must fail -----------------------------------------------------------------------------------


def park_without_a_barrier(e: Endpoint, n: int) -> Steps:
    while not (yield from endpoint_ready(e, n)):
        yield put(("parked", e.channel, e.side), PARKED_HERE)
        yield compiler_fence()
        if not (yield from endpoint_ready(e, n)):
            # Going to sleep, the kernel looks at `parked`, not at the slot.
            yield os_futex_wait(("parked", e.channel, e.side), PARKED_HERE)
        yield put(("parked", e.channel, e.side), AWAKE)


def park_with_its_own_fence_only(e: Endpoint, n: int) -> Steps:
    yield from park(e._replace(others=()), n)


def park_without_looking_again(e: Endpoint, n: int) -> Steps:
    while not (yield from endpoint_ready(e, n)):
        yield put(("parked", e.channel, e.side), PARKED_HERE)
        yield from sleeper_fence(e)
        yield os_futex_wait(("parked", e.channel, e.side), PARKED_HERE)
        yield put(("parked", e.channel, e.side), AWAKE)


def park_looking_at_use_too_early(e: Endpoint, n: int) -> Steps:
    while not (yield from endpoint_ready(e, n)) and not (yield from endpoint_is_closing(e)):
        yield put(("parked", e.channel, e.side), PARKED_HERE)
        yield from sleeper_fence(e)
        if not (yield from endpoint_ready(e, n)):
            yield os_futex_wait(("parked", e.channel, e.side), PARKED_HERE)
        yield put(("parked", e.channel, e.side), AWAKE)


def notify_without_a_fence(e: Endpoint, pull: str = "") -> Steps:
    yield from endpoint_notify(e._replace(fences=False), pull)


def sleep_reading_knock_last(items: Items) -> Steps:
    """Read after arming, but before looking, it would do; not after that."""
    yield from lie_down(items)
    if not (yield from look(items)):
        words = yield from gather(items)
        yield os_futex_wait_any(words)
    yield from get_up(items)


def sleep_without_looking_again(items: Items) -> Steps:
    words = yield from gather(items)
    yield from lie_down(items)
    yield os_futex_wait_any(words)
    yield from get_up(items)


def notify_without_counting(e: Endpoint) -> Steps:
    yield compiler_fence()
    if (yield put_exchange(("parked", e.channel, 1 - e.side), AWAKE)) != AWAKE:
        yield os_futex_wake(("knock", "consumer"))


def notify_ringing_first(e: Endpoint, pull: str = "") -> Steps:
    yield compiler_fence()
    if (yield get(("parked", e.channel, 1 - e.side))) == PARKED_BELL:
        yield from bell_ring(e.channel, 1 - e.side, pull)
        yield put_exchange(("parked", e.channel, 1 - e.side), AWAKE)


def notify_giving_up(e: Endpoint, pull: str) -> Steps:
    """Leave the word taken when there was no descriptor to ring with."""
    yield compiler_fence()
    yield put_exchange(("parked", e.channel, 1 - e.side), AWAKE)


def settle_without_looking_again(e: Endpoint, n: int, b: Bell) -> Steps:
    if (yield from endpoint_ready(e, n)):
        return (yield from ring_self(e, b)), False
    return (yield from arm(e, b, emptied=False)), False


def settle_without_a_barrier(e: Endpoint, n: int, b: Bell) -> Steps:
    return (yield from bell_bring_in_line(e._replace(others=()), n, b))


def arm_without_emptying(e: Endpoint, b: Bell, emptied: bool) -> Steps:
    yield from bell_disarm(e, b)
    yield put(("parked", e.channel, e.side), PARKED_BELL)
    yield from sleeper_fence(e)
    return Bell(ARMED)


def no_late_byte(e: Endpoint, b: Bell) -> Steps:
    yield from ()
    return False


def peer_not_watched(e: Endpoint) -> Steps:
    yield from ()
    return False


def ring_self_unless_due(e: Endpoint, b: Bell) -> Steps:
    b = yield from bell_disarm(e, b)
    if b.state == QUIET:
        yield os_pipe_ring(e.channel)
    return b._replace(state=RUNG)


def recover_without_ringing(channel: str, side: int, dead: str, me: str) -> Steps:
    yield put(("parked", channel, side), AWAKE, telling(me))
    yield from side_end(channel, side, DIED, me)


def claim_without_ringing(e: Endpoint) -> Steps:
    yield from side_taken(e, e.side)
    yield put_release(("holder", e.channel, e.side), (OPEN, e.me), claiming(e.me))
    yield full_fence()
    yield from unpark(e.channel, 1 - e.side)


def claim_recovering_without_ringing(e: Endpoint) -> Steps:
    silent = partial(recover_if_dead, recover_channel=recover_without_ringing)
    yield from claim(e, side_taken=partial(side_taken, recover_if_dead=silent))


def settling(**how: Any) -> Any:
    return partial(bell_bring_in_line, **how)


MODELS: dict[str, Callable[[], Model]] = {
    "here": lambda: here("here", records=3),
    "here, fences": lambda: here("here, fences", records=3, fences=True),
    "here, closed by another thread": lambda: here("closed", closer=True),
    "among": lambda: among("among"),
    "among, fences": lambda: among("among, fences", fences=True),
    "among, closed by another thread": lambda: among("among, closed", channels="X", closer=True),
    "bell": lambda: bell("bell"),
    "bell, fences": lambda: bell("bell, fences", fences=True),
    "bell, who also parks": lambda: bell("bell", ways=("polls", "parks")),
    "bell, wakers die": lambda: bell("bell, wakers die", kills=1, records=1, ways=("polls",)),
    "bell, two claimants die": lambda: bell(
        "bell, two claimants die",
        kills=2,
        records=0,
        claims=True,
        ways=("polls",),
        producer={"stays": True},
    ),
    "bell, a claimant dies": lambda: bell(
        "bell, claims",
        kills=1,
        records=1,
        claims=True,
        ways=("polls",),
        producer={"stays": True},
    ),
    "bell, removed": lambda: bell(
        "bell, removed", remover=True, records=1, ways=("polls",), producer={"stays": True}
    ),
    "bell, no descriptor left": lambda: bell("bell, poor", records=1, poor=True),
}

CONTROLS: dict[str, Callable[[], Model]] = {
    "no membarrier": lambda: here("control", parks=park_with_its_own_fence_only),
    "no fence on the waker's side": lambda: here(
        "control", fences=True, notifies=notify_without_a_fence
    ),
    "no fence on the sleeper's side": lambda: here(
        "control", fences=True, parks=park_without_a_barrier
    ),
    "not looking again after parked = here": lambda: here(
        "control", parks=park_without_looking_again
    ),
    "closed, and not looking at that after parked = here": lambda: here(
        "control", closer=True, parks=park_looking_at_use_too_early
    ),
    "among: knock read after arming and looking": lambda: among(
        "control", channels="X", sleeps=sleep_reading_knock_last
    ),
    "among: not looking again": lambda: among("control", sleeps=sleep_without_looking_again),
    "among: knock not counted up": lambda: among(
        "control", channels="X", notifies=notify_without_counting
    ),
    "bell: no membarrier": lambda: bell("control", settles=settle_without_a_barrier),
    "bell: no fence on the waker's side": lambda: bell(
        "control", fences=True, producer={"notifies": notify_without_a_fence}
    ),
    "bell: not looking again after arming": lambda: bell(
        "control", settles=settle_without_looking_again
    ),
    "bell: rung before the word is taken": lambda: bell(
        "control", producer={"notifies": notify_ringing_first}
    ),
    "bell: settled without emptying the pipe": lambda: bell(
        "control", settles=settling(arm=arm_without_emptying, has_late_byte=no_late_byte)
    ),
    "bell: a late byte left in the pipe": lambda: bell(
        "control", settles=settling(has_late_byte=no_late_byte)
    ),
    "bell: the peer's process not watched": lambda: bell(
        "control", kills=1, settles=settling(peer_is_lost=peer_not_watched)
    ),
    "bell: a due byte counted upon": lambda: bell(
        "control", kills=1, records=1, settles=settling(ring_self=ring_self_unless_due)
    ),
    "bell: the byte of a dead predecessor counted upon": lambda: bell(
        "control",
        kills=1,
        records=1,
        ways=("polls",),
        producer={"claim": claim_without_ringing},
    ),
    "bell: the byte of a recovered claimant counted upon": lambda: bell(
        "control",
        kills=2,
        records=0,
        claims=True,
        ways=("polls",),
        producer={"claim": claim_recovering_without_ringing, "stays": True},
    ),
    "bell: no descriptor, and the word not put back": lambda: bell(
        "control", records=1, poor=True, producer={"notifies": notify_giving_up}
    ),
}

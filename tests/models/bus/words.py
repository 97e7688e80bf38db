"""The words of a bus, what its users keep in private memory, and the heap around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..park.words import AWAKE, CLOSED, DIED, NEVER, OPEN
from ..steps import Violation, compiler_fence, get, get_acquire, now, put, put_release, when
from ..stream.words import replaceable

if TYPE_CHECKING:
    from ..steps import Steps, View

__all__ = ["AWAKE", "CLOSED", "DIED", "NEVER", "OPEN", "replaceable"]

X = "X"
NONE = None
FREE, OWN, SENT, PART = "FREE", "OWN", "SENT", "PART"
HELD, KEPT, RELEASING = "HELD", "KEPT", "RELEASING"
LOSSY, SHUT = 1, 2  # flags of a listener: lossy; closed, and it still holds
GONE = 1  # a flag of the channel
RELEASE, ROOM = 1, 2  # what writers wait for
HERE, OTHERS, ARMING = 1, 2, 4  # sleepers
JOINING, LOSING = 99, 98
WOULD_BLOCK, POSTED, AGAIN = "would block", "posted", "again"
NOT_FOUND, TIMED_OUT = "not found", "timed out"


class Bus(NamedTuple):
    """A bus as a participant sees it: what does not change."""

    me: str
    capacity: int = 1
    listeners: tuple[str, ...] = ()
    writers: tuple[str, ...] = ()  # those that may wait for a listener
    others: tuple[str, ...] = ()  # the processes that a membarrier interrupts
    history: int = 0
    words: int = 1  # hold words of a listener
    patient: bool = True  # or a listener that is in the way may be passed at any time
    apart: bool = False  # posted records: the envelope is a block of its own
    extents: bool = False  # messages are extents
    refused: bool = False  # membarrier is
    stops: bool = False  # it may be stopped while it wakes others
    instead: tuple[tuple[str, Any], ...] = ()  # mistakes, in place of the functions of these names


class Message(NamedTuple):
    """Mirrors struct message."""

    position: int
    block: int


class Letter(NamedTuple):
    """Mirrors struct letter."""

    block: int
    payload: Any = NONE
    origin: Any = NONE  # `from`: the payload's tag before it was a part
    position: int = 0


class Own(NamedTuple):
    """Mirrors what changes in struct listener."""

    position: int = 0
    received: int = 0
    lost: int = 0
    used: int = 0
    free: tuple[int, ...] = (0,)  # hold words, the next one last


def slot(bus: Bus, position: int) -> Any:
    return "slot", position % bus.capacity


def history_from(bus: Bus, end: int) -> int:
    return max(end - bus.history, 0)


def bus_end(bus: Bus) -> Steps:
    """Return the first position that is not posted, from the hint on."""
    position = yield get_acquire(("head",))
    while True:
        at, _ = yield get_acquire(slot(bus, position))
        if at < position:
            return position
        position = at + 1


# Being inside -------------------------------------------------------------------------------------


@replaceable
def bus_stay(bus: Bus) -> Steps:
    """Enter; return where the caller was before."""
    before = yield get(("bus", bus.me))
    yield put(("bus", bus.me), 1)
    yield compiler_fence()
    return before


def bus_return(bus: Bus, before: int) -> Steps:
    yield put_release(("bus", bus.me), before)


def bus_leave(bus: Bus) -> Steps:
    yield put_release(("bus", bus.me), 0)


# Blocks -------------------------------------------------------------------------------------------


def take_blocks(view: View, me: str, count: int) -> Any:
    """Allocate so many blocks and fill them: their bytes are private to the writer."""
    free = [b for _, b in view.names("tag") if view["tag", b] == FREE][:count]
    if len(free) < count:
        return None
    stores: dict[Any, Any] = {("tag", b): (OWN, me) for b in free}
    if count == 2:
        stores["payload", free[0]] = free[1]
    return stores, tuple(free)


def is_mine_to_free(view: View, block: int, tag: Any) -> Any:
    there = view["tag", block]
    if there != tag:
        return {}, f"block {block} is freed as {tag} when it is {there}"
    return {("tag", block): FREE}, ""


def block_free(block: int, tag: Any) -> Steps:
    """Free a block that must still have a tag."""
    fault = yield when(f"frees block {block}", is_mine_to_free, block, tag)
    if fault:
        raise Violation(fault)


def block_drop(bus: Bus, block: int) -> Steps:
    """Free a block of the caller's."""
    yield from block_free(block, (OWN, bus.me))


def place_is(block: int, tag: Any) -> Steps:
    return (yield get_acquire(("tag", block))) == tag


def message_is_there(view: View, m: Message) -> Any:
    """Return what is wrong with a message that is used: it must be that one, and not freed."""
    if view["tag", m.block] != (SENT, m.position):
        return {}, f"message {m.position} is used when its block is {view['tag', m.block]}"
    payload = view["payload", m.block]
    if payload is not NONE and view["tag", payload] != (PART, m.block):
        return {}, f"the payload of message {m.position} is {view['tag', payload]}"
    return {}, ""


def uses(bus: Bus, m: Message) -> Steps:
    fault = yield when(f"uses {m.position}", message_is_there, m)
    if fault:
        raise Violation(f"{bus.me}: {fault}")


# The lock -----------------------------------------------------------------------------------------


def lock_is_taken(view: View, me: str) -> Any:
    owner = view["lock"]
    return None if owner and view["alive", owner] else ({"lock": me}, None)


def heap_lock(me: str) -> Steps:
    yield when("takes the lock", lock_is_taken, me)


def heap_unlock() -> Steps:
    yield put("lock", 0)


# Memory -------------------------------------------------------------------------------------------


def shared(
    bus: Bus,
    names: tuple[str, ...],
    *,
    blocks: int = 0,
    lossy: tuple[str, ...] = (),
    late: tuple[str, ...] = (),
) -> dict[Any, Any]:
    """Return a new bus, on which all listeners are registered except those that come late."""
    memory: dict[Any, Any] = {("floor",): 0, ("settled",): 0, ("swept",): 0, ("head",): 0}
    memory |= {("fences",): 0, ("laggard",): 0, ("flags", X): 0, "lock": 0}
    memory |= {("sleepers",): 0, ("wake",): 0}
    memory |= {("turn",): 0, ("turn_wake",): 0, ("turn_waiters",): 0}
    memory |= {("slot", i): (i - bus.capacity, NONE) for i in range(bus.capacity)}
    for block in range(blocks):
        memory |= {("tag", block): FREE, ("payload", block): NONE}
    for n in bus.listeners:
        there = n not in late
        memory |= {("position", n): 0, ("joined", n): 0, ("lost", n): 0}
        memory |= {("lost_from", n): 0, ("lost_to", n): 0, ("passed", n): 0}
        memory |= {("waiters", n): 0, ("turns", n): 0, ("used", n): bus.words if there else 0}
        memory |= {("flags", n): LOSSY if n in lossy else 0, ("active", n): int(there)}
        memory |= {("polled", n): 0, ("parked", X, n): AWAKE, ("pipe", X, n): 1, ("knock", n): 0}
        memory["holder", X, n] = (OPEN, n) if there else (NEVER, NONE)
        memory |= {("hold", n, i): NONE for i in range(bus.words)}
    memory |= {("bus", name): 0 for name in (*names, "last")}
    memory |= {("intent", name): NONE for name in names}
    memory |= {("from", name): NONE for name in names}
    memory |= {("letting", name): NONE for name in (*names, "last")}
    memory |= {("alive", name): True for name in (*names, "last")}
    # Ghosts: how many were posted; the position from which on a listener gets all.
    memory |= {("posted",): 0}
    memory |= {("start", n): NONE if n in late else 0 for n in bus.listeners}
    return memory


def posts(view: View, q: int, block: int) -> Any:
    done, tag = view["posted",], view["tag", block]
    fault = "" if done == q else f"{q} is posted when {done} are"
    if tag == FREE:
        fault = f"{q} is posted, and its block is free"
    return {("posted",): done + 1}, fault


def posted(q: int, block: int) -> Steps:
    """Note, at the moment of the swap, that a message was posted."""
    fault = yield now(f"posts {q}", posts, q, block)
    if fault:
        raise Violation(fault)


def looks_for(view: View, n: str) -> Any:
    return {}, view["alive", n]


def is_alive(n: str) -> Steps:
    return (yield now(f"is {n} alive?", looks_for, n))

"""What a listener receives, and what becomes of it: receive.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import (
    Violation,
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    os_futex_wake,
    put,
    put_add,
    put_exchange,
    put_release,
)
from .reclaim import hold_end
from .words import (
    GONE,
    HELD,
    KEPT,
    LOSING,
    NOT_FOUND,
    RELEASE,
    ROOM,
    WOULD_BLOCK,
    Bus,
    Message,
    Own,
    X,
    replaceable,
    slot,
)

if TYPE_CHECKING:
    from ..steps import Steps


@replaceable
def listener_tell(bus: Bus, n: str, what: int) -> Steps:
    if (yield get(("fences",))):
        yield full_fence()
    yield compiler_fence()
    if (yield get(("waiters", n))) & what:
        yield from listener_wake_writers(bus, n)


@replaceable
def listener_wake_writers(bus: Bus, n: str) -> Steps:
    yield put_exchange(("waiters", n), 0)
    yield put_add(("turns", n), 1)
    for _ in bus.writers:  # all that sleep
        yield os_futex_wake(("turns", n))


@replaceable
def skip_lost(bus: Bus, o: Own) -> Steps:
    """Go on where the floor is; return the endpoint, and how many messages are lost."""
    first, to = o.position, (yield get_acquire(("floor",)))
    if not o.received:
        first = max(first, min((yield get(("joined", bus.me))), to))
    if to > first:
        o = o._replace(lost=o.lost + to - first)
        yield put_exchange(("lost_from", bus.me), LOSING)
        yield put_release(("lost_to", bus.me), to)
        yield put_release(("lost", bus.me), o.lost)
        yield put_release(("lost_from", bus.me), first)
    o = o._replace(position=to)
    yield put_release(("position", bus.me), to)
    yield from listener_tell(bus, bus.me, ROOM | RELEASE)
    return o, max(to - first, 0)


@replaceable
def hold_next(bus: Bus, o: Own, number: int, lossy: bool) -> Steps:
    """Return the endpoint, and the next message, held with that word, or why there is none."""
    while True:
        at, block = yield get_acquire(slot(bus, o.position))
        if at < o.position and (yield get(("floor",))) <= o.position:
            return o, WOULD_BLOCK
        if at == o.position:
            m = Message(o.position, block)
            yield put(("hold", bus.me, number), (HELD, *m))
            yield compiler_fence()
            if (yield get(("fences",))):
                yield full_fence()
            if (yield get(("floor",))) <= m.position:
                return o, m
            yield from hold_end(bus, (bus.me, number), m)
        if (yield get(("flags", X))) & GONE:
            return o, NOT_FOUND
        o, lost = yield from skip_lost(bus, o)
        if lost and not lossy and bus.patient:
            raise Violation(f"{bus.me} has lost {lost} messages before {o.position}")


@replaceable
def move_past(bus: Bus, o: Own, m: Message) -> Steps:
    """Return the endpoint, and 0 or why the bus has come to its end."""
    if (yield get(("flags", X))) & GONE:
        return o, NOT_FOUND
    o = o._replace(position=m.position + 1, received=1)
    yield put_release(("position", bus.me), o.position)
    yield from listener_tell(bus, bus.me, ROOM)
    return o, 0


@replaceable
def receive_one(bus: Bus, o: Own, lossy: bool) -> Steps:
    """Return the endpoint, and the message and its word, or why there is none."""
    o, word = yield from word_take(bus, o)
    o, m = yield from hold_next(bus, o, word, lossy)
    error: Any = m
    if isinstance(m, Message):
        o, error = yield from move_past(bus, o, m)
        if not error:
            return o, (word, m)
        yield from hold_end(bus, (bus.me, word), m)
    o = yield from word_return(bus, o, word)
    return o, error


@replaceable
def free_message(bus: Bus, o: Own, word: int, m: Message) -> Steps:
    yield from hold_end(bus, (bus.me, word), m)
    yield from listener_tell(bus, bus.me, RELEASE)
    return (yield from word_return(bus, o, word))


@replaceable
def keep_message(bus: Bus, word: int, m: Message) -> Steps:
    yield put_release(("hold", bus.me, word), (KEPT, *m))
    yield from listener_tell(bus, bus.me, RELEASE)


# Hold words ---------------------------------------------------------------------------------------


@replaceable
def word_take(bus: Bus, o: Own) -> Steps:
    word = o.free[-1]
    o = o._replace(free=o.free[:-1])
    if word >= o.used:
        o = o._replace(used=word + 1)
        yield put_release(("used", bus.me), o.used)
    return o, word


@replaceable
def word_return(bus: Bus, o: Own, word: int) -> Steps:
    """Put a word back; in C, `used` goes back only from 8 on."""
    o = o._replace(free=(*o.free, word))
    if o.used > 1 and len(o.free) == bus.words:
        o = o._replace(used=1)
        yield put_release(("used", bus.me), 1)
        o = o._replace(free=tuple(range(bus.words))[::-1])
    return o


RECEIVE = "bus/receive.c"
MIRRORS = (
    Mirror("bus/wake.h", listener_tell),
    Mirror("bus/listeners.c", listener_wake_writers),
    Mirror(RECEIVE, skip_lost),
    Mirror(RECEIVE, hold_next),
    Mirror(RECEIVE, move_past),
    Mirror(RECEIVE, receive_one),
    # By another thread, see removal.py.
    Mirror(RECEIVE, free_message, ignored=frozenset({"free_elsewhere"})),
    Mirror(RECEIVE, keep_message),
    Mirror("bus/holds.c", word_take),
    Mirror("bus/holds.c", word_return),
)

"""Sleeping until one of several endpoints can go on: wait_any.c."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..mirror import Mirror
from ..steps import get_acquire, os_futex_wait_any, put
from .park import bell_disarm, endpoint_is_closing, endpoint_ready, sleeper_fence
from .words import AWAKE, PARKED_AMONG, Endpoint

if TYPE_CHECKING:
    from ..steps import Steps


# One participant's endpoints, each with the record that it waits for.
Items = tuple[tuple[Endpoint, int], ...]


def is_ready(e: Endpoint, n: int) -> Steps:
    return (yield from endpoint_ready(e, n))


def look(items: Items) -> Steps:
    for e, n in items:
        if (yield from is_ready(e, n)):
            return True
    return False


def gather(items: Items) -> Steps:
    """Return the words to sleep on, and their values now."""
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
    idle = not (yield from look(items)) and not (yield from is_closing(items))
    if idle and not (yield from look(items)):
        yield os_futex_wait_any(words)
    yield from get_up(items)


ANY = "heap/wait_any.c"
MIRRORS = (
    Mirror(ANY, is_ready),
    Mirror(ANY, look),
    Mirror(ANY, lie_down),
    Mirror(ANY, get_up),
    Mirror(ANY, is_closing),
    Mirror(ANY, sleep_a_while, calls=frozenset({"gather"})),
)

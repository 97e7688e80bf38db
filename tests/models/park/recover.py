"""Recovering the dead holder of a side, as far as it concerns sleepers: side.c."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..mirror import Mirror
from ..steps import View, get, get_acquire, put, when
from .park import bell_ring, side_end
from .words import AWAKE, DIED, OPEN, Endpoint, ask_alive, telling

if TYPE_CHECKING:
    from ..steps import Steps


def lock_is_taken(view: View, me: str) -> Any:
    owner = view["lock"]
    return None if owner and view["alive", owner] else ({"lock": me}, None)


def heap_lock(me: str) -> Steps:
    """Take the lock in one step, also from a dead owner."""
    yield when("takes the lock", lock_is_taken, me)


def heap_unlock() -> Steps:
    yield put("lock", 0)


def side_recover(channel: str, side: int, dead: str, me: str) -> Steps:
    """Do what concerns sleepers, under the lock."""
    holder = yield get(("holder", channel, side))
    if holder != (OPEN, dead):
        return
    yield put(("parked", channel, side), AWAKE, telling(me))
    yield from bell_ring(channel, 1 - side)
    yield from side_end(channel, side, DIED, me)


def recover_if_dead(
    e: Endpoint, side: int, locked: bool = False, side_recover: Any = side_recover
) -> Steps:
    state, dead = yield get_acquire(("holder", e.channel, side))
    if state != OPEN or (yield when("is it alive?", ask_alive, dead)):
        return
    if not locked:
        yield from heap_lock(e.me)
    yield from side_recover(e.channel, side, dead, e.me)
    if not locked:
        yield from heap_unlock()


MIRRORS = (Mirror("channel/side.c", side_recover, ignored=frozenset({"since"})),)

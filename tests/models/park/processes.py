"""Processes that occur in more than one of the models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..steps import View, get, put_release, when
from .endpoint import claim, finish_closing, start_closing
from .park import endpoint_notify, side_end
from .recover import heap_lock, heap_unlock
from .words import CLOSED, PRODUCER, Endpoint, has_told, telling

if TYPE_CHECKING:
    from ..steps import Steps


def closes(e: Endpoint) -> Steps:
    """Close the endpoint, as another thread."""
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
    """Send what has not been sent; waiting for room is one step."""
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


def closed_once(view: View) -> str | None:
    return "it is closed twice" if view["closings",] > 1 else None


# A mistake for more than one model ------------------------------------------------------------


def notify_without_a_fence(e: Endpoint, pull: str = "") -> Steps:
    yield from endpoint_notify(e._replace(fences=False), pull)

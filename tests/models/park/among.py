"""*Among*: a consumer that waits for any of several channels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..explorer import Model, Process
from ..steps import (
    compiler_fence,
    get_acquire,
    os_futex_wait_any,
    os_futex_wake,
    put_exchange,
    put_release,
    when,
)
from .endpoint import ipcheap_endpoint_enter, ipcheap_endpoint_leave
from .park import endpoint_notify
from .processes import closed_once, closes, has_room
from .wait_any import Items, gather, get_up, lie_down, look, sleep_a_while
from .words import AWAKE, CONSUMER, OPEN, PRODUCER, Endpoint, shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..steps import Steps


def sends_and_stays(e: Endpoint, records: int, notifies: Any = endpoint_notify) -> Steps:
    """Ignore ends, which the other models cover."""
    for n in range(records):
        yield when("waits for room", has_room, e.channel, n)
        yield put_release(("word", e.channel), 2 * n + 1)
        yield from notifies(e)


def waits_for_any(items: Items, records: int, sleeps: Any = sleep_a_while) -> Steps:
    """Receive that many records from each channel, as they come."""
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
    """Build the model: a consumer waits for any channel; perhaps a thread closes an endpoint."""
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


# What must fail -----------------------------------------------------------------------------------


def sleep_reading_knock_last(items: Items) -> Steps:
    """Read `knock` after looking: after arming, but before looking, would still be correct."""
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


MODELS: dict[str, Callable[[], Model]] = {
    "among": lambda: among("among"),
    "among, fences": lambda: among("among, fences", fences=True),
    "among, closed by another thread": lambda: among("among, closed", channels="X", closer=True),
}

CONTROLS: dict[str, Callable[[], Model]] = {
    "among: knock read after arming and looking": lambda: among(
        "control", channels="X", sleeps=sleep_reading_knock_last
    ),
    "among: not looking again": lambda: among("control", sleeps=sleep_without_looking_again),
    "among: knock not incremented": lambda: among(
        "control", channels="X", notifies=notify_without_counting
    ),
}

"""*Here*: a producer and a consumer that both park on their words, and the end of the channel."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..explorer import Model, Process
from ..steps import Violation, compiler_fence, get_acquire, os_futex_wait, put, put_release
from .endpoint import ipcheap_endpoint_enter, ipcheap_endpoint_leave
from .park import (
    endpoint_is_closing,
    endpoint_notify,
    endpoint_ready,
    park,
    side_end,
    sleeper_fence,
)
from .processes import closed_once, closes, notify_without_a_fence, sends
from .words import AWAKE, CLOSED, CONSUMER, OPEN, PARKED_HERE, PRODUCER, Endpoint, shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..steps import Steps


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
            # The slot again: whatever was sent before the end is received before it.
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


def here(
    name: str,
    *,
    records: int = 2,
    fences: bool = False,
    closer: bool = False,
    **how: Any,
) -> Model:
    """Build the model: both sides park; perhaps another thread closes the consumer's endpoint."""
    names = ("producer", "consumer", *(("closer",) if closer else ()))
    out = Endpoint("X", PRODUCER, "producer", ("consumer",), fences)
    into = Endpoint("X", CONSUMER, "consumer", ("producer",), fences, shared=closer)
    sending = partial(produce, out, records, **how)
    if closer:  # in the end the consumer waits for the other thread
        sending = partial(sends, out._replace(removable=True), records, stays=True)
    processes = [
        Process("producer", sending),
        Process("consumer", partial(consume, into, records, **how)),
    ]
    if closer:
        processes.append(Process("closer", partial(closes, into)))
    memory = shared("X", names, (OPEN, "producer"))
    return Model(f"park, {name}", tuple(processes), memory, finally_=closed_once, tso=True)


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


MODELS: dict[str, Callable[[], Model]] = {
    "here": lambda: here("here", records=3),
    "here, fences": lambda: here("here, fences", records=3, fences=True),
    "here, closed by another thread": lambda: here("closed", closer=True),
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
}

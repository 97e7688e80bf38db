"""Parking: no wake-up is lost, though a message needs no fence.

A producer and a consumer on a ring of one slot; each waits for the other by park() and tells
the other by endpoint_notify(). Stores are buffered, sleeping has no time-out (in C it has one
of half a second, which would hide a lost wake-up for that long).

    word    2 n: free for record n      2 n + 1: record n is in it
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .explorer import (
    Model,
    Process,
    Violation,
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    os_futex_wait,
    os_futex_wake,
    os_membarrier,
    put,
    put_exchange,
    put_or,
    put_release,
)
from .mirror import Mirror

if TYPE_CHECKING:
    from collections.abc import Callable

    from .explorer import Steps

PRODUCER, CONSUMER = 0, 1
NAMES = ("producer", "consumer")
OPEN, CLOSED = "open", "closed"
DESERTED = 4


def ready(side: int, n: int) -> Steps:
    """Mirror endpoint_ready(): something to do, or the other side's end."""
    word = yield get_acquire("word")
    if word == 2 * n + side:
        return True
    holder = yield get_acquire(("holder", 1 - side))
    return holder == CLOSED


def unpark(side: int) -> Steps:
    parked = yield put_exchange(("parked", side), 0)
    if parked:
        yield os_futex_wake(("parked", side))


def endpoint_notify(side: int, fences: bool) -> Steps:
    if fences:
        yield full_fence()
    yield compiler_fence()
    parked = yield get(("parked", 1 - side))
    if parked:
        yield from unpark(1 - side)


def park(side: int, n: int, fences: bool) -> Steps:
    if (yield from ready(side, n)):
        return
    while True:
        yield put(("parked", side), 1)
        yield from os_membarrier(*(() if fences else (NAMES[1 - side],)))
        yield full_fence()
        result = ""
        if not (yield from ready(side, n)):
            result = yield os_futex_wait(("parked", side), 1)
        yield put(("parked", side), 0)
        if (yield from ready(side, n)):
            return
        if result == "timed out" and (yield from ready(side, n)):
            return


def side_end(side: int, state: str) -> Steps:
    if side == PRODUCER:
        yield put_or(("flags",), DESERTED)
    yield put_release(("holder", side), state)
    yield full_fence()
    yield from unpark(1 - side)


MIRRORS = (
    Mirror("channel/park.c", unpark),
    Mirror("channel/park.h", endpoint_notify, ignored=frozenset({"wakes"})),
    Mirror(
        "channel/park.c",
        park,
        aliases=(("word", "parked"),),
        ignored=frozenset({"parks"}),
        calls=frozenset({"ready"}),
    ),
    Mirror("channel/ring.c", side_end),
)


# The processes ----------------------------------------------------------------------------------


def produce(
    records: int, fences: bool, parks: Any = park, notifies: Any = endpoint_notify
) -> Steps:
    for n in range(records):
        while (yield get_acquire("word")) != 2 * n:
            yield from parks(PRODUCER, n, fences)
        yield put_release("word", 2 * n + 1)
        yield from notifies(PRODUCER, fences)
    yield from side_end(PRODUCER, CLOSED)


def consume(
    records: int, fences: bool, parks: Any = park, notifies: Any = endpoint_notify
) -> Steps:
    n = 0
    while True:
        word = yield get_acquire("word")
        if word == 2 * n + 1:
            n += 1
            yield put_release("word", 2 * n)
            yield from notifies(CONSUMER, fences)
            continue
        holder = yield get_acquire(("holder", PRODUCER))
        if holder == CLOSED:
            # The slot first, then the state: whatever was sent before the end comes before it.
            if (yield get_acquire("word")) == 2 * n + 1:
                continue
            if n != records:
                raise Violation(f"the end came after {n} of {records} records")
            return
        yield from parks(CONSUMER, n, fences)


def model(name: str, *, records: int = 2, fences: bool = False, **how: Any) -> Model:
    memory: dict[Any, Any] = {"word": 0, ("flags",): 0}
    for side in (PRODUCER, CONSUMER):
        memory[("parked", side)] = 0
        memory[("holder", side)] = OPEN
    processes = (
        Process("producer", partial(produce, records, fences, **how)),
        Process("consumer", partial(consume, records, fences, **how)),
    )
    return Model(f"park, {name}", processes, memory, tso=True)


# What must fail -----------------------------------------------------------------------------------


def park_without_a_barrier(side: int, n: int, fences: bool) -> Steps:
    while not (yield from ready(side, n)):
        yield put(("parked", side), 1)
        yield compiler_fence()
        if not (yield from ready(side, n)):
            # Going to sleep, the kernel looks at `parked`, not at the slot.
            yield os_futex_wait(("parked", side), 1)
        yield put(("parked", side), 0)


def park_with_its_own_fence_only(side: int, n: int, fences: bool) -> Steps:
    yield from park(side, n, fences=True)


def park_without_looking_again(side: int, n: int, fences: bool) -> Steps:
    while not (yield from ready(side, n)):
        yield put(("parked", side), 1)
        yield from os_membarrier(*(() if fences else (NAMES[1 - side],)))
        yield full_fence()
        yield os_futex_wait(("parked", side), 1)
        yield put(("parked", side), 0)


def notify_without_a_fence(side: int, fences: bool) -> Steps:
    yield from endpoint_notify(side, fences=False)


MODELS = {
    "membarrier": lambda: model("membarrier", records=3),
    "fences": lambda: model("fences", records=3, fences=True),
}

CONTROLS: dict[str, Callable[[], Model]] = {
    "no membarrier": lambda: model("control", parks=park_with_its_own_fence_only),
    "no fence on the waker's side": lambda: model(
        "control", fences=True, notifies=notify_without_a_fence
    ),
    "no fence on the sleeper's side": lambda: model(
        "control", fences=True, parks=park_without_a_barrier
    ),
    "not looking again after parked = 1": lambda: model(
        "control", parks=park_without_looking_again
    ),
}

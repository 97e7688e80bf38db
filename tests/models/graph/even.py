"""A worker with one output at most for each input: it commits nothing (even.py and writer.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..steps import put
from .words import (
    ITSELF,
    MARK,
    Reading,
    World,
    after,
    counts,
    forward,
    free,
    next_record,
    pass_by,
    picks,
    position,
    send,
)

if TYPE_CHECKING:
    from ..steps import Steps


def nothing(w: World, edge: int) -> Steps:
    """Say that an input gave no item."""
    if w.turns == "one":
        yield from send(edge, MARK)
    else:
        yield from pass_by(edge)


def take(w: World, readings: tuple[Reading, ...]) -> Steps:
    """Return readings one record further, and the records; None at the end."""
    taken: tuple[tuple[int, int], ...] = ()
    for entry in range(len(w.inputs)):
        found = yield from next_record(w, entry, readings[entry])
        if found is None:
            return None
        readings = (*readings[:entry], found[0], *readings[entry + 1 :])
        taken = (*taken, found[1:])
    return readings, taken


def _catch_up(w: World, *, of: Any = max, least: Any = min) -> Steps:
    """Return how many turns are done, what each edge is ahead, and the readings."""
    freed = yield from counts(w)
    done = of(sum(freed[c] for c in w.channels(entry)) for entry in range(len(w.inputs)))
    readings: tuple[Reading, ...] = ()
    for entry in range(len(w.inputs)):
        count = sum(freed[c] for c in w.channels(entry))
        script = (yield from picks(count)) if w.has_log else ()
        reading = Reading(count, count, script)
        while count < done:
            reading, channel, index = yield from next_record(w, entry, reading)
            yield from free(channel, index)
            count += 1
        readings = (*readings, reading)
    ahead: tuple[int, ...] = ()
    for edge in range(w.edges):
        at = yield from position(edge)
        ahead = (*ahead, max(at - done, 0))
    while least(ahead) > 0:
        readings, taken = yield from take(w, readings)
        for channel, index in taken:
            yield from free(channel, index)
        ahead = tuple(one - 1 for one in ahead)
        done += 1
    return done, ahead, readings


def nothing_yet(_: Any) -> Steps:
    """Do nothing with what was taken before its outputs are sent."""
    yield from ()
    return False


def _map(
    w: World,
    before: str | None,
    *,
    catch_up: Any = _catch_up,
    counts_nothing: Any = nothing,
    begins: Any = nothing_yet,
) -> Steps:
    """Call the kernel for each item, or one item of each input."""
    yield from after(before)
    _done, ahead, readings = yield from catch_up(w)
    while True:
        found = yield from take(w, readings)
        if found is None:
            break
        readings, taken = found
        items = tuple(w.records[channel][index] for channel, index in taken)
        values = (None,) * w.edges if MARK in items else w.kernel(*items)
        gone = None
        freed = yield from begins(taken)
        for edge in range(w.edges):
            value = values[edge]
            if ahead[edge]:
                ahead = (*ahead[:edge], ahead[edge] - 1, *ahead[edge + 1 :])
            elif value is None:
                yield from counts_nothing(w, edge)
            elif value == ITSELF and edge == w.edges - 1:
                yield from forward(edge, items[-1], *taken[-1])
                gone = taken[-1]
            else:
                yield from send(edge, items[-1] if value == ITSELF else value)
        for channel, index in taken:
            if (channel, index) != gone and not freed:
                yield from free(channel, index)
    yield put(("finished",), True)

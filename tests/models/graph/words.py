"""The words that a worker of a graph shares with the workers after it, and the steps on them.

    ("here", c)          the records of channel c that are not freed
    ("out", e)           what was sent on edge e
    ("without", e)       positions of edge e that sent nothing
    ("selector",)        which of two notes is valid
    ("note", n, i)       word i of note n
    ("pick", i)          from which channel record i of the input was taken
    ("picked",)          how many were
    ("states",)          the snapshots in their channel
    ("finished",)        that a worker has ended

Only the worker that runs, of several in a row, changes any of them: what it receives was sent
before, and what it sends has room. So nothing but deaths makes orders differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..steps import choose, get, put, when

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..steps import Steps, View

MARK = "mark"
ITSELF = "itself"  # an output: the item that was received goes on
FORWARD, FINISHED = 1, 2


@dataclass(frozen=True)
class World:
    """A worker's channels and its kernel.

    `inputs` has of each input the records of each of its channels. `deal` says whose record is
    next: "order" in rotation, "free" any. `turns_in` and `turns` are those of the edges, as in
    plan.py. A kernel returns the value of each edge, or if its worker commits notes, pairs of an
    edge and a value. `finish` has such pairs, and `ended` the edges whose reader has ended.
    """

    kernel: Callable[..., tuple[Any, ...]]
    inputs: tuple[tuple[tuple[Any, ...], ...], ...]
    edges: int = 1
    deal: str = "order"
    turns_in: str = "item"
    turns: str = "item"
    checkpoint: int = 0
    finish: tuple[Any, ...] | None = None
    ended: tuple[int, ...] = ()

    def channels(self, entry: int) -> range:
        """Return the numbers of the channels of an input."""
        before = sum(len(channels) for channels in self.inputs[:entry])
        return range(before, before + len(self.inputs[entry]))

    @property
    def records(self) -> tuple[tuple[Any, ...], ...]:
        """Return the records of every channel."""
        return tuple(records for channels in self.inputs for records in channels)

    @property
    def has_turns(self) -> bool:
        """Whether a turn is any number of calls, and ends with a mark."""
        return len(self.inputs) == 1 and self.turns_in == "many"

    @property
    def has_log(self) -> bool:
        """Whether choices are logged."""
        return self.deal == "free" and len(self.inputs[0]) > 1


class Reading(NamedTuple):
    """How far a worker has read an input: private to it."""

    taken: int = 0
    number: int = 0
    script: tuple[int, ...] = ()
    got: tuple[tuple[int, int], ...] = ()


def after(before: str | None) -> Steps:
    """Wait until the worker before this one was killed."""

    def dead(view: View) -> Any:
        return None if view["alive", before] else ({}, True)

    if before is not None:
        yield when(f"waits for the death of {before}", dead, rest=True)


def free(channel: int, index: int) -> Steps:
    """Free a record."""
    here = yield get(("here", channel))
    yield put(("here", channel), tuple(i for i in here if i != index))


def counts(w: World) -> Steps:
    """Return how many records of each channel are freed."""
    freed: tuple[int, ...] = ()
    for channel, records in enumerate(w.records):
        here = yield get(("here", channel))
        freed = (*freed, len(records) - len(here))
    return freed


def position(edge: int) -> Steps:
    """Return how many items and marks an edge has counted."""
    out = yield get(("out", edge))
    without = yield get(("without", edge))
    return len(out) + without


def positions(w: World) -> Steps:
    """Return the positions of all edges."""
    found: tuple[int, ...] = ()
    for edge in range(w.edges):
        found = (*found, (yield from position(edge)))
    return found


def send(edge: int, value: Any) -> Steps:
    """Send a record."""
    out = yield get(("out", edge))
    yield put(("out", edge), (*out, value))


def forward(edge: int, value: Any, channel: int, index: int) -> Steps:
    """Send a record that was received: one step of the core."""
    out = yield get(("out", edge))
    here = yield get(("here", channel))
    rest = tuple(i for i in here if i != index)
    yield put(("out", edge), (*out, value), ((("here", channel), rest),))


def pass_by(edge: int) -> Steps:
    """Count a position without a record."""
    without = yield get(("without", edge))
    yield put(("without", edge), without + 1)


# What was read ------------------------------------------------------------------------------


def pick(number: int, channel: int) -> Steps:
    """Note from which channel a record is taken."""
    yield put(("pick", number), channel)
    yield put(("picked",), number + 1)


def picks(since: int) -> Steps:
    """Return from which channels records were taken, from a number on."""
    found: tuple[int, ...] = ()
    number = yield get(("picked",))
    while since < number:
        found = (*found, (yield get(("pick", since))))
        since += 1
    return found


def next_record(
    w: World, entry: int, r: Reading, *, log: Any = pick, logs_again: bool = False
) -> Steps:
    """Return a reading one record further, its channel and its number; None at the end."""
    channels = w.channels(entry)
    script = r.script
    if w.deal == "order":
        channel = channels[r.taken % len(channels)]
    elif script:
        channel = script[0]
    else:
        options: tuple[int, ...] = ()
        for one in channels:
            here = yield get(("here", one))
            if any((one, i) not in r.got for i in here):
                options = (*options, one)
        if not options:
            return None
        channel = yield choose(*options)
    here = yield get(("here", channel))
    index = next((i for i in here if (channel, i) not in r.got), None)
    if index is None:
        return None
    if w.has_log and (logs_again or not script):
        yield from log(r.number, channel)
    turns = w.turns_in != "many" or w.records[channel][index] == MARK
    return (
        Reading(r.taken + turns, r.number + 1, script[1:], (*r.got, (channel, index))),
        channel,
        index,
    )


# Notes --------------------------------------------------------------------------------------


class Note(NamedTuple):
    """How far a worker is."""

    flags: int
    units: int
    turns: int
    edge: int
    channel: int
    before: int
    freed: tuple[int, ...]
    taken: tuple[int, ...]
    out: tuple[int, ...]

    def words(self) -> tuple[int, ...]:
        """Return the words of it."""
        return (*self[:6], *self.freed, *self.taken, *self.out)


def nothing_done(w: World) -> Note:
    """Return the note of a worker that has done nothing."""
    freed = (0,) * len(w.records)
    return Note(0, 0, 0, 0, 0, 0, freed, (0,) * len(w.inputs), (0,) * w.edges)


def note_of(w: World, words: tuple[int, ...]) -> Note:
    """Return the note of its words."""
    a, b = 6 + len(w.records), 6 + len(w.records) + len(w.inputs)
    flags, units, turns, edge, channel, before = words[:6]
    return Note(flags, units, turns, edge, channel, before, words[6:a], words[a:b], words[b:])


def commit(note: Note) -> Steps:
    """Make a note the valid one."""
    selector = yield get(("selector",))
    other = 1 - selector
    for i, word in enumerate(note.words()):
        yield put(("note", other, i), word)
    yield put(("selector",), other)


def withdraw() -> Steps:
    """Make the note before the valid one valid again."""
    selector = yield get(("selector",))
    yield put(("selector",), 1 - selector)


def valid_note(w: World) -> Steps:
    """Return the valid note."""
    selector = yield get(("selector",))
    return (yield from note_at(w, selector))


def other_note(w: World) -> Steps:
    """Return the note that is not valid."""
    selector = yield get(("selector",))
    return (yield from note_at(w, 1 - selector))


def note_at(w: World, selector: int) -> Steps:
    """Return one of the two notes."""
    words: tuple[int, ...] = ()
    i = 0
    while i < len(nothing_done(w).words()):
        words = (*words, (yield get(("note", selector, i))))
        i += 1
    return note_of(w, words)

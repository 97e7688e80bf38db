"""What a worker keeps in shared memory, so that the next one knows how far it was.

All are 64-bit words, each written by one store:

    selector      which of the two notes is valid
    skipped       inputs that were left out after an error
    begun         calls that were begun, if one may be left out
    of each edge  without: positions that sent nothing, or with windows how many items of the
                  stream were written; lost: items for a reader that had ended;
                  dropped: items that found no room, also counted in `without`
    of each input that takes what comes first
                  picked: how many records it has taken, and the channels of the last ones
    two notes     flags, units, turns, forward, before; records freed of each channel; turns taken
                  of each input; position of each edge

A note is written beside the valid one, and made valid by the store of the selector.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .plan import Shape

_SKIPPED, _BEGUN = 1, 2
_EDGES = 3
FORWARD, FINISHED = 1, 2
HEAD = 5  # words of a note before those of channels, inputs and edges


@dataclass
class Note:
    """How far a worker is, as of its last commit.

    `units` counts calls of the kernel, `turns` those that its outputs show. `freed` counts the
    records of each channel that are done, `taken` the turns of each input, and `out` the positions
    of each edge.

    With the flag FORWARD, only the last output of a unit is missing: the input from channel
    `channel`, which is to go on on edge `edge`. The note holds if that input has left its channel,
    of which `before` records were done before. Otherwise the other note holds.
    """

    freed: list[int]
    taken: list[int]
    out: list[int]
    flags: int = 0
    units: int = 0
    turns: int = 0
    edge: int = 0
    channel: int = 0
    before: int = 0

    def words(self) -> list[int]:
        """Return the words of it."""
        forward = self.edge << 32 | self.channel
        head = [self.flags, self.units, self.turns, forward, self.before]
        return [*head, *self.freed, *self.taken, *self.out]


class Ledger:
    """The words of one worker."""

    def __init__(self, view: memoryview, at: int, shape: Shape) -> None:
        self._words = view.cast("Q")[at : at + shape.words]
        self._shape = shape
        logs_at = _EDGES + 3 * shape.edges
        self._logs: list[tuple[int, int]] = []
        for log in shape.logs:
            self._logs.append((logs_at, log))
            logs_at += 1 + log
        self._notes_at = logs_at
        self._pack = struct.Struct(f"={shape.note}Q")
        self._bytes = self._words.cast("B")

    def close(self) -> None:
        """Release the segment."""
        self._bytes.release()
        self._words.release()

    @property
    def skipped(self) -> int:
        """How many inputs were left out after an error."""
        return self._words[_SKIPPED]

    def skip(self) -> None:
        """Count an input that is left out."""
        self._words[_SKIPPED] += 1

    @property
    def begun(self) -> int:
        """How many calls were begun, if one may be left out."""
        return self._words[_BEGUN]

    @begun.setter
    def begun(self, count: int) -> None:
        self._words[_BEGUN] = count

    def without(self, edge: int) -> int:
        """Return how many positions of an edge sent nothing."""
        return self._words[_EDGES + 3 * edge]

    def lost(self, edge: int) -> int:
        """Return how many items of an edge were for a reader that had ended."""
        return self._words[_EDGES + 3 * edge + 1]

    def dropped(self, edge: int) -> int:
        """Return how many items of an edge found no room."""
        return self._words[_EDGES + 3 * edge + 2]

    def pass_by(self, edge: int) -> None:
        """Count a position of an edge without a record."""
        self._words[_EDGES + 3 * edge] += 1

    def reach(self, edge: int, position: int) -> None:
        """Note how many items of an edge with windows were written, for those who look."""
        self._words[_EDGES + 3 * edge] = position

    def lose(self, edge: int) -> None:
        """Count an item for a reader that has ended."""
        self._words[_EDGES + 3 * edge + 1] += 1

    def drop(self, edge: int) -> None:
        """Count an item that found no room."""
        self._words[_EDGES + 3 * edge + 2] += 1
        self._words[_EDGES + 3 * edge] += 1

    # Which channel was read -------------------------------------------------------------------

    def has_log(self, entry: int) -> bool:
        """Whether an input logs its choices."""
        return self._logs[entry][1] > 0

    def pick(self, entry: int, number: int, channel: int) -> None:
        """Note from which channel an input takes its record of that number."""
        at, log = self._logs[entry]
        self._words[at + 1 + number % log] = channel
        self._words[at] = number + 1

    def picks(self, entry: int, since: int) -> list[int]:
        """Return from which channels records were taken, from a number on."""
        at, log = self._logs[entry]
        return [self._words[at + 1 + n % log] for n in range(since, self._words[at])]

    # Notes ------------------------------------------------------------------------------------

    def commit(self, note: Note) -> None:
        """Make a note the valid one."""
        other = 1 - (self._words[0] & 1)
        at = self._notes_at + other * self._shape.note
        self._pack.pack_into(self._bytes, 8 * at, *note.words())
        self._words[0] = other

    def withdraw(self) -> None:
        """Make the note before the valid one valid again."""
        self._words[0] = 1 - (self._words[0] & 1)

    def note(self) -> Note:
        """Return the valid note."""
        shape = self._shape
        at = self._notes_at + (self._words[0] & 1) * shape.note
        words = list(self._words[at : at + shape.note])
        return note_of(words, shape)


def note_of(words: list[int], shape: Shape) -> Note:
    """Return the note of its words."""
    lengths = sum(shape.channels), len(shape.channels), shape.edges
    ends = list(itertools.accumulate(lengths, initial=HEAD))
    freed, taken, out = (words[a:b] for a, b in itertools.pairwise(ends))
    flags, units, turns, forward, before = words[:HEAD]
    edge, channel = divmod(forward, 1 << 32)
    return Note(freed, taken, out, flags, units, turns, edge, channel, before)

"""Where the nodes and arrows of a picture stand: columns and rows, and the heights of all things.

A node stands one column to the right of its furthest input. Each lane, the nodes of one host, has
rows of its own; a node is placed near its inputs and below the nodes of its column that were added
before it. An arrow across columns runs on a *track*: a row that is free in all columns between.

    rows of a lane     column 0      column 1      column 2
       0                             [=======]
       1               [=======]     [ shrink]
       2               [ camera]     [=======]     [=======]
       3               [=======]     ---track---   [  show ]
       4                                           [=======]

A node takes an odd number of rows, so that it has one in the middle.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Pixels, as all heights are.
MARGIN = 16  # around the picture, and between frames
INSIDE = 10  # between a frame and what is in it
FRAME_TITLE = 24
SLOT = 20  # between two arrows into one node: each has room for a line of text
_ROW = 12
_LOW, _HIGH = 32, 44  # a box with one line of text, and with two
_APART = 14  # between two boxes at least

_TOP = 64  # the row where a lane begins; the rows above are for tracks, and removed if unused


class _Lane:
    """The rows of one host. Bit r of `taken[c]` says that row r is taken in column c."""

    __slots__ = ("taken",)

    def __init__(self, columns: int) -> None:
        self.taken = [0] * columns

    def toggle(self, first: int, last: int, row: int, half: int) -> None:
        """Take or free a row, and `half` rows on each side, in columns first ≤ c < last."""
        mask = ((1 << 2 * half + 1) - 1) << row - half
        for column in range(first, last):
            self.taken[column] ^= mask

    def nearest(self, first: int, last: int, wish: int, half: int = 0, low: int = 0) -> int:
        """Return the row nearest to a wish that is free with `half` rows on each side.

        These rows do not begin above `low`.
        """
        taken = 0
        for rows in self.taken[first:last]:
            taken |= rows
        done, height = 1, 2 * half + 1
        while done < height:  # bit r says that not all rows from r to r + done - 1 are free
            step = min(done, height - done)
            taken |= taken >> step
            done += step
        wish = max(wish - half, low)
        free = ~taken >> wish
        below = wish + (free & -free).bit_length() - 1
        above = low + ((~taken & (1 << wish) - 1) >> low).bit_length() - 1
        return half + (above if low <= above and wish - above < below - wish else below)


class Layout:
    """The columns, rows and heights of a picture.

    Nodes and arrows are numbers. `columns`, `members` and `lane` say where a node stands, `tops`
    and `bottoms` where a lane does. `y` is the middle of a node, `heights` the height of its box.
    An arrow leaves its source at height `leaves`, runs at `track` unless that is 0, and enters its
    target at `enters`.
    """

    def __init__(
        self, hosts: Sequence[str], detailed: Sequence[bool], ends: Sequence[tuple[int, int]]
    ) -> None:
        self.ends = ends
        self.inputs: list[list[int]] = [[] for _ in hosts]
        self.outputs: list[list[int]] = [[] for _ in hosts]
        for arrow, (source, target) in enumerate(ends):
            self.outputs[source].append(arrow)
            self.inputs[target].append(arrow)

        self.columns: list[int] = self._find_columns()
        self.members: list[list[int]] = [[] for _ in range(max(self.columns, default=-1) + 1)]
        for node, column in enumerate(self.columns):
            self.members[column].append(node)
        self._spans = [(self.columns[source] + 1, self.columns[target]) for source, target in ends]

        self.hosts: list[str] = list(dict.fromkeys(hosts))
        number = {host: lane for lane, host in enumerate(self.hosts)}
        self.lane: list[int] = [number[host] for host in hosts]
        self._lanes = [_Lane(len(self.members)) for _ in self.hosts]

        self.heights: list[int] = [
            max(_HIGH if two_lines else _LOW, len(inputs) * SLOT + 4)
            for two_lines, inputs in zip(detailed, self.inputs, strict=True)
        ]
        self._half = [-((_ROW - height - _APART) // (2 * _ROW)) for height in self.heights]
        self._row = [0] * len(hosts)
        self._track = [-1] * len(ends)  # a row
        self._find_rows()
        self._find_heights()

    def _find_columns(self) -> list[int]:
        columns = [0] * len(self.inputs)
        missing = [len(inputs) for inputs in self.inputs]
        ready = [node for node, count in enumerate(missing) if not count]
        for source in ready:  # which grows
            for arrow in self.outputs[source]:
                target = self.ends[arrow][1]
                columns[target] = max(columns[target], columns[source] + 1)
                missing[target] -= 1
                if not missing[target]:
                    ready.append(target)
        if len(ready) < len(columns):
            raise ValueError("the arrows form a cycle, which an SVG cannot show")
        return columns

    # Rows -------------------------------------------------------------------------

    def _find_rows(self) -> None:
        """Place everything from left to right, then make it straighter from right to left."""
        tracks: list[list[int]] = [[] for _ in self.members]  # by their first column
        for arrow, (first, last) in enumerate(self._spans):
            if first < last:
                tracks[first].append(arrow)
        for column, arrows in enumerate(tracks):
            self._place(column)
            for arrow in arrows:
                self._lay(arrow, toward=0)
        for column in reversed(range(len(self.members))):
            self._centre(column)
        for arrows in tracks:
            for arrow in arrows:
                self._toggle_track(arrow)
        for arrows in tracks:
            for arrow in arrows:
                self._lay(arrow, toward=1)

    def _wish(self, node: int, arrows: Iterable[int], side: int) -> int | None:
        """Return the mean row of a node's neighbours on a side, of direct ones if it has any.

        Side 0 are the sources of these arrows, side 1 their targets.
        """
        near: list[int] = []
        far: list[int] = []
        for arrow in arrows:
            other = self.ends[arrow][side]
            if self.lane[other] == self.lane[node]:
                if self._track[arrow] >= 0:
                    far.append(self._track[arrow])
                else:
                    near.append(self._row[other])
        rows = near or far
        return sum(rows) // len(rows) if rows else None

    def _place(self, column: int) -> None:
        """Place the nodes of a column near their inputs, in the order in which they were added."""
        bottoms = [0] * len(self._lanes)
        for node in self.members[column]:
            lane, half = self.lane[node], self._half[node]
            wish = self._wish(node, self.inputs[node], 0)
            wish = _TOP if wish is None else wish
            row = self._lanes[lane].nearest(column, column + 1, wish, half, bottoms[lane])
            self._row[node] = row
            self._lanes[lane].toggle(column, column + 1, row, half)
            bottoms[lane] = row + half + 1

    def _lay(self, arrow: int, toward: int) -> None:
        """Lay an arrow's track, in the lane of its source, near its source (0) or target (1)."""
        source, target = self.ends[arrow]
        lane = self.lane[source]
        end = target if toward and self.lane[target] == lane else source
        self._track[arrow] = self._lanes[lane].nearest(*self._spans[arrow], self._row[end])
        self._toggle_track(arrow)

    def _toggle_track(self, arrow: int) -> None:
        lane = self._lanes[self.lane[self.ends[arrow][0]]]
        lane.toggle(*self._spans[arrow], self._track[arrow], 0)

    def _centre(self, column: int) -> None:
        """Move the nodes of a column toward their outputs, without changing their order."""
        members = self.members[column]
        wishes = [self._wish(node, self.outputs[node], 1) for node in members]
        for downward in (True, False):
            edge: dict[int, int] = {}  # of each lane: where the node that was last looked at begins
            step = -1 if downward else 1
            for node, wish in list(zip(members, wishes, strict=True))[::step]:
                lane, half, row = self._lanes[self.lane[node]], self._half[node], self._row[node]
                if wish is not None and wish != row and (wish > row) == downward:
                    if self.lane[node] in edge:
                        free = edge[self.lane[node]] + step * (half + 1)
                        wish = min(wish, free) if downward else max(wish, free)
                    lane.toggle(column, column + 1, row, half)
                    found = lane.nearest(column, column + 1, wish, half)
                    if min(row, wish) <= found <= max(row, wish):
                        row = self._row[node] = found
                    lane.toggle(column, column + 1, row, half)
                edge[self.lane[node]] = row + step * half

    # Heights ----------------------------------------------------------------------

    def _find_heights(self) -> None:
        """Turn rows into heights. A row that is taken nowhere gets none."""
        self.tops: list[int] = []  # of frames, if the lane has a host
        self.bottoms: list[int] = []
        used: list[int] = []
        begins: list[int] = []
        y = MARGIN
        for host, lane in zip(self.hosts, self._lanes, strict=True):
            taken = 0
            for rows in lane.taken:
                taken |= rows
            used.append(taken)
            self.tops.append(y)
            begins.append(y + (FRAME_TITLE if host else 0) + _ROW // 2)
            y = begins[-1] - _ROW // 2 + taken.bit_count() * _ROW + (INSIDE if host else 0)
            self.bottoms.append(y)
            y += MARGIN if host else 0

        def height(lane: int, row: int) -> int:
            return begins[lane] + (used[lane] & (1 << row) - 1).bit_count() * _ROW

        self.y: list[int] = [
            height(lane, row) for lane, row in zip(self.lane, self._row, strict=True)
        ]
        self.track: list[int] = [
            height(self.lane[source], row) if row >= 0 else 0
            for (source, _), row in zip(self.ends, self._track, strict=True)
        ]
        self.leaves: list[int] = [self.y[source] for source, _ in self.ends]
        self.enters: list[int] = [self.y[target] for _, target in self.ends]
        for node, (inputs, outputs) in enumerate(zip(self.inputs, self.outputs, strict=True)):
            self._spread(inputs, self.enters, 0, SLOT)
            if len(outputs) > 1:
                room = (self.heights[node] - 12) / len(outputs)
                self._spread(outputs, self.leaves, 1, min(SLOT, room))

    def _spread(self, arrows: list[int], heights: list[int], side: int, step: float) -> None:
        """Spread arrows at a node, ordered by where they come from or lead to."""

        def of_other_end(arrow: int) -> int:
            return self.track[arrow] or self.y[self.ends[arrow][side]]

        first = -(len(arrows) - 1) * step / 2
        for at, arrow in enumerate(sorted(arrows, key=of_other_end)):
            heights[arrow] += round(first + at * step)


@lru_cache(maxsize=4)  # a graph that runs is drawn again and again, with other texts
def layout(
    hosts: tuple[str, ...], detailed: tuple[bool, ...], ends: tuple[tuple[int, int], ...]
) -> Layout:
    """Return the layout of nodes, of which host and number of lines are given, and of arrows.

    Callers must not change it. Raises ValueError if the arrows form a cycle.
    """
    return Layout(hosts, detailed, ends)

r"""A picture as SVG, drawn without Graphviz.

    | column |          gap            | column |
    +--------+ curves :       labels   +--------+
    | camera |--.-----:---- 30/s --- > | shrink |
    |        |   \    :                +--------+
    +--------+    `---:----------------- track ---

Arrows bend in the left part of a gap only. Labels lie in the right part, each at the height where
its arrow enters a node. So no arrow crosses a box or a label, and no two labels overlap.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import TYPE_CHECKING

from .layout import FRAME_TITLE, INSIDE, MARGIN, layout
from .picture import one_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .picture import Arrow, Node

# Pixels.
_HEAD = 9  # the length of an arrow's head
_STUB = 6  # between a label and the head
_PADDING = 3  # of a label
_NAME, _TEXT = 13, 11  # sizes of fonts

# Widths in hundredths of the font's size. No common sans-serif font is wider on average; DejaVu
# Sans is about as wide.
_WIDTHS = {
    **dict.fromkeys(map(chr, range(32, 127)), 65),
    **dict.fromkeys("'IJijl ,./:;\\|()-[]ft·", 38),
    **dict.fromkeys('!r"*_`?csz', 53),
    **dict.fromkeys("ABCKRVXZNU&DGHOQ#+<=>^w~M", 84),
    **dict.fromkeys("%@Wm…", 100),
}
_BOLD = 115  # the width of bold text in hundredths of that of normal text
_LONGEST = 40  # characters that are shown of a text


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 105 if unicodedata.east_asian_width(character) in "WF" else 90


@functools.lru_cache(4096)  # the next picture of a run has most of them again
def _width(text: str, size: int) -> int:
    """Return how wide a text is at most, in pixels. `size` is that of its font, in pixels."""
    try:
        hundredths = sum(map(_WIDTHS.__getitem__, text))
    except KeyError:
        hundredths = sum(_WIDTHS.get(each) or _character_width(each) for each in text)
    return hundredths * size // 100 + 1


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


@functools.lru_cache(4096)
def _for_xml(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# Colours -----------------------------------------------------------------------------

_COLOURS = """\
{s} .back{{fill:{back}}}
{s} text{{fill:{text}}}
{s} .detail,{s} .host text{{fill:{faint}}}
{s} .frame{{fill:{frame};stroke:{border}}}
{s} .plate{{fill:{frame}}}
{s} .node .box{{fill:{kernel};stroke:{border}}}
{s} .source .box,{s} .sink .box{{fill:{end}}}
{s} .input .box,{s} .output .box{{fill:{port}}}
{s} .bottleneck .box{{stroke:{limit}}}
{s} .line{{stroke:{line}}}
{s} .head{{fill:{line}}}
{s} .label{{fill:{back}}}
{s} .full .line{{stroke:{full}}}
{s} .full .head,{s} .full text{{fill:{full}}}
{s} .empty .line{{stroke:{empty}}}
{s} .empty .head,{s} .empty text{{fill:{empty}}}
"""
_LIGHT = {
    "back": "#ffffff",
    "text": "#1f2328",
    "faint": "#59636e",
    "frame": "#f6f8fa",
    "border": "#9aa4af",
    "kernel": "#eef4fc",
    "end": "#e6f6ea",
    "port": "#f4effc",
    "limit": "#bf8700",
    "line": "#424a53",
    "full": "#d1242f",
    "empty": "#8c959f",
}
_DARK = {
    "back": "#0d1117",
    "text": "#e6edf3",
    "faint": "#9198a1",
    "frame": "#151b23",
    "border": "#59636e",
    "kernel": "#16263d",
    "end": "#12301c",
    "port": "#251c3d",
    "limit": "#d29922",
    "line": "#b1bac4",
    "full": "#ff7b72",
    "empty": "#656c76",
}
_SELECTOR = ".ipcheap-graph"  # an SVG within HTML shares its style with the page
_STYLE = f"""\
{_SELECTOR} text{{font:{_TEXT}px system-ui,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}}
{_SELECTOR} .name{{font-size:{_NAME}px;font-weight:600}}
{_SELECTOR} .node text{{text-anchor:middle}}
{_SELECTOR} .arrow text{{text-anchor:end}}
{_SELECTOR} .line{{fill:none;stroke-width:1.5px}}
{_SELECTOR} .full .line{{stroke-width:3px}}
{_SELECTOR} .full text{{font-weight:600}}
{_SELECTOR} .drop .line{{stroke-dasharray:7 4}}
{_SELECTOR} .latest .line,{_SELECTOR} .window .line{{stroke-dasharray:2 3}}
{_SELECTOR} .bottleneck .box{{stroke-width:3px}}
{_COLOURS.format(s=_SELECTOR, **_LIGHT)}\
@media (prefers-color-scheme:dark){{
{_COLOURS.format(s=_SELECTOR, **_DARK)}\
}}
"""


class _Drawing:
    """One picture: the places in the layout with their widths."""

    def __init__(
        self, nodes: Sequence[Node], arrows: Sequence[Arrow], ends: Sequence[tuple[int, int]]
    ) -> None:
        self.nodes, self.arrows = nodes, arrows
        self.layout = layout(
            tuple(node.host for node in nodes),
            tuple(bool(node.detail) for node in nodes),
            tuple(ends),
        )
        self.names = [one_line(node.name) for node in nodes]
        self.details = [one_line(node.detail) for node in nodes]
        self.texts = [one_line(arrow.text) for arrow in arrows]
        self.labels = [_short(text) for text in self.texts]
        self.widths = [self._label_width(at) for at in range(len(arrows))]

        self.frames: dict[int, tuple[int, int]] = {}  # the first and last column of a lane
        for column, members in enumerate(self.layout.members):
            for node in members:
                if nodes[node].host:
                    first, _ = self.frames.setdefault(self.layout.lane[node], (column, column))
                    self.frames[self.layout.lane[node]] = first, column
        self._find_columns()

    def _label_width(self, arrow: int) -> int:
        if not self.labels[arrow]:
            return 0
        width = _width(self.labels[arrow], _TEXT)
        if self.arrows[arrow].blocked == "full":
            width = width * _BOLD // 100
        return width + 2 * _PADDING

    def _box_width(self, node: int) -> int:
        name = _width(_short(self.names[node]), _NAME) * _BOLD // 100
        return max(name, _width(_short(self.details[node]), _TEXT)) + 28

    def _find_columns(self) -> None:
        """Find the left and right edge of each column, and where the curves before it end."""
        here = self.layout
        rises, labels = [0] * len(here.members), [0] * len(here.members)
        for (source, target), leaves, track, enters, width in zip(
            here.ends, here.leaves, here.track, here.enters, self.widths, strict=True
        ):
            column = here.columns[target]
            labels[column] = max(labels[column], width)
            if track:
                rises[column] = max(rises[column], abs(enters - track))
                column, enters = here.columns[source] + 1, track
            rises[column] = max(rises[column], abs(enters - leaves))

        begins_framed = any(first == 0 for first, _ in self.frames.values())
        self.left: list[int] = []
        self.right: list[int] = []
        self.bends: list[int] = []
        x = MARGIN + (INSIDE if begins_framed else 0)
        for column, members in enumerate(here.members):
            if column:
                x += 36 + min(160, rises[column] // 5)
            self.bends.append(x)
            if column:
                x += labels[column] + _STUB + _HEAD
            self.left.append(x)
            x += max(76, *map(self._box_width, members))
            self.right.append(x)

    def svg(self, name: str) -> str:
        """Return the picture with a title."""
        frames = [self._frame(lane) for lane in self.frames]
        right = max([*self.right[-1:], *(x + width for x, _, width, _ in frames)], default=0)
        width, height = right + MARGIN, max(self.layout.bottoms, default=0) + MARGIN
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" class="{_SELECTOR[1:]}" width="{width}"',
            f'height="{height}" viewBox="0 0 {width} {height}">',
        ]
        if name:
            parts.append(f"<title>{_for_xml(one_line(name))}</title>")
        parts.append(f"<style>\n{_STYLE}</style>")
        parts.append(f'<rect class="back" width="{width}" height="{height}" rx="8"/>')
        for x, y, wide, high in frames:
            parts.append(
                f'<rect class="frame" x="{x}" y="{y}" width="{wide}" height="{high}" rx="8"/>'
            )
        parts += map(self._arrow, range(len(self.arrows)))
        for lane, (x, y, _, _) in zip(self.frames, frames, strict=True):
            parts.append(self._frame_title(self.layout.hosts[lane], x, y))
        parts += map(self._node, range(len(self.nodes)))
        return "\n".join([*parts, "</svg>"]) + "\n"

    def _frame(self, lane: int) -> tuple[int, int, int, int]:
        """Return the corner and size of a lane's frame, which has room for its title."""
        first, last = self.frames[lane]
        x, y = self.left[first] - INSIDE, self.layout.tops[lane]
        title = _width(_short(one_line(self.layout.hosts[lane])), _TEXT)
        width = max(self.right[last] + INSIDE - x, title + 2 * INSIDE)
        return x, y, width, self.layout.bottoms[lane] - y

    def _frame_title(self, host: str, x: int, y: int) -> str:
        host = one_line(host)
        short = _short(host)
        return (
            f'<g class="host"><title>{_for_xml(host)}</title><rect class="plate" x="{x + 6}" '
            f'y="{y + 5}" width="{_width(short, _TEXT) + 8}" height="{FRAME_TITLE - 8}"/>'
            f'<text x="{x + INSIDE}" y="{y + 17}">{_for_xml(short)}</text></g>'
        )

    def _arrow(self, at: int) -> str:
        arrow, here = self.arrows[at], self.layout
        source, target = here.ends[at]
        first, last = here.columns[source] + 1, here.columns[target]
        track, enters = here.track[at], here.enters[at]
        x, y = self.right[first - 1], here.leaves[at]
        path = f"M{x} {y}"
        if track:
            path += f"{_curve(x, y, self.bends[first], track)}H{self.right[last - 1]}"
            x, y = self.right[last - 1], track
        tip = self.left[last]
        back = tip - _HEAD
        path += f"{_curve(x, y, self.bends[last], enters)}H{back}"

        blocked = f" {arrow.blocked}" if arrow.blocked else ""
        title = f"{self.names[source]} → {self.names[target]}"
        label = ""
        if self.texts[at]:
            title += f": {self.texts[at]}"
            label = self._label(at, back - _STUB, enters)
        return (
            f'<g class="arrow {arrow.style}{blocked}"><title>{_for_xml(title)}{blocked}</title>'
            f'<path class="line" d="{path}"/>'
            f'<path class="head" d="M{tip} {enters}L{back} {enters - 4}V{enters + 4}Z"/>{label}</g>'
        )

    def _label(self, at: int, right: int, y: int) -> str:
        target, width = self.layout.ends[at][1], self.widths[at]
        frame = self.frames.get(self.layout.lane[target])
        ground = "plate" if frame and frame[0] < self.layout.columns[target] else "label"
        return (
            f'<rect class="{ground}" x="{right - width}" y="{y - 8}" width="{width}" height="16"/>'
            f'<text x="{right - _PADDING}" y="{y + 4}">{_for_xml(self.labels[at])}</text>'
        )

    def _node(self, at: int) -> str:
        node, column = self.nodes[at], self.layout.columns[at]
        name, detail, y = self.names[at], self.details[at], self.layout.y[at]
        limits = " bottleneck" if node.bottleneck else ""
        title = f"{name} · {detail}" if detail else name
        middle = (self.left[column] + self.right[column]) // 2
        lines = f'<text class="name" x="{middle}" y="{y - 3 if detail else y + 5}">'
        lines += f"{_for_xml(_short(name))}</text>"
        if detail:
            lines += (
                f'<text class="detail" x="{middle}" y="{y + 14}">{_for_xml(_short(detail))}</text>'
            )
        return (
            f'<g class="node {node.shape}{limits}"><title>{_for_xml(title)}{limits}</title>'
            f"{self._box(at)}{lines}</g>"
        )

    def _box(self, at: int) -> str:
        shape, column, y = self.nodes[at].shape, self.layout.columns[at], self.layout.y[at]
        left, right, height = self.left[column], self.right[column], self.layout.heights[at]
        top, bottom = y - height // 2, y + height // 2
        if shape == "input":  # a notch where items come from
            begin, end = f"{left + 9},{y}", f"{right},{top} {right},{bottom}"
        elif shape == "output":  # a point where they go to
            begin, end = "", f"{right - 9},{top} {right},{y} {right - 9},{bottom}"
        else:
            radius = 6 if shape == "kernel" else 16
            return (
                f'<rect class="box" x="{left}" y="{top}" width="{right - left}" '
                f'height="{height}" rx="{radius}"/>'
            )
        return f'<polygon class="box" points="{left},{top} {end} {left},{bottom} {begin}"/>'


def _curve(x: int, y: int, to_x: int, to_y: int) -> str:
    """Return a curve from one point to another that begins and ends horizontally."""
    middle = (x + to_x) // 2
    return "" if y == to_y else f"C{middle} {y} {middle} {to_y} {to_x} {to_y}"


def draw(
    name: str, nodes: Sequence[Node], arrows: Sequence[Arrow], ends: Sequence[tuple[int, int]]
) -> str:
    """Return the SVG of nodes and arrows; `ends` are the numbers of each arrow's nodes."""
    return _Drawing(nodes, arrows, ends).svg(name)

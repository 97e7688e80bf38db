"""Pictures of graphs: what the texts say, and that nothing in an SVG covers anything else."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from html import unescape
from random import Random
from typing import TYPE_CHECKING, NamedTuple
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipcheap.graph import layout
from ipcheap.graph.picture import KINDS, Arrow, Node, picture

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SVG = "{http://www.w3.org/2000/svg}"
UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")

CAMERA = [
    Node("camera", "1 process", "source"),
    Node("shrink", "2 processes", bottleneck=True),
    Node("show", shape="sink"),
]
FRAMES = [
    Arrow("camera", "shrink", "30/s · 16/16", blocked="full"),
    Arrow("shrink", "show", "30/s", style="drop"),
]


def shown(text: str) -> str:
    return UNPRINTABLE.sub(" ", text)


# Random graphs ------------------------------------------------------------------------

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=()), max_size=12),
    st.sampled_from(
        ["", "", "left · 1200/s · 3/16", "2 processes · 4 threads on host-1", "x" * 99]
    ),
    st.sampled_from(
        ['<b a="1">&amp;\'</b>', "\\N\\", "$$x$$ **y** `z`", "1. a", "- a", "]]>", "|"]
    ),
)
SHAPES = st.sampled_from(["kernel", "source", "sink", "input", "output"])
STYLES = st.sampled_from(["wait", "drop", "latest", "window"])
BLOCKED = st.sampled_from([None, "full", "empty"])


class Graph(NamedTuple):
    nodes: list[Node]
    arrows: list[Arrow]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Draw a graph without cycles, whose nodes were added in any order."""
    names = draw(st.lists(TEXTS, max_size=14, unique=True))
    hosts = st.sampled_from(["", *draw(st.lists(TEXTS, max_size=3))])
    nodes = [
        Node(name, draw(TEXTS), draw(SHAPES), draw(hosts), draw(st.booleans())) for name in names
    ]
    arrows = []
    if len(names) > 1:
        ends = st.tuples(*[st.integers(0, len(names) - 1)] * 2).filter(lambda two: two[0] != two[1])
        for two in draw(st.lists(ends, max_size=30)):
            source, target = names[min(two)], names[max(two)]
            arrows.append(Arrow(source, target, draw(TEXTS), draw(STYLES), draw(BLOCKED)))
    return Graph(draw(st.permutations(nodes)), arrows)


# An SVG as shapes ---------------------------------------------------------------------


class Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, x: float, y: float) -> bool:
        return self.left < x < self.right and self.top < y < self.bottom

    def is_in(self, other: Box) -> bool:
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )


@dataclass
class Drawn:
    """What an SVG shows."""

    whole: Box
    nodes: list[Box] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    tooltips: list[str] = field(default_factory=list)
    frames: list[Box] = field(default_factory=list)
    lines: list[list[tuple[float, float]]] = field(default_factory=list)
    labels: list[Box | None] = field(default_factory=list)
    titles: list[Box] = field(default_factory=list)


def box_of(element: ElementTree.Element) -> Box:
    if element.tag == f"{SVG}rect":
        x, y = float(element.get("x", 0)), float(element.get("y", 0))
        return Box(x, y, x + float(element.attrib["width"]), y + float(element.attrib["height"]))
    points = [tuple(map(float, point.split(","))) for point in element.attrib["points"].split()]
    across, down = zip(*points, strict=True)
    return Box(min(across), min(down), max(across), max(down))


def points_of(path: str) -> list[tuple[float, float]]:
    """Return points on a path of M, H, C, L, V and Z, close to each other in its curves."""
    points: list[tuple[float, float]] = []
    for command, numbers in re.findall(r"([MHCLVZ])([^MHCLVZ]*)", path):
        n = [float(number) for number in numbers.split()]
        x, y = points[-1] if points else (0.0, 0.0)
        if command in "ML":
            points.append((n[0], n[1]))
        elif command == "H":
            points += [(x + (n[0] - x) * step / 40, y) for step in range(1, 41)]
        elif command == "V":
            points.append((x, n[0]))
        elif command == "C":
            for step in range(1, 41):
                t, s = step / 40, 1 - step / 40
                weights = (s**3, 3 * s * s * t, 3 * s * t * t, t**3)
                across, down = (x, n[0], n[2], n[4]), (y, n[1], n[3], n[5])
                points.append(
                    (
                        sum(w * a for w, a in zip(weights, across, strict=True)),
                        sum(w * d for w, d in zip(weights, down, strict=True)),
                    )
                )
    return points


def drawn(svg: str) -> Drawn:
    root = ElementTree.fromstring(svg)
    result = Drawn(Box(*map(float, root.attrib["viewBox"].split())))
    assert root.attrib["width"] == root.attrib["viewBox"].split()[2]
    for element in root:
        kind = element.get("class", "").split()
        if kind[:1] == ["frame"]:
            result.frames.append(box_of(element))
        elif kind[:1] == ["host"]:
            result.titles.append(box_of(element.findall(f"{SVG}rect")[0]))
        elif kind[:1] == ["node"]:
            (box,) = (each for each in element if each.get("class") == "box")
            result.nodes.append(box_of(box))
            result.names.append(element.findall(f"{SVG}text")[0].text or "")
            result.tooltips.append(element.findall(f"{SVG}title")[0].text or "")
        elif kind[:1] == ["arrow"]:
            line, head = element.findall(f"{SVG}path")
            result.lines.append(points_of(line.attrib["d"]) + points_of(head.attrib["d"])[:1])
            labels = element.findall(f"{SVG}rect")
            result.labels.append(box_of(labels[0]) if labels else None)
            assert len(labels) == len(element.findall(f"{SVG}text")) <= 1
    return result


def pairs(boxes: list[Box]) -> Iterator[tuple[Box, Box]]:
    return itertools.combinations(boxes, 2)


def large_graph(seed: int) -> Graph:
    """Return a graph of 60 nodes on three hosts and none; some nodes have many inputs."""
    random = Random(seed)
    hosts = ["", "robot", "server-with-a-long-name", "c"]
    details = ["", "2 processes"]
    nodes = [
        Node(
            f"k{n}",
            random.choice(details),
            host=random.choice(hosts[: seed % 5]) if seed % 5 else "",
        )
        for n in range(60)
    ]
    arrows = []
    for _ in range(180):
        target = random.choice([random.randrange(1, 60), 20, 40, 59])
        source = random.randrange(max(0, target - random.choice([5, 60])), target)
        text = random.choice(["", "30/s", "left · 1200/s · 3/16"])
        arrows.append(Arrow(f"k{source}", f"k{target}", text))
    return Graph(nodes, arrows)


def covered(graph: Graph) -> list[str]:
    """List what covers what in the SVG of a graph."""
    seen = drawn(picture("svg", "a graph", graph.nodes, graph.arrows))
    assert len(seen.nodes) == len(graph.nodes)
    assert len(seen.lines) == len(graph.arrows)
    labels = [label for label in seen.labels if label]
    assert len(labels) == sum(1 for arrow in graph.arrows if arrow.text)

    faults = []
    for box in [*seen.nodes, *seen.frames, *labels, *seen.titles]:
        if not box.is_in(seen.whole):
            faults.append(f"{box} is outside")
    for line in seen.lines:
        if not all(seen.whole.holds(*point) for point in line):
            faults.append("an arrow is outside")
    for what, boxes in (("nodes", seen.nodes), ("labels", labels), ("frames", seen.frames)):
        faults += [f"{what}: {a}, {b}" for a, b in pairs(boxes) if a.meets(b)]
    for label in labels:
        faults += [f"{label} covers the node {box}" for box in seen.nodes if box.meets(label)]
        for frame in seen.frames:
            if label.meets(frame) and not label.is_in(frame):
                faults.append(f"{label} is across the frame {frame}")
    for line, own in zip(seen.lines, seen.labels, strict=True):
        for box in [*seen.nodes, *(label for label in labels if label is not own)]:
            if any(box.holds(*point) for point in line):
                faults.append(f"an arrow crosses {box}")
    return faults


@given(graph=graphs())
@settings(max_examples=200, deadline=None)
def test_nothing_covers_anything(graph: Graph) -> None:
    assert covered(graph) == []


@pytest.mark.parametrize("seed", range(5))
def test_nothing_covers_anything_in_a_large_graph(seed: int) -> None:
    graph = large_graph(seed)
    assert covered(graph) == []
    assert disordered(graph) == []


@given(graph=graphs())
@settings(max_examples=100, deadline=None)
def test_an_arrow_leads_from_its_source_to_its_target(graph: Graph) -> None:
    seen = drawn(picture("svg", "", graph.nodes, graph.arrows))
    box = {node.name: each for node, each in zip(graph.nodes, seen.nodes, strict=True)}
    for arrow, line, label in zip(graph.arrows, seen.lines, seen.labels, strict=True):
        source, target = box[arrow.source], box[arrow.target]
        assert line[0][0] == source.right < target.left == line[-1][0]
        assert source.top < line[0][1] < source.bottom
        assert target.top < line[-1][1] < target.bottom
        assert all(before[0] <= after[0] for before, after in itertools.pairwise(line))
        if label:
            assert label.top < line[-1][1] < label.bottom


@given(graph=graphs())
@settings(max_examples=100, deadline=None)
def test_a_frame_holds_the_nodes_of_its_host(graph: Graph) -> None:
    seen = drawn(picture("svg", "", graph.nodes, graph.arrows))
    hosts = {node.host for node in graph.nodes} - {""}
    assert len(seen.frames) == len(hosts)
    around: dict[str, Box] = {}
    for node, box in zip(graph.nodes, seen.nodes, strict=True):
        frames = [frame for frame in seen.frames if frame.meets(box)]
        assert frames == [frame for frame in frames if box.is_in(frame)]
        assert len(frames) == (1 if node.host else 0)
        if node.host:
            assert around.setdefault(node.host, frames[0]) == frames[0]
    assert len(set(around.values())) == len(hosts)


@given(graph=graphs())
@settings(max_examples=100, deadline=None)
def test_an_svg_holds_every_text(graph: Graph) -> None:
    svg = picture("svg", "", graph.nodes, graph.arrows)
    seen = drawn(svg)
    for node, name, tooltip in zip(graph.nodes, seen.names, seen.tooltips, strict=True):
        assert name == shown(node.name) if len(shown(node.name)) <= 40 else name[-1:] == "…"
        assert tooltip.startswith(shown(node.name))
        assert shown(node.detail) in tooltip
        assert tooltip.endswith(" bottleneck") or not node.bottleneck
    tooltips = [
        element.findall(f"{SVG}title")[0].text or ""
        for element in ElementTree.fromstring(svg)
        if element.get("class", "").startswith("arrow")
    ]
    for arrow, tooltip in zip(graph.arrows, tooltips, strict=True):
        assert tooltip.startswith(f"{shown(arrow.source)} → {shown(arrow.target)}")
        assert shown(arrow.text) in tooltip
        assert tooltip.endswith(f" {arrow.blocked}") or not arrow.blocked


def disordered(graph: Graph) -> list[tuple[str, float]]:
    """List the columns, by host, whose nodes are not in the order in which they were added."""
    seen = drawn(picture("svg", "", graph.nodes, graph.arrows))
    columns: dict[tuple[str, float], list[float]] = {}
    for node, box in zip(graph.nodes, seen.nodes, strict=True):
        columns.setdefault((node.host, box.left), []).append(box.top)
    return [column for column, tops in columns.items() if tops != sorted(tops)]


@given(graph=graphs())
@settings(max_examples=50, deadline=None)
def test_nodes_of_a_column_stand_in_the_order_in_which_they_were_added(graph: Graph) -> None:
    assert disordered(graph) == []


@given(
    taken=st.lists(st.integers(0, 2**24), min_size=1, max_size=4),
    wish=st.integers(0, 30),
    half=st.integers(0, 5),
    low=st.integers(0, 30),
)
@settings(deadline=None)
def test_the_nearest_free_row_is_found(taken: list[int], wish: int, half: int, low: int) -> None:
    lane = layout._Lane(len(taken))
    lane.taken = taken
    free = [
        row
        for row in range(low + half, 80)
        if not any(rows >> (row - half) & ((2 << 2 * half) - 1) for rows in taken)
    ]
    wish = max(wish, half)
    found = lane.nearest(0, len(taken), wish, half, low)
    assert found in free
    assert abs(found - wish) == min(abs(row - wish) for row in free)


# Small SVGs ---------------------------------------------------------------------------


def svg_of(edges: str) -> Drawn:
    """Draw arrows like "a>b b>c"."""
    ends = [edge.split(">") for edge in edges.split()]
    arrows = [Arrow(source, target, "10/s") for source, target in ends]
    names = dict.fromkeys(name for arrow in arrows for name in (arrow.source, arrow.target))
    return drawn(picture("svg", "", [Node(name) for name in names], arrows))


def test_a_chain_is_straight() -> None:
    seen = svg_of("a>b b>c c>d")
    assert len({y for line in seen.lines for _, y in line}) == 1


def test_a_chain_stays_straight_beside_an_arrow_that_skips_it() -> None:
    seen = svg_of("a>b b>c c>d a>d")
    assert len({(box.top + box.bottom) / 2 for box in seen.nodes}) == 1
    assert max(y for _, y in seen.lines[3]) > max(box.bottom for box in seen.nodes)


def test_a_source_stands_in_the_middle_of_its_readers() -> None:
    seen = svg_of(" ".join(f"a>w{n} w{n}>z" for n in range(8)))
    (first, *readers, last) = [seen.nodes[0], *seen.nodes[1:2], *seen.nodes[3:], seen.nodes[2]]
    middle = (min(box.top for box in readers) + max(box.bottom for box in readers)) / 2
    for box in (first, last):
        assert abs((box.top + box.bottom) / 2 - middle) <= 12


def test_parallel_arrows_are_apart() -> None:
    seen = svg_of("a>b a>b a>b")
    ends = sorted(line[-1][1] for line in seen.lines)
    begins = sorted(line[0][1] for line in seen.lines)
    assert ends[1] - ends[0] == ends[2] - ends[1] == 20
    assert min(begins[1] - begins[0], begins[2] - begins[1]) >= 5


def test_arrows_into_a_node_arrive_in_the_order_in_which_they_come() -> None:
    seen = svg_of("s>a s>b s>c c>z b>z a>z")
    assert seen.lines[3][-1][1] > seen.lines[4][-1][1] > seen.lines[5][-1][1]


@pytest.mark.parametrize("host", ["", "robot"])
def test_a_picture_has_a_margin(host: str) -> None:
    nodes = [node._replace(host=host) for node in CAMERA]
    seen = drawn(picture("svg", "", nodes, FRAMES))
    boxes = [*seen.nodes, *seen.frames]
    assert (
        min(box.left for box in boxes) == seen.whole.right - max(box.right for box in boxes) == 16
    )
    assert seen.whole.bottom - max(box.bottom for box in boxes) >= 16 <= min(b.top for b in boxes)


def test_an_svg_says_in_classes_how_an_arrow_is_drawn() -> None:
    arrows = [
        Arrow("camera", "shrink", style="latest", blocked="full"),
        Arrow("shrink", "show", style="drop", blocked="empty"),
    ]
    root = ElementTree.fromstring(picture("svg", "", CAMERA, arrows))
    classes = [element.get("class") for element in root.findall(f"{SVG}g")]
    assert classes[:2] == ["arrow latest full", "arrow drop empty"]
    assert classes[2:] == ["node source", "node kernel bottleneck", "node sink"]


def test_an_svg_has_a_title_and_both_colour_schemes() -> None:
    root = ElementTree.fromstring(picture("svg", "<video>", CAMERA, FRAMES))
    assert [title.text for title in root.findall(f"{SVG}title")] == ["<video>"]
    (style,) = root.findall(f"{SVG}style")
    light, dark = (style.text or "").split("@media (prefers-color-scheme:dark)")
    coloured = re.compile(r"^(.*)\{(?:fill|stroke):#", re.MULTILINE)
    assert sorted(coloured.findall(light)) == sorted(coloured.findall(dark))
    rules = re.findall(r"^(?!@|\})(.*)\{", style.text or "", re.MULTILINE)
    assert all(each.startswith(".ipcheap-graph ") for rule in rules for each in rule.split(","))


def test_a_layout_that_was_drawn_before_gives_the_same_picture() -> None:
    first = picture("svg", "", CAMERA, FRAMES)
    faster = [arrow._replace(text="60000/s · 16/16") for arrow in FRAMES]
    other = picture("svg", "", CAMERA, faster)
    assert first != other
    assert picture("svg", "", CAMERA, FRAMES) == first
    layout.layout.cache_clear()
    assert picture("svg", "", CAMERA, faster) == other


# Mermaid ------------------------------------------------------------------------------

LABEL = r'"(?P<{}>[^"]*)"'
LINE = re.compile(
    rf"  subgraph h\d+\[{LABEL.format('host')}\]|  end"
    rf"|  (?P<id>n\d+)(?P<open>\[[/\\]?|\(\[){LABEL.format('node')}(?P<close>[/\\]?\]|\]\))"
    rf"|  (?P<source>n\d+) -->(?:\|{LABEL.format('text')}\|)? (?P<target>n\d+)"
    r"|  classDef bottleneck stroke:#\w+,stroke-width:4px"
    r"|  class (?P<limits>n\d+(?:,n\d+)*) bottleneck"
    r"|  linkStyle (?P<links>\d+(?:,\d+)*) (?P<style>[\w:#, -]+)"
)


def from_mermaid(label: str) -> str:
    """Return what Mermaid shows for a label without lines."""
    assert not re.sub(r"#\d+;|[^\W_]|[ ,/:.()·×…_-]", "", label)
    return re.sub(r"#(\d+);", lambda found: chr(int(found[1])), label).replace("\u200b", "")


@given(graph=graphs(), name=TEXTS)
@settings(max_examples=100, deadline=None)
def test_mermaid_is_well_formed_and_holds_every_text(graph: Graph, name: str) -> None:
    text = picture("mermaid", name, graph.nodes, graph.arrows)
    text.encode()
    lines = text.split("\n")
    assert lines.pop() == ""
    if name:
        assert lines[0] == lines[2] == "---"
        assert re.fullmatch(r'title: "(?:[ -!#-\[\]-~]|\\.)*"', lines[1])
        del lines[:3]
    assert lines[0] == "flowchart LR"
    found = [LINE.fullmatch(line) for line in lines[1:]]
    assert None not in found
    matches = [match for match in found if match]

    nodes = {match["id"]: match["node"].split("<br/>") for match in matches if match["id"]}
    for at, node in enumerate(graph.nodes):
        texts = [shown(node.name), *([shown(node.detail)] if node.detail else [])]
        plain = [text.replace("\u200b", "") for text in texts]
        assert [from_mermaid(line) for line in nodes[f"n{at}"]] == plain
    arrows = [match for match in matches if match["source"]]
    for arrow, match in zip(graph.arrows, arrows, strict=True):
        assert graph.nodes[int(match["source"][1:])].name == arrow.source
        assert graph.nodes[int(match["target"][1:])].name == arrow.target
        assert from_mermaid(match["text"] or "") == shown(arrow.text).replace("\u200b", "")
    hosts = [match["host"] for match in matches if match["host"] is not None]
    assert len(hosts) == len({node.host for node in graph.nodes} - {""})
    assert sum(1 for line in lines if line == "  end") == len(hosts)


def test_a_picture_in_mermaid() -> None:
    arrows = [*FRAMES, Arrow("camera", "show", "raw", "latest", "empty")]
    nodes = [*CAMERA[:2], CAMERA[2]._replace(host="server-1")]
    assert picture("mermaid", "video", nodes, arrows) == (
        "---\n"
        'title: "video"\n'
        "---\n"
        "flowchart LR\n"
        '  n0(["camera<br/>1 process"])\n'
        '  n1["shrink<br/>2 processes"]\n'
        '  subgraph h1["server-1"]\n'
        '  n2(["show"])\n'
        "  end\n"
        '  n0 -->|"30/s · 16/16"| n1\n'
        '  n1 -->|"30/s"| n2\n'
        '  n0 -->|"raw"| n2\n'
        "  classDef bottleneck stroke:#bf8700,stroke-width:4px\n"
        "  class n1 bottleneck\n"
        "  linkStyle 0 stroke:#d1242f,stroke-width:3px,color:#d1242f\n"
        "  linkStyle 1 stroke-dasharray:6 4\n"
        "  linkStyle 2 stroke-dasharray:2 4,stroke:#8c959f,color:#8c959f\n"
    )


# DOT ----------------------------------------------------------------------------------

TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|([A-Za-z_]\w*|\d+(?:\.\d+)?)|(->|[{}\[\]=,]))')


def tokens(dot: str) -> list[str]:
    """Split DOT into its tokens; quoted strings keep their quotes."""
    found, at = [], 0
    while dot[at:].strip():
        match = TOKEN.match(dot, at)
        assert match, dot[at : at + 40]
        found.append(match[match.lastindex or 0])
        at = match.end()
    return found


def from_dot(quoted: str) -> list[str]:
    """Return the lines that Graphviz shows for a quoted label."""
    lines = re.sub(r"\\(.)", lambda found: "\0" if found[1] == "n" else found[1], quoted[1:-1])
    return [unescape(line) for line in lines.split("\0")]


@given(graph=graphs(), name=TEXTS)
@settings(max_examples=100, deadline=None)
def test_dot_is_well_formed_and_holds_every_text(graph: Graph, name: str) -> None:
    dot = picture("dot", name, graph.nodes, graph.arrows)
    dot.encode()
    found = tokens(dot)
    open_brackets: list[str] = []
    for token in found:
        if token in ("{", "["):
            assert open_brackets[-1:] != ["["]
            open_brackets.append(token)
        elif token in ("}", "]"):
            assert open_brackets.pop() == {"}": "{", "]": "["}[token]
    assert open_brackets == []
    assert found[:2] == ["digraph", "{"]

    def label(at: int) -> list[str]:
        """Return the label in the attributes after a token."""
        given = found[at + 1 : found.index("]", at)]
        return from_dot(given[given.index("label") + 2]) if "label" in given else []

    assert label(found.index("graph")) == [shown(name)]
    declared = {
        token: label(at)
        for at, token in enumerate(found)
        if re.fullmatch(r"n\d+", token) and "->" not in (found[at - 1], found[at + 1])
    }
    for at, node in enumerate(graph.nodes):
        texts = [node.name, *([node.detail] if node.detail else [])]
        assert declared[f"n{at}"] == [shown(text) for text in texts]
    arrows = [at for at, token in enumerate(found) if token == "->"]
    for arrow, at in zip(graph.arrows, arrows, strict=True):
        assert graph.nodes[int(found[at - 1][1:])].name == arrow.source
        assert graph.nodes[int(found[at + 1][1:])].name == arrow.target
        assert label(at + 1) == ([shown(arrow.text)] if arrow.text else [])


def test_a_picture_in_dot() -> None:
    nodes = [*CAMERA[:2], CAMERA[2]._replace(host="server-1")]
    assert picture("dot", "video", nodes, FRAMES) == (
        "digraph {\n"
        '  graph [rankdir=LR, label="video", labelloc=t, fontname="sans-serif"]\n'
        '  node [fontname="sans-serif"]\n'
        '  edge [fontname="sans-serif", fontsize=10]\n'
        '  n0 [label="camera\\n1 process", shape=oval]\n'
        '  n1 [label="shrink\\n2 processes", shape=box, style="rounded", '
        'color="#bf8700", penwidth=3]\n'
        '  subgraph cluster_1 { graph [label="server-1"]\n'
        '  n2 [label="show", shape=oval]\n'
        "  }\n"
        '  n0 -> n1 [label="30/s · 16/16", color="#d1242f", fontcolor="#d1242f", penwidth=2.5]\n'
        '  n1 -> n2 [label="30/s", style=dashed]\n'
        "}\n"
    )


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs Graphviz")
@given(graph=graphs(), name=TEXTS)
@settings(max_examples=20, deadline=None)
def test_graphviz_reads_it(graph: Graph, name: str) -> None:
    dot = picture("dot", name, graph.nodes, graph.arrows)
    svg = subprocess.run(["dot", "-Tsvg"], input=dot.encode(), capture_output=True, check=True)
    root = ElementTree.fromstring(svg.stdout)
    assert len(root.findall(f".//{SVG}g[@class='node']")) == len(graph.nodes)
    assert len(root.findall(f".//{SVG}g[@class='edge']")) == len(graph.arrows)


# All kinds ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_may_be_empty(kind: str) -> None:
    assert picture(kind, "", [], [])


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_depends_on_its_arguments_only(kind: str) -> None:
    code = (
        "from ipcheap.graph.picture import *\n"
        f"print(picture({kind!r}, 'video', {CAMERA!r}, {FRAMES!r}), end='')"
    )
    for seed in "12":
        result = subprocess.run(
            [sys.executable, "-X", "utf8", "-P", "-c", code],
            env={"PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        )
        assert result.stdout.decode() == picture(kind, "video", CAMERA, FRAMES)


@pytest.mark.parametrize(
    ("draw", "text"),
    [
        (lambda: picture("png", "", [], []), 'kind must be "mermaid", "dot" or "svg", not \'png\''),
        (lambda: picture("svg", "", [*CAMERA, CAMERA[1]], []), "two nodes are named 'shrink'"),
        (
            lambda: picture("dot", "", CAMERA[:1], FRAMES),
            "an arrow names 'shrink', which is no node",
        ),
        (lambda: picture("svg", "", CAMERA, [*FRAMES, Arrow("show", "shrink")]), "form a cycle"),
        (lambda: picture("svg", "", CAMERA, [Arrow("show", "show")]), "form a cycle"),
    ],
)
def test_a_mistake_is_named(draw: Callable[[], str], text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        draw()


@pytest.mark.parametrize("kind", ["mermaid", "dot"])
def test_other_kinds_show_cycles(kind: str) -> None:
    assert "n2" in picture(kind, "", CAMERA, [*FRAMES, Arrow("show", "shrink")])


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_arrows_are_drawn_in_a_moment(kind: str) -> None:
    names = [[f"stage{stage}_{n}" for n in range(50)] for stage in range(11)]
    nodes = [Node(name, "2 processes") for stage in names for name in stage]
    arrows = [
        Arrow(source, target, "1200/s · 3/16", blocked="full")
        for before, after in itertools.pairwise(names)
        for n, source in enumerate(before)
        for target in (after[n], after[n - 1])
    ]
    assert len(arrows) == 1000
    times = []
    for _ in range(5):
        begin = time.process_time()
        picture(kind, "", nodes, arrows)
        times.append(time.process_time() - begin)
    assert min(times) < 0.1  # 2 to 10 ms on a machine of 2023; the bound is for slow ones

"""Pictures of a dataflow graph as text: Mermaid, DOT (Graphviz) and SVG."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

KINDS = ("mermaid", "dot", "svg")


class Node(NamedTuple):
    """A kernel of a graph, or an input or output of the calling program.

    `detail` is its second line of text. `shape` is "kernel", "source", "sink", "input" or "output".
    The nodes of one `host` are drawn in one frame; "" is no frame. `bottleneck` marks the node that
    limits the throughput.
    """

    name: str
    detail: str = ""
    shape: str = "kernel"
    host: str = ""
    bottleneck: bool = False


class Arrow(NamedTuple):
    """An edge between two nodes, which `source` and `target` name.

    `text` is its label. `style` is "wait", "drop" (dashed), "latest" or "window" (both dotted).
    `blocked` is "full" (red: its sender waits for room), "empty" (grey: its receiver waits for
    items) or None.
    """

    source: str
    target: str
    text: str = ""
    style: str = "wait"
    blocked: str | None = None


def picture(kind: str, name: str, nodes: Sequence[Node], arrows: Sequence[Arrow]) -> str:
    """Return a picture of a graph: "mermaid", "dot" or "svg". `name` is its title, "" for none.

    The text depends on the arguments only. All names and texts are shown as they are, except that
    a control character becomes a space, and that the SVG shortens what is long; its tooltip shows
    all of it. Raises ValueError for another kind, for two nodes of one name, for an arrow of an
    unknown node, and for a cycle in an SVG.

    Mermaid's default settings refuse more than 500 arrows or 50,000 characters.
    """
    if kind not in KINDS:
        raise ValueError(f'kind must be "mermaid", "dot" or "svg", not {kind!r}')
    number = {node.name: at for at, node in enumerate(nodes)}
    if len(number) < len(nodes):
        twice = next(node.name for at, node in enumerate(nodes) if number[node.name] != at)
        raise ValueError(f"two nodes are named {twice!r}")
    try:
        ends = [(number[arrow.source], number[arrow.target]) for arrow in arrows]
    except KeyError as error:
        raise ValueError(f"an arrow names {error.args[0]!r}, which is no node") from None
    if kind == "svg":
        from .svg import draw

        return draw(name, nodes, arrows, ends)
    return (_mermaid if kind == "mermaid" else _dot)(name, nodes, arrows, ends)


def _by_host(nodes: Sequence[Node]) -> dict[str, list[int]]:
    """Return the numbers of the nodes of each host, hosts in the order of their first node."""
    hosts: dict[str, list[int]] = {}
    for at, node in enumerate(nodes):
        hosts.setdefault(node.host, []).append(at)
    return hosts


# What no format can hold: control characters, halves of surrogate pairs and non-characters.
_UNPRINTABLE = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufffe\uffff]+")


def one_line(text: str) -> str:
    """Return a text as one line that every format can hold."""
    return text if text.isprintable() else _UNPRINTABLE.sub(" ", text)


# Mermaid ------------------------------------------------------------------------------

# These characters are written as numbers, so that nothing is taken for Markdown, HTML or syntax.
# Mermaid measures a number by its digits, so common characters within words stay as they are.
_SPECIAL = re.compile(r"[^\w ,/:.()·×…-]|(?<!\w)[_.:-]|[_.:-](?!\w)")
_MERMAID_SHAPES = {
    "kernel": ('["', '"]'),
    "source": ('(["', '"])'),
    "sink": ('(["', '"])'),
    "input": ('[/"', '"/]'),
    "output": ('[\\"', '"\\]'),
}
_MERMAID_STYLES = {
    "drop": "stroke-dasharray:6 4",
    "latest": "stroke-dasharray:2 4",
    "window": "stroke-dasharray:2 4",
    "full": "stroke:#d1242f,stroke-width:3px,color:#d1242f",
    "empty": "stroke:#8c959f,color:#8c959f",
}


def _for_mermaid(text: str) -> str:
    text = _SPECIAL.sub(lambda found: f"#{ord(found[0])};", one_line(text))
    return text.replace("#36;", "#36;#8203;")  # a space without width: "$$" would begin a formula


def _mermaid(
    name: str, nodes: Sequence[Node], arrows: Sequence[Arrow], ends: Sequence[tuple[int, int]]
) -> str:
    lines = ["---", f"title: {json.dumps(one_line(name))}", "---"] if name else []
    lines.append("flowchart LR")
    for at, (host, members) in enumerate(_by_host(nodes).items()):
        if host:
            lines.append(f'  subgraph h{at}["{_for_mermaid(host)}"]')
        for member in members:
            node = nodes[member]
            before, after = _MERMAID_SHAPES[node.shape]
            detail = f"<br/>{_for_mermaid(node.detail)}" if node.detail else ""
            lines.append(f"  n{member}{before}{_for_mermaid(node.name)}{detail}{after}")
        if host:
            lines.append("  end")

    styles: dict[str, list[str]] = {}
    for at, (arrow, (source, target)) in enumerate(zip(arrows, ends, strict=True)):
        text = f'|"{_for_mermaid(arrow.text)}"|' if arrow.text else ""
        lines.append(f"  n{source} -->{text} n{target}")
        found = [_MERMAID_STYLES.get(arrow.style), _MERMAID_STYLES.get(arrow.blocked or "")]
        if style := ",".join(filter(None, found)):
            styles.setdefault(style, []).append(str(at))
    limiting = [f"n{at}" for at, node in enumerate(nodes) if node.bottleneck]
    if limiting:
        lines.append("  classDef bottleneck stroke:#bf8700,stroke-width:4px")
        lines.append(f"  class {','.join(limiting)} bottleneck")
    lines += [f"  linkStyle {','.join(which)} {style}" for style, which in styles.items()]
    return "\n".join(lines) + "\n"


# DOT ----------------------------------------------------------------------------------

_DOT_SHAPES = {
    "kernel": 'shape=box, style="rounded"',
    "source": "shape=oval",
    "sink": "shape=oval",
    "input": "shape=rarrow",
    "output": "shape=cds",
}
_DOT_STYLES = {
    "wait": "",
    "drop": "style=dashed",
    "latest": "style=dotted",
    "window": "style=dotted",
}
_DOT_BLOCKED = {
    None: "",
    "full": 'color="#d1242f", fontcolor="#d1242f", penwidth=2.5',
    "empty": 'color="#8c959f", fontcolor="#8c959f"',
}


def _for_dot(text: str) -> str:
    """Return a text inside a quoted string. Graphviz would replace entities and backslashes."""
    return one_line(text).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"')


def _dot(
    name: str, nodes: Sequence[Node], arrows: Sequence[Arrow], ends: Sequence[tuple[int, int]]
) -> str:
    lines = [
        "digraph {",
        f'  graph [rankdir=LR, label="{_for_dot(name)}", labelloc=t, fontname="sans-serif"]',
        '  node [fontname="sans-serif"]',
        '  edge [fontname="sans-serif", fontsize=10]',
    ]
    for at, (host, members) in enumerate(_by_host(nodes).items()):
        if host:
            lines.append(f'  subgraph cluster_{at} {{ graph [label="{_for_dot(host)}"]')
        for member in members:
            node = nodes[member]
            detail = f"\\n{_for_dot(node.detail)}" if node.detail else ""
            limits = ', color="#bf8700", penwidth=3' if node.bottleneck else ""
            label = f'label="{_for_dot(node.name)}{detail}"'
            lines.append(f"  n{member} [{label}, {_DOT_SHAPES[node.shape]}{limits}]")
        if host:
            lines.append("  }")
    for arrow, (source, target) in zip(arrows, ends, strict=True):
        text = f'label="{_for_dot(arrow.text)}"' if arrow.text else ""
        given = filter(None, (text, _DOT_STYLES[arrow.style], _DOT_BLOCKED[arrow.blocked]))
        lines.append(f"  n{source} -> n{target} [{', '.join(given)}]")
    return "\n".join([*lines, "}"]) + "\n"

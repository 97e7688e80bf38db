"""Ties between the models and the Python sources of the graph layer.

A tie compares what a method and a model's function call, in the order of the text, as far as the
protocol depends on it; repetitions count once. Of a method that the models have in another shape,
what it does is listed. Stores to shared words count like calls.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import even, uneven

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

SOURCES = Path(__file__).resolve().parents[3] / "ipcheap" / "graph"

# What a method calls -> what it is in a model.
NAMES = {
    "_count_freed": "counts",
    "_freed": "counts",
    "acknowledge": "free",
    "call": "kernel",
    "commit": "commits",
    "free": "free",
    "pass_by": "pass_by",
    "withdraw": "withdraws",
}
EVENLY = {"next": "takes", "nothing": "nothing", "put": "puts", "send": "puts"}
# What a model's function calls -> the same.
MODEL_NAMES = {
    "commit": "commits",
    "counts_nothing": "nothing",
    "forward": "puts",
    "next_record": "takes",
    "positions": "position",
    "put_item": "puts",
    "send": "puts",
    "take": "takes",
}


@dataclass(frozen=True)
class Tie:
    """A method, and the model's function or the list of what it does; `names` are more of it."""

    file: str
    method: str
    model: Callable[..., Any] | tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)

    def fault(self, sources: Path = SOURCES) -> str | None:
        """Describe where the two differ."""
        names = {**NAMES, **self.names}
        tree = method_of((sources / self.file).read_text(), self.method)
        if tree is None:
            return f"{self.file}: {self.method}() is not defined there any more"
        found = once([names[event] for event in events_of(tree) if event in names])
        if isinstance(self.model, tuple):
            wanted = list(self.model)
        else:
            body = ast.parse(textwrap.dedent(inspect.getsource(self.model))).body[0]
            events = [MODEL_NAMES.get(event, event) for event in events_of(body)]
            wanted = once([event for event in events if event in names.values()])
        if found == wanted:
            return None
        return (
            f"{self.file}: {self.method}() does {', '.join(found)}, and its model "
            f"{', '.join(wanted)}. Change the model to what the method does now and explore it."
        )


def once(events: list[str]) -> list[str]:
    """Return events without those that repeat the one before."""
    return [b for a, b in itertools.pairwise(["", *events]) if a != b]


def method_of(text: str, name: str) -> ast.AST | None:
    """Return the definition of a method, or of a function."""
    found: ast.AST = ast.parse(text)
    for part in name.split("."):
        inside = [n for n in ast.iter_child_nodes(found) if getattr(n, "name", None) == part]
        if not inside:
            return None
        found = inside[0]
    return found


def events_of(tree: ast.AST) -> Iterator[str]:
    """Yield what is called and which words are stored, in the order of the text."""
    events: list[tuple[int, int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func
            name = called.attr if isinstance(called, ast.Attribute) else ast.unparse(called)
            events.append((node.end_lineno or 0, node.end_col_offset or 0, name))
        elif isinstance(node, (ast.Assign, ast.AugAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Subscript) and "_words" in ast.unparse(target.value):
                    place = (node.end_lineno or 0, node.end_col_offset or 0)
                    events.append((*place, f"store {ast.unparse(target.slice)}"))
    for _, _, name in sorted(events):
        yield name


def as_they_are(*names: str) -> dict[str, str]:
    """Return names that are the same in a list."""
    return {name: name for name in names}


TIES = (
    Tie("even.py", "EvenWorker._catch_up", even._catch_up, {"next": "takes"}),
    Tie("even.py", "EvenWorker._pair", even._map, EVENLY),
    Tie(
        "even.py",
        "EvenWorker._map",
        # The quick way first.
        ("takes", "kernel", "puts", "free", "nothing", "puts", "free"),
        EVENLY,
    ),
    Tie("writer.py", "Writer.nothing", even.nothing, {"_put": "puts"}),
    Tie("uneven.py", "UnevenWorker._send_on", uneven._send_on, {"put": "puts"}),
    Tie(
        "uneven.py",
        "UnevenWorker._commit",
        uneven._commit,
        {"put": "puts", "_release": "_release"},
    ),
    Tie("uneven.py", "UnevenWorker._release", uneven._release),
    Tie(
        "uneven.py",
        "UnevenWorker._finish",
        uneven._finish,
        {"put": "puts", "mark": "mark", "_commit": "_commit"},
    ),
    Tie("uneven.py", "UnevenWorker._complete", uneven._complete, {"mark": "puts"}),
    Tie(
        "uneven.py",
        "UnevenWorker._restore",
        uneven._restore,
        {"get": "get_state", "note_of": "note_of", "_complete": "complete"},
    ),
    Tie(
        "uneven.py",
        "UnevenWorker._work",
        uneven.worker,
        {"_restore": "restore", "_finish": "finish", "commit": "ends"},
    ),
    # What the models do step by step.
    Tie(
        "ledger.py",
        "Ledger.commit",
        ("pack_into", "store 0"),
        as_they_are("pack_into", "store 0"),
    ),
    Tie("ledger.py", "Ledger.withdraw", ("store 0",), as_they_are("store 0")),
    Tie(
        "ledger.py",
        "Ledger.pick",
        ("store at + 1 + number % log", "store at"),
        as_they_are("store at + 1 + number % log", "store at"),
    ),
    Tie("reader.py", "Reader.next", ("_first", "pick"), as_they_are("_first", "pick")),
    Tie("snapshots.py", "Snapshots.put", ("send", "_take"), as_they_are("send", "_take")),
    Tie("snapshots.py", "Snapshots._take", ("recv_record", "free"), as_they_are("recv_record")),
    Tie("worker.py", "Worker.close", ("_close", "finish"), as_they_are("_close", "finish")),
)


def faults(ties: Iterable[Tie] = TIES, sources: Path = SOURCES) -> list[str]:
    """Describe where models and sources differ."""
    return [fault for tie in ties if (fault := tie.fault(sources)) is not None]

"""Graphs in files, for programs that run graphs they have not made: Python, TOML or JSON."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from typing import TYPE_CHECKING, Any

from . import data
from . import kernels as forms
from .errors import GraphError
from .graph import Graph

if TYPE_CHECKING:
    from pathlib import Path


def graph_in(path: Path, name: str = "") -> Graph:
    """Return the graph in a .py, .toml or .json file.

    A Python file is imported, so that what it guards by `if __name__ == "__main__"` does not run.
    Its graph is at module level: the one called `name`, or else the only one.
    """
    if path.suffix == ".py":
        return _of_module(path, name)
    if name:
        raise GraphError(f"{path} holds one graph: leave out {name!r}, which is for Python files")
    return Graph.load(path)


def _of_module(path: Path, name: str) -> Graph:
    path = path.resolve()
    stem = path.stem
    if stem in sys.modules:
        raise GraphError(f"{path} has the name of another module, {stem!r}: rename it")
    data.look_in(path.parent)
    spec = importlib.util.spec_from_file_location(stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[stem] = module
    spec.loader.exec_module(module)
    graphs = {key: value for key, value in vars(module).items() if isinstance(value, Graph)}
    if name:
        if name not in graphs:
            raise GraphError(f"{path} has no graph {name!r} at module level: {_those(graphs)}")
        return graphs[name]
    if len({id(graph) for graph in graphs.values()}) != 1:
        raise GraphError(
            f"{path}: which graph? Name one, as in {path.name}:NAME; {_those(graphs)}"
            if graphs
            else f"{path} has no graph at module level"
        )
    return next(iter(graphs.values()))


def _those(graphs: dict[str, Graph]) -> str:
    return f"it has {', '.join(graphs)}" if graphs else "it has none"


def unattended(graph: Graph) -> Graph:
    """Return a graph as a program can run it that neither sends to it nor receives from it.

    What its outputs give is discarded. GraphError if it has inputs.
    """
    return graph._unattended()


def set_parameter(graph: Graph, kernel: str, parameter: str, value: Any) -> None:
    """Give a parameter of a kernel another value; GraphError if there is no such."""
    found = graph._kernels[graph[kernel].name]
    params = {**found.params, parameter: value}
    forms.form_of(found.call, len(found.inputs), params)
    graph._kernels[kernel] = dataclasses.replace(found, params=params)

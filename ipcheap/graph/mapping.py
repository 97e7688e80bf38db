"""`map`: a graph of one kernel that replaces `Pool.imap`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from . import kernels as forms
from .exchange import Exchange
from .graph import Graph, results_of

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from .graph import Node
    from .runner import Run


def map(  # like the built-in
    function: Callable[..., Any], *iterables: Any, runner: str = "processes", **options: Any
) -> Generator[Any]:
    """Yield `function` of the items of one or several iterables, computed by several processes.

    Like the built-in, in order, and it ends with the first iterable to end. A result of None is
    left out. Arrays are views of shared memory: copy those that you keep. At most `slots` items a
    worker are under way, and the iterables are not read further. The iterables are read by the
    calling thread: a result that is ready while it waits for an item comes after that. `options`
    are those of `Graph.add`, as `processes=4`.

        for mean in ipcheap.graph.map(brightness, pictures, processes=4): ...
    """
    if not iterables:
        raise TypeError("map() needs at least one iterable")
    graph = Graph()
    slots = options.get("slots", 16)
    several = len(iterables) > 1
    fed = graph.input("items", slots=slots)
    if several:
        call: Any = forms.Spread(function)
    else:  # a class is a function here, as in map(str, numbers)
        call = functools.partial(function) if isinstance(function, type) else function
    node = graph.add(call, fed, **options)
    graph.output(node, slots=slots)
    in_order = options.get("key") is None and options.get("ordered", True)
    return _mapped(graph, fed, node, iterables, runner, in_order)


def _mapped(
    graph: Graph, fed: Node, node: Node, iterables: tuple[Any, ...], runner: str, in_order: bool
) -> Generator[Any]:
    items = iterables[0] if len(iterables) == 1 else zip(*iterables, strict=False)

    def results(run: Run) -> Iterator[Any]:
        if in_order:
            return Exchange(run, fed, node).results(items)
        run.feed(fed, items)
        return run.results(node)

    return results_of(lambda: graph.start(runner=runner), results)

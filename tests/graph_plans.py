"""Random graphs of the kernels in graph_kernels.py, and what plain Python makes of them."""

from __future__ import annotations

import inspect
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import graph_kernels as kernels
from hypothesis import strategies as st

from ipcheap.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Callable

    from ipcheap.graph import Node
    from ipcheap.graph.graph import Port

MOST_ITEMS = 100  # on one edge
ROOM = 256  # slots where one branch may have to wait for another one


@dataclass
class Flowing:
    """A port: what passes it, and whether in this order."""

    port: Port
    items: list[int]
    in_order: bool
    workers: int
    is_dropped: bool = False


def outputs(kernel: Any, *items: Any) -> list[int]:
    """Return what a kernel gives for an item."""
    found = kernel(*items)
    if not inspect.isgenerator(found):
        found = [found]
    return [one for one in found if one is not None]


def skipping(kernel: Any) -> Callable[[int], int | None]:
    """Return a kernel that leaves items out."""

    def call(x: int) -> int | None:
        try:
            return int(kernel(x))
        except ValueError:
            return None

    return call


class Plans:
    """Builds a graph from draws."""

    def __init__(self, data: st.DataObject) -> None:
        self.draw = data.draw
        self.graph = Graph(capacity="64MiB")
        self.nodes: list[Node] = []
        self.flows: list[Flowing] = []
        self.read: set[int] = set()
        for _ in range(self.draw(st.integers(1, 2), "sources")):
            self.source()
        for _ in range(self.draw(st.integers(1, 5), "kernels")):
            self.kernel()
        self.results = [
            flow
            for n, flow in enumerate(self.flows)
            if n not in self.read or (not flow.is_dropped and self.draw(st.booleans(), "output"))
        ]
        for flow in self.results:
            self.graph.output(flow.port)

    # Draws ------------------------------------------------------------------------------------

    def delay(self) -> dict[str, float]:
        return {"delay": self.draw(st.sampled_from([0, 0, 0.0005, 0.002]), "delay")}

    def places(self) -> dict[str, Any]:
        """Draw processes and threads, or the processes of another kernel."""
        if self.nodes and self.draw(st.integers(0, 5), "together") == 0:
            leader = self.draw(st.sampled_from(self.nodes), "leader")
            if not leader.name.endswith("sides_of"):
                return {"together": leader}
        return {
            "processes": self.draw(st.sampled_from([1, 1, 2, 3]), "processes"),
            "threads": self.draw(st.sampled_from([1, 1, 1, 2]), "threads"),
        }

    def some_flow(self, *, in_order: bool = False) -> Flowing | None:
        options = [
            n
            for n, flow in enumerate(self.flows)
            if not flow.is_dropped
            and len(flow.items) <= MOST_ITEMS
            and (flow.in_order or not in_order)
        ]
        if not options:
            return None
        n = self.draw(st.sampled_from(options), "input")
        self.read.add(n)
        return self.flows[n]

    def add(self, kernel: Any, *inputs: Any, **how: Any) -> tuple[Node, int]:
        node = self.graph.add(kernel, *inputs, **how)
        self.nodes.append(node)
        return node, self.graph._kernels[node.name].workers

    # Kernels ------------------------------------------------------------------------------------

    def source(self) -> None:
        n = self.draw(st.integers(0, 60), "items")
        if self.draw(st.integers(0, 3), "ports") == 0:
            node, _ = self.add(kernels.sides_of, n=n, outputs=["left", "right"], **self.delay())
            for port in ("left", "right"):
                found = [kernels.left_or_right(x) for x in range(n)]
                items = [one[port] for one in found if port in one]
                self.flows.append(Flowing(node[port], items, True, 1))
            return
        places = self.places() if self.draw(st.integers(0, 3), "several") == 0 else {}
        node, workers = self.add(kernels.numbers, n=n, **places, **self.delay())
        self.flows.append(Flowing(node, [*range(n)] * workers, workers == 1, workers))

    def kernel(self) -> None:
        kinds = [self.simple] * 4 + [self.batch, self.pair, self.pair, self.sums, self.twins]
        kinds += [self.ports, self.boxes, self.dropping]
        self.draw(st.sampled_from(kinds), "kind")()

    def given(self) -> tuple[Any, list[int], bool, int] | None:
        """Draw an input of one port, or of several that are merged."""
        flow = self.some_flow()
        if flow is None:
            return None
        if self.draw(st.integers(0, 4), "merged") == 0:
            other = self.some_flow()
            assert other is not None
            return [flow.port, other.port], flow.items + other.items, False, 2
        return flow.port, flow.items, flow.in_order, flow.workers

    def deals(self) -> dict[str, Any]:
        how = self.draw(st.sampled_from(["order"] * 4 + ["free", "key"]), "deal")
        deals: dict[str, dict[str, Any]] = {
            "order": {},
            "free": {"ordered": False},
            "key": {"key": kernels.modulo},
        }
        return deals[how]

    def simple(self) -> None:
        names = ["plus", "same", "odd", "third", "picky", "some", "and_itself", "rarely"]
        kernel = getattr(kernels, self.draw(st.sampled_from(names), "kernel"))
        given = self.given()
        if given is None:
            return
        port, items, in_order, senders = given
        how: dict[str, Any] = self.deals() | self.places() | self.delay()
        plain = kernel
        if kernel is kernels.picky:
            how["on_error"] = "skip"
            plain = skipping(kernel)
        node, workers = self.add(kernel, port, **how)
        if ("ordered" in how or "key" in how) and (workers > 1 or senders > 1):
            in_order = False
        found = [one for item in items for one in outputs(plain, item)]
        self.flows.append(Flowing(node, found, in_order, workers))

    def batch(self) -> None:
        flow = self.some_flow(in_order=True)
        if flow is None:
            return
        size = self.draw(st.integers(1, 8), "batch")
        kernel = self.draw(st.sampled_from([kernels.each, kernels.total]), "batches")
        node, workers = self.add(kernel, flow.port, batch=size, **self.places(), **self.delay())
        batches = [flow.items[i : i + size] for i in range(0, len(flow.items), size)]
        found: list[int] = []
        for one in batches:
            found += (
                [x for x in kernels.each(one) if x is not None]
                if kernel is kernels.each
                else [kernels.total(one)]
            )
        self.flows.append(Flowing(node, found, True, workers))

    def pair(self) -> None:
        a, b = self.some_flow(in_order=True), self.some_flow(in_order=True)
        if a is None or b is None:
            return
        kernel = self.draw(st.sampled_from([kernels.both, kernels.later, kernels.either]), "of two")
        how = self.places() | self.delay() | {"slots": ROOM}
        node, workers = self.add(kernel, a.port, b.port, **how)
        found = [
            one for x, y in zip(a.items, b.items, strict=False) for one in outputs(kernel, x, y)
        ]
        self.flows.append(Flowing(node, found, True, workers))

    def sums(self) -> None:
        flow = self.some_flow(in_order=True)
        if flow is None:
            return
        checkpoint = self.draw(st.sampled_from([None, 1, 3, 8]), "checkpoint")
        node, _ = self.add(kernels.Sums, flow.port, checkpoint=checkpoint, **self.delay())
        plain = kernels.Sums()
        found = [one for item in flow.items for one in plain.process(item)]
        self.flows.append(Flowing(node, [*found, plain.finish()], True, 1))

    def twins(self) -> None:
        given = self.given()
        if given is None:
            return
        port, items, in_order, _ = given
        node, workers = self.add(kernels.Twins, port, restart=True, **self.places(), **self.delay())
        found = [one for item in items for one in (item, -item)]
        self.flows.append(Flowing(node, found + [77] * workers, in_order, workers))

    def ports(self) -> None:
        given = self.given()
        if given is None:
            return
        port, items, in_order, _ = given
        node, workers = self.add(
            kernels.left_or_right, port, outputs=["left", "right"], **self.places()
        )
        for name in ("left", "right"):
            found = [kernels.left_or_right(x) for x in items]
            self.flows.append(
                Flowing(node[name], [one[name] for one in found if name in one], in_order, workers)
            )

    def boxes(self) -> None:
        given = self.given()
        if given is None:
            return
        port, items, in_order, _ = given
        node, workers = self.add(kernels.boxed, port, **self.places(), **self.delay())
        for _ in range(self.draw(st.integers(1, 2), "readers")):
            out, workers = self.add(kernels.unboxed, node, **self.places(), **self.delay())
            self.flows.append(Flowing(out, items, in_order, workers))

    def dropping(self) -> None:
        flow = self.some_flow()
        if flow is None:
            return
        node, workers = self.add(
            kernels.plus, flow.port, full="drop", slots=4, **self.places(), **self.delay()
        )
        items = [x + 1 for x in flow.items]
        self.flows.append(Flowing(node, items, flow.in_order, workers, is_dropped=True))

    # What came out ------------------------------------------------------------------------------

    def faults(self, results: list[list[int]]) -> list[str]:
        """Describe where the results are not what plain Python gives."""
        found = []
        for flow, items in zip(self.results, results, strict=True):
            if flow.is_dropped:
                right = not Counter(items) - Counter(flow.items)
            elif flow.in_order:
                right = items == flow.items
            else:
                right = Counter(items) == Counter(flow.items)
            if not right:
                found.append(f"{flow.port}: {items}\ninstead of {flow.items}")
        return found

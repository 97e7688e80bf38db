"""The picture of a graph: its kernels and edges, and what passes them if it runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .picture import KINDS, Arrow, Node, picture

if TYPE_CHECKING:
    from .plan import Edge, Kernel, Plan
    from .statistics import EdgeStatistics, GraphStatistics


def drawn(plan: Plan, kind: str, statistics: GraphStatistics | None) -> str:
    """Return a picture of a plan, with the rates and depths of a run if there is one."""
    if kind not in KINDS:
        raise ValueError(f"kind is {', '.join(map(repr, KINDS))}, not {kind!r}")
    of_edges = statistics.edges if statistics is not None else [None] * len(plan.edges)
    return picture(
        kind,
        plan.name or "",
        [_node(plan, kernel, statistics) for kernel in plan.kernels.values()],
        [_arrow(edge, of) for edge, of in zip(plan.edges, of_edges, strict=True)],
    )


def _node(plan: Plan, kernel: Kernel, statistics: GraphStatistics | None) -> Node:
    is_sink = not kernel.is_caller and not plan.out_of[kernel.name]
    shape = (
        kernel.form
        if kernel.form in ("source", "input", "output")
        else "sink"
        if is_sink
        else "kernel"
    )
    return Node(
        kernel.name,
        detail=", ".join(_details(kernel, statistics)),
        shape=shape,
        host=plan.host_of(kernel.name, 0),
        bottleneck=statistics is not None and statistics.bottleneck == kernel.name,
    )


def _details(kernel: Kernel, statistics: GraphStatistics | None) -> list[str]:
    """Return what distinguishes a kernel from one with a single worker that nothing happened to."""
    found: list[str] = []
    if kernel.workers > 1:
        found.append(f"{kernel.processes} × {kernel.threads}")
    if kernel.together is not None:
        found.append(f"in {kernel.together}")
    if kernel.batch:
        found.append(f"batch {kernel.batch}")
    if len(kernel.on) > 1:
        found.append(f"on {', '.join(kernel.on)}")
    if statistics is not None:
        of = statistics.kernels[kernel.name]
        if of.restarts:
            found.append(f"{of.restarts} restarts")
        if of.skipped:
            found.append(f"{of.skipped} skipped")
    return found


def _arrow(edge: Edge, statistics: EdgeStatistics | None) -> Arrow:
    style = "window" if edge.window else edge.full
    texts = [edge.port] if edge.port else []
    blocked = None
    if statistics is not None:
        blocked = statistics.blocked
        texts.append(f"{_rate(statistics.rate)}/s")
        if statistics.capacity:
            texts.append(f"{statistics.pending + statistics.held} of {statistics.capacity}")
        if statistics.dropped:
            texts.append(f"{statistics.dropped} dropped")
    return Arrow(edge.source, edge.target, ", ".join(texts), style, blocked)


def _rate(rate: float) -> str:
    """Return a rate in three digits or so."""
    for unit, of in ("M", 1e6), ("k", 1e3):
        if rate >= of:
            return f"{rate / of:.3g}{unit}"
    return f"{rate:.3g}"

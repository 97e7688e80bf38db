"""What passes the edges of a graph, and where it waits."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ipcheap import ChannelCounts, ChannelNotFound

from . import latest, windows
from .channels import record_channel
from .ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ipcheap import Heap, RecordChannel

    from .plan import Edge, Plan

_FULL = 0.75  # of the room of a kernel's inputs: it may be what slows the graph


@dataclass(frozen=True)
class EdgeStatistics:
    """An edge: records sent, pending and held by its readers, in all its channels.

    With `window=` these are items of the stream, of which those that fill no window stay pending.
    With `full="latest"` only `sent` and `held` are counted, and `capacity` is 0.
    `capacity` is how many records it has room for, and `dropped` how many items found no room.
    `rate` is in records a second since the statistics before. `blocked` is "full" if a sender waits
    for room, "empty" if a reader waits for records, and None otherwise.
    """

    source: str
    port: str
    target: str
    sent: int
    pending: int
    held: int
    capacity: int
    dropped: int
    rate: float
    blocked: str | None


@dataclass(frozen=True)
class KernelStatistics:
    """A kernel: its workers, and the processes that run them.

    `restarts` counts processes that were started again, `skipped` items that were left out after an
    error. `waits` has the shares of its workers that wait for input and for room.
    """

    name: str
    workers: int
    host: str
    pids: tuple[int, ...]
    restarts: int
    skipped: int
    waits: tuple[float, float]


@dataclass(frozen=True)
class GraphStatistics:
    """A run: how long it has run, its state, and its parts.

    `state` is "running", "draining" or "ended". `bottleneck` is the kernel whose inputs are full
    while its outputs are not, or None.
    """

    seconds: float
    state: str
    kernels: dict[str, KernelStatistics]
    edges: tuple[EdgeStatistics, ...]
    bottleneck: str | None


@dataclass(frozen=True)
class Observed:
    """What is to be seen on one host; `pids` and `restarts` are by kernel."""

    channels: dict[str, ChannelCounts]
    dropped: tuple[int, ...]  # by edge
    skipped: dict[str, int]
    pids: dict[str, list[int]]
    restarts: dict[str, int]


class Gauges:
    """What the statistics of a run are read from on one host, found once."""

    def __init__(self, plan: Plan, heap: Heap, notes: memoryview) -> None:
        self._plan = plan
        self._heap = heap
        self._notes = notes
        self._records: dict[str, RecordChannel] = {}
        self._ledgers: dict[tuple[str, int], Ledger] = {}

    def read(self, pids: dict[str, list[int]], restarts: dict[str, int]) -> Observed:
        """Return what is to be seen now."""
        plan = self._plan
        channels: dict[str, ChannelCounts] = {}
        for edge, routes in zip(plan.edges, plan.routes, strict=True):
            for _, _, channel in routes:
                counts = self._counts(channel) if edge.is_of_records else self._other(edge)
                if counts is not None:
                    channels[channel] = counts
        skipped = {
            name: sum([self._ledger(name, worker).skipped for worker in range(kernel.workers)])
            for name, kernel in plan.kernels.items()
            if not kernel.is_caller
        }
        dropped = tuple([self._dropped(edge) if edge.full == "drop" else 0 for edge in plan.edges])
        return Observed(channels, dropped, skipped, pids, restarts)

    def _counts(self, channel: str) -> ChannelCounts | None:
        """Return the counts of a record channel; None if this host has none of it."""
        found = self._records.get(channel)
        try:
            if found is None:
                found = self._records[channel] = record_channel(self._heap, channel)
            return found.counts()
        except ChannelNotFound:
            return None

    def _other(self, edge: Edge) -> ChannelCounts:
        """Return the counts of an edge that is a store or a stream: all of it."""
        if edge.is_latest:
            sent, held = latest.counts_of(self._heap, edge)
            return _counts(capacity=0, sent=sent, freed=sent - held, held=held)
        at = self._plan.out_of[edge.source].index(edge)
        sent = self._ledger(edge.source, 0).without(at)
        (done,) = self._ledger(edge.target, 0).note().freed
        pending, capacity = windows.counts_of(self._heap, edge, sent, done)
        blocked = "full" if pending >= capacity else "empty" if pending < edge.window else None
        freed = sent - pending
        return _counts(capacity=capacity, sent=sent, freed=freed, pending=pending, blocked=blocked)

    def _dropped(self, edge: Edge) -> int:
        at = self._plan.out_of[edge.source].index(edge)
        return sum(self._ledger(edge.source, u).dropped(at) for u in range(edge.senders))

    def _ledger(self, name: str, worker: int) -> Ledger:
        found = self._ledgers.get((name, worker))
        if found is None:
            at, shape = self._plan.areas[name, worker][0], self._plan.shape(name, worker)
            found = self._ledgers[name, worker] = Ledger(self._notes, at, shape)
        return found


def together(plan: Plan, hosts: Mapping[str, Observed]) -> Observed:
    """Return what is to be seen on several hosts, as if they were one."""
    channels: dict[str, ChannelCounts] = {}
    for edge, routes in zip(plan.edges, plan.routes, strict=True):
        for u, v, channel in routes:
            ends = plan.host_of(edge.source, u), plan.host_of(edge.target, v)
            found = [
                seen.channels[channel]
                for seen in (hosts.get(end) for end in ends)
                if seen is not None and channel in seen.channels
            ]
            if not found:
                continue
            channels[channel] = (
                found[0] if ends[0] == ends[1] or len(found) == 1 else _bridged(*found)
            )
    every = list(hosts.values())
    return Observed(
        channels,
        tuple(map(sum, zip(*(seen.dropped for seen in every), strict=True))),
        {name: sum(seen.skipped[name] for seen in every) for name in every[0].skipped},
        {name: [pid for seen in every for pid in seen.pids.get(name, ())] for name in plan.kernels},
        {name: sum(seen.restarts.get(name, 0) for seen in every) for name in plan.kernels},
    )


def _counts(
    *,
    capacity: int,
    sent: int,
    freed: int,
    pending: int = 0,
    held: int = 0,
    blocked: str | None = None,
) -> ChannelCounts:
    """Return the counts of what is no single record channel."""
    return ChannelCounts(
        capacity=capacity,
        sent=sent,
        received=sent - pending,
        freed=freed,
        pending=pending,
        held=held,
        producer="open",
        consumer="open",
        blocked=blocked,
    )


def _bridged(sending: ChannelCounts, receiving: ChannelCounts) -> ChannelCounts:
    """Return the counts of a channel that is on two hosts; the bridge holds what is under way."""
    under_way = max(sending.sent - receiving.freed - receiving.held, receiving.pending)
    return _counts(
        sent=sending.sent,
        freed=receiving.freed,
        pending=under_way,
        held=receiving.held,
        capacity=sending.capacity + receiving.capacity,
        blocked="full" if sending.blocked == "full" else receiving.blocked,
    )


def statistics_of(
    plan: Plan,
    seen: Observed,
    *,
    state: str,
    seconds: float,
    previous: tuple[float, list[int]] | None,
) -> tuple[GraphStatistics, tuple[float, list[int]]]:
    """Return the statistics of a run, and what the next ones need to tell rates."""
    now = time.monotonic()
    edges: list[EdgeStatistics] = []
    waits: dict[str, list[int]] = {name: [0, 0] for name in plan.kernels}
    sents: list[int] = []
    since, before = previous if previous is not None else (now - seconds, [0] * len(plan.edges))
    for number, edge in enumerate(plan.edges):
        sent, pending, held, capacity, hungry, stuck = _total(plan.routes[number], seen.channels)
        if state == "ended":
            hungry = stuck = 0
        waits[edge.target][0] += hungry
        waits[edge.source][1] += stuck
        rate = (sent - before[number]) / (now - since) if now > since else 0.0
        sents.append(sent)
        edges.append(
            EdgeStatistics(
                source=edge.source,
                port=edge.port,
                target=edge.target,
                sent=sent,
                pending=pending,
                held=held,
                capacity=capacity,
                dropped=seen.dropped[number],
                rate=max(rate, 0.0),
                blocked="full" if stuck else "empty" if hungry else None,
            )
        )
    kernels = {
        name: KernelStatistics(
            name=name,
            workers=kernel.workers,
            host=plan.host_of(name, 0),
            pids=tuple(seen.pids.get(name, ())),
            restarts=seen.restarts.get(name, 0),
            skipped=seen.skipped.get(name, 0),
            waits=(
                min(waits[name][0] / kernel.workers, 1.0),
                min(waits[name][1] / kernel.workers, 1.0),
            ),
        )
        for name, kernel in plan.kernels.items()
    }
    found = GraphStatistics(
        seconds=seconds,
        state=state,
        kernels=kernels,
        edges=tuple(edges),
        bottleneck=_bottleneck(plan, edges),
    )
    return found, (now, sents)


def _total(
    routes: list[tuple[int, int, str]], channels: Mapping[str, ChannelCounts]
) -> tuple[int, int, int, int, int, int]:
    """Return what all channels of an edge have sent, pending and held, and their capacity.

    The last two are how many readers wait for items, and how many senders for room.
    """
    if len(routes) == 1:
        one = channels.get(routes[0][2], _NOTHING)
        hungry, stuck = one.blocked == "empty", one.blocked == "full"
        return one.sent, one.pending, one.held, one.capacity, hungry, stuck
    sent = pending = held = capacity = 0
    waiting: set[int] = set()  # readers
    full: set[int] = set()  # senders
    fed: set[int] = set()
    for u, v, channel in routes:
        counts = channels.get(channel, _NOTHING)
        sent += counts.sent
        pending += counts.pending
        held += counts.held
        capacity += counts.capacity
        if counts.blocked == "empty":
            waiting.add(v)
            continue
        if counts.blocked == "full":
            full.add(u)
        if counts.pending or counts.held:
            fed.add(v)
    return sent, pending, held, capacity, len(waiting - fed), len(full)


_NOTHING = _counts(capacity=0, sent=0, freed=0)  # of a channel that this host has none of


def _bottleneck(plan: Plan, edges: list[EdgeStatistics]) -> str | None:
    """Return the kernel whose inputs are full while its outputs are not; the fullest of several."""
    into: dict[str, float] = {}  # by kernel: how full the fullest edge is
    out: dict[str, float] = {}
    for edge in edges:
        if edge.capacity:
            full = (edge.pending + edge.held) / edge.capacity
            into[edge.target] = max(full, into.get(edge.target, 0.0))
            out[edge.source] = max(full, out.get(edge.source, 0.0))
    found, most = None, _FULL
    for name, kernel in plan.kernels.items():
        full = into.get(name, 0.0)
        if not kernel.is_caller and full >= most and out.get(name, 0.0) < _FULL:
            found, most = name, full
    return found

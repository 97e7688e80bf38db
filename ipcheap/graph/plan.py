"""A graph as data: its kernels, its edges, and what each worker keeps in shared memory.

How turns are dealt and what a mark is: docs/design/graph.md.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ipcheap import Record  # noqa: TC001

from .errors import GraphError
from .ledger import HEAD

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CALLING = ""  # the host of the calling program
MOST_WORKERS = 4096
MOST_MERGED = 255
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_BYTES = 48

Ref = tuple[str, str]  # a kernel and one of its outputs, "" for the only one


@dataclass(frozen=True)
class Kernel:
    """What `Graph.add`, `input` and `output` were given, and what follows from it.

    `form` is "source", "function", "generator", "object" or "flow"; "input" and "output" are the
    calling program. Each of `inputs` lists the outputs that it merges, mostly one.
    """

    name: str
    call: Any
    form: str
    inputs: tuple[tuple[Ref, ...], ...] = ()
    merged: tuple[bool, ...] = ()
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    processes: int = 1
    threads: int = 1
    together: str | None = None
    cpus: tuple[frozenset[int], ...] = ()
    on: tuple[str, ...] = ()
    resources: Mapping[str, float] = field(default_factory=dict[str, float])
    ordered: bool = True
    key: Callable[[Any], Any] | None = None
    batch: int = 0
    slots: int = 16
    full: str = "wait"
    window: int = 0
    hop: int = 0
    inplace: bool = False
    outputs: tuple[str, ...] = ()
    restart: bool | None = None
    checkpoint: int = 0  # inputs between snapshots; 0: the kernel has no snapshots
    resumes: bool = False  # a source with a parameter `resume`
    on_error: str = "stop"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])  # as they were given

    @property
    def workers(self) -> int:
        """How many threads run it, in all processes."""
        return self.processes * self.threads

    @property
    def is_caller(self) -> bool:
        """Whether the calling program is its worker."""
        return self.form in ("input", "output")

    @property
    def restartable(self) -> bool:
        """Whether its worker is started again after a kill."""
        if self.restart is not None:
            return self.restart
        if self.form == "source":
            return self.resumes
        if self.form == "object":
            return self.checkpoint > 0
        return self.form in ("function", "generator") and not self.inplace


@dataclass(frozen=True)
class Edge:
    """What leads from one output to one input: a channel for each pair of workers.

    `deal` says which worker gets a turn: "order" in rotation, "free" the one that has room, "key"
    by the key. `turns` says what a turn is on it: "item", one record; "one", one record or a mark,
    if there is none; "many", any number of records and a mark. In rotation `block` turns in a row
    go to the same worker.
    """

    number: int
    source: str
    port: str
    target: str
    input: int
    senders: int
    receivers: int
    slots: int
    full: str = "wait"
    deal: str = "order"
    turns: str = "item"
    block: int = 1
    window: int = 0
    hop: int = 0
    is_fed: bool = False  # by the calling program

    @property
    def is_latest(self) -> bool:
        """Whether its readers see only the newest item."""
        return self.full == "latest"

    @property
    def is_of_records(self) -> bool:
        """Whether its channels are record channels."""
        return not (self.is_latest or self.window)

    def channel(self, sender: int, receiver: int) -> str:
        """Return the ID of the channel between two workers.

        All edges and workers that read the newest item of an output have one per sender.
        """
        if self.is_latest:
            return f"{self.label}>latest:{_short(sender)}"
        pair = f"{_short(self.number)}:{_short(sender)}.{_short(receiver)}"
        return f"{self.source}>{self.target}.{pair}"

    def receivers_of(self, sender: int) -> list[int]:
        """Return the workers that a worker sends to."""
        if self.deal != "order" or self.senders == 1:
            return list(range(self.receivers))
        apart = math.gcd(self.senders, self.receivers)
        return [v for v in range(self.receivers) if v % apart == sender % apart]

    def senders_of(self, receiver: int) -> list[int]:
        """Return the workers that a worker receives from."""
        return [u for u in range(self.senders) if receiver in self.receivers_of(u)]

    def receiver_of(self, sender: int, turn: int) -> int:
        """Return which worker gets the `turn`-th turn of a worker, in rotation."""
        return (sender + turn * self.senders) // self.block % self.receivers

    def sender_of(self, receiver: int, turn: int) -> int:
        """Return which worker makes the `turn`-th turn that a worker gets, in rotation."""
        block, within = divmod(turn, self.block)
        return ((block * self.receivers + receiver) * self.block + within) % self.senders

    @property
    def label(self) -> str:
        """The origin of its items, as `here().source` names it."""
        return f"{self.source}.{self.port}" if self.port else self.source


def _short(number: int) -> str:
    """Return a number in base 36: IDs have few bytes."""
    digits = ""
    while number >= 36:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return _DIGITS[number] + digits


@dataclass(frozen=True)
class Process:
    """A process of a run: workers, each a thread, as (kernel, worker)."""

    leader: str
    number: int
    host: str
    workers: tuple[tuple[str, int], ...]


class Plan:
    """The kernels and edges of a graph that is about to run, frozen."""

    def __init__(self, name: str | None, capacity: Any, kernels: Mapping[str, Kernel]) -> None:
        self.name = name
        self.capacity = capacity
        self.kernels: dict[str, Kernel] = {}
        self.edges: list[Edge] = []
        self._hosts: dict[tuple[str, int], str] = {}
        self.into: dict[str, list[list[Edge]]] = {}  # by kernel: of each input, its edges
        self.out_of: dict[str, list[Edge]] = {}
        for kernel in kernels.values():
            self._add(kernel)
        self.processes: list[Process] = self._processes()
        self.areas: dict[tuple[str, int], tuple[int, int]] = self._areas()

    def placed(self, host: Callable[[str], str]) -> Plan:
        """Return the plan with other names of hosts."""
        kernels = {
            name: replace(kernel, on=tuple(map(host, kernel.on)))
            for name, kernel in self.kernels.items()
        }
        return Plan(self.name, self.capacity, kernels)

    # Edges ------------------------------------------------------------------------------------

    def _add(self, kernel: Kernel) -> None:
        inputs = list(kernel.inputs)
        merged = [one and len(refs) > 1 for refs, one in zip(inputs, kernel.merged, strict=True)]
        for n, refs in enumerate(inputs):
            if self._needs_counter(kernel, refs, merged[n]):
                counter = self._counter(kernel, n)
                self._add(counter)
                inputs[n], merged[n] = ((counter.name, ""),), False
        kernel = replace(kernel, inputs=tuple(inputs), merged=tuple(merged))
        self.kernels[kernel.name] = kernel
        self.out_of[kernel.name] = []
        self.into[kernel.name] = [
            [self._edge(kernel, n, ref, several=merged[n]) for ref in refs]
            for n, refs in enumerate(inputs)
        ]

    def _needs_counter(self, kernel: Kernel, refs: tuple[Ref, ...], merged: bool) -> bool:
        """Whether one worker is to count the items of an input, in front of a kernel.

        Otherwise the pairs or batches of several workers would not be those of one. Batches never
        meet marks: a batch holds its items, and any number of marks between them would not fit
        into a ring.
        """
        source = self.kernels[refs[0][0]]
        if len(refs) == 1 and source.workers == 1:
            return False
        if len(kernel.inputs) > 1:
            return kernel.workers > 1
        if not kernel.batch or not kernel.ordered or kernel.key or merged:
            return False
        return kernel.workers > 1 or not (kernel.full == "drop" or self._is_scattered(source))

    def _counter(self, kernel: Kernel, n: int) -> Kernel:
        name = f"{kernel.name[:14]}-in{n}"
        if name in self.kernels:
            raise GraphError(f"the name {name!r} is needed for what counts items: choose another")
        refs, merged = kernel.inputs[n], kernel.merged[n]
        return Kernel(
            name, passed_on, "function", (refs,), (merged,), on=kernel.on[:1], slots=kernel.slots
        )

    def _edge(self, target: Kernel, n: int, ref: Ref, *, several: bool) -> Edge:
        source = self.kernels[ref[0]]
        senders, receivers = source.workers, target.workers
        if target.key is not None:
            deal = "key"
        elif (
            several
            or (senders > 1 and self._is_scattered(source))
            or (not target.ordered and senders * receivers > 1 and len(target.inputs) == 1)
            or (target.full == "latest" and senders * receivers > 1)
        ):
            deal = "free"
        elif target.full == "drop" and senders > 1:
            deal = "free"  # a reader in rotation would wait for a turn that was dropped
        else:
            deal = "order"
        turns = "item"
        if senders > 1 and deal == "order":
            turns = "one" if self.is_even(source.name) else "many"
        edge = Edge(
            number=len(self.edges),
            source=source.name,
            port=ref[1],
            target=target.name,
            input=n,
            senders=senders,
            receivers=receivers,
            slots=_items_of(target) if target.window else target.slots,
            full=target.full,
            deal=deal,
            turns=turns,
            block=target.batch if deal == "order" and target.batch and receivers > 1 else 1,
            window=target.window,
            hop=target.hop,
            is_fed=source.form == "input",
        )
        if len(edge.channel(senders - 1, receivers - 1)) > _ID_BYTES:
            raise GraphError(f"the edge {edge.label} > {target.name} has too many channels")
        if not edge.is_of_records:
            self._insist_on_one_host(edge)
        self.edges.append(edge)
        self.out_of[source.name].append(edge)
        return edge

    @functools.cached_property
    def routes(self) -> list[list[tuple[int, int, str]]]:
        """By edge: sender, receiver and channel of all its channels.

        A store or a stream counts as one, that of its first sender.
        """
        return [
            [(u, v, edge.channel(u, v)) for u in range(edge.senders) for v in edge.receivers_of(u)]
            if edge.is_of_records
            else [(0, 0, edge.channel(0, 0))]
            for edge in self.edges
        ]

    def _insist_on_one_host(self, edge: Edge) -> None:
        hosts = {self.host_of(edge.source, u) for u in range(edge.senders)}
        hosts |= {self.host_of(edge.target, v) for v in range(edge.receivers)}
        if len(hosts) > 1:
            what = "window" if edge.window else "full='latest'"
            raise GraphError(
                f"the edge {edge.label} > {edge.target} has {what} and leads to another host: such "
                "edges stay on one. Put a kernel in front of it, on its host, that returns what it "
                "is given"
            )

    def _is_scattered(self, kernel: Kernel) -> bool:
        """Whether the turns of its workers have no common order."""
        if kernel.form in ("source", "flow"):
            return kernel.workers > 1
        return kernel.workers > 1 and any(
            edge.deal != "order" for edges in self.into[kernel.name] for edge in edges
        )

    def is_even(self, name: str) -> bool:
        """Whether the counts of the rings alone tell how far a worker is.

        That is so if each input gives one output at most, and each record of its inputs is one.
        """
        kernel = self.kernels[name]
        if kernel.form != "function" or kernel.batch or kernel.outputs:
            return False
        around = [edge for edges in [*self.into[name], self.out_of[name]] for edge in edges]
        if any(edge.window or (edge.is_latest and edge.target == name) for edge in around):
            return False
        kinds = [edge.turns for edges in self.into[name] for edge in edges]
        return "many" not in kinds and (len(self.into[name]) == 1 or "one" not in kinds)

    def channels_into(self, name: str, worker: int) -> list[list[tuple[Edge, int]]]:
        """Return for each input of a worker its channels, as (edge, sender)."""
        return [
            [(edge, u) for edge in edges for u in edge.senders_of(worker)]
            for edges in self.into[name]
        ]

    # Processes --------------------------------------------------------------------------------

    def _processes(self) -> list[Process]:
        groups: dict[str, list[Kernel]] = {}
        for kernel in self.kernels.values():
            if not kernel.is_caller:
                leader = kernel.name
                while (above := self.kernels[leader].together) is not None:
                    leader = above
                groups.setdefault(leader, []).append(kernel)
        found: list[Process] = []
        for leader, kernels in groups.items():
            for p in range(self.kernels[leader].processes):
                workers = tuple(
                    (kernel.name, p * kernel.threads + t)
                    for kernel in kernels
                    for t in range(kernel.threads)
                )
                found.append(Process(leader, p, self._host(self.kernels[leader], p), workers))
        if sum(len(process.workers) for process in found) > MOST_WORKERS - 64:
            raise GraphError(f"a heap has {MOST_WORKERS} participants, and the graph needs more")
        return found

    def _host(self, kernel: Kernel, process: int) -> str:
        if kernel.on:
            return kernel.on[process % len(kernel.on)]
        if not kernel.inputs:
            return CALLING
        first = self.kernels[kernel.inputs[0][0][0]]
        return CALLING if first.is_caller else self._host(first, 0)

    def host_of(self, name: str, worker: int) -> str:
        """Return the host of a worker."""
        if (name, worker) not in self._hosts:
            self._hosts[name, worker] = self._find_host(name, worker)
        return self._hosts[name, worker]

    def _find_host(self, name: str, worker: int) -> str:
        kernel = self.kernels[name]
        if kernel.is_caller:
            return CALLING
        leader, process = kernel, worker // kernel.threads
        while leader.together is not None:
            leader = self.kernels[leader.together]
        return self._host(leader, process)

    @property
    def hosts(self) -> list[str]:
        """The hosts that run anything, the calling one first."""
        return list(dict.fromkeys([CALLING, *(process.host for process in self.processes)]))

    # Shared memory ----------------------------------------------------------------------------

    def _areas(self) -> dict[tuple[str, int], tuple[int, int]]:
        """Return where in the notes each worker's words begin, and how many there are."""
        areas: dict[tuple[str, int], tuple[int, int]] = {}
        at = 0
        fed = tuple((kernel.name, 0) for kernel in self.kernels.values() if kernel.form == "input")
        for workers in (fed, *(process.workers for process in self.processes)):
            for name, worker in workers:
                length = self.shape(name, worker).words
                areas[name, worker] = at, length
                at += length
        return areas

    def shape(self, name: str, worker: int) -> Shape:
        """Return what a worker keeps in the notes."""
        kernel = self.kernels[name]
        channels = self.channels_into(name, worker)
        held = max(kernel.checkpoint, 1) + kernel.batch
        return Shape(
            edges=len(self.out_of[name]),
            channels=tuple(len(of) for of in channels),
            # Which channel was read when, where a next worker could not know it.
            logs=tuple(
                1 << held.bit_length()
                if len(of) > 1 and of[0][0].deal != "order" and not of[0][0].is_latest
                else 0
                for of in channels
            ),
        )

    @property
    def notes_words(self) -> int:
        """How many words the notes have."""
        return sum(length for _, length in self.areas.values())


@dataclass(frozen=True)
class Shape:
    """How the words of a worker are laid out; see ledger.py."""

    edges: int
    channels: tuple[int, ...]
    logs: tuple[int, ...]

    @property
    def note(self) -> int:
        """The words of a note."""
        return HEAD + sum(self.channels) + len(self.channels) + self.edges

    @property
    def words(self) -> int:
        """All words."""
        return 3 + 3 * self.edges + sum(1 + log for log in self.logs) + 2 * self.note


def _items_of(kernel: Kernel) -> int:
    """Return for how many items the stream into a kernel has room at least.

    A call waits for at most half of them: for a window, and those before it that are not done yet.
    """
    held = max(kernel.checkpoint - 1, 0) * kernel.hop + kernel.window
    return max(kernel.slots, 4 * kernel.window, 2 * held)


def passed_on(item: Record) -> Record:
    """Return what it is given: the kernel that counts items in front of another one."""
    return item

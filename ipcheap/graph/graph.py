"""Graphs: wiring kernels, and starting what was wired."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from . import kernels as forms
from . import options as checked
from .errors import GraphError
from .names import name_for
from .plan import MOST_MERGED, MOST_WORKERS, Kernel, Plan, Ref

if TYPE_CHECKING:
    from .runner import Run
    from .statistics import GraphStatistics


class Port:
    """One output of a kernel, for kernels that are added later to read."""

    def __init__(self, graph: Graph, kernel: str, port: str = "") -> None:
        self._graph = graph
        self._kernel = kernel
        self._port = port

    @property
    def kernel(self) -> str:
        """The name of the kernel."""
        return self._kernel

    @property
    def port(self) -> str:
        """The name of the output; empty for the only one."""
        return self._port

    def __repr__(self) -> str:
        port = f"[{self._port!r}]" if self._port else ""
        return f"<{type(self).__name__} {self._kernel!r}{port}>"


class Node(Port):
    """A kernel of a graph, and its output if there is only one; `node["left"]` is one of several.

    `name` is what errors, statistics and pictures call it.
    """

    @property
    def name(self) -> str:
        """The name of the kernel."""
        return self._kernel

    def __getitem__(self, port: str) -> Port:
        outputs = self._graph._kernels[self._kernel].outputs
        if port not in outputs:
            has = f"its outputs are {', '.join(outputs)}" if outputs else "it has one, without name"
            raise GraphError(f"kernel {self._kernel!r} has no output {port!r}: {has}")
        return Port(self._graph, self._kernel, port)

    def __iter__(self) -> Iterator[Port]:
        return iter([self[port] for port in self._graph._kernels[self._kernel].outputs])


class Graph:
    """A dataflow graph: kernels, which are Python functions and classes, and what they read.

    `name` gives its heap a name, by which other programs and all tools can attach to it; without
    one the heap is reached by the graph's processes only. `capacity` is the most memory that the
    items take on one machine, in bytes or as a string like "64MiB".

        graph = Graph()
        pictures = graph.add(camera, count=100)
        means = graph.add(brightness, pictures, processes=2)
        for mean in graph.results(means):
            print(mean)
    """

    def __init__(self, name: str | None = None, *, capacity: int | str = "1GiB") -> None:
        self.name: str | None = name
        self.capacity: int | str = capacity
        self._kernels: dict[str, Kernel] = {}

    # Wiring -----------------------------------------------------------------------------------

    def add(
        self,
        kernel: Callable[..., Any] | Any,
        *inputs: Port | Sequence[Port],
        name: str | None = None,
        processes: int = 1,
        threads: int = 1,
        together: Node | None = None,
        cpus: set[int] | Sequence[set[int]] | None = None,
        on: str | Sequence[str] | None = None,
        resources: Mapping[str, float] | None = None,
        ordered: bool = True,
        key: Callable[[Any], Any] | None = None,
        batch: int = 0,
        slots: int | None = None,
        full: str = "wait",
        window: int | None = None,
        hop: int | None = None,
        inplace: bool = False,
        outputs: Sequence[str] | None = None,
        restart: bool | None = None,
        checkpoint: int | None = None,
        on_error: str = "stop",
        params: Mapping[str, Any] | None = None,
        **parameters: Any,
    ) -> Node:
        """Add a kernel that reads `inputs`, and return its node.

        A kernel is a callable without inputs that returns an iterable (a source), a function, a
        generator function, a class or object with `process`, or a function with a parameter
        annotated `Flow`. An input is a node or a port; a list of them is one input that takes items
        as they arrive. `params` and all other keywords are passed to the kernel by keyword.

        Where it runs: in `processes` of `threads` each; `together=node` runs the threads in the
        processes of another kernel, `cpus` pins processes (a set, or a list dealt to them), `on`
        names the host or hosts, `resources` is what they must have.

        How items reach it: `ordered=False` gives them to the worker that has room, `key(item)`
        sends equal keys to the same worker, `batch=n` collects lists of n items, at most `slots`
        (16 unless given) are in each channel. `full="drop"` leaves out an item that finds no room,
        `full="latest"` keeps the newest only, and `window=` with `hop=` cuts exact windows from
        arrays. With `inplace=True` the kernel may change what it receives.

        When something fails: `restart` says whether a killed worker is started again (by default
        where nothing is lost or done twice), `checkpoint` how many inputs lie between the snapshots
        of an object, and `on_error="skip"` leaves out the items that raise.

        GraphError for what cannot be wired, such as a parameter that the kernel does not have.
        """
        given = {
            "processes": (processes, 1),
            "threads": (threads, 1),
            "together": (together.name if isinstance(together, Node) else together, None),
            "cpus": (cpus, None),
            "on": (on, None),
            "resources": (resources, None),
            "ordered": (ordered, True),
            "key": (key, None),
            "batch": (batch, 0),
            "slots": (slots, None),
            "full": (full, "wait"),
            "window": (window, None),
            "hop": (hop, None),
            "inplace": (inplace, False),
            "outputs": (outputs, None),
            "restart": (restart, None),
            "checkpoint": (checkpoint, None),
            "on_error": (on_error, "stop"),
        }
        options = {option: value for option, (value, default) in given.items() if value != default}
        chosen = dict(params or {})
        if twice := chosen.keys() & parameters.keys():
            raise GraphError(
                f"kernel {name or forms.name_of(kernel)!r}: {', '.join(sorted(twice))} is given "
                "twice, in params and by keyword: leave out one"
            )
        chosen |= parameters
        refs = tuple(self._input(entry) for entry in inputs)
        merged = tuple(not isinstance(entry, Port) for entry in inputs)
        form = forms.form_of(kernel, len(refs), chosen)
        snapshots = form == "object" and forms.has_snapshots(kernel)
        name = name_for(name, forms.name_of(kernel), self._kernels)
        what = f"kernel {name!r}"
        checked.check_counts(what, processes=processes, threads=threads)
        checked.check_switches(what, ordered=ordered, inplace=inplace)
        if restart is not None:
            checked.check_switches(what, restart=restart)
        checked.check_places(what, on, resources)
        if together is not None:
            leader = self._together(what, together)
            if "processes" in options and processes != leader.processes:
                raise GraphError(f"{what} runs together with {leader.name!r}: leave out processes")
            if on is not None or cpus is not None:
                raise GraphError(f"{what} runs where {leader.name!r} runs: leave out on and cpus")
            processes = leader.processes
        if processes * threads > MOST_WORKERS:
            raise GraphError(
                f"{what} has {processes * threads} workers, and {MOST_WORKERS} are possible: give "
                "fewer processes or threads"
            )
        if full not in ("wait", "drop", "latest"):
            raise GraphError(f"{what}: full is 'wait', 'drop' or 'latest', not {full!r}")
        if on_error not in ("stop", "skip"):
            raise GraphError(f"{what}: on_error is 'stop' or 'skip', not {on_error!r}")
        if key is not None and (len(refs) != 1 or not callable(key)):
            raise GraphError(f"{what}: key is a function of the item of a kernel with one input")
        if batch and len(refs) != 1:
            raise GraphError(f"{what}: batch is for kernels with one input, not {len(refs)}")
        if checkpoint is not None and not snapshots:
            raise GraphError(
                f"{what}: checkpoint is for objects with snapshot() and restore(): leave it out"
            )
        checked.check_windows(what, refs, window, hop, full)
        if full == "latest" and checkpoint is None:
            checkpoint = 1
        slots, checkpoint = checked.slots_of(what, slots, batch, checkpoint if snapshots else 0)
        made = Kernel(
            name=name,
            call=kernel,
            form=form,
            inputs=refs,
            merged=merged,
            params=chosen,
            processes=processes,
            threads=threads,
            together=together.name if isinstance(together, Node) else None,
            cpus=checked.cpus_of(what, cpus),
            on=(on,) if isinstance(on, str) else tuple(on or ()),
            resources=dict(resources or {}),
            ordered=ordered,
            key=key,
            batch=batch,
            slots=slots,
            full=full,
            window=window or 0,
            hop=hop or window or 0,
            inplace=inplace,
            outputs=checked.outputs_of(what, outputs),
            restart=restart,
            checkpoint=checkpoint,
            resumes=form == "source" and forms.has_parameter(kernel, "resume"),
            on_error=on_error,
            options=options,
        )
        if window is not None or full == "latest":
            checked.check_edge(made, self._kernels[refs[0][0][0]])
        self._kernels[name] = made
        return Node(self, name)

    def input(self, name: str = "input", *, slots: int = 16) -> Node:
        """Return a node whose items the calling program sends, by `run.send` or `run.feed`."""
        checked.check_counts("an input", slots=slots)
        name = name_for(name, name, self._kernels)
        self._kernels[name] = Kernel(name, None, "input", slots=slots)
        return Node(self, name)

    def output(self, port: Port, *, slots: int = 16) -> Port:
        """Have the calling program receive a port, by `run.results`; return the port."""
        checked.check_counts("an output", slots=slots)
        ref = self._ref(port)
        name = name_for(None, "results", self._kernels)
        self._kernels[name] = Kernel(name, None, "output", ((ref,),), (False,), slots=slots)
        return port

    # Looking ----------------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Node:
        """Return the node of that name, as in a graph that was loaded."""
        kernel = self._kernels.get(name)
        if kernel is None or kernel.form == "output":
            names = [one.name for one in self._kernels.values() if one.form != "output"]
            raise GraphError(
                f"the graph has no kernel {name!r}: it has {', '.join(names) or 'none'}"
            )
        return Node(self, name)

    def check(self) -> list[str]:
        """Return a sentence for each reason why the graph cannot run; starts nothing.

        Whether items fit into `capacity` is not among them: their sizes are not known before.
        """
        from .checking import problems_of

        return problems_of(self)

    def picture(self, kind: str = "mermaid") -> str:
        """Return a picture of the graph as text: "mermaid", "dot" or "svg"."""
        from .drawing import drawn

        return drawn(self._plan(), kind, None)

    def _repr_svg_(self) -> str:
        return self.picture("svg")

    def __repr__(self) -> str:
        named = f" {self.name!r}" if self.name else ""
        return f"<Graph{named} of {', '.join(self._kernels) or 'nothing'}>"

    # As data ----------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Return the graph as plain data, which JSON and TOML can hold.

        Inputs and outputs of the calling program are not part of it. GraphError for a kernel that
        has no name by which it could be imported.
        """
        from .data import to_dict

        return to_dict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Graph:
        """Return the graph that `to_dict` described; GraphError if it cannot be wired."""
        from .data import from_dict

        return from_dict(data)

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Return the graph in a .toml or .json file of the form that `to_dict` returns."""
        from .data import load

        return load(Path(path))

    # Running ----------------------------------------------------------------------------------

    def start(
        self,
        *,
        runner: str = "processes",
        duration: float | None = None,
        grace: float = 5.0,
        init: Callable[[], object] | None = None,
        address: str | None = None,
    ) -> Run:
        """Start the graph and return its run.

        `runner` is "processes", "threads" (all in this process, for debuggers and quick tests) or
        "ray" (also on the hosts that `on` names; `address` is that of the cluster). After
        `duration` seconds the run is stopped. What does not end within `grace` seconds after an
        abort is killed. `init` is called in each process first. GraphError if `check()` finds
        anything.
        """
        from .runner import start

        return start(
            self, runner=runner, duration=duration, grace=grace, init=init, address=address
        )

    def run(self, *, timeout: float | None = None, **how: Any) -> GraphStatistics:
        """Start the graph, wait until it has ended, and return its statistics.

        What its outputs give is discarded. Raises what went wrong. TimeoutError after `timeout`
        seconds; the graph is aborted then. The other arguments are those of `start`. GraphError if
        the graph has inputs, which nobody would feed.
        """
        with self._unattended().start(**how) as run:
            return run.wait(timeout)

    def results(self, port: Port, **how: Any) -> Generator[Any]:
        """Start the graph, yield what a port gives, and raise what went wrong, if anything did.

        The graph starts when the first item is requested. Each item is acknowledged when the next
        one is requested. Leaving the loop early aborts the graph. The arguments are those of
        `start`.
        """
        graph = self._reading(port)
        return results_of(lambda: graph.start(**how), lambda run: run.results(port))

    def collect(self, port: Port, **how: Any) -> list[Any]:
        """Start the graph and return the list of what a port gives; arrays are copies."""
        from .items import copied

        graph = self._reading(port)
        with contextlib.closing(
            results_of(lambda: graph.start(**how), lambda run: run.results(port))
        ) as results:
            return [copied(item) for item in results]

    def _reading(self, port: Port) -> Graph:
        """Return the graph, or a copy that has an output for a port that has none."""
        ref = self._ref(port)
        if any(k.form == "output" and k.inputs[0][0] == ref for k in self._kernels.values()):
            return self
        other = Graph(self.name, capacity=self.capacity)
        other._kernels = dict(self._kernels)
        other.output(Port(other, *ref))
        return other

    # Inside -----------------------------------------------------------------------------------

    def _unattended(self) -> Graph:
        """Return the graph, or a copy without outputs; GraphError if it has inputs."""
        found = {kernel.form: kernel.name for kernel in self._kernels.values()}
        if "input" in found:
            raise GraphError(
                f"nobody would send to the input {found['input']!r}: start() the graph, and use "
                "run.send() or run.feed()"
            )
        if "output" not in found:
            return self
        other = Graph(self.name, capacity=self.capacity)
        other._kernels = {n: k for n, k in self._kernels.items() if k.form != "output"}
        return other

    def _plan(self) -> Plan:
        return Plan(self.name, self.capacity, self._kernels)

    def __getstate__(self) -> dict[str, Any]:
        from .place import packed

        kernels = packed(self._kernels)
        return {"name": self.name, "capacity": self.capacity, "kernels": kernels}

    def __setstate__(self, state: dict[str, Any]) -> None:
        from .place import unpacked

        self.name = state["name"]
        self.capacity = state["capacity"]
        self._kernels = unpacked(state["kernels"])

    def _input(self, entry: object) -> tuple[Ref, ...]:
        if isinstance(entry, Port):
            return (self._ref(entry),)
        if not isinstance(entry, Sequence) or isinstance(entry, str) or not entry:
            raise GraphError(f"an input is a node, a port or a list of them, not {entry!r}")
        ports = cast("Sequence[object]", entry)
        if len(ports) > MOST_MERGED:
            raise GraphError(f"an input merges at most {MOST_MERGED} ports, not {len(ports)}")
        return tuple(self._ref(port) for port in ports)

    def _ref(self, port: object) -> Ref:
        if not isinstance(port, Port):
            raise GraphError(f"an input is a node, a port or a list of them, not {port!r}")
        kernel = self._kernels.get(port._kernel)
        if port._graph is not self or kernel is None:
            raise GraphError(
                f"{port!r} belongs to another graph: an input is a node or a port of this one"
            )
        if kernel.form == "output":
            raise GraphError(f"{port!r} is what the calling program receives: no kernel reads that")
        if kernel.outputs and not port._port:
            names = " or ".join(f"[{output!r}]" for output in kernel.outputs)
            raise GraphError(f"kernel {kernel.name!r} has several outputs: choose {names}")
        return port._kernel, port._port

    def _together(self, what: str, node: object) -> Kernel:
        if not isinstance(node, Node) or node._graph is not self:
            raise GraphError(f"{what}: together names a node of this graph, not {node!r}")
        kernel = self._kernels[node.name]
        if kernel.is_caller:
            raise GraphError(f"{what}: {node.name!r} is the calling program, not a process")
        return kernel


def results_of(start: Callable[[], Run], results: Callable[[Run], Iterator[Any]]) -> Generator[Any]:
    """Start a run, yield its results, and end it."""
    run = start()
    finished = False
    try:
        yield from results(run)
        finished = True
    finally:
        if not finished:
            run.abort()
        run._leave(finished)

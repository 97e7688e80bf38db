"""Runs: graphs at work, and what the calling program does with them."""

from __future__ import annotations

import contextlib
import multiprocessing.util
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from ipcheap import ChannelNotFound, EndpointClosed, Heap, HeapClosed, HeapExists, HeapNotFound

from .board import ABORT, DRAIN, GO, Board
from .caller import Caller
from .channels import static_segment
from .data import text_of
from .errors import GraphError, GraphStopped
from .plan import CALLING
from .snapshots import STATE_SLOTS, state_channel
from .statistics import Gauges, statistics_of
from .watch import Processes, Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .graph import Graph, Node, Port
    from .plan import Plan
    from .statistics import GraphStatistics, Observed

_NAMES = {GO: "running", DRAIN: "draining", ABORT: "draining"}


class Run:
    """A graph that runs; `Graph.start` returns it.

    It is a context manager: leaving the block closes the inputs and waits, or aborts the graph if
    the block raised. `heap` is the heap that the items are in.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        threads: bool = False,
        duration: float | None = None,
        grace: float = 5.0,
        init: Callable[[], object] | None = None,
        host: str = CALLING,
    ) -> None:
        self._plan = plan
        self._host = host
        self._grace = grace
        self._error: BaseException | None = None
        self._final: GraphStatistics | None = None
        self._previous: Any = None
        self._started = time.monotonic()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self.heap: Heap = _heap_of(plan, host)
        try:
            self._board = Board(static_segment(self.heap, "board"), plan)
            self._notes = static_segment(self.heap, "notes").view
            self._gauges = Gauges(plan, self.heap, self._notes)
            self._caller = Caller(plan, self.heap, self._board, self._notes)
            self._watch = (Threads if threads else Processes)(
                plan,
                self.heap,
                self._board,
                self._notes,
                host,
                duration=duration,
                grace=grace,
                init=init,
                begun=self._begun,
                stop=self.stop,
                fail=self._fail,
            )
        except BaseException:
            self.heap.unlink()
            self.heap.close()
            raise
        self._begin()

    def _begin(self) -> None:
        # Before multiprocessing waits for its children.
        self._exit = multiprocessing.util.Finalize(None, self._at_exit, exitpriority=20)
        self._thread = threading.Thread(target=self._work, name="graph", daemon=True)
        self._thread.start()

    # What the calling program does --------------------------------------------------------------

    def send(self, node: Node, value: Any, timeout: float | None = None) -> None:
        """Send an item to an input of the graph, waiting `timeout` seconds for room.

        TimeoutError if there was none; nothing was sent then. GraphStopped if the input is closed,
        or the graph is stopped. One thread may use an input.
        """
        name = self._caller.input(node)
        if value is None:
            raise ValueError("None cannot be sent: it means no item")
        with self._explained():
            self._caller.send(name, value, timeout)

    def close_input(self, node: Node) -> None:
        """End an input: the kernels that read it get what was sent, then the end."""
        self._caller.close_input(self._caller.input(node))

    def feed(self, node: Node, iterable: Iterable[Any]) -> None:
        """Send all items of an iterable from a thread, then close the input.

        An exception of the iterable fails the graph. GraphError if the input is fed already.
        """
        self._caller.feed(node)

        def work() -> None:
            try:
                for item in iterable:
                    self.send(node, item)
                    if self._board.state:
                        break
            except (GraphStopped, HeapClosed):
                pass
            except BaseException as error:
                if error is not self._error:
                    error.add_note(f"In the iterable that feeds {node!r}.")
                    self._fail(error)
            finally:
                with contextlib.suppress(HeapClosed):
                    self.close_input(node)

        threading.Thread(target=work, name=f"graph feed {node.name}", daemon=True).start()

    def results(self, port: Port) -> Iterator[Any]:
        """Yield what a port gives until its end; raise what went wrong, if anything did.

        Each item is acknowledged when the next one is requested. Arrays are writable.
        """
        return self._results(self._caller.output(port))

    def wait(self, timeout: float | None = None) -> GraphStatistics:
        """Wait until the graph has ended; return its statistics, or raise what went wrong.

        TimeoutError after `timeout` seconds, which changes nothing. Ctrl-C stops the graph, and
        aborts it after `grace` seconds or if it is pressed again; KeyboardInterrupt is raised.
        """
        try:
            if not self._done.wait(timeout):
                raise TimeoutError(f"the graph has not ended within {timeout} s")
        except KeyboardInterrupt:
            try:
                self.stop()
                self._done.wait(self._grace)
            finally:
                self.abort()
                self._done.wait()
            raise
        self._raise()
        if not self._caller.unread:
            self._close()
        assert self._final is not None
        return self._final

    def stop(self) -> None:
        """End the sources and inputs; what is under way is still worked on."""
        with contextlib.suppress(HeapClosed, ValueError):
            self._board.state = DRAIN
        self._watch.wake()

    def abort(self) -> None:
        """End the graph immediately; what is under way is dropped, and `wait` raises GraphStopped.

        Does nothing if the graph has ended.
        """
        if not self._done.is_set():
            self._fail(GraphStopped("the graph was aborted"))

    def statistics(self) -> GraphStatistics:
        """Return what has passed every edge so far, and what waits; costs the workers nothing."""
        if self._final is not None:
            return self._final
        seen = self._seen()
        with self._lock:
            found, self._previous = self._look(seen)
        return found

    def picture(self, kind: str = "mermaid") -> str:
        """Return a picture of the graph with rates and depths: "mermaid", "dot" or "svg"."""
        from .drawing import drawn

        return drawn(self._plan, kind, self.statistics())

    def _repr_svg_(self) -> str:
        return self.picture("svg")

    def pids(self, node: Port) -> list[int]:
        """Return the ids of the living processes that run a kernel."""
        return self._watch.pids(node.kernel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._caller.close_inputs()
                self._caller.unread.clear()
                self.wait()
            else:
                self.abort()
                self._done.wait()
        finally:
            self._close()

    def __repr__(self) -> str:
        state = "ended" if self._done.is_set() else _NAMES[self._board.state]
        return f"<Run of {', '.join(self._plan.kernels)}, {state}>"

    # Inside -----------------------------------------------------------------------------------

    def _results(self, name: str) -> Iterator[Any]:
        with self._explained():
            yield from self._caller.results(name)
        if self._error is not None:  # the end may be that of a sender that was aborted
            self._done.wait()
            self._raise()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise what made the graph end instead of the errors of its removed channels."""
        try:
            yield
        except (EndpointClosed, ChannelNotFound, HeapClosed, ValueError) as error:
            if self._error is None and not isinstance(error, HeapClosed):
                raise
            self._done.wait()
            if self._error is not None:  # the error of the channel stays out of its traceback
                raise self._error from self._error.__cause__
            raise GraphStopped("the graph has ended") from None

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _leave(self, finished: bool) -> None:
        """End after the results of one port: wait, and raise what went wrong."""
        try:
            self._caller.unread.clear()
            if finished:
                self.wait()
            else:
                self._done.wait()
        finally:
            self._close()

    def _close(self) -> None:
        if self._done.is_set():
            self.heap.close()

    def _work(self) -> None:
        """Watch over the workers until all have ended."""
        try:
            self._run()
        except BaseException as error:
            self._fail(error)
            self._watch.kill()
        finally:
            self._end()

    def _run(self) -> None:
        self._watch.run()

    def _begun(self) -> None:
        """Act on that all workers of this host have claimed their channels."""

    def _fail(self, error: BaseException) -> None:
        """Have the graph end by an error, the first one; all that wait are woken."""
        with self._lock:
            if self._error is None and not self._done.is_set():
                self._error = error
        with contextlib.suppress(HeapClosed, ValueError):
            self._board.state = ABORT
            channels = [channel for channel, _ in channels_of(self._plan, self._host)]
            channels += stores_of(self._plan, self._host) + streams_of(self._plan, self._host)
            for channel in channels:
                with contextlib.suppress(ChannelNotFound):
                    self.heap.remove_channel(channel, force=True)
        self._watch.wake()

    def _at_exit(self) -> None:
        """End, because the calling program does."""
        self.abort()
        self._watch.kill()
        self._done.wait(self._grace)

    def _end(self) -> None:
        """Say that the graph has ended."""
        with contextlib.suppress(Exception):
            self._final = self._look(self._seen(ended=True), ended=True)[0]
        if self._plan.name is not None:
            with contextlib.suppress(HeapNotFound):
                self.heap.unlink()
        self._exit.cancel()
        self._done.set()

    def _look(self, seen: Observed, ended: bool = False) -> tuple[GraphStatistics, Any]:
        return statistics_of(
            self._plan,
            seen,
            state="ended" if ended else _NAMES[self._board.state],
            seconds=time.monotonic() - self._started,
            previous=self._previous,
        )

    def _seen(self, ended: bool = False) -> Observed:
        """Return what is to be seen of the run."""
        names = [name for name, kernel in self._plan.kernels.items() if not kernel.is_caller]
        return self._gauges.read(
            pids={} if ended else {name: self._watch.pids(name) for name in names},
            restarts={name: self._watch.restarts(name) for name in names},
        )


def channels_of(plan: Plan, host: str) -> Iterator[tuple[str, int]]:
    """Yield the record channels that a host has, and their slots."""
    for edge, routes in zip(plan.edges, plan.routes, strict=True):
        for u, v, channel in routes if edge.is_of_records else ():
            if host in (plan.host_of(edge.source, u), plan.host_of(edge.target, v)):
                yield channel, edge.slots
    for process in plan.processes:
        for name, worker in process.workers if process.host == host else ():
            if plan.kernels[name].checkpoint:
                yield state_channel(name, worker), STATE_SLOTS


def stores_of(plan: Plan, host: str) -> list[str]:
    """Return the stores that a host has: of each output whose newest item is read, and worker."""
    found = {
        edge.channel(u, 0): None
        for edge in plan.edges
        for u in range(edge.senders)
        if edge.is_latest and plan.host_of(edge.source, u) == host
    }
    return list(found)


def streams_of(plan: Plan, host: str) -> list[str]:
    """Return the streams that a host has as soon as their senders have added them."""
    return [
        edge.channel(0, 0)
        for edge in plan.edges
        if edge.window and plan.host_of(edge.source, 0) == host
    ]


def add_channels(plan: Plan, heap: Heap, host: str) -> None:
    """Add all channels that the workers of a host look for from the beginning."""
    for channel, slots in channels_of(plan, host):
        heap.add_record_channel(channel, slots)
    for channel in stores_of(plan, host):
        heap.add_store(channel, depth=1, garbage=0)  # what nobody holds is freed with the next put


def _heap_of(plan: Plan, host: str) -> Heap:
    """Return the heap of a run, with all that its workers look for there."""
    if plan.name is None:
        heap = Heap.create(None, plan.capacity, shm="memfd")
    else:
        try:
            heap = Heap.create(plan.name, plan.capacity)
        except HeapExists:
            raise HeapExists(
                f"heap {plan.name!r} already exists: it is that of a graph of this name that runs, "
                "or of another program. Give this graph another name; `ipcheap ls` shows whether "
                "the heap is in use"
            ) from None
    try:
        heap.add_static_segment("board", Board.nbytes(plan))
        heap.add_static_segment("notes", max(8 * plan.notes_words, 8))
        text = text_of(plan)
        shown = heap.add_static_segment("plan", len(text))
        shown.view[: len(text)] = text
        add_channels(plan, heap, host)
    except BaseException:
        if plan.name is not None:
            heap.unlink()
        heap.close()
        raise
    return heap


def _is_time(seconds: object) -> bool:
    return isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0


def _check_program() -> None:
    """Raise GraphError if the processes of a graph could not import this program."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise GraphError(
            "this process imports the program that started it, and must not start the graph again: "
            'put what starts it below `if __name__ == "__main__":`'
        )
    if getattr(sys.modules.get("__main__"), "__file__", None) == "<stdin>":
        raise GraphError(
            "the program comes from standard input, where other processes cannot import it: save "
            "it as a file, or use runner='threads'"
        )


def start(
    graph: Graph,
    *,
    runner: str,
    duration: float | None,
    grace: float,
    init: Callable[[], object] | None,
    address: str | None,
) -> Run:
    """Start a graph; see `Graph.start`."""
    if runner not in ("processes", "threads", "ray"):
        raise GraphError(f"runner is 'processes', 'threads' or 'ray', not {runner!r}")
    for name, seconds in (("duration", duration), ("grace", grace)):
        if not (_is_time(seconds) or (name == "duration" and seconds is None)):
            raise GraphError(f"{name} is a number of seconds, 0 or more, not {seconds!r}")
    if init is not None and not callable(init):
        raise GraphError(f"init is a function without parameters, not {init!r}")
    if runner == "processes":
        _check_program()
    from .checking import problems_of

    if problems := problems_of(graph, runner=runner):
        raise GraphError("the graph cannot run: " + "; ".join(problems))
    plan = graph._plan()
    if runner == "ray":
        from .cluster import start_cluster

        return start_cluster(plan, duration=duration, grace=grace, init=init, address=address)
    return Run(plan, threads=runner == "threads", duration=duration, grace=grace, init=init)

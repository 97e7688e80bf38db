"""Runs: the processes of a graph, watched and started again, and the calling program's part."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import multiprocessing.util
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection as connections
from typing import TYPE_CHECKING, Any

import ipcheap
from ipcheap import ChannelNotFound, EndpointClosed, Heap, HeapClosed, HeapNotFound

from .board import ABORT, DRAIN, GO, Board
from .errors import GraphError, GraphStopped, KernelDied, PoisonRecord
from .here import Here
from .items import is_mark, item_of
from .ledger import Ledger
from .place import packed
from .plan import CALLING, Plan
from .process import Reports, main, run_workers
from .reader import Ended, Reader
from .snapshots import state_channel
from .statistics import GraphStatistics, statistics_of
from .writer import Writer

if TYPE_CHECKING:
    from .graph import Graph, Node, Port
    from .plan import Kernel

_log = logging.getLogger("ipcheap.graph")

_DEATHS = 3  # of a process over the same record: then that is the cause
_STARTS = 5  # of a process that dies before it has claimed its channels
_LONGEST_PAUSE = 5.0
_STATE_SLOTS = 4
_NAMES = {GO: "running", DRAIN: "draining", ABORT: "draining"}


class _Child:
    """A process of the run, which may have been started several times."""

    def __init__(self, number: int, workers: tuple[tuple[str, int], ...]) -> None:
        self.number = number
        self.workers = workers
        self.process: Any = None
        self.connection: Any = None
        self.begun: set[tuple[str, int]] = set()
        self.restarts = 0
        self.starts = 0  # in a row, that ended before all channels were claimed
        self.deaths = 0  # in a row, without progress
        self.progress: object = None
        self.due = 0.0  # when it is to be started
        self.skip: tuple[tuple[str, int], ...] = ()


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
        self._threads = threads
        self._grace = grace
        self._duration = duration
        self._init = init
        self._load = b"" if threads else packed((plan, init, dict(os.environ)))
        self._error: BaseException | None = None
        self._final: GraphStatistics | None = None
        self._previous: Any = None
        self._started = time.monotonic()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._writers: dict[str, tuple[int, list[Writer]]] = {}
        self._unread = {kernel.name for kernel in plan.kernels.values() if kernel.form == "output"}
        self._children = [
            _Child(number, process.workers)
            for number, process in enumerate(plan.processes)
            if process.host == host
        ]
        self._wake_read, self._wake_write = connections.Pipe(duplex=False)
        self.heap = self._make_heap()
        self._board = Board(self.heap.channel("board"), plan)  # type: ignore[arg-type]
        self._notes = self.heap.channel("notes").view  # type: ignore[attr-defined]
        # Before multiprocessing waits for its children.
        self._exit = multiprocessing.util.Finalize(None, self._at_exit, exitpriority=20)
        self._thread = threading.Thread(target=self._watch, name="graph", daemon=True)
        self._thread.start()

    # What the calling program does --------------------------------------------------------------

    def send(self, node: Node, value: Any, timeout: float | None = None) -> None:
        """Send an item to an input of the graph, waiting `timeout` seconds for room.

        TimeoutError if there was none; nothing was sent then. GraphStopped if the input is closed,
        or the graph is stopped. One thread may use an input.
        """
        name = self._input(node)
        if value is None:
            raise ValueError("None cannot be sent: it means no item")
        with self._explained():
            if self._board.is_closed(name):
                self._close_writers(name)
                raise GraphStopped(f"the input {name!r} is closed")
            writers = self._claimed(name)
            deadline = None if timeout is None else time.monotonic() + timeout
            for writer in writers:
                left = None if deadline is None else max(deadline - time.monotonic(), 0)
                if not writer.has_room(value, left):
                    raise TimeoutError(f"the input {name!r} had no room within {timeout} s")
            for writer in writers:
                writer.put(value, -1)

    def close_input(self, node: Node) -> None:
        """End an input: the kernels that read it get what was sent, then the end."""
        name = self._input(node)
        self._board.close_input(name)
        self._close_writers(name)

    def feed(self, node: Node, iterable: Iterable[Any]) -> None:
        """Send all items of an iterable from a thread, then close the input.

        An exception of the iterable fails the graph.
        """
        self._input(node)

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
        return self._results(self._output(port))

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
        if not self._unread:
            self._close()
        assert self._final is not None
        return self._final

    def stop(self) -> None:
        """End the sources and inputs; what is under way is still worked on."""
        with contextlib.suppress(HeapClosed, ValueError):
            self._board.state = DRAIN
        self._wake()

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
        with self._lock:
            found, self._previous = self._look()
        return found

    def picture(self, kind: str = "mermaid") -> str:
        """Return a picture of the graph with rates and depths: "mermaid", "dot" or "svg"."""
        from .drawing import drawn

        return drawn(self._plan, kind, self.statistics())

    def _repr_svg_(self) -> str:
        return self.picture("svg")

    def pids(self, node: Node) -> list[int]:
        """Return the ids of the living processes that run a kernel."""
        if self._threads:
            return [] if self._done.is_set() else [os.getpid()]
        return [
            child.process.pid
            for child in self._children
            if any(name == node.name for name, _ in child.workers)
            and child.process is not None
            and child.process.exitcode is None
        ]

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                for kernel in self._plan.kernels.values():
                    if kernel.form == "input":
                        self._board.close_input(kernel.name)
                        with contextlib.suppress(ipcheap.WrongThread):
                            self._close_writers(kernel.name)
                self._unread.clear()
                self.wait()
            else:
                self.abort()
                self._done.wait()
        finally:
            self._close()

    def __repr__(self) -> str:
        state = "ended" if self._done.is_set() else _NAMES[self._board.state]
        return f"<Run of {', '.join(self._plan.kernels)}, {state}>"

    # The calling program's endpoints --------------------------------------------------------------

    def _input(self, node: Node) -> str:
        kernel = self._plan.kernels.get(getattr(node, "kernel", ""))
        if kernel is None or kernel.form != "input":
            raise GraphError(f"{node!r} is no input of this graph")
        return kernel.name

    def _output(self, port: Port) -> str:
        ref = getattr(port, "kernel", ""), getattr(port, "port", "")
        for kernel in self._plan.kernels.values():
            if kernel.form == "output" and kernel.inputs[0][0] == ref:
                return kernel.name
        raise GraphError(f"{port!r} is no output of this graph: declare it by output() before")

    def _claimed(self, name: str) -> list[Writer]:
        """Return the writers of an input, which the first thread that sends claims."""
        thread = threading.get_ident()
        owner, writers = self._writers.get(name, (thread, []))
        if owner != thread:
            raise ipcheap.WrongThread(
                f"the input {name!r} belongs to another thread, which uses it"
            )
        if name not in self._writers:
            plan, kernel = self._plan, self._plan.kernels[name]
            at, _ = plan.areas[name, 0]
            ledger = Ledger(self._notes, at, plan.shape(name, 0))
            here = Here(name, 0, 1, self._host, self.heap, self._board)
            writers = [
                Writer(self.heap, edge, number, 0, ledger, here, plan.kernels[edge.target].key)
                for number, edge in enumerate(plan.out_of[kernel.name])
            ]
            self._writers[name] = thread, writers
        return writers

    def _close_writers(self, name: str) -> None:
        owner, writers = self._writers.get(name, (0, []))
        if owner == threading.get_ident():
            with contextlib.suppress(EndpointClosed, HeapClosed):
                for writer in writers:
                    writer.close()

    def _results(self, name: str) -> Iterator[Any]:
        with self._explained():
            channels = self._plan.channels_into(name, 0)[0]
            reader = Reader(self.heap, channels, 0, lambda _: False)
        try:
            while True:
                with self._explained():
                    try:
                        record = reader.next()[1]
                    except Ended:
                        break
                with record:
                    if not reader.has_marks or not is_mark(record):
                        item = item_of(record, None, True)
                        yield item
                        del item
        finally:
            self._unread.discard(name)
            with contextlib.suppress(EndpointClosed, HeapClosed):
                reader.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Raise what made the graph end instead of the errors of its removed channels."""
        try:
            yield
        except (EndpointClosed, ChannelNotFound, HeapClosed, ValueError) as error:
            if self._error is None and not isinstance(error, HeapClosed):
                raise
            self._done.wait()
            self._raise()
            raise GraphStopped("the graph has ended") from None

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _leave(self, finished: bool) -> None:
        """End after the results of one port: wait, and raise what went wrong."""
        try:
            self._unread.clear()
            if finished:
                self.wait()
            else:
                self._done.wait()
        finally:
            self._close()

    def _close(self) -> None:
        if self._done.is_set():
            self.heap.close()

    # The heap ---------------------------------------------------------------------------------

    def _make_heap(self) -> Heap:
        plan = self._plan
        if plan.name is None:
            heap = Heap.create(None, plan.capacity, shm="memfd")
        else:
            heap = Heap.create(plan.name, plan.capacity)
        try:
            heap.add_static_segment("board", Board.nbytes(plan))
            heap.add_static_segment("notes", max(8 * plan.notes_words, 8))
            for channel, slots in self._channels():
                heap.add_record_channel(channel, slots)
        except BaseException:
            if plan.name is not None:
                heap.unlink()
            heap.close()
            raise
        return heap

    def _channels(self) -> Iterator[tuple[str, int]]:
        """Yield the channels that this host has, and their slots."""
        plan = self._plan
        for edge in plan.edges:
            for u in range(edge.senders):
                for v in edge.receivers_of(u):
                    ends = plan.host_of(edge.source, u), plan.host_of(edge.target, v)
                    if self._host in ends:
                        yield edge.channel(u, v), edge.slots
        for child in self._children:
            for name, worker in child.workers:
                if plan.kernels[name].checkpoint:
                    yield state_channel(name, worker), _STATE_SLOTS

    # Watching ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Start the processes and watch them until all have ended."""
        try:
            if self._threads:
                self._run_threads()
            else:
                self._run_processes()
        except BaseException as error:
            self._fail(error)
            self._kill_all()
        finally:
            self._end()

    def _run_threads(self) -> None:
        threads = []
        for child in self._children:
            for worker in child.workers:
                thread = threading.Thread(
                    target=self._run_thread, args=(child, worker), daemon=True
                )
                thread.name = f"graph/{worker[0]}.{worker[1]}"
                threads.append(thread)
                thread.start()
        begun = time.monotonic()
        deadline: float | None = None
        while any(thread.is_alive() for thread in threads):
            self._wake_read.poll(0.05)
            self._clear_wake()
            now = time.monotonic()
            if self._duration is not None and now - begun >= self._duration:
                self.stop()
            if self._board.is_aborted:
                deadline = deadline or now + self._grace
                if now > deadline:
                    return  # a thread that does not end cannot be killed
            for thread in threads:
                if thread.is_alive():
                    thread.join(0.01)
                    break

    def _run_thread(self, child: _Child, worker: tuple[str, int]) -> None:
        reports = _ThreadReports(self, child)
        try:
            if self._init is not None and worker == child.workers[0]:
                self._init()
            run_workers(self._plan, self.heap, (worker,), reports)
        except BaseException as error:
            reports.failed(worker, error)

    def _run_processes(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        with contextlib.suppress(ValueError):
            self._context.set_forkserver_preload(["__main__", "ipcheap.graph.process"])
        for child in self._children:
            self._start(child)
        begun: float | None = None
        deadline: float | None = None
        while living := [child for child in self._children if child.process or child.due]:
            now = time.monotonic()
            if begun is None and all(
                len(child.begun) == len(child.workers) for child in self._children
            ):
                begun = now
            if (
                self._duration is not None
                and begun is not None
                and now - begun >= self._duration
                and self._board.state == GO
            ):
                self.stop()
            if self._board.is_aborted:
                deadline = deadline or now + self._grace
                if now >= deadline:
                    self._kill_all()
                for child in living:
                    child.due = 0.0
            self._look_at(living, self._pause(living, now, begun, deadline))
            for child in living:
                if child.due and child.due <= time.monotonic() and not self._board.is_aborted:
                    child.due = 0.0
                    self._start(child, again=True)

    def _pause(
        self, living: list[_Child], now: float, begun: float | None, deadline: float | None
    ) -> float | None:
        times = [child.due for child in living if child.due]
        if deadline is not None:
            times.append(max(deadline, now + 0.02))
        if self._duration is not None and begun is not None and self._board.state == GO:
            times.append(begun + self._duration)
        return max(min(times) - now, 0.0) if times else None

    def _start(self, child: _Child, again: bool = False) -> None:
        ours, theirs = self._context.Pipe()
        child.begun.clear()
        name = self._plan.processes[child.number].leader
        child.process = self._context.Process(
            target=main,
            name=f"graph/{name}",
            args=(self.heap, self._load, theirs, os.getpid(), child.number, again, child.skip),
        )
        child.skip = ()
        child.connection = ours
        try:
            child.process.start()
        except BaseException:
            child.process = None
            raise
        finally:
            theirs.close()

    def _look_at(self, living: list[_Child], pause: float | None) -> None:
        """Wait for reports and ends of processes, and act on them."""
        of: dict[object, _Child] = {}
        for child in living:
            if child.process is not None:
                of[child.connection] = of[child.process.sentinel] = child
        ready = connections.wait([*of, self._wake_read], pause)
        self._clear_wake()
        for child in {id(of[one]): of[one] for one in ready if one in of}.values():
            self._hear(child)
            if child.process.sentinel in ready:
                child.process.join()
                self._hear(child)
                self._ended(child)

    def _hear(self, child: _Child) -> None:
        with contextlib.suppress(EOFError, OSError):
            while child.connection.poll():
                kind, worker, data = child.connection.recv()
                if kind == "begun":
                    child.begun.add(worker)
                else:
                    self._fail(pickle.loads(data))

    def _ended(self, child: _Child) -> None:
        """Act on the end of a process."""
        code = child.process.exitcode
        child.process.close()
        child.process = None
        child.connection.close()
        left = [worker for worker in child.workers if not self._board.has_finished(*worker)]
        if self._board.is_aborted or not left:
            return
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        self.heap.recover()
        progress = self._progress(left)
        if len(child.begun) < len(left):
            child.starts += 1
        else:
            child.starts = 0
            child.deaths = child.deaths + 1 if progress == child.progress else 1
            child.progress = progress
        kernels = [self._plan.kernels[name] for name, _ in left]
        names = ", ".join(f"kernel {name!r}, worker {worker}" for name, worker in left)
        for kernel in kernels:
            if not kernel.restartable:
                self._fail(KernelDied(f"{names} ended {how}. {_why_not(kernel)}"))
                return
        if child.starts >= _STARTS:
            self._fail(KernelDied(f"{names} ended {how} before it began, {_STARTS} times"))
            return
        if child.deaths >= _DEATHS:
            if any(kernel.on_error != "skip" for kernel in kernels):
                self._fail(PoisonRecord(f"{names} ended {how} {_DEATHS} times over one record"))
                return
            _log.warning(
                "%s ended %s %d times over a record, which is left out", names, how, _DEATHS
            )
            child.skip = tuple(left)
            child.deaths = 0
        child.restarts += 1
        idle = max(child.starts, child.deaths - 1)
        pause = min(0.05 * 2**idle, _LONGEST_PAUSE) if idle else 0.0
        child.due = time.monotonic() + pause or 1e-9

    def _progress(self, workers: list[tuple[str, int]]) -> object:
        """Return what changes as soon as one of the workers gets anything done."""
        found: list[object] = []
        for name, worker in workers:
            for edge, sender in sum(self._plan.channels_into(name, worker), []):
                found.append(self._counts(edge.channel(sender, worker)).freed)
            for edge in self._plan.out_of[name]:
                for to in edge.receivers_of(worker):
                    found.append(self._counts(edge.channel(worker, to)).sent)
            at, length = self._plan.areas[name, worker]
            found.append(bytes(self._notes[8 * at : 8 * (at + length)]))
        return found

    def _counts(self, channel: str) -> Any:
        return self.heap.channel(channel).counts()  # type: ignore[attr-defined]

    # Ends -------------------------------------------------------------------------------------

    def _fail(self, error: BaseException) -> None:
        """Have the graph end by an error, the first one; all that wait are woken."""
        with self._lock:
            if self._error is None and not self._done.is_set():
                self._error = error
        with contextlib.suppress(HeapClosed, ValueError):
            self._board.state = ABORT
            for channel, _ in self._channels():
                with contextlib.suppress(ChannelNotFound):
                    self.heap.remove_channel(channel, force=True)
        self._wake()

    def _wake(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._wake_write.send_bytes(b"")

    def _clear_wake(self) -> None:
        while self._wake_read.poll():
            self._wake_read.recv_bytes()

    def _kill_all(self) -> None:
        for child in self._children:
            process = child.process
            if process is not None and process.exitcode is None:
                process.kill()

    def _at_exit(self) -> None:
        """End, because the calling program does."""
        self.abort()
        self._kill_all()
        self._done.wait(self._grace)

    def _end(self) -> None:
        """Say that the graph has ended."""
        with contextlib.suppress(Exception):
            self._final = self._look(ended=True)[0]
        if self._plan.name is not None:
            with contextlib.suppress(HeapNotFound):
                self.heap.unlink()
        self._exit.cancel()
        self._done.set()

    def _look(self, ended: bool = False) -> tuple[GraphStatistics, Any]:
        pids: dict[str, list[int]] = {}
        restarts: dict[str, int] = {}
        for child in self._children:
            process = child.process
            for name in {name for name, _ in child.workers}:
                if process is not None and process.exitcode is None:
                    pids.setdefault(name, []).append(process.pid)
                restarts[name] = restarts.get(name, 0) + child.restarts
        return statistics_of(
            self._plan,
            self.heap,
            self._notes,
            state="ended" if ended else _NAMES[self._board.state],
            seconds=time.monotonic() - self._started,
            pids=pids,
            restarts=restarts,
            previous=self._previous,
        )


class _ThreadReports(Reports):
    """What a worker that is a thread of the calling program tells."""

    def __init__(self, run: Run, child: _Child) -> None:
        self._run = run
        self._child = child

    def begun(self, worker: tuple[str, int]) -> None:
        self._child.begun.add(worker)

    def failed(self, worker: tuple[str, int], error: BaseException) -> None:
        error.add_note(f"In kernel {worker[0]!r}, worker {worker[1]}")
        self._run._fail(error)


def _why_not(kernel: Kernel) -> str:
    """Return why a kernel is not started again, and what would have it."""
    anyhow = "restart=True starts it again in any case"
    if kernel.restart is False:
        return "It is not started again because of restart=False"
    if kernel.form == "source":
        return f"A source is started again if it has a parameter `resume`; {anyhow}"
    if kernel.form == "object":
        return f"An object is started again if it has snapshot() and restore(state); {anyhow}"
    if kernel.form == "flow":
        return f"A flow function is not started again, because nobody knows its state; {anyhow}"
    return f"A kernel that changes its items is not started again; {anyhow}"


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
    from .checking import problems_of

    if problems := problems_of(graph, runner=runner):
        raise GraphError("the graph cannot run: " + "; ".join(problems))
    plan = graph._plan()
    if runner == "ray":
        from .cluster import start_cluster

        return start_cluster(plan, duration=duration, grace=grace, init=init, address=address)
    return Run(plan, threads=runner == "threads", duration=duration, grace=grace, init=init)

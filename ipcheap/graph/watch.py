"""The watch over the workers of a run: it starts their processes, and starts them again."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import pickle
import signal
import threading
import time
from multiprocessing import connection as connections
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any

from .board import GO
from .channels import record_channel
from .errors import KernelDied, PoisonRecord
from .latest import version_of
from .place import packed
from .process import Reports, main, not_an_exit, run_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from ipcheap import ChannelCounts, Heap

    from .board import Board
    from .plan import Kernel, Plan

_log = logging.getLogger("ipcheap.graph")

_PRELOADED = ["__main__", "ipcheap.graph.process", "ipcheap.graph.unmask"]
_DEATHS = 3  # of a process over the same record: then that is the cause
_STARTS = 5  # of a process that dies before it has claimed its channels
_NOT_IMPORTED = (
    "The traceback on standard error says why. A program must start its graphs below "
    '`if __name__ == "__main__":`'
)
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds before a start, without progress


class Child:
    """A process of the run, which may have been started several times."""

    def __init__(self, number: int, workers: tuple[tuple[str, int], ...]) -> None:
        self.number = number
        self.workers = workers
        self.process: Any = None  # for the thread that watches; others may use the pid
        self.pid: int | None = None
        self.connection: Any = None
        self.begun: set[tuple[str, int]] = set()
        self.restarts = 0
        self.starts = 0  # in a row, that ended before a worker had claimed its channels
        self.deaths = 0  # in a row, without progress
        self.progress: object = None
        self.due: float = 0.0  # when it is to be started
        self.skip: tuple[tuple[str, int], ...] = ()


class Watch:
    """What all runners have in common.

    `begun`, `stop` and `fail` are called from its thread, `begun` when all workers have claimed
    their channels. After `duration` seconds of all workers it stops
    the run, and `grace` seconds after an abort it waits no longer.
    """

    def __init__(
        self,
        plan: Plan,
        heap: Heap,
        board: Board,
        notes: memoryview,
        host: str,
        *,
        duration: float | None,
        grace: float,
        init: Callable[[], object] | None,
        begun: Callable[[], None],
        stop: Callable[[], None],
        fail: Callable[[BaseException], None],
    ) -> None:
        self._plan = plan
        self._heap = heap
        self._board = board
        self._notes = notes
        self._duration = duration
        self._grace = grace
        self._init = init
        self._begun = begun
        self._stop = stop
        self._fail = fail
        self._children = [
            Child(number, process.workers)
            for number, process in enumerate(plan.processes)
            if process.host == host
        ]
        self._running: dict[str, list[Child]] = {}  # by kernel
        for child in self._children:
            for name in dict.fromkeys(name for name, _ in child.workers):
                self._running.setdefault(name, []).append(child)
        self._wake_read, self._wake_write = connections.Pipe(duplex=False)

    @property
    def workers(self) -> list[tuple[str, int]]:
        """The workers of this host."""
        return [worker for child in self._children for worker in child.workers]

    def run(self) -> None:
        """Start all workers and return when they have ended."""
        raise NotImplementedError

    def kill(self) -> None:
        """Kill what still runs."""

    def pids(self, name: str) -> list[int]:
        """Return the ids of the living processes that run a kernel."""
        raise NotImplementedError

    def restarts(self, name: str) -> int:
        """Return how many processes of a kernel were started again."""
        return sum(child.restarts for child in self._running.get(name, ()))

    def wake(self) -> None:
        """Have it look at the board."""
        with contextlib.suppress(OSError, ValueError):
            self._wake_write.send_bytes(b"")

    def _clear_wake(self) -> None:
        while self._wake_read.poll():
            self._wake_read.recv_bytes()


class Threads(Watch):
    """All workers are threads of this process; none is started again."""

    def run(self) -> None:
        """Start all workers and return when they have ended."""
        threads: list[threading.Thread] = []
        for child in self._children:
            for worker in child.workers:
                thread = threading.Thread(
                    target=self._run_thread, args=(child, worker), daemon=True
                )
                thread.name = f"graph/{worker[0]}.{worker[1]}"
                threads.append(thread)
                thread.start()
        begun = time.monotonic()
        self._begun()
        deadline: float | None = None
        while any(thread.is_alive() for thread in threads):
            self._wake_read.poll(0.05)
            self._clear_wake()
            now = time.monotonic()
            if self._duration is not None and now - begun >= self._duration:
                self._stop()
            if self._board.is_aborted:
                deadline = deadline or now + self._grace
                if now > deadline:
                    return  # a thread that does not end cannot be killed
            for thread in threads:
                if thread.is_alive():
                    thread.join(0.01)
                    break

    def _run_thread(self, child: Child, worker: tuple[str, int]) -> None:
        reports = _ThreadReports(self._fail, child)
        try:
            if self._init is not None and worker == child.workers[0]:
                self._init()
            run_workers(self._plan, self._heap, (worker,), reports)
        except BaseException as error:
            reports.failed(worker, error)

    def pids(self, name: str) -> list[int]:
        """Return the id of this process."""
        return [os.getpid()] if name in self._running else []


class Processes(Watch):
    """Workers in processes of their own.

    The fork server of multiprocessing starts them: a fork of a process that has imported what they
    need takes a tenth of the time of a new interpreter.
    """

    def __init__(self, plan: Plan, *of: Any, **how: Any) -> None:
        super().__init__(plan, *of, **how)
        self._load = packed((plan, self._init, dict(os.environ)))

    def run(self) -> None:
        """Start all workers and return when they have ended."""
        self._context = multiprocessing.get_context("forkserver")
        with contextlib.suppress(ValueError):
            self._context.set_forkserver_preload(_PRELOADED)
        resource_tracker.ensure_running()  # which unblocks what is blocked now
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # see unmask.py
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
                self._begun()
            if (
                self._duration is not None
                and begun is not None
                and now - begun >= self._duration
                and self._board.state == GO
            ):
                self._stop()
            if self._board.is_aborted:
                deadline = deadline or now + self._grace
                if now >= deadline:
                    self.kill()
                for child in living:
                    child.due = 0.0
            self._look_at(living, self._pause(living, now, begun, deadline))
            for child in living:
                if child.due and child.due <= time.monotonic() and not self._board.is_aborted:
                    child.due = 0.0
                    self._start(child, again=True)

    def kill(self) -> None:
        """Kill what still runs."""
        for child in self._children:
            if (pid := child.pid) is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def pids(self, name: str) -> list[int]:
        """Return the ids of the living processes that run a kernel."""
        running = self._running.get(name, ())
        return [pid for child in running if (pid := child.pid) is not None]

    # Inside -----------------------------------------------------------------------------------

    def _pause(
        self, living: list[Child], now: float, begun: float | None, deadline: float | None
    ) -> float | None:
        times = [child.due for child in living if child.due]
        if deadline is not None:
            times.append(max(deadline, now + 0.02))
        if self._duration is not None and begun is not None and self._board.state == GO:
            times.append(begun + self._duration)
        return max(min(times) - now, 0.0) if times else None

    def _start(self, child: Child, again: bool = False) -> None:
        ours, theirs = self._context.Pipe()
        child.begun.clear()
        name = self._plan.processes[child.number].leader
        child.process = self._context.Process(
            target=main,
            name=f"graph/{name}",
            args=(self._heap, self._load, theirs, os.getpid(), child.number, again, child.skip),
        )
        child.skip = ()
        child.connection = ours
        try:
            child.process.start()
        except (EOFError, ConnectionError):
            child.process = None
            raise KernelDied(
                f"kernel {name!r} ended before it began, with the fork server of multiprocessing. "
                f"{_NOT_IMPORTED}"
            ) from None
        except BaseException:
            child.process = None
            raise
        finally:
            theirs.close()
        child.pid = child.process.pid

    def _look_at(self, living: list[Child], pause: float | None) -> None:
        """Wait for reports and ends of processes, and act on them."""
        of: dict[Any, Child] = {}
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

    def _hear(self, child: Child) -> None:
        with contextlib.suppress(EOFError, OSError):
            while child.connection.poll():
                kind, worker, data = child.connection.recv()
                if kind == "begun":
                    child.begun.add(worker)
                else:
                    self._fail(pickle.loads(data))

    def _ended(self, child: Child) -> None:
        """Act on the end of a process."""
        code = child.process.exitcode
        child.pid = None
        child.process.close()
        child.process = None
        child.connection.close()
        left = self._left(child)
        if self._board.is_aborted or not left:
            return
        how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit status {code}"
        self._heap.recover()
        progress = self._progress(left)
        if not child.begun:  # threads of one process begin one after the other
            child.starts += 1
        else:
            child.starts = 0
            child.deaths = child.deaths + 1 if progress == child.progress else 1
            child.progress = progress
        kernels = [self._plan.kernels[name] for name, _ in left]
        names = ", ".join(f"kernel {name!r}, worker {worker}" for name, worker in left)
        early = "" if child.begun or code < 0 else f". {_NOT_IMPORTED}"
        for kernel in kernels:
            if not kernel.restartable:
                when = f" before it began{early}" if early else f". {_why_not(kernel)}"
                self._fail(KernelDied(f"{names} ended {how}{when}"))
                return
        if child.starts >= _STARTS:
            text = f"{names} ended {how} before it began, {_STARTS} times{early}"
            self._fail(KernelDied(text))
            return
        if child.deaths >= _DEATHS:
            if any(kernel.on_error != "skip" for kernel in kernels):
                text = f"{names} ended {how} {_DEATHS} times over one record"
                self._fail(PoisonRecord(f"{text}; on_error='skip' leaves such items out"))
                return
            _log.warning(
                "%s ended %s %d times over a record, which is left out", names, how, _DEATHS
            )
            child.skip = tuple(left)
            child.deaths = 0
        child.restarts += 1
        idle = max(child.starts, child.deaths - 1)
        pause = min(_FIRST_PAUSE * 2 ** (idle - 1), _LONGEST_PAUSE) if idle else 0.0
        child.due = time.monotonic() + pause or 1e-9

    def victims(self, kernels: Collection[str]) -> list[int]:
        """Return the processes that run kernels, and have worked since one of them died last."""
        found: list[int] = []
        for child in self._children:
            pid, left = child.pid, self._left(child)
            if (
                pid is not None
                and len(child.begun) >= len(left) > 0
                and any(name in kernels for name, _ in left)
                and self._progress(left) != child.progress
            ):
                found.append(pid)
        return found

    def _left(self, child: Child) -> list[tuple[str, int]]:
        """Return the workers of a process that have not finished."""
        return [worker for worker in child.workers if not self._board.has_finished(*worker)]

    def _progress(self, workers: list[tuple[str, int]]) -> object:
        """Return what changes as soon as one of the workers gets anything done."""
        found: list[object] = []
        for name, worker in workers:
            for channels in self._plan.channels_into(name, worker):
                for edge, sender in channels:
                    if edge.is_of_records:
                        found.append(self._counts(edge.channel(sender, worker)).freed)
            for edge in self._plan.out_of[name]:
                if edge.is_latest:
                    found.append(version_of(self._heap, edge.channel(worker, 0)))
                for to in edge.receivers_of(worker) if edge.is_of_records else ():
                    found.append(self._counts(edge.channel(worker, to)).sent)
            at, length = self._plan.areas[name, worker]
            found.append(bytes(self._notes[8 * at : 8 * (at + length)]))
        return found

    def _counts(self, channel: str) -> ChannelCounts:
        return record_channel(self._heap, channel).counts()


class _ThreadReports(Reports):
    """What a worker that is a thread of the calling program tells."""

    def __init__(self, fail: Callable[[BaseException], None], child: Child) -> None:
        self._fail = fail
        self._child = child

    def begun(self, worker: tuple[str, int]) -> None:
        self._child.begun.add(worker)

    def failed(self, worker: tuple[str, int], error: BaseException) -> None:
        error = not_an_exit(error)
        error.add_note(f"In kernel {worker[0]!r}, worker {worker[1]}")
        self._fail(error)


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

"""A process of a run: its workers, and the watch over the program that started it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import select
import signal
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from .board import Board
from .channels import static_segment
from .errors import GraphError
from .even import EvenWorker, SourceWorker
from .latest_worker import LatestFlowWorker, LatestWorker
from .place import unpacked
from .uneven import FlowWorker, UnevenWorker
from .worker import Aborted, Worker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.connection import Connection

    from ipcheap import Heap

    from .plan import Plan

_PR_SET_PDEATHSIG = 1
_LOOK = 0.02  # seconds between looks whether the graph is aborted, after an error


def main(
    heap: Heap,
    load: bytes,
    connection: Connection[Any, Any],
    caller: int,
    number: int,
    again: bool,
    skip: Sequence[tuple[str, int]],
) -> None:
    """Run the workers of process `number`; the main function of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes
    _die_with(caller, connection, heap)
    report = Reports(connection)
    try:
        plan, init, environment = unpacked(load)
        os.environ.clear()
        os.environ.update(environment)
        process = plan.processes[number]
        _pin(plan, number)
        if init is not None:
            init()
        run_workers(plan, heap, process.workers, report, again=again, skip=skip)
    except BaseException as error:
        report.failed(("", 0), error)
        _wait_for_abort(heap)
    sys.stdout.flush()
    sys.stderr.flush()


def run_workers(
    plan: Plan,
    heap: Heap,
    which: Sequence[tuple[str, int]],
    report: Reports,
    *,
    again: bool = False,
    skip: Sequence[tuple[str, int]] = (),
) -> None:
    """Run workers, each in a thread, until all have ended."""
    board = Board(static_segment(heap, "board"), plan)
    notes = static_segment(heap, "notes").view

    def work(name: str, number: int) -> None:
        kernel = plan.kernels[name]
        kind = _kind(plan, name)
        worker = kind(
            plan, kernel, number, heap, board, notes, again=again, skip=(name, number) in skip
        )
        try:
            worker.claim()
            report.begun((name, number))
            worker.run()
            worker.close()
        except Aborted:
            worker.leave()
        except BaseException as error:
            report.failed((name, number), error)
            # Its endpoints stay open until all channels are removed: no reader sees an end.
            while not board.is_aborted:
                time.sleep(_LOOK)
            worker.leave()

    left = [one for one in which if not board.has_finished(*one)]
    threads = [
        threading.Thread(target=work, args=one, name=f"graph/{one[0]}.{one[1]}") for one in left[1:]
    ]
    for thread in threads:
        thread.start()
    if left:
        work(*left[0])
    for thread in threads:
        thread.join()


def _kind(plan: Plan, name: str) -> type[Worker]:
    form = plan.kernels[name].form
    if any(edge.is_latest for edges in plan.into[name] for edge in edges):
        return LatestFlowWorker if form == "flow" else LatestWorker
    if form == "source":
        return SourceWorker
    if form == "flow":
        return FlowWorker
    return EvenWorker if plan.is_even(name) else UnevenWorker


class Reports:
    """What a process tells the program that started it."""

    def __init__(self, connection: Connection[Any, Any]) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def begun(self, worker: tuple[str, int]) -> None:
        """Tell that a worker has claimed its channels."""
        self._send(("begun", worker, None))

    def failed(self, worker: tuple[str, int], error: BaseException) -> None:
        """Tell that a worker ends by an error."""
        name, number = worker
        what = f"kernel {name!r}, worker {number}" if name else "a process of the graph"
        trace = "".join(traceback.format_exception(error))
        error = not_an_exit(error)
        error.add_note(f"In {what}, process {os.getpid()}:\n{trace}")
        self._send(("failed", worker, portable(error)))

    def _send(self, report: tuple[str, tuple[str, int], bytes | None]) -> None:
        with self._lock:
            try:
                self._connection.send(report)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the program that started this is gone, and this process goes, too


def not_an_exit(error: BaseException) -> BaseException:
    """Return a RuntimeError for a SystemExit, which would end the calling program silently."""
    if not isinstance(error, SystemExit):
        return error
    return RuntimeError(f"sys.exit({error.code!r}) in a kernel, which ends only by returning")


def portable(error: BaseException) -> bytes:
    """Return an exception as bytes; RuntimeError of the same text if it does not pickle."""
    try:
        data = pickle.dumps(error, 5)
        if type(pickle.loads(data)) is type(error):
            return data
    except Exception:
        pass
    text = RuntimeError(str(error))
    text.add_note(f"It was a {type(error).__qualname__}, which does not pickle.")
    for note in getattr(error, "__notes__", []):
        text.add_note(note)
    return pickle.dumps(text, 5)


def _pin(plan: Plan, number: int) -> None:
    process = plan.processes[number]
    sets = plan.kernels[process.leader].cpus
    if sets:
        cpus = sets[process.number % len(sets)]
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as error:
            here = sorted(os.sched_getaffinity(0))
            raise GraphError(
                f"kernel {process.leader!r} cannot be pinned to the CPUs {sorted(cpus)}: "
                f"{error.strerror}; it may use {here}"
            ) from None


def _wait_for_abort(heap: Heap) -> None:
    board = static_segment(heap, "board").view
    while board[0] != 2:
        time.sleep(_LOOK)


def _die_with(caller: int, connection: Connection[Any, Any], heap: Heap) -> None:
    """Have this process killed when the calling program has ended.

    It removes the heap first, if that has a name.
    """
    if heap.name is None:
        # Linux does that even while a kernel keeps the GIL, as soon as the fork server has ended,
        # which ends with the calling program.
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLHUP)
    try:
        poll.register(os.pidfd_open(caller), select.POLLIN)
    except ProcessLookupError:
        os.kill(os.getpid(), signal.SIGKILL)
        return
    except OSError:
        pass  # an old kernel, or a sandbox; the connection tells it, too

    def watch() -> None:
        while not poll.poll():
            pass
        with contextlib.suppress(Exception):  # another process may have done it
            heap.unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="graph watch", daemon=True).start()

"""Kills a worker of a graph before every call that it makes, in Python and into C.

    python -m graph_crash [--kills N] [--seed N] [FORM…]

Each graph of graph_forms.py is run kernel by kernel, so that only the victim's worker runs when it
is killed: what it receives is in its channels already, and what it sends has room. A heap in which
everything up to the victim has happened is made once, and restored for each kill. The next worker
runs to the end, and so do the kernels behind. What comes out, and what stays in the heap, must be
the same as without a kill.

Lines of ledger.py count like calls: their stores to shared memory are none. With --kills only a
sample of the calls is taken. After every other kill the next worker is killed as well.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import logging
import os
import pickle
import random
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

import graph_forms
from graph_forms import FORMS, WRONG

from ipcheap import Heap
from ipcheap.graph import Graph
from ipcheap.graph.board import Board
from ipcheap.graph.items import copied, is_mark, item_of
from ipcheap.graph.process import Reports, run_workers
from ipcheap.graph.reader import Ended, Reader
from ipcheap.graph.runner import add_channels, channels_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

    from graph_forms import Form

    from ipcheap.graph.plan import Plan

PATIENCE = 20  # seconds that a worker may take
NEVER = 1 << 60


class Killer:
    """Kills this process at its `at`-th event; counts them."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.count = 0

    def step(self) -> None:
        """Count a moment at which to kill."""
        self.count += 1
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def profile(self, _frame: FrameType, event: str, _arg: object) -> None:
        """Count the calls."""
        if event in ("call", "c_call"):
            self.step()

    def trace(self, frame: FrameType, event: str, _arg: object) -> Any:
        """Count the lines of ledger.py."""
        if not frame.f_code.co_filename.endswith("graph/ledger.py"):
            return None
        if event == "line":
            self.step()
        return self.trace

    @contextlib.contextmanager
    def at_work(self) -> Any:
        """Count what is done inside."""
        sys.settrace(self.trace)
        sys.setprofile(self.profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            sys.settrace(None)


class _Reports(Reports):
    """A worker that fails ends the process, with a traceback."""

    def __init__(self) -> None:
        pass

    def begun(self, worker: tuple[str, int]) -> None:
        pass

    def failed(self, worker: tuple[str, int], error: BaseException) -> None:
        sys.setprofile(None)
        raise SystemExit(f"worker {worker} failed") from error


class Wrong(Exception):
    """A run did not give what it would give without kills."""


def in_child(act: Callable[..., Any], *of: Any) -> Any:
    """Return what a function returns in a forked child; None if that was killed."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            faulthandler.register(signal.SIGALRM, chain=True)
            signal.alarm(PATIENCE)
            data = pickle.dumps(act(*of))
            with open(theirs, "wb") as out:
                out.write(data)
            status = 0
        except BaseException as error:
            import traceback

            traceback.print_exception(error)
            status = 1
        os._exit(status)
    os.close(theirs)
    with open(ours, "rb") as into:
        data = into.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return None
    if status:
        raise Wrong(f"a process {'hung' if os.WIFSIGNALED(status) else 'failed'}")
    return pickle.loads(data)


class Case:
    """A form whose victim is killed again and again, in a heap of its own."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.heap = f"graph-crash-{os.getpid()}"
        self.path = f"/dev/shm/ipcheap.{self.heap}"
        graph = Graph(self.heap, capacity="8MiB")
        form.build(graph)
        self.plan: Plan = graph._plan()
        in_child(self.prepare)
        self.pages = list(self.read())
        self.size = os.path.getsize(self.path)

    def close(self) -> None:
        """Remove the heap."""
        os.unlink(self.path)

    # The heap -----------------------------------------------------------------------------------

    def read(self) -> Any:
        """Yield what is in the heap, as (place, bytes)."""
        with open(self.path, "rb", buffering=0) as file:
            at = 0
            while True:
                try:
                    begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    return
                at = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
                yield begin, os.pread(file.fileno(), at - begin, begin)

    def restore(self) -> None:
        """Make the heap what it was before the victim ran."""
        with open(self.path, "r+b", buffering=0) as file:
            file.truncate(0)
            file.truncate(self.size)
            for at, data in self.pages:
                os.pwrite(file.fileno(), data, at)

    # What runs in children ----------------------------------------------------------------------

    def workers(self, *, before: bool) -> list[tuple[str, int]]:
        """The workers that run before, or after, the one that is killed."""
        victim = self.form.victim, self.form.worker
        all_ = [
            (kernel.name, worker)
            for kernel in self.plan.kernels.values()
            for worker in range(kernel.workers)
            if not kernel.is_caller and kernel.name not in self.form.ended
        ]
        at = all_.index(victim)
        return all_[:at] if before else all_[at + 1 :]

    def prepare(self) -> None:
        """Make the heap, and run all that is to run before the victim."""
        plan = self.plan
        heap = Heap.create(self.heap, plan.capacity)
        heap.add_static_segment("board", Board.nbytes(plan))
        heap.add_static_segment("notes", max(8 * plan.notes_words, 8))
        add_channels(plan, heap, "")
        for name in self.form.ended:
            (edges,) = plan.into[name]
            for edge in edges:
                heap.channel(edge.channel(0, 0)).consumer().close()  # type: ignore[attr-defined]
        for worker in self.workers(before=True):
            run_workers(plan, heap, (worker,), _Reports())

    def run(self, kill_at: int, again: bool) -> int:
        """Run the victim; return how many events there were."""
        heap = Heap.attach(self.heap)
        if again:
            heap.recover()
        killer = Killer(kill_at)
        board = Board(heap.channel("board"), self.plan)  # type: ignore[arg-type]
        victim = self.form.victim, self.form.worker
        if not board.has_finished(*victim):
            with killer.at_work():
                run_workers(self.plan, heap, (victim,), _Reports(), again=again)
        return killer.count

    def finish(self) -> tuple[Any, Any]:
        """Run all that is left; return the results and what stays in the heap."""
        self.run(NEVER, again=True)
        graph_forms.KEPT.clear()
        heap = Heap.attach(self.heap)
        plan = self.plan
        for worker in self.workers(before=False):
            run_workers(plan, heap, (worker,), _Reports())
        results = []
        for kernel in plan.kernels.values():
            if kernel.form == "output":
                results.append(self.received(heap, kernel.name))
        if wrong := heap.check():
            raise Wrong(f"heap.check(): {wrong}")
        left = []
        for channel, _ in channels_of(plan, ""):
            counts = heap.channel(channel).counts()  # type: ignore[attr-defined]
            left.append((channel, counts.pending, counts.held))
        return self.form.same(results), (left, heap.statistics().records)

    def received(self, heap: Heap, name: str) -> list[Any]:
        """Return what an output of the graph gave."""
        reader = Reader(heap, self.plan.channels_into(name, 0)[0], 0, lambda _: False)
        items = []
        with contextlib.suppress(Ended):
            while True:
                with reader.next() as record:
                    if not reader.has_marks or not is_mark(record):
                        item = copied(item_of(record, None, True))
                        items.append(item.tolist() if hasattr(item, "tolist") else item)
        reader.close()
        return items

    # Runs ---------------------------------------------------------------------------------------

    def outcome(self, *kills: int) -> tuple[Any, list[int | None]]:
        """Kill workers at these events, one after the other; return the outcome and all counts."""
        self.restore()
        counts = [in_child(self.run, at, number > 0) for number, at in enumerate(kills)]
        return in_child(self.finish), counts


def warm_up() -> None:
    """Import what children would import, each again."""
    case = Case(FORMS["function"])
    try:
        case.finish()
    finally:
        case.close()
    gc.collect()
    gc.freeze()


def crash(name: str, *, most: int, seed: int) -> str:
    """Kill the victim of a form; return the figures."""
    case = Case((FORMS | WRONG)[name])
    begun = time.monotonic()
    try:
        right, counts = case.outcome(NEVER)
        points = counts[0] or 0
        chance = random.Random(f"{seed} {name}")
        step = max(points / most, 1)
        at = 1 + (chance.random() * step if step > 1 else 0)
        kills = 0
        again = False
        while at <= points:
            first = int(at)
            at += step
            second = [int(2 ** (chance.random() * 10.5))] if again else []
            again = not again
            found, counts = case.outcome(first, *second)
            kills += counts.count(None)
            if found != right:
                raise Wrong(f"{found}\ninstead of\n{right}\nafter a kill at {[first, *second]}")
    except Wrong as error:
        return f"{name}: WRONG {error}"
    finally:
        case.close()
    seconds = time.monotonic() - begun
    return f"{name}: {points} points, {kills} kills, {1000 * seconds / max(kills, 1):.1f} ms each"


def main() -> None:
    """Kill the victims of some or all forms."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=NEVER, help="at most so many of each form")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("forms", nargs="*")
    args = parser.parse_args()
    logging.disable()
    warm_up()
    wrong = 0
    for name in args.forms or FORMS:
        figures = crash(name, most=args.kills, seed=args.seed)
        print(figures, flush=True)
        wrong += "WRONG" in figures
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

"""Random graphs whose processes are killed at random: the results are those of plain Python.

Hypothesis makes graphs of kernels of all forms (graph_plans.py). Each runs in threads, and then in
processes that are killed. IPCHEAP_GRAPH_ROUNDS is how many rounds of graphs.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from graph_kernels import quiet
from graph_plans import Plans
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ipcheap.graph import watch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipcheap.graph import Run

ROUNDS = int(os.environ.get("IPCHEAP_GRAPH_ROUNDS", "1"))
EXAMPLES = 15  # graphs of a round
MOST_KILLS = 12  # of a graph
PATIENCE = 60.0  # seconds that a graph may take

killed: list[int] = []


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start dead processes again immediately, however often they die."""
    monkeypatch.setattr(watch, "_DEATHS", 1 << 60)
    monkeypatch.setattr(watch, "_STARTS", 1 << 60)
    monkeypatch.setattr(watch, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(watch, "_LONGEST_PAUSE", 0.001)


def pids(run: Run) -> list[int]:
    """Return the ids of all processes of a run."""
    return [
        pid
        for child in run._watch._children
        for process in [child.process]
        if process is not None and (pid := process.pid) is not None
    ]


@contextlib.contextmanager
def murdered(run: Run, chance: random.Random) -> Iterator[None]:
    """Kill processes of a run at random moments."""
    over = threading.Event()

    def kill() -> None:
        for _ in range(MOST_KILLS):
            if over.wait(chance.choice([0.001, 0.01, 0.03, 0.1]) * (0.5 + chance.random())):
                return
            with contextlib.suppress(ProcessLookupError, ValueError, IndexError):
                victim = chance.choice(pids(run))
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def collected(plans: Plans, runner: str, chance: random.Random | None = None) -> list[list[int]]:
    """Run a graph and return what comes out of its ports."""
    results: list[list[int]] = [[] for _ in plans.results]
    errors: list[BaseException] = []
    init = quiet if runner == "processes" else None
    with plans.graph.start(runner=runner, init=init) as run:

        def collect(n: int) -> None:
            try:
                results[n].extend(run.results(plans.results[n].port))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=collect, args=(n,)) for n in range(len(results))]
        with murdered(run, chance) if chance else contextlib.nullcontext():
            for thread in threads:
                thread.start()
            end = time.monotonic() + PATIENCE
            for thread in threads:
                thread.join(max(end - time.monotonic(), 0))
            if any(thread.is_alive() for thread in threads):
                stuck: Any = run.statistics()
                run.abort()
                raise AssertionError(f"{runner}: it does not end: {stuck}")
        if errors:
            raise errors[0]
        run.wait(PATIENCE)
    return results


@pytest.mark.parametrize("_round", range(ROUNDS))
@pytest.mark.timeout(280)
@pytest.mark.usefixtures("patient")
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=[Phase.generate],  # the same kills do not recur, so there is nothing to shrink
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_graph_gives_what_plain_python_gives_whatever_is_killed(
    _round: int, data: st.DataObject
) -> None:
    plans = Plans(data)
    seed = data.draw(st.integers(0, 1 << 32), "seed")
    assert plans.faults(collected(plans, "threads")) == []
    assert plans.faults(collected(plans, "processes", random.Random(seed))) == []


def test_somebody_was_killed() -> None:
    print(f"{ROUNDS * EXAMPLES} graphs, {len(killed)} kills")
    assert len(killed) >= ROUNDS * EXAMPLES

"""How graphs end: by themselves, by an error, by a kill, and when somebody has had enough."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest

import ipcheap
from ipcheap import graph as graphs
from ipcheap import testing
from ipcheap.graph import Graph, GraphError, GraphStopped, KernelDied, PoisonRecord, here

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipcheap.graph import Run

THREADS: dict[str, Any] = {"runner": "threads"}
BOTH = pytest.mark.parametrize("runner", ["processes", "threads"])


# Kernels that tests share -----------------------------------------------------------------


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def endless() -> Iterator[int]:
    yield from itertools.count()


def same(item: Any) -> Any:
    return item


def pid(item: Any) -> int:
    return os.getpid()


def fail_at_3(n: int) -> int:
    if n == 3:
        raise LookupError("three")
    return n


def die_at_3(n: int) -> int:
    if n == 3:
        testing.die()
    return n


def die_once(n: int, marker: str) -> int:
    if n == 3 and not Path(marker).exists():
        Path(marker).touch()
        testing.die()
    return n


def stuck(item: Any) -> None:
    time.sleep(3600)


def are_gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(one) for one in pids)


def notes_of(error: BaseException) -> str:
    return "\n".join(getattr(error, "__notes__", []))


# By themselves ----------------------------------------------------------------------------


def test_an_end_reaches_all_kernels_and_run_returns_statistics() -> None:
    graph = Graph()
    graph.add(same, graph.add(same, graph.add(numbers, count=50)), name="last")
    statistics = graph.run(timeout=60)
    assert statistics.state == "ended"
    assert [edge.sent for edge in statistics.edges] == [50, 50]
    assert statistics.kernels["last"].pids == ()
    assert statistics.seconds > 0


def test_an_empty_source_is_an_end() -> None:
    graph = Graph()
    assert graph.collect(graph.add(same, graph.add(numbers, count=0)), **THREADS) == []


def test_a_source_whose_readers_have_ended_ends_too() -> None:
    graph = Graph()
    short = graph.add(numbers, count=3)
    node = graph.add(lambda a, b: (a, b), graph.add(endless), short)
    assert graph.collect(node, **THREADS) == [(0, 0), (1, 1), (2, 2)]


@BOTH
def test_leaving_the_loop_early_aborts_the_graph(runner: str) -> None:
    graph = Graph()
    node = graph.add(pid, graph.add(endless))
    results = graph.results(node, runner=runner)
    pids = {next(results) for _ in range(3)}
    results.close()
    if runner == "processes":
        testing.until(lambda: are_gone([*pids]))


def test_results_that_nobody_asks_for_start_nothing() -> None:
    graph = Graph(name=testing.unique_name())
    results = graph.results(graph.add(numbers, count=3))
    assert testing.heaps_left(str(graph.name)) == []
    del results


def test_a_run_ends_when_its_block_does() -> None:
    graph = Graph()
    node = graph.input()
    seen: list[int] = []
    graph.add(seen.append, node)
    with graph.start(**THREADS) as run:
        for n in range(10):
            run.send(node, n)
    assert seen == list(range(10))
    assert run.statistics().state == "ended"


def leave_by_an_error(graph: Graph, runs: list[Run]) -> None:
    with graph.start(**THREADS) as run:
        runs.append(run)
        raise KeyError("mine")


def test_an_exception_in_the_block_aborts_the_graph() -> None:
    graph = Graph()
    graph.add(same, graph.add(endless))
    runs: list[Run] = []
    with pytest.raises(KeyError, match="mine"):
        leave_by_an_error(graph, runs)
    assert runs[0].statistics().state == "ended"


def test_a_graph_may_run_several_times() -> None:
    graph = Graph()
    node = graph.add(same, graph.add(numbers, count=3))
    for _ in range(2):
        assert graph.collect(node, **THREADS) == [0, 1, 2]


# The calling program ----------------------------------------------------------------------


@BOTH
def test_what_is_sent_is_received(runner: str) -> None:
    graph = Graph()
    node = graph.input()
    port = graph.output(graph.add(same, node))
    with graph.start(runner=runner) as run:
        run.feed(node, range(100))
        assert list(run.results(port)) == list(range(100))


def test_several_inputs_and_outputs_have_a_thread_each() -> None:
    graph = Graph()
    ones, twos = graph.input("ones"), graph.input("twos")
    pairs = graph.add(lambda a, b: (a, b), ones, twos)
    graph.output(pairs)
    singles = graph.output(graph.add(same, ones))
    with graph.start(**THREADS) as run:
        run.feed(ones, [1] * 50)
        run.feed(twos, [2] * 50)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(run.results(singles)))
        thread.start()
        assert list(run.results(pairs)) == 50 * [(1, 2)]
        thread.join()
    assert found == [1] * 50


def test_closing_an_input_is_its_end() -> None:
    graph = Graph()
    node = graph.input()
    port = graph.output(graph.add(same, node))
    with graph.start(**THREADS) as run:
        run.send(node, 1)
        run.close_input(node)
        assert list(run.results(port)) == [1]
        with pytest.raises(GraphStopped, match="'input' is closed"):
            run.send(node, 2)


def test_none_cannot_be_sent() -> None:
    graph = Graph()
    node = graph.input()
    graph.add(same, node)
    with graph.start(**THREADS) as run, pytest.raises(ValueError, match="None cannot be sent"):
        run.send(node, None)


def test_a_send_that_finds_no_room_sends_nothing() -> None:
    release = threading.Event()
    graph = Graph()
    node = graph.input(slots=16)
    graph.add(lambda _: release.wait(60) and None, node, slots=2)
    with graph.start(**THREADS) as run:
        sent: list[None] = []
        with pytest.raises(TimeoutError, match=r"'input' had no room within 0\.2 s"):
            sent.extend(run.send(node, b"x", timeout=0.2) for _ in range(100))  # type: ignore[func-returns-value]
        assert len(sent) in (2, 3)
        release.set()
        run.send(node, b"y", timeout=30)
    assert run.statistics().edges[0].sent == len(sent) + 1


def test_an_input_is_fed_once() -> None:
    graph = Graph()
    node = graph.input("items")
    port = graph.output(graph.add(same, node))
    with graph.start(**THREADS) as run:
        run.feed(node, range(3))
        with pytest.raises(GraphError, match="the input 'items' is fed already: join the iter"):
            run.feed(node, range(3))
        assert list(run.results(port)) == [0, 1, 2]


def test_an_input_belongs_to_one_thread() -> None:
    graph = Graph()
    node = graph.input()
    graph.add(same, node)
    with graph.start(**THREADS) as run:
        run.send(node, 1)
        caught: list[BaseException] = []

        def send() -> None:
            try:
                run.send(node, 2)
            except ipcheap.WrongThread as error:
                caught.append(error)

        thread = threading.Thread(target=send)
        thread.start()
        thread.join()
    assert "'input' belongs to another thread" in str(caught[0])


def test_run_refuses_inputs_and_discards_outputs() -> None:
    graph = Graph()
    graph.output(graph.add(numbers, count=1000))
    assert graph.run(timeout=60, **THREADS).edges == ()
    node = graph.input("fed")
    graph.add(same, node)
    with pytest.raises(GraphError, match="nobody would send to the input 'fed'"):
        graph.run()


def test_ports_that_were_not_declared_are_refused() -> None:
    graph = Graph()
    node = graph.input()
    inner = graph.add(same, node)
    with graph.start(**THREADS) as run:
        with pytest.raises(GraphError, match="no output of this graph: declare it by output"):
            next(run.results(inner))
        with pytest.raises(GraphError, match="is no input of this graph"):
            run.send(inner, 1)


# Stopping ---------------------------------------------------------------------------------


@BOTH
def test_stop_ends_the_sources_and_all_under_way_is_processed(runner: str) -> None:
    graph = Graph()
    port = graph.output(graph.add(same, graph.add(endless)))
    with graph.start(runner=runner) as run:
        results = run.results(port)
        got = [next(results) for _ in range(5)]
        run.stop()
        got += results
        statistics = run.wait()
    assert got == list(range(len(got)))
    assert [edge.sent for edge in statistics.edges] == 2 * [len(got)]


def test_a_stopped_source_is_closed_and_here_says_so() -> None:
    told: list[object] = []

    def source() -> Iterator[int]:
        now = here()
        assert now is not None
        try:
            for n in itertools.count():
                told[:] = [now.stopping]
                yield n
        finally:
            told.append("closed")

    graph = Graph()
    graph.add(same, graph.add(source))
    with graph.start(**THREADS) as run:
        testing.until(lambda: told)
        run.stop()
    assert told[-1] == "closed"


def test_inputs_refuse_further_items_after_a_stop() -> None:
    graph = Graph()
    node = graph.input()
    port = graph.output(graph.add(same, node))
    with graph.start(**THREADS) as run:
        run.send(node, 1)
        run.stop()
        with pytest.raises(GraphStopped):
            run.send(node, 2)
        assert list(run.results(port)) == [1]


@BOTH
def test_abort_ends_immediately(runner: str) -> None:
    graph = Graph()
    graph.add(same, graph.add(endless))
    run = graph.start(runner=runner)
    testing.until(lambda: run.statistics().edges[0].sent > 10)
    pids = [pid for kernel in run.statistics().kernels.values() for pid in kernel.pids]
    run.abort()
    with pytest.raises(GraphStopped, match="the graph was aborted"):
        run.wait(60)
    if runner == "processes":
        testing.until(lambda: are_gone(pids))


def test_finish_does_not_run_on_abort_and_teardown_does() -> None:
    told: list[str] = []

    class Tells:
        def process(self, _n: int) -> None:
            told.append("process")

        def finish(self) -> None:
            told.append("finish")

        def teardown(self) -> None:
            told.append("teardown")

    graph = Graph()
    graph.add(Tells, graph.add(endless))
    run = graph.start(**THREADS)
    testing.until(lambda: told)
    run.abort()
    with pytest.raises(GraphStopped):
        run.wait(60)
    assert told[-1] == "teardown"
    assert "finish" not in told


def test_a_worker_that_does_not_end_is_killed() -> None:
    graph = Graph()
    node = graph.add(stuck, graph.add(numbers, count=1))
    run = graph.start(grace=0.5)
    testing.until(lambda: run.statistics().edges[0].held)
    pids = run.pids(node)
    run.abort()
    with pytest.raises(GraphStopped):
        run.wait(60)
    testing.until(lambda: are_gone(pids))


@BOTH
def test_a_duration_stops_the_graph(runner: str) -> None:
    graph = Graph()
    port = graph.output(graph.add(endless))
    begin = time.monotonic()
    with graph.start(runner=runner, duration=0.3) as run:
        got = list(run.results(port))
    assert got == list(range(len(got)))
    assert 0.3 <= time.monotonic() - begin < 60


def test_a_timeout_of_wait_changes_nothing() -> None:
    graph = Graph()
    node = graph.input()
    port = graph.output(graph.add(same, node))
    with graph.start(**THREADS) as run:
        with pytest.raises(TimeoutError, match=r"has not ended within 0\.05 s"):
            run.wait(0.05)
        run.send(node, 1)
        run.close_input(node)
        assert list(run.results(port)) == [1]


def test_a_timeout_of_run_aborts() -> None:
    graph = Graph()
    graph.add(same, graph.add(endless))
    with pytest.raises(TimeoutError, match="has not ended within"):
        graph.run(timeout=0.1, **THREADS)


# Errors in kernels ------------------------------------------------------------------------


@BOTH
def test_the_exception_of_a_kernel_is_raised_with_its_place(runner: str) -> None:
    graph = Graph()
    node = graph.add(fail_at_3, graph.add(numbers, count=10), name="third")
    got: list[int] = []
    with pytest.raises(LookupError) as caught:
        got.extend(graph.results(node, runner=runner))
    assert got == [0, 1, 2][: len(got)]
    assert (type(caught.value), caught.value.args) == (LookupError, ("three",))
    notes = notes_of(caught.value)
    assert "In kernel 'third', worker 0" in notes
    if runner == "processes":
        assert re.search(r"process \d+", notes)
        assert 'raise LookupError("three")' in notes


@BOTH
def test_the_error_of_a_removed_channel_is_not_in_the_traceback(runner: str) -> None:
    graph = Graph()
    node = graph.add(fail_at_3, graph.add(numbers, count=10))
    with pytest.raises(LookupError) as caught:
        graph.collect(node, runner=runner)
    assert "EndpointClosed" not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(LookupError) as caught:
        list(graphs.map(fail_at_3, range(10), runner=runner))
    assert "EndpointClosed" not in "".join(traceback.format_exception(caught.value))


def exits(n: int) -> None:
    sys.exit(n)


@BOTH
def test_sys_exit_in_a_kernel_does_not_end_the_calling_program(runner: str) -> None:
    graph = Graph()
    node = graph.add(exits, graph.add(numbers, count=1))
    with pytest.raises(RuntimeError, match=r"sys\.exit\(0\) in a kernel") as caught:
        graph.collect(node, runner=runner)
    assert "In kernel 'exits', worker 0" in notes_of(caught.value)


def raises() -> Any:
    raise LookupError("mine")


class Failing:
    """Raises in one of its methods, and tells which have run."""

    def __init__(self, told: list[str], where: str) -> None:
        self.told = told
        self.where = where

    def _tell(self, method: str) -> None:
        self.told.append(method)
        if method == self.where:
            raises()

    def setup(self) -> None:
        self._tell("setup")

    def process(self, n: int) -> int:
        self._tell("process")
        return n

    def finish(self) -> None:
        self._tell("finish")

    def teardown(self) -> None:
        self._tell("teardown")


class FailingSnapshots(Failing):
    def snapshot(self) -> int:
        self._tell("snapshot")
        return 0

    def restore(self, _state: int) -> None:
        raise AssertionError("nobody died")


@pytest.mark.parametrize(
    ("where", "ran"),
    [
        ("setup", ["setup", "teardown"]),
        ("process", ["setup", "process", "teardown"]),
        ("finish", ["setup", "process", "process", "finish", "teardown"]),
        ("teardown", ["setup", "process", "process", "finish", "teardown"]),
    ],
)
def test_an_error_in_any_method_is_raised_and_teardown_runs(where: str, ran: list[str]) -> None:
    told: list[str] = []
    graph = Graph()
    node = graph.add(Failing, graph.add(numbers, count=2), told=told, where=where)
    with pytest.raises(LookupError, match="mine"):
        graph.collect(node, **THREADS)
    assert told == ran


def test_an_error_in_a_snapshot_is_raised() -> None:
    graph = Graph()
    node = graph.add(
        FailingSnapshots,
        graph.add(numbers, count=2),
        told=[],
        where="snapshot",
        on_error="skip",
    )
    with pytest.raises(LookupError, match="mine"):
        graph.collect(node, **THREADS)


def test_no_kernel_takes_an_error_for_the_end_of_its_input() -> None:
    told: list[str] = []

    class Last:
        def process(self, _n: int) -> None:
            told.append("process")

        def finish(self) -> None:
            told.append("finish")

    def source() -> Iterator[int]:
        yield 1
        testing.until(lambda: told)
        raises()

    graph = Graph()
    graph.add(Last, graph.add(same, graph.add(source)))
    with pytest.raises(LookupError, match="mine"):
        graph.run(**THREADS)
    assert told == ["process"]


def test_an_error_of_what_is_fed_fails_the_graph() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raises()

    graph = Graph()
    node = graph.input()
    port = graph.output(graph.add(same, node))
    run = graph.start(**THREADS)
    run.feed(node, broken())
    with pytest.raises(LookupError, match="mine") as caught:
        list(run.results(port))
    assert "In the iterable that feeds" in notes_of(caught.value)
    with pytest.raises(LookupError), run:
        pass


class Stubborn(Exception):
    """Does not pickle."""

    def __init__(self, text: str, _more: object) -> None:
        super().__init__(text)
        self.more = threading.Lock()


def be_stubborn(item: Any) -> None:
    raise Stubborn("as it is", None)


def test_an_exception_that_does_not_pickle_becomes_a_runtime_error_of_the_same_text() -> None:
    graph = Graph()
    graph.add(be_stubborn, graph.add(numbers, count=1))
    with pytest.raises(RuntimeError) as caught:
        graph.run()
    assert caught.value.args == ("as it is",)
    assert "It was a Stubborn, which does not pickle" in notes_of(caught.value)
    assert "In kernel 'be_stubborn', worker 0" in notes_of(caught.value)


def test_only_the_first_error_is_raised() -> None:
    graph = Graph()
    both = threading.Barrier(2)

    def first(n: int) -> None:
        both.wait(60)
        raise LookupError("first")

    def second(n: int) -> None:
        both.wait(60)
        time.sleep(0.3)
        raise KeyError("second")

    source = graph.add(numbers, count=1)
    graph.add(first, source)
    graph.add(second, source)
    with pytest.raises(LookupError, match="first"):
        graph.run(**THREADS)


def test_an_error_of_init_fails_the_graph() -> None:
    graph = Graph()
    graph.add(same, graph.add(numbers, count=1))
    with pytest.raises(LookupError, match="mine"):
        graph.run(init=raises)


@pytest.mark.parametrize("form", ["function", "generator", "object", "batch"])
def test_skip_leaves_out_the_items_that_raise(form: str, caplog: pytest.LogCaptureFixture) -> None:
    def generator(n: int) -> Iterator[int]:
        yield fail_at_3(n)

    class Object:
        def process(self, n: int) -> int:
            return fail_at_3(n)

    def batch(items: list[int]) -> list[int]:
        return [fail_at_3(n) for n in items]

    kernel = {"function": fail_at_3, "generator": generator, "object": Object, "batch": batch}
    graph = Graph()
    size = 1 if form == "batch" else 0
    node = graph.add(
        kernel[form], graph.add(numbers, count=6), name="skips", on_error="skip", batch=size
    )
    graph.output(node)
    with caplog.at_level(logging.WARNING, "ipcheap.graph"), graph.start(**THREADS) as run:
        assert list(run.results(node)) == [0, 1, 2, 4, 5]
        statistics = run.wait()
    assert statistics.kernels["skips"].skipped == 1
    assert "kernel 'skips', worker 0: an item is left out after LookupError" in caplog.text


def test_skip_does_not_apply_to_sources() -> None:
    def source() -> Iterator[int]:
        yield 1
        raises()

    graph = Graph()
    with pytest.raises(LookupError):
        graph.collect(graph.add(source, on_error="skip"), **THREADS)


# Deaths -----------------------------------------------------------------------------------


def a_flow(items: graphs.Flow[int]) -> Iterator[int]:
    for n in items:
        yield die_at_3(n)


def dying() -> Iterator[int]:
    for n in range(5):
        yield die_at_3(n)


class DiesAt3:
    def process(self, n: int) -> int:
        return die_at_3(n)


@pytest.mark.parametrize(
    ("kernel", "options", "why"),
    [
        (dying, {}, r"A source is started again if it has a parameter `resume`; restart=True"),
        (DiesAt3, {}, r"if it has snapshot\(\) and restore\(state\); restart=True"),
        (a_flow, {}, "A flow function is not started again, because"),
        (die_at_3, {"inplace": True}, "A kernel that changes its items is not started again"),
        (die_at_3, {"restart": False}, "It is not started again because of restart=False"),
    ],
)
def test_a_kernel_that_may_not_be_restarted_fails_the_graph(
    kernel: Any, options: dict[str, Any], why: str
) -> None:
    graph = Graph()
    inputs = [] if kernel is dying else [graph.add(numbers, count=5)]
    graph.add(same, graph.add(kernel, *inputs, name="dies", **options))
    with pytest.raises(KernelDied, match=f"kernel 'dies', worker 0 ended by SIGKILL.*{why}"):
        graph.run()


def test_a_killed_kernel_is_started_again(tmp_path: Path) -> None:
    graph = Graph()
    marker = str(tmp_path / "dead")
    node = graph.add(die_once, graph.add(numbers, count=10), name="once", marker=marker)
    graph.output(node)
    with graph.start() as run:
        assert list(run.results(node)) == list(range(10))
        statistics = run.wait()
    assert statistics.kernels["once"].restarts == 1


def test_restart_true_starts_whatever_is_lost(tmp_path: Path) -> None:
    graph = Graph()
    marker = str(tmp_path / "dead")
    node = graph.add(
        die_once, graph.add(numbers, count=10), inplace=True, restart=True, marker=marker
    )
    assert graph.collect(node) == list(range(10))


def test_a_record_that_kills_three_times_is_poison() -> None:
    graph = Graph()
    node = graph.add(die_at_3, graph.add(numbers, count=10), name="dies")
    text = "kernel 'dies', worker 0 ended by SIGKILL 3 times over one record; on_error='skip'"
    with pytest.raises(PoisonRecord, match=text):
        graph.collect(node)


def test_poison_is_left_out_if_errors_are(caplog: pytest.LogCaptureFixture) -> None:
    graph = Graph()
    node = graph.add(die_at_3, graph.add(numbers, count=6), name="dies", on_error="skip")
    graph.output(node)
    with caplog.at_level(logging.WARNING, "ipcheap.graph"), graph.start() as run:
        assert list(run.results(node)) == [0, 1, 2, 4, 5]
        statistics = run.wait()
    assert statistics.kernels["dies"].skipped == 1
    assert "ended by SIGKILL 3 times over a record, which is left out" in caplog.text


def test_a_process_that_dies_before_it_begins_is_given_up() -> None:
    graph = Graph()
    graph.add(same, graph.add(numbers, count=1), name="never")
    with pytest.raises(KernelDied, match=r"before it began, 5 times|resume"):
        graph.run(init=testing.die)


UNGUARDED = """
from ipcheap.graph import Graph

def numbers({resume}):
    yield from range(3)

graph = Graph()
print(graph.collect(graph.add(numbers)))
"""


# What Python does from 3.13.8 on: the fork server imports the program, and forks it.
PRELOADING = """
from multiprocessing import spawn

def preparation(name, data_of=spawn.get_preparation_data):
    data = data_of(name)
    return data | {"main_path": data.get("init_main_from_path")}

spawn.get_preparation_data = preparation
"""


def output_of(folder: Path, *arguments: str, program: str = "") -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, with a program on standard input."""
    return subprocess.run(
        [sys.executable, *arguments],
        input=program,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("preloading", ["", PRELOADING], ids=["imported", "preloaded"])
@pytest.mark.parametrize("resume", ["", "resume=0"])
def test_a_program_without_a_guard_is_told_about_it(
    tmp_path: Path, resume: str, preloading: str
) -> None:
    program = tmp_path / "unguarded.py"
    program.write_text(preloading + UNGUARDED.format(resume=resume))
    ended = output_of(tmp_path, str(program))
    assert ended.returncode == 1
    assert "this process imports the program that started it" in ended.stderr
    last = ended.stderr.rstrip().splitlines()[-1]
    assert "before it began" in last
    assert 'below `if __name__ == "__main__":`' in last
    assert "resume" not in last


def test_a_program_on_standard_input_is_refused(tmp_path: Path) -> None:
    ended = output_of(tmp_path, "-", program=UNGUARDED.format(resume=""))
    assert "the program comes from standard input" in ended.stderr.rstrip().splitlines()[-1]


def test_an_exit_is_a_death_too() -> None:
    graph = Graph()
    graph.add(leave, graph.add(numbers, count=1), restart=False)
    with pytest.raises(KernelDied, match="kernel 'leave', worker 0 ended with exit status 7"):
        graph.run()


def leave(n: int) -> None:
    os._exit(7)


# Errors pickle ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (GraphError("text"), (ipcheap.Error, ValueError)),
        (KernelDied("text"), (ipcheap.Error, ConnectionResetError)),
        (PoisonRecord("text"), (KernelDied,)),
        (graphs.HostLost("text", "host"), (ipcheap.Error, ConnectionResetError)),
        (GraphStopped("text"), (ipcheap.Error, RuntimeError)),
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_errors_are_what_they_are_said_to_be_and_pickle(
    error: Exception, bases: tuple[type, ...]
) -> None:
    assert isinstance(error, bases)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), "text", vars(error))


# The heap ---------------------------------------------------------------------------------


def test_the_heap_of_a_named_graph_is_visible_and_removed_at_the_end(heap_name: str) -> None:
    graph = Graph(heap_name, capacity="4MiB")
    node = graph.input()
    graph.add(same, node)
    with graph.start(**THREADS) as run:
        assert testing.heaps_left(heap_name) == [heap_name]
        with ipcheap.Heap.attach(heap_name) as heap:
            plan = json.loads(bytes(heap.channel("plan").view).rstrip(b"\0"))  # type: ignore[attr-defined]
        assert run.heap.name == heap_name
        assert run.heap.capacity == 4 << 20
        with pytest.raises(ipcheap.HeapExists, match="Give this graph another name"):
            graph.start(**THREADS)
        assert testing.heaps_left(heap_name) == [heap_name]
    assert testing.heaps_left(heap_name) == []
    assert list(plan["kernels"]) == ["same"]
    assert plan["kernels"]["same"]["inputs"] == ["input"]


def test_a_graph_without_a_name_has_a_heap_without_one() -> None:
    graph = Graph()
    graph.add(same, graph.add(numbers, count=1))
    with graph.start(**THREADS) as run:
        assert (run.heap.name, run.heap.shm) == (None, "memfd")


# Statistics -------------------------------------------------------------------------------


def test_statistics_tell_where_the_graph_waits() -> None:
    release = threading.Event()

    def wait(n: int) -> int:
        release.wait(60)
        return n

    graph = Graph()
    source = graph.add(numbers, count=100)
    graph.add(same, graph.add(wait, source, slots=8), name="idle")
    with graph.start(**THREADS) as run:
        testing.until(lambda: [edge.held for edge in run.statistics().edges] == [1, 0])
        testing.until(lambda: run.statistics().edges[0].pending == 7)
        testing.until(lambda: run.statistics().kernels["numbers"].waits[1])
        testing.until(lambda: run.statistics().kernels["idle"].waits[0])
        first = run.statistics()
        text = run.picture()
        into, out = first.edges
        assert first.state == "running"
        assert first.bottleneck == "wait"
        assert (into.source, into.port, into.target) == ("numbers", "", "wait")
        assert (into.sent, into.pending, into.held, into.capacity) == (8, 7, 1, 8)
        assert (into.blocked, out.blocked, into.dropped) == ("full", "empty", 0)
        assert first.kernels["numbers"].waits == (0.0, 1.0)
        assert first.kernels["idle"].waits == (1.0, 0.0)
        assert first.kernels["wait"].workers == 1
        assert "8 of 8" in text
        release.set()
    last = run.statistics()
    assert last.edges[0].sent == 100
    assert last.edges[0].rate > 0


def test_pids_are_those_of_living_processes() -> None:
    graph = Graph()
    node = graph.input()
    kernel = graph.add(pid, node, processes=2)
    port = graph.output(kernel)
    with graph.start() as run:
        run.send(node, 1)
        run.send(node, 2)
        results = run.results(port)
        got = {next(results), next(results)}
        assert set(run.pids(kernel)) == got
        assert run.pids(node) == []
        run.close_input(node)
        assert list(results) == []
    assert run.pids(kernel) == []


# Programs ---------------------------------------------------------------------------------

PROGRAM = """
import itertools, os, signal, sys, time
from ipcheap.graph import Graph

def endless():
    yield from itertools.count()

def show(n):
    if n == 100:
        print(os.getpid(), flush=True)

def slow(n):
    time.sleep(3600)

if __name__ == "__main__":
    graph = Graph({name!r})
    source = graph.add(endless)
    graph.add(show, source)
    if {stuck}:
        graph.add(slow, source, slots=512)
    graph.run(grace={grace})
"""


@contextlib.contextmanager
def program(tmp_path: Path, **how: Any) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """Run a program with a graph; yield it and the processes that it has started."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM.format(**{"name": None, "stuck": False, "grace": 5.0} | how))
    running = subprocess.Popen(
        [sys.executable, "-W", "error", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert running.stdout is not None
        assert running.stdout.readline()
        children = [one.pid for one in psutil.Process(running.pid).children(recursive=True)]
        yield running, children
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.communicate()


def test_ctrl_c_stops_the_graph_and_leaves_nothing(tmp_path: Path) -> None:
    with program(tmp_path) as (running, children):
        os.killpg(running.pid, signal.SIGINT)  # as a terminal does
        _, errors = running.communicate(timeout=testing.PATIENCE)
        assert running.returncode == -signal.SIGINT
        assert errors.rstrip().endswith("KeyboardInterrupt")
        assert errors.count("Traceback") == 1
        testing.until(lambda: are_gone(children))


def test_ctrl_c_aborts_what_does_not_stop(tmp_path: Path) -> None:
    with program(tmp_path, stuck=True, grace=0.5) as (running, children):
        os.killpg(running.pid, signal.SIGINT)
        _, errors = running.communicate(timeout=testing.PATIENCE)
        assert running.returncode == -signal.SIGINT
        assert errors.rstrip().endswith("KeyboardInterrupt")
        testing.until(lambda: are_gone(children))


def test_a_second_ctrl_c_aborts(tmp_path: Path) -> None:
    with program(tmp_path, stuck=True, grace=15.0) as (running, children):
        begin = time.monotonic()
        os.killpg(running.pid, signal.SIGINT)
        time.sleep(1.0)
        assert running.poll() is None
        os.killpg(running.pid, signal.SIGINT)
        time.sleep(0.5)
        running.communicate(timeout=testing.PATIENCE)
        assert time.monotonic() - begin < 25
        testing.until(lambda: are_gone(children))


@pytest.mark.parametrize("stuck", [False, True])
def test_a_killed_program_leaves_no_process_and_no_heap(tmp_path: Path, stuck: bool) -> None:
    with program(tmp_path, stuck=stuck) as (running, children):
        assert children
        running.kill()
        running.wait()
        testing.until(lambda: are_gone(children))
    # Its heap was a memfd, which the last of its processes has taken along.


def test_a_killed_program_with_a_named_graph_leaves_no_heap(tmp_path: Path, heap_name: str) -> None:
    with program(tmp_path, name=heap_name) as (running, children):
        assert testing.heaps_left(heap_name)
        running.kill()
        running.wait()
        testing.until(lambda: are_gone(children))
    assert not testing.heaps_left(heap_name)

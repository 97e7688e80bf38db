"""`ipcheap.testing` for graphs: a kernel that is fed, and a run whose workers are murdered."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ipcheap
from ipcheap import testing
from ipcheap.graph import Flow, Graph, GraphError, KernelDied, here
from ipcheap.testing import feed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ipcheap.graph.murder import Murder


def numbers(count: int, resume: int = 0) -> Iterator[int]:
    for n in range(resume, count):
        time.sleep(0.002)
        yield n


def once(count: int) -> Iterator[int]:
    for n in range(count):
        time.sleep(0.01)
        yield n


def double(n: int, times: int = 2) -> int:
    return times * n


def even(n: int) -> int | None:
    return n if n % 2 == 0 else None


def up_to(n: int) -> Iterator[int | None]:
    yield from range(n)
    yield None


class Sum:
    def __init__(self, start: int = 0) -> None:
        self.total = start
        self.told = ""

    def setup(self) -> None:
        self.told += "s"

    def process(self, n: int) -> int:
        self.total += n
        self.told += "p"
        return self.total

    def finish(self) -> Iterator[int]:
        self.told += "f"
        yield -self.total

    def teardown(self) -> None:
        self.told += "t"

    def snapshot(self) -> int:
        return self.total

    def restore(self, total: int) -> None:
        self.total = total


def test_the_testing_tools_import_graphs_only_when_they_are_used() -> None:
    code = "import sys, ipcheap.testing; sys.exit('ipcheap.graph' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=60).returncode == 0


# feed -------------------------------------------------------------------------------------


def test_any_form_of_kernel_is_fed() -> None:
    def changes(items: Flow[int]) -> Iterator[int]:
        last = None
        for item in items:
            if item != last:
                yield item
            last = item

    def count(items: Flow[int]) -> int:
        return sum(1 for _ in items)

    assert feed(double, [1, 2]) == [2, 4]
    assert feed(double, [1, 2], times=5) == [5, 10]
    assert feed(even, range(5)) == [0, 2, 4]
    assert feed(up_to, [2, 0, 1]) == [0, 1, 0]
    assert feed(Sum, [1, 2], start=10) == [11, 13, -13]
    assert feed(changes, [1, 1, 2]) == [1, 2]
    assert feed(count, [1, 1, 2]) == [3]
    assert feed(numbers, count=3) == [0, 1, 2]
    assert feed(numbers, count=3, resume=2) == [2]


def test_an_instance_is_used_itself() -> None:
    made = Sum()
    assert feed(made, [1, 2]) == [1, 3, -3]
    assert made.told == "sppft"


def test_an_object_is_torn_down_after_an_error() -> None:
    made = Sum()
    with pytest.raises(TypeError):
        feed(made, ["text"])
    assert made.told == "st"


def test_several_inputs_are_several_iterables() -> None:
    assert feed(lambda a, b: a + b, [1, 2, 3], [10, 20]) == [11, 22]


def test_batches_are_those_of_a_graph() -> None:
    assert feed(sum, range(5), batch=2) == [1, 5, 4]
    assert feed(lambda items: [n + 1 for n in items], range(5), batch=2) == [1, 2, 3, 4, 5]
    assert feed(lambda _, batch: batch, range(2), params={"batch": 7}) == [7, 7]


def test_items_are_what_a_graph_would_give() -> None:
    array = np.zeros(2)

    def change(item: Any) -> Any:
        item += 1
        return item

    def view(item: memoryview) -> tuple[str, bool, bytes]:
        return type(item).__name__, item.readonly, bytes(item)

    with pytest.raises(ValueError, match="read-only"):
        feed(change, [array])
    assert [one.tolist() for one in feed(change, [array], inplace=True)] == [[1, 1]]
    assert array.tolist() == [0, 0]
    assert feed(view, [b"ab"]) == [("memoryview", True, b"ab")]
    assert feed(lambda item: type(item).__name__, [bytearray(b"x"), memoryview(b"y")]) == [
        "bytes",
        "bytes",
    ]
    assert feed(lambda _: here(), [1]) == []


def test_what_cannot_be_fed_is_said() -> None:
    def record(item: ipcheap.Record) -> None: ...

    with pytest.raises(GraphError, match="kernel 'record' takes records, which are in a heap"):
        feed(record, [b"x"])
    with pytest.raises(GraphError, match="'double' with 2 inputs"):
        feed(double, [1], [2], times=3)
    with pytest.raises(GraphError, match="has no parameter 'size'"):
        feed(double, [1], size=3)
    with pytest.raises(GraphError, match="batch is for kernels with one input"):
        feed(lambda a, _: a, [1], [2], batch=2)


# murder -----------------------------------------------------------------------------------


def until_killed(killer: Murder, results: Iterator[Any]) -> list[Any]:
    """Return results until some workers were killed: a busy machine starts them slowly again."""
    got = []
    for item in results:
        got.append(item)
        if killer.kills >= 6:
            break
    return got


def test_kernels_that_are_killed_give_the_same() -> None:
    graph = Graph()
    source = graph.add(numbers, count=400)
    port = graph.output(graph.add(Sum, graph.add(double, source, processes=2)))
    expected = graph.collect(port, runner="threads")
    with graph.start() as run:
        results = run.results(port)
        with testing.murder(run, seed=3, every=(0.02, 0.1)) as killer:
            got = until_killed(killer, results)
        got += results
        statistics = run.wait()
    assert got == expected
    assert sum(kernel.restarts for kernel in statistics.kernels.values()) >= 4


def test_only_the_chosen_kernels_are_killed() -> None:
    graph = Graph()
    node = graph.add(double, graph.add(once, count=100))
    port = graph.output(node)
    with graph.start() as run:
        results = run.results(port)
        with testing.murder(run, every=(0.05, 0.1), kernels=[node]) as killer:
            got = until_killed(killer, results)
        assert [*got, *results] == [2 * n for n in range(100)]
        kernels = run.wait().kernels
    assert killer.kills >= kernels["double"].restarts > 0
    assert kernels["once"].restarts == 0


def test_a_kernel_that_does_not_survive_is_found() -> None:
    graph = Graph()
    port = graph.output(graph.add(once, count=10_000))
    with (
        pytest.raises(KernelDied, match="'once'"),
        graph.start() as run,
        testing.murder(run, every=(0.05, 0.1), kernels=["once"]),
    ):
        list(run.results(port))


def test_murder_ends_with_its_block() -> None:
    graph = Graph()
    port = graph.output(graph.add(numbers, count=100))
    with graph.start() as run:
        with testing.murder(run, every=(0.0, 0.0)) as killer:
            testing.until(lambda: killer.kills)
        kills = killer.kills
        assert list(run.results(port)) == list(range(100))
        assert killer.kills == kills


def test_threads_cannot_be_murdered() -> None:
    graph = Graph()
    graph.add(numbers, count=1)
    with graph.start(runner="threads") as run:
        with pytest.raises(ValueError, match="runner='threads' has no processes"):
            testing.murder(run)
        assert run.pids(graph["numbers"]) in ([os.getpid()], [])
    with graph.start() as run, pytest.raises(GraphError, match="'other' is no kernel of this run"):
        testing.murder(run, kernels=["other"])

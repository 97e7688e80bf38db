"""Graphs: edges of the newest item, and edges of windows."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ipcheap
from ipcheap import graph as graphs
from ipcheap import testing
from ipcheap.graph import Flow, Graph, GraphError, GraphStopped, here

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ipcheap.graph import Node, Port
    from ipcheap.graph.murder import Murder
    from ipcheap.graph.runner import Run

THREADS: dict[str, Any] = {"runner": "threads"}
BOTH = pytest.mark.parametrize("runner", ["processes", "threads"])

Array = np.ndarray[Any, Any]

# Kernels ----------------------------------------------------------------------------------


def numbers(count: int, pause: float = 0.0, resume: int = 0) -> Iterator[int]:
    for n in range(resume, count):
        yield n
        if pause:
            time.sleep(pause)


def pictures(count: int, pause: float = 0.0) -> Iterator[Array]:
    for n in range(count):
        yield np.full(1000, n)
        time.sleep(pause)


def several(*items: Any) -> Callable[[], Iterable[Any]]:
    """Return a source of given items, for graphs in threads."""
    return lambda: items


def same(item: Any) -> Any:
    return item


def slowly(item: Any) -> Any:
    time.sleep(0.02)
    return item


def sequence(item: Any) -> int:
    now = here()
    assert now is not None
    return now.sequence


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


def where(picture: Array) -> tuple[int, int]:
    time.sleep(0.002)
    return int(picture[0]), address(picture)


class Total:
    """Adds up what it sees."""

    def __init__(self) -> None:
        self.total = 0

    def process(self, n: int) -> tuple[int, int]:
        self.total += n
        return n, self.total

    def snapshot(self) -> int:
        return self.total

    def restore(self, state: int) -> None:
        self.total = state


def samples(sizes: list[int], resume: int = 0) -> Iterator[Array]:
    """Yield consecutive numbers in arrays of these sizes."""
    at = sum(sizes[:resume])
    for size in sizes[resume:]:
        yield np.arange(at, at + size)
        at += size


def halves(array: Array) -> Iterator[Array]:
    middle = len(array) // 3
    yield array[:middle]
    yield array[middle:]


def listed(window: Array) -> list[int]:
    return window.tolist()  # type: ignore[no-any-return]


def windows_of(count: int, window: int, hop: int) -> list[list[int]]:
    """Return the windows of consecutive numbers."""
    return [list(range(at, at + window)) for at in range(0, count - window + 1, hop)]


def latest(kernel: Any, source: Any, **options: Any) -> tuple[Graph, Node]:
    """Return a graph of a source and a kernel that sees the newest item, and its node."""
    graph = Graph()
    return graph, graph.add(kernel, graph.add(source, name="source"), full="latest", **options)


def latest_of(kernel: Any, *items: Any, **options: Any) -> list[Any]:
    """Return what a kernel gives of the newest of some items, in a graph that runs in threads."""
    graph, node = latest(kernel, several(*items), **options)
    return graph.collect(node, **THREADS)


def windowed(kernel: Any, *items: Any, **options: Any) -> list[Any]:
    """Return what a kernel gives for windows of some arrays, in a graph that runs in threads."""
    graph = Graph()
    node = graph.add(kernel, graph.add(several(*items), name="source"), **options)
    return graph.collect(node, **THREADS)


def first_difference(got: list[Any], wanted: list[Any]) -> Any:
    """Return where two long lists differ first, and how; None if they do not."""
    for n, (one, other) in enumerate(itertools.zip_longest(got, wanted)):
        if one != other:
            return n, str(one)[:80], str(other)[:80], len(got), len(wanted)
    return None


@contextlib.contextmanager
def killing(run: Run, *nodes: Node, seed: int = 0, most: int = 5) -> Iterator[Murder]:
    """Kill some processes of these nodes at random, while they work."""
    ended = threading.Event()
    with testing.murder(run, seed, every=(0.15, 0.45), kernels=nodes) as killer:

        def enough() -> None:
            while killer.kills < most and not ended.wait(0.05):
                pass
            killer.__exit__()

        thread = threading.Thread(target=enough)
        thread.start()
        try:
            yield killer
        finally:
            ended.set()
            thread.join()


# The newest item ----------------------------------------------------------------------------


@BOTH
def test_a_reader_sees_the_newest_item_only_and_always_the_last(runner: str) -> None:
    graph = Graph()
    node = graph.add(slowly, graph.add(numbers, count=200, pause=0.001), full="latest")
    got = graph.collect(node, runner=runner)
    assert got == sorted(set(got))
    assert len(got) < 150
    assert got[-1] == 199


def test_a_slow_reader_does_not_slow_its_source() -> None:
    seen: list[float] = []

    def stamps() -> Iterator[float]:
        for _ in range(1000):
            yield time.monotonic()

    def sleeper(stamp: float) -> None:
        seen.append(stamp)
        time.sleep(0.2)

    graph, _ = latest(sleeper, stamps)
    statistics = graph.run(**THREADS)
    assert 1 <= len(seen) <= 10
    assert statistics.edges[0].sent == 1000
    assert statistics.edges[0].blocked is None
    assert statistics.seconds < 10


@pytest.mark.parametrize(
    "item",
    [b"abc", b"", "text", 7, {"a": [1, 2]}, bytearray(b"abc"), memoryview(b"abc")],
    ids=lambda item: type(item).__name__,
)
def test_items_of_any_kind_arrive_as_they_were(item: Any) -> None:
    (got,) = latest_of(same, item)
    assert got == item
    assert type(got) is (bytes if isinstance(item, (bytearray, memoryview)) else type(item))


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.array(3),
        np.zeros(0, "i2"),
        np.array([(1, 2.5)], dtype=[("a", "i4"), ("b", "f8")]),
    ],
)
def test_arrays_are_views_that_cannot_be_written_to(array: Array) -> None:
    seen: list[Array] = []
    latest_of(seen.append, array)
    (got,) = seen
    assert got.dtype == array.dtype
    assert got.tolist() == array.tolist()
    assert not got.flags.writeable
    with pytest.raises(ValueError, match="cannot set WRITEABLE"):
        got.flags.writeable = True


def test_arrays_in_objects_are_read_only_and_live_on() -> None:
    seen: list[dict[str, Array]] = []
    latest_of(seen.append, {"a": np.arange(100_000)})
    assert not seen[0]["a"].flags.writeable
    assert seen[0]["a"].tolist() == list(range(100_000))


def test_a_view_is_given_if_the_annotation_asks_for_it() -> None:
    def kernel(item: memoryview) -> tuple[bytes, bool]:
        return bytes(item), item.readonly

    assert latest_of(kernel, b"abc") == [(b"abc", True)]


def test_arrays_that_a_kernel_keeps_stay_what_they_were() -> None:
    kept: list[tuple[int, Array]] = []

    def keep(picture: Array) -> None:
        kept.append((int(picture[0]), picture))

    graph, _ = latest(keep, lambda: pictures(300))
    graph.run(**THREADS)
    assert len(kept) > 1
    for n, picture in kept:
        assert (picture == n).all()


def test_several_kernels_and_workers_share_one_item() -> None:
    graph = Graph()
    source = graph.add(pictures, count=50, pause=0.002)
    seen: dict[int, set[int]] = {}

    def look(picture: Array) -> None:
        seen.setdefault(int(picture[0]), set()).add(address(picture))

    graph.add(look, source, full="latest", threads=3)
    graph.add(look, source, full="latest")
    statistics = graph.run(**THREADS)
    assert len(seen) > 10
    assert max(len(addresses) for addresses in seen.values()) == 1
    assert [edge.sent for edge in statistics.edges] == [50, 50]


def test_every_worker_sees_the_last_item() -> None:
    graph = Graph()
    source = graph.add(numbers, count=20, pause=0.002)
    node = graph.add(sequence, source, full="latest", threads=3)
    got = graph.collect(node, **THREADS)
    assert {3 * 19, 3 * 19 + 1, 3 * 19 + 2} <= set(got)
    assert len(got) == len(set(got))  # also with several workers, a call has its own number


def test_memory_does_not_grow_with_the_items() -> None:
    used: list[int] = []

    def big(count: int) -> Iterator[Array]:
        for n in range(count):
            yield np.full(100_000, n, "i4")

    def look(picture: Array) -> None:
        now = here()
        assert now is not None
        used.append(now.heap.statistics().records)

    graph = Graph(capacity="8MiB")
    source = graph.add(big, count=400)
    for _ in range(3):
        graph.add(look, source, full="latest")
    graph.run(**THREADS)
    assert max(used) <= 1 + 3 + 1  # the newest, one for each reader, and one that is being sent


def test_a_record_goes_into_the_store_without_a_copy() -> None:
    seen: list[int] = []

    def look(array: Array) -> Array:
        seen.append(address(array))
        return array

    graph = Graph()
    one = graph.add(look, graph.add(pictures, count=1))
    graph.add(look, one, full="latest", name="two")
    graph.run(**THREADS)
    assert seen[0] == seen[1]


def test_a_shared_item_that_goes_on_is_copied() -> None:
    seen: dict[str, int] = {}

    def look(array: Array) -> Array:
        now = here()
        assert now is not None
        seen[now.name] = address(array)
        return array

    graph = Graph()
    one = graph.add(look, graph.add(pictures, count=1), name="one", full="latest")
    graph.add(look, one, name="two")
    graph.run(**THREADS)
    assert seen["one"] != seen["two"]


def test_an_array_in_the_heap_is_sent_without_a_copy() -> None:
    sent: list[int] = []
    seen: list[int] = []

    def make() -> Iterator[Array]:
        array = graphs.empty(1000)
        sent.append(address(array))
        yield array

    graph = Graph()
    source = graph.add(make)
    for _ in range(2):
        graph.add(lambda array: seen.append(address(array)), source, full="latest", name="look")
    graph.run(**THREADS)
    assert seen == sent * 2


def test_the_newest_of_several_senders() -> None:
    def source() -> Iterator[tuple[int, int]]:
        now = here()
        assert now is not None
        for n in range(30):
            yield now.worker, n
            time.sleep(0.001)

    graph = Graph()
    node = graph.add(same, graph.add(source, threads=3), full="latest")
    got = graph.collect(node, **THREADS)
    for worker in range(3):
        of = [n for sender, n in got if sender == worker]
        assert of == sorted(set(of))
        assert of[-1] == 29


@pytest.mark.parametrize("count", [0, 1, 5])
def test_items_of_the_calling_program(count: int) -> None:
    graph = Graph()
    fed = graph.input()
    node = graph.output(graph.add(same, fed, full="latest"))
    with graph.start(**THREADS) as run:
        run.feed(fed, range(count))
        got = list(run.results(node))
    assert got == sorted(set(got))
    assert got[-1:] == list(range(count))[-1:]


def test_sequence_is_the_number_of_the_item() -> None:
    graph = Graph()
    source = graph.add(numbers, count=30, pause=0.001)
    node = graph.add(lambda n: (n, sequence(n)), source, full="latest", name="look")
    for n, number in graph.collect(node, **THREADS):
        assert n == number


def test_generators_objects_ports_and_flows_read_the_newest() -> None:
    def twice(n: int) -> Iterator[int]:
        yield n
        yield n

    def ports(n: int) -> dict[str, int]:
        return {"left": n}

    def flow(items: Flow[int]) -> Iterator[int]:
        for n in items:
            yield -n

    class Last:
        last = -1

        def process(self, n: int) -> None:
            self.last = n

        def finish(self) -> int:
            return self.last

    assert latest_of(twice, *range(5))[-2:] == [4, 4]
    assert latest_of(flow, *range(5))[-1] == -4
    assert latest_of(Last, *range(5)) == [4]
    graph, node = latest(ports, several(*range(5)), outputs=["left", "right"])
    graph.add(same, node["right"])
    assert graph.collect(node["left"], **THREADS)[-1] == 4


def test_a_source_ends_when_all_that_see_its_newest_item_have() -> None:
    def first(items: Flow[int]) -> Iterator[int]:
        yield next(items)

    graph = Graph()
    source = graph.add(itertools.count)
    node = graph.add(first, source, full="latest")
    other = graph.add(first, source, full="latest", threads=2)
    graph.add(same, other)
    assert len(graph.collect(node, **THREADS)) == 1


def test_an_item_that_raises_can_be_left_out() -> None:
    def picky(n: int) -> int:
        if n < 4:
            raise LookupError(n)
        return n

    assert latest_of(picky, *range(5), on_error="skip")[-1] == 4


def test_kernels_that_give_nothing() -> None:
    graph = Graph()
    odd = graph.add(lambda n: n if n % 2 else None, graph.add(numbers, count=10), name="odd")
    assert graph.collect(graph.add(same, odd, full="latest"), **THREADS)[-1] == 9


# The newest item, and kills ------------------------------------------------------------------


def test_a_killed_reader_sees_an_item_twice_at_most() -> None:
    graph = Graph()
    node = graph.add(slowly, graph.add(numbers, count=1000, pause=0.002), full="latest")
    port = graph.output(node)
    with graph.start() as run, killing(run, node) as killer:
        got = list(run.results(port))
    assert killer.kills > 1
    assert got == sorted(got)
    assert len(got) - len(set(got)) <= killer.kills
    assert got[-1] == 999


def test_killed_senders_send_every_item_once() -> None:
    graph = Graph()
    source = graph.add(numbers, count=1000, pause=0.002)
    between = graph.add(same, source, name="between")
    node = graph.output(graph.add(lambda_free, between, full="latest"))
    with graph.start() as run, killing(run, source, between) as killer:
        got = list(run.results(node))
    assert killer.kills > 1
    assert got == sorted(set(got))
    assert all(n == number for n, number in got)
    assert got[-1] == (999, 999)


def lambda_free(n: int) -> tuple[int, int]:
    return n, sequence(n)


def test_an_object_goes_on_from_its_snapshot() -> None:
    graph = Graph()
    node = graph.add(Total, graph.add(numbers, count=1000, pause=0.002), full="latest")
    port = graph.output(node)
    with graph.start() as run, killing(run, node) as killer:
        got = list(run.results(port))
    assert killer.kills > 1
    seen = [n for n, _ in got]
    assert seen == sorted(seen)
    totals = {0}
    for n, after in got:
        assert after - n in totals
        totals = {after, after - n}  # the latter if it was killed before the snapshot


# Windows --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("window", "hop"), [(1, 1), (7, 7), (7, 1), (100, 30), (64, 64), (500, 3)])
def test_a_kernel_receives_exact_windows(window: int, hop: int) -> None:
    arrays = list(samples([1, 0, 17, 400, 3, 129]))
    got = windowed(listed, *arrays, window=window, hop=hop)
    assert got == windows_of(550, window, hop)


@BOTH
def test_windows_in_processes_and_threads(runner: str) -> None:
    graph = Graph()
    node = graph.add(listed, graph.add(samples, sizes=[70] * 30), window=256, hop=100)
    assert graph.collect(node, runner=runner) == windows_of(2100, 256, 100)


def test_without_a_hop_windows_do_not_overlap() -> None:
    assert windowed(listed, *samples([10, 10]), window=5) == windows_of(20, 5, 5)


def test_what_fills_no_window_is_left_out_and_stays_pending() -> None:
    graph = Graph()
    graph.add(listed, graph.add(samples, sizes=[10, 7]), window=8)
    (edge,) = graph.run(**THREADS).edges
    assert (edge.sent, edge.pending) == (17, 1)
    assert windowed(listed, np.arange(3), window=8) == []
    assert windowed(listed, window=8) == []


def test_arrays_larger_than_the_stream() -> None:
    got = windowed(listed, np.arange(1), np.arange(1, 5000), window=10, slots=16)
    assert got == windows_of(5000, 10, 10)


@pytest.mark.parametrize(
    "item",
    [
        np.zeros((5, 2), "f4"),
        np.zeros((5, 3, 2), ">i2"),
        np.zeros(5, [("a", "u1"), ("b", "f8")]),
        np.zeros(5, "u1"),
        np.zeros(5, "S3"),
        np.zeros((10, 2), "f8")[::2],
        np.zeros((5, 4), order="F"),
    ],
)
def test_items_of_any_type_and_shape(item: Array) -> None:
    seen: list[Array] = []
    windowed(seen.append, item, item, window=10)
    (got,) = seen
    assert got.dtype == item.dtype
    assert got.tolist() == item.tolist() * 2


def test_numbers_are_items() -> None:
    assert windowed(listed, *range(6), window=3) == [[0, 1, 2], [3, 4, 5]]
    assert windowed(listed, *np.arange(4.0), window=2) == [[0, 1], [2, 3]]


def test_another_type_is_an_error_that_names_both() -> None:
    with pytest.raises(TypeError, match=r"'same'.*'source'.*int64.*float64"):
        windowed(same, np.arange(3), np.arange(3.0), window=3)
    with pytest.raises(TypeError, match=r"float64.*float64.*of shape \(2,\)"):
        windowed(same, np.zeros(3), np.zeros((3, 2)), window=3)
    for item in (b"abc", "abc", [1, 2], {"a": 1}):
        with pytest.raises(TypeError, match="give arrays or numbers"):
            windowed(same, item, window=3)
    with pytest.raises(TypeError, match="Python objects"):
        windowed(same, np.array([None]), window=3)


def test_a_window_may_be_kept() -> None:
    kept: list[Array] = []
    windowed(kept.append, *samples([50] * 20), window=30, hop=10)
    assert [window.tolist() for window in kept] == windows_of(1000, 30, 10)
    assert not kept[0].flags.writeable


def test_a_view_shows_the_stream_itself() -> None:
    def kernel(window: memoryview) -> tuple[int, str, bool]:
        return int(np.asarray(window).sum()), window.format, window.readonly

    assert windowed(kernel, np.arange(6), window=3) == [(3, "l", True), (12, "l", True)]


def test_a_window_may_be_changed_in_place() -> None:
    def halve(window: Array) -> Array:
        window //= 2
        return window

    got = windowed(halve, np.arange(8), window=4, hop=2, inplace=True)
    assert [window.tolist() for window in got] == [[0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3]]


def test_windows_go_on_as_copies() -> None:
    got = windowed(same, np.arange(8), window=4, hop=2)
    assert [window.tolist() for window in got] == windows_of(8, 4, 2)


def test_generators_objects_ports_and_flows_read_and_write_windows() -> None:
    def flow(windows: Flow[Array]) -> Iterator[list[int]]:
        for window in windows:
            yield window.tolist()

    def sides(window: Array) -> dict[str, Array]:
        return {"left": window[:2], "right": window[2:]}

    graph = Graph()
    source = graph.add(samples, sizes=[9] * 9)
    cut = graph.add(halves, source)
    node = graph.add(sides, cut, window=6, hop=3, outputs=["left", "right"])
    left = graph.output(graph.add(flow, node["left"], window=4))
    right = graph.output(graph.add(listed, node["right"]))
    total = graph.output(graph.add(Total, graph.add(len, source), name="total"))
    with graph.start(**THREADS) as run:
        threads = []
        found: dict[str, list[Any]] = {}
        for name, port in ("left", left), ("right", right), ("total", total):

            def read(name: str = name, port: Port = port) -> None:
                found[name] = list(run.results(port))

            threads.append(threading.Thread(target=read))
            threads[-1].start()
        for thread in threads:
            thread.join()
    wanted = windows_of(81, 6, 3)
    assert found["right"] == [window[2:] for window in wanted]
    firsts = [n for window in wanted for n in window[:2]]
    assert found["left"] == [firsts[at : at + 4] for at in range(0, len(firsts) - 3, 4)]
    assert found["total"][-1] == (9, 81)


def test_arrays_of_the_calling_program() -> None:
    graph = Graph()
    fed = graph.input()
    node = graph.output(graph.add(listed, fed, window=5, hop=2))
    with graph.start(**THREADS) as run:
        run.feed(fed, samples([3, 20, 8]))
        assert list(run.results(node)) == windows_of(31, 5, 2)


def test_an_input_without_an_array_ends() -> None:
    graph = Graph()
    fed = graph.input()
    node = graph.output(graph.add(listed, fed, window=5))
    with graph.start(**THREADS) as run:
        run.close_input(fed)
        assert list(run.results(node)) == []


def test_sending_without_room_times_out_and_sends_nothing() -> None:
    going = threading.Event()

    def wait(window: Array) -> list[int]:
        going.wait(10)
        return listed(window)

    graph = Graph()
    fed = graph.input()
    node = graph.output(graph.add(wait, fed, window=4))
    with graph.start(**THREADS) as run:
        sent = 0

        def fill() -> None:
            nonlocal sent
            while sent < 1000:
                run.send(fed, np.arange(sent, sent + 4), timeout=0.1)
                sent += 4

        with pytest.raises(TimeoutError):
            fill()
        going.set()
        run.close_input(fed)
        assert list(run.results(node)) == windows_of(sent, 4, 4)


def test_a_source_ends_when_nobody_reads_its_windows() -> None:
    def first(windows: Flow[Array]) -> Iterator[int]:
        yield len(next(windows))

    def endless() -> Iterator[Array]:
        while True:
            yield np.arange(100)

    graph = Graph()
    node = graph.add(first, graph.add(endless), window=10)
    assert graph.collect(node, **THREADS) == [10]


# Windows, and kills ---------------------------------------------------------------------------


class Sums:
    """Adds up windows."""

    def __init__(self) -> None:
        self.total = 0

    def process(self, window: Array) -> tuple[int, int]:
        time.sleep(0.002)
        self.total += int(window.sum())
        return int(window[0]), self.total

    def snapshot(self) -> int:
        return self.total

    def restore(self, state: int) -> None:
        self.total = state


def some_windows(window: Array) -> Iterator[list[int]]:
    """Yield a window, perhaps twice."""
    time.sleep(0.002)
    yield window.tolist()
    if window[0] % 2:
        yield window.tolist()


@pytest.mark.parametrize("seed", [1, 2])
def test_windows_arrive_exactly_once_after_any_kill(seed: int) -> None:
    chance = random.Random(seed)
    sizes = [chance.choice([0, 1, 10, 300, 5000]) for _ in range(60)]
    graph = Graph()
    source = graph.add(samples, sizes=sizes)
    between = graph.add(halves, source)
    node = graph.add(some_windows, between, window=400, hop=150)
    port = graph.output(node)
    with graph.start() as run, killing(run, source, between, node, seed=seed) as killer:
        got = list(run.results(port))
    wanted = []
    for window in windows_of(sum(sizes), 400, 150):
        wanted += [window, window] if window[0] % 2 else [window]
    assert killer.kills > 1
    assert first_difference(got, wanted) is None


def test_snapshots_of_windows() -> None:
    sizes = [100] * 300
    graph = Graph()
    source = graph.add(samples, sizes=sizes)
    node = graph.add(Sums, source, window=60, hop=20, checkpoint=5)
    port = graph.output(node)
    with graph.start() as run, killing(run, source, node) as killer:
        got = list(run.results(port))
    assert killer.kills > 1
    totals = itertools.accumulate(sum(window) for window in windows_of(30_000, 60, 20))
    wanted = list(zip(range(0, 30_000, 20), totals, strict=False))
    assert first_difference(got, wanted) is None


def test_a_source_of_windows_and_items_resumes_both() -> None:
    sizes = [3, 500, 1] * 60
    graph = Graph()
    source = graph.add(samples, sizes=sizes)
    windows = graph.output(graph.add(some_windows, source, window=100))
    lengths = graph.output(graph.add(len, source))
    with graph.start() as run, killing(run, source) as killer:
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.extend(run.results(lengths)))
        thread.start()
        got = list(run.results(windows))
        thread.join()
    assert killer.kills
    assert found == sizes
    windows_once = [window for window, _ in itertools.groupby(got)]
    assert first_difference(windows_once, windows_of(sum(sizes), 100, 100)) is None


# Ends -----------------------------------------------------------------------------------------


def never() -> Iterator[int]:
    now = here()
    assert now is not None
    while not now.stopping:
        time.sleep(0.01)
    yield from ()


def stuck(item: Any) -> None:
    time.sleep(60)


def fail(item: Any) -> None:
    raise LookupError("no")


@BOTH
@pytest.mark.parametrize("options", [{"full": "latest"}, {"window": 10}])
def test_an_abort_wakes_all_that_wait(runner: str, options: dict[str, Any]) -> None:
    graph = Graph()
    node = graph.output(graph.add(same, graph.add(never), **options))
    run = graph.start(runner=runner, grace=60)
    threading.Timer(0.5, run.abort).start()
    begun = time.monotonic()
    with pytest.raises(GraphStopped):
        list(run.results(node))
    with pytest.raises(GraphStopped):
        run.wait()
    assert time.monotonic() - begun < 40  # less than the grace
    run.heap.close()


def test_an_abort_wakes_a_sender_without_room() -> None:
    graph = Graph()
    source = graph.add(samples, sizes=[1000] * 50)
    graph.add(stuck, source, window=10)
    run = graph.start(grace=0.5)
    deadline = time.monotonic() + 10
    while run.statistics().edges[0].blocked != "full" and time.monotonic() < deadline:
        time.sleep(0.02)
    assert run.statistics().edges[0].blocked == "full"
    run.abort()
    with pytest.raises(GraphStopped):
        run.wait()
    assert run.pids(source) == []
    run.heap.close()


@BOTH
@pytest.mark.parametrize("options", [{"full": "latest"}, {"window": 1}])
def test_an_error_ends_the_graph(runner: str, options: dict[str, Any]) -> None:
    graph = Graph()
    graph.add(fail, graph.add(numbers, count=10**6, pause=0.001), **options)
    with pytest.raises(LookupError, match="no"):
        graph.run(runner=runner)


@pytest.mark.parametrize("options", [{"full": "latest"}, {"window": 1}])
def test_a_stop_ends_with_what_is_under_way(options: dict[str, Any]) -> None:
    graph = Graph()
    node = graph.add(same, graph.add(numbers, count=10**6, pause=0.001), **options)
    port = graph.output(node)
    with graph.start(duration=0.3) as run:
        got = list(run.results(port))
    assert got
    assert run.statistics().edges[0].sent < 10**6


@BOTH
@pytest.mark.parametrize("options", [{"full": "latest"}, {"window": 10}])
def test_all_memory_comes_back(options: dict[str, Any], runner: str) -> None:
    name = f"graph-edges-{os.getpid()}"
    graph = Graph(name)
    graph.add(same, graph.add(pictures, count=50, pause=0.005), **options)
    run = graph.start(runner=runner)
    with ipcheap.Heap.attach(name) as heap:
        run.wait()
        assert heap.check() == []
        for channel in list(heap.channels):
            heap.remove_channel(channel)  # nobody has kept a side
        assert heap.statistics().records == 0
        assert heap.check() == []
    with pytest.raises(ipcheap.HeapNotFound):
        ipcheap.Heap.attach(name)


# Looking --------------------------------------------------------------------------------------


def test_pictures_and_data_know_the_kinds() -> None:
    graph = Graph()
    source = graph.add(numbers, count=3)
    graph.add(same, source, full="latest", name="newest")
    graph.add(same, source, window=2, hop=1, name="windows")
    assert graph.check() == []
    assert graph.picture("dot").count("style=dotted") == 2
    data = graph.to_dict()
    assert data["kernels"]["newest"]["full"] == "latest"
    assert Graph.from_dict(data).to_dict() == data
    statistics = graph.run(**THREADS)
    assert statistics.bottleneck is None
    newest, windows = statistics.edges
    assert (newest.sent, newest.capacity, newest.dropped) == (3, 0, 0)
    assert (windows.sent, windows.pending, windows.capacity) == (3, 1, 16)


# What cannot be wired ---------------------------------------------------------------------------


def of_record(item: ipcheap.Record) -> None: ...


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"full": "latest", "batch": 2}, "batch does not go with full='latest'"),
        ({"full": "latest", "key": len}, "key does not go with full='latest'"),
        ({"full": "latest", "inplace": True}, "change a copy"),
        ({"full": "latest", "slots": 4}, "leave out slots"),
        ({"full": "latest", "window": 4}, "window does not go with full='latest'"),
        ({"full": "drop", "window": 4}, "window does not go with full='drop'"),
        ({"window": 4, "batch": 2}, "batch does not go with window"),
        ({"window": 4, "key": len}, "key does not go with window"),
        ({"window": 4, "processes": 2}, "one worker.*spread the work behind it"),
        ({"window": 4, "hop": 5}, "hop is at most window, which is 4, not 5"),
        ({"window": 0}, "window must be at least 1"),
        ({"window": 4, "hop": 0}, "hop must be at least 1"),
        ({"hop": 4}, "say window, too"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], text: str) -> None:
    graph = Graph()
    source = graph.add(numbers, count=1)
    with pytest.raises(GraphError, match=text):
        graph.add(same, source, **options)


def test_kernels_that_cannot_have_such_edges() -> None:
    graph = Graph()
    source = graph.add(numbers, count=1)
    many = graph.add(same, source, processes=2)
    with pytest.raises(GraphError, match="a stream has one writer, and kernel 'same' has 2"):
        graph.add(same, many, window=4)
    kinds: list[dict[str, Any]] = [{"full": "latest"}, {"window": 4}]
    for options in kinds:
        with pytest.raises(GraphError, match="Record"):
            graph.add(of_record, source, **options)
        with pytest.raises(GraphError, match="one input"):
            graph.add(max, source, many, **options)
        with pytest.raises(GraphError, match="one input"):
            graph.add(same, [source, many], **options)
        far = graph.add(numbers, count=1, on="far", name="far")
        graph.add(same, far, on="near", name="near", **options)
        assert [text for text in graph.check() if "leads to another host" in text]
    with pytest.raises(GraphError, match="checkpoint is 1"):
        graph.add(Total, source, full="latest", checkpoint=2)

"""Graphs: what kernels may be, what they are given, and in which order."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ipcheap
from ipcheap import graph as graphs
from ipcheap import testing
from ipcheap.graph import Flow, Graph, GraphError, here
from ipcheap.graph.writer import worker_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ipcheap.graph import Port

THREADS: dict[str, Any] = {"runner": "threads"}
BOTH = pytest.mark.parametrize("runner", ["processes", "threads"])

Array = np.ndarray[Any, Any]


# Kernels that tests share -----------------------------------------------------------------


def numbers(count: int) -> Iterator[int]:
    yield from range(count)


def several(*items: Any) -> Callable[[], Iterable[Any]]:
    """Return a source of given items, for graphs in threads."""
    return lambda: items


def double(n: int) -> int:
    return 2 * n


def even(n: int) -> int | None:
    return n if n % 2 == 0 else None


def up_to(n: int) -> Iterator[int]:
    yield from range(n % 4)


def same(item: Any) -> Any:
    return item


def pid_of(item: Any) -> int:
    return os.getpid()


def who(item: Any) -> tuple[Any, int]:
    now = here()
    assert now is not None
    return item, now.worker


def address(array: Array) -> int:
    return int(array.__array_interface__["data"][0])


class Sum:
    """Adds up, from a number on; tells what happens to it."""

    def __init__(self, start: int = 0) -> None:
        self.total = start
        self.told: list[str] = ["init"]

    def setup(self) -> None:
        self.told.append("setup")

    def process(self, n: int) -> None:
        self.told.append(f"process {n}")
        self.total += n

    def finish(self) -> tuple[int, list[str]]:
        return self.total, [*self.told, "finish"]

    def teardown(self) -> None:
        self.told.append("teardown")


class Counting(Sum):
    """The same, with snapshots, and an output for each item."""

    def process(self, n: int) -> int:  # type: ignore[override]
        self.total += n
        return self.total

    def finish(self) -> Iterator[int]:  # type: ignore[override]
        yield -1
        yield -self.total

    def snapshot(self) -> int:
        return self.total

    def restore(self, state: int) -> None:
        self.total = state


def collected(kernel: Any, *items: Any, **options: Any) -> list[Any]:
    """Return what a kernel gives for items, in a graph that runs in threads."""
    graph = Graph()
    node = graph.add(kernel, graph.add(several(*items), name="items"), **options)
    return graph.collect(node, **THREADS)


# Forms of kernels -------------------------------------------------------------------------


@BOTH
def test_items_go_through_kernels_in_order(runner: str) -> None:
    graph = Graph()
    node = graph.add(double, graph.add(numbers, count=100))
    assert list(graph.results(node, runner=runner)) == [2 * n for n in range(100)]


@pytest.mark.parametrize("items", [[1, 2], (1, 2), iter([1, 2]), {1: "a", 2: "b"}])
def test_a_source_returns_any_iterable(items: Any) -> None:
    graph = Graph()
    assert graph.collect(graph.add(lambda: items), **THREADS) == [1, 2]


def test_a_source_that_returns_no_iterable_is_an_error() -> None:
    graph = Graph()
    with pytest.raises(TypeError, match="source 'one' returned int, which is no iterable"):
        graph.collect(graph.add(lambda: 1, name="one"), **THREADS)


def test_a_source_is_called_once_per_worker() -> None:
    graph = Graph()
    node = graph.add(numbers, count=3, threads=3)
    assert sorted(graph.collect(node, **THREADS)) == sorted(3 * [0, 1, 2])


def test_a_source_that_has_resume_begins_at_its_beginning() -> None:
    def begin(resume: int = 0) -> Iterator[int]:
        yield resume

    graph = Graph()
    assert graph.collect(graph.add(begin), **THREADS) == [0]


def test_a_function_that_returns_none_gives_no_output() -> None:
    assert collected(even, *range(7)) == [0, 2, 4, 6]


def test_a_generator_gives_any_number_of_outputs() -> None:
    assert collected(up_to, 3, 0, 1, 2) == [0, 1, 2, 0, 0, 1]


def test_none_that_is_yielded_is_no_output() -> None:
    def gappy(n: int) -> Iterator[int | None]:
        yield None
        yield n
        yield None

    assert collected(gappy, 1, 2) == [1, 2]
    graph = Graph()
    assert graph.collect(graph.add(several(1, None, 2)), **THREADS) == [1, 2]


@BOTH
def test_a_class_is_instantiated_in_the_worker_with_its_parameters(runner: str) -> None:
    graph = Graph()
    node = graph.add(Sum, graph.add(numbers, count=3), start=100)
    ((total, told),) = graph.collect(node, runner=runner)
    assert total == 103
    assert told == ["init", "setup", "process 0", "process 1", "process 2", "finish"]


def test_an_instance_is_pickled_for_processes() -> None:
    made = Sum(50)
    graph = Graph()
    ((total, _),) = graph.collect(graph.add(made, graph.add(numbers, count=3)))
    assert (total, made.total) == (53, 50)


def test_an_object_is_torn_down_at_the_end() -> None:
    made = Sum()
    collected(made, 1)
    assert made.told == ["init", "setup", "process 1", "teardown"]


def test_setup_finish_and_teardown_are_optional() -> None:
    class Plain:
        def process(self, n: int) -> int:
            return n + 1

    assert collected(Plain, 1, 2) == [2, 3]


def test_process_may_be_a_generator() -> None:
    class Repeats:
        def process(self, n: int) -> Iterator[int]:
            yield from n * [n]

    assert collected(Repeats, 1, 0, 3) == [1, 3, 3, 3]


def test_finish_may_be_a_generator() -> None:
    assert collected(Counting, 1, 2, 3) == [1, 3, 6, -1, -6]


def test_each_worker_has_its_own_object_and_finish() -> None:
    outputs = collected(Sum, *range(10), threads=4)
    assert sum(total for total, _ in outputs) == 45
    assert len(outputs) == 4


def test_a_flow_function_owns_its_loop() -> None:
    def changes(items: Flow[int]) -> Iterator[int]:
        last = None
        for item in items:
            if item != last:
                yield item
            last = item

    assert collected(changes, 1, 1, 2, 2, 2, 1) == [1, 2, 1]


def test_a_flow_function_may_return_one_output_or_none() -> None:
    def total(items: Flow[int]) -> int:
        return sum(items)

    def nothing(items: Flow[int]) -> None:
        for _ in items:
            pass

    assert collected(total, 1, 2, 3) == [6]
    assert collected(nothing, 1, 2, 3) == []


def test_a_flow_function_may_read_several_inputs_at_its_own_pace() -> None:
    def after(first: Flow[int], second: Flow[int]) -> Iterator[int]:
        yield from first
        yield from second

    graph = Graph()
    a, b = graph.add(several(1, 2, 3), name="a"), graph.add(several(4, 5), name="b")
    assert graph.collect(graph.add(after, a, b), **THREADS) == [1, 2, 3, 4, 5]


def test_a_callable_object_is_a_function() -> None:
    class Adds:
        def __init__(self, n: int) -> None:
            self.n = n

        def __call__(self, item: int) -> int:
            return item + self.n

    assert collected(Adds(3), 1, 2) == [4, 5]


# Several inputs and outputs ---------------------------------------------------------------


def test_a_kernel_with_several_inputs_gets_one_item_of_each() -> None:
    graph = Graph()
    a, b = graph.add(several(1, 2, 3), name="a"), graph.add(several(10, 20, 30), name="b")
    assert graph.collect(graph.add(lambda x, y: x + y, a, b), **THREADS) == [11, 22, 33]


@BOTH
def test_its_input_ends_when_the_first_of_them_ends(runner: str) -> None:
    graph = Graph()
    a, b = graph.add(numbers, count=5), graph.add(numbers, count=1000)
    node = graph.add(pair, a, b)
    assert graph.collect(node, runner=runner) == [(n, n) for n in range(5)]


def pair(a: Any, b: Any) -> tuple[Any, Any]:
    return a, b


def test_a_list_of_ports_is_one_input_that_takes_items_as_they_arrive() -> None:
    def origin(item: int) -> tuple[str, int]:
        now = here()
        assert now is not None
        return now.source, item

    graph = Graph()
    a, b = graph.add(several(1, 2), name="a"), graph.add(several(3), name="b")
    split = graph.add(lambda n: {"left": n}, b, name="split", outputs=["left"])
    got = graph.collect(graph.add(origin, [a, split["left"]]), **THREADS)
    assert sorted(got) == [("a", 1), ("a", 2), ("split.left", 3)]
    assert [item for source, item in got if source == "a"] == [1, 2]


@BOTH
def test_several_outputs_are_dicts_and_a_missing_port_gets_nothing(runner: str) -> None:
    graph = Graph()
    split = graph.add(parity, graph.add(numbers, count=10), outputs=["even", "odd"])
    node = graph.add(who, [split["even"], split["odd"]])
    left = graph.add(double, split["even"])
    both = graph.add(pair, left, split["odd"])
    graph.add(same, node)
    got = graph.collect(both, runner=runner)
    assert got == [(4 * n, 2 * n + 1) for n in range(5)]


def parity(n: int) -> dict[str, int]:
    return {"odd": n} if n % 2 else {"even": n}


def test_the_outputs_of_a_node_can_be_unpacked() -> None:
    graph = Graph()
    first, second = graph.add(parity, graph.add(numbers, count=4), outputs=["even", "odd"])
    assert (first.port, second.port) == ("even", "odd")
    assert graph.collect(graph.add(pair, first, second), **THREADS) == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (3, TypeError, "kernel 'split' has several outputs: it gives dicts of them, not int"),
        ({"up": 1}, KeyError, "kernel 'split' has no output 'up'"),
    ],
)
def test_what_is_no_dict_of_the_outputs_is_an_error(
    given: Any, error: type[Exception], text: str
) -> None:
    graph = Graph()
    split = graph.add(lambda _: given, graph.add(numbers, count=1), name="split", outputs=["left"])
    with pytest.raises(error, match=text):
        graph.collect(split["left"], **THREADS)


# Batches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 3])
def test_a_batch_is_a_list_of_exactly_n_items_and_the_last_may_be_shorter(threads: int) -> None:
    sizes: list[int] = []

    def note(items: list[int]) -> list[int]:
        assert type(items) is list
        sizes.append(len(items))
        return [n + 1 for n in items]

    assert collected(note, *range(11), batch=4, threads=threads) == list(range(1, 12))
    assert sorted(sizes) == [3, 4, 4]


def test_a_list_of_another_length_is_one_output_of_the_batch() -> None:
    assert collected(lambda items: [sum(items)], *range(5), batch=2) == [[1], [5], 4]
    assert collected(sum, *range(5), batch=2) == [1, 5, 4]
    assert collected(lambda items: (*items,), *range(4), batch=2) == [0, 1, 2, 3]
    assert collected(lambda _: None, *range(5), batch=2) == []


def test_a_batch_of_several_workers_is_the_same_as_of_one() -> None:
    expected = collected(sum, *range(100), batch=7)
    assert collected(sum, *range(100), batch=7, threads=3) == expected
    graph = Graph()
    doubled = graph.add(double, graph.add(numbers, count=100), threads=3)
    node = graph.add(sum, doubled, batch=7, threads=2)
    assert graph.collect(node, **THREADS) == [2 * n for n in expected]


# Items ------------------------------------------------------------------------------------


class Thing:
    """Any object, with arrays in it."""

    def __init__(self, array: Array) -> None:
        self.array = array


def described(item: Any) -> tuple[str, Any]:
    return type(item).__name__, item


@pytest.mark.parametrize("data", [b"", b"some", b"x" * 100_000])
@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_bytes_are_received_as_a_copy(make: Callable[[bytes], Any], data: bytes) -> None:
    assert collected(described, make(data)) == [("bytes", data)]


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12.0).reshape(3, 4),
        np.arange(12).reshape(3, 4).T,
        np.array(5, "i2"),
        np.zeros((0, 3)),
        np.array([(1, 2.5)], [("a", "i4"), ("b", "f8")]),
        np.array(["2026-01-01"], "M8[D]"),
        np.array([True, False]),
        np.arange(10)[::2],
    ],
    ids=str,
)
def test_an_array_is_received_as_a_read_only_view(array: Array) -> None:
    def look(item: Array) -> tuple[bool, bool, bool, Array]:
        return item.flags.writeable, item.flags.owndata, item.flags.c_contiguous, item

    ((writeable, owndata, contiguous, item),) = collected(look, array)
    assert (writeable, owndata, contiguous) == (False, False, True)
    assert (item.shape, item.dtype) == (array.shape, array.dtype)
    assert np.array_equal(item, array)


def test_an_object_is_received_with_arrays_that_alias_the_record() -> None:
    def look(thing: Thing) -> tuple[bool, bool, list[float]]:
        return thing.array.flags.writeable, thing.array.flags.owndata, thing.array.tolist()

    assert collected(look, Thing(np.arange(3.0))) == [(False, False, [0, 1, 2])]


@pytest.mark.parametrize("item", [3, "text", [1, 2], (3, 4), {"a": [b"c"]}, True, 1.5, b""])
def test_anything_else_is_received_as_it_is(item: Any) -> None:
    assert collected(described, item) == [(type(item).__name__, item)]


def test_an_array_of_objects_is_an_object() -> None:
    ((_, item),) = collected(described, np.array([1, "a"], object))
    assert item.tolist() == [1, "a"]


def take_view(item: memoryview) -> tuple[str, bool, bytes]:
    return type(item).__name__, item.readonly, bytes(item)


def take_record(item: ipcheap.Record) -> tuple[str, str, int]:
    return type(item).__name__, item.form, item.nbytes


@BOTH
def test_an_annotation_asks_for_a_view_or_for_the_record(runner: str) -> None:
    graph = Graph()
    source = graph.add(give_bytes)
    views, records = graph.add(take_view, source), graph.add(take_record, source)
    got = graph.collect(graph.add(pair, views, records), runner=runner)
    assert got == [(("memoryview", True, b"abc"), ("Record", "bytes", 3))]


def give_bytes() -> list[bytes]:
    return [b"abc"]


def test_a_list_of_records_is_what_a_batch_of_them_is() -> None:
    def sizes(items: list[ipcheap.Record]) -> int:
        return sum(item.nbytes for item in items)

    assert collected(sizes, b"a", b"bc", b"def", batch=2) == [3, 3]


def test_a_record_that_is_sent_arrives_as_what_it_is() -> None:
    def give() -> Iterator[ipcheap.Record]:
        now = here()
        assert now is not None
        record = now.heap.allocate_record(3)
        record.view[:] = b"abc"
        yield record

    def pass_on(record: ipcheap.Record) -> ipcheap.Record:
        return record

    graph = Graph()
    assert graph.collect(graph.add(describe_plainly, graph.add(give)), **THREADS) == [
        ("bytes", b"abc")
    ]
    graph = Graph()
    arrays = graph.add(pass_on, graph.add(several(np.arange(3)), name="arrays"))
    assert graph.collect(graph.add(describe_plainly, arrays), **THREADS) == [("ndarray", [0, 1, 2])]


def describe_plainly(item: Any) -> tuple[str, Any]:
    return type(item).__name__, item.tolist() if isinstance(item, np.ndarray) else item


def test_a_kernel_that_returns_what_it_received_forwards_the_record() -> None:
    seen: list[int] = []

    def make() -> Iterator[Array]:
        array = graphs.empty(1000)
        array[:] = 7
        seen.append(address(array))
        yield array

    def look(array: Array) -> Array:
        seen.append(address(array))
        return array

    def yields(array: Array) -> Iterator[Array]:
        seen.append(address(array))
        yield array

    graph = Graph()
    node = graph.add(look, graph.add(yields, graph.add(look, graph.add(make))))
    for array in graph.results(node, **THREADS):
        seen.append(address(array))
        assert array.tolist() == 1000 * [7]
    assert len(seen) == 5
    assert len(set(seen)) == 1


def test_of_several_readers_the_last_gets_the_original_and_others_copies() -> None:
    seen: dict[str, int] = {}

    def make() -> Iterator[Array]:
        array = graphs.empty(1000)
        array[:] = 7
        seen["made"] = address(array)
        yield array

    def look(array: Array) -> int:
        now = here()
        assert now is not None
        assert array.tolist() == 1000 * [7]
        seen[now.name] = address(array)
        return 1

    graph = Graph()
    made = graph.add(make)
    readers = [graph.add(look, made, name=f"reader{n}") for n in range(3)]
    assert graph.collect(graph.add(lambda *items: sum(items), *readers), **THREADS) == [3]
    assert seen["made"] == seen["reader2"]
    assert len({seen["made"], seen["reader0"], seen["reader1"]}) == 3


def test_empty_outside_of_a_graph_is_that_of_numpy() -> None:
    array = graphs.empty((2, 3), "i2", "F")
    assert (array.shape, array.dtype, array.flags.f_contiguous) == ((2, 3), np.dtype("i2"), True)
    assert array.flags.owndata


def test_empty_keeps_the_order_and_other_arrays_are_sent_in_c_order() -> None:
    def make() -> Iterator[Array]:
        array = graphs.empty((2, 3), "f8", order="F")
        array[:] = np.arange(6).reshape(2, 3)
        yield array
        yield np.asfortranarray(np.arange(6.0).reshape(2, 3))

    graph = Graph()
    node = graph.add(same, graph.add(make))
    orders = []
    for array in graph.results(node, **THREADS):
        assert array.tolist() == [[0, 1, 2], [3, 4, 5]]
        orders.append("F" if array.flags.f_contiguous else "C")
    assert orders == ["F", "C"]


def test_arrays_of_empty_that_are_not_sent_are_freed() -> None:
    def wasteful(n: int) -> int:
        graphs.empty(100_000)  # 800 kB: 100 of them do not fit
        return n

    graph = Graph(capacity="8MiB")
    node = graph.add(wasteful, graph.add(numbers, count=100))
    assert graph.collect(node, **THREADS) == list(range(100))


def change(array: Array) -> Array:
    array += 1
    return array


def zeros(count: int) -> Iterator[Array]:
    for _ in range(count):
        yield np.zeros(3)


@BOTH
def test_items_are_read_only_and_the_error_names_inplace(runner: str) -> None:
    graph = Graph()
    with pytest.raises(ValueError, match="read-only") as caught:
        graph.collect(graph.add(change, graph.add(zeros, count=1)), runner=runner)
    assert any("inplace=True" in note for note in caught.value.__notes__)


@BOTH
def test_inplace_makes_items_writable(runner: str) -> None:
    graph = Graph()
    node = graph.add(change, graph.add(zeros, count=3), inplace=True)
    assert [array.tolist() for array in graph.collect(node, runner=runner)] == 3 * [3 * [1]]


def test_inplace_makes_views_and_arrays_in_objects_writable() -> None:
    def write(view: memoryview) -> bytes:
        view[0] = 65
        return bytes(view)

    def write_thing(thing: Thing) -> float:
        thing.array += 1
        return float(thing.array.sum())

    assert collected(write, b"xyz", inplace=True) == [b"Ayz"]
    assert collected(write_thing, Thing(np.zeros(2)), inplace=True) == [2.0]


def test_arrays_that_results_yield_are_writable() -> None:
    graph = Graph()
    for array in graph.results(graph.add(zeros, count=2), **THREADS):
        assert array.flags.writeable
        array += 1


def test_a_kernel_may_keep_an_array() -> None:
    kept: list[Array] = []

    def keep(array: Array) -> int:
        kept.append(array)
        return int(sum(int(one[0]) for one in kept))

    arrays = [np.full(100, n) for n in range(30)]
    assert collected(keep, *arrays) == list(itertools.accumulate(range(30)))
    kept.clear()


def test_a_list_is_one_item() -> None:
    assert collected(same, [1, 2], (3, 4)) == [[1, 2], (3, 4)]


def test_what_the_last_kernels_return_is_discarded() -> None:
    seen: list[int] = []

    def sink(n: int) -> int:
        seen.append(n)
        return n

    graph = Graph()
    graph.add(sink, graph.add(numbers, count=100))
    statistics = graph.run(**THREADS)
    assert seen == list(range(100))
    assert [edge.pending + edge.held for edge in statistics.edges] == [0]


def test_collect_copies_arrays_out_of_the_heap() -> None:
    graph = Graph(capacity="16MiB")
    arrays = graph.collect(graph.add(big), **THREADS)
    assert [int(array[-1]) for array in arrays] == list(range(20))


def big() -> Iterator[Array]:
    for n in range(20):
        yield np.full(250_000, n)  # 2 MB each: more than the heap has room for


def test_an_item_larger_than_the_heap_is_heap_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ipcheap.graph.here"], "PATIENCE", 0.2)  # 30 s
    graph = Graph(capacity="1MiB")
    with pytest.raises(ipcheap.HeapFull) as caught:
        graph.collect(graph.add(several(np.zeros(1_000_000)), name="big"), **THREADS)
    assert "Graph(capacity=...) makes it larger" in "".join(caught.value.__notes__)


def test_map_raises_heap_full_if_an_item_never_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["ipcheap.graph.exchange"], "PATIENCE", 0.2)  # 30 s
    items = [np.zeros(150_000_000)]  # 1.2 GB, and the heap has 1 GiB
    with pytest.raises(ipcheap.HeapFull) as caught:
        list(graphs.map(same, items, **THREADS))
    assert "keep copies of them" in "".join(caught.value.__notes__)


def test_without_numpy_an_array_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(ImportError, match="arrays need NumPy: pip install numpy"):
        graphs.empty(3)


# here() -----------------------------------------------------------------------------------


def test_here_is_none_elsewhere() -> None:
    assert here() is None


def test_here_tells_where_a_kernel_runs() -> None:
    def look(item: int) -> tuple[Any, ...]:
        now = here()
        assert now is not None
        assert now.heap.channels
        return now.name, now.worker, now.workers, now.host, now.source, now.stopping

    assert collected(look, 1, 2, name="looks", threads=2) == [
        ("looks", 0, 2, "", "items", False),
        ("looks", 1, 2, "", "items", False),
    ]


def test_here_is_of_the_thread_of_the_worker() -> None:
    def look(item: int) -> bool:
        found: list[object] = [1]
        thread = threading.Thread(target=lambda: found.__setitem__(0, here()))
        thread.start()
        thread.join()
        return found[0] is None and here() is not None

    assert collected(look, 1) == [True]


@pytest.mark.parametrize("kernel", [double, up_to, even])
def test_sequence_is_unique_per_kernel(kernel: Callable[[int], Any]) -> None:
    seen: list[int] = []

    def note(n: int) -> Any:
        now = here()
        assert now is not None
        seen.append(now.sequence)
        return n

    graph = Graph()
    before = graph.add(kernel, graph.add(numbers, count=50), threads=3)
    got = graph.collect(graph.add(note, before, threads=2), **THREADS)
    assert len(seen) == len(set(seen)) == len(got)


# Several workers --------------------------------------------------------------------------

PIPES: dict[str, Callable[[Graph, Port, dict[str, Any]], Port]] = {
    "functions": lambda g, port, how: g.add(double, g.add(double, port, **how), **how),
    "dropping": lambda g, port, how: g.add(even, g.add(even, port, **how), **how),
    "generators": lambda g, port, how: g.add(up_to, g.add(up_to, port, **how), **how),
    "mixed": lambda g, port, how: g.add(
        even, g.add(up_to, g.add(double, port, **how), threads=2), **how
    ),
    "objects": lambda g, port, how: g.add(Repeat, g.add(even, port, **how), **how),
    "into one": lambda g, port, how: g.add(same, g.add(up_to, port, **how)),
    "zipped": lambda g, port, how: g.add(
        pair, g.add(even, port, **how), g.add(up_to, port, threads=2), **how
    ),
    "batched": lambda g, port, how: g.add(sum, g.add(up_to, port, **how), batch=3, **how),
    "forwarded": lambda g, port, how: g.add(same, g.add(same, port, **how), threads=2),
}


class Repeat:
    def process(self, n: int) -> Iterator[int]:
        yield from (n % 3) * [n]


def through(pipe: str, runner: str, **how: Any) -> list[Any]:
    graph = Graph()
    port = PIPES[pipe](graph, graph.add(numbers, count=60), how)
    return graph.collect(port, runner=runner)


@pytest.mark.parametrize("pipe", PIPES)
def test_more_workers_change_the_speed_and_never_the_result(pipe: str) -> None:
    expected = through(pipe, "threads")
    assert expected
    for threads in (2, 3, 4):
        assert through(pipe, "threads", threads=threads) == expected


@pytest.mark.parametrize("pipe", ["mixed", "batched"])
def test_processes_keep_the_order_too(pipe: str) -> None:
    assert through(pipe, "processes", processes=2, threads=2) == through(pipe, "threads")


def test_unordered_gives_items_to_the_worker_that_has_room() -> None:
    def slow_first(n: int) -> int:
        if n == 0:
            time.sleep(1.0)
        return n

    got = collected(slow_first, *range(100), threads=2, ordered=False)
    assert sorted(got) == list(range(100))
    assert got.index(0) > 30  # in rotation at most 16 items go past a slow one


def test_equal_keys_go_to_the_same_worker_in_order() -> None:
    got = collected(who, *range(100), threads=3, key=lambda n: n % 10)
    for key in range(10):
        mine = [(item, worker) for item, worker in got if item % 10 == key]
        assert [item for item, _ in mine] == list(range(key, 100, 10))
        assert {worker for _, worker in mine} == {key % 3}


def test_a_key_goes_to_the_same_worker_in_every_run() -> None:
    assert [worker_of(n, 4) for n in (0, 5, -1, True)] == [0, 1, 3, 1]
    assert worker_of("text", 1000) == worker_of(b"text", 1000) == 0x3B8BA7C7 % 1000
    assert worker_of(("a", 1), 1000) == worker_of(("a", 1), 1000)


def test_an_edge_that_drops_counts_what_finds_no_room() -> None:
    release = threading.Event()

    def wait(n: int) -> int:
        release.wait(60)
        return n

    def all_of_it() -> Iterator[int]:
        yield from range(100)
        release.set()

    graph = Graph()
    node = graph.add(wait, graph.add(all_of_it), slots=4, full="drop")
    graph.output(node)
    with graph.start(**THREADS) as run:
        got = list(run.results(node))
        statistics = run.wait()
    assert got == sorted(set(got))
    assert 4 <= len(got) <= 6
    assert statistics.edges[0].dropped == 100 - len(got)


def test_a_slow_kernel_slows_its_source_down() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for n in range(1000):
            made.append(n)
            yield n

    graph = Graph()
    node = graph.add(same, graph.add(make), slots=4)
    results = graph.results(node, **THREADS)
    for n in range(10):
        assert next(results) == n
    time.sleep(0.2)
    assert len(made) < 10 + 4 + 16 + 4
    results.close()


def test_a_graph_may_be_put_together_by_functions() -> None:
    def detector(graph: Graph, frames: Port) -> Port:
        return graph.add(even, graph.add(double, frames))

    graph = Graph()
    frames = graph.add(numbers, count=3)
    first, second = detector(graph, frames), detector(graph, frames)
    assert graph.collect(graph.add(pair, first, second), **THREADS) == [(0, 0), (2, 2), (4, 4)]


# Processes and threads --------------------------------------------------------------------


def test_workers_are_processes_of_threads() -> None:
    graph = Graph()
    node = graph.add(pid_of, graph.add(numbers, count=60), processes=2, threads=2)
    pids = graph.collect(node)
    assert pids[0] == pids[1] != pids[2] == pids[3] == pids[-1]  # worker w is in process w // 2
    assert os.getpid() not in pids


def test_kernels_may_run_together() -> None:
    graph = Graph()
    first = graph.add(pid_of, graph.add(numbers, count=8), processes=2)
    second = graph.add(with_pid, first, together=first)
    for before, after in graph.collect(second):
        assert before == after


def with_pid(item: Any) -> tuple[Any, int]:
    return item, os.getpid()


def test_processes_are_pinned() -> None:
    cpus = sorted(os.sched_getaffinity(0))[:2]
    graph = Graph()
    one = graph.add(affinity, graph.add(numbers, count=4), cpus={cpus[0]})
    dealt = graph.add(affinity, one, processes=2, cpus=[{cpus[0]}, {cpus[-1]}])
    assert graph.collect(one) == 4 * [{cpus[0]}]
    assert graph.collect(dealt) == 2 * [{cpus[0]}, {cpus[-1]}]


def test_a_cpu_that_is_not_there_is_named() -> None:
    graph = Graph()
    node = graph.add(affinity, graph.add(numbers, count=4), name="pinned", cpus={1020})
    with pytest.raises(GraphError, match=r"'pinned' cannot be pinned to the CPUs \[1020\]: .* \["):
        graph.collect(node)


def affinity(item: Any) -> set[int]:
    return os.sched_getaffinity(0)


def prepare() -> None:
    os.environ["PREPARED"] = str(os.getpid())


def prepared(n: int) -> bool:
    return os.environ.get("PREPARED") == str(os.getpid())


def test_init_is_called_in_each_process() -> None:
    graph = Graph()
    node = graph.add(prepared, graph.add(numbers, count=4), processes=2)
    assert graph.collect(node, init=prepare) == 4 * [True]
    assert "PREPARED" not in os.environ


def graph_inside(n: int) -> list[int]:
    graph = Graph()
    return graph.collect(graph.add(double, graph.add(numbers, count=n)))


def test_a_graph_may_be_started_inside_a_worker() -> None:
    graph = Graph()
    node = graph.add(graph_inside, graph.add(numbers, count=3))
    assert graph.collect(node) == [[], [0], [0, 2]]


# map --------------------------------------------------------------------------------------


@BOTH
def test_map_is_like_the_built_in(runner: str) -> None:
    assert list(graphs.map(double, range(50), runner=runner, processes=2)) == [
        2 * n for n in range(50)
    ]
    assert list(graphs.map(pair, "abc", range(2), runner=runner)) == [("a", 0), ("b", 1)]


def test_map_takes_the_options_of_add() -> None:
    got = list(graphs.map(sum, range(5), runner="threads", batch=2))
    assert got == [1, 5, 4]
    with pytest.raises(graphs.GraphError, match=r"no parameter 'proceses'.*'processes' meant"):
        graphs.map(double, [1], proceses=4)
    with pytest.raises(TypeError, match="at least one iterable"):
        graphs.map(double)


def test_map_reads_the_iterables_no_further_than_needed() -> None:
    read: list[int] = []

    def endless() -> Iterator[int]:
        for n in itertools.count():
            read.append(n)
            yield n

    results = graphs.map(same, endless(), runner="threads", slots=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    time.sleep(0.1)
    assert len(read) < 3 + 4 * 4
    results.close()


def sometimes(number: int) -> int | None:
    return number if number % 3 == 0 else None


def killed_once(number: int, path: str) -> int:
    if number == 70 and not Path(path).exists():
        Path(path).touch()
        testing.die()
    return number


def test_map_leaves_out_none_and_gives_every_item_once(tmp_path: Path) -> None:
    threes = [n for n in range(200) if n % 3 == 0]
    assert list(graphs.map(sometimes, range(200), runner="threads", processes=2)) == threes
    assert list(graphs.map(sometimes, [1, 2] * 100, runner="threads", processes=2)) == []
    mixed = graphs.map(double, range(50), runner="threads", processes=2, ordered=False)
    assert sorted(mixed) == [2 * n for n in range(50)]
    path = str(tmp_path / "killed")
    assert list(graphs.map(killed_once, range(200), processes=2, path=path)) == [*range(200)]
    assert Path(path).exists()
    with pytest.raises(ValueError, match="None cannot be sent"):
        list(graphs.map(double, [1, None], runner="threads"))


def test_map_raises_what_the_function_or_the_iterable_raises() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("no more")

    assert list(graphs.map(str, [1, 2], runner="threads")) == ["1", "2"]
    with pytest.raises(ZeroDivisionError):
        list(graphs.map(lambda n: 1 // n, [1, 0], runner="threads"))
    with pytest.raises(LookupError, match="no more"):
        list(graphs.map(same, broken(), runner="threads"))

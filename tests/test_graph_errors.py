"""What a graph says that is wired wrongly: each text names the thing and the way out."""

from __future__ import annotations

import sys
import threading
import typing
from collections.abc import Iterator  # noqa: TC003  # check() reads the annotations
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

from ipcheap.graph import Flow, Graph, GraphError

if TYPE_CHECKING:
    from collections.abc import Callable


def source(count: int = 1) -> Iterator[int]:
    yield from range(count)


def one(a: Any) -> Any:
    return a


def two(a: Any, b: Any) -> Any:
    return a, b


async def later(a: Any) -> Any:
    return a


class Object:
    def __init__(self, size: int = 0) -> None:
        self.size = size

    def process(self, a: Any) -> Any:
        return a


class Half(Object):
    def snapshot(self) -> None:
        return None


class Whole(Half):
    def restore(self, state: None) -> None: ...


class Empty:
    pass


def added(kernel: Any, *, inputs: int = 1, **options: Any) -> Callable[[Graph], Any]:
    """Return what adds a kernel to a graph, after a source."""
    return lambda graph: graph.add(kernel, *inputs * [graph.add(source, name="src")], **options)


def of_another(graph: Graph) -> None:
    other = Graph()
    graph.add(one, other.add(source))


def of_an_output(graph: Graph) -> None:
    graph.output(graph.add(source))
    graph.add(one, graph["results"])


def split(graph: Graph) -> Any:
    return graph.add(one, graph.add(source), name="split", outputs=["left", "right"])


def follow(graph: Graph, **options: Any) -> Any:
    leader = graph.add(one, graph.add(source), name="leader", processes=2)
    return graph.add(one, leader, name="it", together=leader, **options)


@pytest.mark.parametrize(
    ("wire", "text"),
    [
        # The kernel and its parameters.
        (added(3), "3 is no kernel: that is a function, or a class or object with a method proc"),
        (added(Empty), "kernel 'Empty' is a class without a method process, which gets the items"),
        (added(later), r"kernel 'later' is async, which kernels cannot be: call asyncio.run\(\)"),
        (added(Half), r"kernel 'Half' needs both snapshot\(\) and restore\(state\), or neither"),
        (added(Object, inputs=0), r"kernel 'Object' has process\(\), but no input: give a node"),
        (
            added(Object(), size=3),
            "kernel 'Object' is an object, which takes no parameters such as",
        ),
        (
            added(one, proceses=2),
            (
                r"kernel 'one' has no parameter 'proceses', and it is no option of add\(\): "
                "is 'processes' meant"
            ),
        ),
        (added(one, xyz=2), r"has no parameter 'xyz', and it is no option of add\(\)$"),
        (added(Object, sise=3), "kernel 'Object' has no parameter 'sise'.*: is 'size' meant"),
        (
            added(one, inputs=2),
            (
                "kernel 'one' with 2 inputs: too many positional arguments. It is called with "
                r"an item of each input, and with the parameters that add\(\) is given by keyword"
            ),
        ),
        (added(two), "kernel 'two' with 1 input: missing a required argument: 'b'"),
        (added(Object, inputs=2), "kernel 'Object'.process with 2 inputs: too many positional arg"),
        (added(Object(), inputs=2), "kernel 'Object'.process with 2 inputs: too many positional"),
        (added(one, inputs=0), "kernel 'one' with 0 inputs: missing a required argument: 'a'"),
        (added(one, a=1), "kernel 'one' with 1 input: multiple values for argument 'a'"),
        (
            added(Object, size=3, params={"size": 4}),
            "kernel 'Object': size is given twice, in params and by keyword: leave out one",
        ),
        # Its name.
        (added(one, name="1st"), "a name has 1 to 18 of .* and does not begin with a digit.*'1st'"),
        (added(one, name="x" * 19), "a name has 1 to 18"),
        (added(one, name="a.b"), "a name has 1 to 18"),
        (lambda graph: graph.input("?"), "a name has 1 to 18"),
        # Its inputs.
        (of_another, "<Node 'source'> belongs to another graph: an input is a node or a port of"),
        (lambda graph: graph.add(one, source), "an input is a node, a port or a list of them, not"),
        (
            lambda graph: graph.add(one, []),
            r"an input is a node, a port or a list of them, not \[\]",
        ),
        (
            lambda graph: graph.add(one, "src"),
            "an input is a node, a port or a list of them, not 's",
        ),
        (
            lambda graph: graph.add(one, 256 * [graph.add(source)]),
            "an input merges at most 255 ports, not 256",
        ),
        (
            lambda graph: graph.add(one, split(graph)),
            r"'split' has several outputs: choose \['left",
        ),
        (
            lambda graph: split(graph)["up"],
            "'split' has no output 'up': its outputs are left, right",
        ),
        (lambda graph: graph.add(source)["x"], "'source' has no output 'x': it has one, without"),
        (lambda graph: graph.output(split(graph)), r"choose \['left'\] or \['right'\]"),
        (lambda graph: graph.output([]), "an input is a node, a port or a list of them"),
        (of_an_output, "the graph has no kernel 'results': it has source"),
        (lambda graph: graph["x"], "the graph has no kernel 'x': it has none"),
        # Where it runs.
        (added(one, cpus=3), "kernel 'one': cpus is a set of numbers or a list of sets, not 3"),
        (added(one, processes=0), "kernel 'one': processes must be at least 1, not 0"),
        (added(one, threads=1.5), "kernel 'one': threads must be at least 1, not 1.5"),
        (added(one, processes=True), "processes must be at least 1, not True"),
        (
            added(one, processes=100, threads=100),
            "kernel 'one' has 10000 workers, and 4096 are possible: give fewer processes or",
        ),
        (
            added(one, together="src"),
            "kernel 'one': together names a node of this graph, not 'src'",
        ),
        (
            lambda graph: graph.add(one, node := graph.input("fed"), together=node),
            "kernel 'one': 'fed' is the calling program, not a process",
        ),
        (lambda g: follow(g, processes=3), "'it' runs together with 'leader': leave out processes"),
        (
            lambda g: follow(g, on="a"),
            "kernel 'it' runs where 'leader' runs: leave out on and cpus",
        ),
        (lambda g: follow(g, cpus={0}), "kernel 'it' runs where 'leader' runs: leave out on and"),
        (added(one, cpus=[0, 1]), r"cpus is a set of numbers or a list of sets, not \[0, 1\]"),
        (added(one, cpus=set()), r"cpus is a set of numbers or a list of sets, not set\(\)"),
        (added(one, on=3), "kernel 'one': on is a host or a list of hosts, not 3"),
        (added(one, on=["a", ""]), r"on is a host or a list of hosts, not \['a', ''\]"),
        (added(one, resources=["GPU"]), r"resources is numbers by name, as \{\"GPU\": 1\}, not"),
        # How items reach it.
        (added(one, ordered="no"), "kernel 'one': ordered is True or False, not 'no'"),
        (added(one, inplace=1), "kernel 'one': inplace is True or False, not 1"),
        (
            added(two, inputs=2, key=one),
            "kernel 'two': key is a function of the item of a kernel w",
        ),
        (added(one, key="x"), "kernel 'one': key is a function of the item"),
        (added(two, inputs=2, batch=3), "kernel 'two': batch is for kernels with one input, not 2"),
        (added(one, batch=-1), "kernel 'one': batch must be a number of items, not -1"),
        (
            added(one, batch=9, slots=16),
            (
                "kernel 'one': batch and checkpoint are at most half of slots, 8, not 9: leave out "
                "slots, or give 18"
            ),
        ),
        (added(Whole, checkpoint=5, slots=8), "at most half of slots, 4, not 5"),
        (
            added(Object, checkpoint=3),
            r"checkpoint is for objects with snapshot\(\) and restore\(\): leave it",
        ),
        (added(one, slots=0), "kernel 'one': slots must be at least 1, not 0"),
        (lambda graph: graph.input(slots=0), "an input: slots must be at least 1, not 0"),
        (lambda g: g.output(g.add(source), slots=0), "an output: slots must be at least 1, not 0"),
        (added(one, full="no"), "kernel 'one': full is 'wait', 'drop' or 'latest', not 'no'"),
        (added(one, hop=2), "kernel 'one': hop is the distance of windows: say window, too"),
        (added(one, window=4, full="latest"), "window does not go with full='latest'"),
        (added(two, inputs=2, window=4), "window and full='latest' are for kernels with one input"),
        (added(one, window=0), "window must be at least 1, not 0"),
        (added(one, outputs="left"), "outputs is a list of different names, not 'left'"),
        (added(one, outputs=["a", "a"]), r"outputs is a list of different names, not \['a', 'a'\]"),
        (added(one, outputs=["a b"]), "'a b' is no name of an output: that has 1 to 18 of"),
        # When something fails.
        (added(one, restart="yes"), "kernel 'one': restart is True or False, not 'yes'"),
        (added(one, on_error="go on"), "kernel 'one': on_error is 'stop' or 'skip', not 'go on'"),
    ],
)
def test_add_names_what_is_wrong(wire: Callable[[Graph], Any], text: str) -> None:
    with pytest.raises(GraphError, match=text):
        wire(Graph())


def test_names_are_unique_and_short() -> None:
    graph = Graph()
    nodes = [graph.add(source) for _ in range(3)]
    assert [node.name for node in nodes] == ["source", "source2", "source3"]
    long = [graph.add(a_name_of_more_than_18_characters) for _ in range(2)]
    assert [node.name for node in long] == ["a_name_of_more_tha", "a_name_of_more_th2"]
    assert graph.add(lambda: [1]).name == "_lambda_"
    assert graph.add(source, name="source").name == "source4"


def a_name_of_more_than_18_characters() -> list[int]:
    return []


def test_a_parameter_that_has_the_name_of_an_option_is_given_by_params() -> None:
    def batches(item: int, batch: int) -> int:
        return item * batch

    graph = Graph()
    node = graph.add(batches, graph.add(source, count=3), params={"batch": 5})
    assert graph.collect(node, runner="threads") == [0, 5, 10]


# check() ----------------------------------------------------------------------------------


def give_bytes() -> Iterator[bytes]:
    yield b""


def give_array(a: Any) -> npt.NDArray[np.float64]:
    return np.zeros(1)


def maybe_text(a: Any) -> str | None:
    return None


def give_ints(a: Any) -> list[int]:
    return []


def untyped(a):  # type: ignore[no-untyped-def]
    return a


def take_array(a: np.ndarray[Any, Any]) -> None: ...
def take_bytes(a: bytes) -> None: ...
def take_view(a: memoryview) -> None: ...
def take_float(a: float) -> None: ...
def take_dict_or_text(a: dict[str, int] | str) -> None: ...
def give_alias(a: Any) -> Any: ...
def take_arrays(a: list[npt.NDArray[Any]]) -> None: ...
def take_flow(a: Flow[bytes]) -> None: ...


class GivesText:
    def process(self, _a: Any) -> str:
        return ""


def problems(*kernels: Any, **options: Any) -> list[str]:
    graph = Graph()
    node = graph.add(kernels[0])
    for kernel in kernels[1:-1]:
        node = graph.add(kernel, node)
    graph.add(kernels[-1], node, **options)
    return graph.check()


def test_a_graph_that_can_run_has_no_problems() -> None:
    graph = Graph()
    graph.add(one, [graph.add(source, count=3), graph.input()])
    assert graph.check() == []
    assert problems(give_bytes, take_bytes) == []


@pytest.mark.parametrize(
    ("kernels", "text"),
    [
        (
            (give_bytes, take_array),
            "kernel 'take_array' takes ndarray, and 'give_bytes' gives byte",
        ),
        ((source, give_array, take_bytes), "'take_bytes' takes bytes, and 'give_array' gives nda"),
        (
            (source, maybe_text, take_array),
            "'take_array' takes ndarray, and 'maybe_text' gives str",
        ),
        ((source, give_ints, take_float), "'take_float' takes float, and 'give_ints' gives list"),
        ((source, take_dict_or_text), "takes dict or str, and 'source' gives int: change one of"),
        ((source, GivesText, take_bytes), "'take_bytes' takes bytes, and 'GivesText' gives str"),
    ],
)
def test_annotations_that_exclude_each_other_are_found(kernels: Any, text: str) -> None:
    (problem,) = problems(*kernels)
    assert text in problem


@pytest.mark.parametrize(
    "kernels",
    [
        (source, take_float),
        (give_bytes, take_view),
        (give_bytes, take_flow),
        (source, untyped, take_array),
        (source, maybe_text, take_dict_or_text),
        (source, GivesText, take_dict_or_text),
        (source, give_array, take_array),
    ],
)
def test_annotations_that_may_fit_are_no_problem(kernels: Any) -> None:
    assert problems(*kernels) == []


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the type statement is newer")
def test_an_alias_of_a_type_is_seen_through() -> None:
    give_alias.__annotations__["return"] = vars(typing)["TypeAliasType"]("Text", bytes)
    (problem,) = problems(source, give_alias, take_array)
    assert "'take_array' takes ndarray, and 'give_alias' gives bytes" in problem


def test_a_batch_takes_what_its_list_holds() -> None:
    graph = Graph()
    graph.add(take_arrays, graph.add(give_array, graph.add(source)), batch=2)
    assert graph.check() == []
    graph = Graph()
    graph.add(take_arrays, graph.add(give_bytes), batch=2)
    assert "takes ndarray, and 'give_bytes' gives bytes" in graph.check()[0]


def test_what_does_not_pickle_is_found() -> None:
    graph = Graph()
    lock = threading.Lock()
    graph.add(one, graph.add(source, count=lock), key=lock.acquire)
    first, second = graph.check()
    assert "kernel 'source': its parameter 'count': <unlocked _thread.lock" in first
    assert "does not pickle, so no worker can get it" in first
    assert "kernel 'one': its key: " in second
    with pytest.raises(GraphError, match="the graph cannot run: kernel 'source': its parameter"):
        graph.start()
    with pytest.raises(TypeError):  # in threads anything is accepted, and the kernel fails
        graph.run(runner="threads")


def test_outputs_and_inputs_that_nobody_reads_are_found() -> None:
    graph = Graph()
    graph.add(one, split(graph)["left"])
    graph.input("fed")
    assert graph.check() == [
        (
            "nobody reads the output 'right' of kernel 'split': add a kernel that does, or take it "
            "out of outputs"
        ),
        "nobody reads the input 'fed': add a kernel that does, or leave it out",
    ]


def test_a_sink_is_no_problem_and_an_empty_graph_is_one() -> None:
    graph = Graph()
    assert graph.check() == ["it has no kernel"]
    graph.add(one, graph.add(source), outputs=None)
    assert graph.check() == []


def test_edges_of_other_kinds_are_no_problem() -> None:
    assert problems(source, one, full="latest") == []
    assert problems(source, one, window=2, hop=1) == []


@pytest.mark.parametrize("runner", ["processes", "threads"])
def test_hosts_need_a_cluster(runner: str) -> None:
    graph = Graph()
    graph.add(one, graph.add(source), on=["a", "b"])
    assert graph.check() == []  # on a cluster it can
    with pytest.raises(GraphError, match="'one' runs on a, b: that needs runner='ray', or leave"):
        graph.start(runner=runner)


def test_a_runner_is_one_of_three() -> None:
    graph = Graph()
    graph.add(source)
    with pytest.raises(GraphError, match="runner is 'processes', 'threads' or 'ray', not 'fork'"):
        graph.start(runner="fork")


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ({"duration": "3"}, "duration is a number of seconds, 0 or more, not '3'"),
        ({"duration": -1}, "duration is a number of seconds, 0 or more, not -1"),
        ({"grace": None}, "grace is a number of seconds, 0 or more, not None"),
        ({"init": "log"}, "init is a function without parameters, not 'log'"),
    ],
)
def test_start_names_what_is_wrong(how: dict[str, Any], text: str) -> None:
    graph = Graph()
    graph.add(source)
    with pytest.raises(GraphError, match=f"^{text}$"):
        graph.start(**how)


def test_a_picture_is_of_three_kinds() -> None:
    graph = Graph("named")
    node = graph.add(one, graph.add(source), processes=2, threads=3, batch=2, full="drop")
    graph.add(one, node, together=node)
    text = graph.picture()
    assert 'title: "named"' in text
    assert "2 × 3, batch 2" in text
    assert "in one" in text
    assert graph.picture("dot").startswith("digraph")
    assert graph._repr_svg_() == graph.picture("svg")
    with pytest.raises(ValueError, match="kind is 'mermaid', 'dot', 'svg', not 'png'"):
        graph.picture("png")

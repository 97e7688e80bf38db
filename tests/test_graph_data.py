"""Graphs as data: dicts, TOML, JSON and pickles, and kernels that other programs find."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import json
import math
import os
import pickle
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipcheap import graph as graphs
from ipcheap import testing
from ipcheap.graph import Graph, GraphError
from ipcheap.graph.kernels import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

THREADS: dict[str, Any] = {"runner": "threads"}
HAS_CLOUDPICKLE = importlib.util.find_spec("cloudpickle") is not None


def numbers(count: int = 3, by: float = 1, note: Any = None) -> Iterator[float]:
    yield from (n * by for n in range(count))


def double(n: Any, times: int = 2, more: Any = None) -> Any:
    return times * n


def parity(n: int) -> dict[str, int]:
    return {"odd" if n % 2 else "even": n}


def join(a: Any, b: Any) -> tuple[Any, Any]:
    return a, b


def remainder(n: int) -> int:
    return n % 5


class Show:
    def process(self, item: Any) -> str:
        return f"<{item}>"

    class Inner:
        def process(self, item: Any) -> Any:
            return item


class Keeps(Show):
    def snapshot(self) -> None:
        return None

    def restore(self, state: None) -> None: ...


def toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False)


def document(data: dict[str, Any]) -> str:
    """Return a graph as a TOML file."""
    kernels = data.get("kernels", {})
    head = [f"{key} = {toml(value)}" for key, value in data.items() if key != "kernels"]
    tables = [
        f"[kernels.{json.dumps(name)}]\n"
        + "".join(f"{key} = {toml(value)}\n" for key, value in kernel.items())
        for name, kernel in kernels.items()
    ]
    return "\n".join([*head, *tables])


# The structure ----------------------------------------------------------------------------

EXAMPLE = {
    "name": "video",
    "capacity": "256MiB",
    "kernels": {
        "camera": {"kernel": f"{__name__}:numbers", "params": {"count": 300}},
        "shrink": {"kernel": f"{__name__}:double", "inputs": ["camera"], "processes": 2},
        "show": {"kernel": f"{__name__}:Show", "inputs": ["shrink"]},
    },
}


def test_to_dict_gives_exactly_this_structure() -> None:
    graph = Graph("video", capacity="256MiB")
    camera = graph.add(numbers, name="camera", count=300)
    shrink = graph.add(double, camera, name="shrink", processes=2)
    graph.add(Show, shrink, name="show", threads=1, ordered=True)
    assert graph.to_dict() == EXAMPLE
    assert list(graph.to_dict()["kernels"]) == ["camera", "shrink", "show"]
    assert Graph.from_dict(EXAMPLE).to_dict() == EXAMPLE


def test_ports_merged_inputs_and_options_are_data() -> None:
    graph = Graph()
    a = graph.add(numbers, name="a")
    b = graph.add(parity, a, name="b", outputs=("even", "odd"), on="host", resources={"GPU": 1})
    c = graph.add(Show.Inner, [a, b["odd"]], name="c", cpus={1, 0}, key=remainder, slots=4)
    graph.add(join, [b["even"]], c, name="d", together=a, restart=False, on_error="skip")
    graph.add(Keeps, c, name="e", checkpoint=3, cpus=[{0}, {1, 2}])
    graph.add(double, c, name="f", params={"times": 3, "more": {"deep": [1, (2.5, "x")]}})
    data = graph.to_dict()
    assert data == {
        "kernels": {
            "a": {"kernel": f"{__name__}:numbers"},
            "b": {
                "kernel": f"{__name__}:parity",
                "inputs": ["a"],
                "on": "host",
                "resources": {"GPU": 1},
                "outputs": ["even", "odd"],
            },
            "c": {
                "kernel": f"{__name__}:Show.Inner",
                "inputs": [["a", "b.odd"]],
                "cpus": [0, 1],
                "key": f"{__name__}:remainder",
                "slots": 4,
            },
            "d": {
                "kernel": f"{__name__}:join",
                "inputs": [["b.even"], "c"],
                "together": "a",
                "restart": False,
                "on_error": "skip",
            },
            "e": {
                "kernel": f"{__name__}:Keeps",
                "inputs": ["c"],
                "checkpoint": 3,
                "cpus": [[0], [1, 2]],
            },
            "f": {
                "kernel": f"{__name__}:double",
                "inputs": ["c"],
                "params": {"times": 3, "more": {"deep": [1, [2.5, "x"]]}},
            },
        }
    }
    assert Graph.from_dict(data).to_dict() == data
    assert tomllib.loads(document(data)) == data
    assert json.loads(json.dumps(data)) == data


def test_the_options_are_those_of_add() -> None:
    parameters = [*inspect.signature(Graph.add).parameters]
    assert parameters == ["self", "kernel", "inputs", "name", *OPTIONS, "params", "parameters"]


def test_outputs_of_the_calling_program_are_no_part_of_it() -> None:
    graph = Graph()
    graph.output(graph.add(numbers, name="a"))
    assert graph.to_dict() == {"kernels": {"a": {"kernel": f"{__name__}:numbers"}}}


def test_a_graph_of_data_runs() -> None:
    graph = Graph.from_dict(EXAMPLE | {"name": None})
    assert graph.collect(graph["show"], **THREADS)[:3] == ["<0>", "<2>", "<4>"]


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_-]{0,17}", fullmatch=True)
PLAIN = st.recursive(
    st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def without(text: Any) -> bool:
    """Whether a value has no text that TOML or UTF-8 cannot hold."""
    try:
        json.dumps(text, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return "\x7f" not in json.dumps(text, ensure_ascii=False)


@st.composite
def whole_graphs(draw: st.DrawFn) -> Graph:
    capacity: int | str = draw(st.just("8MiB") | st.just(123))
    graph = Graph(draw(st.none() | NAMES), capacity=capacity)
    ports: list[Any] = []
    nodes: list[Any] = []
    for name in draw(st.lists(NAMES, min_size=1, max_size=6, unique=True)):
        options: dict[str, Any] = {
            "threads": draw(st.integers(1, 3)),
            "on_error": draw(st.sampled_from(["stop", "skip"])),
            "restart": draw(st.sampled_from([None, True, False])),
            "cpus": draw(st.sampled_from([None, {0}, [{0, 3}, {1}]])),
        }
        if nodes and options["cpus"] is None and draw(st.booleans()):
            options["together"] = draw(st.sampled_from(nodes))
        else:
            options["processes"] = draw(st.integers(1, 3))
        kernel = draw(st.sampled_from([numbers, double, parity, join, Show]))
        if not ports:
            kernel = numbers
        inputs: list[Any] = []
        if kernel is not numbers:
            port = st.sampled_from(ports)
            count = 2 if kernel is join else 1
            inputs = [draw(port | st.lists(port, min_size=1, max_size=3)) for _ in range(count)]
        if kernel in (numbers, double):
            options["params"] = draw(
                st.fixed_dictionaries(
                    {}, optional={"note" if kernel is numbers else "more": PLAIN.filter(without)}
                )
            )
        if len(inputs) == 1:
            options["key"] = draw(st.sampled_from([None, remainder]))
            options["batch"] = draw(st.sampled_from([0, 3]))
            options["slots"] = draw(st.sampled_from([None, 8]))
        if kernel is parity:
            options["outputs"] = ["even", "odd"]
        node = graph.add(kernel, *inputs, name=name, **options)
        nodes.append(node)
        ports += list(node) if kernel is parity else [node]
    return graph


@settings(max_examples=40, deadline=None)
@given(whole_graphs())
def test_what_to_dict_gives_is_the_same_graph(graph: Graph) -> None:
    data = graph.to_dict()
    for again in (
        Graph.from_dict(data),
        Graph.from_dict(json.loads(json.dumps(data))),
        Graph.from_dict(tomllib.loads(document(data))),
        pickle.loads(pickle.dumps(graph)),
    ):
        assert again.to_dict() == data
        assert list(again.to_dict()["kernels"]) == list(data["kernels"])
        assert again._plan().edges == graph._plan().edges
        assert again._plan().processes == graph._plan().processes


# Files ------------------------------------------------------------------------------------

MODULE = """
import {helper}

def count(to=3):
    yield from range(to)

def negative(n):
    return {helper}.change(n)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a module `kernels_…` and what it imports."""
    monkeypatch.setattr(sys, "path", sys.path[:])
    helper = f"helper_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{helper}.py").write_text("def change(n): return -n\n")
    (tmp_path / f"kernels_{helper}.py").write_text(MODULE.format(helper=helper))
    data = {
        "kernels": {
            "count": {"kernel": f"kernels_{helper}:count", "params": {"to": 4}},
            "negative": {"kernel": f"kernels_{helper}:negative", "inputs": ["count"]},
        }
    }
    (tmp_path / "graph.json").write_text(json.dumps(data))
    (tmp_path / "graph.toml").write_text(document(data))
    return tmp_path


@pytest.mark.parametrize("file", ["graph.toml", "graph.json"])
@pytest.mark.parametrize("runner", ["processes", "threads"])
def test_a_graph_in_a_file_finds_modules_beside_it(folder: Path, file: str, runner: str) -> None:
    graph = Graph.load(str(folder / file))
    assert graph.collect(graph["negative"], runner=runner) == [0, -1, -2, -3]
    assert sys.path[0] == str(folder)


def test_another_module_of_that_name_is_not_taken_for_it(folder: Path) -> None:
    (folder / "json.py").write_text("def count(): return []\n")
    file = folder / "graph.toml"
    file.write_text('[kernels.a]\nkernel = "json:count"\n')
    with pytest.raises(GraphError, match=rf"'json' is .*/json/__init__.py here, not {folder}/json"):
        Graph.load(file)


def test_a_script_writes_and_reads_its_own_kernels(tmp_path: Path) -> None:
    script = tmp_path / "my_script.py"
    script.write_text(
        "from ipcheap.graph import Graph\n"
        "def count(): yield from range(3)\n"
        "def double(n): return 2 * n\n"
        "if __name__ == '__main__':\n"
        "    graph = Graph()\n"
        "    graph.add(double, graph.add(count))\n"
        "    data = graph.to_dict()\n"
        "    assert data['kernels']['count'] == {'kernel': 'my_script:count'}, data\n"
        "    again = Graph.from_dict(data)\n"
        "    assert again.to_dict() == data\n"
        "    print(again.collect(again['double']))\n"
    )
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=testing.PATIENCE)
    assert (done.stdout, done.stderr) == ("[0, 2, 4]\n", "")


# Pickles ----------------------------------------------------------------------------------


def load_and_run(data: bytes) -> list[Any]:
    graph: Graph = pickle.loads(data)
    return graph.collect(graph["double"], **THREADS)


def test_a_graph_pickles_with_functions_of_a_test() -> None:
    graph = Graph()
    graph.add(double, graph.add(numbers, count=3))
    data = pickle.dumps(graph)
    assert load_and_run(data) == [0, 2, 4]
    assert testing.call(load_and_run, data) == [0, 2, 4]


def test_an_instance_pickles_with_its_state() -> None:
    graph = Graph()
    graph.add(functools.partial(double, times=5), graph.add(numbers, count=3), name="double")
    assert load_and_run(pickle.dumps(graph)) == [0, 5, 10]


LAMBDA = """
import sys
if {hidden}:
    sys.modules["cloudpickle"] = None
from ipcheap.graph import Graph
graph = Graph()
factor = 3
node = graph.add(lambda n: factor * n, graph.add(range_ := (lambda: range(3)), name="source"))
print(graph.check())
print(graph.collect(node))
"""


def without_file(code: str) -> subprocess.CompletedProcess[str]:
    """Run code as a main program without a file, as an interactive session is."""
    command = [sys.executable, "-W", "error", "-P", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(not HAS_CLOUDPICKLE, reason="needs cloudpickle")
def test_lambdas_are_pickled_by_value_with_cloudpickle() -> None:
    done = without_file(LAMBDA.format(hidden=False))
    assert (done.stdout, done.stderr) == ("[]\n[0, 3, 6]\n", "")


def test_without_cloudpickle_check_reports_them() -> None:
    done = without_file(LAMBDA.format(hidden=True))
    assert done.stdout.count("cannot be found by name in another process") == 2
    assert "pip install cloudpickle, or use runner='threads'" in done.stdout
    assert "GraphError: the graph cannot run: kernel 'source': <lambda> cannot" in done.stderr


def first_example() -> str:
    """Return the first example of the package, as a user would paste it."""
    lines = (graphs.__doc__ or "").split("\n\n", 1)[1].split("\nKernels run in", 1)[0].splitlines()
    return "\n".join(line[4:] for line in lines) + "\n"


EXPECTED = [float(n) for n in range(100)]


def test_the_first_example_runs_as_a_script(tmp_path: Path) -> None:
    script = tmp_path / "example.py"
    script.write_text(first_example())
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert [float(line) for line in done.stdout.splitlines()] == EXPECTED


@pytest.mark.skipif(not HAS_CLOUDPICKLE, reason="needs cloudpickle")
def test_the_first_example_runs_in_a_program_without_a_file() -> None:
    done = without_file(first_example())
    assert done.stderr == ""
    assert [float(line) for line in done.stdout.splitlines()] == EXPECTED


NOTEBOOK = """
import sys
import nbformat
from nbclient import NotebookClient

cells = [nbformat.v4.new_code_cell(part) for part in sys.stdin.read().split("# ----\\n")]
notebook = nbformat.v4.new_notebook(cells=cells)
NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
for output in notebook.cells[-1].outputs:
    print(output.get("text", output), end="")
"""


@pytest.mark.skipif(not HAS_CLOUDPICKLE, reason="needs cloudpickle")
def test_the_first_example_runs_in_a_notebook(tmp_path: Path) -> None:
    for module in ("nbclient", "ipykernel"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}")
    functions, main = first_example().split('if __name__ == "__main__":\n')
    code = f'{functions}# ----\nif __name__ == "__main__":\n{main}'
    places = {"IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", NOTEBOOK],
        input=code,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {place: str(tmp_path / place) for place in places},
        cwd=tmp_path,  # the kernel looks for modules there
    )
    assert [float(line) for line in done.stdout.splitlines()] == EXPECTED, done.stderr


# What cannot be data ----------------------------------------------------------------------


def make() -> Any:
    return lambda: [1]


@pytest.mark.parametrize(
    ("kernel", "params", "text"),
    [
        (lambda: [1], {}, "kernel 'it' has no name by which it could be imported: .*module level"),
        (make(), {}, "kernel 'it' has no name by which it could be imported"),
        (functools.partial(numbers, 3), {}, "kernel 'it' has no name"),
        (numbers, {"note": {1, 2}}, r"kernel 'it': params.note is \{1, 2\}, which a file cannot"),
        (numbers, {"note": None}, "params.note is None, which a file cannot hold: give a number"),
        (numbers, {"note": [{"a": b"x"}]}, r"params.note\[0\].a is b'x', which"),
        (numbers, {"note": {1: 2}}, r"params.note is \{1: 2\}"),
    ],
)
def test_what_a_file_cannot_hold_is_refused(kernel: Any, params: dict[str, Any], text: str) -> None:
    graph = Graph()
    graph.add(kernel, name="it", params=params)
    with pytest.raises(GraphError, match=text):
        graph.to_dict()


def test_a_kernel_that_reads_what_is_sent_is_refused() -> None:
    graph = Graph()
    graph.add(double, graph.input("fed"))
    with pytest.raises(GraphError, match="'double' reads the input 'fed', which the calling prog"):
        graph.to_dict()


def of(**kernel: Any) -> dict[str, Any]:
    return {"kernels": {"a": {"kernel": f"{__name__}:numbers"}, "it": kernel}}


IT: dict[str, Any] = {"kernel": f"{__name__}:double", "inputs": ["a"]}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ([], r"a graph as data is a dict, not \[\]"),
        ({"kernel": {}}, "a graph has no key 'kernel': the keys are name, capacity, kernels"),
        ({"name": 3}, "the name of a graph is a text, not 3"),
        ({"kernels": []}, r"kernels is a table of kernels by name, not \[\]"),
        ({"kernels": {"it": "a:b"}}, "kernel 'it' is a table with the key 'kernel', not 'a:b'"),
        (
            of(**IT, count=3),
            (
                "kernel 'it' has no key 'count': the keys are kernel, inputs, params, .*on_error; "
                "parameters of the kernel belong into params"
            ),
        ),
        (of(inputs=["a"]), "kernel 'it' lacks the key 'kernel', as in kernel = \"module:name\""),
        (of(kernel="double"), "kernel 'it' is named \"module:name\", not 'double'"),
        (of(kernel=":double"), "not ':double'"),
        (of(kernel=3), "not 3"),
        (of(kernel="no_such:x"), "kernel 'it': module 'no_such' cannot be imported: No module"),
        (of(kernel=f"{__name__}:x.y"), f"kernel 'it': module '{__name__}' has no 'x.y'"),
        (of(**IT | {"inputs": "a"}), "kernel 'it': inputs is a list, not 'a'"),
        (of(**IT | {"inputs": [3]}), 'an input is "kernel", "kernel.port" or a list of them'),
        (
            of(**IT | {"inputs": ["b"]}),
            "kernel 'it' names 'b', which is no kernel above it: those above it are a",
        ),
        ({"kernels": {"it": IT}}, "which is no kernel above it: there is none above it"),
        (of(**IT | {"inputs": ["a.left"]}), "kernel 'a' has no output 'left': it has one, without"),
        (of(**IT, together="c"), "kernel 'it' names 'c', which is no kernel above it"),
        (of(**IT, params=[1]), "kernel 'it': params is a table of parameters by name"),
        (of(**IT, params={"size": 1}), "kernel 'double' has no parameter 'size'"),
        (of(**IT, cpus=[[0], 1]), "kernel 'it': cpus is a list of numbers, or a list of such"),
        (of(**IT, key="math:no"), "the key of kernel 'it': module 'math' has no 'no'"),
        (of(**IT, processes="2"), "kernel 'it': processes must be at least 1, not '2'"),
        (of(**IT, ordered="no"), "kernel 'it': ordered is True or False, not 'no'"),
        (of(**IT, on=3), "kernel 'it': on is a host or a list of hosts, not 3"),
        (of(**IT, resources={"GPU": "1"}), "kernel 'it': resources is numbers by name, as"),
    ],
)
def test_wrong_data_is_refused(data: Any, text: str) -> None:
    with pytest.raises(GraphError, match=text):
        Graph.from_dict(data)


def test_a_module_that_fails_is_named(folder: Path) -> None:
    (folder / "fails_here.py").write_text("1 / 0\n")
    file = folder / "graph.toml"
    file.write_text('[kernels.a]\nkernel = "fails_here:x"\n')
    text = rf"{file}: kernel 'a': module 'fails_here' cannot be imported: ZeroDivisionError: div"
    with pytest.raises(GraphError, match=text) as caught:
        Graph.load(file)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("g.toml", "[kernels", r"g.toml: Expected"),
        ("g.json", "{", r"g.json: .*line 1"),
        ("g.yaml", "", r"g.yaml: the name of a graph's file ends in .toml or .json"),
        ("g.toml", "x = 1", r"g.toml: a graph has no key 'x'"),
    ],
)
def test_a_file_that_is_no_graph_is_refused(
    tmp_path: Path, name: str, content: str, text: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(GraphError, match=text):
        Graph.load(tmp_path / name)


def test_an_absent_file_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Graph.load(tmp_path / "none.toml")


def test_functions_of_extension_modules_have_names() -> None:
    graph = Graph()
    graph.add(math.sqrt, graph.add(numbers, name="a"), name="root")
    data = graph.to_dict()
    assert data["kernels"]["root"]["kernel"] == "math:sqrt"
    assert Graph.from_dict(data).to_dict() == data

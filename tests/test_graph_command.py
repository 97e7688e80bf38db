"""`ipcheap run`, as a shell sees it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ipcheap import testing
from ipcheap.tools import run as command

if TYPE_CHECKING:
    from collections.abc import Iterator

COMMAND = Path(sys.executable).with_name("ipcheap")  # -m would find the checkout
LIMIT = 100.0

KERNELS = """
import itertools, sys, time
from helper import name

def count(to=5, pause=0.0):
    for n in itertools.count() if to < 0 else range(to):
        time.sleep(pause)
        yield n

def show(n, prefix="", fail_at=-1):
    if n == fail_at:
        raise LookupError("no\\nmore")
    print(f"{prefix}{n}", flush=True)

def split(n):
    return {"left": n}
"""

GRAPH = (
    KERNELS
    + """
from ipcheap.graph import Graph

graph = Graph(name)
source = graph.add(count)
graph.output(source)
graph.add(show, source)

unread = Graph()
unread.add(split, unread.add(count), outputs=["left"])

fed = Graph()
fed.add(show, fed.input("fed"))

if __name__ == "__main__":
    sys.exit("this must not run")
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a graph in each kind of file."""
    (tmp_path / "helper.py").write_text("name = None\n")
    (tmp_path / "kernels.py").write_text(KERNELS)
    (tmp_path / "several.py").write_text(GRAPH)
    (tmp_path / "one.py").write_text(GRAPH.split("unread =")[0] + "again = graph\n")
    (tmp_path / "none.py").write_text(KERNELS)
    kernels = {
        "count": {"kernel": "kernels:count"},
        "show": {"kernel": "kernels:show", "inputs": ["count"]},
    }
    (tmp_path / "graph.json").write_text(json.dumps({"kernels": kernels}))
    (tmp_path / "graph.toml").write_text(
        '[kernels.count]\nkernel = "kernels:count"\n'
        '[kernels.show]\nkernel = "kernels:show"\ninputs = ["count"]\n'
    )
    return tmp_path


def run(*arguments: str | Path, module: bool = False) -> tuple[int, str, str]:
    start = [sys.executable, "-P", "-m", "ipcheap.graph"] if module else [COMMAND, "run"]
    done = subprocess.run(
        [*start, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
    )
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


COUNTED = "0\n1\n2\n3\n4\n"


@pytest.mark.parametrize("file", ["one.py", "several.py:graph", "graph.toml", "graph.json"])
def test_it_runs_the_graph_in_a_file(folder: Path, file: str) -> None:
    assert run(folder / file) == (0, COUNTED, "")


def test_python_m_runs_it_too_in_threads(folder: Path) -> None:
    assert run(folder / "one.py", "--runner", "threads", module=True) == (0, COUNTED, "")


def test_parameters_are_set_by_literals_or_texts(folder: Path) -> None:
    settings = ["--set", "count.to=2", "--set", "show.prefix=a=b", "--set", "count.pause=1e-3"]
    assert run(folder / "one.py", *settings) == (0, "a=b0\na=b1\n", "")
    assert run(folder / "graph.toml", "--set", "show.prefix='7'", "--set", "count.to=1") == (
        0,
        "70\n",
        "",
    )


def test_a_duration_stops_it(folder: Path) -> None:
    code, output, errors = run(
        folder / "one.py", "--duration", "0.3", "--set", "count.to=-1", "--set", "count.pause=0.05"
    )
    assert (code, errors) == (0, "")
    assert output.startswith("0\n1\n")


def test_check_says_what_is_wrong_and_starts_nothing(folder: Path) -> None:
    assert run(folder / "one.py", "--check") == (0, "", "")
    code, output, errors = run(folder / "several.py:unread", "--check")
    assert (code, output) == (1, "")
    assert errors.startswith("ipcheap: nobody reads the output 'left' of kernel 'split'")
    code, output, errors = run(folder / "several.py:unread", "--check", "--json")
    assert (code, errors) == (1, "")
    assert json.loads(output)[0].startswith("nobody reads")
    assert run(folder / "one.py", "--check", "--json") == (0, "[]\n", "")


@pytest.mark.parametrize(
    ("kind", "begins"), [("mermaid", "flowchart LR"), ("dot", "digraph"), ("svg", "<svg")]
)
def test_a_picture_is_printed(folder: Path, kind: str, begins: str) -> None:
    code, output, errors = run(folder / "one.py", "--picture", kind)
    assert (code, errors) == (0, "")
    assert output.startswith(begins)


def test_json_is_a_line_a_second_and_one_at_the_end(folder: Path) -> None:
    code, output, errors = run(
        folder / "one.py",
        "--json",
        *("--set", "count.to=25", "--set", "count.pause=0.1", "--set", "show.prefix=shown "),
    )
    assert (code, errors) == (0, "")
    lines = [json.loads(line) for line in output.splitlines() if not line.startswith("shown")]
    assert len(lines) >= 3
    assert [line["state"] for line in lines][-2:] == ["running", "ended"]
    assert lines[-1]["edges"][0] | {"rate": 0} == {
        "source": "count",
        "port": "",
        "target": "show",
        "sent": 25,
        "pending": 0,
        "held": 0,
        "capacity": 16,
        "dropped": 0,
        "rate": 0,
        "blocked": None,
    }
    assert lines[-1]["kernels"]["count"]["workers"] == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["one.py", "--set", "show.fail_at=3"],
            "LookupError: no more, in kernel 'show', worker 0, ",
        ),
        (["one.py", "--set", "show.fail_at=3"], " (one.py:12)"),
        (
            ["several.py"],
            r"which graph? Name one, as in several.py:NAME; it has graph, unread, fed",
        ),
        (["several.py:no"], "has no graph 'no' at module level: it has graph, unread, fed"),
        (["several.py:fed"], "nobody would send to the input 'fed'"),
        (["several.py:unread"], "the graph cannot run: nobody reads the output 'left'"),
        (["none.py"], "has no graph at module level"),
        (["absent.py"], "absent.py: no such file"),
        (["absent.py:x"], "absent.py: no such file"),
        (["graph.toml:x"], "holds one graph: leave out 'x', which is for Python files"),
        (["one.py", "--set", "no.x=1"], "the graph has no kernel 'no': it has count, show"),
        (["one.py", "--set", "show.no=1"], "kernel 'show' has no parameter 'no'"),
        (["one.py", "--set", "show.batch=1"], "no parameter 'batch', which is an option: options"),
        (["one.py", "--set", "show.n=1"], "multiple values for argument 'n'"),
        (["broken.py"], "broken.py: ZeroDivisionError: division by zero"),
        (["json.py"], "has the name of another module, 'json': rename it"),
        (["other.yaml"], "the name of a graph's file ends in .toml or .json"),
    ],
)
def test_what_fails_is_said_in_a_line(folder: Path, arguments: list[str], text: str) -> None:
    (folder / "broken.py").write_text("1 / 0\n")
    (folder / "json.py").write_text(GRAPH)
    (folder / "other.yaml").write_text("")
    code, _, errors = run(folder / arguments[0], *arguments[1:])
    assert code == 1
    assert errors.startswith("ipcheap: ")
    assert errors.count("\n") == 1
    assert text in errors


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["one.py", "two.py"],
        ["one.py", "--set", "count.to"],
        ["one.py", "--set", "to=3"],
        ["one.py", "--set", "count.=3"],
        ["one.py", "--runner", "fork"],
        ["one.py", "--duration", "-1"],
        ["one.py", "--duration", "soon"],
        ["one.py", "--picture", "png"],
        ["one.py", "--address", "auto"],
    ],
)
def test_a_bad_argument_shows_the_usage(arguments: list[str]) -> None:
    code, output, errors = run(*arguments)
    assert (code, output) == (2, "")
    assert errors.startswith("usage: ipcheap run ")


def test_the_help_names_the_exit_codes() -> None:
    code, output, _ = run("--help")
    assert code == 0
    assert "FILE[:NAME]" in output
    assert "130" in output


def test_completion_knows_the_command() -> None:
    done = subprocess.run(
        [COMMAND, "--print-completion", "bash"], capture_output=True, text=True, timeout=LIMIT
    )
    assert "--picture" in done.stdout
    assert "_shtab_ipcheap_run_pos_0_COMPGEN=_shtab_compgen_files" in done.stdout


# On a terminal ----------------------------------------------------------------------------


class Terminal:
    """A command that believes to be on a terminal."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [COMMAND, "run", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LINES": "30"} | environment,
        )
        os.close(theirs)
        self.text = ""

    def read_until(self, text: str) -> None:
        """Read until a text has appeared after what was read before."""
        begin = len(self.text)
        deadline = time.monotonic() + testing.PATIENCE
        while text not in self.text[begin:]:
            assert time.monotonic() < deadline, self.text
            self._read()

    def read_to_the_end(self) -> int:
        """Read until the command has ended; return its exit code."""
        deadline = time.monotonic() + LIMIT
        while self._read():
            assert time.monotonic() < deadline, self.text
        return self.process.wait(testing.PATIENCE)

    def _read(self) -> bool:
        if not select.select([self._ours], [], [], 1.0)[0]:
            return True
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # the other side is closed
            return False
        self.text += data.decode(errors="replace")
        return bool(data)

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)


@contextlib.contextmanager
def terminal(*arguments: str | Path, **environment: str) -> Iterator[Terminal]:
    made = Terminal([str(argument) for argument in arguments], environment)
    try:
        yield made
    finally:
        made.close()


SLOW = ["--set", "count.to=25", "--set", "count.pause=0.1"]


def test_a_terminal_shows_the_table_of_edges(folder: Path) -> None:
    with terminal(folder / "one.py", *SLOW) as shown:
        assert shown.read_to_the_end() == 0
    assert "records/s" in shown.text
    assert "count > show" in shown.text
    assert "running after" in shown.text
    assert shown.text.count("ended after") >= 1


def test_quiet_shows_no_table(folder: Path) -> None:
    with terminal(folder / "one.py", *SLOW, "--quiet") as shown:
        assert shown.read_to_the_end() == 0
    assert "records/s" not in shown.text
    assert shown.text.replace("\r", "").startswith("0\n1\n2\n")


def test_without_rich_there_are_plain_lines(folder: Path) -> None:
    hidden = folder / "hidden"
    (hidden / "rich").mkdir(parents=True)
    (hidden / "rich" / "__init__.py").write_text("raise ImportError('hidden')\n")
    with terminal(folder / "one.py", *SLOW, PYTHONPATH=str(hidden)) as shown:
        assert shown.read_to_the_end() == 0
    assert "\x1b" not in shown.text
    assert "count > show" in shown.text
    assert "ended after" in shown.text


def test_ctrl_c_stops_the_graph(folder: Path) -> None:
    with terminal(folder / "one.py", "--set", "count.to=-1", "--set", "count.pause=0.01") as shown:
        shown.read_until("\n5\r\n")  # all processes have begun
        shown.read_until("running after")
        os.killpg(shown.process.pid, signal.SIGINT)
        assert shown.read_to_the_end() == 130
    assert "ipcheap: interrupted" in shown.text
    assert "Traceback" not in shown.text


def test_a_terminated_command_removes_the_heap_of_its_graph(folder: Path, heap_name: str) -> None:
    (folder / "helper.py").write_text(f"name = {heap_name!r}\n")
    with terminal(folder / "one.py", "--set", "count.to=-1", "--set", "count.pause=0.01") as shown:
        shown.read_until("running after")
        assert testing.heaps_left(heap_name) == [heap_name]
        shown.process.terminate()
        assert shown.read_to_the_end() == 128 + signal.SIGTERM
    assert testing.heaps_left(heap_name) == []


def test_a_pipe_that_is_closed_ends_it(folder: Path) -> None:
    arguments = [str(folder / "one.py"), "--json", "--set", "count.to=-1"]
    running = subprocess.Popen(
        [COMMAND, "run", *arguments, "--set", "count.pause=0.1", "--set", "show.prefix=shown "],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    assert running.stderr is not None
    with running:
        assert running.stdout.readline()
        running.stdout.close()
        assert running.wait(testing.PATIENCE) == 1
        errors = running.stderr.read()
    assert "Exception ignored" not in errors


def test_values_are_literals_or_texts() -> None:
    def value(text: str) -> Any:
        return command._setting(f"k.p={text}")[2]

    assert [value(text) for text in ("3", "1e3", "None", "[1, 'a']", "-2", "True")] == [
        3,
        1000.0,
        None,
        [1, "a"],
        -2,
        True,
    ]
    assert [value(text) for text in ("", "a b", "1 +", "open", "x=1")] == [
        "",
        "a b",
        "1 +",
        "open",
        "x=1",
    ]

"""Docstrings of the public API: present, with units, true about errors, and in the reference."""

from __future__ import annotations

import builtins
import inspect
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import ipcheap
from ipcheap import graph, pytest_plugin, sizes, testing

if TYPE_CHECKING:
    from collections.abc import Iterator

REFERENCE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "python.md"
CAMEL = re.compile(r"\b(?:[A-Z][a-z]+){2,}\b")
WORDS = {"NumPy"}

# What a docstring, or its class's, must say about the unit of a parameter.
UNITS = {
    "timeout": r"\bseconds\b|`timeout` s\b",
    "nbytes": r"\bbytes\b|\bsize\b",
    "keep": r"\bbytes\b",
    "offset": r"\bbytes\b|\boffset\b",
    "limit": r"`limit`",
    "dtype": r"\bdtype\b",
    "shape": r"`shape`",
}


def public(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield the public members of a class and its bases, by name."""
    for name in dir(thing):
        member = inspect.getattr_static(thing, name)
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__
        home = getattr(member, "fget", None) or getattr(member, "__objclass__", None)
        of_package = getattr(member, "__module__", "") or getattr(home, "__module__", "")
        if not name.startswith("_") and of_package.startswith("ipcheap"):
            yield name, member


def everything() -> Iterator[tuple[str, Any, str]]:
    """Yield everything public: its name, itself, and the docstring of the class that it is in."""
    things = {f"ipcheap.{name}": getattr(ipcheap, name) for name in ipcheap.__all__}
    things |= {f"graph.{name}": getattr(graph, name) for name in graph.__all__}
    things |= {f"testing.{name}": getattr(testing, name) for name in testing.__all__}
    things |= {"sizes.parse": sizes.parse, "sizes.show": sizes.show}
    for name, thing in things.items():
        if inspect.isroutine(thing):
            yield name, thing, ""
        elif inspect.isclass(thing):
            yield name, thing, ""
            for member, method in public(thing):
                yield f"{name}.{member}", method, thing.__doc__ or ""


EVERYTHING = list(everything())
CASES = [pytest.param(thing, of, id=name) for name, thing, of in EVERYTHING]


def test_the_public_api_is_found() -> None:
    names = {name for name, _, _ in EVERYTHING}
    assert {"ipcheap.Heap.create", "ipcheap.Consumer.close", "testing.Peer.kill"} < names
    assert {"ipcheap.Record.view", "ipcheap.unlink", "ipcheap.Atomic.fetch_add"} < names


@pytest.mark.parametrize(("thing", "of"), CASES)
def test_it_says_what_it_is(thing: Any, of: str) -> None:
    first = (thing.__doc__ or "").strip()
    assert len(first) > 10
    assert first[0].isupper() or first[0] == "`"
    assert "." in first or ":" in first


@pytest.mark.parametrize(("thing", "of"), CASES)
def test_the_names_in_it_exist(thing: Any, of: str) -> None:
    for name in set(CAMEL.findall(thing.__doc__ or "")) - WORDS:
        places = (ipcheap, graph, testing, builtins, threading)
        assert any(hasattr(place, name) for place in places), name


@pytest.mark.parametrize(("thing", "of"), CASES)
def test_it_says_in_what_its_arguments_are_measured(thing: Any, of: str) -> None:
    if inspect.isclass(thing) or inspect.isdatadescriptor(thing):
        return
    text = f"{thing.__doc__}\n{of}"
    for parameter in inspect.signature(thing).parameters:
        if parameter in UNITS:
            assert re.search(UNITS[parameter], text), parameter


def test_all_of_it_is_in_the_reference() -> None:
    names = r"^\.\. auto(?:class|function|exception):: ([\w.]+)"
    written = re.findall(names, text(), re.MULTILINE)
    of_graphs = {f"ipcheap.graph.{name}" for name in graph.__all__}
    assert set(written) == set(ipcheap.__all__) - {"__version__"} | of_graphs
    for module in (testing, pytest_plugin, sizes):
        assert f".. automodule:: {module.__name__}" in text()


def text() -> str:
    return REFERENCE.read_text()


# Code in docstrings -----------------------------------------------------------------------


def code_of(module: Any) -> list[str]:
    """Return the indented blocks of a module's docstring, with their blank lines."""
    blocks: list[list[str]] = [[]]
    for line in inspect.cleandoc(module.__doc__).split("\n"):
        if line.startswith("    ") or (blocks[-1] and not line):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return [textwrap.dedent("\n".join(block)) for block in blocks if block]


def run_code(script: Path, code: str) -> subprocess.Popen[str]:
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, "-W", "error", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_example_of_the_package_runs(tmp_path: Path, heap_name: str) -> None:
    sides = [block.replace('"camera"', f'"{heap_name}"') for block in code_of(ipcheap)]
    assert len(sides) == 2
    assert all(heap_name in side for side in sides)
    sides[1] = f"import ipcheap\n{sides[1]}"  # which the first block already has
    sides[1] = sides[1].replace("attach(", "attach(timeout=60, name=")
    sides[1] = sides[1].replace('"frames")', '"frames", timeout=60)')
    running = [run_code(tmp_path / f"side_{n}.py", side) for n, side in enumerate(sides)]
    try:
        outputs = [process.communicate(timeout=testing.PATIENCE)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], outputs
    assert outputs == ["", "0.0\n"]


def test_the_example_of_graphs_runs(tmp_path: Path) -> None:
    (code,) = code_of(graph)
    process = run_code(tmp_path / "example.py", code)
    output, _ = process.communicate(timeout=testing.PATIENCE)
    assert process.returncode == 0, output
    assert output.split() == [f"{n}.0" for n in range(100)]


def test_the_example_of_testing_runs(tmp_path: Path) -> None:
    (code,) = code_of(testing)
    call = "\nif __name__ == '__main__':\n    test_a_killed_producer_loses_nothing()\n"
    process = run_code(tmp_path / "example.py", f"import signal\n{code}{call}")
    output, _ = process.communicate(timeout=testing.PATIENCE)
    assert process.returncode == 0, output

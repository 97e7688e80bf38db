"""ipcheap/_core.pyi and _types.py describe the extension module as it is."""

from __future__ import annotations

import ast
import importlib
import inspect
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import ipcheap
from ipcheap import _core, _types

STUB = Path(__file__).resolve().parents[1] / "ipcheap" / "_core.pyi"
NUMBERS = ("int", "float", "bool", "None")


@dataclass(frozen=True)
class Function:
    """A signature as a stub writes it."""

    arguments: tuple[str, ...]
    result: str


def read_stub(text: str) -> dict[str, Function | None]:
    """Return the members of the class `_Lib`: functions, and None for each constant."""
    members: dict[str, Function | None] = {}
    (lib,) = (
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.ClassDef) and node.name == "_Lib"
    )
    for node in lib.body:
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.posonlyargs, *node.args.args][1:]
            members[node.name] = Function(
                tuple(ast.unparse(a.annotation) if a.annotation else "" for a in arguments),
                ast.unparse(node.returns) if node.returns else "",
            )
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            members[node.target.id] = None
    return members


def python_type(ctype: Any) -> str:
    """Name the Python type that cffi makes of a C type."""
    if ctype.kind == "void":
        return "None"
    if ctype.kind == "enum":
        return "int"
    if ctype.kind == "primitive":
        special = {"_Bool": "bool", "float": "float", "double": "float", "char": "bytes"}
        return special.get(ctype.cname, "int")
    return "CData"


def fits(written: str, ctype: Any) -> bool:
    """Return whether an annotation suits the C type; for pointers, any except a number."""
    expected = python_type(ctype)
    return written not in NUMBERS if expected == "CData" else written == expected


def stub_faults(text: str) -> list[str]:
    """List where a stub and the built module differ."""
    stub = read_stub(text)
    built = {name: getattr(_core.lib, name) for name in dir(_core.lib)}
    faults = [f"{name}: not in the stub" for name in sorted(built.keys() - stub.keys())]
    faults += [f"{name}: not in the module" for name in sorted(stub.keys() - built.keys())]
    for name in sorted(built.keys() & stub.keys()):
        written = stub[name]
        if not callable(built[name]) or written is None:
            if callable(built[name]) or written is not None:
                faults.append(f"{name}: a function for one, a constant for the other")
            continue
        ctype: Any = _core.ffi.typeof(built[name])
        if len(written.arguments) != len(ctype.args):
            faults.append(f"{name}: {len(written.arguments)} arguments, not {len(ctype.args)}")
        elif not all(map(fits, written.arguments, ctype.args)):
            faults.append(f"{name}: takes {written.arguments}, but is {ctype.cname}")
        if written.result != python_type(ctype.result):
            faults.append(f"{name}: returns {written.result}, not {python_type(ctype.result)}")
    return faults


def test_the_stub_is_true() -> None:
    assert stub_faults(STUB.read_text()) == []


@pytest.mark.parametrize(
    ("before", "after", "fault"),
    [
        ("def ipcheap_version_string", "def gone", "not in the module"),
        ("ipcheap_version_string(self)", "ipcheap_version_string(self, x: int)", "1 arguments"),
        ("ipcheap_version_string(self) -> CData", "ipcheap_version_string(self) -> int", "returns"),
        ("def ipcheap_version_string(self) -> CData: ...", "x: int", "not in the stub"),
    ],
)
def test_a_false_stub_is_caught(before: str, after: str, fault: str) -> None:
    text = STUB.read_text()
    assert before in text
    assert any(fault in found for found in stub_faults(text.replace(before, after)))


def test_what_is_beside_the_library_in_the_stub_is_in_the_module() -> None:
    functions = [n for n in ast.parse(STUB.read_text()).body if isinstance(n, ast.FunctionDef)]
    written = {n.name: [a.arg for a in n.args.posonlyargs] for n in functions}
    built = {
        name: list(inspect.signature(member).parameters)
        for name, member in vars(_core).items()
        if inspect.isbuiltin(member)
    }
    assert written == built


# The types ---------------------------------------------------------------------------------


def written_types() -> dict[str, ast.ClassDef]:
    """Return the classes that _types.py shows to type checkers."""
    tree = ast.parse((STUB.parent / "_types.py").read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}


def written_members(written: ast.ClassDef) -> dict[str, tuple[str, ...] | None]:
    """Return the members of a class: the parameters of a method, None for anything else."""
    members: dict[str, tuple[str, ...] | None] = {}
    for node in written.body:
        if isinstance(node, ast.AnnAssign):
            members[ast.unparse(node.target)] = None
        elif isinstance(node, ast.FunctionDef):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)][1:]
            names += [a.arg for a in node.args.kwonlyargs]
            names += [node.args.vararg.arg] if node.args.vararg else []
            is_property = any(ast.unparse(each) == "property" for each in node.decorator_list)
            members[node.name] = None if is_property else tuple(names)
    if sys.version_info < (3, 12):  # before, that is in the C slot only
        members.pop("__buffer__", None)
    return members


def built_members(built: type) -> dict[str, tuple[str, ...] | None]:
    """Return the same of a built type."""
    members: dict[str, tuple[str, ...] | None] = {}
    for name, member in vars(built).items():
        if name in ("__len__", "__iter__"):
            members[name] = ()
        elif name == "__delitem__":  # comes with __setitem__, and raises TypeError
            continue
        elif inspect.ismethoddescriptor(member):
            members[name] = tuple(inspect.signature(member).parameters)[1:]
        elif not name.startswith("__"):
            members[name] = None
    return members


CORES = ["MemoryCore", "RecordCore", "ProducerCore", "ConsumerCore"]
CORES += ["ChunkCore", "StoreWriterCore", "StoreReaderCore", "FollowCore", "BusCore"]


@pytest.mark.parametrize("name", CORES)
def test_the_types_are_as_written(name: str) -> None:
    built: type = getattr(_types, name)
    assert written_members(written_types()[name]) == built_members(built)


def test_the_block_is_as_written() -> None:
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        built = type(heap.allocate_record(1)._export())
    written = written_members(written_types()["Block"])
    assert written == built_members(built)


# The two packages without type hints ------------------------------------------------------


@pytest.mark.parametrize("name", ["posix_ipc", "sysv_ipc"])
def test_the_stubs_of_other_packages_name_what_is_there(name: str) -> None:
    module = importlib.import_module(name)
    tree = ast.parse((STUB.parents[1] / "typings" / f"{name}.pyi").read_text())
    assert tree.body
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            kind = getattr(module, node.name)
            for member in node.body:
                if isinstance(member, ast.FunctionDef):
                    assert callable(getattr(kind, member.name))
                elif isinstance(member, ast.AnnAssign):
                    assert hasattr(kind, ast.unparse(member.target))
        elif isinstance(node, ast.FunctionDef):
            assert callable(getattr(module, node.name))
        elif isinstance(node, ast.AnnAssign):
            assert hasattr(module, ast.unparse(node.target))

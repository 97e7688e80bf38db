"""Folder order is dependency order: what may include, or import, what.

Fill in the tables when a layer or a module is added; everything else here follows from them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]

# A C source includes headers of its own folder, of those in earlier rows, and public ones. The
# folders of one row, the kinds of channels, do not know each other.
NATIVE_ROWS: tuple[tuple[str, ...], ...] = (
    ("base",),
    ("segment",),
    ("memory",),
    ("channel",),
    ("endpoint",),
    ("record", "static"),
    ("heap",),
    ("observe",),
)
NATIVE_LAYERS = {layer: row for row, layers in enumerate(NATIVE_ROWS) for layer in layers}
KINDS = NATIVE_ROWS[5]

# The only layer that talks to the operating system.
OS_LAYER = "base"

# What every layer may include of the system: the language, not the operating system.
PLAIN_HEADERS = frozenset(
    {
        "assert.h",
        "errno.h",
        "inttypes.h",
        "limits.h",
        "stdalign.h",
        "stdarg.h",
        "stdatomic.h",
        "stdbool.h",
        "stddef.h",
        "stdint.h",
        "stdio.h",
        "stdlib.h",
        "stdnoreturn.h",
        "string.h",
    }
)

PYTHON_HEADERS = frozenset({"Python.h", "structmember.h"})

# What the bindings need of the core and no C program should have: forbidding to sleep.
HEADERS_FOR_BINDINGS = frozenset({"segment/sleep.h"})

# A Python module imports modules of earlier rows only; modules of one row do not import each
# other. Every module of the package stands here. Imports under `if TYPE_CHECKING` are not checked.
PYTHON_LAYERS: tuple[tuple[str, ...], ...] = (
    ("_core", "errors", "codec", "results"),
    ("_arguments", "_types", "_native", "_kernel", "_aio", "array", "objects"),
    ("_timing", "_failures", "sizes"),
    ("_handle", "_segments", "record"),
    ("_directory", "_outside", "_endpoint"),
    ("channel", "producer", "consumer"),
    ("record_channel", "static"),
    ("heap", "sync"),
    ("waiting",),
    ("__init__",),
    ("testing", "tools"),
    ("pytest_plugin", "__main__"),
)

# They stand behind base/os.h, where a test can make them fail.
ALLOCATES = re.compile(r"\b(malloc|calloc|realloc|aligned_alloc|posix_memalign|strdup)\(")

# Subpackages for another audience: they import `ipcheap` and public names from it, like any
# user's program, and themselves. `import ipcheap` imports none of them.
APART = ("tools", "graph")
# The one exception. What a broken heap's files are is the core's knowledge, and to remove them
# without a race needs its locks; a user has `ipcheap doctor` and `ipcheap.unlink()`.
ALSO = {"tools/doctor.py": {"_outside"}}

INCLUDE = re.compile(r"^[ \t]*#[ \t]*include\b[ \t]*(.*?)[ \t]*$", re.MULTILINE)
QUOTED = re.compile(r"""(?:"(?P<own>[^"]+)"|<(?P<system>[^>]+)>)""")


# C ------------------------------------------------------------------------------------


def includes(source: Path) -> Iterator[tuple[str, str]]:
    """Yield what a file includes, as (kind, path): own, system or public."""
    for written in INCLUDE.findall(source.read_text()):
        match = QUOTED.match(written)
        if match is None:
            yield "unreadable", written
        elif (match["own"] or match["system"]).startswith("ipcheap/"):
            yield "public", match["own"] or match["system"]
        elif match["own"]:
            yield "own", match["own"]
        else:
            yield "system", match["system"]


def layer_fault(source: Path, layer: str, kind: str, header: str) -> str | None:
    """Describe what is wrong with one include in a source of a layer."""
    if kind == "public":
        return None
    if kind == "system":
        if layer == OS_LAYER or header in PLAIN_HEADERS:
            return None
        return f"<{header}> is for {OS_LAYER}/ only"
    if kind == "unreadable":
        return f"cannot read include {header}"
    of, _, rest = header.partition("/")
    if not rest:
        return None if (source.parent / header).is_file() else f'no "{header}" beside it'
    if of not in NATIVE_LAYERS:
        return f'"{header}" is of no layer'
    if of != layer and NATIVE_LAYERS[of] >= NATIVE_LAYERS[layer]:
        return f'"{header}" is not of an earlier layer than {layer}'
    return None


def native_faults(native: Path) -> list[str]:
    """List every include below native/src, include and bindings that breaks the order."""
    faults = []
    for source in sorted((native / "src").rglob("*.[ch]")):
        place = source.relative_to(native)
        layer = place.parts[1]
        if layer not in NATIVE_LAYERS:
            faults.append(f"{place}: in no layer")
            continue
        for kind, header in includes(source):
            fault = layer_fault(source, layer, kind, header)
            if fault:
                faults.append(f"{place}: {fault}")
        if layer != OS_LAYER:
            for call in ALLOCATES.findall(source.read_text()):
                faults.append(f"{place}: {call}() is for {OS_LAYER}/ only")

    public = {source: frozenset[str]() for source in (native / "include").rglob("*.h")}
    bindings = dict.fromkeys((native / "bindings").rglob("*.[ch]"), HEADERS_FOR_BINDINGS)
    for source, besides in sorted({**public, **bindings}.items()):
        for kind, header in includes(source):
            if kind == "own" and ((source.parent / header).is_file() or header in besides):
                continue
            if kind == "public" or (kind == "system" and header in PLAIN_HEADERS | PYTHON_HEADERS):
                continue
            faults.append(f"{source.relative_to(native)}: {header} is neither public nor plain C")
    return faults


# Python -------------------------------------------------------------------------------


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk the nodes of a tree, except those that only a type checker reads."""
    yield tree
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and is_for_types_only(node):
            for otherwise in node.orelse:
                yield from running(otherwise)
        else:
            yield from running(node)


def imports(source: Path, package: Path) -> Iterator[str]:
    """Yield the modules of the package that a source imports, by their name inside it."""
    name = package.name

    def inner(dotted: str, names: list[str]) -> Iterator[str]:
        if dotted == name:
            for each in names:
                is_module = any(package.glob(f"{each}.py*")) or (package / each).is_dir()
                yield each if is_module else "__init__"
        elif dotted.startswith(name + "."):
            yield dotted.split(".")[1]

    for node in running(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from inner(alias.name, ["__init__"])
        elif isinstance(node, ast.ImportFrom):
            dotted = node.module or ""
            if node.level:
                folder = source.parents[node.level - 1].relative_to(package.parent)
                dotted = ".".join([*folder.parts, *([dotted] if dotted else [])])
            yield from inner(dotted, [alias.name for alias in node.names])


def python_faults(package: Path, layers: tuple[tuple[str, ...], ...]) -> list[str]:
    """List every import that breaks the order, and what the table lacks or has in excess."""
    row_of = {module: row for row, modules in enumerate(layers) for module in modules}
    faults = []
    found = {"_core"}
    for source in sorted(package.rglob("*.py")):
        place = source.relative_to(package)
        module = place.parts[0].removesuffix(".py")
        found.add(module)
        if module not in row_of:
            faults.append(f"{place}: {module} is not in PYTHON_LAYERS")
            continue
        for other in imports(source, package):
            if other != module and row_of.get(other, len(layers)) >= row_of[module]:
                faults.append(f"{place}: imports {other}, which is not in an earlier row")
    faults += [f"{module}: in PYTHON_LAYERS, but there is none" for module in row_of.keys() - found]
    return faults


def whole_names(source: Path, package: Path) -> Iterator[tuple[str, str]]:
    """Yield what a source imports of the package: the dotted module, and the name from it or ""."""
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            dotted = node.module or ""
            if node.level:
                folder = source.parents[node.level - 1].relative_to(package.parent)
                dotted = ".".join([*folder.parts, *([dotted] if dotted else [])])
            for alias in node.names:
                yield dotted, alias.name


def apart_faults(package: Path, also: dict[str, set[str]]) -> list[str]:
    """List what the subpackages for others use of the package that is not public."""
    faults = []
    name = package.name
    for folder in APART:
        own = f"{name}.{folder}"
        for source in sorted((package / folder).rglob("*.py")):
            place = source.relative_to(package)
            allowed = also.get(place.as_posix(), set())
            for module, imported in whole_names(source, package):
                if module.partition(".")[0] != name or f"{module}.".startswith(f"{own}."):
                    continue
                of_own = module == name and imported == folder
                public = module == name and (not imported.startswith("_") or imported in allowed)
                if not (public or of_own):
                    faults.append(f"{place}: imports {imported or 'all'} from {module}")
            for node in ast.walk(ast.parse(source.read_text())):
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == name
                    and node.attr.startswith("_")
                ):
                    faults.append(f"{place}: uses {name}.{node.attr}")
    return faults


# Tests --------------------------------------------------------------------------------


def plant(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def test_native_sources_include_earlier_layers_only() -> None:
    assert native_faults(ROOT / "native") == []


def test_python_modules_import_earlier_modules_only() -> None:
    assert python_faults(ROOT / "ipcheap", PYTHON_LAYERS) == []


def test_tools_import_public_names_only() -> None:
    assert apart_faults(ROOT / "ipcheap", ALSO) == []


def test_the_exceptions_are_needed() -> None:
    faults = apart_faults(ROOT / "ipcheap", {})
    assert faults == [
        f"{place}: imports {name} from ipcheap" for place, names in ALSO.items() for name in names
    ]


def test_the_package_imports_neither_tools_nor_graphs() -> None:
    program = (
        "import sys, ipcheap\n"
        "[getattr(ipcheap, name) for name in ipcheap.__all__]\n"
        "print(*(name for name in sys.modules if name.startswith('ipcheap.')))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True
    )
    imported = {name.split(".")[1] for name in done.stdout.split()}
    assert {"heap", "sync", "waiting"} < imported
    assert not imported & {*APART, "testing"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/memory/extent.c", '#include "record/ring.h"\n'),
        ("src/base/os.h", '  # include  "segment/layout.h" /* why not */\n'),
        ("src/memory/extent.c", "#include <sys/mman.h>\n"),
        ("src/memory/extent.c", '#include "../record/ring.h"\n'),
        ("src/memory/extent.c", '#include "ring.h"\n'),
        ("src/memory/extent.c", "#include RING\n"),
        ("src/memory/extent.c", "void *list = realloc(before, 64);\n"),
        ("src/memory/extent.c", '#include "vendor/ring.h"\n'),
        ("src/misc/util.c", ""),
        ("src/util.c", ""),
        ("include/ipcheap/heap.h", '#include "memory/extent.h"\n'),
        ("include/ipcheap/heap.h", "#include <linux/futex.h>\n"),
        ("include/ipcheap/heap.h", '#include "segment/sleep.h"\n'),
        ("bindings/core.csrc.c", '#include "base/os.h"\n'),
        ("bindings/gil.h", '#include "segment/lock.h"\n'),
    ],
)
def test_a_native_tree_out_of_order_is_caught(tmp_path: Path, name: str, text: str) -> None:
    assert len(native_faults(plant(tmp_path, {name: text}))) == 1


def test_a_native_tree_in_order_passes(tmp_path: Path) -> None:
    files = {
        "src/base/os.c": '#include "os.h"\n#include <sys/mman.h>\n',
        "src/base/os.h": "#include <stdint.h>\n#include <ipcheap/error.h>\n",
        "src/memory/extent.c": '#include "base/os.h"\n#include "memory/extent.h"\n',
        "include/ipcheap/error.h": "#include <stddef.h>\n",
        "include/ipcheap/heap.h": '#include <stdint.h>\n#include "error.h"\n',
        "bindings/core.csrc.c": "#include <Python.h>\n#include <ipcheap/heap.h>\n",
        "bindings/gil.h": '#include "segment/sleep.h"\n',
    }
    assert native_faults(plant(tmp_path, files)) == []


@pytest.mark.parametrize(
    "line",
    [
        "import ipcheap.heap",
        "import ipcheap",
        "from ipcheap import heap",
        "from ipcheap import Heap",
        "from ipcheap.heap import Heap",
        "from . import heap",
        "from .heap import Heap",
        "def late():\n    from .heap import Heap",
        "import os\nif os.name:\n    from .heap import Heap",
        "from ._unlisted import x",
    ],
)
def test_a_python_module_out_of_order_is_caught(tmp_path: Path, line: str) -> None:
    package = plant(
        tmp_path / "ipcheap",
        {"__init__.py": "from .heap import Heap", "heap.py": "Heap = 1", "errors.py": line},
    )
    layers = (("errors",), ("heap",), ("__init__",))
    assert len(python_faults(package, layers)) == 1


def test_a_python_module_in_order_passes(tmp_path: Path) -> None:
    types_only = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from . import heap\n"
    package = plant(
        tmp_path / "ipcheap",
        {
            "__init__.py": "from .heap import Heap",
            "heap.py": "import os\nfrom . import errors\nfrom ipcheap.errors import Error",
            "errors.py": types_only,
        },
    )
    assert python_faults(package, (("errors",), ("heap",), ("__init__",))) == []


def test_the_table_of_python_modules_is_exact(tmp_path: Path) -> None:
    package = plant(tmp_path / "ipcheap", {"__init__.py": "", "heap.py": ""})
    assert python_faults(package, (("gone",), ("__init__",))) == [
        "heap.py: heap is not in PYTHON_LAYERS",
        "gone: in PYTHON_LAYERS, but there is none",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "from ipcheap import _segments",
        "from .. import _segments",
        "from ipcheap._segments import look",
        "from ipcheap.heap import Heap",
        "import ipcheap.heap",
        "import ipcheap\nipcheap._segments",
        "def late():\n    from ipcheap import _segments",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ipcheap._core import CData",
    ],
)
def test_a_tool_that_looks_inside_is_caught(tmp_path: Path, line: str) -> None:
    package = plant(tmp_path / "ipcheap", {"tools/top.py": line})
    assert len(apart_faults(package, {"tools/doctor.py": {"_segments"}})) == 1


def test_a_tool_that_uses_the_package_as_anybody_does_passes(tmp_path: Path) -> None:
    lines = (
        "import os, ipcheap\n"
        "from ipcheap import Heap, _outside, sizes, tools\n"
        "from ipcheap.tools import screen\n"
        "from ipcheap.tools.screen import fail\n"
        "from . import screen\n"
        "from .screen import fail\n"
        "ipcheap.heaps()\n"
    )
    package = plant(tmp_path / "ipcheap", {"tools/doctor.py": lines})
    assert apart_faults(package, {"tools/doctor.py": {"_outside"}}) == []

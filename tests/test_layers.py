"""Folder order is dependency order: what may include, call, name or import what.

Fill in the tables when a layer or a module is added; everything else here follows from them.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
    ("record", "static", "stream", "store", "bus"),
    ("heap",),
    ("observe",),
)
NATIVE_LAYERS = {layer: row for row, layers in enumerate(NATIVE_ROWS) for layer in layers}
KINDS = NATIVE_ROWS[5]

# Folders whose files may call each other in a circle. Freeing may trim, and trimming frees; a
# check calls its parts, which report through it.
CIRCLES = frozenset({"memory", "observe"})

# What is below the kinds names no ring, which only records have, except where all shared bytes are
# described. A bell is rung, too: by these functions, and in comments by a verb.
BELOW_KINDS = tuple(layer for row in NATIVE_ROWS[:5] for layer in row)
DESCRIBES_BYTES = "segment/layout.h"
RING_A_BELL = frozenset({"bell_ring", "os_pipe_ring", "ring_self"})

# Where a kind is named beside its own folder: the table, and the second opinion on it.
KINDS_TABLE = "heap/kinds.c"
SECOND_OPINION = "observe"

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

# What the bindings need of the core and no C program should have: forbidding to sleep, and ending a
# hold where no GIL protects it.
HEADERS_FOR_BINDINGS = frozenset({"segment/sleep.h", "store/release.h"})

# A Python module imports modules of earlier rows only; modules of one row do not import each
# other. Every module of the package stands here. Imports under `if TYPE_CHECKING` are not checked.
PYTHON_LAYERS: tuple[tuple[str, ...], ...] = (
    ("_core", "_fork", "_frozen", "errors", "codec", "blockers"),
    ("results", "_arguments", "_types", "_native", "_kernel", "_aio", "_files", "array", "objects"),
    ("_limits",),
    ("_timing", "_failures", "sizes", "_sealed"),
    ("_handle", "_segments", "record", "_store_limits", "_participants"),
    ("_directory", "_outside", "_permissions", "_endpoint", "chunk", "message"),
    ("channel", "producer", "_receiver", "_store_endpoint", "observer"),
    ("consumer", "listener", "store_reader", "store_writer"),
    ("_channels", "record_channel", "static", "store", "stream", "bus"),
    ("heap", "sync"),
    ("waiting",),
    ("__init__",),
    ("places",),
    ("graph",),
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
# The tools run graphs, by public names of that subpackage.
SEES = {"tools": {"graph"}}
# What `python -m` runs is above all modules, also in a subpackage.
ENTRY = "__main__.py"

INCLUDE = re.compile(r"^[ \t]*#[ \t]*include\b[ \t]*(.*?)[ \t]*$", re.MULTILINE)
QUOTED = re.compile(r"""(?:"(?P<own>[^"]+)"|<(?P<system>[^>]+)>)""")

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
NO_CODE = re.compile(r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'""", re.DOTALL)
DIRECTIVE = re.compile(r"^[ \t]*#(?:\\\n|[^\n])*", re.MULTILINE)
# Not of a member: those calls go through a table.
CALL = re.compile(r"(?<!->)(?<!\.)\b([A-Za-z_]\w*)\s*\(")
RING_PART = re.compile(r"(?:^|_)rings?(?:_|$)", re.IGNORECASE)
# The noun follows one of these, the verb never does.
RING_NOUN = re.compile(
    r"(?:\b(?:an?|the|its|their|his|our|this|these|each|every|any|no|one|two|another|other|whole"
    r"|own|full|of|in|into|inside|from|with|by|on|for|and|or)|'s|s'|,)\s+rings?\b"
    r"|\brings?'|\brings?\s+(?:of|slots?|buffers?)\b|^\W*rings?\b",
    re.IGNORECASE,
)
KIND_ENTRY = re.compile(r"\[(IPCHEAP_\w+)\]\s*=\s*&(\w+)")


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


class Function(NamedTuple):
    """A function that a C source defines, with the names that it calls."""

    name: str
    is_static: bool
    calls: tuple[str, ...]


def functions(source: Path) -> Iterator[Function]:
    """Yield the functions that a C source or header defines."""
    code = DIRECTIVE.sub(" ", NO_CODE.sub(" ", source.read_text()))
    depth = begin = opened = 0
    head = ""
    for at, character in enumerate(code):
        if character == "{":
            if depth == 0:
                head, opened = code[begin:at].rstrip(), at
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                begin = at + 1
                name = defined_name(head)
                if name:
                    calls = tuple(CALL.findall(code[opened:at]))
                    yield Function(name, "static" in head.split(), calls)
        elif character == ";" and depth == 0:
            begin = at + 1


def defined_name(head: str) -> str | None:
    """Return the name before the last pair of parentheses, which ends the head of a function."""
    at, depth = len(head), 0
    while at and head.endswith(")"):
        at -= 1
        depth += {")": 1, "(": -1}.get(head[at], 0)
        if depth == 0:
            break
    match = re.search(r"(\w+)\s*$", head[:at]) if head.endswith(")") else None
    return match[1] if match else None


class Calls:
    """Which C file below native/src calls which, by name.

    A function that a header defines is part of every file that calls it.
    """

    def __init__(self, sources: Path) -> None:
        self.own: dict[str, dict[str, Function]] = {}
        self.inline: dict[str, Function] = {}
        self.headers: dict[str, str] = {}
        self.defined: dict[str, str] = {}
        for source in sorted(sources.rglob("*.[ch]")):
            place = source.relative_to(sources).as_posix()
            found = {function.name: function for function in functions(source)}
            self.own[place] = found
            if source.suffix == ".h":
                self.inline |= found
                self.headers |= dict.fromkeys(found, place)
            else:
                self.defined |= {name: place for name, f in found.items() if not f.is_static}

    def direct(self, place: str) -> Iterator[tuple[str, str]]:
        """Yield what a file or header calls outside itself: (file or header, function)."""
        for function in self.own[place].values():
            for name in function.calls:
                where = self.headers.get(name) or self.defined.get(name)
                if name not in self.own[place] and where and where != place:
                    yield where, name

    def reached(self, name: str, seen: set[str]) -> Iterator[str]:
        """Yield the files that define what a call of this name reaches through headers."""
        if name in seen:
            return
        seen.add(name)
        if name in self.inline:
            for called in self.inline[name].calls:
                yield from self.reached(called, seen)
        elif name in self.defined:
            yield self.defined[name]

    def graph(self) -> dict[str, set[str]]:
        """Return which other files each C file calls."""
        edges: dict[str, set[str]] = {}
        for place, found in self.own.items():
            if place.endswith(".h"):
                continue
            seen = set(found)
            called = [name for function in found.values() for name in function.calls]
            edges[place] = {to for name in called for to in self.reached(name, seen)} - {place}
        return edges


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return the sets of more than one file that all call each other, directly or not."""
    reach = {place: set(called) for place, called in edges.items()}
    for between in edges:
        for called in reach.values():
            if between in called:
                called |= reach[between]
    found = {
        frozenset(other for other in edges if place in reach[other] and other in reach[place])
        for place in edges
    }
    return sorted(sorted(circle) for circle in found if len(circle) > 1)


def call_faults(native: Path) -> list[str]:
    """List the calls that do not go down, and the circles of files outside CIRCLES."""
    calls = Calls(native / "src")
    faults = []
    for place in calls.own:
        layer = place.split("/")[0]
        for where, name in sorted(set(calls.direct(place))):
            of = where.split("/")[0]
            if of != layer and NATIVE_LAYERS[of] >= NATIVE_LAYERS[layer]:
                faults.append(f"{place}: calls {name}() of {where}, which is not an earlier layer")
    for circle in circles(calls.graph()):
        layers = {place.split("/")[0] for place in circle}
        if not (len(layers) == 1 and layers <= CIRCLES):
            faults.append(f"{', '.join(circle)}: call each other")
    return faults


def ring_faults(native: Path) -> list[str]:
    """List where a source below the kinds names a ring, in code or in a comment."""
    faults = []
    for layer in BELOW_KINDS:
        for source in sorted((native / "src" / layer).rglob("*.[ch]")):
            place = source.relative_to(native / "src").as_posix()
            if place == DESCRIBES_BYTES:
                continue
            text = source.read_text()
            for name in sorted(set(re.findall(r"\w+", NO_CODE.sub(" ", text))) - RING_A_BELL):
                if RING_PART.search(name):
                    faults.append(f"{place}: the identifier {name}")
            for match in COMMENT.finditer(text):
                words = " ".join(
                    re.sub(r"^\s*(?:/?\*+/?|//)|\*/$", "", match[0], flags=re.MULTILINE).split()
                )
                for named in re.findall(r"\w+", words):
                    if "_" in named and named not in RING_A_BELL and RING_PART.search(named):
                        faults.append(f"{place}: {named} in a comment")
                if found := RING_NOUN.search(words):
                    line = text.count("\n", 0, match.start()) + 1
                    faults.append(f"{place}:{line}: '{found[0]}' in a comment")
    return faults


def kind_faults(native: Path) -> list[str]:
    """List where a source names a kind that is not its own."""
    sources = native / "src"
    entries = KIND_ENTRY.findall(COMMENT.sub(" ", (sources / KINDS_TABLE).read_text()))
    names = {name for entry in entries for name in entry}
    home = {
        name: source.relative_to(sources).parts[0]
        for _, name in entries
        for layer in KINDS
        for source in sorted((sources / layer).rglob("*.h"))
        if re.search(rf"\b{name}\b", source.read_text())
    }
    home |= {number: home[answers] for number, answers in entries if answers in home}
    faults = [f"{KINDS_TABLE}: nothing declares {name}" for name in sorted(names - home.keys())]
    for source in sorted(sources.rglob("*.[ch]")):
        place = source.relative_to(sources)
        if place.as_posix() == KINDS_TABLE or place.parts[0] == SECOND_OPINION:
            continue
        named = set(re.findall(r"\w+", NO_CODE.sub(" ", source.read_text()))) & names
        faults += [
            f"{place}: names {name}" for name in sorted(named) if home.get(name) != place.parts[0]
        ]
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
        module = (ENTRY if place.name == ENTRY else place.parts[0]).removesuffix(".py")
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
        others = {f"{name}.{other}" for other in SEES.get(folder, ())}
        for source in sorted((package / folder).rglob("*.py")):
            if source.name == ENTRY:
                continue
            place = source.relative_to(package)
            allowed = also.get(place.as_posix(), set())
            for module, imported in whole_names(source, package):
                if module.partition(".")[0] != name or f"{module}.".startswith(f"{own}."):
                    continue
                of_own = module == name and imported == folder
                public = module == name and (not imported.startswith("_") or imported in allowed)
                seen = module in others and imported and not imported.startswith("_")
                if not (public or of_own or seen):
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


def test_calls_go_down_and_files_do_not_call_in_circles() -> None:
    assert call_faults(ROOT / "native") == []


def test_the_circles_that_are_allowed_exist() -> None:
    found = circles(Calls(ROOT / "native" / "src").graph())
    assert {circle[0].split("/")[0] for circle in found} == CIRCLES


def test_nothing_below_the_kinds_names_a_ring() -> None:
    assert ring_faults(ROOT / "native") == []


def test_a_kind_is_named_in_its_folder_and_in_the_table_only() -> None:
    assert kind_faults(ROOT / "native") == []


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


# What the planted callers call: a file of a higher layer, and its own static and shared functions.
CALLEES = {
    "src/record/send.c": "int ipcheap_send(int n) { return n; }\nstatic int slow(void) {}\n",
    "src/static/sync.c": "void\nevent_expect(void *event) { (void)event; }\n",
    "src/base/os.c": "int os_now(void) { return 0; }\n",
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/segment/lock.c", "int f(void) { return ipcheap_send(1); }\n"),
        ("src/segment/lock.h", "static inline int f(void) {\n    return ipcheap_send (1);\n}\n"),
        ("src/record/ring.c", "void f(void) { event_expect(0); }\n"),
        (
            "src/endpoint/bell.c",
            "void __attribute__((cold)) f(int (*g)(void)) { ipcheap_send(g()); }\n",
        ),
        (
            "src/record/ring.c",
            "int ring(void) {}\nint f(void) {\n    if (os_now()) { event_expect(0); }\n}\n",
        ),
    ],
)
def test_a_call_that_does_not_go_down_is_caught(tmp_path: Path, name: str, text: str) -> None:
    faults = call_faults(plant(tmp_path, {**CALLEES, name: text}))
    assert len(faults) == 1
    assert faults[0].startswith(name.removeprefix("src/"))


@pytest.mark.parametrize(
    "text",
    [
        "int f(void) { return os_now(); }\n",
        "int f(const struct kind *k) { return k->ipcheap_send(1) + k.ipcheap_send(2); }\n",
        'int f(void) { return 0; } /* ipcheap_send(1) */\nconst char *text = "ipcheap_send(1)";\n',
        "#define SEND() \\\n    ipcheap_send(1)\nstatic int slow(void) { return 0; }\n",
        "static int slow(void) { return 0; }\nint f(void) { return slow(); }\n",
        "int ipcheap_send(int n);\nconst struct kind record_kind = {.send = ipcheap_send};\n",
        "int f(void) { return slow(); }\n",
        "int f(void) { for (;;) { while (os_now()) {} } return sizeof(int); }\n",
    ],
)
def test_a_call_that_goes_down_passes(tmp_path: Path, text: str) -> None:
    assert call_faults(plant(tmp_path, {**CALLEES, "src/segment/lock.c": text})) == []


@pytest.mark.parametrize(
    "files",
    [
        {"src/record/a.c": "void a(void) { b(); }", "src/record/b.c": "void b(void) { a(); }"},
        {
            "src/record/a.c": "void a(void) { b(); }",
            "src/record/b.c": "void b(void) { if (1) { c(); } }",
            "src/record/c.c": "static void d(void) { a(); }\nvoid c(void) { d(); }",
        },
        {
            "src/record/a.c": "void a(void) { b(); }",
            "src/record/a.h": "static inline void i(void) { j(); }",
            "src/record/b.h": "static inline void j(void) { a(); }",
            "src/record/b.c": "void b(void) { i(); }",
        },
    ],
)
def test_files_that_call_in_a_circle_are_caught(tmp_path: Path, files: dict[str, str]) -> None:
    assert len(call_faults(plant(tmp_path, files))) == 1
    inside = {name.replace("record", "memory"): text for name, text in files.items()}
    assert call_faults(plant(tmp_path / "inside", inside)) == []


@pytest.mark.parametrize(
    "files",
    [
        {"src/record/a.c": "void a(void) { b(); }", "src/record/b.c": "void b(void) { e->a(); }"},
        {
            "src/record/a.c": "void a(void) { b(); }\nstatic void s(void) {}",
            "src/record/b.c": "void b(void) { s(); }\nstatic void s(void) {}",
        },
        # A header's function calls the slow half in the header's own file.
        {
            "src/record/a.c": "void slow(void) {}\nvoid a(void) { quick(); }",
            "src/record/a.h": "static inline void quick(void) { slow(); }",
            "src/record/b.c": "void b(void) { quick(); }",
        },
    ],
)
def test_files_that_do_not_call_in_a_circle_pass(tmp_path: Path, files: dict[str, str]) -> None:
    assert call_faults(plant(tmp_path, files)) == []


@pytest.mark.parametrize(
    "text",
    [
        "struct ring;\n",
        "uint64_t ring_sent(void);\n",
        "int mpsc_ring;\n",
        "#define MOST_RING_SLOTS 4\n",
        "/* Frees the blocks of a ring. */\n",
        "/* Own slabs, orphans, rings. */\n",
        "/* The ring is full. */\n",
        "/*\n * Frees what comes back from the\n * ring of a consumer.\n */\n",
        "/* A producer's ring. */\n",
        "/* Ring slots. */\n",
        "// see ring_sent()\n",
        "/* a ring's slots */\n",
    ],
)
def test_a_ring_below_the_kinds_is_caught(tmp_path: Path, text: str) -> None:
    assert len(ring_faults(plant(tmp_path, {"src/endpoint/wait.c": text}))) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/channel/wake.c", "void bell_ring(int fd) { os_pipe_ring(fd); }\n"),
        ("src/endpoint/bell.c", "/* The waker that has taken the word rings it. */\n"),
        (
            "src/endpoint/bell.c",
            "/* A process may ring. It was killed before it rang; see bell_ring(). */\n",
        ),
        (
            "src/endpoint/bell.c",
            "/* Without ringing, String, during, wiring. */ enum { RUNG } state;\n",
        ),
        ("src/endpoint/bell.c", 'const char *text = "the ring";\n'),
        ("src/segment/layout.h", "struct ring_slot; /* a slot of a ring */\n"),
        ("src/record/ring.h", "struct ring; /* a ring */\n"),
    ],
)
def test_a_bell_may_be_rung_and_records_have_rings(tmp_path: Path, name: str, text: str) -> None:
    assert ring_faults(plant(tmp_path, {name: text})) == []


TWO_KINDS = {
    "src/heap/kinds.c": "const struct kind *const kinds[] = {\n"
    "    [IPCHEAP_RECORD_CHANNEL] = &record_kind,\n"
    "    [IPCHEAP_STATIC_SEGMENT] = &static_kind,\n};\n",
    "src/record/endpoint.h": "extern const struct kind record_kind;\n",
    "src/static/static.h": "extern const struct kind static_kind;\n",
    "src/record/ring.c": "int kind = IPCHEAP_RECORD_CHANNEL;\n",
    "src/observe/check.c": "int kinds[] = {IPCHEAP_RECORD_CHANNEL, IPCHEAP_STATIC_SEGMENT};\n",
    "src/channel/kind.h": "#define KINDS 6 /* IPCHEAP_RECORD_CHANNEL, ... */\n",
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/heap/open.c", "int kind = IPCHEAP_STATIC_SEGMENT;\n"),
        ("src/heap/recover.c", "const struct kind *kind = &record_kind;\n"),
        ("src/channel/side.c", "if (kind == IPCHEAP_RECORD_CHANNEL) return;\n"),
        ("src/static/sync.c", "int kind = IPCHEAP_RECORD_CHANNEL;\n"),
        ("src/heap/kinds.c", TWO_KINDS["src/heap/kinds.c"] + "[IPCHEAP_BUS] = &bus_kind,\n"),
    ],
)
def test_a_kind_named_elsewhere_is_caught(tmp_path: Path, name: str, text: str) -> None:
    faults = kind_faults(plant(tmp_path, {**TWO_KINDS, name: text}))
    assert faults
    assert all(fault.startswith(name.removeprefix("src/")) for fault in faults)


def test_a_kind_named_in_its_folder_and_in_the_table_passes(tmp_path: Path) -> None:
    assert kind_faults(plant(tmp_path, TWO_KINDS)) == []


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
        "from ipcheap.graph import _layout",
        "from ipcheap.graph.runner import Run",
        "import ipcheap.graph",
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
        "from ipcheap.graph import Graph, files\n"
        "from . import screen\n"
        "from .screen import fail\n"
        "ipcheap.heaps()\n"
    )
    package = plant(tmp_path / "ipcheap", {"tools/doctor.py": lines})
    assert apart_faults(package, {"tools/doctor.py": {"_outside"}}) == []


def test_a_graph_that_looks_inside_or_into_the_tools_is_caught(tmp_path: Path) -> None:
    lines = "from ipcheap.tools import screen\nfrom ipcheap import _segments, Heap\n"
    package = plant(tmp_path / "ipcheap", {"graph/plan.py": lines, "graph/__main__.py": lines})
    assert len(apart_faults(package, {})) == 2


def test_what_python_m_runs_is_above_all_modules(tmp_path: Path) -> None:
    files = {"graph/__main__.py": "from ipcheap.tools import run", "tools/run.py": ""}
    package = plant(tmp_path / "ipcheap", files)
    assert python_faults(package, (("graph",), ("tools",), ("__main__",))) == [
        "graph: in PYTHON_LAYERS, but there is none"
    ]

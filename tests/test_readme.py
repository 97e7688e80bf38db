"""Every program in README.md and docs/ runs; every C block compiles.

In a document, the Python blocks are one program, in their order. A block with a `__main__`
is a program of its own, and so is each block that is marked `<!-- side: NAME -->`: those that
follow each other run at the same time. `<!-- not run -->` above a block excludes it. In docs/
and all its folders a block begins with three backticks at the beginning of the line.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ipcheap
from ipcheap import testing

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
FENCE = re.compile(
    r"^(?:<!-- (?P<marker>[^>]*) -->\n)?```(?P<language>\w+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# What formatting a traceback warns of on CPython 3.15, in each process of multiprocessing.
NO_LOADER = "ignore:Module globals is missing a __spec__.loader:DeprecationWarning"
HEAP_NAME = re.compile(r'(?:Heap\.(?:create|open|attach)|ipcheap\.unlink)\(f?"([\w.-]+)')
LINK = re.compile(r"\]\(\s*([^)\s]+)\s*\)")
# Languages that are run, compiled or only shown, and directives that include other files.
FENCE_WORD = re.compile(
    r"```(python|c|console|sh|cmake|toml|\{(toctree|eval-rst|literalinclude.*|include.*)\}.*)"
)
LIMIT = 100.0


@dataclass(frozen=True)
class Block:
    """A fenced block, and the marker in the comment above it."""

    language: str
    marker: str
    text: str
    line: int

    @property
    def side(self) -> bool:
        return self.marker.startswith("side: ")

    @property
    def program(self) -> bool:
        return self.side or "__main__" in self.text


def read_blocks(document: Path, language: str) -> list[Block]:
    """Return the blocks of a language that are to be run."""
    text = document.read_text()
    blocks = [
        Block(
            match["language"],
            match["marker"] or "",
            match["text"],
            text.count("\n", 0, match.start()),
        )
        for match in FENCE.finditer(text)
    ]
    return [b for b in blocks if b.language == language and b.marker != "not run"]


def programs(document: Path) -> Iterator[list[str]]:
    """Yield the programs of a document, grouped by those that run together."""
    blocks = read_blocks(document, "python")
    if plain := [block.text for block in blocks if not block.program]:
        yield ["\n".join(plain)]
    for side, group in itertools.groupby(
        (block for block in blocks if block.program), lambda block: block.side
    ):
        texts = [block.text for block in group]
        yield from [texts] if side else [[text] for text in texts]


def run_together(texts: list[str], directory: Path) -> list[str]:
    """Run programs at the same time, under heap names of their own; return what they print."""
    names = {name for text in texts for name in HEAP_NAME.findall(text)}
    processes = []
    try:
        for number, text in enumerate(texts):
            for name in names:
                text = text.replace(f'"{name}', f'"test-{os.getpid()}-{name}')
            script = directory / f"program_{number}.py"
            script.write_text(text)
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-W", "error", "-W", NO_LOADER, str(script)],
                    cwd=directory,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )
        outputs = [process.communicate(timeout=LIMIT)[0] for process in processes]
        for process, text, output in zip(processes, texts, outputs, strict=True):
            assert process.returncode == 0, f"{text}\n{output}"
            assert "Traceback" not in output
            assert "Warning" not in output
        return outputs
    finally:
        for process in processes:
            process.kill()
            process.wait()
            assert process.stdout
            process.stdout.close()
        for name in testing.heaps_left(f"test-{os.getpid()}-"):
            with contextlib.suppress(ipcheap.HeapNotFound):
                ipcheap.unlink(name)


CASES = [
    pytest.param(texts, id=f"{document.relative_to(ROOT)}:{number}")
    for document in DOCUMENTS
    for number, texts in enumerate(programs(document))
]


@pytest.mark.parametrize("texts", CASES)
def test_a_document_does_what_it_says(texts: list[str], tmp_path: Path) -> None:
    run_together(texts, tmp_path)
    assert testing.heaps_left(f"test-{os.getpid()}-") == []


@pytest.mark.parametrize("first", [0, 1])
def test_either_side_of_the_first_example_may_come_first(first: int, tmp_path: Path) -> None:
    sides = [b.text for b in read_blocks(ROOT / "README.md", "python") if b.side]
    assert len(sides) == 2
    late = 1 - first
    sides[late] = f"import time\ntime.sleep(0.5)\n{sides[late]}"
    outputs = run_together(sides, tmp_path)
    assert outputs[1].split() == [f"{n}.0" for n in range(100)]


def test_the_first_example_is_short() -> None:
    for block in read_blocks(ROOT / "README.md", "python"):
        if block.side:
            assert block.text.count("\n") <= 12


def test_the_first_example_runs_as_pasted_into_two_shells(tmp_path: Path, heap_name: str) -> None:
    shells = []
    for block in read_blocks(ROOT / "README.md", "python"):
        if block.side:
            (name,) = HEAP_NAME.findall(block.text)
            text = block.text.replace(f'"{name}"', f'"{heap_name}"')
            # An interactive Python, as if typed: it takes line after line.
            typed = f"'{sys.executable}' -q -i - <<'END'\n{text}\nEND\n"
            shell = subprocess.Popen(
                ["sh", "-c", typed],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            shells.append(shell)
    try:
        (_, said), (means, also_said) = [shell.communicate(timeout=LIMIT) for shell in shells]
    finally:
        for shell in shells:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
    assert "Error" not in said + also_said
    assert means.split() == [f"{n}.0" for n in range(100)]  # arrays, over there
    assert testing.heaps_left(heap_name) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_no_block_is_written_so_that_it_is_not_seen(document: Path) -> None:
    fences = re.findall(r"^[ \t]*(?:```|~~~).*$", document.read_text(), re.MULTILINE)
    opening, closing = fences[::2], fences[1::2]
    assert set(closing) <= {"```"}
    for fence in opening:
        assert fence == "```" or FENCE_WORD.fullmatch(fence), fence


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(block.text, id=f"{document.relative_to(ROOT)}:{block.line}")
        for document in DOCUMENTS
        for block in read_blocks(document, "c")
    ],
)
def test_a_c_block_compiles(text: str, tmp_path: Path) -> None:
    source = tmp_path / "block.c"
    source.write_text(text)
    include = ROOT / "native" / "include"
    flags = ("-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only")
    result = subprocess.run(
        ["cc", *flags, "-I", include, source], capture_output=True, text=True, timeout=LIMIT
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    text = FENCE.sub("", document.read_text())
    for target in LINK.findall(text):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            file = document.parent / path if path else document
            assert file.exists(), target
            if anchor:
                heads = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
                assert anchor in [re.sub(r"[^\w-]", "", h.lower().replace(" ", "-")) for h in heads]


def test_every_error_is_in_the_table() -> None:
    table = (ROOT / "docs" / "records.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)?", table, re.MULTILINE))
    errors = {
        name: kind
        for name, kind in vars(ipcheap).items()
        if isinstance(kind, type) and issubclass(kind, ipcheap.Error) and kind is not ipcheap.Error
    }
    for name, kind in errors.items():
        assert name in rows
        builtin = next((k.__name__ for k in kind.__bases__ if k.__module__ == "builtins"), "")
        assert rows[name] == builtin

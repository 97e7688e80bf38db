"""The prose of the repository: what stands in documents, comments, docstrings and strings.

A *passage* is a run of text that belongs together: a paragraph, a list item, a cell of a table, a
comment, a string. Code in backticks and targets of links are blanked, because names are not prose.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import tokenize
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    Line = tuple[int, str]

CODE = re.compile(r"`[^`]+`")
TARGET = re.compile(r"\]\([^)\s]*\)")
# What begins a passage of its own: a heading, a list item, a quotation, the caption of a table.
BEGINS = re.compile(r"\s*(?:#+ |[-*] |\d+\. |> |\*\*?\w)")
COLUMNS = re.compile(r"\s*\|\s*|(?<=\S)\s{3,}(?=\S)")
SENTENCE_END = re.compile(
    r"(?<=[.?!])[)\"'*_]*\s+(?=[A-Z\"'(*_`\d])|(?<=[.?!][)\"'*_`])\s+(?=[A-Z])"
)
FENCE_COMMENT = re.compile(r"(?:^|\s)(?:#|//)\s+(\S.*)$|/\*\s*(.*?)\s*\*/")
C_TOKEN = re.compile(
    r"(?P<comment>/\*.*?\*/|//[^\n]*)|(?P<text>\"(?:\\.|[^\"\\\n])*\"(?:\s*\"(?:\\.|[^\"\\\n])*\")*)"
    r"|'(?:\\.|[^'\\\n])+'",
    re.DOTALL,
)
C_TEST = re.compile(r"^static void (\w+)\(", re.MULTILINE)


@dataclass(frozen=True)
class Sentence:
    """A sentence, the line on which it begins, and its words without code."""

    line: int
    text: str
    words: str

    @property
    def is_question(self) -> bool:
        """Whether it ends in a question mark."""
        return self.words.rstrip("\"')*_` ").endswith("?")


def blank(match: re.Match[str]) -> str:
    """Return as many characters as were matched, none of them a word."""
    return match[0][0] + "~" * (len(match[0]) - 2) + match[0][-1]


def sentences_of(passage: list[Line]) -> Iterator[Sentence]:
    """Split a passage, given line by line, into its sentences."""
    starts = list(itertools.accumulate((len(text) + 1 for _, text in passage), initial=0))
    text = " ".join(text for _, text in passage)
    words = TARGET.sub(blank, CODE.sub(blank, text))
    ends = [*(match.end() for match in SENTENCE_END.finditer(words)), len(words)]
    for begin, end in itertools.pairwise([0, *ends]):
        nth = max(i for i, start in enumerate(starts[:-1]) if start <= begin)
        if words[begin:end].strip():
            yield Sentence(passage[nth][0], text[begin:end].strip(), words[begin:end].strip())


def paragraphs(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Group lines into passages; columns of tables and drawings stand by themselves."""
    passage: list[Line] = []
    for number, line in lines:
        columns = [cell for cell in COLUMNS.split(line) if cell.strip(" -|")]
        alone = len(columns) > 1 or line.lstrip().startswith("|")
        if passage and (alone or not columns or BEGINS.match(line)):
            yield passage
            passage = []
        if alone:
            yield from ([(number, cell)] for cell in columns)
        elif columns:
            passage.append((number, line.strip()))
    if passage:
        yield passage


def sentences(lines: Iterable[Line]) -> Iterator[Sentence]:
    """Yield the sentences of a text."""
    return (each for passage in paragraphs(lines) for each in sentences_of(passage))


def markdown(text: str) -> Iterator[Sentence]:
    """Yield the sentences of a document; of fenced blocks only the comments."""
    lines: list[Line] = []
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
            lines.append((number, ""))
        elif not fenced:
            lines.append((number, "" if line.startswith("<!--") else line))
        elif match := FENCE_COMMENT.search(line):
            lines += [(number, match[1] or match[2]), (number, "")]
    return sentences(lines)


class Strings(ast.NodeVisitor):
    """Collects the strings of a module that have a space in them, and the names of its tests."""

    def __init__(self) -> None:
        self.texts: list[Line] = []

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Take the name of a test for the sentence that it is."""
        if node.name.startswith("test_"):
            self.texts.append((node.lineno, node.name.replace("_", " ")))
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """Take a string."""
        if isinstance(node.value, str) and " " in node.value:
            self.texts.append((node.lineno, node.value))

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Take an f-string as one text, and look into its expressions."""
        parts = []
        for part in node.values:
            if isinstance(part, ast.Constant):
                parts.append(str(part.value))
            else:
                parts.append("{}")
                self.visit(part)
        self.visit_Constant(ast.Constant("".join(parts), lineno=node.lineno, col_offset=0))


def python(text: str) -> Iterator[Sentence]:
    """Yield the sentences of a module's comments and strings, and its tests' names."""
    strings = Strings()
    strings.visit(ast.parse(text))
    for first, value in strings.texts:
        yield from sentences(enumerate(value.splitlines(), first))
    comments: list[Line] = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            number, column = token.start
            whole = not token.line[:column].strip()
            if not whole or not comments or comments[-1][0] != number - 1:
                comments.append((number - 1, ""))
            comments.append((number, token.string.lstrip("# ")))
            if not whole:
                comments.append((number, ""))
    yield from sentences(comments)


def c(text: str) -> Iterator[Sentence]:
    """Yield the sentences of a C source's comments and strings."""
    for match in C_TOKEN.finditer(text):
        first = text.count("\n", 0, match.start()) + 1
        if match["comment"]:
            body = match[0].removeprefix("/*").removesuffix("*/").split("\n")
            lines = (re.sub(r"^\s*(?:\*|//)+(?= |$)", "", line) for line in body)
            yield from sentences(enumerate(lines, first))
        elif match["text"] and " " in match[0]:
            joined = re.sub(r"\"\s*\"|\\n", " ", match[0][1:-1])
            yield from sentences([(first, joined)])


def c_tests(text: str) -> Iterator[Sentence]:
    """Yield the names of a C test's functions: they are sentences."""
    for match in C_TEST.finditer(text):
        name = match[1].replace("_", " ")
        yield Sentence(text.count("\n", 0, match.start()) + 1, match[1], name)


READERS = {".md": markdown, ".py": python, ".pyi": python, ".c": c, ".h": c}


def prose(path: Path) -> Iterator[Sentence]:
    """Yield the sentences of a file whose suffix is one of READERS."""
    text = path.read_text()
    yield from READERS[path.suffix](text)
    if path.suffix == ".c" and path.parent.name == "tests":
        yield from c_tests(text)

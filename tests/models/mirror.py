"""Compares a model's functions with the C functions that they mirror.

A model's function has the name of a C function and makes the same shared stores, by the same
macros, in the same order, and calls the same other functions that matter. Both are read from
the sources. From C: the calls of put*() with the last name of their first argument, of
fences, of sleeping and waking, and of functions that the same model mirrors. From Python: the
calls of the same names.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

SOURCES = Path(__file__).resolve().parents[2] / "native" / "src"

# Followed in every function, beside put*() and the functions that a model mirrors.
ALWAYS = frozenset(
    {"compiler_fence", "full_fence", "os_membarrier", "os_futex_wait", "os_futex_wake"}
)


@dataclass(frozen=True)
class Mirror:
    """A model's function and where the C function of its name is defined.

    `aliases` translates a local pointer's name in C into the word that it points to, `ignored` are
    stores and calls that the protocol does not depend on, `calls` are more functions to follow.
    """

    file: str
    function: Callable[..., Any]
    aliases: tuple[tuple[str, str], ...] = ()
    ignored: frozenset[str] = frozenset()
    calls: frozenset[str] = frozenset()

    @property
    def name(self) -> str:
        """The function's name, in both languages."""
        name: str = self.function.__name__
        return name


def body_of(text: str, name: str) -> str | None:
    """Return the body of a C function that is defined in a text, without comments."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)
    text = re.sub(r"__attribute__\(\(\w+\)\) ", "", text)
    found = re.search(
        rf"^(?!\s)(?!#)[\w\s*]*?\b{re.escape(name)}\s*\([^;{{}}]*\)\s*\{{", text, re.MULTILINE
    )
    if found is None:
        return None
    depth, at = 1, found.end()
    while depth and at < len(text):
        depth += {"{": 1, "}": -1}.get(text[at], 0)
        at += 1
    return text[found.end() : at - 1]


def first_argument(text: str, at: int) -> str:
    """Return the first argument of a call whose parenthesis ends just before `at`."""
    depth, end = 0, at
    while depth > 0 or text[end] not in ",)":
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(text[end], 0)
        end += 1
    return text[at:end]


def word_of(argument: str) -> str:
    """Return the field in an expression such as `&channel->parked[e->side]`."""
    plain = re.sub(r"\[[^\[\]]*\]", "", argument)
    words: list[str] = re.findall(r"\w+", plain)
    return words[-1]


def c_events(body: str, followed: Iterable[str], mirror: Mirror) -> list[str]:
    """Return what a C function stores and calls, in the order of its text."""
    aliases, followed = dict(mirror.aliases), frozenset(followed)
    events = []
    for match in re.finditer(r"\b(\w+)\s*\(", body):
        name = match[1]
        if re.fullmatch(r"put(_release|_exchange|_add|_or|_and|_if)?", name):
            word = word_of(first_argument(body, match.end()))
            word = aliases.get(word, word)
            if word not in mirror.ignored:
                events.append(f"{name} {word}")
        elif name in followed and name not in mirror.ignored:
            events.append(f"{name}()")
    return events


def model_events(function: Callable[..., Any], followed: Iterable[str]) -> list[str]:
    """Return what a model's function stores and calls, in the order of its text."""
    followed = frozenset(followed)
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    events = []
    for call in sorted(calls, key=lambda node: (node.lineno, node.col_offset)):
        name = ast.unparse(call.func)
        if name.startswith("put"):
            first = call.args[0]
            word = first.elts[0] if isinstance(first, ast.Tuple) else first
            events.append(f"{name} {ast.literal_eval(word)}")
        elif name in followed:
            events.append(f"{name}()")
    return events


def faults(mirrors: Iterable[Mirror], sources: Path = SOURCES) -> list[str]:
    """Describe where C and model differ."""
    mirrors = tuple(mirrors)
    followed = ALWAYS.union(*({m.name} | m.calls for m in mirrors))
    found = []
    for mirror in mirrors:
        where = f"{mirror.file}: {mirror.name}()"
        source = sources / mirror.file
        body = body_of(source.read_text(), mirror.name) if source.is_file() else None
        if body is None:
            found.append(f"{where} is not defined there any more")
            continue
        c = c_events(body, followed, mirror)
        model = model_events(mirror.function, followed)
        if c != model:
            at = next((i for i, (a, b) in enumerate(zip(c, model, strict=False)) if a != b), None)
            at = min(len(c), len(model)) if at is None else at
            pair = [" ".join(each[at : at + 1]) or "nothing more" for each in (c, model)]
            found.append(
                f"{where} does `{pair[0]}` where {mirror.function.__module__} does `{pair[1]}` "
                f"(step {at + 1}).\n  C:     {', '.join(c)}\n  model: {', '.join(model)}\n"
                "  Change the model to what C does now and explore it; if a store is not part "
                "of the protocol, add it to `ignored`."
            )
    return found

"""A directive that makes the reference of the C library out of its header.

    .. c-header:: ../native/include/ipcheap/ipcheap.h

Sections are the comments with a rule of dashes; what is said of a declaration is the comment
above it, of a member the comment behind it. What this cannot read is an error, so that no
declaration is left out in silence.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

_TOKEN = re.compile(
    r"/\*(?P<comment>.*?)\*/"
    r"|typedef struct (?P<struct>\w+) \{(?P<members>.*?)\n\} \w+;"
    r"|typedef struct (?P<opaque>\w+) \w+;"
    r"|typedef (?P<type>[^;{]+);"
    r"|enum (?P<enum>\w+ )?\{(?P<values>[^#]*?)\};"
    r"|IPCHEAP_API (?P<function>[^;]*);",
    re.DOTALL,
)
_RULE = re.compile(r"(.*?) -{10,}$")
_MEMBER = re.compile(r"(?P<member>[^;]*);(?:[ \t]*/\*(?P<comment>.*?)\*/)?", re.DOTALL)
_VALUE = re.compile(r"(?P<value>[^,/]*[^,/\s])\s*,?(?:[ \t]*/\*(?P<comment>.*?)\*/)?", re.DOTALL)
_ERROR = re.compile(r'X\((?P<name>\w+), (?P<value>-\d+), "(?P<text>[^"]*)"\)')


class Item(NamedTuple):
    """Something that is declared, or the title of a section."""

    kind: str
    text: str
    comment: str
    inner: list[Item]


def _plain(comment: str) -> str:
    """Return the text of a comment without what makes it one."""
    lines = (re.sub(r"^\s*\* ?", "", line).rstrip() for line in comment.split("\n"))
    return "\n".join(lines).strip()


def _skip(text: str) -> None:
    """Raise ValueError if there is more between declarations than the preprocessor's lines."""
    for line in text.split("\n"):
        if line.strip() not in ("", "}") and not line.startswith("#"):
            raise ValueError(f"cannot read {line!r}")


def _declared(member: str) -> Iterator[str]:
    """Yield the declaration of each name in one of several: `int a, b` is `int a` and `int b`."""
    first, *others = [member] if "(" in member else member.split(",")
    first = " ".join(first.split())
    yield first
    type_of_all = re.sub(r"[* ]*\w+(\[.*\])?$", "", first)
    for other in others:
        yield f"{type_of_all} {other.strip()}"


def read(header: str) -> Iterator[Item]:
    """Yield what a header declares, in its order, after its introduction."""
    body = header.partition('extern "C" {')[2]
    said, end = "", 0
    for match in _TOKEN.finditer(body):
        between = body[end : match.start()]
        _skip(between)
        if "\n\n" in between:
            said = ""  # the comment was about something else
        end = match.end()
        if match["comment"] is not None:
            said = _plain(match["comment"])
            if title := _RULE.fullmatch(said):
                said = ""
                yield Item("section", title[1], "", [])
            continue
        comment, said = said, ""
        if match["struct"]:
            members = [
                Item("member", member, _plain(m["comment"] or ""), [])
                for m in _MEMBER.finditer(match["members"])
                for member in _declared(m["member"])
            ]
            yield Item("struct", match["struct"], comment, members)
        elif match["opaque"]:
            yield Item("type", match["opaque"], comment, [])
        elif match["type"]:
            yield Item("type", " ".join(match["type"].split()), comment, [])
        elif match["function"]:
            yield Item("function", " ".join(match["function"].split()), comment, [])
        else:
            inner = [
                Item("enumerator", " ".join(v["value"].split()), _plain(v["comment"] or ""), [])
                for v in _VALUE.finditer(match["values"])
            ]
            yield Item("enum", (match["enum"] or "").strip(), comment, inner)
    _skip(body[end:])


def introduction(header: str) -> str:
    """Return the first comment of a header."""
    return _plain(header[header.index("/*") + 2 : header.index("*/")])


def _lines(item: Item, depth: str = "") -> Iterator[str]:
    """Write an item down for Sphinx."""
    inner = depth + "   "
    if item.kind == "enum" and not item.text:
        inner = depth  # one without a name: only its constants
    else:
        yield from (f"{depth}.. c:{item.kind}:: {item.text}", "")
    is_code, before = False, ""
    for line in item.comment.split("\n") if item.comment else ():
        if line.startswith("    "):
            if not is_code and not before:
                is_code = True
                yield from (f"{inner}::", "")
        elif line:
            is_code = False
        yield inner + (line if is_code else re.sub(r"([*|])", r"\\\1", line))
        before = line
    yield ""
    for each in item.inner:
        yield from _lines(each, inner)


class CHeader(SphinxDirective):
    """The reference of a header."""

    required_arguments = 1
    has_content = False

    def run(self) -> list[nodes.Node]:
        """Read the header and make a section of each of its."""
        path = Path(self.env.srcdir, self.env.docname).parent / self.arguments[0]
        self.env.note_dependency(str(path.resolve()))
        text = path.read_text()
        try:
            items = list(read(text))
        except ValueError as error:
            raise self.error(f"{path}: {error}") from None
        result: list[nodes.Node] = [nodes.literal_block("", introduction(text), language="none")]
        starts = [n for n, item in enumerate(items) if item.kind == "section"]
        result += self._parsed(items[: starts[0]])
        for start, end in itertools.pairwise([*starts, len(items)]):
            result.append(self._section(items[start].text, items[start + 1 : end]))
        errors = [
            Item("enumerator", f"IPCHEAP_{match['name']} = {match['value']}", match["text"], [])
            for match in _ERROR.finditer((path.parent / "errors.h").read_text())
        ]
        result.append(self._section("Errors", [Item("enum", "ipcheap_error", "", errors)]))
        return result

    def _section(self, title: str, items: list[Item]) -> nodes.section:
        section = nodes.section("", nodes.title("", title))
        section["names"].append(nodes.fully_normalize_name(title))
        self.state.document.note_implicit_target(section, section)
        section += self._parsed(items)
        return section

    def _parsed(self, items: list[Item]) -> list[nodes.Node]:
        text = "\n".join(line for item in items for line in _lines(item))
        return self.parse_text_to_nodes(text)


def setup(app: Sphinx) -> dict[str, Any]:
    """Make the directive known."""
    app.add_directive("c-header", CHeader)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

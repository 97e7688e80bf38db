"""Every acquire load names the release that it pairs with.

The comment stands on the line of the load, or on the line before it, and names at least one
function: `/* pairs with slab_create() */`. Each function named after "with" must exist in
native/src, and its own body must contain a store that releases. A word in users' memory, which
users store to, says so instead: `/* pairs with the user's store */`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = Path(__file__).resolve().parents[1] / "native" / "src"

# Folders whose loads do not all name their partners yet. Empty this, and keep it empty.
NOT_YET: frozenset[str] = frozenset()

ACQUIRE = re.compile(r"\bget_acquire\(")
COMMENT = re.compile(r"/\*(.*?)(?:\*/|$)")
PARTNERS = re.compile(r"\bwith\b((?:[ ,]+(?:and[ ]+)?\w+\(\))+)", re.IGNORECASE)
THEIRS = re.compile(r"\bwith the user's store\b", re.IGNORECASE)
NAME = re.compile(r"(\w+)\(\)")
DEFINITION = re.compile(
    r"^(?!#|typedef)[a-z][^;={}]*?\b(\w+)\((?:[^;{}]|\n)*?\)\s*\{", re.MULTILINE
)
RELEASE = re.compile(
    r"\bput_(?:release|exchange|add|or|and|if)\("
    r"|\batomic_(?:exchange|fetch_\w+|compare_exchange_\w+)\("
    r"|\bmemory_order_(?:release|acq_rel|seq_cst)\b"
)
LINE_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)


def bodies(text: str) -> Iterator[tuple[str, str]]:
    """Yield the functions that a source defines: name and body, without comments."""
    code = LINE_COMMENT.sub(lambda m: "\n" * m[0].count("\n"), text)
    for match in DEFINITION.finditer(code):
        end = code.find("\n}", match.end() - 1)
        one_line = code.find("}\n", match.end() - 1)
        if one_line >= 0 and "\n" not in code[match.end() : one_line]:
            end = one_line
        yield match[1], code[match.end() : end]


def functions(folder: Path) -> dict[str, bool]:
    """Return the functions below a folder, and whether each contains a release."""
    found: dict[str, bool] = {}
    for source in sorted(folder.rglob("*.[ch]")):
        for name, body in bodies(source.read_text()):
            found[name] = found.get(name, False) or RELEASE.search(body) is not None
    return found


def comment_on(lines: list[str], number: int) -> str:
    """Return the comments on a line, and on the line before it if no other statement ends there."""
    said = [m[1] for m in COMMENT.finditer(lines[number])]
    before = lines[number - 1] if number else ""
    if not LINE_COMMENT.sub("", before).rstrip().endswith((";", "{", "}")):
        said = [m[1] for m in COMMENT.finditer(before)] + said
    return " ".join(said)


def partners(said: str) -> list[str]:
    """Return the functions that a load is said to pair with."""
    return [name for match in PARTNERS.finditer(said) for name in NAME.findall(match[1])]


def is_load(line: str) -> bool:
    return not line.startswith("#") and ACQUIRE.search(LINE_COMMENT.sub("", line)) is not None


def ordering_faults(folder: Path, not_yet: frozenset[str] = frozenset()) -> list[str]:
    """List the loads that name no partner, or one that does not release."""
    known = functions(folder)
    faults = []
    for source in sorted(folder.rglob("*.[ch]")):
        place = source.relative_to(folder)
        if place.parts[0] in not_yet:
            continue
        lines = source.read_text().splitlines()
        for number, line in enumerate(lines):
            if not is_load(line):
                continue
            said = comment_on(lines, number)
            names = partners(said)
            if not names and not THEIRS.search(said):
                faults.append(f"{place}:{number + 1}: pairs with nothing")
            faults += [
                f"{place}:{number + 1}: {name}() "
                + ("releases nothing" if name in known else "does not exist")
                for name in names
                if not known.get(name)
            ]
    return faults


def test_every_acquire_names_its_release() -> None:
    assert ordering_faults(SOURCES, NOT_YET) == []


def test_only_folders_with_faults_are_put_off() -> None:
    behind = {fault.split("/")[0] for fault in ordering_faults(SOURCES)}
    assert behind == NOT_YET


# Controls -------------------------------------------------------------------------------

RELEASES = """
void publish(shared64 *word) {
    put_release(word, 1);
}

static inline void hand_over(shared64 *word) { put_exchange(word, 0); }

int claim(shared64 *word,
          uint64_t mine) {
    uint64_t none = 0;
    return put_if(word, &none, mine);
}

void store(shared64 *word) {
    put(word, 1); /* put_release() would be needed */
}

void nothing(void);
"""


def faults_of(tmp_path: Path, text: str) -> list[str]:
    folder = tmp_path / "memory"
    folder.mkdir()
    (folder / "word.c").write_text(RELEASES)
    (folder / "load.c").write_text(text)
    return ordering_faults(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "    return get_acquire(word); /* pairs with publish() */\n",
        "    return get_acquire(word); /* with hand_over() */\n",
        "    return get_acquire(word); /* Pairs with publish() and claim(). */\n",
        "    return get_acquire(word); /* pairs with publish(), hand_over() and claim() */\n",
        "    /* The tag first; pairs with publish(). */\n    return get_acquire(word);\n",
        "    if (word) /* pairs with publish() */\n        return get_acquire(word);\n",
        "    return get_acquire(word); /* pairs with the user's store */\n",
        "    return get(word);\n",
        "#define get_acquire(where) atomic_load_explicit(where, memory_order_acquire)\n",
        "    return get(word); /* get_acquire(word) is not needed */\n",
    ],
)
def test_a_load_with_a_partner_passes(tmp_path: Path, text: str) -> None:
    assert faults_of(tmp_path, text) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("    return get_acquire(word);\n", "pairs with nothing"),
        ("    return get_acquire(word); /* for publish() */\n", "pairs with nothing"),
        ("    return get_acquire(word); /* pairs with the store */\n", "pairs with nothing"),
        ("    return get_acquire(word); /* pairs with publish */\n", "pairs with nothing"),
        ("    /* with publish() */\n\n    return get_acquire(word);\n", "pairs with nothing"),
        ("    put(word, 1); /* with publish() */\n    get_acquire(word);\n", "pairs with nothing"),
        ("    return get_acquire(word); /* the user's store */\n", "pairs with nothing"),
        ("    return get_acquire(word); /* with no_such() */\n", "no_such() does not exist"),
        ("    return get_acquire(word); /* with nothing() */\n", "nothing() does not exist"),
        ("    return get_acquire(word); /* with store() */\n", "store() releases nothing"),
        (
            "    return get_acquire(word); /* with publish() and store() */\n",
            "store() releases nothing",
        ),
    ],
)
def test_a_load_without_one_is_caught(tmp_path: Path, text: str, fault: str) -> None:
    faults = faults_of(tmp_path, text)
    assert len(faults) == 1
    assert faults[0].endswith(fault)

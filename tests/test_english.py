"""Documents, comments, docstrings and messages are plain technical English.

The rules are words and constructions that a native reader of the field stumbles over, and that a
machine can tell from legitimate ones. Each has examples that it must catch and must not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import prose
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]

# A file belongs to the last of these that it is, or is in.
AREAS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs",
    "docs/design",
    "ipcheap",
    "native",
    "native/src/segment",
    "native/src/channel",
    "native/src/record",
    "native/src/static",
    "native/src/heap",
    "native/src/observe",
    "native/tests",
    "tests",
    "bench",
    "examples",
)

# Areas that are still being rewritten. Empty this, and keep it empty.
NOT_YET: frozenset[str] = frozenset()

# Its strings are examples of what it looks for.
THIS_FILE = Path(__file__).resolve()

DETERMINER = r"(?:the|its|their|his|an?|these|those|this|that|all|every)"
# What can follow the verb of a question, and so of an inverted condition.
SUBJECT = r"(?:it|they|he|we|you|I|there|one|somebody|someone|nobody)"


@dataclass(frozen=True)
class Rule:
    """A pattern to look for in each sentence, and what to write instead."""

    pattern: str
    better: str
    questions: bool = True  # looked for in questions, too
    unless: str = ""  # a pattern that makes the sentence right

    def finds(self, sentence: prose.Sentence) -> bool:
        """Whether a sentence breaks the rule."""
        if sentence.is_question and not self.questions:
            return False
        if self.unless and re.search(self.unless, sentence.words, re.IGNORECASE):
            return False
        return re.search(self.pattern, sentence.words, re.IGNORECASE) is not None


START = r"^[\s\"'(*]*(?:test )?"
RULES = {
    "he": Rule(r"\b(?:he|his|him|himself|she|hers?|herself)\b", "it, its, they, or the noun"),
    "who": Rule(START + r"who\b", "name the actor: a caller that ...", questions=False),
    "whoever": Rule(r"\bwho(?:m)?ever\b|\bone who\b", "name the actor: any participant that ..."),
    "but for": Rule(r"\bbut for\b", "except", unless=r"\bnot\b.*\bbut for\b"),
    "for ever": Rule(r"\bfor ever\b", "indefinitely, permanently"),
    "in vain": Rule(r"\bin vain\b", "without success, to no avail"),
    "inverted condition": Rule(
        rf"{START}(?:was|were|had|should|did) (?:{SUBJECT}|{DETERMINER} \w+)\b"
        rf"|{START}(?:is|are|has|does) {SUBJECT}\b"
        rf"|[,;:(] (?:were|had) (?:{SUBJECT}|{DETERMINER} \w+)\b.*, ",
        "if ...",
        questions=False,
    ),
    "else": Rule(rf"(?:{START}|; )else,? \w", "otherwise"),
    "told of": Rule(r"\b(?:told|tells?|telling) of\b", "notified of, says that"),
    "let go": Rule(
        r"\blet(?:s|ting)?(?: \w+){0,3} go\b(?! (?:on|to|back|through|ahead)\b)", "release"
    ),
    "at once": Rule(
        r"\bat once\b",
        "immediately; of several things: at a time, together",
        unless=r"\b(?:all|both|many|several|two|three|four|\d+)(?: of)?(?: \w+)? at once\b",
    ),
    "make again": Rule(
        rf"\b(?:make|makes|made|making)(?: (?:it|them|(?:all )?{DETERMINER} \w+|all \w+))? again\b",
        "rebuild, create anew, repeat",
    ),
    "come again": Rule(r"\b(?:come|comes|came|coming) again\b", "be redelivered, recur, return"),
}

CAUGHT = {
    "he": ("He sleeps.", "It wakes the producer and his consumer.", "look for himself"),
    "who": ("Who waits sleeps on a word.", "It spins. Who must not sleep, does not."),
    "whoever": ("It is freed by whoever comes next.", "One who polls never parks."),
    "but for": ("Looking changes nothing, but for one thing.",),
    "for ever": ("Nobody waits for ever.",),
    "in vain": ("It has waited in vain.",),
    "inverted condition": (
        "Was one of the two interrupted, remove it.",
        "Were it killed in between, a survivor would see.",
        "The block first: were we killed in between, its tag tells.",
        "It is cleared next; were the process killed, others do it.",
        "Is there room, the producer goes on.",
        "Had the owner died, it is taken over.",
    ),
    "else": ("Else it is done as needed.", "It is freed; else it leaks."),
    "told of": ("A poller is not told of a removal.", "The slot tells of a later lap."),
    "let go": (
        "It lets go of the lock.",
        "They let the slot go together.",
        "test a consumer lets go of it",
    ),
    "at once": ("It is freed at once.", "At once it is freed.", "Asked at once\nfor it."),
    "make again": (
        "It makes all indices again.",
        "Indices are made again from heads.",
        "It makes them again.",
        "It makes the whole index. It will make the index again.",
    ),
    "come again": ("What it held comes again.", "It never came again."),
}

NOT_CAUGHT = {
    "he": ("This shepherd is there.", "`his` is a name.", "the heap, then history"),
    "who": ("Who holds the lock?", "People who wait.", "Whose lock it is."),
    "whoever": ("Everyone who asks.", "Someone who knows.", "no one whose"),
    "but for": ("It is not for users but for tools.", "But fortunately not."),
    "for ever": ("For every record.", "It waits for everyone."),
    "in vain": ("In vanilla CPython.",),
    "inverted condition": (
        "Is the ring full?",
        "Does it hold exactly the free runs? For checks.",
        "Was it the producer? Then it is freed.",
        "They were the first, and the producers were killed.",
        "Had been freed before.",
        "Are read from the segment.",
        "Does nothing for a heap that is closed.",
        "Has the lock of an endpoint, and waits.",
        "Do this before it is closed.",
    ),
    "else": ("Nothing else.", "An `else` branch.", "else", "Or else it fails.", "elsewhere"),
    "told of": ("It is told often.", "It was told."),
    "let go": (
        "The identifier `let_go`, slot_let_go() and ring_let_go.",
        "Lets the others go on.",
        "Let it go back.",
        "outlet going",
    ),
    "at once": (
        "They allocate, all at once.",
        "One thread waits for many channels at once.",
        "All of it at once.",
        "Attach several at once.",
        "It takes 128 at once.",
        "`at once`",
    ),
    "make again": (
        "It makes the caller wait again.",
        "Make sure that it is looked at again.",
        "It is made. Again and again.",
    ),
    "come again": ("It comes, and again it is freed.", "becoming again"),
}


def findings_in(file: Path) -> Iterator[str]:
    for sentence in prose.prose(file):
        for name, rule in RULES.items():
            if rule.finds(sentence):
                where = f"{file.relative_to(ROOT)}:{sentence.line}"
                yield f"{where}: {name} (better: {rule.better}): {sentence.text}"


def area_of(file: Path) -> str:
    path = file.relative_to(ROOT).as_posix()
    return [area for area in AREAS if path == area or path.startswith(f"{area}/")][-1]


def files_of(area: str) -> list[Path]:
    top = ROOT / area
    files = [top] if top.is_file() else sorted(top.rglob("*"))
    files = [file for file in files if file.suffix in prose.READERS and file != THIS_FILE]
    return [file for file in files if area_of(file) == area]


def findings(area: str) -> list[str]:
    return [each for file in files_of(area) for each in findings_in(file)]


def broken(text: str) -> set[str]:
    """Return the names of the rules that a text breaks."""
    lines = list(enumerate(text.splitlines(), 1))
    return {
        name
        for sentence in prose.sentences(lines)
        for name, rule in RULES.items()
        if rule.finds(sentence)
    }


@pytest.mark.parametrize(
    "area", [pytest.param(area, id=area) for area in AREAS if area not in NOT_YET]
)
def test_it_is_plain_english(area: str) -> None:
    found = findings(area)
    assert not found, f"{len(found)} findings\n" + "\n".join(found)


def test_every_file_is_in_one_area() -> None:
    assert area_of(ROOT / "native" / "tests" / "testing.h") == "native/tests"
    assert area_of(ROOT / "native" / "include" / "ipcheap" / "ipcheap.h") == "native"
    assert area_of(ROOT / "docs" / "index.md") == "docs"
    assert files_of("README.md") == [ROOT / "README.md"]
    assert THIS_FILE.with_name("prose.py") in files_of("tests")
    assert THIS_FILE not in files_of("tests")


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_catches_what_it_is_for(rule: str) -> None:
    for text in CAUGHT[rule]:
        assert rule in broken(text), text


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_leaves_plain_english_alone(rule: str) -> None:
    for text in NOT_CAUGHT[rule]:
        assert rule not in broken(text), text


# Where prose is found -----------------------------------------------------------------------


def lines_of(sentences: Iterator[prose.Sentence]) -> list[int]:
    """Return the lines of sentences with a pronoun in them."""
    return [each.line for each in sentences if RULES["he"].finds(each)]


def test_comments_docstrings_strings_and_test_names_are_read() -> None:
    text = '"""One.\n\nHis own."""\nhis = he\n# Two\n# lines of his.\nx = f"{his} and his"  # his\n'
    assert lines_of(prose.python(text)) == [3, 7, 5, 7]
    assert lines_of(prose.python("def test_he_waits() -> None: ...\n")) == [1]
    assert lines_of(prose.python("def he_waits() -> None: ...\n")) == []


def test_comments_and_strings_of_c_are_read() -> None:
    text = '/*\n * One.\n *\n * His slot.\n */\nint his; /* his */ f("is his"); g("his", \'"\');\n'
    assert lines_of(prose.c(text)) == [4, 6, 6]
    assert lines_of(prose.c_tests("static void he_waits(void) {\n")) == [1]


def test_fenced_code_is_no_prose() -> None:
    text = (
        "It\nis his.\n\n`his`, [x](his.md)\n\n```c\nhis(); // his\n```\n| a | his |\n- a\n- his\n"
    )
    assert lines_of(prose.markdown(text)) == [1, 7, 9, 11]


def test_a_finding_says_where_and_what(tmp_path: Path) -> None:
    file = ROOT / "tests" / "test_english.py"
    first = next(each for each in findings_in(file) if "sleeps" in each)
    assert re.match(r"tests/test_english\.py:\d+: he \(better: it, .*\): He sleeps\.$", first)

"""Words that processes share, and what is thrown if they say something wrong."""

from __future__ import annotations

import mmap
from typing import Protocol


class Wrong(Exception):
    """A promise that was not kept."""


def insist(condition: bool, text: str) -> None:
    """Fail unless a condition holds."""
    if not condition:
        raise Wrong(text)


def words_of(count: int) -> memoryview[int]:
    """Return words that are shared by fork."""
    return memoryview(mmap.mmap(-1, 8 * count)).cast("B").cast("Q")


class Words(Protocol):
    """Notes that consist of some words."""

    words: memoryview[int]


class Word:
    """A word of the notes, as an attribute."""

    def __init__(self, at: int) -> None:
        self.at = at

    def __get__(self, notes: Words, _: type) -> int:
        return notes.words[self.at]

    def __set__(self, notes: Words, value: int) -> None:
        notes.words[self.at] = value

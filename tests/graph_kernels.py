"""Kernels of all forms that take and give integers, for tests/test_graph_murder.py."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ipcheap import graph

if TYPE_CHECKING:
    from collections.abc import Iterator


def quiet() -> None:
    """Let processes say nothing of what they leave out."""
    logging.disable()


def numbers(n: int, delay: float = 0, resume: int = 0) -> Iterator[int]:
    for x in range(resume, n):
        time.sleep(delay)
        yield x


def sides_of(n: int, delay: float = 0, resume: int = 0) -> Iterator[dict[str, int]]:
    for x in range(resume, n):
        time.sleep(delay)
        yield left_or_right(x)


def left_or_right(x: int) -> dict[str, int]:
    return {"left": x} if x % 3 else {"right": x} if x % 2 else {"right": -x, "left": x + 1}


def plus(x: int, delay: float = 0) -> int:
    time.sleep(delay)
    return x + 1


def same(x: int, delay: float = 0) -> int:
    time.sleep(delay)
    return x


def odd(x: int, delay: float = 0) -> int | None:
    time.sleep(delay)
    return x if x % 2 else None


def third(x: int, delay: float = 0) -> int | None:
    time.sleep(delay)
    return x if x % 3 else None


def picky(x: int, delay: float = 0) -> int:
    time.sleep(delay)
    if x % 5 == 0:
        raise ValueError(x)
    return x


def some(x: int, delay: float = 0) -> Iterator[int]:
    for n in range(x % 3):
        time.sleep(delay)
        yield x + 10 * n


def and_itself(x: int, delay: float = 0) -> Iterator[int]:
    if x % 4:
        yield -x
    time.sleep(delay)
    if x % 3:
        yield x


def rarely(x: int, delay: float = 0) -> Iterator[int]:
    time.sleep(delay)
    if x % 8 == 0:
        yield x


def each(xs: list[int], delay: float = 0) -> list[int | None]:
    time.sleep(delay)
    return [x + 7 if x % 4 else None for x in xs]


def total(xs: list[int], delay: float = 0) -> int:
    time.sleep(delay)
    return sum(xs)


def both(a: int, b: int, delay: float = 0) -> int:
    time.sleep(delay)
    return a + 3 * b


def later(a: int, b: int, delay: float = 0) -> Iterator[int]:
    if a % 2:
        yield a
    time.sleep(delay)
    yield b


def either(a: int, b: int, delay: float = 0) -> int | None:
    time.sleep(delay)
    return a if b % 3 else None


def boxed(x: int, delay: float = 0) -> Any:
    time.sleep(delay)
    box = graph.empty(50, "i8")
    box[:] = x
    return box


def unboxed(box: Any, delay: float = 0) -> int:
    time.sleep(delay)
    assert np.all(box == box[0])
    return int(box[0])


def modulo(x: int) -> int:
    return x % 7


class Sums:
    """Gives running sums, and at the end the number of its items."""

    def __init__(self, delay: float = 0) -> None:
        self.delay = delay
        self.sum = self.count = 0

    def process(self, x: int) -> Iterator[int]:
        self.sum += x
        self.count += 1
        time.sleep(self.delay)
        if x % 3:
            yield self.sum
        if x % 2:
            yield -self.sum

    def snapshot(self) -> tuple[int, int]:
        return self.sum, self.count

    def restore(self, state: tuple[int, int]) -> None:
        self.sum, self.count = state

    def finish(self) -> int:
        return self.count


class Twins:
    """Knows nothing that could be lost."""

    def __init__(self, delay: float = 0) -> None:
        self.delay = delay

    def process(self, x: int) -> Iterator[int]:
        yield x
        time.sleep(self.delay)
        yield -x

    def finish(self) -> int:
        return 77

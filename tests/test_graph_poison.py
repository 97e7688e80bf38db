"""Records that kill their process each time, with on_error="skip": nothing else is left out."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from ipcheap.graph import Graph, watch

if TYPE_CHECKING:
    from collections.abc import Iterator

POISON = (6, 7, 13)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_FIRST_PAUSE", 0.001)


def numbers(n: int, delay: float = 0, resume: int = 0) -> Iterator[int]:
    for x in range(resume, n):
        time.sleep(delay)
        yield x


def deadly(x: int) -> int:
    if x in POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return x


def twice(x: int) -> Iterator[int]:
    yield -x - 1
    yield deadly(x)


class Sum:
    def __init__(self) -> None:
        self.sum = 0

    def process(self, x: int) -> int:
        self.sum += deadly(x)
        return self.sum

    def snapshot(self) -> int:
        return self.sum

    def restore(self, state: int) -> None:
        self.sum = state


def test_an_object_with_snapshots_leaves_out_only_what_kills_it() -> None:
    graph = Graph()
    node = graph.add(Sum, graph.add(numbers, n=20), checkpoint=5, on_error="skip")
    right, total = [], 0
    for x in range(20):
        if x not in POISON:
            total += x
            right.append(total)
    assert graph.collect(node) == right


def test_turns_stay_in_order_when_one_is_left_out() -> None:
    graph = Graph()
    node = graph.add(twice, graph.add(numbers, n=20), processes=2, on_error="skip")
    right = [y for x in range(20) for y in ((-x - 1,) if x in POISON else (-x - 1, x))]
    assert graph.collect(node) == right


def test_idle_workers_of_the_same_process_leave_out_nothing() -> None:
    graph = Graph()
    source = graph.add(numbers, n=20, delay=0.05)
    node = graph.add(deadly, source, threads=3, on_error="skip")
    assert graph.collect(node) == [x for x in range(20) if x not in POISON]

"""Twenty seconds of what tests/soak.py does for any length of time."""

from __future__ import annotations

import gc
import os

import peers
import psutil
import pytest
import soak

import ipcheap

SECONDS = float(os.environ.get("IPCHEAP_SOAK_SECONDS", "20"))


@pytest.mark.timeout(SECONDS + 120)
def test_mixed_use_leaves_nothing_behind(heap_name: str) -> None:
    said: list[str] = []
    assert soak.soak(heap_name, SECONDS, said.append) == [], "\n".join(said)


def test_what_grows_is_noticed() -> None:
    flat = [soak.Measure(*[100] * 6) for _ in range(9)]
    assert soak.growth(flat) == []
    flat[-1].descriptors = 103
    assert soak.growth(flat) == ["descriptors went from 100 to 103"]


def growth_of_attaching(name: str) -> int:
    """Attach and close many times in one thread; return how much its process grew."""

    def private() -> int:
        gc.collect()
        memory = psutil.Process().memory_info()
        return int(memory.rss - memory.shared)

    def attach(times: int) -> None:
        for _ in range(times):
            heap = ipcheap.Heap.attach(name)
            view = heap.allocate_record(100).view
            heap.close()
            del view

    attach(500)
    before = private()
    attach(4000)
    return private() - before


def test_a_heap_that_was_closed_keeps_nothing(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB"):
        assert peers.call(growth_of_attaching, heap_name) < 200_000

"""Stores without membarrier: readers execute fences, and a collector waits until all of them do."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import peers
import pytest
import seccomp
import store_ledger
from test_store_kills import disagreements, ended, forked

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

REFUSED = "membarrier"
SEEN = 0.01  # seconds after which every reader has seen that it is to execute fences
READERS = 4


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "64MiB") as heap:
        yield heap
        assert heap.check() == []


def collect_too_early(heap: ipcheap.Heap) -> tuple[list[int], int]:
    """Collect immediately, and until something has been freed; return what and how much later."""
    seccomp.refuse(REFUSED)
    with heap.store_writer("values") as writer:
        for n in range(10):
            writer.put("key", n.to_bytes(100, "little"))
        began = time.monotonic_ns()
        freed = [writer.collect()]
        while not freed[-1]:
            time.sleep(0.0005)
            freed.append(writer.collect())
        return freed, time.monotonic_ns() - began


def test_a_collector_without_membarrier_frees_nothing_before_all_execute_fences(
    heap: ipcheap.Heap,
) -> None:
    store = heap.add_store("values")
    with store.reader() as reader:
        freed, nanoseconds = peers.call(collect_too_early, heap)
        assert freed[0] == 0
        assert freed[-1] == 9 * 100
        assert nanoseconds >= SEEN * 1e9
        assert reader.get_bytes("key") == (9).to_bytes(100, "little")
        # From then on it frees immediately.
        with reader["key"] as held:
            freed, _ = peers.call(collect_too_early, heap)
            assert freed == [9 * 100]  # and what was there before is held
            assert bytes(held) == (9).to_bytes(100, "little")
            assert (store.statistics().dead, store.statistics().held) == (1, 1)
        assert store.statistics().dead == 0


def read_without_membarrier(
    heap_name: str, notes: store_ledger.Notes, seed: int, number: int, *, before: bool
) -> None:
    """Read the ledger where membarrier is refused before the heap is attached, or after."""
    if before:
        seccomp.refuse(REFUSED)
    with ipcheap.Heap.attach(heap_name) as heap:
        if not before:
            seccomp.refuse(REFUSED)
        store_ledger.read(heap, notes, seed, number)


def write_without_membarrier(
    heap: ipcheap.Heap, notes: store_ledger.Notes, seed: int, *, refused: bool
) -> None:
    if refused:
        seccomp.refuse(REFUSED)
    store_ledger.write(heap, notes, seed)


@pytest.mark.parametrize("refused", ["reader", "writer", "both"])
def test_readers_see_whole_transactions_without_membarrier(
    heap: ipcheap.Heap, heap_name: str, refused: str
) -> None:
    store = heap.add_store(store_ledger.NAME, depth=store_ledger.DEPTH, garbage=0)
    notes = store_ledger.Notes(READERS)
    readers: list[int] = []
    for n in range(READERS):
        if refused == "writer" or n == 0:
            readers.append(forked(store_ledger.read, heap, notes, n, n))
        else:
            readers.append(
                forked(
                    lambda n=n: read_without_membarrier(heap_name, notes, n, n, before=n % 2 == 0)
                )
            )
    writer = forked(lambda: write_without_membarrier(heap, notes, 1, refused=refused != "reader"))
    try:
        peers.until(lambda: min(notes.looks) >= 20 and notes.commits[0] >= 300)
    finally:
        os.kill(writer, signal.SIGKILL)
        assert ended(writer) == -signal.SIGKILL
        notes.stop[0] = 1
        codes = [ended(reader) for reader in readers]
    assert codes == [0] * READERS
    with store.writer(peers.PATIENCE), store.reader() as reader:
        assert disagreements(notes, reader.version) == 0
    assert store.statistics().collections > 0

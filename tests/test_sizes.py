"""Records of all sizes: what they cost, where they lie, and that their memory is returned."""

from __future__ import annotations

import itertools
import os
import random
import threading
from typing import TYPE_CHECKING

import numpy as np
import peers
import pytest
import workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
SIZES = [0, 1, 63, 64, 65, 4096, MIB, 64 * MIB, 512 * MIB]


def file_bytes(name: str) -> int:
    """Return how much memory the file under a heap takes."""
    return os.stat(f"/dev/shm/ipcheap.{name}").st_blocks * 512


@pytest.mark.parametrize("nbytes", SIZES)
def test_a_record_of_any_size_arrives_whole(heap_name: str, nbytes: int) -> None:
    mark = 0x0102_0304_0506_0708 + nbytes
    with ipcheap.Heap.create(heap_name, "1GiB") as heap:
        before = heap.statistics()
        heap.add_record_channel("c", 4)
        rings = heap.statistics().in_use
        with heap.producer("c") as producer:
            record = producer.allocate_record(nbytes)
            assert record.nbytes == len(record) == record.view.nbytes == nbytes
            array = record.array()
            array[: nbytes // 8 * 8].view("<u8")[:] = mark
            array[nbytes // 8 * 8 :] = mark & 255
            del array
            assert heap.statistics().in_use >= rings + nbytes
            producer.send_record(record)
            assert peers.call(workers.check_record, heap, "c", mark) == (nbytes, 0)
        heap.remove_channel("c")
        after = heap.statistics()
        assert (after.in_use, after.records) == (before.in_use, before.records)
        assert heap.check() == []


def test_payloads_are_aligned_to_64_bytes(heap_name: str) -> None:
    sizes = {1 << power for power in range(22)} | {3 << power for power in range(20)}
    sizes |= {size + extra for size in sizes for extra in (-1, 1)} - {0}
    with ipcheap.Heap.create(heap_name, "256MiB") as heap:
        records = [heap.allocate_record(size) for size in sorted(sizes) * 3]
        spans = []
        for record in records:
            address = int(record.array().ctypes.data)
            assert address % 64 == 0, record.nbytes
            spans.append((address, address + record.nbytes))
        spans.sort()
        for (_, end), (begin, _) in itertools.pairwise(spans):
            assert end <= begin, "records overlap"


def test_eight_bytes_cost_eighty_at_most(heap_name: str) -> None:
    count = 1 << 18
    with ipcheap.Heap.create(heap_name, "64MiB") as heap:
        heap.add_record_channel("c", count)
        with heap.producer("c") as producer:
            heap.trim()
            before, file_before = heap.statistics(), file_bytes(heap_name)
            workers.give_numbers(producer, 0, count)
            after, file_after = heap.statistics(), file_bytes(heap_name)
            assert after.records - before.records == count
            assert 8 * count <= after.in_use - before.in_use <= 80 * count
            assert 8 * count <= after.committed - before.committed <= 80 * count
            # Including the heap's own metadata.
            assert file_after - file_before <= 80 * count
            with heap.consumer("c") as consumer:
                workers.take_numbers(consumer, count)
        assert heap.statistics().in_use == before.in_use


def test_waste_is_an_eighth_at_most_beyond_small_ones(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "256MiB") as heap:
        for nbytes in (513, 1000, 1025, 3000, 5000, 9000, 17_000, 30_000, 32_768):
            before = heap.statistics()
            records = [heap.allocate_record(nbytes) for _ in range(200)]
            used = heap.statistics().in_use - before.in_use
            assert 200 * nbytes <= used <= 200 * nbytes * 9 / 8 + 200 * 64, nbytes
            for record in records:
                record.free()
            del record, records


def fill(heap: ipcheap.Heap, nbytes: int) -> list[ipcheap.Record]:
    """Allocate until the heap is full."""
    records: list[ipcheap.Record] = []
    try:
        while True:
            records.append(heap.allocate_record(nbytes))
    except ipcheap.HeapFull:
        return records


def free_here(records: list[ipcheap.Record]) -> None:
    for record in records:
        record.free()


def free_elsewhere(records: list[ipcheap.Record]) -> None:
    """Free them in another thread, which does not own their slabs."""
    thread = threading.Thread(target=free_here, args=(records,))
    thread.start()
    thread.join()


@pytest.mark.parametrize("free", [free_here, free_elsewhere])
@pytest.mark.parametrize("nbytes", [64, 1000, 20_000, 50_000])
def test_a_heap_with_holes_is_used_until_it_is_really_full(
    heap_name: str, nbytes: int, free: Callable[[list[ipcheap.Record]], None]
) -> None:
    dice = random.Random(nbytes)
    with ipcheap.Heap.create(heap_name, "4MiB") as heap:
        start = heap.statistics()
        assert start.largest_free >= 0.95 * heap.capacity
        records = fill(heap, nbytes)
        full = heap.statistics()
        assert full.records == len(records)
        assert full.in_use >= 0.85 * heap.capacity
        if nbytes == 64:
            assert 64 * len(records) >= 0.95 * heap.capacity
        for mark, record in enumerate(records):
            record.view[:8] = mark.to_bytes(8, "little")

        dice.shuffle(records)
        half = len(records) // 2
        dropped, records = records[:half], records[half:]
        kept = [workers.number_of(record.view[:8]) for record in records]
        free(dropped)
        again = fill(heap, nbytes)
        assert len(again) == half
        for record in again:
            record.view[:8] = b"\xff" * 8
        assert [workers.number_of(record.view[:8]) for record in records] == kept
        assert heap.check() == []

        free(again)
        free(records)
        del record, again, dropped, records
        with heap.allocate_record(int(0.95 * heap.capacity)) as large:
            large.view[:] = b"\1" * large.nbytes
        del large
        heap.trim()
        end = heap.statistics()
        assert (end.in_use, end.records, end.extents, end.slabs, end.largest_free) == (
            start.in_use,
            start.records,
            start.extents,
            start.slabs,
            start.largest_free,
        )
        assert heap.check() == []


def test_what_others_keep_empty_is_had_before_the_heap_is_full(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "8MiB") as heap:
        done, go_on = threading.Event(), threading.Event()

        def use_and_wait() -> None:
            for nbytes in (64, 500, 3000, 30_000):
                free_here([heap.allocate_record(nbytes) for _ in range(100)])
            done.set()
            go_on.wait(peers.PATIENCE)

        thread = threading.Thread(target=use_and_wait)
        thread.start()
        try:
            assert done.wait(peers.PATIENCE)
            heap.allocate_record(int(0.95 * heap.capacity)).free()
        finally:
            go_on.set()
            thread.join()


def test_statistics_return_to_where_they_began(heap_name: str) -> None:
    dice = random.Random(7)
    with ipcheap.Heap.create(heap_name, "64MiB") as heap:
        heap.add_record_channel("c", 8192)
        start = heap.statistics()
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            held: list[ipcheap.Record] = []
            for _ in range(5000):
                record = producer.allocate_record(int(2 ** dice.uniform(0, 18)))
                producer.send_record(record, timeout=0)
                held.append(consumer.recv_record(timeout=0))
                if len(held) > 100:
                    held.pop(dice.randrange(len(held))).free()
            free_here(held)
        heap.trim()
        end = heap.statistics()
        for name in ("in_use", "records", "extents", "slabs", "largest_free", "channels"):
            assert getattr(end, name) == getattr(start, name), name
        assert heap.check() == []


# Memory is given back ---------------------------------------------------------------------


def reserve_of(heap: ipcheap.Heap) -> int:
    return min(64 * MIB, heap.capacity // 16)


@pytest.mark.parametrize("nbytes", [512 * MIB, MIB, 40_000])
def test_free_memory_goes_back_to_the_system(heap_name: str, nbytes: int) -> None:
    total = 512 * MIB
    with ipcheap.Heap.create(heap_name, "1GiB") as heap:
        before = file_bytes(heap_name)
        records = [heap.allocate_record(nbytes) for _ in range(total // nbytes)]
        assert heap.statistics().committed >= 0.999 * total
        assert file_bytes(heap_name) >= 0.999 * total
        free_here(records)
        del records
        assert heap.statistics().committed <= reserve_of(heap)
        # The file also holds the heap's own metadata.
        assert file_bytes(heap_name) - before <= reserve_of(heap) + total // 100
        reserve = heap.statistics().committed
        freed = heap.trim()
        assert heap.statistics().committed == reserve - freed
        assert heap.statistics().committed < 0.05 * total
        assert file_bytes(heap_name) < 0.05 * total
        again = heap.allocate_record(100 * MIB)
        again.array()[:] = 7
        again.free()
        assert heap.check() == []


@pytest.mark.parametrize("nbytes", [64, 1000, 30_000])
def test_small_records_give_their_memory_back_too(heap_name: str, nbytes: int) -> None:
    total = 32 * MIB
    with ipcheap.Heap.create(heap_name, "64MiB") as heap:
        records = [heap.allocate_record(nbytes) for _ in range(total // nbytes)]
        assert heap.statistics().committed >= total
        free_here(records)
        del records
        assert heap.statistics().committed <= reserve_of(heap)
        heap.trim()
        assert heap.statistics().committed < 0.05 * total
        assert file_bytes(heap_name) < 0.05 * total


def test_trim_leaves_what_it_is_told_to_and_what_is_in_use(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "256MiB") as heap:
        held = heap.allocate_record(20 * MIB)
        held.array()[:] = 9
        heap.allocate_record(10 * MIB).free()
        committed = heap.statistics().committed
        assert heap.trim(keep="256MiB") == 0
        assert heap.statistics().committed == committed
        heap.trim(keep="4MiB")
        assert 20 * MIB <= heap.statistics().committed <= 25 * MIB
        heap.trim()
        assert 20 * MIB <= heap.statistics().committed <= 21 * MIB
        assert bool(np.all(held.array() == 9))


def test_memory_is_taken_only_as_it_is_needed(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1TiB") as heap:
        assert heap.statistics().committed == 0
        assert file_bytes(heap_name) <= heap.capacity // 10_000
        heap.allocate_record(100).free()
        assert heap.statistics().committed <= 4 * MIB

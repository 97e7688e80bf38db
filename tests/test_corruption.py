"""A peer scribbles over the segment: the result is an error that says where, and the rest goes on.

native/tests/test_corrupt.c and test_broken.c break the core's own structures, and show that the
result is neither a signal nor a hang.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path

import pytest

import ipcheap

SLOT = struct.Struct("<QQ")  # struct ring_slot of layout.h: word, and the record's length


def slot_of_record(path: Path, nbytes: int) -> int:
    """Find the ring slot of the only record of that length: its offset in the heap's file."""
    found = []
    with path.open("rb") as file:
        size, start = os.fstat(file.fileno()).st_size, 0
        while start < size:
            try:
                start = os.lseek(file.fileno(), start, os.SEEK_DATA)
            except OSError:
                break  # only a hole is left
            end = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            data = os.pread(file.fileno(), end - start, start)
            found += [
                start + at
                for at in range(0, len(data), SLOT.size)
                if SLOT.unpack_from(data, at)[1] == nbytes
            ]
            start = end
    assert len(found) == 1
    return found[0]


def scribble(path: Path, offset: int, word: int) -> None:
    """Store a word, as a peer could that has the heap mapped."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[offset : offset + 8] = word.to_bytes(8, "little")


@pytest.mark.parametrize(
    "word",
    [2**64 - 1, 3 << 40, 7 << 42 | 1 << 40, 1 << 40 | 5],
    ids=["ones", "state", "lap", "offset"],
)
def test_a_broken_ring_is_corrupt_and_other_channels_go_on(heap_name: str, word: int) -> None:
    path = Path("/dev/shm", f"ipcheap.{heap_name}")
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        for channel in ("broken", "whole"):
            heap.add_record_channel(channel, capacity=4)
        with (
            heap.producer("broken") as producer,
            heap.consumer("broken") as consumer,
            heap.producer("whole") as other_producer,
            heap.consumer("whole") as other_consumer,
        ):
            producer.send(bytes(12_347))
            scribble(path, slot_of_record(path, 12_347), word)
            for attempt in (
                consumer.recv,
                consumer.try_recv_record,
                lambda: producer.send(b"more"),
            ):
                with pytest.raises(ipcheap.CorruptHeap) as caught:
                    attempt()
                assert "'broken'" in str(caught.value)
                assert heap_name in str(caught.value)
                assert "remove_channel" in str(caught.value)
            for n in range(10):
                other_producer.send(b"%d" % n)
                assert other_consumer.recv(timeout=10) == b"%d" % n

        heap.remove_channel("broken", force=True)
        heap.add_record_channel("broken", capacity=4)
        with heap.producer("broken") as producer, heap.consumer("broken") as consumer:
            producer.send(b"anew")
            assert consumer.recv(timeout=10) == b"anew"


def test_a_length_that_lies_is_corrupt(heap_name: str) -> None:
    path = Path("/dev/shm", f"ipcheap.{heap_name}")
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("c", capacity=4)
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            producer.send(bytes(12_347))
            scribble(path, slot_of_record(path, 12_347) + 8, 1 << 50)
            with pytest.raises(ipcheap.CorruptHeap, match="'c'"):
                consumer.recv()

"""A module that opens its heap when it is imported, as workers of a pool do."""

from __future__ import annotations

import os

import ipcheap

HEAP = ipcheap.Heap.open(os.environ["IPCHEAP_TEST_HEAP"], "16MiB")
CHANNEL = HEAP.add_record_channel("answers", 64)


def work(number: int) -> int:
    """Use the heap that this process opened."""
    with HEAP.allocate_record(number + 1) as record:
        record.view[number] = 1
        return os.getpid()


def answer(number: int) -> None:
    """Send a number on the one channel, which the workers use in turn."""
    with CHANNEL.producer(timeout=30) as producer:
        producer.send_object(number)

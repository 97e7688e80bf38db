"""A million records in order, none lost or twice, through heaps too small for all of them."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import kinds
import peers
import pytest
import threads
import workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MANY = 1 << 20
CAPACITY = 1 << 20  # for 2**20 records of 8 bytes, which take 64 each

each_pair = pytest.mark.parametrize("kind", kinds.PAIRS, ids=str)


def look_over(heap: ipcheap.Heap) -> None:
    """Check that nothing is left of what went through, and that the heap is sound."""
    assert (heap.statistics().records, heap.check()) == (0, [])


@each_pair
def test_a_million_records_come_from_another_process_in_order(
    kind: kinds.Kind, heap_name: str, tmp_path: Path
) -> None:
    with kinds.made(kind, heap_name, tmp_path, CAPACITY) as heap:
        heap.add_record_channel("numbers", 4096)
        with peers.run(workers.produce_numbers, heap, "numbers", MANY) as peer:
            with heap.consumer("numbers") as consumer:
                workers.take_numbers(consumer, MANY)
                with pytest.raises(ipcheap.ChannelClosed):
                    consumer.recv(timeout=peers.PATIENCE)
                assert consumer.statistics().received == MANY
            peer.result()
        assert (heap.statistics().in_use, heap.capacity) < (CAPACITY, 8 * MANY)
        look_over(heap)


@each_pair
def test_records_written_in_place_come_in_order(
    kind: kinds.Kind, heap_name: str, tmp_path: Path
) -> None:
    count = 1 << 17
    with kinds.made(kind, heap_name, tmp_path, CAPACITY) as heap:
        heap.add_record_channel("numbers", 256)
        with peers.run(workers.produce_records, heap, "numbers", count) as peer:
            with heap.consumer("numbers") as consumer:
                expected = 0
                while expected < count:
                    for record in consumer.recv_records(64, timeout=peers.PATIENCE):
                        assert workers.number_of(record.view) == expected
                        record.free()
                        expected += 1
            peer.result()
        look_over(heap)


def test_one_process_feeds_two_threads_of_another(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, CAPACITY) as heap:
        for channel in (0, 1):
            heap.add_record_channel(channel, 4096)
        with peers.run(workers.consume_with_two_threads, heap, MANY) as peer:
            with heap.producer(0) as even, heap.producer(1) as odd:
                for first in range(0, MANY, 2 * workers.BATCH):
                    batch = workers.numbers(first, 2 * workers.BATCH)
                    assert even.send_many(batch[::2], peers.PATIENCE) == workers.BATCH
                    assert odd.send_many(batch[1::2], peers.PATIENCE) == workers.BATCH
            assert peer.result() == [MANY // 2, MANY // 2]
        look_over(heap)


def test_a_million_records_pass_between_two_threads(heap_name: str) -> None:
    def produce() -> None:
        workers.produce_numbers(ipcheap.Heap.attach(heap_name), "numbers", MANY)

    with ipcheap.Heap.create(heap_name, CAPACITY) as heap:
        heap.add_record_channel("numbers", 4096)
        with threads.run(produce), heap.consumer("numbers") as consumer:
            workers.take_numbers(consumer, MANY)
        look_over(heap)


def test_two_threads_share_one_heap_object(heap_name: str) -> None:
    count = 1 << 18
    with ipcheap.Heap.create(heap_name, CAPACITY) as heap:
        heap.add_record_channel("numbers", 1024)

        def produce() -> None:
            with heap.producer("numbers") as producer:
                workers.give_numbers(producer, 0, count)

        with threads.run(produce), heap.consumer("numbers") as consumer:
            workers.take_numbers(consumer, count)
        look_over(heap)


def test_one_at_a_time_is_in_order_too(heap_name: str) -> None:
    count = 20_000
    with ipcheap.Heap.create(heap_name, "64KiB") as heap:
        heap.add_record_channel("there", 2)
        heap.add_record_channel("back", 2)
        with (
            peers.run(workers.echo, heap) as peer,
            heap.producer("there") as producer,
            heap.consumer("back") as consumer,
        ):
            for number in range(count):
                producer.send(number.to_bytes(8, "little"), timeout=peers.PATIENCE)
                data = consumer.recv(timeout=peers.PATIENCE)
                assert workers.number_of(data) == number
            producer.close()
            assert peer.result() == count
        look_over(heap)


# Out of memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [64, 1000, 300_000])
def test_what_there_is_no_memory_for_stays_in_the_ring(heap_name: str, nbytes: int) -> None:
    testcapi = pytest.importorskip("_testcapi")
    sent = [bytes([n]) * nbytes for n in range(6)]
    failed = 0
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        channel = heap.add_record_channel(1, 16)
        with channel.producer() as producer, channel.consumer() as consumer:
            for nth in range(1, 30):
                assert producer.send_many(sent) == 6
                received: list[bytes] = []
                testcapi.set_nomemory(nth, nth + 1)  # only the nth allocation fails
                try:
                    received = consumer.recv_many(10)
                except MemoryError:
                    failed += 1
                finally:
                    testcapi.remove_mem_hooks()
                failed += 0 < len(received) < 6
                while len(received) < 6:
                    received += consumer.recv_many(10, timeout=1)
                assert received == sent
    assert failed


# Other code that runs meanwhile--------------------------------------------------------------------


def receive_and_collect(
    consumer: ipcheap.Consumer, finalizer: Callable[[], object], count: int
) -> list[bytes]:
    """Receive while garbage exists that the first new list collects, and that has a finalizer."""

    class Dying:
        def __del__(self) -> None:
            finalizer()

    gc.collect()
    before = gc.get_threshold()
    gc.disable()
    lists: list[list[int]] = [[] for _ in range(300)]  # no old list is left for reuse
    dying = Dying()
    dying.__dict__["me"] = dying
    del dying
    gc.set_threshold(1, 1, 1)
    gc.enable()
    try:
        return consumer.recv_many(count)
    finally:
        gc.set_threshold(*before)
        gc.collect()
        lists.clear()


def test_a_finalizer_may_receive_too(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "4MiB") as heap:
        channel = heap.add_record_channel(1, 16)
        with channel.producer() as producer, channel.consumer() as consumer:
            producer.send_many([bytes([n]) for n in range(12)])
            also: list[bytes] = []
            got = receive_and_collect(consumer, lambda: also.append(consumer.recv(0)), 4)
            assert sorted(got + also) == [bytes([n]) for n in range(5)]
            assert consumer.recv_many(7, timeout=1) == [bytes([n]) for n in range(5, 12)]
            for lap in range(40):  # the ring goes on
                producer.send(bytes([lap]), timeout=1)
                assert consumer.recv(timeout=1) == bytes([lap])
        look_over(heap)


def test_a_finalizer_may_close_the_consumer(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "4MiB") as heap:
        channel = heap.add_record_channel(1, 16)
        with channel.producer() as producer:
            producer.send_many([bytes([n]) for n in range(16)])
            with channel.consumer() as consumer:
                assert len(receive_and_collect(consumer, consumer.close, 4)) == 4
                assert consumer.closed
        with channel.consumer() as consumer:
            assert consumer.recv_many(timeout=1) == [bytes([n]) for n in range(4, 16)]
        look_over(heap)

"""`RecordChannel.counts()`: what has passed through a channel, as anybody can see it."""

from __future__ import annotations

import random
import signal
import threading
import time
from typing import TYPE_CHECKING

import peers
import pytest
import threads

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap
        assert heap.check() == []


@pytest.fixture
def channel(heap: ipcheap.Heap) -> ipcheap.RecordChannel:
    return heap.add_record_channel("a", 8)


def test_a_channel_that_was_never_used_counts_nothing(channel: ipcheap.RecordChannel) -> None:
    assert channel.counts() == ipcheap.ChannelCounts(
        capacity=8,
        sent=0,
        received=0,
        freed=0,
        pending=0,
        held=0,
        producer="never",
        consumer="never",
        blocked=None,
    )


def test_every_step_of_a_record_is_counted(channel: ipcheap.RecordChannel) -> None:
    with channel.producer() as producer, channel.consumer() as consumer:
        producer.send_many([b"x"] * 5)
        first, second, third = (consumer.recv_record() for _ in range(3))
        second.free()  # out of order
        third.keep()
        counts = channel.counts()
        assert (counts.sent, counts.received, counts.freed) == (5, 3, 2)
        assert (counts.pending, counts.held) == (2, 1)
        assert (counts.producer, counts.consumer) == ("open", "open")
        first.free()
        third.free()
        assert consumer.recv_many() == [b"x"] * 2
        assert channel.counts().freed == 5
    counts = channel.counts()
    assert (counts.producer, counts.consumer) == ("closed", "closed")
    assert (counts.sent, counts.freed, counts.held, counts.pending) == (5, 5, 0, 0)


@pytest.mark.parametrize("capacity", [1, 2, 8])
def test_counts_are_right_after_any_number_of_laps(heap: ipcheap.Heap, capacity: int) -> None:
    chance = random.Random(capacity)
    channel = heap.add_record_channel("b", capacity)
    sent = 0
    held: list[ipcheap.Record] = []
    with channel.producer() as producer, channel.consumer() as consumer:
        for _ in range(2000):
            if chance.random() < 0.5:
                sent += producer.try_send_record(producer.allocate_record(10))
            elif chance.random() < 0.5:
                record = consumer.try_recv_record()
                if record is not None:
                    held.append(record)
            elif held:
                held.pop(chance.randrange(len(held))).free()
            counts, statistics = channel.counts(), consumer.statistics()
            assert (counts.sent, counts.pending) == (sent, consumer.pending)
            assert (counts.received, counts.held) == (statistics.received, statistics.held)
            # A detached record is the caller's, and no longer the channel's.
            assert counts.freed >= sent - counts.pending - len(held)
        for record in held:
            record.free()
    assert channel.counts().freed == channel.counts().received


def test_a_forwarded_record_has_left_the_first_channel(heap: ipcheap.Heap) -> None:
    first, second = heap.add_record_channel("b", 4), heap.add_record_channel("c", 4)
    with (
        first.producer() as producer,
        first.consumer() as middle,
        second.producer() as forwards,
        second.consumer(),
    ):
        producer.send(b"x")
        forwards.send_record(middle.recv_record())
        assert (first.counts().sent, first.counts().freed) == (1, 1)
        assert (second.counts().sent, second.counts().freed) == (1, 0)


def receive_some_and_die(heap: ipcheap.Heap) -> None:
    consumer = heap.consumer("a")
    records = [consumer.recv_record() for _ in range(6)]
    records[4].free()
    records[1].free()
    peers.die()


def test_what_a_dead_consumer_held_is_pending_after_its_recovery(
    heap: ipcheap.Heap, channel: ipcheap.RecordChannel
) -> None:
    with channel.producer() as producer:
        for number in range(8):
            producer.send(bytes([number]))
        with peers.run(receive_some_and_die, heap) as peer:
            assert peer.wait() == -signal.SIGKILL
        counts = channel.counts()
        assert (counts.sent, counts.freed, counts.held, counts.pending) == (8, 2, 4, 2)
        assert (counts.producer, counts.consumer) == ("open", "died")
        heap.recover()
        counts = channel.counts()
        assert (counts.sent, counts.freed, counts.held, counts.pending) == (8, 2, 0, 6)
        assert counts.consumer == "died"
        with channel.consumer() as consumer:
            assert (channel.counts().freed, channel.counts().pending) == (2, 6)
            assert consumer.recv_many() == [bytes([i]) for i in (0, 2, 3, 5, 6, 7)]
        assert channel.counts().freed == 8


def test_freed_is_exact_while_the_producer_is_sending(heap: ipcheap.Heap) -> None:
    """The consumer stops after each step; the producer sends all the time."""
    channel, done = heap.add_record_channel("b", 4), threading.Event()

    def send() -> None:
        with heap.producer("b") as producer:
            while not done.is_set():
                producer.try_send_record(producer.allocate_record(100))

    thread = threading.Thread(target=send)
    with channel.consumer() as consumer:
        thread.start()
        try:
            freed, held = 0, [consumer.recv_record(5)]
            for step in range(3000):
                if step % 3 == 0:
                    held.append(consumer.recv_record(5))
                else:
                    held.pop(step % len(held)).free()
                    freed += 1
                    if not held:
                        held.append(consumer.recv_record(5))
                for _ in range(3):
                    counts = channel.counts()
                    assert counts.freed == freed + consumer.statistics().detached
                    assert counts.sent - counts.freed <= 4
        finally:
            done.set()
            thread.join()
            for record in held:
                record.free()


def receive_one(heap: ipcheap.Heap, channel: str) -> None:
    with heap.consumer(channel) as consumer:
        consumer.recv(peers.PATIENCE)


def send_one(heap: ipcheap.Heap, channel: str) -> None:
    with heap.producer(channel) as producer:
        producer.send(b"4", peers.PATIENCE)


def test_a_sleeping_side_is_blocked(heap: ipcheap.Heap) -> None:
    channel = heap.add_record_channel("b", 2)

    def becomes(blocked: str | None) -> None:
        deadline = time.monotonic() + 10
        while channel.counts().blocked != blocked:
            assert time.monotonic() < deadline
            time.sleep(0.001)

    with channel.producer() as producer:
        with threads.run(lambda: receive_one(heap, "b")):
            becomes("empty")
            producer.send(b"1")
        producer.send_many([b"2", b"3"])
        assert channel.counts().blocked is None  # it is full, and the producer works
    with channel.consumer() as consumer:
        with threads.run(lambda: send_one(heap, "b")):
            becomes("full")
            assert consumer.recv() == b"2"
            becomes(None)
        assert consumer.recv_many() == [b"3", b"4"]
        assert channel.counts().blocked is None  # it is empty, and the consumer works


def test_a_removed_channel_is_not_found(heap: ipcheap.Heap) -> None:
    channel = heap.add_record_channel("b", 2)
    heap.remove_channel("b")
    heap.add_record_channel("b", 2)
    with pytest.raises(ipcheap.ChannelNotFound):
        channel.counts()


def test_counting_beside_removals_finds_the_channel_or_not(
    heap: ipcheap.Heap, heap_name: str
) -> None:
    done = threading.Event()

    def churn() -> None:
        with ipcheap.Heap.attach(heap_name) as other:
            while not done.is_set():
                other.add_record_channel("b", 64)
                with other.producer("b") as producer:
                    producer.send_many([b"x"] * 10)
                other.remove_channel("b")

    thread = threading.Thread(target=churn)
    thread.start()
    found = tries = 0
    try:
        while tries < 2000 or found < 100:
            tries += 1
            try:
                channel = heap.channel("b")
                assert isinstance(channel, ipcheap.RecordChannel)
                assert channel.counts().sent <= 10
                found += 1
            except ipcheap.ChannelNotFound:
                time.sleep(0)  # let the other thread add it
    finally:
        done.set()
        thread.join()


def test_counts_can_be_had_through_any_handle(heap: ipcheap.Heap, heap_name: str) -> None:
    with heap.add_record_channel("b", 4).producer() as producer:
        producer.send(b"x")
        with ipcheap.Heap.attach(heap_name) as other:
            same = other.channel("b")
            assert isinstance(same, ipcheap.RecordChannel)
            assert same.counts().sent == 1
    with pytest.raises(ipcheap.HeapClosed):
        same.counts()

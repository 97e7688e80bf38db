"""Work of other processes in tests; `peers` runs each function here in one."""

from __future__ import annotations

import itertools
import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import peers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

BATCH = 1024


def numbers(first: int, count: int) -> list[bytes]:
    """Return that many records of 8 bytes, each with its number."""
    raw = np.arange(first, first + count, dtype="<u8").tobytes()
    return [raw[at : at + 8] for at in range(0, len(raw), 8)]


def number_of(data: bytes | memoryview) -> int:
    """Return the number that a record holds."""
    return int.from_bytes(data, "little")


def take_numbers(consumer: ipcheap.Consumer, count: int, step: int = 1, first: int = 0) -> None:
    """Receive that many numbers; they must come in order, none missing and none twice."""
    got = 0
    while got < count:
        batch = consumer.recv_many(BATCH, timeout=peers.PATIENCE)
        seen = np.frombuffer(b"".join(batch), dtype="<u8")
        begin = first + step * got
        expected = np.arange(begin, begin + step * len(batch), step, dtype="<u8")
        assert np.array_equal(seen, expected), f"at {got}: {seen[:4]}, not {expected[:4]}"
        got += len(batch)
    assert got == count


def all_numbers(consumer: ipcheap.Consumer) -> Iterator[int]:
    """Receive numbers until an error ends it."""
    while True:
        for data in consumer.recv_many(timeout=peers.PATIENCE):
            yield number_of(data)


def give_numbers(producer: ipcheap.Producer, first: int, count: int) -> None:
    """Send that many numbers."""
    for at in range(first, first + count, BATCH):
        batch = numbers(at, min(BATCH, first + count - at))
        assert producer.send_many(batch, timeout=peers.PATIENCE) == len(batch)


# Conformance ------------------------------------------------------------------------------


def describe(heap: ipcheap.Heap) -> dict[str, Any]:
    """Return a heap's description of itself."""
    names = ("name", "capacity", "shm", "sem", "identity", "closed")
    return {name: getattr(heap, name) for name in names}


def attach_and_describe(name: str) -> dict[str, Any]:
    """Attach by name."""
    with ipcheap.Heap.attach(name) as heap:
        return describe(heap)


def echo(heap: ipcheap.Heap) -> int:
    """Forward what comes on one channel to another, untouched; return how many."""
    count = 0
    with heap, heap.consumer("there", 10) as consumer, heap.producer("back", 10) as producer:
        while True:
            try:
                record = consumer.recv_record(timeout=peers.PATIENCE)
            except ipcheap.ChannelClosed:
                return count
            producer.send_record(record, timeout=peers.PATIENCE)
            count += 1


def churn(heap: ipcheap.Heap, seed: int, rounds: int) -> int:
    """Allocate and free large records, which takes the heap's lock; return how many."""
    dice = random.Random(seed)
    held: list[tuple[ipcheap.Record, int]] = []
    with heap:
        peers.say("ready")
        peers.listen()
        for turn in range(rounds):
            record = heap.allocate_record(dice.randrange(33 << 10, 200 << 10))
            mark = seed << 32 | turn
            record.view[:8] = record.view[-8:] = mark.to_bytes(8, "little")
            held.append((record, mark))
            if len(held) > 8:
                record, mark = held.pop(dice.randrange(len(held)))
                assert number_of(record.view[:8]) == number_of(record.view[-8:]) == mark
                record.free()
        for record, mark in held:
            assert number_of(record.view[:8]) == number_of(record.view[-8:]) == mark
            record.free()
    return rounds


def count_under_lock(heap: ipcheap.Heap, rounds: int) -> None:
    """Count in plain memory that a lock guards, once all are there and have been started."""
    with heap:
        segment = heap.channel("shared", timeout=10)
        assert isinstance(segment, ipcheap.StaticSegment)
        ipcheap.Barrier(segment, 64, 3).wait(peers.PATIENCE)
        assert ipcheap.Event(segment, 128).wait(peers.PATIENCE)
        lock, total = ipcheap.Lock(segment, 192), segment.array("u8")[:1]
        for _ in range(rounds):
            with lock:
                total[0] += 1
        segment.atomic(8, "i8").fetch_sub(rounds)


def hold_records_until_killed(heap: ipcheap.Heap) -> None:
    """Allocate small and large records."""
    held = [heap.allocate_record(nbytes) for nbytes in (8, 100, 5000, 100_000, 3_000_000)]
    peers.say(len(held))
    peers.listen()


# Streams of records -----------------------------------------------------------------------


def produce_numbers(heap: ipcheap.Heap, channel: int | str, count: int) -> None:
    """Send numbers from 0."""
    with heap, heap.producer(channel, timeout=10) as producer:
        give_numbers(producer, 0, count)


def produce_records(heap: ipcheap.Heap, channel: str, count: int) -> None:
    """Send numbers that were written in place."""
    with heap, heap.producer(channel, timeout=10) as producer:
        for first in range(0, count, 64):
            records = producer.allocate_records(8, 64)
            for number, record in enumerate(records, first):
                record.view[:] = number.to_bytes(8, "little")
            assert producer.send_records(records, timeout=peers.PATIENCE) == 64


def consume_with_two_threads(heap: ipcheap.Heap, count: int) -> list[int]:
    """Receive even numbers in one thread and odd ones in another; return how many."""

    def work(side: int) -> int:
        with heap.consumer(side, timeout=10) as consumer:
            take_numbers(consumer, count // 2, step=2, first=side)
            try:
                consumer.recv(timeout=peers.PATIENCE)
            except ipcheap.ChannelClosed:
                return count // 2
            raise AssertionError("more than was sent")

    with heap, ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, (0, 1)))


# Beginnings and ends ----------------------------------------------------------------------


def send_and_leave(name: str, count: int) -> None:
    """Make the heap, send, and close everything."""
    with ipcheap.Heap.create(name, "1MiB") as heap:
        heap.add_record_channel("numbers", 1024)
        with heap.producer("numbers") as producer:
            give_numbers(producer, 0, count)


def attach_when_it_comes(name: str) -> int:
    """Wait for a heap."""
    peers.say("waiting")
    with ipcheap.Heap.attach(name, timeout=peers.PATIENCE) as heap:
        return heap.identity


def consume_when_it_comes(heap: ipcheap.Heap, channel: str) -> bytes:
    """Wait for a channel."""
    with heap:
        peers.say("waiting")
        with heap.consumer(channel, timeout=peers.PATIENCE) as consumer:
            return consumer.recv(timeout=peers.PATIENCE)


def race_to_open(places: list[tuple[str, str, str]]) -> list[int]:
    """Open the heaps one by one, at the times given; return their identities."""
    found = []
    for turn, (place, shm, sem) in enumerate(places):
        peers.say("ready")
        start = peers.listen()
        while time.monotonic() < start:
            pass
        with ipcheap.Heap.open(place, f"{turn + 1}MiB", shm=shm, sem=sem) as heap:
            found.append(heap.identity)
            heap.add_static_segment("arrived", 8).atomic(0).fetch_add(1)
            peers.say("in")
            peers.listen()
    return found


def send_then_die(heap: ipcheap.Heap, channel: str, count: int, spare: int = 0) -> None:
    """Send numbers, allocate records that are never sent, and be killed."""
    producer = heap.producer(channel, timeout=10)
    give_numbers(producer, 0, count)
    _spare = [producer.allocate_record(5000 * (turn + 1)) for turn in range(spare)]
    peers.say("sent")
    peers.die()


def send_for_ever(heap: ipcheap.Heap, channel: str) -> None:
    """Send numbers until killed; report when the first ones were sent."""
    producer = heap.producer(channel, timeout=10)
    for first in itertools.count(0, 16):
        producer.send_many(numbers(first, 16))
        if first == 0:
            peers.say("begun")


def receive_and_die(heap: ipcheap.Heap, channel: str, received: int, freed: list[int]) -> None:
    """Receive, free some records, keep none, and be killed."""
    consumer = heap.consumer(channel, timeout=10)
    records = [consumer.recv_record(timeout=peers.PATIENCE) for _ in range(received)]
    for at in freed:
        records[at].free()
    peers.say([number_of(record.view) for at, record in enumerate(records) if at not in freed])
    peers.die()


def hold_side(heap: ipcheap.Heap, channel: str, side: str) -> None:
    """Claim a side and hold it until asked to close it."""
    with heap, getattr(heap, side)(channel, timeout=10) as endpoint:
        peers.say(threading.get_native_id())
        peers.listen()
        endpoint.close()
        peers.say("closed")
        peers.listen()


def exit_without_closing(heap: ipcheap.Heap, channel: str) -> None:
    """Send one record and end normally, with the producer open."""
    producer = heap.producer(channel, timeout=10)
    producer.send(b"last")
    peers.say("sent")
    globals()["_kept_open"] = producer


# Sizes ------------------------------------------------------------------------------------


def check_record(heap: ipcheap.Heap, channel: str, mark: int) -> tuple[int, int]:
    """Receive a record all of whose 8-byte words are `mark`, the rest its lowest byte."""
    with (
        heap,
        heap.consumer(channel, timeout=10) as consumer,
        consumer.recv_record(timeout=peers.PATIENCE) as record,
    ):
        nbytes, array = record.nbytes, record.array()
        words = array[: nbytes // 8 * 8].view("<u8")
        assert (words == mark).all()
        assert (array[nbytes // 8 * 8 :] == mark & 255).all()
        address = int(array.ctypes.data)
        del words, array
    return nbytes, address % 64


# Forks ------------------------------------------------------------------------------------


def use_in_child(heap: ipcheap.Heap) -> list[int]:
    """Receive what the parent sends, and answer, through the child's own endpoints."""
    with heap.consumer("down", 10) as consumer, heap.producer("up", 10) as producer:
        found = []
        for record in consumer:
            found.append(number_of(record.view))
            producer.send(bytes(record))
    return found


def pid_and_identity(heap: ipcheap.Heap) -> tuple[int, int]:
    """Return this process's pid and the identity of its heap."""
    heap.allocate_record(100).free()
    return os.getpid(), heap.identity


def add_channel(heap: ipcheap.Heap, name: str) -> str:
    """Add a channel and return its name."""
    heap.add_record_channel(name, 4)
    return name

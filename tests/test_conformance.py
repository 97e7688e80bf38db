"""One suite that a heap of every kind passes: each kind of memory and of semaphore."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import apart
import bus_workers
import kinds
import peers
import pytest
import workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

each_kind = pytest.mark.parametrize("kind", kinds.ALL, ids=str)
each_named_kind = pytest.mark.parametrize("kind", kinds.NAMED, ids=str)


@pytest.fixture
def heap(kind: kinds.Kind, heap_name: str, tmp_path: Path) -> Iterator[ipcheap.Heap]:
    with kinds.made(kind, heap_name, tmp_path) as heap:
        yield heap


@each_kind
def test_a_new_heap_is_what_was_asked_for(heap: ipcheap.Heap, kind: kinds.Kind) -> None:
    assert (heap.shm, heap.sem, heap.capacity) == (*kind, 64 << 20)
    assert not heap.closed
    assert heap.check() == []
    statistics = heap.statistics()
    assert statistics.capacity == 64 << 20
    assert (statistics.in_use, statistics.records, statistics.channels) == (0, 0, 0)
    assert statistics.largest_free >= 0.95 * heap.capacity
    assert statistics.participants == 1


@each_named_kind
def test_another_process_attaches_by_name(heap: ipcheap.Heap) -> None:
    assert heap.name is not None
    assert peers.call(workers.attach_and_describe, heap.name) == workers.describe(heap)


@each_kind
def test_another_process_attaches_by_pickle(heap: ipcheap.Heap) -> None:
    assert peers.call(workers.describe, heap) == workers.describe(heap)


@each_named_kind
def test_create_refuses_a_name_that_open_takes(heap: ipcheap.Heap, kind: kinds.Kind) -> None:
    assert heap.name is not None
    with pytest.raises(ipcheap.HeapExists, match=heap.name):
        ipcheap.Heap.create(heap.name, "1MiB", shm=kind.shm, sem=kind.sem)
    with ipcheap.Heap.open(heap.name, "1MiB", shm=kind.shm, sem=kind.sem) as again:
        assert workers.describe(again) == workers.describe(heap)


@each_kind
def test_records_go_through_another_process_and_come_back(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("there", 16)
    heap.add_record_channel("back", 16)
    sizes = [0, 1, 8, 64, 65, 1000, 4096, 32_768, 32_769, 100_000, 3_000_000] * 20
    before = heap.statistics()
    with (
        peers.run(workers.echo, heap) as peer,
        heap.producer("there") as producer,
        heap.consumer("back") as consumer,
    ):
        in_flight: list[tuple[int, int]] = []

        def take() -> None:
            size, fill = in_flight.pop(0)
            with consumer.recv_record(timeout=peers.PATIENCE) as record:
                assert record.nbytes == size
                assert bytes(record) == bytes([fill]) * size

        for turn, size in enumerate(sizes):
            record = producer.allocate_record(size)
            record.view[:] = bytes([turn % 251]) * size
            producer.send_record(record, timeout=peers.PATIENCE)
            in_flight.append((size, turn % 251))
            if len(in_flight) == 12:
                take()
        while in_flight:
            take()
        producer.close()
        assert peer.result() == len(sizes)
    after = heap.statistics()
    assert (after.in_use, after.records) == (before.in_use, before.records)
    assert heap.check() == []


@each_kind
def test_bytes_are_sent_and_received_in_batches(heap: ipcheap.Heap) -> None:
    heap.add_record_channel(7, 64)
    with peers.run(workers.produce_numbers, heap, 7, 5000) as peer:
        with heap.consumer(7) as consumer:
            workers.take_numbers(consumer, 5000)
            with pytest.raises(ipcheap.ChannelClosed):
                consumer.recv(timeout=peers.PATIENCE)
        peer.result()


@each_kind
def test_several_processes_allocate_large_records_together(heap: ipcheap.Heap) -> None:
    before = heap.statistics()
    crowd = [peers.run(workers.churn, heap, seed, 400) for seed in range(1, 4)]
    with crowd[0], crowd[1], crowd[2]:
        for peer in crowd:
            assert peer.hear() == "ready"
        for peer in crowd:
            peer.tell("go")
        assert [peer.result() for peer in crowd] == [400] * 3
    after = heap.statistics()
    assert (after.in_use, after.records, after.extents) == (
        before.in_use,
        before.records,
        before.extents,
    )
    assert heap.check() == []


@each_kind
def test_processes_meet_in_a_static_segment(heap: ipcheap.Heap) -> None:
    segment = heap.add_static_segment("shared", 256)
    assert bytes(segment.view) == bytes(256)
    balance = segment.atomic(8, "i8")
    balance.store(1000)
    with (
        peers.run(workers.count_under_lock, heap, 500) as one,
        peers.run(workers.count_under_lock, heap, 500) as other,
    ):
        ipcheap.Barrier(segment, 64, 3).wait(peers.PATIENCE)
        assert segment.array("u8")[0] == 0  # nothing goes on before the event
        ipcheap.Event(segment, 128).set()
        one.result()
        other.result()
    assert segment.array("u8")[0] == 1000
    assert balance.load() == 0


@each_kind
def test_every_process_hears_every_message_of_a_bus(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("news", 16)
    with (
        peers.run(bus_workers.receive_all, bus) as one,
        peers.run(bus_workers.receive_all, bus) as other,
    ):
        assert (one.hear(), other.hear()) == ("ready", "ready")
        sent = [bytes([n % 251]) * (n * n) for n in range(200)]
        assert bus.post_many(sent[:-1], peers.PATIENCE) == 199
        report = bus.broadcast(sent[-1], peers.PATIENCE)
        assert (report.position, report.listeners, report.released) == (199, 2, 2)
        one.kill()
        assert bus.broadcast(b"to the other", peers.PATIENCE).complete
        heap.remove_channel("news", force=True)
        assert other.result() == [*sent, b"to the other"]
    heap.recover()
    assert heap.statistics().in_use == 0
    assert heap.check() == []


@each_kind
def test_what_a_killed_process_had_allocated_comes_back(heap: ipcheap.Heap) -> None:
    before = heap.statistics()
    with peers.run(workers.hold_records_until_killed, heap) as peer:
        assert peer.hear() == 5
        held = heap.statistics()
        assert held.records == before.records + 5
        assert held.in_use >= before.in_use + 3_105_108
        assert held.participants == before.participants + 1
        peer.kill()
        peer.wait()
    report = heap.recover()
    assert report.participants == 1
    after = heap.statistics()
    assert (after.in_use, after.records) == (before.in_use, before.records)
    assert after.participants == before.participants
    assert after.recoveries == before.recoveries + 1
    assert heap.check() == []


@each_named_kind
def test_a_heap_outlives_all_who_had_it_open(heap: ipcheap.Heap) -> None:
    assert heap.name is not None
    heap.add_record_channel("c", 8)
    with heap.producer("c") as producer:
        producer.send(b"still here")
    identity = heap.identity
    heap.close()
    with ipcheap.Heap.attach(heap.name) as again, again.consumer("c") as consumer:
        assert again.identity == identity
        assert consumer.recv(timeout=0) == b"still here"


@each_named_kind
def test_the_mode_is_what_was_asked_for(kind: kinds.Kind, heap_name: str, tmp_path: Path) -> None:
    umask = os.umask(0o077)
    try:
        with kinds.made(kind, heap_name, tmp_path, mode=0o640) as heap:
            where = heap.name if kind.shm == "file" else f"/dev/shm/ipcheap.{heap.name}"
            assert where is not None
            assert stat.S_IMODE(os.stat(where).st_mode) == 0o640
    finally:
        os.umask(umask)


@each_named_kind
def test_it_is_listed_while_it_is_there(heap: ipcheap.Heap, kind: kinds.Kind) -> None:
    assert heap.name is not None
    found = [info for info in ipcheap.heaps() if info.name == heap.name]
    if kind.shm == "file":
        assert found == []  # it is another mapping
        return
    (info,) = found
    assert not info.stale  # open here, though nothing was done with it yet
    heap.allocate_record(8).free()
    (info,) = (info for info in ipcheap.heaps() if info.name == heap.name)
    assert (info.shm, info.sem, info.capacity, info.mode) == (*kind, heap.capacity, 0o600)
    assert (info.participants, info.stale, info.uid) == (1, False, os.getuid())
    heap.close()
    (info,) = (info for info in ipcheap.heaps() if info.name == heap.name)
    assert (info.participants, info.stale) == (0, True)
    heap.unlink()
    assert [info for info in ipcheap.heaps() if info.name == heap.name] == []


@each_kind
def test_unlink_leaves_nothing_of_it(kind: kinds.Kind, tmp_path: Path) -> None:
    seen = kinds.call_apart(apart.make_use_and_unlink, *kind, str(tmp_path))
    assert seen["before"] == []
    # A memfd heap has no name; only its System V semaphore can be seen.
    assert bool(seen["while"]) == (kind.shm != "memfd" or kind.sem == "sysv")
    assert seen["after"] == seen["folder"] == []

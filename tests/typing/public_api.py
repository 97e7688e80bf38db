"""The public API as type checkers see it: read by mypy and pyright, never run.

`assert_type` fails if a call has another type than stated here. A line that must be rejected
carries an ignore comment for each checker; both complain about one that is not needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, assert_type

import numpy as np
import numpy.typing as npt

import ipcheap
from ipcheap import testing


def heaps() -> None:
    heap = ipcheap.Heap.create("name", "1GiB", shm="posix", sem="futex", mode=0o600)
    assert_type(heap, ipcheap.Heap)
    assert_type(ipcheap.Heap.create(shm="memfd", capacity=1 << 20), ipcheap.Heap)
    assert_type(ipcheap.Heap.open("name"), ipcheap.Heap)
    assert_type(ipcheap.Heap.attach("name", timeout=None), ipcheap.Heap)
    with heap as entered:
        assert_type(entered, ipcheap.Heap)
    assert_type(heap.name, str | None)
    assert_type(heap.capacity, int)
    assert_type(heap.shm, str)
    assert_type(heap.identity, int)
    assert_type(heap.closed, bool)
    assert_type(heap.statistics(), ipcheap.HeapStatistics)
    assert_type(heap.statistics().in_use, int)
    assert_type(heap.trim(keep="1MiB"), int)
    assert_type(heap.check(), list[str])
    assert_type(heap.recover(), ipcheap.RecoveryReport)
    assert_type(ipcheap.heaps(), list[ipcheap.HeapInfo])
    assert_type(ipcheap.__version__, str)
    ipcheap.Heap.create("name", 1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    ipcheap.Heap.attach("name", 5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    ipcheap.Heap.open(None)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    heap.capacity = 5  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    heap.statistics().records = 0  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
    ipcheap.Hep()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


class MyHeap(ipcheap.Heap):
    """A subclass."""


def subclasses() -> None:
    assert_type(MyHeap.create("name"), MyHeap)
    assert_type(MyHeap.attach("name"), MyHeap)


def channels(heap: ipcheap.Heap) -> None:
    channel = heap.add_record_channel("id", capacity=8)
    assert_type(channel, ipcheap.RecordChannel)
    assert_type(channel.id, int | str)
    assert_type(channel.capacity, int)
    assert_type(channel.producer(), ipcheap.Producer)
    assert_type(channel.counts(), ipcheap.ChannelCounts)
    assert_type(channel.counts().freed, int)
    assert_type(channel.counts().blocked, str | None)
    assert_type(channel.consumer(), ipcheap.Consumer)
    assert_type(heap.channels, Mapping[int | str, ipcheap.Channel])
    found = heap.channel(7, timeout=None)
    assert_type(found, ipcheap.Channel)
    if isinstance(found, ipcheap.StaticSegment):
        assert_type(found.nbytes, int)
    heap.remove_channel("id", force=True)
    heap.add_record_channel(b"id")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    heap.add_record_channel("id", "8")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def sending(heap: ipcheap.Heap) -> None:
    with heap.producer("id", timeout=1) as producer:
        assert_type(producer, ipcheap.Producer)
        record = producer.allocate_record(8)
        assert_type(record, ipcheap.Record)
        assert_type(producer.allocate_records(8, 3), list[ipcheap.Record])
        producer.send_record(record, timeout=0.5)
        assert_type(producer.try_send_record(record), bool)
        assert_type(producer.send_records([record]), int)
        producer.send(b"x")
        producer.send(memoryview(b"x"))
        producer.send(np.zeros(3))
        assert_type(producer.send_many([b"x", bytearray(3)]), int)
        assert_type(producer.capacity, int)
        assert_type(producer.closed, bool)
        assert_type(producer.statistics(), ipcheap.EndpointStatistics)
        producer.wait_peer(timeout=None)
        producer.send_record(b"x")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        producer.pending = 3  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]


def receiving(heap: ipcheap.Heap) -> None:
    with heap.consumer("id") as consumer:
        assert_type(consumer, ipcheap.Consumer)
        assert_type(consumer.recv_record(timeout=1), ipcheap.Record)
        assert_type(consumer.recv_record().form, Literal["bytes", "array", "object"])
        assert_type(consumer.recv_record().object(), Any)
        assert_type(consumer.try_recv_record(), ipcheap.Record | None)
        assert_type(consumer.recv_records(10), list[ipcheap.Record])
        assert_type(consumer.recv(), bytes)
        assert_type(consumer.recv_many(limit=10, timeout=0), list[bytes])
        assert_type(consumer.pending, int)
        assert_type(iter(consumer), Iterator[ipcheap.Record])
        for record in consumer:
            assert_type(record, ipcheap.Record)
        consumer.try_recv_record().free()  # type: ignore[union-attr]  # pyright: ignore[reportOptionalMemberAccess]


def records(heap: ipcheap.Heap) -> None:
    with heap.allocate_record(24) as record:
        assert_type(record, ipcheap.Record)
        assert_type(record.nbytes, int)
        assert_type(len(record), int)
        assert_type(bytes(record), bytes)
        assert_type(record[0], int)
        assert_type(record[1:2], memoryview)
        record[:] = b""
        assert_type(record.view, memoryview)
        assert_type(record.array("f8", (3,)), npt.NDArray[Any])
        assert_type(record.array(np.float64, -1), npt.NDArray[Any])
        record.keep()
        record.free()


def fill(view: memoryview) -> None:
    view[:] = b"x"


def segments(heap: ipcheap.Heap) -> None:
    segment = heap.add_static_segment("state", 256, init=fill)
    assert_type(segment, ipcheap.StaticSegment)
    assert_type(segment.view, memoryview)
    assert_type(segment.array("f4", (2, 2)), npt.NDArray[Any])
    cell = segment.atomic(0, dtype="u4")
    assert_type(cell, ipcheap.Atomic)
    assert_type(cell.load(), int)
    assert_type(cell.compare_exchange(0, 1), bool)
    assert_type(cell.fetch_add(1), int)
    assert_type(cell.wait(0, timeout=0.1), bool)
    assert_type(cell.notify(), int)
    assert_type(ipcheap.Event(segment, 64).wait(timeout=1), bool)
    assert_type(ipcheap.Barrier(segment, 128, parties=2).wait(), int)
    lock = ipcheap.Lock(segment, 192)
    assert_type(lock.acquire(timeout=1), bool)
    assert_type(lock.owner_died, bool)
    assert_type(ipcheap.Lock.SIZE, int)
    with lock as acquired:
        assert_type(acquired, bool)
    ipcheap.Barrier(segment, 128)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def buses(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("news", 64, history=3, patience=0.5, exclusive=True)
    assert_type(bus, ipcheap.Bus)
    assert_type(heap.bus("news", timeout=None), ipcheap.Bus)
    assert_type(bus.patience, float)
    assert_type(bus.post(b"x", timeout=1), int)
    assert_type(bus.post_record(bus.allocate_record(8)), int)
    assert_type(bus.post_object({"a": 1}), int)
    assert_type(bus.post_many([b"x", bytearray(1)]), int)
    assert_type(bus.broadcast(b"x", 1, nowait=True), ipcheap.BroadcastReport)
    assert_type(bus.broadcast_record(bus.allocate_array(3, "u1")), ipcheap.BroadcastReport)
    report = bus.drain(timeout=0)
    assert_type(report.slow, tuple[ipcheap.Participant, ...])
    assert_type(report.complete, bool)
    assert_type(bus.listeners(), list[ipcheap.ListenerInfo])
    assert_type(bus.statistics(), ipcheap.BusStatistics)
    assert_type(bus.wait_listeners(2, timeout=1), None)
    with bus.loan((2, 3), "f4", timeout=1) as array:
        assert_type(array, npt.NDArray[Any])
    with bus.listen(history=3, lossy=True) as listener:
        assert_type(listener, ipcheap.Listener)
        message = listener.recv_record(timeout=1)
        assert_type(message, ipcheap.Message)
        assert_type(message.position, int)
        assert_type(message.sender, ipcheap.Participant)
        assert_type(message.view, memoryview)
        assert_type(listener.try_recv_record(), ipcheap.Message | None)
        assert_type(listener.recv_records(10), list[ipcheap.Message])
        assert_type(listener.recv(), bytes)
        assert_type(listener.recv_array(), npt.NDArray[Any])
        assert_type(listener.lost, int)
        assert_type(listener.statistics(), ipcheap.ListenerStatistics)
        for each in listener:
            assert_type(each, ipcheap.Message)
    assert_type(ipcheap.MessagesLost("text").count, int)
    bus.listen(3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    listener.wait_peer()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]


async def buses_asynchronously(bus: ipcheap.Bus, listener: ipcheap.Listener) -> None:
    assert_type(await bus.apost(b"x"), int)
    assert_type(await bus.apost_object(1), int)
    assert_type(await bus.abroadcast(b"x"), ipcheap.BroadcastReport)
    assert_type(await bus.adrain(), ipcheap.BroadcastReport)
    assert_type(await listener.arecv(), bytes)
    assert_type(await listener.arecv_record(), ipcheap.Message)
    async for each in listener:
        assert_type(each, ipcheap.Message)


def permissions(heap: ipcheap.Heap) -> None:
    assert_type(heap.chmod(0o660), None)
    assert_type(heap.chown("user", group=1000), None)
    ipcheap.chmod("name", 0o660)
    ipcheap.chown("name", 1000, "group")
    ipcheap.chmod("name", "0660")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def errors() -> None:
    try:
        ipcheap.unlink("name")
    except ipcheap.Error as error:
        assert_type(error, ipcheap.Error)
    missing: FileNotFoundError = ipcheap.HeapNotFound()
    full: MemoryError = ipcheap.HeapFull()
    ended: EOFError = ipcheap.ChannelClosed()
    died: ConnectionError = ipcheap.PeerDied()
    os.write(2, repr([missing, full, ended, died]).encode())


def work(heap: ipcheap.Heap, count: int) -> list[int]:
    return [count, heap.capacity]


def peers(heap: ipcheap.Heap) -> None:
    with testing.run(work, heap, count=3) as peer:
        assert_type(peer, testing.Peer[list[int]])
        assert_type(peer.result(timeout=1), list[int])
        assert_type(peer.wait(), int)
    assert_type(testing.call(work, heap, 3), list[int])
    assert_type(testing.run_by("fork", work, heap, 3), testing.Peer[list[int]])
    condition: Callable[[], bool] = lambda: True  # noqa: E731
    assert_type(testing.until(condition), bool)
    with testing.temporary_heap(shm="memfd") as temporary, testing.no_leaks(temporary):
        assert_type(temporary, ipcheap.Heap)
    testing.run(work, heap)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    testing.run(work, heap, "3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

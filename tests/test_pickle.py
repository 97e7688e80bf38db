"""Heaps and channels travel to other processes, and forks know what belongs to the parent."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import peers
import pytest

import ipcheap


def use(heap: ipcheap.Heap, identity: int) -> str:
    assert heap.identity == identity
    with heap, heap.producer("answers", timeout=5) as producer:
        producer.send(b"from there")
        return repr(heap)


@pytest.mark.parametrize("shm", ["posix", "sysv", "file", "memfd"])
def test_a_heap_given_to_a_process_is_the_same(heap_name: str, tmp_path: Any, shm: str) -> None:
    name = {"file": str(tmp_path / "heap"), "memfd": None}.get(shm, heap_name)
    with ipcheap.Heap.create(name, "1MiB", shm=shm) as heap:
        heap.add_record_channel("answers")
        with heap.consumer("answers") as consumer:
            assert peers.call(use, heap, heap.identity) == repr(heap)
            assert consumer.recv(timeout=5) == b"from there"
            with pytest.raises(ipcheap.ChannelClosed):
                consumer.recv(timeout=5)
        heap.unlink()


def send_through(channel: ipcheap.RecordChannel, segment: ipcheap.StaticSegment) -> None:
    segment.atomic(8).fetch_add(5)
    with channel.producer() as producer:
        producer.send(b"hello")


def test_channels_travel_too(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        channel, segment = heap.add_record_channel(1), heap.add_static_segment(2, 64)
        peers.call(send_through, channel, segment)
        with channel.consumer() as consumer:
            assert consumer.recv(timeout=5) == b"hello"
        assert segment.atomic(8).load() == 5
        assert pickle.loads(pickle.dumps(channel)) == channel
        assert channel != segment


def test_another_heap_under_the_name_is_not_taken_for_it(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        pickled = pickle.dumps(heap)
        heap.unlink()
        with (
            ipcheap.Heap.create(heap_name, "1MiB"),
            pytest.raises(ipcheap.HeapNotFound, match="not the one that was pickled"),
        ):
            pickle.loads(pickled)


def try_everything(
    producer: ipcheap.Producer, consumer: ipcheap.Consumer, record: ipcheap.Record
) -> list[str]:
    found = []
    for attempt in (
        lambda: producer.send(b"x"),
        lambda: producer.send_record(record),
        lambda: consumer.recv(timeout=0),
        consumer.close,
        record.free,
        lambda: record.view,
    ):
        try:
            attempt()
        except ipcheap.WrongProcess as error:
            found.append(str(error))
    return found


def test_a_fork_may_not_use_what_its_parent_opened(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("a")
        with heap.producer("a") as producer, heap.consumer("a") as consumer:
            record = producer.allocate_record(8)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
                peer = peers.run_by("fork", try_everything, producer, consumer, record)
            with peer:
                assert len(peer.result()) == 6
            producer.send_record(record)
            assert len(consumer.recv(timeout=0)) == 8
            assert not heap.check()


def answer(heap: ipcheap.Heap) -> None:
    with heap.allocate_record(100) as record:
        record.view[:] = bytes(100)
    producer = heap.producer("a")
    producer.send(b"from the child")
    peers.say("sent")
    peers.listen()  # and ends without closing the producer


def test_a_fork_is_a_participant_of_its_own(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("a")
        with heap.consumer("a") as consumer:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                peer = peers.run_by("fork", answer, heap)
            with peer:
                assert peer.hear() == "sent"
                assert heap.statistics().participants == 2
                assert consumer.recv(timeout=5) == b"from the child"
                peer.tell("go")
                peer.result()
                peer.wait()
            with pytest.raises(ipcheap.ChannelClosed):
                consumer.recv(timeout=5)

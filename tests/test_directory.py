"""The channels of a heap: many, found quickly, by int and by str, added once and removed."""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import peers
import pytest
import workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 100_000


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap


def median_look_up(heap: ipcheap.Heap, ids: list[int | str]) -> float:
    """Return the median time of looking up a channel, in seconds."""
    times = []
    for channel_id in ids:
        began = time.perf_counter()
        heap.channel(channel_id)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def test_a_hundred_thousand_channels_are_found_as_quickly_as_a_hundred(
    heap_name: str,
) -> None:
    with ipcheap.Heap.create(heap_name, "256MiB") as heap:
        first: list[int | str] = [*range(50), *(f"name {turn}" for turn in range(50))]
        for channel_id in first:
            heap.add_record_channel(channel_id, 4)
        few = median_look_up(heap, first * 20)
        for turn in range(50, MANY // 2):
            heap.add_record_channel(turn, 4)
            heap.add_record_channel(f"name {turn}", 4)
        assert heap.statistics().channels == len(heap.channels) == MANY
        spread: list[int | str] = list(range(0, MANY // 2, 50))
        spread += [f"name {turn}" for turn in range(0, MANY // 2, 50)]
        many = median_look_up(heap, spread)
        assert many <= 4 * few, f"{many} s a look-up among {MANY}, {few} s among a hundred"
        absent = MANY // 2
        with pytest.raises(ipcheap.ChannelNotFound):
            heap.channel(absent)
        assert set(heap.channels) == set(range(MANY // 2)) | {
            f"name {turn}" for turn in range(MANY // 2)
        }
        for channel_id in (0, MANY // 2 - 1, "name 0", f"name {MANY // 2 - 1}"):
            with heap.producer(channel_id) as producer, heap.consumer(channel_id) as consumer:
                producer.send(str(channel_id).encode())
                assert consumer.recv(timeout=5) == str(channel_id).encode()
        for channel_id in list(heap.channels)[::2]:
            heap.remove_channel(channel_id)
        assert heap.statistics().channels == len(heap.channels) == MANY // 2
        assert heap.check() == []


def test_adding_and_removing_for_long_costs_no_memory(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("stays", 4)
    for turn in range(200):
        heap.add_record_channel(turn, 64)
        heap.producer(turn).close()
        heap.add_static_segment(str(turn), 5000)
        heap.remove_channel(turn)
        heap.remove_channel(str(turn))
    before = heap.statistics()
    for turn in range(20_000):
        heap.add_record_channel(turn, 64)
        heap.producer(turn).close()
        heap.remove_channel(turn)
        heap.add_static_segment(turn, 5000)
        heap.remove_channel(turn)
    after = heap.statistics()
    assert (after.in_use, after.extents, after.channels, after.largest_free) == (
        before.in_use,
        before.extents,
        before.channels,
        before.largest_free,
    )
    assert list(heap.channels) == ["stays"]
    assert heap.check() == []


def test_numbers_and_their_texts_are_different_ids(heap: ipcheap.Heap) -> None:
    ids: list[int | str] = [0, "0", 1, "1", 2**63 - 1, str(2**63 - 1), 48, "\0", "é" * 24, "x" * 48]
    for shift, channel_id in enumerate(ids):
        heap.add_record_channel(channel_id, 1 << shift)
    assert set(heap.channels) == set(ids)
    assert [type(found) for found in heap.channels].count(str) == 6
    for shift, channel_id in enumerate(ids):
        channel = heap.channel(channel_id)
        assert isinstance(channel, ipcheap.RecordChannel)
        assert (channel.id, channel.capacity) == (channel_id, max(1 << shift, channel.capacity))
        assert heap.channels[channel_id] == channel
    heap.remove_channel(0)
    assert 0 not in heap.channels
    assert "0" in heap.channels


@pytest.mark.parametrize(
    ("asked", "given"), [(1, 1), (2, 2), (3, 4), (5, 8), (64, 64), (65, 128), (1000, 1024)]
)
def test_capacity_is_rounded_up_and_then_compared(
    heap: ipcheap.Heap, asked: int, given: int
) -> None:
    channel = heap.add_record_channel("c", asked)
    assert channel.capacity >= given
    assert channel.capacity & (channel.capacity - 1) == 0
    assert channel.capacity == given
    for same in (asked, given):
        assert heap.add_record_channel("c", same) == channel
    with pytest.raises(ipcheap.ChannelTypeError):
        heap.add_record_channel("c", given + 1)
    assert heap.statistics().channels == 1
    with heap.producer("c") as producer:
        for _ in range(given):
            producer.send(b"", timeout=0)
        with pytest.raises(TimeoutError):
            producer.send(b"", timeout=0)


def test_adding_without_a_shape_takes_what_is_there(heap: ipcheap.Heap) -> None:
    assert heap.add_record_channel("usual").capacity == 1024
    heap.add_record_channel("c", 16)
    assert heap.add_record_channel("c").capacity == 16
    heap.add_static_segment("s", 100)
    assert heap.add_static_segment("s").nbytes == 100


def test_another_kind_or_shape_is_refused(heap: ipcheap.Heap, heap_name: str) -> None:
    heap.add_record_channel("c", 16)
    heap.add_static_segment("s", 100)
    before = heap.statistics()
    for add in (
        lambda: heap.add_record_channel("c", 32),
        lambda: heap.add_record_channel("s", 16),
        lambda: heap.add_record_channel("s"),
        lambda: heap.add_static_segment("s", 200),
        lambda: heap.add_static_segment("c", 100),
        lambda: heap.producer("s"),
        lambda: heap.consumer("s"),
    ):
        with pytest.raises(ipcheap.ChannelTypeError, match=f"'[cs]'.*{heap_name}"):
            add()
    assert heap.statistics() == before


def test_removing_frees_what_was_pending_and_leaves_what_is_held(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 16)
    start = heap.statistics()
    with heap.producer("c") as producer:
        for turn in range(10):
            producer.send(turn.to_bytes(8, "little") * 10_000, timeout=0)
    consumer = heap.consumer("c")
    held = [consumer.recv_record(timeout=5) for _ in range(3)]
    consumer.close()
    heap.remove_channel("c")
    with pytest.raises(ipcheap.ChannelNotFound):
        heap.channel("c")
    assert heap.statistics().records == 3
    for turn, record in enumerate(held):
        assert bytes(record) == turn.to_bytes(8, "little") * 10_000
        record.free()
    end = heap.statistics()
    assert (end.records, end.in_use, end.channels) == (0, start.in_use, start.channels - 1)
    assert heap.check() == []


def test_a_channel_in_use_is_removed_by_force_only(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 16)
    producer, consumer = heap.producer("c"), heap.consumer("c")
    producer.send(b"held")
    producer.send(b"pending")
    record = consumer.recv_record(timeout=5)
    with pytest.raises(ipcheap.ChannelBusy, match=f"'c'.*pid {__import__('os').getpid()}"):
        heap.remove_channel("c")
    assert consumer.pending == 1
    heap.remove_channel("c", force=True)
    with pytest.raises(ipcheap.EndpointClosed):
        consumer.recv(timeout=5)
    with pytest.raises(ipcheap.EndpointClosed):
        producer.send(b"no")
    assert bytes(record) == b"held"
    assert heap.statistics().records == 1
    record.free()
    producer.close()
    consumer.close()
    assert (heap.statistics().records, heap.statistics().channels) == (0, 0)
    assert heap.check() == []


def test_a_channel_is_removed_by_force_under_another_process(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 16)
    with peers.run(workers.consume_when_it_comes, heap, "c") as peer:
        with heap.producer("c") as producer:
            producer.wait_peer(timeout=peers.PATIENCE)
            with pytest.raises(ipcheap.ChannelBusy, match=f"pid {peer.pid}"):
                heap.remove_channel("c")
            heap.remove_channel("c", force=True)
        with pytest.raises(ipcheap.EndpointClosed):
            peer.result()


def test_a_new_channel_under_an_old_id_has_nothing_of_the_old_one(heap: ipcheap.Heap) -> None:
    old = heap.add_record_channel("c", 16)
    with heap.producer("c") as producer:
        producer.send(b"old")
    heap.remove_channel("c")
    new = heap.add_record_channel("c", 16)
    assert new != old
    with heap.consumer("c") as consumer:
        assert consumer.pending == 0
        with pytest.raises(TimeoutError):
            consumer.recv(timeout=0)
    heap.remove_channel("c")
    heap.add_static_segment("c", 64)
    assert isinstance(heap.channel("c"), ipcheap.StaticSegment)


def test_channels_added_elsewhere_are_seen_immediately(heap: ipcheap.Heap) -> None:
    for turn in range(3):
        assert peers.call(workers.add_channel, heap, f"c{turn}") in heap.channels
    assert len(heap.channels) == 3

"""Two attachments of one heap in one process exchange records."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING

import kinds
import pytest

import ipcheap

np = pytest.importorskip("numpy")

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZES = [0, 64, 5000, 3 << 20]


@pytest.fixture(params=kinds.NAMED, ids=str)
def pair(
    request: pytest.FixtureRequest, heap_name: str, tmp_path: Path
) -> Iterator[tuple[ipcheap.Heap, ipcheap.Heap]]:
    with kinds.made(request.param, heap_name, tmp_path, "64MiB") as one:
        one.add_record_channel("in", 4)
        one.add_record_channel("out", 4)
        with ipcheap.Heap.attach(str(one.name)) as other:
            yield one, other
            assert other.check() == []


@pytest.mark.parametrize("nbytes", SIZES)
def test_a_record_received_through_one_is_sent_by_the_other(
    pair: tuple[ipcheap.Heap, ipcheap.Heap], nbytes: int
) -> None:
    one, other = pair
    before = one.statistics().in_use
    with (
        one.producer("in") as source,
        one.consumer("in") as inbox,
        other.producer("out") as outbox,
        other.consumer("out") as sink,
    ):
        for number in range(12):
            content = bytes([number]) * nbytes
            source.send(content)
            record = inbox.recv_record(timeout=5)
            view = record.view
            outbox.send_record(record, timeout=5)
            assert bytes(view) == content  # through the mapping of the one
            with pytest.raises(ipcheap.RecordError, match="sent"):
                record.free()
            received = sink.recv_record(timeout=5)
            assert bytes(received) == content
            received.free()
            view.release()
    gc.collect()
    assert one.statistics().records == 0
    assert one.statistics().in_use == before


def test_many_records_of_both_are_sent_together(pair: tuple[ipcheap.Heap, ipcheap.Heap]) -> None:
    one, other = pair
    other.add_record_channel("many", 64)
    with other.producer("many") as producer, one.consumer("many") as consumer:
        records = []
        for number in range(48):
            record = (one, other, one)[number % 3].allocate_record(100 + number)
            record[:] = bytes([number]) * (100 + number)
            records.append(record)
        assert producer.send_records(records, timeout=5) == 48
        for number in range(48):
            record = consumer.recv_record(timeout=5)
            assert bytes(record) == bytes([number]) * (100 + number)
            record.free()
    assert other.statistics().records == 0


def test_what_does_not_fit_stays_with_its_own_attachment(
    pair: tuple[ipcheap.Heap, ipcheap.Heap],
) -> None:
    one, other = pair
    with other.producer("out") as producer, other.consumer("out") as consumer:
        for _ in range(4):
            producer.send(b"x")
        record = one.allocate_record(8)
        record[:] = b"12345678"
        assert not producer.try_send_record(record)
        with pytest.raises(TimeoutError):
            producer.send_record(record, timeout=0.01)
        assert bytes(record) == b"12345678"
        with pytest.raises(TimeoutError) as caught:
            producer.send_records([record], timeout=0.01)
        assert caught.value.done == 0  # type: ignore[attr-defined]
        consumer.recv()
        assert producer.try_send_record(record)
        for _ in range(3):
            consumer.recv()
        assert consumer.recv() == b"12345678"
        kept = one.allocate_record(8)
        kept.free()
    assert one.statistics().records == 0


def test_arrays_and_objects_cross(pair: tuple[ipcheap.Heap, ipcheap.Heap]) -> None:
    one, other = pair
    with (
        one.producer("in") as source,
        one.consumer("in") as inbox,
        other.producer("out") as outbox,
        other.consumer("out") as sink,
    ):
        record = source.allocate_array((10, 10), "f8")
        array = record.array()
        array[:] = np.arange(100).reshape(10, 10)
        outbox.send_record(record)
        assert array[9, 9] == 99
        received = sink.recv_array(timeout=5)
        assert received.sum() == 4950
        source.send_object({"a": [1, 2]})
        outbox.send_record(inbox.recv_record(timeout=5))
        assert sink.recv_object(timeout=5) == {"a": [1, 2]}
    del received, array
    gc.collect()
    assert one.statistics().records == 0


def test_a_record_outlives_the_attachment_it_came_from(
    pair: tuple[ipcheap.Heap, ipcheap.Heap],
) -> None:
    one, other = pair
    record = one.allocate_record(8)
    record[:] = b"12345678"
    one.close()
    with other.producer("out") as producer, other.consumer("out") as consumer:
        producer.send_record(record)
        assert consumer.recv(timeout=5) == b"12345678"
    assert other.statistics().records == 0


def test_another_heap_refuses_the_record(heap_name: str) -> None:
    with (
        ipcheap.Heap.create(heap_name, "1MiB") as one,
        ipcheap.Heap.create(shm="memfd", capacity="1MiB") as other,
    ):
        other.add_record_channel("c", 4)
        record = one.allocate_record(8)
        with other.producer("c") as producer, pytest.raises(ipcheap.RecordError, match="another"):
            producer.send_record(record)
        record.free()
        assert one.statistics().records == 0

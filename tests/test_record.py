"""Records: their memory, its lifetime, and what must not be done with them."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import threading
import weakref
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import threads

import ipcheap
from ipcheap._core import use_records
from ipcheap.record import DEBUG, debug

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def heap() -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(None, "4MiB", shm="memfd") as heap:
        heap.add_record_channel("a", 8)
        yield heap
        assert heap.check() == []


@pytest.mark.parametrize("nbytes", [0, 1, 64, 4096, 100_000, 3_900_000])
def test_a_record_is_as_long_as_asked_for(heap: ipcheap.Heap, nbytes: int) -> None:
    with heap.allocate_record(nbytes) as record:
        assert len(record) == record.nbytes == record.view.nbytes == nbytes
        assert not record.view.readonly
        record.view[:] = bytes(i & 255 for i in range(nbytes))
        assert bytes(record) == record.array().tobytes() == record.view.tobytes()
    assert heap.statistics().in_use == 0


@pytest.mark.parametrize("nbytes", [0, 1, 64, 100_000, 1_000_000])
def test_bytes_of_a_record_are_a_copy(heap: ipcheap.Heap, nbytes: int) -> None:
    data = bytes(i * 7 & 255 for i in range(nbytes))
    record = heap.allocate_record(nbytes)
    record[:] = data
    copy = bytes(record)
    record[:] = bytes(nbytes)
    assert copy == data
    assert type(copy) is bytes
    record.free()
    with pytest.raises(ipcheap.RecordError, match="freed"):
        bytes(record)
    assert copy == data


def test_a_record_freed_while_it_is_copied_stays_until_the_copy_is_done(heap: ipcheap.Heap) -> None:
    """Long copies release the GIL."""
    for _ in range(100):
        record = heap.allocate_record(1_000_000)
        record[:] = b"x" * 1_000_000
        with threads.run(record.free):
            try:
                assert bytes(record) == b"x" * 1_000_000
            except ipcheap.RecordError:
                pass
            with heap.allocate_record(1_000_000) as other:
                other[:] = b"y" * 1_000_000
    assert heap.statistics().in_use == 0


@pytest.mark.parametrize("nbytes", [0, 100, 300_000])
def test_whatever_takes_bytes_takes_a_record(
    heap: ipcheap.Heap, nbytes: int, tmp_path: Path
) -> None:
    data = bytes(i & 255 for i in range(nbytes))
    with heap.allocate_record(nbytes) as record:
        record[:] = data
        assert memoryview(record) == data
        assert memoryview(record).format == "B"
        assert hashlib.sha256(record).digest() == hashlib.sha256(data).digest()
        (tmp_path / "copy").write_bytes(record)
        assert (tmp_path / "copy").read_bytes() == data
        assert b"".join([record, b"end"]) == data + b"end"
        assert np.asarray(record).tobytes() == data
        with (tmp_path / "copy").open("rb", buffering=0) as file:
            record[:] = bytes(nbytes)
            assert file.readinto(record) == nbytes
        assert bytes(record) == data
        view = memoryview(record)
    assert view == data  # freed, and kept by its view
    with pytest.raises(ipcheap.RecordError, match="freed"):
        memoryview(record)
    assert heap.statistics().in_use > 0
    del view
    assert heap.statistics().in_use == 0


def test_a_bad_length_is_refused(heap: ipcheap.Heap) -> None:
    for bad in (-1, 2**64):
        with pytest.raises(ValueError, match="nbytes"):
            heap.allocate_record(bad)
    kinds: list[Any] = ["8", 1.5, None]
    for kind in kinds:
        with pytest.raises(TypeError):
            heap.allocate_record(kind)


def test_an_array_aliases_the_record(heap: ipcheap.Heap) -> None:
    with heap.allocate_record(48) as record:
        record.array("f8", (2, 3))[:] = [[1, 2, 3], [4, 5, 6]]
        assert record.array("f8").tolist() == [1, 2, 3, 4, 5, 6]
        assert record.array("f8", (-1, 2)).shape == (3, 2)
        assert record.array([("x", "i4"), ("y", "i4")]).shape == (6,)
        assert np.asarray(record).shape == (48,)


def test_an_array_that_does_not_fit_is_refused(heap: ipcheap.Heap) -> None:
    with heap.allocate_record(10) as record:
        for dtype, shape in (("f8", None), ("u1", (3, 4)), ("u1", 9), ("V0", None)):
            with pytest.raises(ValueError):  # noqa: PT011
                record.array(dtype, shape)
        with pytest.raises(TypeError):
            record.array(object)


def test_a_block_goes_back_with_its_last_view(heap: ipcheap.Heap) -> None:
    record = heap.allocate_record(1000)
    view = record.view
    array = record.array()[10:]
    record.free()
    array[:] = 1
    assert heap.statistics().records == 1
    del view
    assert heap.statistics().records == 1
    del array
    assert heap.statistics().records == 0


def test_a_view_outlives_record_heap_and_name(heap_name: str) -> None:
    heap = ipcheap.Heap.create(heap_name, "1MiB")
    record = heap.allocate_record(1000)
    array = record.array("u2")
    array[:] = 7
    heap.close()
    heap.unlink()
    del heap
    record.free()
    del record
    gc.collect()
    array += 1
    assert array.sum() == 4000


def test_a_record_can_be_freed_after_the_heap_was_closed(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as other:
        heap = ipcheap.Heap.attach(heap_name)
        record = heap.allocate_record(1000)
        heap.close()
        assert other.statistics().records == 1
        record.free()
        assert other.statistics().records == 0


def test_a_record_left_to_the_collector_is_freed(heap: ipcheap.Heap) -> None:
    record = heap.allocate_record(1000)
    array = record.array()
    gone = weakref.ref(record)
    del record
    assert gone() is None
    assert heap.statistics().records == 1
    del array
    assert heap.statistics().records == 0


def test_after_free_everything_is_refused(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, heap.allocate_record(8) as record:
        record.free()
        with pytest.raises(ipcheap.RecordError, match="freed twice"):
            record.free()
        for use in (record.keep, record.array, lambda: record.view, lambda: record.nbytes):
            with pytest.raises(ipcheap.RecordError, match="freed"):
                use()
        with pytest.raises(ipcheap.RecordError, match="freed"):
            producer.send_record(record)
        assert "freed" in repr(record)


def test_after_sending_everything_is_refused(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, producer.allocate_record(8) as record:
        view = record.view
        producer.send_record(record)
        with pytest.raises(ipcheap.RecordError, match="sent twice"):
            producer.send_record(record)
        with pytest.raises(ipcheap.RecordError, match="sent"):
            record.free()
        del view
        assert heap.statistics().records == 1


def test_what_is_not_a_record_is_not_sent(heap: ipcheap.Heap) -> None:
    thing: Any = b"bytes"
    with heap.producer("a") as producer:
        with pytest.raises(TypeError):
            producer.send_record(thing)
        with pytest.raises(TypeError):
            producer.send(1)
        with pytest.raises(ValueError, match="one piece"):
            producer.send(memoryview(b"abcdef")[::2])


def test_a_record_of_another_heap_is_not_sent(heap: ipcheap.Heap) -> None:
    with (
        ipcheap.Heap.create(None, "1MiB", shm="memfd") as other,
        other.allocate_record(8) as record,
        heap.producer("a") as producer,
    ):
        with pytest.raises(ipcheap.RecordError, match="another heap"):
            producer.send_record(record)
        assert record.nbytes == 8


def test_a_kept_record_stays_beyond_its_consumer(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer:
        producer.send(b"kept")
        producer.send(b"freed")
        with heap.consumer("a") as consumer:
            with consumer.recv_record() as record:
                record.keep()
            consumer.recv_record().free()
            assert consumer.statistics().held == 0
        assert bytes(record) == b"kept"
        record.free()
    assert heap.statistics().in_use == 0


def test_a_record_may_be_freed_by_another_thread(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        producer.send(b"x" * 100)
        producer.send(b"y" * 100)
        received, array = consumer.recv_record(), consumer.recv_record().array()
        box = [heap.allocate_record(100), received, array]
        del array, received
        thread = threading.Thread(target=box.clear)
        thread.start()
        thread.join()
        assert consumer.statistics().held == 0
    assert heap.statistics().in_use == 0


def test_views_of_a_received_record_hold_its_slot(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        producer.send(b"abc")
        view = consumer.recv_record().view
        assert consumer.statistics().held == 1
        consumer.close()
        assert bytes(view) == b"abc"
        del view
    assert heap.statistics().in_use == 0


@pytest.mark.usefixtures("debugging")
def test_debugging_refuses_to_send_what_has_views(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, producer.allocate_record(8) as record:
        array = record.array()
        with pytest.raises(BufferError, match="live views"):
            producer.send_record(record)
        array[:] = 5
        del array
        producer.send_record(record)
        with heap.consumer("a") as consumer:
            assert consumer.recv() == b"\5" * 8


def test_allocate_records_gives_all_or_none(heap: ipcheap.Heap) -> None:
    records = heap.producer("a")
    with records as producer:
        some = producer.allocate_records(1000, 100)
        assert len({record.array().ctypes.data for record in some}) == 100
        with pytest.raises(ipcheap.HeapFull):
            producer.allocate_records(100_000, 100)
        assert heap.statistics().records == 100
        assert producer.allocate_records(8, 0) == []
        del some
    assert heap.statistics().records == 0


def test_a_record_forwarded_is_the_same_memory(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("b", 8)
    with (
        heap.producer("a") as first,
        heap.consumer("a") as middle,
        heap.producer("b") as second,
        heap.consumer("b") as last,
    ):
        record = first.allocate_record(64)
        where = record.array().ctypes.data
        first.send_record(record)
        second.send_record(middle.recv_record())
        received = last.recv_record()
        assert received.array().ctypes.data == where
        assert middle.statistics().held == 0
        received.free()


def test_iteration_frees_a_record_when_the_next_is_asked_for(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        for number in range(5):
            producer.send(bytes([number]))
        seen = []
        for record in consumer:
            assert consumer.statistics().held == 1
            seen.append(record)
            if len(seen) == 2:
                record.keep()
            if len(seen) == 3:
                record.free()
            if len(seen) == 4:
                break
        assert bytes(seen[1]) == b"\1"
        assert bytes(seen[3]) == b"\3"
        with pytest.raises(ipcheap.RecordError):
            bytes(seen[0])
        seen[1].free()
        seen[3].free()
        producer.close()
        assert [bytes(record) for record in consumer] == [b"\4"]
    assert heap.statistics().in_use == 0


def test_a_freed_record_gives_its_slot_back_while_views_are_left() -> None:
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        heap.add_record_channel("c", 1)
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            producer.send(b"first")
            record = consumer.recv_record(timeout=5)
            view = record.view
            record.free()
            producer.send(b"second", timeout=5)
            assert consumer.recv(timeout=5) == b"second"
            assert bytes(view) == b"first"
            assert heap.statistics().records == 1
            del view
            assert heap.statistics().records == 0


def test_what_no_heap_made_is_refused() -> None:
    """The types in C hold pointers, and never trust that these are there."""
    with pytest.raises(TypeError):
        ipcheap.Record()
    with pytest.raises(TypeError):
        object.__new__(ipcheap.Record)
    producer = ipcheap.Producer.__new__(ipcheap.Producer)
    consumer = ipcheap.Consumer.__new__(ipcheap.Consumer)
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        record = heap.allocate_record(1)
        calls: list[Callable[[], object]] = [
            lambda: producer.send(b"a"),
            lambda: producer.send_many([b"a"]),
            lambda: producer.send_record(record),
            lambda: producer.try_send_record(record),
            lambda: producer.send_records([record]),
            lambda: producer.allocate_record(1),
            consumer.recv,
            consumer.recv_many,
            consumer.recv_record,
            consumer.try_recv_record,
            consumer.recv_array,
            lambda: consumer.recv_records(1),
        ]
        for call in calls:
            with pytest.raises((AttributeError, TypeError, ipcheap.EndpointClosed)):
                call()
        record.free()
    with pytest.raises(TypeError):
        producer._bind(0, object(), heap)  # type: ignore[arg-type]


def test_a_batch_half_copied_is_nobody_elses(heap: ipcheap.Heap) -> None:
    """Copying long messages releases the GIL: calls from other threads still raise WrongThread."""
    done = threading.Event()
    refused = 0

    def take_some() -> None:
        nonlocal refused
        while not done.is_set():
            for receive in (consumer.try_recv_record, lambda: consumer.recv_many(2, 0)):
                with pytest.raises(ipcheap.WrongThread, match=r"thread '.+', which claimed it"):
                    receive()
                refused += 1

    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        messages = [bytes([n]) * (512 << 10) for n in range(6)]
        with threads.run(take_some), contextlib.ExitStack() as finally_do:
            finally_do.callback(done.set)
            for _ in range(50):
                producer.send_many(messages)
                found: list[bytes] = []
                while len(found) < len(messages):
                    found += consumer.recv_many()
                assert found == messages
    assert refused


def test_what_memory_has_given_out_for_comes_next(heap: ipcheap.Heap) -> None:
    """A record for which no object could be made is not lost, nor are those before it."""
    made = 0

    def run_out(_: object) -> None:
        nonlocal made
        made += 1
        if made == 3:
            raise MemoryError

    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        producer.send_many([b"1", b"2", b"3", b"4"])
        use_records(ipcheap.Record, run_out)
        try:
            first = consumer.recv_records(10)
        finally:
            debug(DEBUG)
        rest = [consumer.recv(timeout=0), consumer.recv(timeout=0)]
        assert [bytes(record) for record in first] == [b"1", b"2"]
        assert rest == [b"3", b"4"]
        for record in first:
            record.free()


def test_a_record_has_items_as_its_view_does(heap: ipcheap.Heap) -> None:
    with heap.allocate_record(6) as record:
        record[:] = b"abcdef"
        assert bytes(record) == b"abcdef"
        assert record[0] == record[-6] == ord("a")
        assert bytes(record[1:3]) == b"bc"
        assert bytes(record[::2]) == b"ace"
        record[1] = ord("B")
        record[2:4] = bytearray(b"CD")
        record[-2:] = b"EF"
        record[::5] = b"AF"
        assert list(record) == list(b"ABCDEF")
        assert ord("C") in record
        part = record[2:4]
        assert isinstance(part, memoryview)
        part[0] = 0
        assert record[2] == 0


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        (6, 1, IndexError),
        (-7, 1, IndexError),
        (1 << 70, 1, IndexError),
        (0, 256, ValueError),
        (0, b"a", TypeError),
        (slice(None), b"abcde", ValueError),
        (slice(0, 2), b"abc", ValueError),
        (slice(0, 6, 0), b"", ValueError),
        (slice(None), "abcdef", TypeError),
        ("a", 1, TypeError),
    ],
)
def test_items_that_are_not_there(
    heap: ipcheap.Heap, key: Any, value: Any, error: type[Exception]
) -> None:
    with heap.allocate_record(6) as record:
        record[:] = b"abcdef"
        with pytest.raises(error):
            record[key] = value
        with pytest.raises(TypeError):
            del record[key]  # type: ignore[attr-defined]
        assert bytes(record) == b"abcdef"
        if not isinstance(key, slice) and key != 0:
            with pytest.raises(error):
                record[key]


@pytest.mark.parametrize("nbytes", [0, 1, 64 << 10, (64 << 10) + 1, 1 << 20])
def test_a_record_is_filled_in_one_go(heap: ipcheap.Heap, nbytes: int) -> None:
    data = bytes(range(256)) * (nbytes // 256 + 1)
    with heap.allocate_record(nbytes) as record:
        record[:] = data[:nbytes]
        assert bytes(record) == data[:nbytes]


@pytest.mark.parametrize("nbytes", [48, 48 << 10, 480 << 10])
def test_what_can_be_sent_can_be_assigned(heap: ipcheap.Heap, nbytes: int) -> None:
    data = bytes(range(48)) * (nbytes // 48)
    frame = np.frombuffer(data, "u1").reshape(4, -1, 3)
    whole: list[Any] = [
        bytearray(data),
        memoryview(data),
        frame,
        np.frombuffer(data, "f8"),
        array("h", data),
    ]
    with heap.allocate_record(nbytes) as record:
        for each in whole:
            record[:] = bytes(nbytes)
            record[:] = each
            assert bytes(record) == data
        with heap.allocate_record(nbytes) as other:
            other[:] = record
            assert bytes(other) == data
        record[:4] = np.frombuffer(b"ABCD", "i4")
        assert bytes(record) == b"ABCD" + data[4:]
        record[:] = data
        for bad in (frame[:, :, ::-1], frame[:2], "text" * (nbytes // 4), [0] * nbytes):
            with pytest.raises((ValueError, TypeError, NotImplementedError)):
                record[:] = bad
        assert bytes(record) == data


@pytest.mark.parametrize("nbytes", [10, 100_000])
@pytest.mark.parametrize("by", [0, 1, 5, -1, -5])
def test_a_record_is_moved_within_itself(heap: ipcheap.Heap, nbytes: int, by: int) -> None:
    data = bytes(i % 251 for i in range(nbytes))
    with heap.allocate_record(nbytes) as record:
        record[:] = data
        if by >= 0:
            record[by:] = record[: nbytes - by]
            assert bytes(record) == data[:by] + data[: nbytes - by]
        else:
            record[:by] = record[-by:]
            assert bytes(record) == data[-by:] + data[by:]


def test_what_an_index_does_meanwhile_is_seen(heap: ipcheap.Heap) -> None:
    class Freeing:
        def __index__(self) -> int:
            record.free()
            return 0

    record = heap.allocate_record(4)
    with pytest.raises(ipcheap.RecordError):
        record[Freeing() :] = b"abcd"
    for use in (lambda: record[0], lambda: record[:], lambda: iter(record), lambda: len(record)):
        with pytest.raises(ipcheap.RecordError):
            use()

"""Mistakes: each raises its own error, which names its object, and changes nothing."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
from functools import partial
from typing import TYPE_CHECKING, Any

import kinds
import peers
import pytest
import threads
import workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("c", 4)
        heap.add_static_segment("s", 128)
        yield heap


@contextlib.contextmanager
def refused(
    heap: ipcheap.Heap, error: type[Exception], *words: str
) -> Iterator[pytest.ExceptionInfo[Exception]]:
    """Expect an error whose text has these words, and an unchanged heap."""

    def state() -> tuple[ipcheap.HeapStatistics, set[int | str]]:
        # Memory that was committed for a call refused half-way may stay.
        return dataclasses.replace(heap.statistics(), committed=0), set(heap.channels)

    before = state()
    with pytest.raises(error) as caught:
        yield caught
    assert caught.type is error
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert state() == before
    assert heap.check() == []


# Records ----------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [0, 8, 100_000])
def test_freed_twice(heap: ipcheap.Heap, heap_name: str, nbytes: int) -> None:
    record = heap.allocate_record(nbytes)
    record.free()
    with refused(heap, ipcheap.RecordError, heap_name, "freed"):
        record.free()
    with heap.allocate_record(nbytes) as other:  # and that block is not handed out twice
        assert heap.statistics().records == 1
        with refused(heap, ipcheap.RecordError, heap_name, "freed"):
            record.free()
        other.view[:] = b"o" * nbytes


@pytest.mark.parametrize("nbytes", [0, 8, 100_000])
def test_sent_twice(heap: ipcheap.Heap, heap_name: str, nbytes: int) -> None:
    with heap.producer("c") as producer:
        record = producer.allocate_record(nbytes)
        producer.send_record(record)
        for send in (
            lambda: producer.send_record(record, timeout=0),
            lambda: producer.try_send_record(record),
            lambda: producer.send_records([record], timeout=0),
        ):
            with refused(heap, ipcheap.RecordError, heap_name, "sent"):
                send()
        fresh = producer.allocate_record(nbytes)
        with refused(heap, ipcheap.RecordError, "twice"):
            producer.send_records([fresh, fresh], timeout=0)
        fresh.free()
        with heap.consumer("c") as consumer:
            assert consumer.pending == 1


def test_sent_and_then_used(heap: ipcheap.Heap, heap_name: str) -> None:
    with heap.producer("c") as producer:
        record = producer.allocate_record(8)
        producer.send_record(record)
        for use in (
            record.free,
            record.keep,
            lambda: record.view,
            record.array,
            lambda: record.nbytes,
            lambda: bytes(record),
            record.__enter__,
        ):
            with refused(heap, ipcheap.RecordError, heap_name, "sent"):
                use()


def test_freed_and_then_sent(heap: ipcheap.Heap, heap_name: str) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        producer.send(b"received")
        record = consumer.recv_record(timeout=5)
        record.free()
        with refused(heap, ipcheap.RecordError, heap_name, "freed"):
            producer.send_record(record)
        assert consumer.pending == 0


def test_a_record_of_another_heap(heap: ipcheap.Heap, heap_name: str) -> None:
    other_name = f"{heap_name}.other"
    try:
        with ipcheap.Heap.create(other_name, "1MiB") as other, heap.producer("c") as producer:
            record = other.allocate_record(8)
            record.view[:] = b"stranger"
            before = other.statistics()
            for send in (
                lambda: producer.send_record(record, timeout=0),
                lambda: producer.try_send_record(record),
                lambda: producer.send_records([record], timeout=0),
            ):
                with refused(heap, ipcheap.RecordError, heap_name):
                    send()
            with refused(heap, ipcheap.RecordError, heap_name, other_name):
                producer.send_record(record, timeout=0)
            assert bytes(record) == b"stranger"
            assert other.statistics() == before
            record.free()
            assert other.statistics().records == 0
    finally:
        kinds.forget(other_name)


@pytest.mark.parametrize(
    "thing",
    ["text", 5, None, 3.5, [b"x"], memoryview(bytes(8))[::2]],
    ids=lambda x: type(x).__name__,
)
def test_what_is_not_bytes_is_not_sent(heap: ipcheap.Heap, thing: object) -> None:
    with heap.producer("c") as producer:
        error = ValueError if isinstance(thing, memoryview) else TypeError
        with refused(heap, error):
            producer.send(thing, timeout=0)
        with refused(heap, error):
            producer.send_many([thing], timeout=0)
        with refused(heap, TypeError):
            producer.send_record(thing, timeout=0)  # type: ignore[arg-type]


# Sizes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("nbytes", [-1, -(2**63), 2**64])
def test_a_size_out_of_range(heap: ipcheap.Heap, nbytes: int) -> None:
    with refused(heap, ValueError, str(nbytes)):
        heap.allocate_record(nbytes)
    with heap.producer("c") as producer, refused(heap, ValueError):
        producer.allocate_records(nbytes, 2)
    if nbytes < 0:
        with refused(heap, ValueError, str(nbytes)):
            heap.add_static_segment("new", nbytes)
        with refused(heap, ValueError, str(nbytes)):
            heap.add_record_channel("new", nbytes)


@pytest.mark.parametrize("nbytes", ["8", 8.0, None, b"8"], ids=repr)
def test_a_size_of_another_type(heap: ipcheap.Heap, nbytes: Any) -> None:
    with refused(heap, TypeError):
        heap.allocate_record(nbytes)


@pytest.mark.parametrize("nbytes", [(1 << 20) + 1, 1 << 30, 2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_more_than_the_heap_holds(heap: ipcheap.Heap, heap_name: str, nbytes: int) -> None:
    with refused(heap, ipcheap.HeapFull, heap_name, "1.0 MiB", "free"):
        heap.allocate_record(nbytes)
    if nbytes < 2**63:
        with refused(heap, ipcheap.HeapFull, heap_name):
            heap.add_static_segment("new", nbytes)


def test_all_records_or_none(heap: ipcheap.Heap, heap_name: str) -> None:
    with heap.producer("c") as producer:
        with refused(heap, ipcheap.HeapFull, heap_name):
            producer.allocate_records(40_000, 100)
        with refused(heap, ValueError, "-1"):
            producer.allocate_records(8, -1)
        assert producer.allocate_records(8, 0) == []


@pytest.mark.parametrize(
    ("capacity", "error"),
    [
        *(
            (capacity, ValueError)
            for capacity in (0, -1, 65_535, 2**70, "", "big", "1XiB", "-1MiB")
        ),
        *((capacity, TypeError) for capacity in (1e6, None, b"1MiB", True)),
    ],
)
def test_a_capacity_that_is_none(heap_name: str, capacity: Any, error: type[Exception]) -> None:
    for make in (ipcheap.Heap.create, ipcheap.Heap.open):
        with pytest.raises(error):
            make(heap_name, capacity)
    with pytest.raises(ipcheap.HeapNotFound):
        ipcheap.Heap.attach(heap_name)


# Names ------------------------------------------------------------------------------------

TRICKS = ["", ".", "..", ".hidden", "../x", "a/../x", "/..", "x/", "a b", "a\0b", "é", "x" * 201]
TRICKS += ["a\n", "~x", "*", "$x", "a:b", "\\x", "/dev/shm/../../tmp/x/..", "./../x"]


@pytest.mark.parametrize("name", TRICKS, ids=ascii)
@pytest.mark.parametrize("shm", ["posix", "sysv", "file"])
def test_a_bad_name(name: str, shm: str) -> None:
    before = sorted(os.listdir("/dev/shm/.."))
    calls: list[Callable[[], object]] = [
        lambda: ipcheap.Heap.create(name, "64KiB", shm=shm),
        lambda: ipcheap.Heap.open(name, "64KiB", shm=shm),
        lambda: ipcheap.Heap.attach(name),
        lambda: ipcheap.unlink(name),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="heap") as caught:
            call()
        assert caught.type is ValueError
    assert sorted(os.listdir("/dev/shm/..")) == before


@pytest.mark.parametrize("name", [5, b"x", 1.5, ["x"]], ids=repr)
def test_a_name_that_is_no_text(name: Any) -> None:
    for call in (ipcheap.Heap.create, ipcheap.Heap.open, ipcheap.Heap.attach, ipcheap.unlink):
        with pytest.raises(TypeError):
            call(name)


@pytest.mark.parametrize("shm", ["posix", "sysv"])
def test_a_path_is_for_files_only(tmp_path: Path, shm: str) -> None:
    with pytest.raises(ValueError, match="file"):
        ipcheap.Heap.create(str(tmp_path / "x"), "64KiB", shm=shm)
    assert os.listdir(tmp_path) == []


def test_a_file_without_a_path(heap_name: str) -> None:
    with pytest.raises(ValueError, match=heap_name):
        ipcheap.Heap.create(heap_name, "64KiB", shm="file")


def test_a_kind_that_there_is_not(heap_name: str) -> None:
    bad: list[tuple[str, Any]] = [("shm", "mmap"), ("sem", "spin"), ("mode", 0o1777), ("mode", -1)]
    for option, value in bad:
        with pytest.raises(ValueError, match=option):
            ipcheap.Heap.create(heap_name, "64KiB", **{option: value})
    bad = [("shm", 1), ("sem", None), ("mode", "rw")]
    for option, value in bad:
        with pytest.raises(TypeError):
            ipcheap.Heap.create(heap_name, "64KiB", **{option: value})
    with pytest.raises(ipcheap.HeapNotFound):
        ipcheap.unlink(heap_name)


# Channels ---------------------------------------------------------------------------------


@pytest.mark.parametrize("channel_id", ["nowhere", 5, 2**63 - 1])
def test_an_unknown_channel(heap: ipcheap.Heap, heap_name: str, channel_id: int | str) -> None:
    for call in (heap.channel, heap.producer, heap.consumer, heap.remove_channel):
        with refused(heap, ipcheap.ChannelNotFound, heap_name, repr(channel_id)) as caught:
            call(channel_id)
        assert isinstance(caught.value, KeyError)
        assert not str(caught.value).startswith(("'", '"'))
    with refused(heap, ipcheap.ChannelNotFound, heap_name, repr(channel_id)):
        _ = heap.channels[channel_id]
    for call in (heap.channel, heap.producer, heap.consumer):
        with refused(heap, ipcheap.ChannelNotFound):
            call(channel_id, timeout=0.02)
    assert channel_id not in heap.channels


@pytest.mark.parametrize(
    ("channel_id", "error"),
    [
        *((bad, ValueError) for bad in (-1, 2**63, 2**64, "", "x" * 49, "é" * 25)),
        *((bad, TypeError) for bad in (1.0, None, b"c", True, ("c",))),
    ],
)
def test_a_bad_channel_id(heap: ipcheap.Heap, channel_id: Any, error: type[Exception]) -> None:
    calls: list[Callable[[], object]] = [
        lambda: heap.add_record_channel(channel_id, 4),
        lambda: heap.add_static_segment(channel_id, 64),
        lambda: heap.channel(channel_id),
        lambda: heap.producer(channel_id),
        lambda: heap.consumer(channel_id),
        lambda: heap.remove_channel(channel_id),
    ]
    for call in calls:
        with refused(heap, error):
            call()


def test_the_wrong_kind_of_channel(heap: ipcheap.Heap, heap_name: str) -> None:
    for claim in (heap.producer, heap.consumer):
        with refused(heap, ipcheap.ChannelTypeError, heap_name, "'s'", "static segment of 128"):
            claim("s")
    with refused(heap, ipcheap.ChannelTypeError, heap_name, "'s'", "static segment of 128"):
        heap.add_record_channel("s", 4)
    with refused(heap, ipcheap.ChannelTypeError, heap_name, "'c'", "record channel of 4 slots"):
        heap.add_static_segment("c", 128)


@pytest.mark.parametrize("side", ["producer", "consumer"])
def test_a_taken_side(heap: ipcheap.Heap, heap_name: str, side: str) -> None:
    claim = getattr(heap, side)
    with claim("c"):
        with refused(heap, ipcheap.ChannelBusy, heap_name, "'c'", side, f"pid {os.getpid()}"):
            claim("c")
        with refused(heap, ipcheap.ChannelBusy):
            claim("c", timeout=0.02)
        with pytest.raises(ipcheap.ChannelBusy):
            threads.call(lambda: claim("c"))
        heap.recover()
    claim("c").close()


@pytest.mark.parametrize("side", ["producer", "consumer"])
def test_a_side_that_another_process_has_taken(
    heap: ipcheap.Heap, heap_name: str, side: str
) -> None:
    with peers.run(workers.hold_side, heap, "c", side) as peer:
        thread = peer.hear()
        words = (heap_name, "'c'", side, f"pid {peer.pid}", f"thread {thread}")
        with refused(heap, ipcheap.ChannelBusy, *words):
            getattr(heap, side)("c")
        peer.tell("close")
        peer.hear()
        peer.tell("go")


# What is closed ---------------------------------------------------------------------------


def test_a_closed_heap(heap_name: str) -> None:
    heap = ipcheap.Heap.create(heap_name, "1MiB")
    heap.add_record_channel("c", 4)
    record = heap.allocate_record(8)
    heap.close()
    assert heap.closed
    calls: list[Callable[[], object]] = [
        lambda: heap.allocate_record(8),
        lambda: heap.add_record_channel("d", 4),
        lambda: heap.add_static_segment("s", 64),
        lambda: heap.channel("c"),
        lambda: heap.producer("c"),
        lambda: heap.consumer("c"),
        lambda: heap.remove_channel("c"),
        lambda: list(heap.channels),
        lambda: heap.channels["c"],
        lambda: len(heap.channels),
        heap.statistics,
        heap.trim,
        heap.check,
        heap.recover,
        heap.__enter__,
        lambda: pickle.dumps(heap),
    ]
    for call in calls:
        with pytest.raises(ipcheap.HeapClosed, match=heap_name) as caught:
            call()
        assert isinstance(caught.value, ValueError)
    heap.close()
    record.free()
    assert (heap.name, heap.capacity, heap.shm, heap.sem) == (heap_name, 1 << 20, "posix", "futex")
    with ipcheap.Heap.attach(heap_name) as again:
        assert list(again.channels) == ["c"]
        assert again.statistics().records == 0


def test_a_closed_endpoint(heap: ipcheap.Heap, heap_name: str) -> None:
    producer, consumer = heap.producer("c"), heap.consumer("c")
    record = producer.allocate_record(8)
    for endpoint in (producer, consumer):
        for _ in range(2):
            endpoint.close()
            assert endpoint.closed
    calls: list[Callable[[], object]] = [
        lambda: producer.send(b"x"),
        lambda: producer.send(b"x", timeout=0),
        lambda: producer.send_many([b"x"]),
        lambda: producer.send_record(record),
        lambda: producer.try_send_record(record),
        lambda: producer.send_records([record]),
        lambda: producer.wait_peer(timeout=0),
        lambda: consumer.recv(timeout=0),
        lambda: consumer.recv_many(timeout=0),
        lambda: consumer.recv_record(timeout=0),
        consumer.try_recv_record,
        lambda: consumer.recv_records(1, timeout=0),
        lambda: next(iter(consumer)),
    ]
    for call in calls:
        with refused(heap, ipcheap.EndpointClosed, heap_name, "'c'"):
            call()
    record.free()
    assert heap.statistics().records == 0


# Other threads and timeouts ---------------------------------------------------------------


def test_another_thread(heap: ipcheap.Heap, heap_name: str) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        producer.send(b"1")
        record = producer.allocate_record(8)
        calls: list[Callable[[], object]] = [
            lambda: producer.send(b"2"),
            lambda: producer.send_many([b"2"]),
            lambda: producer.send_record(record),
            lambda: producer.try_send_record(record),
            lambda: producer.send_records([record]),
            lambda: producer.wait_peer(timeout=5),
            producer.close,
            lambda: consumer.recv(timeout=5),
            lambda: consumer.recv_many(timeout=5),
            lambda: consumer.recv_record(timeout=5),
            consumer.try_recv_record,
            lambda: consumer.recv_records(2, timeout=5),
            lambda: next(iter(consumer)),
            consumer.close,
        ]
        before = heap.statistics().records
        for call in calls:
            with pytest.raises(RuntimeError, match=heap_name) as caught:
                threads.call(call)
            assert caught.type is ipcheap.WrongThread
            assert "'c'" in str(caught.value)
        heap.recover()
        assert heap.statistics().records == before
        producer.send_record(record)
        assert consumer.pending == 2
        assert consumer.recv(timeout=0) == b"1"
        consumer.recv_record(timeout=0).free()


def test_a_record_may_be_freed_and_sent_by_any_thread(heap: ipcheap.Heap) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        for nbytes in (8, 100_000):
            threads.call(heap.allocate_record(nbytes).free)
            producer.send(bytes(nbytes))
            threads.call(consumer.recv_record(timeout=0).free)
            producer.send_record(threads.call(partial(heap.allocate_record, nbytes)))
            consumer.recv_record(timeout=0).free()
        assert heap.statistics().records == 0
        assert heap.check() == []


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (float("nan"), ValueError), ("1", TypeError), (b"", TypeError)],
)
def test_a_bad_timeout(heap: ipcheap.Heap, timeout: Any, error: type[Exception]) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        while producer.statistics().sent < 4:
            producer.send(b"")
        for call in (
            lambda: producer.send(b"", timeout=timeout),
            lambda: producer.send_many([b""], timeout=timeout),
            lambda: producer.wait_peer(timeout=timeout),
            lambda: heap.channel("d", timeout=timeout),
            lambda: heap.producer("d", timeout=timeout),
            lambda: ipcheap.Heap.attach("nowhere", timeout=timeout),
        ):
            with refused(heap, error):
                call()
        consumer.recv_many(timeout=0)
        for receive in (consumer.recv, consumer.recv_record):
            with refused(heap, error):
                receive(timeout=timeout)
        with refused(heap, error):
            consumer.recv_many(1, timeout)


@pytest.mark.parametrize("timeout", [0, 0.05])
def test_time_that_runs_out_changes_nothing(
    heap: ipcheap.Heap, heap_name: str, timeout: float
) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        record = producer.allocate_record(8)
        for receive in (
            lambda: consumer.recv(timeout=timeout),
            lambda: consumer.recv_record(timeout=timeout),
            lambda: consumer.recv_many(timeout=timeout),
            lambda: consumer.recv_records(3, timeout=timeout),
        ):
            with refused(heap, TimeoutError, heap_name, "'c'"):
                receive()
        producer.send_many([b"1", b"2", b"3", b"4"])
        for send in (
            lambda: producer.send(b"5", timeout=timeout),
            lambda: producer.send_record(record, timeout=timeout),
            lambda: producer.send_many([b"5", b"6"], timeout=timeout),
            lambda: producer.send_records([record], timeout=timeout),
        ):
            with refused(heap, TimeoutError, heap_name, "'c'"):
                send()
        assert not producer.try_send_record(record)
        assert consumer.recv(timeout=0) == b"1"
        with pytest.raises(TimeoutError, match=heap_name) as caught:
            producer.send_many([b"5", b"6"], timeout=timeout)
        assert vars(caught.value)["done"] == 1
        assert consumer.recv_many(timeout=0) == [b"2", b"3", b"4", b"5"]
        record.view[:] = b"in order"
        record.free()


# Heaps ------------------------------------------------------------------------------------


def test_a_name_that_is_taken(heap: ipcheap.Heap, heap_name: str) -> None:
    with refused(heap, ipcheap.HeapExists, heap_name, "open") as caught:
        ipcheap.Heap.create(heap_name, "2MiB")
    assert isinstance(caught.value, FileExistsError)


def test_a_heap_that_is_not_there(heap_name: str) -> None:
    for call in (ipcheap.Heap.attach, ipcheap.unlink):
        with pytest.raises(ipcheap.HeapNotFound, match=heap_name) as caught:
            call(heap_name)
        assert isinstance(caught.value, FileNotFoundError)


@pytest.mark.parametrize("content", [b"", b"hello", bytes(100_000), b"noise" * 9999], ids=len)
def test_something_else_under_the_path_is_left_untouched(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "precious"
    path.write_bytes(content)
    if content:
        for call in (
            lambda: ipcheap.Heap.attach(str(path)),
            lambda: ipcheap.Heap.create(str(path), "64KiB", shm="file"),
            lambda: ipcheap.Heap.open(str(path), "64KiB", shm="file"),
            lambda: ipcheap.unlink(str(path)),
        ):
            with pytest.raises(ipcheap.FormatMismatch, match="precious"):
                call()
    else:  # as a creator leaves it that was killed early
        with pytest.raises(ipcheap.HeapNotFound):
            ipcheap.Heap.attach(str(path))
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["precious"]


def test_something_else_under_the_name_is_left_untouched(heap_name: str) -> None:
    path = f"/dev/shm/ipcheap.{heap_name}"
    with open(path, "wb") as file:
        file.write(b"not a heap" * 1000)
    try:
        for call in (ipcheap.Heap.attach, ipcheap.Heap.create, ipcheap.Heap.open, ipcheap.unlink):
            with pytest.raises(ipcheap.FormatMismatch, match=heap_name):
                call(heap_name)
        assert os.stat(path).st_size == 10_000
        assert heap_name not in [info.name for info in ipcheap.heaps()]
    finally:
        os.unlink(path)

"""Heaps that travel into other processes, by pickle and by fork."""

from __future__ import annotations

import ctypes
import os
import pickle
import threading
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import kinds
import peers
import pytest
import workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

METHODS = ["spawn", "fork", "forkserver"]

# Later Pythons warn of fork in a process with threads, which test runners have.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("down", 16)
        heap.add_record_channel("up", 16)
        yield heap


def in_a_fork(function: Callable[[], Any], fork: Callable[[], int] = os.fork) -> Any:
    """Return what a function returned in a forked child, which ends without cleaning up."""
    reading, writing = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            outcome = function()
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
        os.write(writing, pickle.dumps(outcome))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        raw = pipe.read()
    os.waitpid(pid, 0)
    return pickle.loads(raw)


def error_of(function: Callable[[], Any]) -> str:
    """Return the name of the error that a function raises."""
    try:
        function()
    except Exception as error:
        return type(error).__name__
    return "none"


@pytest.mark.parametrize("method", METHODS)
def test_a_heap_is_an_argument_of_a_process(heap: ipcheap.Heap, method: str) -> None:
    with (
        peers.run_by(method, workers.use_in_child, heap) as peer,
        heap.producer("down") as producer,
        heap.consumer("up") as consumer,
    ):
        for number in range(100):
            producer.send(number.to_bytes(8, "little"), timeout=peers.PATIENCE)
            assert workers.number_of(consumer.recv(timeout=peers.PATIENCE)) == number
        producer.close()
        assert peer.result() == list(range(100))
    assert (heap.statistics().records, heap.check()) == (0, [])


@pytest.mark.parametrize("kind", [k for k in kinds.ALL if k.shm == "memfd"], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_heap_without_a_name_travels_too(
    method: str, kind: kinds.Kind, heap_name: str, tmp_path: Path
) -> None:
    with kinds.made(kind, heap_name, tmp_path) as heap:
        with peers.run_by(method, workers.pid_and_identity, heap) as peer:
            assert peer.result() == (peer.pid, heap.identity)
        with get_context(method).Pool(2) as pool:
            found = pool.map(workers.pid_and_identity, [heap] * 4, chunksize=1)
            pool.close()
            pool.join()
        assert {identity for _, identity in found} == {heap.identity}
        assert heap.statistics().participants == 1


def test_a_pickled_heap_is_that_heap_or_none(heap: ipcheap.Heap, heap_name: str) -> None:
    pickled = pickle.dumps(heap)
    with pickle.loads(pickled) as again:
        assert workers.describe(again) == workers.describe(heap)
    heap.unlink()
    with pytest.raises(ipcheap.HeapNotFound, match=heap_name):
        pickle.loads(pickled)
    with ipcheap.Heap.create(heap_name, "1MiB"), pytest.raises(ipcheap.HeapNotFound):
        pickle.loads(pickled)
    heap.close()
    with pytest.raises(ipcheap.HeapClosed):
        pickle.dumps(heap)


def test_channels_travel(heap: ipcheap.Heap) -> None:
    channel = pickle.loads(pickle.dumps(heap.channel("down")))
    assert isinstance(channel, ipcheap.RecordChannel)
    assert channel == heap.channel("down")
    with channel.producer() as producer, heap.consumer("down") as consumer:
        producer.send(b"x")
        assert consumer.recv(timeout=5) == b"x"
    channel.heap.close()


# Fork -----------------------------------------------------------------------------------


def test_a_forked_child_is_a_participant_of_its_own(heap: ipcheap.Heap) -> None:
    record = heap.allocate_record(100)
    before = heap.statistics()

    def child() -> tuple[int, int]:
        own = heap.allocate_record(1000)
        own.view[:] = b"c" * 1000
        statistics = heap.statistics()
        own.free()
        return statistics.participants, statistics.records

    assert in_a_fork(child) == (before.participants + 1, before.records + 1)
    record.free()
    heap.recover()
    after = heap.statistics()
    assert (after.participants, after.records) == (before.participants, before.records - 1)
    assert heap.check() == []


def test_a_forked_child_receives_through_its_own_endpoints(heap: ipcheap.Heap) -> None:
    with heap.producer("down") as producer:
        workers.give_numbers(producer, 0, 10)

        def child() -> list[int]:
            with heap.consumer("down") as consumer:
                found = [workers.number_of(data) for data in consumer.recv_many(timeout=5)]
            heap.close()
            return found

        assert in_a_fork(child) == list(range(10))
        workers.give_numbers(producer, 10, 1)
        with heap.consumer("down") as consumer:
            assert workers.number_of(consumer.recv(timeout=5)) == 10


def test_what_was_opened_before_the_fork_is_refused_after_it(heap: ipcheap.Heap) -> None:
    with heap.producer("down") as producer, heap.consumer("up") as consumer:
        producer.send(b"1")
        record = heap.allocate_record(8)
        record.view[:] = b"parent's"

        def child() -> list[str]:
            mine = heap.allocate_record(8)
            calls: list[Callable[[], Any]] = [
                lambda: producer.send(b"x"),
                lambda: producer.send_many([b"x"]),
                lambda: producer.send_record(mine),
                lambda: producer.try_send_record(mine),
                producer.close,
                lambda: consumer.recv(timeout=1),
                lambda: consumer.recv_many(timeout=1),
                consumer.try_recv_record,
                lambda: consumer.recv_record(timeout=1),
                consumer.close,
                record.free,
            ]
            return [error_of(call) for call in calls] + [error_of(mine.free)]

        assert in_a_fork(child) == ["WrongProcess"] * 11 + ["none"]
        assert bytes(record) == b"parent's"
        record.free()
        producer.send(b"2")
        with heap.consumer("down") as other:
            assert other.recv_many(timeout=5) == [b"1", b"2"]
    heap.recover()
    assert (heap.statistics().records, heap.check()) == (0, [])


def test_a_fork_that_python_does_not_see_counts_too(heap: ipcheap.Heap) -> None:
    with heap.producer("down") as producer:
        record = heap.allocate_record(8)

        def child() -> list[str]:
            calls = [producer.close, record.free, lambda: record.view]
            return [error_of(call) for call in calls] + [error_of(heap.allocate_record(8).free)]

        libc = ctypes.PyDLL(None)  # of another extension module, it might be
        assert in_a_fork(child, libc.fork) == ["WrongProcess"] * 3 + ["none"]
        record.free()
        producer.send(b"still")


def test_the_end_of_a_forked_child_ends_nothing_of_its_parents(heap: ipcheap.Heap) -> None:
    with heap.producer("down") as producer, heap.consumer("down") as consumer:
        for how in ("fork", "leave"):

            def child(how: str = how) -> str:
                heap.allocate_record(100_000)
                if how == "leave":
                    heap.close()
                return how

            assert in_a_fork(child) == how
            heap.recover()
            producer.send(b"still")
            assert consumer.recv(timeout=5) == b"still"
            with pytest.raises(TimeoutError):  # and not PeerDied
                consumer.recv(timeout=0.7)
    heap.recover()
    assert heap.statistics().records == 0


def test_a_fork_while_another_thread_works_leaves_a_heap_that_works(heap: ipcheap.Heap) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            heap.allocate_record(100_000).free()
            heap.allocate_record(100).free()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(30):

            def child() -> int:
                for nbytes in (100, 100_000) * 20:
                    heap.allocate_record(nbytes).free()
                return heap.statistics().capacity

            assert in_a_fork(child) == heap.capacity
    finally:
        stop.set()
        thread.join()
    heap.recover()
    assert (heap.statistics().records, heap.check()) == (0, [])


def test_children_that_come_and_go_leave_no_slots_taken(heap: ipcheap.Heap) -> None:
    for _ in range(300):
        assert in_a_fork(lambda: heap.allocate_record(100).nbytes) == 100
    heap.recover()
    assert heap.statistics().participants == 1
    assert (heap.statistics().records, heap.check()) == (0, [])


def test_threads_that_come_and_go_leave_no_slots_taken(heap: ipcheap.Heap) -> None:
    for _ in range(2000):
        thread = threading.Thread(target=lambda: heap.allocate_record(100).free())
        thread.start()
        thread.join()
    # A thread gives its slot back at its very end, which join() does not wait for.
    peers.until(lambda: heap.statistics().participants == 1)
    assert heap.statistics().recoveries == 0
    assert heap.check() == []

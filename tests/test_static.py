"""Static segments, atomics on them, and Event, Barrier and Lock."""

from __future__ import annotations

import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import peers
import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        yield heap


@pytest.fixture
def segment(heap: ipcheap.Heap) -> ipcheap.StaticSegment:
    return heap.add_static_segment("s", 4096)


def in_thread(function: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    return thread, results


def test_a_segment_is_zero_and_shared(heap: ipcheap.Heap, segment: ipcheap.StaticSegment) -> None:
    assert not any(segment.view)
    segment.array("u4", (2, 2))[:] = 7
    again = heap.channel("s")
    assert isinstance(again, ipcheap.StaticSegment)
    assert again == segment
    assert again.array("u4")[:5].tolist() == [7, 7, 7, 7, 0]
    heap.remove_channel("s")
    assert not any(heap.add_static_segment("s", 4096).view)


def test_an_initialiser_runs_once(heap: ipcheap.Heap) -> None:
    calls: list[int] = []

    def fail(view: memoryview) -> None:
        view[0] = 9
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        heap.add_static_segment("i", 64, init=fail)
    with pytest.raises(ipcheap.ChannelNotFound):
        heap.channel("i")

    def succeed(view: memoryview) -> None:
        view[1] = 5
        calls.append(1)

    heap.add_static_segment("i", 64, init=succeed)
    segment = heap.add_static_segment("i", 64, init=succeed)
    assert calls == [1]
    assert segment.view[:2].tolist() == [0, 5]


def test_a_second_adder_waits_for_the_initialiser(heap: ipcheap.Heap) -> None:
    started = threading.Event()

    def slowly(view: memoryview) -> None:
        started.set()
        time.sleep(0.2)
        view[0] = 42

    thread, _ = in_thread(lambda: heap.add_static_segment("i", 64, init=slowly))
    started.wait()
    assert "i" not in list(heap.channels)
    channel = heap.channel("i", timeout=5)
    assert isinstance(channel, ipcheap.StaticSegment)
    assert channel.view[0] == 42
    assert heap.add_static_segment("i", 64, init=slowly).view[0] == 42
    thread.join()


def initialise_and_die(name: str) -> None:
    def die(view: memoryview) -> None:
        view[0] = 1
        peers.die()

    ipcheap.Heap.attach(name).add_static_segment("i", 64, init=die)


def test_the_work_of_an_initialiser_that_died_is_redone(heap: ipcheap.Heap, heap_name: str) -> None:
    with peers.run(initialise_and_die, heap_name) as peer:
        assert peer.wait() == -signal.SIGKILL
    segment = heap.add_static_segment("i", 64, init=lambda view: view.__setitem__(1, 2))
    assert segment.view[:2].tolist() == [0, 2]


def test_views_outlive_the_heap(heap_name: str) -> None:
    heap = ipcheap.Heap.create(heap_name, "1MiB")
    segment = heap.add_static_segment(1, 64)
    view, cell = segment.view, segment.atomic(8)
    heap.close()
    del heap, segment
    view[0] = 1
    assert cell.fetch_add(1) == 0


@pytest.mark.parametrize("dtype", ["u4", "i4", "u8", "i8"])
def test_atomic_operations(segment: ipcheap.StaticSegment, dtype: str) -> None:
    cell = segment.atomic(16, dtype)
    array = segment.array(dtype)
    index = 16 // array.itemsize
    assert cell.load() == 0
    cell.store(5)
    assert cell.exchange(6) == 5
    assert not cell.compare_exchange(5, 9)
    assert cell.compare_exchange(6, 12)
    assert cell.fetch_add(3) == 12
    assert cell.fetch_sub(1) == 15
    assert cell.fetch_and(12) == 14
    assert cell.fetch_or(3) == 12
    assert cell.fetch_xor(1) == 15
    assert cell.load() == 14 == array[index]
    bits = 8 * array.itemsize
    highest = 2 ** (bits - 1) - 1 if dtype[0] == "i" else 2**bits - 1
    lowest = -(2 ** (bits - 1)) if dtype[0] == "i" else 0
    cell.store(highest)
    assert cell.fetch_add(1) == highest
    assert cell.load() == lowest == array[index]
    assert cell.fetch_sub(1) == lowest
    assert cell.load() == highest
    for value in (highest + 1, lowest - 1):
        with pytest.raises(ValueError, match="fit"):
            cell.store(value)


def test_a_cell_has_its_place(segment: ipcheap.StaticSegment) -> None:
    for offset, dtype in ((4, "u8"), (2, "u4"), (4096, "u4"), (-8, "u8"), (0, "f8"), (0, "u2")):
        with pytest.raises(ValueError):  # noqa: PT011
            segment.atomic(offset, dtype)
    with pytest.raises(TypeError):
        segment.atomic("0")  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["u4", "i8"])
def test_a_cell_can_be_waited_for(segment: ipcheap.StaticSegment, dtype: str) -> None:
    cell = segment.atomic(0, dtype)
    assert not cell.wait(0, timeout=0)
    assert not cell.wait(0, timeout=0.05)
    assert cell.wait(1)
    thread, results = in_thread(lambda: cell.wait(0, timeout=10))
    time.sleep(0.05)
    cell.notify(10)  # nothing has changed: it keeps sleeping
    time.sleep(0.05)
    assert not results
    cell.store(3)
    cell.notify()
    thread.join()
    assert results == [True]


def test_an_event_is_set_and_waited_for(segment: ipcheap.StaticSegment) -> None:
    event, same = ipcheap.Event(segment, 64), ipcheap.Event(segment, 64)
    assert not event.is_set()
    assert not event.wait(0.02)
    thread, results = in_thread(lambda: same.wait(10))
    time.sleep(0.05)
    event.set()
    thread.join()
    assert results == [True]
    assert same.is_set()
    assert event.wait(0)
    same.clear()
    assert not event.wait(0)


def test_a_barrier_releases_all_together(segment: ipcheap.StaticSegment) -> None:
    barrier = ipcheap.Barrier(segment, 0, 3)
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (3, 0, False)
    for _ in range(20):
        waiting = [in_thread(lambda: barrier.wait(10)) for _ in range(2)]
        order = barrier.wait(10)
        for thread, _ in waiting:
            thread.join()
        assert sorted([order, *(result for _, results in waiting for result in results)]) == [
            0,
            1,
            2,
        ]


def test_a_barrier_breaks_when_time_is_up(segment: ipcheap.StaticSegment) -> None:
    barrier = ipcheap.Barrier(segment, 0, 2)
    with pytest.raises(threading.BrokenBarrierError) as caught:
        barrier.wait(0.02)
    assert isinstance(caught.value, TimeoutError)
    assert ipcheap.Barrier(segment, 0, 2).broken
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken

    def wait() -> str:
        try:
            return str(barrier.wait(10))
        except threading.BrokenBarrierError:
            return "broken"

    for stop in (barrier.reset, barrier.abort):
        thread, results = in_thread(wait)
        peers.until(lambda: barrier.n_waiting == 1)
        stop()
        thread.join()
        assert results == ["broken"]
    assert ipcheap.Barrier(segment, 64, 1).wait() == 0


def test_a_lock_excludes(segment: ipcheap.StaticSegment) -> None:
    lock = ipcheap.Lock(segment, 0)
    with lock as got:
        assert got
        assert lock.locked()
        assert not lock.acquire(blocking=False)
        assert not lock.acquire(timeout=0.02)
        thread, results = in_thread(lambda: lock.acquire(timeout=0.02))
        thread.join()
        assert results == [False]
    assert not lock.locked()
    with pytest.raises(RuntimeError):
        lock.release()
    with pytest.raises(ValueError, match="timeout"):
        lock.acquire(blocking=False, timeout=1)
    with pytest.raises(ValueError, match="timeout"):
        lock.acquire(timeout=-2)
    assert not lock.owner_died


def lock_and_die(name: str) -> None:
    segment = ipcheap.Heap.attach(name).channel("s")
    assert isinstance(segment, ipcheap.StaticSegment)
    ipcheap.Lock(segment, 0).acquire()
    peers.die()


def test_the_lock_of_a_dead_owner_is_taken_over(
    segment: ipcheap.StaticSegment, heap_name: str
) -> None:
    with peers.run(lock_and_die, heap_name) as peer:
        assert peer.wait() == -signal.SIGKILL
    lock = ipcheap.Lock(segment, 0)
    assert lock.acquire(timeout=5)
    assert lock.owner_died
    lock.release()
    with lock:
        assert not lock.owner_died


def test_primitives_have_their_place(segment: ipcheap.StaticSegment) -> None:
    assert ipcheap.Event.SIZE == ipcheap.Lock.SIZE == ipcheap.Barrier.SIZE == 64
    for offset in (32, 4096, -64):
        with pytest.raises(ValueError):  # noqa: PT011
            ipcheap.Event(segment, offset)
    with pytest.raises(ValueError, match="parties"):
        ipcheap.Barrier(segment, 0, 0)


def wait_at(name: str, count: int) -> int:
    segment = ipcheap.Heap.attach(name).channel("s")
    assert isinstance(segment, ipcheap.StaticSegment)
    barrier, cell = ipcheap.Barrier(segment, 0, 2), segment.atomic(64)
    for _ in range(count):
        cell.fetch_add(1)
        barrier.wait(20)
    return cell.load()


def test_a_barrier_works_between_processes(segment: ipcheap.StaticSegment, heap_name: str) -> None:
    with peers.run(wait_at, heap_name, 500) as peer:
        wait_at(heap_name, 500)
        assert peer.result() == 1000

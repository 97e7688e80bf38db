"""Static segments between processes: one initialiser, atomics, and what is built on them."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from typing import TYPE_CHECKING

import peers
import pytest
import static_workers
import threads

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMITS = {
    "u4": (0, 2**32 - 1),
    "i4": (-(2**31), 2**31 - 1),
    "u8": (0, 2**64 - 1),
    "i8": (-(2**63), 2**63 - 1),
}


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "4MiB") as heap:
        yield heap


@pytest.fixture
def cells(heap: ipcheap.Heap) -> ipcheap.StaticSegment:
    return heap.add_static_segment("cells", 4096)


# Initialisers -----------------------------------------------------------------------------


def test_of_many_who_add_a_segment_one_initialises_it(heap: ipcheap.Heap) -> None:
    rounds = 30
    crowd = [peers.run(static_workers.race_to_initialise, heap, rounds) for _ in range(4)]
    with crowd[0], crowd[1], crowd[2], crowd[3]:
        for _ in range(rounds):
            for peer in crowd:
                assert peer.hear() == "ready"
            start = time.monotonic() + 0.01
            for peer in crowd:
                peer.tell(start)
        done = [peer.result() for peer in crowd]
    assert sum(done) == rounds
    assert heap.check() == []


def test_an_initialiser_that_was_killed_is_run_again_on_zeros(heap: ipcheap.Heap) -> None:
    with peers.run(static_workers.die_while_initialising, heap, "s") as peer:
        assert peer.hear() == "half"
        peer.wait()
    with pytest.raises(ipcheap.ChannelNotFound):
        heap.channel("s")
    seen = []

    def initialise(view: memoryview) -> None:
        seen.append(bytes(view))
        view[:] = b"y" * len(view)

    segment = heap.add_static_segment("s", 4096, initialise)
    assert seen == [bytes(4096)]
    assert bytes(segment.view) == b"y" * 4096
    assert heap.check() == []


def test_a_waiter_for_an_initialiser_that_is_killed_initialises_itself(heap: ipcheap.Heap) -> None:
    started = threading.Event()
    found: list[bytes] = []

    def add(view: memoryview) -> None:
        view[:1] = b"z"

    def wait_and_add() -> None:
        started.set()
        found.append(bytes(heap.add_static_segment("s", 4096, add).view[:2]))

    with peers.run(static_workers.die_while_initialising, heap, "s") as peer:
        assert peer.hear() == "half"
        thread = threading.Thread(target=wait_and_add)
        thread.start()
        started.wait(peers.PATIENCE)
        peer.wait()
        thread.join()
    assert found == [b"z\0"]


def test_an_initialiser_that_raises_leaves_it_to_the_next(heap: ipcheap.Heap) -> None:
    def fail(view: memoryview) -> None:
        view[:] = b"x" * len(view)
        raise LookupError("not today")

    before = heap.statistics()
    for _ in range(3):
        with pytest.raises(LookupError, match="not today"):
            heap.add_static_segment("s", 100, fail)
        gc.collect()
        assert "s" not in heap.channels
        with pytest.raises(ipcheap.ChannelNotFound):
            heap.channel("s")
    after = heap.statistics()
    assert after.in_use - before.in_use <= 4096  # no more than one that awaits the next
    seen = []
    segment = heap.add_static_segment("s", 100, lambda view: seen.append(bytes(view)))
    assert seen == [bytes(100)]
    again = heap.add_static_segment("s", 100, fail)  # which is not called
    assert again == segment
    assert bytes(again.view) == bytes(100)


def test_new_segments_are_zero_over_used_memory(heap: ipcheap.Heap) -> None:
    for turn in range(10):
        records = []
        with contextlib.suppress(ipcheap.HeapFull):
            while True:
                records.append(heap.allocate_record(60_000))
                records[-1].view[:] = b"\xff" * 60_000
        assert len(records) > 10
        while records:
            records.pop().free()
        segment = heap.add_static_segment(turn, 50_000 + turn)
        assert bytes(segment.view) == bytes(50_000 + turn)
        segment.view[:] = b"\xee" * segment.nbytes
        if turn % 2:
            heap.remove_channel(turn)


def test_a_view_outlives_the_heap(heap: ipcheap.Heap, heap_name: str) -> None:
    with ipcheap.Heap.attach(heap_name) as other:
        segment = other.add_static_segment("s", 64)
        view, array = segment.view, segment.array("u4")
        del segment
    view[:4] = b"\1\0\0\0"
    assert array[0] == 1
    mine = heap.channel("s")
    assert isinstance(mine, ipcheap.StaticSegment)
    assert bytes(mine.view[:4]) == b"\1\0\0\0"


# Atomics ----------------------------------------------------------------------------------


def test_cells_that_several_processes_change_lose_nothing(
    heap: ipcheap.Heap, cells: ipcheap.StaticSegment
) -> None:
    count, rounds = 3, 20_000
    cells.atomic(0, "u4").store(2**32 - 10)  # it will wrap around
    cells.atomic(8, "i8").store(10)  # it will go below zero
    crowd = [peers.run(static_workers.hammer_cells, heap, rounds) for _ in range(count)]
    with crowd[0], crowd[1], crowd[2]:
        for peer in crowd:
            peer.hear()
        for peer in crowd:
            peer.tell("go")
        for peer in crowd:
            peer.result()
    assert cells.atomic(0, "u4").load() == 3 * count * rounds - 10
    assert cells.atomic(8, "i8").load() == 10 - count * rounds
    assert cells.atomic(16, "u8").load() == 0  # turned over an even number of times
    assert cells.atomic(24, "i4").load() == count * rounds


@pytest.mark.parametrize("dtype", LIMITS)
def test_arithmetic_wraps_around(cells: ipcheap.StaticSegment, dtype: str) -> None:
    least, most = LIMITS[dtype]
    cell, neighbours = cells.atomic(8, dtype), cells.array("u1")
    neighbours[:] = 0xAA
    cell.store(most)
    assert cell.fetch_add(1) == most
    assert cell.load() == least
    assert cell.fetch_sub(1) == least
    assert cell.load() == most
    assert cell.fetch_add(2 * (most - least + 1) + 3) == most
    assert cell.load() == least + 2
    assert cell.fetch_sub(-1) == least + 2
    assert cell.exchange(5) == least + 3
    assert cell.fetch_and(4) == 5
    assert cell.fetch_or(3) == 4
    assert cell.fetch_xor(-1) == 7
    assert cell.load() == (-8 if least else most - 7)
    assert not cell.compare_exchange(0, 1)
    assert cell.compare_exchange(cell.load(), least)
    assert cell.load() == least
    width = 4 if dtype.endswith("4") else 8
    assert (neighbours[:8] == 0xAA).all()
    assert (neighbours[8 + width :] == 0xAA).all()


@pytest.mark.parametrize("dtype", LIMITS)
def test_a_value_that_does_not_fit_is_refused(cells: ipcheap.StaticSegment, dtype: str) -> None:
    cell = cells.atomic(0, dtype)
    for value in (LIMITS[dtype][0] - 1, LIMITS[dtype][1] + 1):
        for call in (cell.store, cell.exchange, lambda v: cell.compare_exchange(0, v), cell.wait):
            with pytest.raises(ValueError, match=str(value)):
                call(value)
    assert cell.load() == 0


def test_a_cell_lies_inside_and_aligned(cells: ipcheap.StaticSegment) -> None:
    for offset, dtype in (
        (2, "u4"),
        (4, "u8"),
        (-8, "u8"),
        (4096, "u4"),
        (4092, "u8"),
        (2**64, "u4"),
    ):
        with pytest.raises(ValueError, match=str(offset)):
            cells.atomic(offset, dtype)
    for dtype in ("u2", "f8", "u16", ""):
        with pytest.raises(ValueError, match="dtype"):
            cells.atomic(0, dtype)
    cells.atomic(4088, "i8").store(-1)
    cells.atomic(4092, "u4").store(0)


@pytest.mark.parametrize("dtype", LIMITS)
def test_waiting_ends_when_the_cell_changes(
    heap: ipcheap.Heap, cells: ipcheap.StaticSegment, dtype: str
) -> None:
    cell = cells.atomic(64, dtype)
    cell.store(LIMITS[dtype][1])
    with (
        peers.run(static_workers.wait_for_change, heap, 64, dtype, LIMITS[dtype][1]) as one,
        peers.run(static_workers.wait_for_change, heap, 64, dtype, LIMITS[dtype][1]) as other,
    ):
        assert one.hear() == other.hear() == "waiting"
        time.sleep(0.05)
        cell.store(LIMITS[dtype][0])
        cell.notify(2)
        assert one.result() is True
        assert other.result() is True
    assert cell.wait(LIMITS[dtype][1], timeout=0) is True
    assert cell.wait(LIMITS[dtype][0], timeout=0) is False
    assert cell.wait(LIMITS[dtype][0], timeout=0.05) is False


def test_as_many_are_woken_as_was_said(heap: ipcheap.Heap, cells: ipcheap.StaticSegment) -> None:
    cell = cells.atomic(64, "u4")
    with (
        peers.run(static_workers.wait_for_change, heap, 64, "u4", 0) as one,
        peers.run(static_workers.wait_for_change, heap, 64, "u4", 0) as other,
    ):
        assert one.hear() == other.hear() == "waiting"
        assert [cell.notify(0) for _ in range(50)] == [0] * 50
        peers.until(lambda: cell.notify(5) == 2)  # both sleep, and will sleep again
        cell.store(1)
        cell.notify(2)
        assert one.result() is True
        assert other.result() is True
    assert cell.notify(5) == 0


# Event, Barrier, Lock ---------------------------------------------------------------------


def test_an_event_wakes_all_who_wait_for_it(
    heap: ipcheap.Heap, cells: ipcheap.StaticSegment
) -> None:
    event = ipcheap.Event(cells, 0)
    assert event.wait(timeout=0.02) is False
    with (
        peers.run(static_workers.wait_for_event, heap) as one,
        peers.run(static_workers.wait_for_event, heap) as two,
    ):
        assert one.hear() == two.hear() == "waiting"
        time.sleep(0.05)
        event.set()
        assert one.result() is True
        assert two.result() is True
    assert event.is_set()
    assert event.wait(timeout=0) is True
    event.clear()
    assert not event.is_set()
    assert event.wait(timeout=0) is False


def test_nobody_passes_a_barrier_before_all_have_come(
    heap: ipcheap.Heap, cells: ipcheap.StaticSegment
) -> None:
    parties, rounds = 4, 200
    crowd = [peers.run(static_workers.pass_barriers, heap, parties, rounds) for _ in range(parties)]
    with crowd[0], crowd[1], crowd[2], crowd[3]:
        orders = [peer.result() for peer in crowd]
    for turn in zip(*orders, strict=True):
        assert sorted(turn) == list(range(parties))
    assert cells.atomic(64).load() == parties * rounds
    assert ipcheap.Barrier(cells, 0, parties).n_waiting == 0


def test_a_barrier_that_takes_too_long_breaks_for_all(
    heap: ipcheap.Heap, cells: ipcheap.StaticSegment
) -> None:
    barrier = ipcheap.Barrier(cells, 0, 3)
    with peers.run(static_workers.break_barrier, heap) as peer:
        peer.hear()
        peers.until(lambda: barrier.n_waiting == 1)
        with pytest.raises(threading.BrokenBarrierError) as caught:
            barrier.wait(timeout=0.05)
        assert isinstance(caught.value, TimeoutError)
        assert peer.result() == "BrokenBarrierError"
    assert (barrier.broken, barrier.n_waiting) == (True, 0)
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(timeout=5)
    barrier.reset()
    assert (barrier.broken, barrier.n_waiting) == (False, 0)
    assert ipcheap.Barrier(cells, 64, 1).wait(timeout=0) == 0


@pytest.mark.parametrize("how", ["reset", "abort"])
def test_a_waiter_at_a_barrier_notices_its_end(
    heap: ipcheap.Heap, cells: ipcheap.StaticSegment, how: str
) -> None:
    barrier = ipcheap.Barrier(cells, 0, 3)
    with peers.run(static_workers.break_barrier, heap) as peer:
        peer.hear()
        peers.until(lambda: barrier.n_waiting == 1)
        getattr(barrier, how)()
        assert peer.result() == "BrokenBarrierError"
    assert barrier.broken == (how == "abort")


def test_a_lock_is_held_by_one_thread(heap: ipcheap.Heap, cells: ipcheap.StaticSegment) -> None:
    lock = ipcheap.Lock(cells, 0)
    with peers.run(static_workers.hold_lock_for_a_while, heap) as peer:
        assert peer.hear() == "locked"
        assert lock.locked()
        assert lock.acquire(blocking=False) is False
        assert lock.acquire(timeout=0.05) is False
        with pytest.raises(RuntimeError):
            lock.release()
        threading.Timer(0.1, peer.tell, ["release"]).start()
        assert lock.acquire(timeout=peers.PATIENCE) is True
        assert lock.owner_died is False
        assert peer.hear() == "released"
    with pytest.raises(RuntimeError):
        threads.call(lock.release)
    lock.release()
    assert not lock.locked()
    with pytest.raises(RuntimeError):
        lock.release()


def test_a_lock_whose_owner_died_is_had_and_says_so(
    heap: ipcheap.Heap, cells: ipcheap.StaticSegment
) -> None:
    lock = ipcheap.Lock(cells, 0)
    with peers.run(static_workers.die_with_lock, heap) as peer:
        assert peer.hear() == "locked"
        assert lock.acquire(timeout=0) is False
        threading.Timer(0.1, peer.kill).start()
        assert lock.acquire(timeout=peers.PATIENCE) is True
        found = [lock.owner_died]
    lock.release()
    with lock:
        found.append(lock.owner_died)
    assert found == [True, False]


def test_recovery_does_not_take_a_lock_from_its_living_owner(
    heap: ipcheap.Heap, cells: ipcheap.StaticSegment
) -> None:
    lock = ipcheap.Lock(cells, 0)
    with peers.run(static_workers.die_with_lock, heap) as peer:
        assert peer.hear() == "locked"
        peer.kill()
        peer.wait()
        heap.recover()
        for _ in range(3):  # others join and leave, in the dead owner's slot
            threads.call(lambda: heap.allocate_record(100_000).free())
        assert lock.acquire(timeout=peers.PATIENCE) is True
        assert lock.owner_died is True
        lock.release()


def test_a_lock_whose_owner_died_is_locked_no_more(
    heap: ipcheap.Heap, cells: ipcheap.StaticSegment
) -> None:
    lock = ipcheap.Lock(cells, 0)
    with peers.run(static_workers.die_with_lock, heap) as peer:
        assert peer.hear() == "locked"
        assert lock.locked()
        peer.kill()
        peer.wait()
    assert not lock.locked()
    heap.recover()
    assert not lock.locked()


def test_each_takes_64_bytes_that_are_aligned(cells: ipcheap.StaticSegment) -> None:
    for kind in (ipcheap.Event, ipcheap.Lock, lambda s, at: ipcheap.Barrier(s, at, 2)):
        kind(cells, 4032)
        for offset in (8, 32, 4096, -64):
            with pytest.raises(ValueError, match=str(offset)):
                kind(cells, offset)
    assert ipcheap.Event.SIZE == ipcheap.Barrier.SIZE == ipcheap.Lock.SIZE == 64
    with pytest.raises(ValueError, match="parties"):
        ipcheap.Barrier(cells, 0, 0)

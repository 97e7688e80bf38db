"""Many threads, at a time and one after the other, on heaps that have just the room for it."""

from __future__ import annotations

import ctypes
import os
import threading
from typing import TYPE_CHECKING

import kinds
import peers
import pytest
import threads

import ipcheap
from ipcheap import _failures
from ipcheap._core import lib

if TYPE_CHECKING:
    from pathlib import Path

SHARED = [kind for kind in kinds.ALL if kind.sem == "futex"]
ONE = [64]
FORTY = [int(64 * 1.16**n) for n in range(40)]


@pytest.mark.parametrize(
    ("capacity", "workers", "sizes"), [("4MiB", 100, ONE), ("64MiB", 32, FORTY)]
)
@pytest.mark.parametrize("kind", SHARED, ids=str)
def test_many_threads_hold_a_record_of_each_size(
    heap_name: str, tmp_path: Path, kind: kinds.Kind, capacity: str, workers: int, sizes: list[int]
) -> None:
    records: list[ipcheap.Record] = []
    all_have_theirs = threading.Barrier(workers)

    with kinds.made(kind, heap_name, tmp_path, capacity) as heap:

        def hold() -> None:
            mine = [heap.allocate_record(size) for size in sizes]
            for record in mine:
                record[:] = bytes([threading.get_native_id() % 256]) * record.nbytes
            all_have_theirs.wait(peers.PATIENCE)
            assert all(len(set(record.view)) == 1 for record in mine)
            records.extend(mine)

        threads.call_in(workers, hold)
        assert heap.statistics().records == workers * len(sizes)
        assert heap.check() == []
        for record in records:
            record.free()
        assert heap.statistics().in_use == 0


def test_a_thread_gets_what_the_others_do_not_use() -> None:
    """Blocks that others have freed are as good as free memory, to the last one."""
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        records: list[ipcheap.Record] = []

        def fill() -> None:
            try:
                while True:
                    records.append(heap.allocate_record(64))
            except ipcheap.HeapFull:
                pass

        leave = threading.Event()
        filled = threading.Barrier(4)

        def fill_and_wait() -> None:
            fill()
            filled.wait(peers.PATIENCE)
            assert leave.wait(peers.PATIENCE)

        waiting = [threading.Thread(target=fill_and_wait) for _ in range(3)]
        for thread in waiting:
            thread.start()
        filled.wait(peers.PATIENCE)
        assert len(records) == (1 << 20) // 64
        for record in records[::5]:
            record.free()
        again = [heap.allocate_record(64) for _ in records[::5]]
        with pytest.raises(ipcheap.HeapFull):
            heap.allocate_record(64)
        leave.set()
        for thread in waiting:
            thread.join()
        assert heap.check() == []
        for record in (*again, *(r for at, r in enumerate(records) if at % 5)):
            record.free()
        assert heap.statistics().in_use == 0


@pytest.mark.parametrize("kind", SHARED, ids=str)
def test_short_threads_leave_a_record_each(
    heap_name: str, tmp_path: Path, kind: kinds.Kind
) -> None:
    count = 5000 if kind.shm == "memfd" else 200
    assert count > lib.IPCHEAP_PARTICIPANTS or kind.shm != "memfd"
    cache: list[ipcheap.Record] = []
    with kinds.made(kind, heap_name, tmp_path, "64MiB") as heap:

        def answer() -> None:
            record = heap.allocate_record(1000)
            record[:] = len(cache).to_bytes(8, "little") * 125
            cache.append(record)

        for _ in range(count):
            threads.call(answer)
        assert heap.statistics().participants == 2
        report = heap.recover()
        assert (report.participants, report.blocks) == (0, 0)
        assert heap.check() == []
        for number, record in enumerate(cache):
            assert record[:8] == number.to_bytes(8, "little")
            record.free()
        assert heap.statistics().in_use == 0


def test_threads_of_a_pool_take_as_many_places_as_threads() -> None:
    with ipcheap.Heap.create(None, "64MiB", shm="memfd") as heap:
        kept: list[ipcheap.Record] = []
        for _ in range(20):
            threads.call_in(16, lambda: kept.append(heap.allocate_record(1000)))
        assert heap.statistics().participants <= 16 + 1
        assert heap.statistics().records == 20 * 16
        for record in kept:
            record.free()


def leave_records(heap: ipcheap.Heap) -> None:
    """In a process of its own: ended threads have left records."""
    kept: list[ipcheap.Record] = []
    for _ in range(50):
        threads.call_in(2, lambda: kept.append(heap.allocate_record(1000)))
    peers.say("left")
    peers.listen()


def test_what_ended_threads_left_is_recovered_with_their_process(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        mine: list[ipcheap.Record] = []
        threads.call(lambda: mine.append(heap.allocate_record(1000)))
        with peers.run(leave_records, heap) as peer:
            assert peer.hear() == "left"
            assert heap.statistics().records == 101
            assert heap.recover().blocks == 0
            peer.kill()
        assert heap.recover().blocks == 100
        assert heap.statistics().records == 1
        assert heap.check() == []
        mine[0].free()


def test_many_threads_listen_to_one_bus() -> None:
    """Each is a participant with a listener of its own, and all get all of what all post."""
    with ipcheap.Heap.create(None, "64MiB", shm="memfd") as heap:
        bus = heap.add_bus("news", 64)
        count, posts = 40, 20
        all_listen = threading.Barrier(count)

        def talk() -> list[tuple[int, bytes]]:
            with bus.listen() as listener:
                all_listen.wait(peers.PATIENCE)
                name = threading.get_native_id().to_bytes(8, "little")
                heard: list[tuple[int, bytes]] = []

                def hear(timeout: float) -> None:
                    with listener.recv_record(timeout) as message:
                        heard.append((message.position, bytes(message)))

                for _ in range(posts):
                    while True:
                        try:
                            bus.post(name, timeout=0)
                            break
                        except TimeoutError:
                            if listener.pending:
                                hear(0)
                while len(heard) < count * posts:
                    hear(peers.PATIENCE)
                return heard

        first, *others = threads.call_in(count, talk)
        assert [position for position, _ in first] == list(range(count * posts))
        assert all(heard == first for heard in others)
        heap.recover()
        assert (heap.statistics().in_use, heap.check()) == (0, [])


def test_short_threads_leave_a_listener_each_that_is_recovered() -> None:
    with ipcheap.Heap.create(None, "64MiB", shm="memfd") as heap:
        bus = heap.add_bus("news", 4)
        kept: list[ipcheap.Listener] = []
        held: list[ipcheap.Message] = []

        def listen() -> None:
            kept.append(bus.listen())
            bus.post(b"%d" % len(kept), timeout=peers.PATIENCE)
            held.append(kept[-1].recv_record(0))
            bus.post(b"never received", timeout=peers.PATIENCE)

        for _ in range(300):
            threads.call(listen)
        assert bus.statistics().listeners == 0
        assert [bytes(message) for message in held] == [b"%d" % n for n in range(1, 301)]
        for message in held:
            message.free()
        for listener in kept:
            listener.close()
        heap.recover()
        assert (heap.statistics().in_use, heap.check()) == (0, [])


def test_the_error_names_the_number_of_participants() -> None:
    error = _failures.error(lib.IPCHEAP_TOO_MANY_PARTICIPANTS, "heap 'x'")
    assert isinstance(error, ipcheap.HeapFull)
    assert "4096 participant slots" in str(error)
    assert "end threads" in str(error)


PR_SET_NAME = 15


def test_a_thread_with_a_name_of_its_own_is_shown_with_that_of_its_process(heap_name: str) -> None:
    """Python names its threads from 3.14 on, and other programs always could."""
    with open("/proc/self/comm", "rb") as file:
        process = file.read()[:-1].decode(errors="replace")
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:

        def join() -> tuple[str, int]:
            assert ctypes.CDLL(None).prctl(PR_SET_NAME, b"its own", 0, 0, 0) == 0
            heap.allocate_record(100).free()
            number = threading.get_native_id()
            (me,) = [each for each in heap.participants() if each.thread == number]
            return me.name, me.pid

        assert threads.call(join) == (process, os.getpid())

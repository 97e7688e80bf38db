"""Memory of a static segment that some process still uses is given to nobody else."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import threading
import time
from typing import TYPE_CHECKING

import kinds
import peers
import pytest
import static_users
import threads

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Later Pythons warn of fork in a process with threads, which test runners have.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SIZE = 4096


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_static_segment("state", SIZE)
        yield heap


def fill(heap: ipcheap.Heap) -> list[ipcheap.Record]:
    """Take all memory of a heap, in records of zeros."""
    records: list[ipcheap.Record] = []
    for nbytes in (60_000, SIZE, 64):
        while True:
            try:
                record = heap.allocate_record(nbytes)
            except ipcheap.HeapFull:
                break
            record.view[:] = bytes(nbytes)
            records.append(record)
    return records


def expect_unspoilt(records: list[ipcheap.Record]) -> None:
    assert not any(any(record.view) for record in records)
    for record in records:
        record.free()


def in_use(heap: ipcheap.Heap) -> int:
    gc.collect()
    return heap.statistics().in_use


def write(view: memoryview) -> None:
    view[64:128] = b"S" * 64


def write_and_die(view: memoryview) -> None:
    write(view)
    os.kill(os.getpid(), signal.SIGKILL)


def forked(act: Callable[[memoryview], object], view: memoryview) -> tuple[int, Callable[[], int]]:
    """Fork a child that acts on a view when told to, and ends; return its pid and how to tell it.

    It calls nothing of the library of its own accord. Telling it returns its exit status.
    """
    up, go = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go[1])
        os.write(up[1], b"x")
        os.read(go[0], 1)
        act(view)
        os._exit(0)
    os.close(go[0])
    os.read(up[0], 1)

    def tell() -> int:
        os.close(go[1])
        status = os.waitpid(pid, 0)[1]
        os.close(up[0])
        os.close(up[1])
        return status

    return pid, tell


# Removing ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "method"),
    [("view", "spawn"), ("view", "fork"), ("view", "forkserver")]
    + [(what, "spawn") for what in ("array", "cell", "lock")],
)
def test_a_segment_that_another_process_uses_is_not_removed(
    heap: ipcheap.Heap, what: str, method: str
) -> None:
    with peers.run_by(method, static_users.use, heap, "state", what, False) as user:
        assert user.hear() == "uses it"
        with pytest.raises(ipcheap.ChannelBusy, match=f"used by .*pid {user.pid}, thread"):
            heap.remove_channel("state")
        assert "state" in heap.channels
        user.tell("write")
        assert user.hear() == "has written"
        assert any(static_users.segment_of(heap, "state").view)
        user.tell("stop")
        assert user.hear() == "has stopped"
        heap.remove_channel("state")
        assert in_use(heap) == 0
        user.tell("end")
        user.result()
    assert heap.check() == []


@pytest.mark.parametrize("close", [False, True], ids=["open", "closed"])
@pytest.mark.parametrize("what", ["view", "array", "cell", "lock"])
def test_a_segment_removed_by_force_stays_with_its_user(
    heap: ipcheap.Heap, what: str, close: bool
) -> None:
    if close and what == "lock":
        pytest.skip("a lock needs a heap that is open")
    with peers.run(static_users.use, heap, "state", what, close) as user:
        assert user.hear() == "uses it"
        with pytest.raises(ipcheap.ChannelBusy, match=f"pid {user.pid}"):
            heap.remove_channel("state")
        heap.remove_channel("state", force=True)
        assert "state" not in heap.channels
        records = fill(heap)
        user.tell("write")
        assert user.hear() == "has written"
        expect_unspoilt(records)
        assert heap.check() == []
        assert in_use(heap) == SIZE
        assert not any(heap.add_static_segment("state", SIZE).view)
        user.tell("stop")
        assert user.hear() == "has stopped"
        heap.remove_channel("state")
        assert in_use(heap) == 0
        user.tell("end")
        user.result()
    assert heap.check() == []


def test_the_memory_of_a_killed_user_comes_back(heap: ipcheap.Heap) -> None:
    with peers.run(static_users.use, heap, "state", "view", False) as user:
        assert user.hear() == "uses it"
        heap.remove_channel("state", force=True)
        user.kill()
        assert user.wait() == -signal.SIGKILL
    assert heap.check() == []
    report = heap.recover()
    assert (report.participants, len(report.dead)) == (1, 1)
    assert in_use(heap) == 0
    assert heap.check() == []


def test_a_killed_user_does_not_keep_a_segment(heap: ipcheap.Heap) -> None:
    with peers.run(static_users.use, heap, "state", "view", False) as user:
        assert user.hear() == "uses it"
        user.kill()
        assert user.wait() == -signal.SIGKILL
    heap.remove_channel("state")
    heap.recover()
    assert in_use(heap) == 0


def test_what_the_dead_used_is_taken_before_a_heap_counts_as_full(heap: ipcheap.Heap) -> None:
    large = heap.add_static_segment("large", 600_000)
    del large
    with peers.run(static_users.use, heap, "large", "view", False) as user:
        assert user.hear() == "uses it"
        heap.remove_channel("large", force=True)
        with pytest.raises(ipcheap.HeapFull):
            heap.allocate_record(600_000)
        user.kill()
        assert user.wait() == -signal.SIGKILL
    heap.allocate_record(600_000).free()


def test_the_remover_keeps_what_it_uses_itself(heap: ipcheap.Heap) -> None:
    view = static_users.segment_of(heap, "state").view
    heap.remove_channel("state")
    records = fill(heap)
    view[:] = b"S" * SIZE
    expect_unspoilt(records)
    assert in_use(heap) == SIZE
    assert heap.check() == []
    del view
    assert in_use(heap) == 0


def test_a_user_whose_thread_has_ended_is_still_one(heap: ipcheap.Heap) -> None:
    with peers.run(static_users.use_in_a_thread, heap, "state") as user:
        assert user.hear() == "uses it"
        with pytest.raises(ipcheap.ChannelBusy, match=f"pid {user.pid}"):
            heap.remove_channel("state")
        heap.remove_channel("state", force=True)
        records = fill(heap)
        user.tell("write")
        assert user.hear() == "has written"
        expect_unspoilt(records)
        user.tell("end")
        user.result()
    heap.recover()
    assert in_use(heap) == 0


def test_threads_of_one_process_are_one_user(heap: ipcheap.Heap) -> None:
    before = heap.statistics().participants
    segments = [threads.call(lambda: static_users.segment_of(heap, "state")) for _ in range(1000)]
    assert len({segment.view[0] for segment in segments}) == 1
    assert heap.statistics().participants == before
    assert len(heap.participants()) == before
    heap.remove_channel("state")
    assert in_use(heap) == SIZE
    segments.clear()
    assert in_use(heap) == 0


def test_more_users_than_a_descriptor_names(heap: ipcheap.Heap) -> None:
    users = [peers.run(static_users.use, heap, "state", "view", False) for _ in range(10)]
    try:
        for user in users:
            assert user.hear() == "uses it"
        with pytest.raises(ipcheap.ChannelBusy, match="and 6 more"):
            heap.remove_channel("state")
        heap.remove_channel("state", force=True)
        for user in users:
            assert in_use(heap) == SIZE
            assert heap.check() == []
            user.tell("stop")
            assert user.hear() == "has stopped"
        assert in_use(heap) == 0
    finally:
        for user in users:
            user.__exit__(None, None, None)
    assert heap.check() == []


@pytest.mark.parametrize("kind", kinds.ALL, ids=str)
def test_every_kind_of_heap_keeps_what_is_used(
    kind: kinds.Kind, heap_name: str, tmp_path: Path
) -> None:
    with kinds.made(kind, heap_name, tmp_path, "1MiB") as heap:
        view = heap.add_static_segment("state", SIZE).view
        pid, tell = forked(write, view)
        del view
        with pytest.raises(ipcheap.ChannelBusy, match=f"pid {pid}"):
            heap.remove_channel("state")
        heap.remove_channel("state", force=True)
        records = fill(heap)
        assert tell() == 0
        expect_unspoilt(records)
        heap.recover()
        assert in_use(heap) == 0
        assert heap.check() == []


# Forked children --------------------------------------------------------------------------


def test_a_child_that_only_inherited_a_view_is_a_user(heap: ipcheap.Heap) -> None:
    view = static_users.segment_of(heap, "state").view
    pid, tell = forked(write_and_die, view)
    del view
    with pytest.raises(ipcheap.ChannelBusy, match=f"pid {pid}"):
        heap.remove_channel("state")
    heap.remove_channel("state", force=True)
    records = fill(heap)
    assert tell() == signal.SIGKILL
    expect_unspoilt(records)
    heap.recover()
    assert in_use(heap) == 0
    assert heap.check() == []


def test_a_child_outlives_its_parent_with_what_it_inherited(heap: ipcheap.Heap) -> None:
    with peers.run(static_users.fork_and_leave, heap, "state") as parent:
        child = parent.hear()
        parent.tell("leave")
        assert peers.until(lambda: not parent.alive)
        with pytest.raises(ipcheap.ChannelBusy, match=f"pid {child}"):
            heap.remove_channel("state")
        view = static_users.segment_of(heap, "state").view
        heap.remove_channel("state", force=True)
        records = fill(heap)
        view[0] = 1
        assert parent.hear() == "has written"
        expect_unspoilt(records)
        parent.tell("end")
    del view

    def comes_back() -> bool:
        heap.recover()
        return in_use(heap) == 0

    assert peers.until(comes_back)


def test_a_child_that_drops_its_views_is_no_user_any_more(heap: ipcheap.Heap) -> None:
    segment = static_users.segment_of(heap, "state")
    there, here = os.pipe(), os.pipe()
    pid = os.fork()
    if pid == 0:
        del segment
        gc.collect()
        os.write(there[1], b"x")
        os.close(here[1])
        os.read(here[0], 1)
        os._exit(0)
    del segment
    assert os.read(there[0], 1) == b"x"
    heap.remove_channel("state")
    assert in_use(heap) == 0
    for fd in (*there, *here):
        os.close(fd)
    os.waitpid(pid, 0)


def test_a_heap_that_only_a_child_sees_is_not_stale(heap_name: str) -> None:
    heap = ipcheap.Heap.create(heap_name, "1MiB")
    view = heap.add_static_segment("state", SIZE).view
    _, tell = forked(write, view)
    heap.close()
    del view, heap
    gc.collect()
    assert not info_of(heap_name).stale
    assert tell() == 0
    assert info_of(heap_name).stale
    ipcheap.unlink(heap_name)


def info_of(name: str) -> ipcheap.HeapInfo:
    return next(info for info in ipcheap.heaps() if info.name == name)


# Waiting in what is removed ---------------------------------------------------------------


@pytest.mark.parametrize("what", ["event", "barrier", "lock", "cell"])
def test_a_waiter_in_a_removed_segment_gets_an_error(heap: ipcheap.Heap, what: str) -> None:
    lock = ipcheap.Lock(static_users.segment_of(heap, "state"), 128)
    lock.acquire()
    with peers.run(static_users.wait_for_ever, heap, "state", what) as waiter:
        assert waiter.hear() == "waits"
        time.sleep(0.05)
        heap.remove_channel("state", force=True)
        assert "'state'" in waiter.result()


def test_what_can_be_had_without_waiting_is_had_in_a_removed_segment(heap: ipcheap.Heap) -> None:
    segment = static_users.segment_of(heap, "state")
    event, lock = ipcheap.Event(segment, 0), ipcheap.Lock(segment, 64)
    heap.remove_channel("state")
    event.set()
    assert event.wait()
    with lock:
        assert lock.locked()
    event.clear()
    with pytest.raises(ipcheap.ChannelNotFound, match="has been removed"):
        event.wait(0.01)


def test_wait_returns_an_event_of_a_removed_segment(heap: ipcheap.Heap) -> None:
    other = heap.add_static_segment("other", SIZE)
    segment = static_users.segment_of(heap, "state")
    event, cell = ipcheap.Event(segment, 0), (segment.atomic(64), 0)
    quiet = ipcheap.Event(other, 0)
    things: list[ipcheap.Event | tuple[ipcheap.Atomic, int]] = [quiet, event, cell]
    assert ipcheap.wait(things, timeout=0.01) == []
    timer = threading.Timer(0.05, heap.remove_channel, ("state",))
    timer.start()
    assert ipcheap.wait(things, timeout=20) == [event, cell]
    timer.join()
    assert ipcheap.wait([quiet], timeout=0.01) == []


# Initialisers -----------------------------------------------------------------------------


def test_an_initialiser_that_adds_its_own_segment_is_an_error(heap: ipcheap.Heap) -> None:
    def initialise(view: memoryview) -> None:
        view[0] = 1
        heap.add_static_segment("mine", 64)

    started = time.monotonic()
    with pytest.raises(ipcheap.ChannelBusy, match="its own initialiser"):
        heap.add_static_segment("mine", 64, initialise)
    assert time.monotonic() - started < 5
    assert not any(heap.add_static_segment("mine", 64).view)


def test_an_initialiser_may_look_its_own_segment_up(heap: ipcheap.Heap) -> None:
    found: list[object] = []
    segment = heap.add_static_segment("mine", 64, lambda _: found.append(heap.channel("mine")))
    assert found == [segment]


def test_an_initialiser_may_add_another_segment(heap: ipcheap.Heap) -> None:
    heap.add_static_segment("outer", 64, lambda _: heap.add_static_segment("inner", 64, len))
    assert {"outer", "inner"} <= set(heap.channels)


def test_initialisers_that_need_each_other_are_an_error(
    heap: ipcheap.Heap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ipcheap._timing.INITIALISER_PATIENCE", 0.3)
    both = threading.Barrier(2)
    errors: list[BaseException] = []

    def add(name: str, other: str) -> Callable[[], None]:
        def initialise(_: memoryview) -> None:
            both.wait(10)
            heap.add_static_segment(other, 64)

        def run() -> None:
            try:
                heap.add_static_segment(name, 64, initialise)
            except ipcheap.ChannelBusy as reason:
                errors.append(reason)

        return run

    with threads.run(add("a", "b")), threads.run(add("b", "a")):
        pass
    assert 1 <= len(errors) <= 2
    assert all("needs the other one's segment" in str(reason) for reason in errors)
    for name in ("a", "b"):
        heap.add_static_segment(name, 64)
    assert heap.check() == []


# Record channels --------------------------------------------------------------------------


def test_a_view_of_a_held_record_survives_the_removal_of_its_channel(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 4)
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        for _ in range(3):
            producer.send(b"x" * 5000)
        held = [consumer.recv_record() for _ in range(2)]
        views = [record.view for record in held]
        heap.remove_channel("c", force=True)
    records = fill(heap)
    for view in views:
        view[:] = b"S" * 5000
    held[0].free()
    views[0][:] = b"T" * 5000
    expect_unspoilt(records)
    del views, held, view
    gc.collect()
    assert heap.check() == []
    assert heap.statistics().records == 0


def test_a_forked_child_cannot_use_the_ring_of_a_removed_channel(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 4)
    reading, writing = os.pipe()
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        producer.send(b"x")
        go, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.read(go, 1)
            names: list[str] = []
            for call in (lambda: producer.send(b"y"), lambda: consumer.recv(timeout=0)):
                try:
                    call()
                except Exception as reason:
                    names.append(type(reason).__name__)
            os.write(writing, pickle.dumps(names))
            os._exit(0)
        heap.remove_channel("c", force=True)
        records = fill(heap)
        os.write(told, b"x")
        os.waitpid(pid, 0)
        assert pickle.loads(os.read(reading, 1000)) == ["WrongProcess"] * 2
        expect_unspoilt(records)
    for fd in (reading, writing, go, told):
        os.close(fd)
    assert heap.check() == []

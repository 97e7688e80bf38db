"""What a death leaves is found, reported and repaired, and never waited for indefinitely."""

from __future__ import annotations

import os
import pickle
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import peers
import pytest
import static_workers
import workers

import ipcheap
from ipcheap._core import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LEARNS = 1.0  # seconds within which a survivor notices a death
SLOW = 4.0  # and the limit on a busy machine


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("numbers", 64)
        yield heap


def kill(peer: peers.Peer[Any]) -> None:
    peer.kill()
    assert peer.wait() == -signal.SIGKILL


# The report -----------------------------------------------------------------------------


def test_the_report_says_who_died_what_was_freed_and_what_is_redelivered(
    heap: ipcheap.Heap,
) -> None:
    heap.add_record_channel(7, 8)
    for channel in ("numbers", 7):
        with heap.producer(channel) as producer:
            workers.give_numbers(producer, 0, 5)
    before = heap.statistics()
    with peers.run(receive_on_both_and_wait, heap) as peer:
        assert peer.hear() == "holding"
        (theirs,) = [p for p in heap.participants() if p.pid == peer.pid]
        assert (theirs.state, theirs.elsewhere) == ("alive", False)
        assert abs(theirs.since - time.time()) < peers.PATIENCE
        assert heap.recover() == ipcheap.RecoveryReport(0, 0, 0, 0, 0)
        kill(peer)
        assert [p.pid for p in heap.participants() if p.state == "dead"] == [peer.pid]
        assert heap.check() == []  # dead participants that await recovery are no broken invariant
        report = heap.recover()
        assert [(who.pid, who.name, who.state) for who in report.dead] == [
            (peer.pid, theirs.name, "dead")
        ]
    assert (report.participants, report.endpoints) == (1, 2)
    assert report.blocks == 3
    assert report.bytes >= 64 + 5000 + 100_000
    assert report.channels == {"numbers": 3, 7: 1}
    assert report.redelivered == 4
    assert heap.participants() == [p for p in heap.participants() if p.pid == os.getpid()]
    after = heap.statistics()
    assert (after.in_use, after.records) == (before.in_use, before.records)
    with heap.consumer(7) as consumer:
        assert [workers.number_of(d) for d in consumer.recv_many()] == [0, 1, 2, 3, 4]


def receive_on_both_and_wait(heap: ipcheap.Heap) -> None:
    kept: list[Any] = [heap.allocate_record(n) for n in (64, 5000, 100_000)]
    for channel, count in (("numbers", 3), (7, 1)):
        consumer = heap.consumer(channel, timeout=10)
        kept += [consumer, *(consumer.recv_record(timeout=10) for _ in range(count))]
    peers.say("holding")
    peers.listen()


def test_a_report_pickles_and_compares(heap: ipcheap.Heap) -> None:
    report = heap.recover()
    assert pickle.loads(pickle.dumps(report)) == report


# Noticing a death -------------------------------------------------------------------------


def learned_after(peer: peers.Peer[Any], wait: Callable[[], object]) -> float:
    """Kill a peer while this process waits for it; return how long it took to notice."""
    killed = []

    def strike() -> None:
        killed.append(time.monotonic())
        peer.kill()

    timer = threading.Timer(0.2, strike)
    timer.start()
    try:
        wait()
    finally:
        timer.join()
    return time.monotonic() - killed[0]


def wait_for_a_record(heap: ipcheap.Heap) -> None:
    with heap.consumer("numbers") as consumer, pytest.raises(ipcheap.PeerDied):
        consumer.recv(timeout=peers.PATIENCE)


def wait_for_room(heap: ipcheap.Heap) -> None:
    with heap.producer("numbers") as producer:
        workers.give_numbers(producer, 0, 64)
        with pytest.raises(ipcheap.PeerDied):
            producer.send(b"", timeout=peers.PATIENCE)


def wait_for_its_side(heap: ipcheap.Heap) -> None:
    heap.producer("numbers", timeout=peers.PATIENCE).close()


@pytest.mark.parametrize(
    ("side", "wait"),
    [
        ("producer", wait_for_a_record),
        ("consumer", wait_for_room),
        ("producer", wait_for_its_side),
    ],
)
def test_a_waiter_for_a_peer_notices_its_death_within_a_second(
    heap: ipcheap.Heap, side: str, wait: Callable[[ipcheap.Heap], None]
) -> None:
    took = []
    for _ in range(5):  # the best of a few, because the machine may be busy
        with peers.run(workers.hold_side, heap, "numbers", side) as peer:
            peer.hear()
            took.append(learned_after(peer, lambda: wait(heap)))
        assert took[-1] < SLOW
        if took[-1] < LEARNS:
            return
        heap.remove_channel("numbers")
        heap.add_record_channel("numbers", 64)
    raise AssertionError(f"learned after {took} seconds")


def test_a_waiter_for_an_initialiser_that_dies_initialises(heap: ipcheap.Heap) -> None:
    with peers.run(initialise_for_ever, heap) as peer:
        assert peer.hear() == "half"
        threading.Timer(0.2, peer.kill).start()
        segment = heap.add_static_segment("s", 4096, lambda view: view.__setitem__(0, 7))
        assert bytes(segment.view) == b"\7" + bytes(4095)


def initialise_for_ever(heap: ipcheap.Heap) -> None:
    def initialise(view: memoryview) -> None:
        view[:] = b"x" * len(view)
        peers.say("half")
        peers.listen()

    heap.add_static_segment("s", 4096, initialise)


def test_a_waiter_for_a_lock_whose_owner_dies_gets_it(heap: ipcheap.Heap) -> None:
    segment = heap.add_static_segment("cells", 64)
    with peers.run(static_workers.die_with_lock, heap) as peer:
        assert peer.hear() == "locked"
        threading.Timer(0.2, peer.kill).start()
        lock = ipcheap.Lock(segment, 0)
        assert lock.acquire(timeout=peers.PATIENCE)
        assert lock.owner_died
        lock.release()


# The heap's lock ----------------------------------------------------------------------------


def test_a_stopped_owner_of_the_heap_lock_is_named_and_keeps_it(heap: ipcheap.Heap) -> None:
    checked = heap.add_static_segment("checked", 8).atomic(0)
    heap.allocate_record(100).free()  # a slab for such records exists
    heap.add_record_channel("there")
    with peers.run(check_for_ever, heap) as peer:
        peer.hear()
        stop_inside_the_lock(heap, peer)
        try:
            heap.set_lock_timeout(0.5)
            for use in (heap.check, heap.recover, lambda: heap.add_record_channel("other")):
                with pytest.raises(ipcheap.HeapBusy) as caught:
                    use()
                assert f"pid {peer.pid}, thread {peer.pid}" in str(caught.value)
                assert "stopped" in str(caught.value)
                assert repr(heap.name) in str(caught.value)
            assert [p.state for p in heap.participants() if p.pid == peer.pid] == ["stopped"]
            # What takes no lock goes on.
            with heap.allocate_record(100) as record:
                record.view[:3] = b"yes"
            assert heap.name
            began = time.monotonic()
            with ipcheap.Heap.attach(heap.name) as other:  # its own time to wait is 10 s
                assert other.channel("there").id == "there"
                assert len(heap.participants()) == 3
            assert time.monotonic() - began < 5
        finally:
            heap.set_lock_timeout(peers.PATIENCE)
            peer.kill(signal.SIGCONT)
        assert heap.check() == []
        assert heap.recover().participants == 0
        seen = checked.load()
        peers.until(lambda: checked.load() > seen)  # with the lock that it never lost
        heap.add_record_channel("other")


def test_waiting_for_the_heap_lock_has_an_end(heap: ipcheap.Heap) -> None:
    for timeout in (None, float("inf"), float("nan"), -1):
        with pytest.raises(ValueError, match="timeout"):
            heap.set_lock_timeout(timeout)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        heap.set_lock_timeout("10")  # type: ignore[arg-type]
    heap.set_lock_timeout(1e300)
    assert heap.check() == []
    heap.close()
    with pytest.raises(ipcheap.HeapClosed):
        heap.set_lock_timeout(1)


def test_a_stopped_owner_of_the_heap_lock_that_is_killed_loses_it(heap: ipcheap.Heap) -> None:
    heap.add_static_segment("checked", 8)
    with peers.run(check_for_ever, heap) as peer:
        peer.hear()
        stop_inside_the_lock(heap, peer)
        kill(peer)
        assert heap.check() == []
        assert heap.recover().participants == 1


def test_on_a_bus_nobody_waits_for_a_stopped_owner_of_the_heap_lock(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("bus", 4)
    heap.add_static_segment("checked", 8)
    large = bytes(1 << 20)  # for which the lock is needed
    with peers.run(check_for_ever, heap) as peer:
        peer.hear()
        with peers.run(listen_and_wait, heap) as listener:
            assert listener.hear() == "listening"
            kill(listener)
        for _ in range(4):
            bus.post(b"not received", timeout=0)
        stop_inside_the_lock(heap, peer)
        try:
            began = time.monotonic()
            assert bus.post(b"past the dead", timeout=5) == 4
            report = bus.broadcast(b"past it, too", timeout=5)
            assert (report.position, report.gone, report.slow) == (5, report.listeners, ())
            assert time.monotonic() - began < LEARNS
            for post in (bus.post, bus.broadcast):
                began = time.monotonic()
                with pytest.raises(ipcheap.HeapBusy):
                    post(large, timeout=0.1)
                assert time.monotonic() - began < LEARNS
            began = time.monotonic()
            with pytest.raises(ipcheap.HeapBusy):
                bus.wait_listeners(2, timeout=0.1)
            assert time.monotonic() - began < LEARNS
        finally:
            peer.kill(signal.SIGCONT)
        assert bus.post(large, timeout=peers.PATIENCE) == 6
        heap.recover()
        assert bus.statistics().listeners == 0


def listen_and_wait(heap: ipcheap.Heap) -> None:
    with heap.bus("bus").listen():
        peers.say("listening")
        peers.listen()


def stop_inside_the_lock(heap: ipcheap.Heap, peer: peers.Peer[Any]) -> None:
    """Stop a peer while it holds the lock of the heap; try until it does."""
    holder = ffi.new("ipcheap_holder *")
    for _ in range(2000):
        peer.kill(signal.SIGSTOP)
        os.waitpid(peer.pid, os.WUNTRACED)
        if lib.ipcheap_lock_holder(heap._handle.pointer, holder) and holder.pid == peer.pid:
            return
        peer.kill(signal.SIGCONT)
        time.sleep(0.001)
    raise AssertionError("it never was inside")


def check_for_ever(heap: ipcheap.Heap) -> None:
    """Hold the heap's lock most of the time: check() has much to do."""
    _records = [heap.allocate_record(8) for _ in range(20_000)]
    checked = heap.add_static_segment("checked").atomic(0)
    peers.say("begun")
    while True:
        assert heap.check() == []
        checked.fetch_add(1)


# Stopped is not dead ------------------------------------------------------------------------


def test_a_stopped_consumer_keeps_its_side_its_records_and_its_peer(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("small", 4)
    with heap.producer("small") as producer:
        workers.give_numbers(producer, 0, 4)
        with peers.run(hold_and_free_when_told, heap) as peer:
            assert peer.hear() == "holding"
            peer.kill(signal.SIGSTOP)
            try:
                with pytest.raises(TimeoutError):
                    producer.send(b"no room", timeout=1.5)
                with pytest.raises(ipcheap.ChannelBusy, match=f"pid {peer.pid}"):
                    heap.consumer("small", timeout=0.5)
                with pytest.raises(ipcheap.ChannelBusy, match=f"pid {peer.pid}"):
                    heap.remove_channel("small")
                assert heap.recover().participants == 0
                assert heap.check() == []
            finally:
                peer.kill(signal.SIGCONT)
            peer.tell("free")
            assert peer.hear() == [0, 1, 2, 3]
            producer.send(b"room", timeout=peers.PATIENCE)
            assert peer.result() == b"room"
    assert heap.statistics().records == 0


def hold_and_free_when_told(heap: ipcheap.Heap) -> bytes:
    with heap, heap.consumer("small", timeout=10) as consumer:
        held = [consumer.recv_record(timeout=10) for _ in range(4)]
        peers.say("holding")
        peers.listen()
        peers.say([workers.number_of(record.view) for record in held])
        for record in held:
            record.free()
        return consumer.recv(timeout=peers.PATIENCE)


def test_memory_of_a_stopped_participant_is_not_taken(heap: ipcheap.Heap) -> None:
    with peers.run(hold_memory_until_told, heap) as peer:
        assert peer.hear() == "holding"
        peer.kill(signal.SIGSTOP)
        try:
            for record in take_all(heap, 500_000):
                record.view[:] = b"m" * 500_000
                record.free()
        finally:
            peer.kill(signal.SIGCONT)
        peer.tell("look")
        assert peer.result() is True
    assert heap.statistics().records == 0


def take_all(heap: ipcheap.Heap, nbytes: int) -> list[ipcheap.Record]:
    records = []
    try:
        while True:
            records.append(heap.allocate_record(nbytes))
    except ipcheap.HeapFull:
        return records


def hold_memory_until_told(heap: ipcheap.Heap) -> bool:
    sizes = (8, 700, 5000, 30_000, 1_000_000)
    records = [heap.allocate_record(nbytes) for nbytes in sizes]
    for record in records:
        record.view[:] = b"t" * record.nbytes
    peers.say("holding")
    peers.listen()
    whole = all(bytes(record) == b"t" * record.nbytes for record in records)
    for record in records:
        record.free()
    return whole


# Half-made things ---------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["inside", "outside"])
def test_a_process_that_forks_while_others_hold_things_leaves_them_alone(
    heap: ipcheap.Heap, how: str
) -> None:
    with heap.producer("numbers") as producer:
        workers.give_numbers(producer, 0, 10)
        with peers.run(hold_fork_and_die, heap, how) as peer:
            child = peer.hear()
            peer.tell("die")
            peers.until(lambda: not _exists(peer.pid))
            report = heap.recover()  # its child is alive, and does not keep it alive
            assert [who.pid for who in report.dead] == [peer.pid]
            assert report.channels == {"numbers": 4}
            os.kill(child, signal.SIGKILL)
            peers.until(lambda: not _exists(child))
        found = heap.recover()
        assert [who.pid for who in found.dead] == ([child] if how == "inside" else [])
        with heap.consumer("numbers") as consumer:
            workers.take_numbers(consumer, 10)
    assert (heap.statistics().records, heap.check()) == (0, [])


def hold_fork_and_die(heap: ipcheap.Heap, how: str) -> None:
    consumer = heap.consumer("numbers", timeout=10)
    _held = [consumer.recv_record(timeout=10) for _ in range(4)]
    _mine = heap.allocate_record(40_000)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _more = heap.allocate_record(1000) if how == "inside" else None
            os.write(write, b"x")
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.read(read, 1)
    peers.say(child)
    peers.listen()
    peers.die()


def _exists(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


def test_a_thread_that_ends_without_closing_leaves_nothing(heap: ipcheap.Heap) -> None:
    with peers.run(start_and_end_threads, heap, 300) as peer:
        assert peer.hear() == "ended"

        def threads() -> list[int]:
            return [p.thread for p in heap.participants() if p.pid == peer.pid]

        peers.until(lambda: threads() == [peer.pid])  # the last may end a moment after join()
        assert heap.check() == []
        kill(peer)
    assert heap.recover().endpoints == 0
    with heap.consumer("numbers") as consumer:
        assert len(consumer.recv_many(timeout=0)) == 50
    assert (heap.statistics().records, heap.check()) == (0, [])


def start_and_end_threads(heap: ipcheap.Heap, count: int) -> None:
    heap.statistics()

    def send_and_end(turn: int) -> None:
        if turn % 6 == 0:
            producer: Any = heap.producer("numbers", timeout=10)
            producer.send(b"x", timeout=10)
            left.append(producer)
        heap.allocate_record(100 + 1000 * turn).free()

    left: list[Any] = []
    for turn in range(count):
        thread = threading.Thread(target=send_and_end, args=(turn,))
        thread.start()
        thread.join()
    peers.say("ended")
    peers.listen()


def test_slots_of_the_dead_are_used_again(heap: ipcheap.Heap) -> None:
    for _turn in range(4):
        crowd = [peers.run_by("fork", allocate_and_wait, heap) for _ in range(8)]
        try:
            for peer in crowd:
                assert peer.hear() == "there"
            for peer in crowd:
                kill(peer)
        finally:
            for peer in crowd:
                peer.__exit__()
        report = heap.recover()
        assert sorted(who.pid for who in report.dead) == sorted(
            who.pid for who in report.dead if who.state == "dead"
        )
        assert report.participants == 8
        assert heap.statistics().participants == 1
    assert (heap.statistics().records, heap.check()) == (0, [])


def allocate_and_wait(heap: ipcheap.Heap) -> None:
    _record = heap.allocate_record(5000)
    peers.say("there")
    peers.listen()

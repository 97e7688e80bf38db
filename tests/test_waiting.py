"""Waiting in general: signals, the GIL, barriers and fences, and the cost while no side waits."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import hunt
import peers
import pytest
import seccomp

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

EVENT, LOCK, CELL = 0, 64, 128
COUNT = 20_000


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("c", 4)
        heap.add_record_channel("d", 1024)
        heap.add_static_segment("words", 256)
        yield heap


# Signals ------------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupted_soon() -> Iterator[None]:
    """Send this thread, a moment later, what Ctrl-C sends it."""
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    main = threading.get_ident()
    timer = threading.Timer(0.1, signal.pthread_kill, (main, signal.SIGUSR1))
    timer.start()
    try:
        yield
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


WAITS: dict[str, Callable[[Any, Any, Any], object]] = {
    "recv_record": lambda _h, _p, c: c.recv_record(),
    "recv": lambda _h, _p, c: c.recv(timeout=peers.PATIENCE),
    "recv_many": lambda _h, _p, c: c.recv_many(),
    "send_record": lambda _h, p, _c: p.send_record(p.allocate_record(8)),
    "send_many": lambda _h, p, _c: p.send_many([b"1"]),
    "wait": lambda _h, p, c: ipcheap.wait([c, p]),
    "wait_peer": lambda h, _p, _c: h.consumer("d").wait_peer(),
    "Event.wait": lambda h, _p, _c: ipcheap.Event(h.channel("words"), EVENT).wait(),
    "Lock.acquire": lambda h, _p, _c: ipcheap.Lock(h.channel("words"), LOCK).acquire(),
    "Atomic.wait": lambda h, _p, _c: h.channel("words").atomic(CELL).wait(0),
    "attach": lambda h, _p, _c: ipcheap.Heap.attach(f"{h.name}.none", timeout=peers.PATIENCE),
}


def hold_lock(heap: ipcheap.Heap) -> None:
    segment = heap.channel("words")
    assert isinstance(segment, ipcheap.StaticSegment)
    with ipcheap.Lock(segment, LOCK):
        peers.say("held")
        peers.listen()


@pytest.mark.parametrize("what", WAITS)
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_ctrl_c_ends_a_wait_and_harms_nothing(heap: ipcheap.Heap, what: str) -> None:
    full, empty = what.startswith("send") or what == "wait", what != "wait"
    with contextlib.ExitStack() as stack:
        if what == "Lock.acquire":
            peer = stack.enter_context(peers.run(hold_lock, heap))
            stack.callback(lambda: peer.tell("end"))
            assert peer.hear() == "held"
        heap.add_record_channel("e", 4)
        producer = stack.enter_context(heap.producer("c"))
        consumer = stack.enter_context(heap.consumer("c" if empty else "e"))
        if full:
            assert producer.send_many([b"0"] * 4) == 4
        with pytest.raises(KeyboardInterrupt), interrupted_soon():
            WAITS[what](heap, producer, consumer)
        if full and empty:
            assert consumer.recv_many() == [b"0"] * 4
        if empty:
            producer.send(b"after")
            assert consumer.recv() == b"after"
            assert consumer.try_recv_record() is None
    assert heap.check() == []


def test_a_handler_that_returns_does_not_end_the_wait(heap: ipcheap.Heap) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        main = threading.get_ident()

        def bother() -> None:
            for _ in range(5):
                signal.pthread_kill(main, signal.SIGUSR1)
                time.sleep(0.005)
            with heap.producer("c") as producer:
                producer.send(b"at last")

        thread = threading.Thread(target=bother)
        with heap.consumer("c") as consumer:
            thread.start()
            assert consumer.recv(timeout=peers.PATIENCE) == b"at last"
            thread.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert seen


# The GIL ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["recv", "wait", "wait_peer", "poll"])
def test_others_run_while_one_waits(heap: ipcheap.Heap, how: str) -> None:
    turns = 0

    def wait() -> None:
        with heap.consumer("c") as consumer:
            started.set()
            if how == "recv":
                consumer.recv(timeout=peers.PATIENCE)
            elif how == "wait":
                assert ipcheap.wait([consumer], timeout=peers.PATIENCE)
            elif how == "wait_peer":
                consumer.wait_peer(timeout=peers.PATIENCE)
            else:
                import select

                assert select.select([consumer], [], [], peers.PATIENCE)[0]

    started = threading.Event()
    thread = threading.Thread(target=wait)
    thread.start()
    started.wait()
    for _ in range(200_000):
        turns += 1
    assert thread.is_alive()
    with heap.producer("c") as producer:
        producer.send(b"")
        thread.join()
    assert turns == 200_000


# Barriers and fences ------------------------------------------------------------------------


def echo(heap_name: str, refused: list[str], after: bool) -> int:
    if not after:
        seccomp.refuse(*refused)
    with ipcheap.Heap.attach(heap_name) as heap:
        if after:
            seccomp.refuse(*refused)
        with heap.consumer("there") as inbox, heap.producer("back") as outbox:
            count = 0
            with contextlib.suppress(ipcheap.ChannelClosed):
                while True:
                    data = inbox.recv(timeout=peers.PATIENCE)
                    if count % 50 == 0:
                        time.sleep(0.001)
                    outbox.send(data, timeout=peers.PATIENCE)
                    count += 1
            return count


@pytest.mark.parametrize(
    ("refused", "after"),
    [([], False), (["membarrier"], False), (["membarrier"], True)],
    ids=["membarrier", "refused", "refused later"],
)
def test_nobody_is_left_asleep(heap_name: str, refused: list[str], after: bool) -> None:
    count = 3000
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("there", 2)
        heap.add_record_channel("back", 2)
        slow = 0
        with (
            peers.run(echo, heap_name, refused, after) as peer,
            heap.producer("there") as there,
            heap.consumer("back") as back,
        ):
            there.wait_peer(peers.PATIENCE)
            for number in range(count):
                begin = time.monotonic()
                there.send(number.to_bytes(4, "little"), timeout=peers.PATIENCE)
                assert back.recv(timeout=peers.PATIENCE) == number.to_bytes(4, "little")
                slow += time.monotonic() - begin > hunt.SUSPICIOUS
            there.close()
            assert peer.result() == count
        assert slow <= 3, "each of these may have been a lost wake-up"


# The cost while no side sleeps --------------------------------------------------------------

SLEEPING = ("futex", "futex_waitv", "membarrier", "write", "read", "poll", "ppoll", "select",
            "epoll_wait", "epoll_pwait", "sched_yield", "nanosleep", "clock_nanosleep")  # fmt: skip
DONE = 7  # a peer that may no longer write reports by its exit code


def spin_as_producer(heap: ipcheap.Heap) -> None:
    with heap.producer("d", timeout=peers.PATIENCE) as producer:
        producer.wait_peer(peers.PATIENCE)
        record = producer.allocate_record(64)
        producer.statistics()  # the first one imports its module
        peers.say("ready")
        peers.listen()
        seccomp.forbid(*SLEEPING)
        for number in range(COUNT):
            record.view[:8] = number.to_bytes(8, "little")
            while not producer.try_send_record(record):
                pass
            record = producer.allocate_record(64)
        while producer.statistics().received < COUNT:
            pass
        os._exit(DONE)


def spin_as_consumer(heap: ipcheap.Heap) -> None:
    with heap.consumer("d", timeout=peers.PATIENCE) as consumer:
        consumer.wait_peer(peers.PATIENCE)
        peers.say("ready")
        peers.listen()
        seccomp.forbid(*SLEEPING)
        for number in range(COUNT):
            while (record := consumer.try_recv_record()) is None:
                pass
            if record.view[:8] != number.to_bytes(8, "little"):
                os._exit(1)
            record.free()
        os._exit(DONE)


def test_a_message_makes_no_system_call_while_nobody_sleeps(heap: ipcheap.Heap) -> None:
    with peers.run(spin_as_producer, heap) as out, peers.run(spin_as_consumer, heap) as into:
        for peer in (out, into):
            assert peer.hear() == "ready"
        for peer in (out, into):
            peer.tell("go")
        assert (out.wait(), into.wait()) == (DONE, DONE)


def blocked(heap: ipcheap.Heap) -> int:
    with heap.consumer("d", timeout=peers.PATIENCE) as consumer:
        count = 0
        with contextlib.suppress(ipcheap.ChannelClosed):
            while True:
                consumer.recv()
                count += 1
        return count


def test_one_wake_for_an_edge_however_many_records(heap: ipcheap.Heap) -> None:
    with peers.run(blocked, heap) as peer, heap.producer("d") as producer:
        producer.wait_peer(peers.PATIENCE)
        for _ in range(20):
            asleep = peers.until(lambda: _asleep(peer.pid))
            assert asleep
            wakes = producer.statistics().wakes
            producer.send_many([b""] * 50)  # one edge
            assert producer.statistics().wakes - wakes <= 1
            peers.until(lambda: producer.statistics().received == producer.statistics().sent)
        assert producer.statistics().wakes <= 21
        assert producer.statistics().wakes >= 1
        producer.close()
        assert peer.result() == 1000


def _asleep(pid: int) -> bool:
    """Return whether all threads of a process sleep."""
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/stat", encoding="ascii") as file:
            if file.read().rpartition(")")[2].split()[0] != "S":
                return False
    return True


def confined(heap: ipcheap.Heap, count: int) -> float:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with heap.consumer("c") as consumer:
        for _ in range(count):
            consumer.recv(timeout=peers.PATIENCE)
    return time.process_time()


def test_two_processes_on_one_core_get_on(heap: ipcheap.Heap) -> None:
    cores = os.sched_getaffinity(0)
    with peers.run(confined, heap, 1000) as peer, heap.producer("c") as producer:
        try:
            os.sched_setaffinity(0, {min(cores)})
            for _ in range(1000):
                producer.send(b"", timeout=peers.PATIENCE)
        finally:
            os.sched_setaffinity(0, cores)
        peer.result()


def test_a_waiter_uses_no_cpu(heap: ipcheap.Heap) -> None:
    started = threading.Barrier(9)

    def block(number: int) -> None:
        heap.add_record_channel(number, 4)
        with heap.consumer(number) as consumer:
            started.wait()
            if number % 2:
                consumer.recv()
            else:
                ipcheap.wait([consumer])

    threads = [threading.Thread(target=block, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    started.wait()
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(2)
    used = time.process_time() - before
    for number in range(8):
        with heap.producer(number) as producer:
            producer.send(b"")
    for thread in threads:
        thread.join()
    assert used < 0.4, "eight threads that spun would have used seconds"


# The hunt -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [1, 2])
def test_a_slice_of_the_hunt_for_lost_wake_ups(seed: int) -> None:
    total = hunt.hunt(4000, seed)
    assert total.messages == 8000
    assert total.stalls == 0

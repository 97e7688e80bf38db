"""What is wrong with maandree/bus by its own manual, its protocol and its use; a test for each.

A bus takes over its verbs and its synchronous broadcast, and none of these.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from typing import TYPE_CHECKING

import apart
import bus_workers
import kinds
import peers
import pytest
import threads

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

SHORT = 0.05


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap
        assert heap.check() == []


@pytest.fixture
def bus(heap: ipcheap.Heap) -> ipcheap.Bus:
    return heap.add_bus("bus")


@contextlib.contextmanager
def listening(bus: ipcheap.Bus, count: int) -> Iterator[list[peers.Peer[None]]]:
    """Run processes that acknowledge everything."""
    with contextlib.ExitStack() as stack:
        found = [
            stack.enter_context(peers.run(bus_workers.receive_forever, bus)) for _ in range(count)
        ]
        for peer in found:
            assert peer.hear() == "ready"
        yield found


# Its listeners count themselves out and in again with two semaphores. One that is quick counts
# itself in before the other has seen that all were out; then both wait for each other.
@pytest.mark.parametrize(("count", "pause"), [(2, 0.002), (4, 0.002), (2, 0.02), (4, 0.0)])
def test_healthy_listeners_do_not_deadlock(bus: ipcheap.Bus, count: int, pause: float) -> None:
    with listening(bus, count):
        for number in range(50 if pause > 0.01 else 400):
            report = bus.broadcast(b"%d" % number, peers.PATIENCE)
            assert (report.position, report.released, report.slow) == (number, count, ())
            time.sleep(pause)


# "Messages broadcasted on a bus cannot be longer than 2047 bytes"; longer ones are cut off.
@pytest.mark.parametrize("size", [2047, 2048, 2049, 4096, 1_000_000])
def test_a_message_may_be_longer_than_2047_bytes(bus: ipcheap.Bus, size: int) -> None:
    data = os.urandom(size)
    with bus.listen() as listener:
        bus.broadcast(data)
        assert listener.recv() == data


# "All messages should be encoded in UTF-8 and not contain any NULL characters, except they MUST
# always end with a zero byte."
@pytest.mark.parametrize(
    "data", [b"", b"\0", b"a\0b", b"a\0", b"\xff\xfe", bytes(range(256)) * 2], ids=repr
)
def test_a_message_is_any_bytes(bus: ipcheap.Bus, data: bytes) -> None:
    with bus.listen() as listener:
        bus.broadcast(data)
        assert listener.recv() == data


# There is one message at a time: the next one waits until the slowest has read this one.
def test_a_slow_listener_holds_up_neither_writers_nor_other_listeners(bus: ipcheap.Bus) -> None:
    with bus.listen() as quick, bus.listen() as slow:
        for number in range(200):
            bus.post(b"%d" % number, timeout=0)
            assert quick.recv(0) == b"%d" % number
        assert slow.pending == 200
        assert slow.recv_many(1000) == [b"%d" % number for number in range(200)]


# "If it is not able to write the message within the specified time, it will fail": but once the
# message is written, bus_write_timed() waits for the listeners without a limit.
def test_a_broadcast_with_a_timeout_ends_by_then_and_names_the_slow(bus: ipcheap.Bus) -> None:
    with listening(bus, 2) as (stopped, _):
        stopped.kill(signal.SIGSTOP)
        began = time.monotonic()
        report = bus.broadcast(b"x", SHORT)
        assert SHORT <= time.monotonic() - began < SHORT + 0.5
        assert [each.pid for each in report.slow] == [stopped.pid]
        assert report.released == 1
        stopped.kill(signal.SIGCONT)
        assert bus.drain(peers.PATIENCE).complete


# "A malfunctioning program can lock the bus."
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_listener_that_malfunctions_does_not_lock_the_bus(
    bus: ipcheap.Bus, how: signal.Signals
) -> None:
    with listening(bus, 2) as (victim, healthy):
        for number in range(20):
            bus.broadcast(b"%d" % number, peers.PATIENCE)
        victim.kill(how)
        began = time.monotonic()
        assert all(bus.broadcast(b"x", peers.PATIENCE).complete for _ in range(20))
        report = bus.broadcast(b"last", peers.PATIENCE)
        assert time.monotonic() - began < 5
        assert (report.listeners, report.released) == (1, 1)
        assert [info.participant.pid for info in bus.listeners()] == [healthy.pid]


# A writer that is killed between two of its semaphore operations leaves the listeners waiting.
def test_a_writer_that_is_killed_at_any_time_does_not_lock_the_bus(bus: ipcheap.Bus) -> None:
    with listening(bus, 2):
        for delay in range(12):
            with peers.run(bus_workers.broadcast_over_and_over, bus) as writer:
                assert writer.hear() == "ready"
                time.sleep(delay * 0.003)
                writer.kill()
                writer.wait()
            report = bus.broadcast(b"x", peers.PATIENCE)
            assert (report.listeners, report.complete) == (2, True)


# An interrupted write gives up in the middle; the listeners wait for its other half.
def test_an_interrupted_broadcast_leaves_the_bus_as_it_should_be(bus: ipcheap.Bus) -> None:
    armed = False

    def handle(*_: object) -> None:
        if armed:
            raise InterruptedError

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with listening(bus, 2):
            for turn in range(30):
                timer = threading.Timer(turn * 0.0005, os.kill, [os.getpid(), signal.SIGUSR1])
                timer.start()
                with contextlib.suppress(InterruptedError):
                    armed = True
                    while timer.is_alive():
                        bus.broadcast(b"x")
                armed = False
                timer.join()
            report = bus.broadcast(b"last", peers.PATIENCE)
            assert (report.listeners, report.released) == (2, 2)
    finally:
        signal.signal(signal.SIGUSR1, before)


# bus_poll() sleeps in semop(): it fits into no event loop. And who does not call it again soon, or
# bus_poll_stop(), stops all writers.
def test_a_listener_has_a_descriptor_and_need_not_call_again_soon(bus: ipcheap.Bus) -> None:
    with bus.listen() as listener:
        poller = select.epoll()
        poller.register(listener, select.EPOLLIN)
        assert poller.poll(0) == []
        with threads.later(lambda: bus.post(b"x")):
            assert len(poller.poll(peers.PATIENCE)) == 1
        for _ in range(100):  # nothing is received meanwhile
            bus.post(b"y", timeout=0)
        assert listener.recv_many(1000) == [b"x"] + [b"y"] * 100
        poller.close()


# python-bus holds the GIL while it waits, so that its process stands still.
def test_other_threads_run_while_one_waits(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    turns = 0
    over = threading.Event()

    def count() -> None:
        nonlocal turns
        while not over.wait(0.001):
            turns += 1

    silent = heap.add_bus("silent")
    with listening(bus, 1) as (peer,), silent.listen() as mine, threads.run(count):
        peer.kill(signal.SIGSTOP)
        for wait in (
            lambda: bus.broadcast(b"x", 0.2),
            lambda: bus.drain(0.2),
            lambda: bus.wait_listeners(5, 0.2),
            lambda: bus.post_many([b"x"] * 1000, 0.2),
            lambda: bus.post(b"x", 0.2),
            lambda: mine.recv(0.2),
            lambda: mine.recv_records(10, 0.2),
        ):
            before = turns
            with contextlib.suppress(TimeoutError):
                wait()
            assert turns - before > 10
        over.set()
        peer.kill(signal.SIGCONT)


# "Received messages shall be copied and parsed, and acted upon, in a separate thread": afterwards
# the next writer overwrites them.
def test_a_message_stays_as_it_is_while_it_is_acted_upon(bus: ipcheap.Bus) -> None:
    with bus.listen() as listener:
        bus.post(b"first")
        message = listener.recv_record()
        for number in range(1000):
            bus.post(b"%d" % number)
            listener.recv()
        assert bytes(message) == b"first"
        message.free()


# "Messages should be prefixed with the process identifier": by convention, and anybody can lie.
def test_the_sender_is_known_without_a_convention(bus: ipcheap.Bus) -> None:
    liar = peers.run(bus_workers.post_and_linger, bus, b"0 I am somebody else")
    with bus.listen() as listener, liar as peer:
        peer.hear()
        with listener.recv_record(peers.PATIENCE) as message:
            assert message.sender.pid == peer.pid
        peer.tell("end")


# Its semaphores and its memory outlive a reboot of its users, and a remove by hand leaks them.
def test_removing_it_leaves_nothing() -> None:
    found = kinds.call_apart(apart.make_use_and_remove_a_bus)
    assert found["while"] != found["before"] == found["after"] == []

"""Waiting on a bus: other processes, descriptors, wait-sets, asyncio, forks and ends."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import os
import random
import select
import selectors
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import bus_workers
import numpy as np
import peers
import pytest
import threads

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

SHORT = 0.05


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap
        if not heap.closed:
            assert heap.check() == []


@pytest.fixture
def bus(heap: ipcheap.Heap) -> ipcheap.Bus:
    return heap.add_bus("news", 4)


@pytest.fixture
def listener(bus: ipcheap.Bus) -> Iterator[ipcheap.Listener]:
    with bus.listen() as listener:
        yield listener


# Other processes ---------------------------------------------------------------------------


def test_processes_hear_each_other_and_the_end(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    with (
        peers.run(bus_workers.receive_all, bus) as one,
        peers.run(bus_workers.receive_all, bus) as other,
    ):
        assert (one.hear(), other.hear()) == ("ready", "ready")
        for number in range(1000):
            bus.post(b"%d" % number, peers.PATIENCE)
        assert bus.drain(peers.PATIENCE).complete
        heap.remove_channel("news", force=True)
        expected = [b"%d" % number for number in range(1000)]
        assert one.result() == other.result() == expected


@pytest.mark.parametrize("size", [8, 5000, 100_000])
def test_what_killed_writers_posted_is_whole_and_nothing_is_missing(
    heap: ipcheap.Heap, size: int
) -> None:
    bus = heap.add_bus("killed", 16)
    expected = 0
    with bus.listen() as listener:
        for _ in range(8):
            with peers.run(post_checked, bus, size, expected) as peer:
                assert peer.hear() == "ready"
                end = time.monotonic() + random.uniform(0.001, 0.05)
                while time.monotonic() < end:
                    expected = take_checked(listener, expected)
                peer.kill()
                peer.wait()
            with contextlib.suppress(TimeoutError):
                while True:
                    expected = take_checked(listener, expected, 0)
        assert expected == bus.statistics().posted > 0
        assert bus.post(b"after") == expected
        assert listener.recv(0) == b"after"
    heap.recover()
    assert heap.statistics().in_use == 0


def post_checked(bus: ipcheap.Bus, size: int, number: int) -> None:
    peers.say("ready")
    while True:
        body = number.to_bytes(8, "little") + bytes(size)
        bus.post(hashlib.blake2b(body, digest_size=16).digest() + body)
        number += 1


def take_checked(listener: ipcheap.Listener, expected: int, timeout: float = 10) -> int:
    with listener.recv_record(timeout) as message:
        data = bytes(message)
        assert message.position == expected
    assert hashlib.blake2b(data[16:], digest_size=16).digest() == data[:16]
    assert int.from_bytes(data[16:24], "little") == expected
    return expected + 1


def test_killed_listeners_lock_nobody_out(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("killed", 4)
    with bus.listen() as mine, contextlib.ExitStack() as stack:
        victims = [stack.enter_context(peers.run(bus_workers.receive_forever, bus)) for _ in "123"]
        for peer in victims:
            assert peer.hear() == "ready"
        number = 0
        for peer in victims:
            for _ in range(100):
                assert bus.post(b"%d" % number, peers.PATIENCE) == number
                assert mine.recv(0) == b"%d" % number
                number += 1
            threading.Timer(0.005, peer.kill).start()
            began = time.monotonic()
            for _ in range(200):
                bus.broadcast(b"%d" % number, peers.PATIENCE)
                assert mine.recv(0) == b"%d" % number
                number += 1
            assert time.monotonic() - began < 10
            peer.wait()
        heap.recover()
        assert bus.statistics().listeners == 1
    assert heap.statistics().in_use == 0


def test_a_stopped_writer_holds_nobody_up(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("stopped", 64)
    with peers.run(bus_workers.post_over_and_over, bus) as peer:
        assert peer.hear() == "ready"
        for _ in range(20):
            time.sleep(random.uniform(0.001, 0.01))
            peer.kill(signal.SIGSTOP)
            with bus.listen() as listener:
                bus.post(b"mine", peers.PATIENCE)
                assert bus.broadcast(b"mine too", peers.PATIENCE).complete
                assert [data for data in listener.recv_many() if len(data) < 16] == [
                    b"mine",
                    b"mine too",
                ]
            peer.kill(signal.SIGCONT)


def test_a_stopped_listener_holds_up_nobody_longer_than_its_timeout(bus: ipcheap.Bus) -> None:
    with peers.run(bus_workers.receive_forever, bus) as peer:
        assert peer.hear() == "ready"
        peer.kill(signal.SIGSTOP)
        bus.post_many([b"x"] * 4)
        for call in (lambda: bus.post(b"x", SHORT), lambda: bus.broadcast(b"x", SHORT)):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                call()
            assert time.monotonic() - began < SHORT + 0.5
        began = time.monotonic()
        assert len(bus.drain(SHORT).slow) == 1
        assert time.monotonic() - began < SHORT + 0.5
        peer.kill(signal.SIGCONT)


# Fork --------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], object]) -> None:
    """Expect that a function ends without an exception in a forked child."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_forked_child_uses_the_bus_and_not_the_listener(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    bus.post(b"before")

    def work() -> None:
        for call in (
            listener.recv,
            listener.recv_record,
            listener.try_recv_record,
            listener.fileno,
            listener.close,
        ):
            with pytest.raises(ipcheap.WrongProcess):
                call()
        with bus.listen() as mine:
            assert bus.post(b"of the child") == 1
            assert mine.recv(0) == b"of the child"
            report = bus.broadcast(b"to the parent", 0)
            assert [each.pid for each in report.slow] == [os.getppid()]
        listener.__exit__(None, None, None)

    in_a_child(work)
    assert not listener.closed
    assert listener.recv(0) == b"before"
    with listener.recv_record(0) as message:
        assert bytes(message) == b"of the child"
        assert message.sender.pid != os.getpid()
        assert message.sender.state == "dead"
    assert listener.recv(0) == b"to the parent"


def test_a_forked_child_sees_a_message_through_a_view_and_may_not_use_it(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    bus.post(b"x" * 1000)
    message = listener.recv_record()
    view = message.view

    def work() -> None:
        assert bytes(view) == b"x" * 1000
        for call in (
            lambda: bytes(message),
            lambda: message.sender,
            message.free,
            message.keep,
            lambda: bus.post_record(message),
            lambda: bus.broadcast_record(message, 0),
        ):
            with pytest.raises(ipcheap.WrongProcess, match="this record belongs to"):
                call()

    in_a_child(work)
    assert bytes(message) == b"x" * 1000
    assert listener.statistics().held == 1
    message.free()


# Descriptors and wait-sets -------------------------------------------------------------------


def test_a_descriptor_says_whether_a_receive_need_not_wait(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    poller = select.poll()
    poller.register(listener.fileno(), select.POLLIN)
    for number in range(3):
        assert poller.poll(0) == []
        bus.post(b"%d" % number)
        assert len(poller.poll(1000)) == 1
        assert len(poller.poll(0)) == 1  # level-triggered
        bus.post(b"and another")
        assert listener.recv(0) == b"%d" % number
        assert len(poller.poll(0)) == 1
        listener.recv(0)
        assert listener.try_recv_record() is None
    assert poller.poll(0) == []


def test_a_selector_takes_listeners_of_several_buses(heap: ipcheap.Heap) -> None:
    buses = [heap.add_bus(n) for n in range(5)]
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        listeners = [stack.enter_context(bus.listen()) for bus in buses]
        for listener in listeners:
            selector.register(listener, selectors.EVENT_READ)
        assert selector.select(0) == []
        for at in (3, 1, 4):
            found: list[ipcheap.Listener] = []
            with threads.later(functools.partial(buses[at].post, b"x")):
                while not found:
                    ready: list[Any] = [key.fileobj for key, _ in selector.select(peers.PATIENCE)]
                    assert ready
                    # One that is ready for nothing, as after a recovery, is not from then on.
                    found = [each for each in ready if each.try_recv_record() is not None]
            assert found == [listeners[at]]
            assert selector.select(0) == []


def test_a_wait_set_takes_listeners_beside_all_else(
    heap: ipcheap.Heap, bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    heap.add_record_channel("records", 4)
    event = ipcheap.Event(heap.add_static_segment("static", 256), 0)
    with bus.listen() as another, heap.consumer("records") as consumer:
        everything: list[Any] = [listener, consumer, event, another]
        assert ipcheap.wait(everything, timeout=0) == []
        with threads.later(lambda: bus.post(b"x")):
            assert ipcheap.wait(everything, peers.PATIENCE)[0] in (listener, another)
        assert ipcheap.wait(everything, 0) == [listener, another]
        listener.recv(0)
        assert ipcheap.wait(everything, 0) == [another]
        another.recv(0)
        with threads.later(lambda: producer_sends(heap)):
            assert ipcheap.wait(everything, peers.PATIENCE) == [consumer]
        event.set()
        assert event in ipcheap.wait(everything, 0)


def producer_sends(heap: ipcheap.Heap) -> None:
    with heap.producer("records") as producer:
        producer.send(b"x")


def test_a_listener_is_ready_for_a_loss_and_for_the_end(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("impatient", 2, patience=0.02)
    with bus.listen() as listener:
        descriptor = listener.fileno()
        bus.post_many([b"1", b"2"])
        time.sleep(0.03)
        while True:
            with contextlib.suppress(TimeoutError):
                bus.post(b"3", 0)
                break
        assert select.select([descriptor], [], [], 0)[0] == [descriptor]
        assert ipcheap.wait([listener], 0) == [listener]
        with pytest.raises(ipcheap.MessagesLost):
            listener.recv(0)
        assert listener.recv_many() == [b"2", b"3"]
        assert ipcheap.wait([listener], 0) == []
        with threads.later(lambda: heap.remove_channel("impatient", force=True)):
            assert ipcheap.wait([listener], peers.PATIENCE) == [listener]
        assert select.select([descriptor], [], [], 1)[0] == [descriptor]
        with pytest.raises(ipcheap.ChannelClosed):
            listener.recv()


def test_removal_ends_every_wait_of_a_listener(heap: ipcheap.Heap) -> None:
    waits: list[Callable[[ipcheap.Listener], Any]] = [
        lambda listener: listener.recv(peers.PATIENCE),
        lambda listener: listener.recv_record(),
        lambda listener: listener.recv_many(timeout=peers.PATIENCE),
        lambda listener: listener.recv_array(),
        lambda listener: asyncio.run(listener.arecv()),
        lambda listener: asyncio.run(listener.arecv_record()),
        lambda listener: asyncio.run(listener.arecv_object()),
    ]
    for wait in waits:
        bus = heap.add_bus("short-lived")
        with bus.listen() as listener:
            with (
                threads.later(lambda: heap.remove_channel("short-lived", force=True)),
                pytest.raises(ipcheap.ChannelClosed, match="removed"),
            ):
                wait(listener)
            assert not listener.closed
    for iterate in (list, lambda listener: asyncio.run(all_of(listener))):
        bus = heap.add_bus("short-lived")
        with bus.listen() as listener:
            bus.post(b"x")
            with threads.later(lambda: heap.remove_channel("short-lived", force=True)):
                assert len(iterate(listener)) == 1


async def all_of(listener: ipcheap.Listener) -> list[bytes]:
    return [bytes(message) async for message in listener]


# The heap closes -----------------------------------------------------------------------------


def test_closing_the_heap_ends_every_wait_of_a_writer(heap: ipcheap.Heap) -> None:
    waits: list[Callable[[ipcheap.Bus], Any]] = [
        lambda bus: bus.broadcast(b"x", peers.PATIENCE),
        lambda bus: bus.broadcast(b"x"),
        lambda bus: bus.drain(),
        lambda bus: bus.drain(peers.PATIENCE),
        lambda bus: bus.wait_listeners(2, peers.PATIENCE),
        lambda bus: asyncio.run(bus.abroadcast(b"x")),
        lambda bus: asyncio.run(bus.adrain()),
        lambda bus: (fill(bus), bus.post(b"x")),
        lambda bus: (fill(bus), bus.post(b"x", peers.PATIENCE)),
        lambda bus: (fill(bus), bus.broadcast(b"x")),
        lambda bus: (fill(bus), asyncio.run(bus.apost(b"x"))),
        lambda bus: (fill(bus), asyncio.run(bus.abroadcast(b"x"))),
    ]
    bus = heap.add_bus("news", 4)
    with peers.run(bus_workers.sleep_with_a_listener, bus) as peer:
        assert peer.hear() == "ready"
        bus.post(b"x")
        for wait in waits:
            attached = ipcheap.Heap.attach(heap.name or "")
            began = time.monotonic()
            with threads.later(attached.close), pytest.raises(ipcheap.HeapClosed):
                wait(attached.bus("news"))
            assert time.monotonic() - began < 5


def fill(bus: ipcheap.Bus) -> bool:
    with contextlib.suppress(TimeoutError):
        bus.post_many([b"x"] * 100, timeout=0)
    return True


# asyncio -------------------------------------------------------------------------------------


def test_coroutines_post_and_receive(bus: ipcheap.Bus) -> None:
    async def hear(listener: ipcheap.Listener) -> list[bytes]:
        found = []
        async for message in listener:
            found.append(bytes(message))
            if found[-1] == b"last":
                break
        return found

    async def main() -> list[list[bytes]]:
        with bus.listen() as one, bus.listen() as other:
            tasks = [asyncio.create_task(hear(each)) for each in (one, other)]
            for number in range(20):  # more than there is room for: other tasks receive
                assert await bus.apost(b"%d" % number) == number
            record = bus.allocate_record(6)
            record[:] = b"record"
            await bus.apost_record(record)
            await bus.apost_object([1])
            await bus.apost(b"last")
            return [await task for task in tasks]

    one, other = asyncio.run(main())
    assert one == other
    assert one[:20] == [b"%d" % number for number in range(20)]
    assert (one[20], one[22]) == (b"record", b"last")


def test_all_coroutines_of_a_listener(bus: ipcheap.Bus, listener: ipcheap.Listener) -> None:
    async def main() -> None:
        waits: list[tuple[Callable[[], Coroutine[Any, Any, Any]], Callable[[], Any]]] = [
            (listener.arecv, lambda: bus.post(b"x")),
            (listener.arecv_record, lambda: bus.post(b"x")),
            (listener.arecv_array, lambda: bus.post_record(bus.allocate_array(3, "u1"))),
            (listener.arecv_object, lambda: bus.post_object({"a": 1})),
        ]
        for receive, post in waits:
            task = asyncio.create_task(receive())
            await asyncio.sleep(0.01)
            assert not task.done()
            post()
            found = await task
            assert isinstance(found, (bytes, ipcheap.Message, np.ndarray, dict))
            if isinstance(found, ipcheap.Message):
                found.free()

    asyncio.run(main())
    assert listener.pending == 0


def test_a_coroutine_broadcasts_to_other_threads_and_processes(bus: ipcheap.Bus) -> None:
    async def main(peer: peers.Peer[None]) -> None:
        report = await bus.abroadcast(b"1")
        assert (report.listeners, report.released) == (1, 1)
        record = bus.allocate_record(1)
        assert (await bus.abroadcast_record(record)).position == 1
        assert (await bus.abroadcast_object([1])).released == 1
        assert (await bus.adrain()).position == 2
        peer.kill(signal.SIGSTOP)
        task = asyncio.create_task(bus.abroadcast(b"2"))
        draining = asyncio.create_task(bus.adrain())
        await asyncio.sleep(2 * SHORT)
        assert not task.done()
        assert not draining.done()
        peer.kill(signal.SIGCONT)
        assert (await task).complete
        assert (await draining).complete

    with peers.run(bus_workers.receive_forever, bus) as peer:
        assert peer.hear() == "ready"
        asyncio.run(main(peer))


def test_what_is_cancelled_before_it_was_posted_has_posted_nothing(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    async def main() -> None:
        fill(bus)
        record = bus.allocate_record(3)
        record[:] = b"abc"
        for call in (
            lambda: bus.apost(b"x"),
            lambda: bus.apost_record(record),
            lambda: bus.apost_object(1),
            lambda: bus.abroadcast(b"x"),
            lambda: bus.abroadcast_record(record),
            lambda: bus.abroadcast_object(1),
        ):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await call()
            task = asyncio.create_task(call())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        assert bytes(record) == b"abc"
        record.free()
        assert bus.statistics().posted == 4
        listener.recv(0)
        assert await bus.apost(b"x") == 4

    asyncio.run(main())


def test_a_broadcast_that_is_cancelled_afterwards_was_posted_and_gives_its_turn_back(
    bus: ipcheap.Bus,
) -> None:
    async def main() -> None:
        for number in range(2):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(SHORT):
                    await bus.abroadcast(b"%d" % number)
            assert time.monotonic() - began < SHORT + 0.5
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(SHORT):
                await bus.adrain()

    with peers.run(bus_workers.obey, bus) as peer:
        assert peer.hear() == "ready"
        asyncio.run(main())
        assert bus.statistics().posted == 2
        assert bus.broadcast(b"2", 0).position == 2
        for number in range(3):
            peer.tell("receive")
            assert peer.hear() == b"%d" % number
        peer.tell("end")


def test_tasks_of_one_thread_broadcast_at_a_time_on_several_buses(heap: ipcheap.Heap) -> None:
    """The turn of each is over when its own listeners have released, not those of another bus."""
    buses = [heap.add_bus(n, 4) for n in range(3)]

    def is_busy(bus: ipcheap.Bus) -> bool:
        try:
            bus.broadcast(b"x", 0, nowait=True)
        except ipcheap.ChannelBusy:
            return True
        return False

    async def main() -> None:
        tasks = [asyncio.create_task(bus.abroadcast(b"first")) for bus in buses]
        await asyncio.sleep(SHORT)
        for at in (1, 0, 2):
            assert not tasks[at].done()
            assert threads.call(functools.partial(is_busy, buses[at]))
            run[at].tell("receive")
            assert await asyncio.to_thread(run[at].hear) == b"first"
            assert (await tasks[at]).complete
            assert not is_busy(buses[at])

    with contextlib.ExitStack() as stack:
        run = [stack.enter_context(peers.run(bus_workers.obey, bus)) for bus in buses]
        for peer in run:
            assert peer.hear() == "ready"
        asyncio.run(main())
        for peer in run:
            peer.tell("end")


def test_a_coroutine_that_waits_costs_no_processor_time(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    async def main() -> float:
        task = asyncio.create_task(listener.arecv())
        await asyncio.sleep(SHORT)
        start = time.process_time()
        await asyncio.sleep(0.5)
        spent = time.process_time() - start
        bus.post(b"1")
        assert await task == b"1"
        return spent

    assert asyncio.run(main()) < 0.1


def test_a_coroutine_hears_of_a_loss(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("impatient", 2, patience=0.02)

    async def main() -> None:
        with bus.listen() as listener:
            for number in range(4):  # the last two pass it, because no other task receives
                await bus.apost(b"%d" % number)
            with pytest.raises(ipcheap.MessagesLost) as raised:
                await listener.arecv()
            assert raised.value.count == listener.lost == 2
            assert [await listener.arecv() for _ in range(2)] == [b"2", b"3"]

    asyncio.run(main())


# Ctrl-C --------------------------------------------------------------------------------------


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """Take the signal as a terminal's process does: one in a shell's background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_ctrl_c_ends_a_receive_and_nothing_is_lost(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    calls: list[Callable[[], object]] = [
        listener.recv,
        listener.recv_record,
        lambda: listener.recv_records(3),
        lambda: listener.recv(peers.PATIENCE),
        lambda: list(listener),
        lambda: ipcheap.wait([listener]),
    ]
    for number, call in enumerate(calls):
        timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            call()
        timer.join()
        bus.post(b"%d" % number)
        assert listener.recv(0) == b"%d" % number

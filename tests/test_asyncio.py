"""Coroutines wait for endpoints: on asyncio, on uvloop, and by anyio's recipe on trio."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import peers
import pytest
import uvloop
import workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    Run = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("c", 4)
        heap.add_record_channel("d", 4)
        yield heap


class Refusing:
    """A codec that reads nothing."""

    def encode(self, obj: Any) -> list[Any]:
        raise NotImplementedError

    def decode(self, pieces: list[memoryview]) -> Any:
        raise ValueError(f"nothing of it can be read: {pieces}")


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def go(coroutine: Coroutine[Any, Any, Any]) -> Any:
        async def limited() -> Any:
            async with asyncio.timeout(peers.PATIENCE):
                return await coroutine

        return (uvloop.run if request.param == "uvloop" else asyncio.run)(limited())

    return go


def test_records_go_through_in_order(heap: ipcheap.Heap, run: Run) -> None:
    async def produce() -> None:
        with heap.producer("c") as producer:
            for number in range(500):
                if number % 2:
                    await producer.asend(number.to_bytes(8, "little"))
                else:
                    record = producer.allocate_record(8)
                    record.view[:] = number.to_bytes(8, "little")
                    await producer.asend_record(record)

    async def consume() -> list[int]:
        with heap.consumer("c") as consumer:
            seen = [workers.number_of(await consumer.arecv())]
            async with asyncio.timeout(peers.PATIENCE):
                with await consumer.arecv_record() as record:
                    seen.append(workers.number_of(record.view))
            seen += [workers.number_of(record.view) async for record in consumer]
            return seen

    async def both() -> list[int]:
        return (await asyncio.gather(consume(), produce()))[0]

    assert run(both()) == list(range(500))
    assert heap.statistics().records == 0


def test_objects_and_arrays_go_through(heap: ipcheap.Heap, run: Run) -> None:
    async def produce() -> None:
        with heap.producer("c") as producer:
            for number in range(100):
                if number % 2:
                    await producer.asend_object({"number": number, "array": np.full(50, number)})
                else:
                    record = producer.allocate_array((5, 7), "u2")
                    record.array()[:] = number
                    await producer.asend_record(record)

    async def consume() -> None:
        with heap.consumer("c") as consumer:
            for number in range(100):
                if number % 2:
                    found = await consumer.arecv_object()
                    assert found["number"] == number
                    assert (found["array"] == number).all()
                else:
                    with pytest.raises(ipcheap.RecordError, match="recv_array"):
                        await consumer.arecv_object()
                    array = await consumer.arecv_array()
                    assert array.shape == (5, 7)
                    assert (array == number).all()

    async def both() -> None:
        await asyncio.gather(consume(), produce())

    run(both())
    gc.collect()
    assert heap.statistics().records == 0


def test_an_object_that_is_cancelled_is_not_sent(heap: ipcheap.Heap, run: Run) -> None:
    async def send() -> None:
        with heap.producer("c") as producer:
            for number in range(producer.capacity):
                await producer.asend_object(number)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await producer.asend_object("too many")
            with heap.consumer("c") as consumer:
                with pytest.raises(ValueError, match="nothing of it"):
                    await consumer.arecv_object(codec=Refusing())
                for number in range(1, producer.capacity):
                    assert await consumer.arecv_object() == number
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.02):
                        await consumer.arecv_object()
                assert heap.statistics().records == 0

    run(send())


def test_another_process_is_heard(heap: ipcheap.Heap, run: Run) -> None:
    async def consume() -> list[int]:
        with heap.consumer("c") as consumer:
            return [workers.number_of(record.view) async for record in consumer]

    with peers.run(workers.produce_numbers, heap, "c", 5000) as peer:
        assert run(consume()) == list(range(5000))
        peer.result()


def test_there_is_no_thread_for_it(heap: ipcheap.Heap, run: Run) -> None:
    async def wait() -> int:
        with heap.consumer("c") as consumer:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    await consumer.arecv()
            return threading.active_count()

    assert run(wait()) == threading.active_count()


def test_a_hundred_channels_on_one_loop(heap: ipcheap.Heap, run: Run) -> None:
    for number in range(100):
        heap.add_record_channel(number, 8)

    async def consume(number: int) -> int:
        with heap.consumer(number) as consumer:
            numbers = [workers.number_of(record.view) async for record in consumer]
        assert numbers == list(range(100))
        return len(numbers)

    async def produce(number: int) -> None:
        with heap.producer(number) as producer:
            for n in range(100):
                await producer.asend(n.to_bytes(8, "little"))

    async def all_of_them() -> int:
        tasks = [produce(number) for number in range(100)]
        counts = await asyncio.gather(*(consume(number) for number in range(100)), *tasks)
        return sum(filter(None, counts))

    assert run(all_of_them()) == 10_000


def test_a_task_that_never_has_to_wait_lets_others_run(heap: ipcheap.Heap, run: Run) -> None:
    heap.add_record_channel("long", 1024)
    turns = 0

    async def look_around() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def consume() -> None:
        other = asyncio.ensure_future(look_around())
        with heap.consumer("long") as consumer:
            for _ in range(500):
                await consumer.arecv()
            (await consumer.arecv_record()).free()
        other.cancel()

    with heap.producer("long") as producer:
        producer.send_many([b""] * 501)
        run(consume())
    assert turns >= 5


def test_what_is_cancelled_has_done_nothing(heap: ipcheap.Heap, run: Run) -> None:
    chance = random.Random(11)
    count = 1000

    async def cancelled(coroutine: Coroutine[Any, Any, Any], turns: int) -> Any:
        task = asyncio.ensure_future(coroutine)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            return True, await task
        except asyncio.CancelledError:
            return False, None

    async def produce() -> None:
        with heap.producer("c") as producer:
            for number in range(count):
                sent = False
                while not sent:
                    data = number.to_bytes(8, "little")
                    if number % 2:
                        sent, _ = await cancelled(producer.asend(data), chance.randrange(5))
                    else:
                        record = producer.allocate_record(8)
                        record.view[:] = data
                        sent, _ = await cancelled(
                            producer.asend_record(record), chance.randrange(5)
                        )
                        if not sent:
                            record.free()  # otherwise there would be a RecordError

    async def consume() -> list[int]:
        seen: list[int] = []
        with heap.consumer("c") as consumer:
            while len(seen) < count:
                got, data = await cancelled(consumer.arecv(), chance.randrange(5))
                if got:
                    seen.append(workers.number_of(data))
                got, record = await cancelled(consumer.arecv_record(), chance.randrange(5))
                if got:
                    with record:
                        seen.append(workers.number_of(record.view))
        return seen

    async def both() -> list[int]:
        consumer = asyncio.ensure_future(consume())
        await produce()
        return await consumer

    # The producer closes with the last record: a task cancelled after it raises no end.
    with contextlib.suppress(ipcheap.ChannelClosed):
        assert run(both()) == list(range(count))
    assert heap.statistics().records == 0


def test_time_runs_out(heap: ipcheap.Heap, run: Run) -> None:
    async def wait() -> None:
        with heap.consumer("c") as consumer, heap.producer("c") as producer:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await consumer.arecv_record()
            producer.send_many([b"1", b"2", b"3", b"4"])
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await producer.asend(b"5")
            assert [await consumer.arecv() for _ in range(4)] == [b"1", b"2", b"3", b"4"]
            assert consumer.try_recv_record() is None

    run(wait())


def test_two_tasks_may_wait_for_one_endpoint(heap: ipcheap.Heap, run: Run) -> None:
    async def both() -> list[bytes]:
        with heap.consumer("c") as consumer, heap.producer("c") as producer:
            first, second = (asyncio.ensure_future(consumer.arecv()) for _ in range(2))
            await asyncio.sleep(0.01)
            producer.send(b"1")
            await asyncio.sleep(0.01)
            producer.send(b"2")
            return sorted([await first, await second])

    assert run(both()) == [b"1", b"2"]


@pytest.mark.parametrize("how", ["close", "kill"])
def test_the_end_of_the_other_side_is_told(heap: ipcheap.Heap, run: Run, how: str) -> None:
    async def wait(peer: peers.Peer[None]) -> None:
        with heap.consumer("c") as consumer:
            receiving = asyncio.ensure_future(consumer.arecv())
            await asyncio.sleep(0.05)
            if how == "kill":
                peer.kill()
            else:
                peer.tell("close")
            with pytest.raises(ipcheap.PeerDied if how == "kill" else ipcheap.ChannelClosed):
                await receiving

    with peers.run(workers.hold_side, heap, "c", "producer") as peer:
        peer.hear()
        run(wait(peer))
        if how == "close":
            assert peer.hear() == "closed"
            peer.tell("go")


def test_closing_wakes_who_waits(heap: ipcheap.Heap, run: Run) -> None:
    async def wait() -> None:
        consumer = heap.consumer("c")
        receiving = asyncio.ensure_future(consumer.arecv())
        await asyncio.sleep(0.01)
        consumer.close()
        with pytest.raises(ipcheap.EndpointClosed):
            await receiving

    run(wait())


def test_another_thread_may_close_the_heap(heap: ipcheap.Heap) -> None:
    async def wait() -> None:
        consumer = heap.consumer("c")
        threading.Timer(0.05, heap.close).start()
        with pytest.raises((ipcheap.HeapClosed, ipcheap.EndpointClosed)):
            async with asyncio.timeout(peers.PATIENCE):
                await consumer.arecv()

    asyncio.run(wait())


def test_one_loop_after_another(heap: ipcheap.Heap, run: Run) -> None:
    with heap.consumer("c") as consumer, heap.producer("c") as producer:
        for number in range(3):

            async def once(data: bytes = bytes([number])) -> bytes:
                receiving = asyncio.ensure_future(consumer.arecv())
                await asyncio.sleep(0)
                producer.send(data)
                return await receiving

            assert run(once()) == bytes([number])


def test_a_forked_child_that_closes_the_heap_leaves_the_loop_alone(heap: ipcheap.Heap) -> None:
    async def wait() -> bytes:
        with heap.consumer("c") as consumer, heap.producer("c") as producer:
            receiving = asyncio.ensure_future(consumer.arecv())
            await asyncio.sleep(0.01)
            child = os.fork()
            if child == 0:
                code = 1
                with contextlib.suppress(BaseException):
                    heap.close()
                    code = 0
                os._exit(code)
            assert os.waitpid(child, 0)[1] == 0
            producer.send(b"still here")
            async with asyncio.timeout(peers.PATIENCE):
                return await receiving

    assert asyncio.run(wait()) == b"still here"


def test_an_idle_loop_sleeps(heap: ipcheap.Heap) -> None:
    async def wait() -> float:
        with heap.consumer("c") as consumer, heap.producer("d") as producer:
            producer.send(b"")
            await producer.asend(b"")
            receiving = asyncio.ensure_future(consumer.arecv())
            await asyncio.sleep(0.05)
            before = time.process_time()
            await asyncio.sleep(0.5)
            used = time.process_time() - before
            receiving.cancel()
            return used

    assert asyncio.run(wait()) < 0.2, "it would have been 0.5 had it spun"


# anyio --------------------------------------------------------------------------------------


async def receive(consumer: ipcheap.Consumer) -> ipcheap.Record:
    """Receive on any event loop that anyio supports: the recipe of docs/waiting.md."""
    while (record := consumer.try_recv_record()) is None:
        await anyio.wait_readable(consumer)
    return record


async def send(producer: ipcheap.Producer, record: ipcheap.Record) -> None:
    while not producer.try_send_record(record):
        await anyio.wait_readable(producer)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_the_recipe_for_anyio_works(heap: ipcheap.Heap, backend: str) -> None:
    seen: list[int] = []

    async def consume() -> None:
        with heap.consumer("c") as consumer, contextlib.suppress(ipcheap.ChannelClosed):
            while True:
                with anyio.move_on_after(0.0001):
                    with await receive(consumer) as record:
                        seen.append(workers.number_of(record.view))

    async def produce() -> None:
        with heap.producer("c") as producer:
            for number in range(300):
                record = producer.allocate_record(8)
                record.view[:] = number.to_bytes(8, "little")
                await send(producer, record)

    async def both() -> None:
        with anyio.fail_after(peers.PATIENCE):
            async with anyio.create_task_group() as group:
                group.start_soon(consume)
                group.start_soon(produce)

    anyio.run(both, backend=backend)
    assert seen == list(range(300))

"""A loop over a consumer holds no record once it has been left, in whatever way."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from typing import TYPE_CHECKING

import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "1MiB", shm="memfd") as heap:
        heap.add_record_channel("c", 8)
        gc.disable()  # what is released has to be without it
        yield heap
        gc.enable()


def held(consumer: ipcheap.Consumer) -> int:
    return consumer.statistics().held


def test_a_for_loop_that_is_left_holds_nothing(heap: ipcheap.Heap) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        producer.send_many([b"1", b"2", b"3"])
        for record in consumer:
            if bytes(record) == b"2":
                break
        assert bytes(record) == b"2"  # it is the caller's
        assert held(consumer) == 1
        del record
        assert (held(consumer), heap.statistics().records) == (0, 1)


@pytest.mark.parametrize("left_by", ["break", "return", "exception"])
def test_an_async_for_loop_that_is_left_holds_nothing(heap: ipcheap.Heap, left_by: str) -> None:
    async def loop(consumer: ipcheap.Consumer) -> int:
        seen = 0
        async for record in consumer:
            seen += 1
            assert bytes(record) == str(seen).encode()
            assert held(consumer) == 1
            if seen < 2:
                continue
            if left_by == "break":
                break
            if left_by == "return":
                return held(consumer)
            raise LookupError
        assert bytes(record) == b"2"
        del record
        assert held(consumer) == 0
        return seen

    async def main() -> None:
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            producer.send_many([b"1", b"2", b"3"])
            with contextlib.suppress(LookupError):
                await loop(consumer)
            # No task of the loop has run since.
            assert (held(consumer), heap.statistics().records) == (0, 1)

    asyncio.run(main())


def test_an_async_for_loop_that_is_cancelled_holds_nothing(heap: ipcheap.Heap) -> None:
    async def loop(consumer: ipcheap.Consumer) -> None:
        async for _ in consumer:
            pass

    async def main() -> None:
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            producer.send(b"1")
            task = asyncio.create_task(loop(consumer))
            await asyncio.sleep(0.01)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            del task
            assert (held(consumer), heap.statistics().records) == (0, 0)

    asyncio.run(main())


def test_an_async_for_loop_ends_with_its_channel(heap: ipcheap.Heap) -> None:
    async def main() -> list[bytes]:
        with heap.consumer("c") as consumer:
            with heap.producer("c") as producer:
                producer.send_many([b"1", b"2"])
            return [bytes(record) async for record in consumer]

    assert asyncio.run(main()) == [b"1", b"2"]
    assert heap.statistics().records == 0

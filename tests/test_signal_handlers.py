"""A signal handler that runs during a wait may use the heap: the call works or raises."""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING

import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Arrange = Callable[[Callable[[], object]], None]


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "1MiB", shm="memfd") as heap:
        heap.add_record_channel("c", 4)
        yield heap


@pytest.fixture
def during_wait() -> Iterator[Arrange]:
    """Call a function in a handler, shortly after the test has begun to wait."""
    before = signal.getsignal(signal.SIGALRM)

    def arrange(act: Callable[[], object]) -> None:
        signal.signal(signal.SIGALRM, lambda *_: act())
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    assert threading.current_thread() is threading.main_thread()
    yield arrange
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_handler_sends_what_the_wait_is_for(heap: ipcheap.Heap, during_wait: Arrange) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        during_wait(lambda: producer.send(b"sent"))
        assert consumer.recv(timeout=10) == b"sent"


def test_a_handler_uses_the_endpoint_that_waits(heap: ipcheap.Heap, during_wait: Arrange) -> None:
    got: list[bytes] = []
    with heap.producer("c") as producer, heap.consumer("c") as consumer:

        def act() -> None:
            producer.send_many([b"1", b"2"])
            got.append(consumer.recv(timeout=0))
            assert heap.statistics().records == 1
            with ipcheap.Heap.create(None, "1MiB", shm="memfd") as other:
                other.allocate_record(8).free()

        during_wait(act)
        assert (consumer.recv(timeout=10), got) == (b"2", [b"1"])


@pytest.mark.parametrize("closes", ["endpoint", "heap"])
def test_a_handler_that_closes_ends_the_wait(
    heap: ipcheap.Heap, during_wait: Arrange, closes: str
) -> None:
    consumer = heap.consumer("c")
    during_wait(consumer.close if closes == "endpoint" else heap.close)
    with pytest.raises((ipcheap.EndpointClosed, ipcheap.HeapClosed)):
        consumer.recv(timeout=10)


def test_the_exception_of_a_handler_ends_the_wait(heap: ipcheap.Heap, during_wait: Arrange) -> None:
    def act() -> None:
        raise LookupError

    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        during_wait(act)
        with pytest.raises(LookupError):
            consumer.recv(timeout=10)
        producer.send(b"later")
        assert consumer.recv(timeout=10) == b"later"

"""A consumer holds as much as it likes: the channel goes on, and a death loses only that."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SLOTS = 4
HELD = 500


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "64MiB") as made:
        made.add_record_channel("c", SLOTS)
        yield made


def send_number(producer: ipcheap.Producer, number: int) -> None:
    producer.send(number.to_bytes(8, "little"), timeout=peers.PATIENCE)


def send_array(producer: ipcheap.Producer, number: int) -> None:
    with producer.loan((100,), "i8", timeout=peers.PATIENCE) as array:
        array[:] = number


def send_object(producer: ipcheap.Producer, number: int) -> None:
    producer.send_object({"all": np.full(100, number)}, timeout=peers.PATIENCE)


def receive_record(consumer: ipcheap.Consumer) -> ipcheap.Record:
    return consumer.recv_record(timeout=peers.PATIENCE)


def receive_array(consumer: ipcheap.Consumer) -> Any:
    return consumer.recv_array(timeout=peers.PATIENCE)


def receive_object(consumer: ipcheap.Consumer) -> Any:
    return consumer.recv_object(timeout=peers.PATIENCE)


def number_of(thing: Any) -> int:
    if isinstance(thing, ipcheap.Record):
        return int.from_bytes(thing.view[:8], "little")
    return int((thing["all"] if isinstance(thing, dict) else thing)[99])


SEND = {"records": send_number, "arrays": send_array, "objects": send_object}
RECEIVE = {"records": receive_record, "arrays": receive_array, "objects": receive_object}


def send_all(heap: ipcheap.Heap, what: str) -> None:
    with heap, heap.producer("c", timeout=peers.PATIENCE) as producer:
        for number in range(HELD):
            SEND[what](producer, number)


def hold_all_and_die(heap: ipcheap.Heap, what: str) -> None:
    consumer = heap.consumer("c", timeout=peers.PATIENCE)
    held = [RECEIVE[what](consumer) for _ in range(HELD)]
    assert [number_of(thing) for thing in held] == list(range(HELD))
    peers.say(consumer.statistics().detached)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("what", SEND)
def test_five_hundred_are_held_in_a_ring_of_four(heap: ipcheap.Heap, what: str) -> None:
    with peers.run(send_all, heap, what) as producer, heap.consumer("c") as consumer:
        held = [RECEIVE[what](consumer) for _ in range(HELD)]
        assert producer.wait() == 0
        assert [number_of(thing) for thing in held] == list(range(HELD))
        assert consumer.statistics().detached == HELD - SLOTS
        assert heap.statistics().records == HELD
        assert heap.check() == []
        del held
        gc.collect()
        assert heap.statistics().records == 0
        assert heap.statistics().in_use == 0
    assert heap.check() == []


@pytest.mark.parametrize("what", SEND)
def test_of_a_killed_holder_only_what_was_detached_is_gone(heap: ipcheap.Heap, what: str) -> None:
    with heap.producer("c") as producer:
        with peers.run(hold_all_and_die, heap, what) as holder:
            for number in range(HELD):
                SEND[what](producer, number)
            assert holder.hear() == HELD - SLOTS
            assert holder.wait() == -signal.SIGKILL
        with heap.consumer("c") as consumer:
            again = [RECEIVE[what](consumer) for _ in range(SLOTS)]
            assert [number_of(thing) for thing in again] == list(range(HELD - SLOTS, HELD))
            assert consumer.try_recv_record() is None
            del again
            gc.collect()
    assert heap.statistics().in_use == 0
    assert heap.check() == []


def test_detached_records_may_be_freed_kept_and_sent_on_by_any_thread(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("on", 1024)
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        held = []
        for number in range(90):
            assert consumer.try_recv_record() is None
            send_number(producer, number)
            held.append(receive_record(consumer))

        def use() -> None:
            with heap.producer("on") as on, heap.consumer("on") as off:
                for record in held[0:90:3]:
                    record.free()
                for record in held[1:90:3]:
                    record.keep()
                for record in held[2:90:3]:
                    on.send_record(record)
                passed = off.recv_many(1024)
            assert [int.from_bytes(data, "little") for data in passed] == list(range(2, 90, 3))

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        assert [number_of(record) for record in held[1:90:3]] == list(range(1, 90, 3))
        for record in held[1:90:3]:
            record.free()
        for record in held:
            with pytest.raises(ipcheap.RecordError):
                record.free()
    assert heap.statistics().in_use == 0
    assert heap.check() == []


def wait_at_descriptor(consumer: ipcheap.Consumer) -> None:
    select.select([consumer], [], [], 0)


@pytest.mark.parametrize(
    "ask",
    [
        lambda consumer: consumer.try_recv_record(),
        lambda consumer: consumer.recv_many(timeout=0),
        lambda consumer: ipcheap.wait([consumer], timeout=0),
        wait_at_descriptor,
    ],
    ids=["receive", "receive many", "wait", "descriptor"],
)
@pytest.mark.parametrize("slots", [1, 2])
def test_to_ask_for_one_more_makes_room_for_it(
    heap: ipcheap.Heap, slots: int, ask: Callable[[ipcheap.Consumer], Any]
) -> None:
    heap.add_record_channel(1, slots)
    with heap.producer(1) as producer, heap.consumer(1) as consumer:
        for number in range(slots):
            send_number(producer, number)
        held = consumer.recv_records(slots)
        with pytest.raises(TimeoutError):
            producer.send(b"", timeout=0)
        assert consumer.statistics().detached == 0
        with contextlib.suppress(TimeoutError):
            ask(consumer)
        assert consumer.statistics().detached == 1
        send_number(producer, slots)
        held += consumer.recv_records(slots)
        assert [number_of(record) for record in held] == list(range(slots + 1))
        for record in held:
            record.free()
    assert heap.statistics().in_use == 0
    assert heap.check() == []

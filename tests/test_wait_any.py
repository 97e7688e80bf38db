"""ipcheap.wait(): any of many endpoints, events and cells, of any heaps."""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING, Any

import peers
import pytest
import seccomp
import workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

MANY = 300  # more than the kernel waits for together


_claimed: list[object] = []  # closed with the heap, together


def claim_consumer(heap: ipcheap.Heap, number: int) -> ipcheap.Consumer:
    consumer = heap.consumer(number, timeout=peers.PATIENCE)
    _claimed.append(consumer)
    return consumer


def claim_producer(heap: ipcheap.Heap, number: int) -> ipcheap.Producer:
    producer = heap.producer(number, timeout=peers.PATIENCE)
    _claimed.append(producer)
    return producer


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        for number in range(MANY):
            heap.add_record_channel(number, 4)
        heap.add_static_segment("words", MANY * 64)
        yield heap
    _claimed.clear()


def words(heap: ipcheap.Heap) -> ipcheap.StaticSegment:
    segment = heap.channel("words")
    assert isinstance(segment, ipcheap.StaticSegment)
    return segment


def test_it_returns_all_that_are_ready_in_their_order(heap: ipcheap.Heap) -> None:
    consumers = [claim_consumer(heap, number) for number in range(4)]
    producers = [claim_producer(heap, number) for number in range(4)]
    assert ipcheap.wait(consumers, timeout=0) == []
    producers[2].send(b"")
    producers[0].send(b"")
    assert ipcheap.wait(reversed(consumers)) == [consumers[2], consumers[0]]
    assert ipcheap.wait([*producers, *consumers], timeout=0) == [
        *producers,
        consumers[0],
        consumers[2],
    ]
    assert ipcheap.wait([consumers[0], consumers[0]]) == [consumers[0]] * 2


def test_nothing_to_wait_for_is_not_waited_for() -> None:
    assert ipcheap.wait([]) == []


def test_time_runs_out(heap: ipcheap.Heap) -> None:
    consumer = claim_consumer(heap, 0)
    begin = time.monotonic()
    assert ipcheap.wait([consumer], timeout=0.05) == []
    assert time.monotonic() - begin >= 0.05


def test_an_end_and_room_are_something_too(heap: ipcheap.Heap) -> None:
    consumer, producer = claim_consumer(heap, 0), claim_producer(heap, 0)
    for _ in range(4):
        assert ipcheap.wait([producer], timeout=0) == [producer]
        producer.send(b"")
    assert ipcheap.wait([producer], timeout=0) == []
    consumer.recv()
    assert ipcheap.wait([producer], timeout=0) == [producer]
    consumer.recv_many()
    assert ipcheap.wait([consumer], timeout=0) == []
    producer.close()
    assert ipcheap.wait([consumer]) == [consumer]


def feed_at_random(heap: ipcheap.Heap, channels: int, count: int) -> None:
    chance = random.Random(3)
    producers = [claim_producer(heap, number) for number in range(channels)]
    for number in range(count):
        producers[chance.randrange(channels)].send(number.to_bytes(8, "little"))
        if number % 8 == 0:
            time.sleep(chance.random() * 0.002)
    for producer in producers:
        producer.close()


def test_no_record_of_many_channels_is_missed(heap: ipcheap.Heap) -> None:
    consumers = {claim_consumer(heap, number) for number in range(MANY)}
    seen = []
    with peers.run(feed_at_random, heap, MANY, 1000) as peer:
        while consumers:
            ready = ipcheap.wait(consumers, timeout=peers.PATIENCE)
            assert ready
            for consumer in ready:
                try:
                    seen.append(workers.number_of(consumer.recv(timeout=0)))
                except ipcheap.ChannelClosed:
                    consumers.remove(consumer)
        peer.result()
    assert sorted(seen) == list(range(1000))


def set_and_change(heap: ipcheap.Heap, numbers: list[int]) -> None:
    segment = words(heap)
    for number in numbers:
        peers.listen()
        if number % 2:
            cell = segment.atomic(64 * number)
            cell.store(7)
            cell.notify()
        else:
            ipcheap.Event(segment, 64 * number).set()


def test_events_and_cells_beyond_what_the_kernel_waits_for_together(heap: ipcheap.Heap) -> None:
    segment = words(heap)
    things: list[Any] = [claim_consumer(heap, 0)]
    for number in range(MANY):
        cell = (segment.atomic(64 * number), 0)
        things.append(cell if number % 2 else ipcheap.Event(segment, 64 * number))
    chosen = [0, 1, 150, MANY - 1]
    with peers.run(set_and_change, heap, chosen) as peer:
        for number in chosen:
            assert ipcheap.wait(things, timeout=0) == []
            peer.tell("go")
            assert ipcheap.wait(things, timeout=peers.PATIENCE) == [things[number + 1]]
            if number % 2:
                segment.atomic(64 * number).store(0)
            else:
                ipcheap.Event(segment, 64 * number).clear()


def wait_for_one_of_each(heap: ipcheap.Heap, other_name: str, refused: list[str]) -> None:
    with ipcheap.Heap.attach(other_name) as other:
        things: list[Any] = [
            claim_consumer(heap, 0),
            claim_consumer(other, 0),
            ipcheap.Event(words(heap), 0),
        ]
        seccomp.refuse(*refused)
        peers.say("waiting")
        for expected in range(3):
            assert ipcheap.wait(things, timeout=peers.PATIENCE) == [things[expected]]
            if expected < 2:
                things[expected].recv()
            peers.say(expected)


@pytest.mark.parametrize(
    "refused", [[], ["futex_waitv"]], ids=["with futex_waitv", "without futex_waitv"]
)
def test_several_heaps_and_kinds_mix(
    heap: ipcheap.Heap, heap_name: str, refused: list[str]
) -> None:
    with ipcheap.Heap.create(f"{heap_name}.other", "1MiB") as other:
        try:
            other.add_record_channel(0, 4)
            with peers.run(wait_for_one_of_each, heap, str(other.name), refused) as peer:
                assert peer.hear() == "waiting"
                claim_producer(heap, 0).send(b"")
                assert peer.hear() == 0
                claim_producer(other, 0).send(b"")
                assert peer.hear() == 1
                ipcheap.Event(words(heap), 0).set()
                assert peer.hear() == 2
                peer.result()
        finally:
            other.unlink()


def claim_all(heap: ipcheap.Heap) -> None:
    held = [claim_producer(heap, number) for number in range(20)]
    peers.say(len(held))
    peers.listen()


def test_a_death_ends_the_wait(heap: ipcheap.Heap) -> None:
    consumers = [claim_consumer(heap, number) for number in range(20)]
    with peers.run(claim_all, heap) as peer:
        assert peer.hear() == 20
        assert ipcheap.wait(consumers, timeout=0.01) == []
        threading.Timer(0.05, peer.kill).start()
        ready = ipcheap.wait(consumers, timeout=peers.PATIENCE)
        assert ready
        with pytest.raises(ipcheap.PeerDied):
            ready[0].recv(timeout=0)


def test_many_threads_wait_at_the_same_time(heap: ipcheap.Heap) -> None:
    seen: list[bytes] = []

    def wait(number: int) -> None:
        consumers = [claim_consumer(heap, 10 * number + n) for n in range(10)]
        (ready,) = ipcheap.wait(consumers, timeout=peers.PATIENCE)
        seen.append(ready.recv())

    threads = [threading.Thread(target=wait, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for number in range(20):
        producer = claim_producer(heap, 10 * number + number % 10)
        producer.wait_peer(peers.PATIENCE)
        producer.send(bytes([number]))
    for thread in threads:
        thread.join()
    assert sorted(seen) == [bytes([number]) for number in range(20)]


def test_closing_the_heap_ends_the_wait(heap: ipcheap.Heap) -> None:
    consumers = [claim_consumer(heap, number) for number in range(3)]
    threading.Timer(0.05, heap.close).start()
    with pytest.raises((ipcheap.HeapClosed, ipcheap.EndpointClosed)):
        ipcheap.wait(consumers, timeout=peers.PATIENCE)


def test_what_cannot_be_waited_for_is_refused(heap: ipcheap.Heap) -> None:
    consumer = claim_consumer(heap, 0)
    cell = words(heap).atomic(0)
    wrong: list[Any] = [None, 3, cell, (cell,), (cell, 1, 2), heap]
    for thing in wrong:
        with pytest.raises(TypeError):
            ipcheap.wait([consumer, thing])
    with pytest.raises(ValueError, match="timeout"):
        ipcheap.wait([consumer], timeout=-1)
    consumer.close()
    with pytest.raises(ipcheap.EndpointClosed):
        ipcheap.wait([claim_consumer(heap, 1), consumer])


def test_one_alone_is_no_list_and_nothing_is_received(heap: ipcheap.Heap) -> None:
    producer, consumer = claim_producer(heap, 0), claim_consumer(heap, 0)
    producer.send(b"1")
    for endpoint in (consumer, producer):
        with pytest.raises(TypeError, match=r"wait\(\[(consumer|producer)\]\)"):
            ipcheap.wait(endpoint, timeout=1)  # type: ignore[arg-type,type-var]
    assert consumer.recv() == b"1"


def test_a_stranger_thread_is_refused(heap: ipcheap.Heap) -> None:
    consumer = claim_consumer(heap, 0)
    errors: list[type[BaseException]] = []

    def wait() -> None:
        try:
            ipcheap.wait([consumer], timeout=0)
        except ipcheap.WrongThread as error:
            errors.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join()
    assert errors == [ipcheap.WrongThread]

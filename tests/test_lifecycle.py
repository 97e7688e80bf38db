"""How heaps and channels begin and end: early, late, in a race, half-way, and by kill -9."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import apart
import kinds
import peers
import pytest
import workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("numbers", 64)
        yield heap


def drain(consumer: ipcheap.Consumer) -> list[int]:
    """Receive everything that is there."""
    found = []
    while consumer.pending:
        found += [workers.number_of(data) for data in consumer.recv_many(timeout=0)]
    return found


# Before and after -----------------------------------------------------------------------


def test_what_was_sent_and_closed_before_any_consumer_came_is_received(heap_name: str) -> None:
    peers.call(workers.send_and_leave, heap_name, 1000)
    with ipcheap.Heap.attach(heap_name) as heap, heap.consumer("numbers") as consumer:
        assert consumer.pending == 1000
        workers.take_numbers(consumer, 1000)
        for _ in range(2):
            with pytest.raises(ipcheap.ChannelClosed, match=f"'numbers'.*{heap_name}"):
                consumer.recv(timeout=5)
        assert list(consumer) == []


def test_attach_waits_for_a_heap_that_comes(heap_name: str) -> None:
    with peers.run(workers.attach_when_it_comes, heap_name) as peer:
        assert peer.hear() == "waiting"
        time.sleep(0.1)
        with ipcheap.Heap.create(heap_name, "1MiB") as heap:
            assert peer.result() == heap.identity


def test_attach_waits_no_longer_than_told(heap_name: str) -> None:
    began = time.monotonic()
    with pytest.raises(ipcheap.HeapNotFound, match=heap_name):
        ipcheap.Heap.attach(heap_name)
    with pytest.raises(ipcheap.HeapNotFound, match=heap_name):
        ipcheap.Heap.attach(heap_name, timeout=0.2)
    assert time.monotonic() - began >= 0.2


def test_a_consumer_waits_for_a_channel_that_comes(heap: ipcheap.Heap) -> None:
    with peers.run(workers.consume_when_it_comes, heap, "later") as peer:
        assert peer.hear() == "waiting"
        time.sleep(0.1)
        heap.add_record_channel("later")
        with heap.producer("later") as producer:
            producer.send(b"here")
            assert peer.result() == b"here"


def test_ten_processes_that_race_to_open_have_one_heap(heap_name: str, tmp_path: Path) -> None:
    places = [
        (str(kind.place(f"{heap_name}.{kind}.{turn}", tmp_path)), *kind)
        for kind in kinds.NAMED
        for turn in range(2)
    ]
    crowd = [peers.run(workers.race_to_open, places) for _ in range(10)]
    try:
        for place, *_ in places:
            for peer in crowd:
                assert peer.hear() == "ready"
            start = time.monotonic() + 0.05
            for peer in crowd:
                peer.tell(start)
            for peer in crowd:
                assert peer.hear() == "in"
            with ipcheap.Heap.attach(place) as heap:
                arrived = heap.channel("arrived")
                assert isinstance(arrived, ipcheap.StaticSegment)
                assert arrived.atomic(0).load() == 10, place
                assert heap.check() == []
            for peer in crowd:
                peer.tell("next")
        found = [peer.result() for peer in crowd]
        assert found == [found[0]] * 10
        assert len(set(found[0])) == len(places)
    finally:
        for peer in crowd:
            peer.__exit__()
        for place, *_ in places:
            kinds.forget(place)


@pytest.mark.parametrize("kind", kinds.NAMED, ids=str)
def test_a_creator_killed_anywhere_leaves_a_heap_that_the_next_one_makes(
    kind: kinds.Kind, tmp_path: Path
) -> None:
    assert kinds.call_apart(apart.kill_creators_everywhere, *kind, str(tmp_path)) > 30


@pytest.mark.parametrize("kind", kinds.NAMED[::4], ids=str)
def test_what_a_killed_creator_left_can_be_unlinked(kind: kinds.Kind, tmp_path: Path) -> None:
    assert kinds.call_apart(apart.kill_creators_and_unlink, *kind, str(tmp_path)) > 30


def test_a_heap_of_the_same_name_is_another_one(heap: ipcheap.Heap, heap_name: str) -> None:
    record = heap.allocate_record(1000)
    record.view[:] = b"o" * 1000
    heap.unlink()
    with ipcheap.Heap.create(heap_name, "1MiB") as other:
        assert other.identity != heap.identity
        assert other.statistics().records == 0
        with pytest.raises(ipcheap.HeapNotFound):
            heap.unlink()  # not that one
        assert bytes(record) == b"o" * 1000
        record.free()
        with ipcheap.Heap.attach(heap_name) as again:
            assert again.identity == other.identity


def test_the_memory_lives_until_the_last_close(heap: ipcheap.Heap, heap_name: str) -> None:
    def mapped() -> bool:
        return heap_name in Path("/proc/self/maps").read_text()

    other = ipcheap.Heap.attach(heap_name)
    view = other.add_static_segment("s", 64).view
    record = heap.allocate_record(8)
    heap.unlink()
    other.close()
    view[:4] = b"view"  # which keeps its part
    assert bytes(view[:4]) == b"view"
    del view
    heap.close()
    record.view[:] = b"a record"
    record.free()
    del record
    gc.collect()
    assert not mapped()


# Deaths ---------------------------------------------------------------------------------


def test_a_killed_producer_loses_nothing_it_had_sent(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("many", 1024)
    with peers.run(workers.send_then_die, heap, "many", 1000) as peer:
        assert peer.hear() == "sent"
        assert peer.wait() == -signal.SIGKILL
    with heap.consumer("many") as consumer:
        workers.take_numbers(consumer, 1000)
        for _ in range(2):
            with pytest.raises(ipcheap.PeerDied, match=r"'many'.*producer has died"):
                consumer.recv(timeout=5)
        with pytest.raises(ipcheap.PeerDied):
            consumer.try_recv_record()
    assert heap.statistics().records == 0
    assert heap.check() == []


def test_a_consumer_that_sleeps_hears_of_the_producers_death(heap: ipcheap.Heap) -> None:
    with peers.run(workers.hold_side, heap, "numbers", "producer") as peer:
        peer.hear()
        threading.Timer(0.3, peer.kill).start()
        with heap.consumer("numbers") as consumer, pytest.raises(ipcheap.PeerDied):
            consumer.recv(timeout=peers.PATIENCE)


def test_a_producer_that_sleeps_hears_of_the_consumers_death(heap: ipcheap.Heap) -> None:
    with peers.run(workers.hold_side, heap, "numbers", "consumer") as peer:
        peer.hear()
        with heap.producer("numbers") as producer:
            workers.give_numbers(producer, 0, 64)
            threading.Timer(0.3, peer.kill).start()
            with pytest.raises(ipcheap.PeerDied, match="consumer has died; wait_peer"):
                producer.send(b"no room", timeout=peers.PATIENCE)
    assert heap.statistics().records == 64


def test_what_a_killed_producer_had_not_sent_is_freed(heap: ipcheap.Heap) -> None:
    before = heap.statistics()
    with peers.run(workers.send_then_die, heap, "numbers", 10, spare=20) as peer:
        peer.hear()
        peer.wait()
    report = heap.recover()
    assert (report.participants, report.endpoints) == (1, 1)
    assert report.blocks >= 20
    assert report.bytes >= sum(5000 * turn for turn in range(1, 21))
    after = heap.statistics()
    assert after.records == before.records + 10
    with heap.consumer("numbers") as consumer:
        workers.take_numbers(consumer, 10)
    assert heap.statistics().in_use == before.in_use
    assert heap.recover().participants == 0
    assert heap.check() == []


def test_another_producer_goes_on_where_a_killed_one_stood(heap: ipcheap.Heap) -> None:
    with heap.consumer("numbers") as consumer:
        for first in (0, 20, 40):
            with peers.run(workers.send_then_die, heap, "numbers", 20) as peer:
                peer.hear()
                peer.wait()
            assert drain(consumer) == list(range(20)), first
            with pytest.raises(ipcheap.PeerDied):
                consumer.recv(timeout=5)
        with heap.producer("numbers", timeout=5) as producer:
            producer.send(b"well")
            assert consumer.recv(timeout=5) == b"well"
            with pytest.raises(TimeoutError):  # a living one exists now
                consumer.recv(timeout=0)
        assert consumer.statistics().sent == 61


@pytest.mark.parametrize("turn", range(8))
def test_a_producer_killed_at_any_time_sent_a_beginning_in_order(
    heap: ipcheap.Heap, turn: int
) -> None:
    with (
        peers.run(workers.send_for_ever, heap, "numbers") as peer,
        heap.consumer("numbers") as consumer,
    ):
        found = [workers.number_of(consumer.recv(timeout=peers.PATIENCE))]
        assert peer.hear() == "begun"
        threading.Timer(0.01 + 0.013 * turn, peer.kill).start()
        with pytest.raises(ipcheap.PeerDied):
            found.extend(workers.all_numbers(consumer))
    assert found == list(range(len(found)))
    heap.recover()
    assert (heap.statistics().records, heap.check()) == (0, [])


def test_what_a_killed_consumer_held_is_redelivered(heap: ipcheap.Heap) -> None:
    with heap.producer("numbers") as producer:
        workers.give_numbers(producer, 0, 30)
        with peers.run(workers.receive_and_die, heap, "numbers", 10, [0, 3, 4, 9]) as peer:
            held = peer.hear()
            assert held == [1, 2, 5, 6, 7, 8]
            peer.wait()
        assert heap.recover().redelivered == 6
        with heap.consumer("numbers") as consumer:
            workers.give_numbers(producer, 30, 5)
            assert consumer.pending == len(held) + 25
            assert drain(consumer) == held + list(range(10, 35))
            assert consumer.pending == 0
    assert heap.statistics().records == 0
    assert heap.check() == []


def test_a_consumer_claims_the_side_of_a_killed_one_without_recovery(heap: ipcheap.Heap) -> None:
    with heap.producer("numbers") as producer:
        workers.give_numbers(producer, 0, 20)
    with peers.run(workers.receive_and_die, heap, "numbers", 5, [1]) as peer:
        peer.hear()
        peer.wait()
    with heap.consumer("numbers") as consumer:
        assert drain(consumer) == [0, 2, 3, *range(4, 20)]
        with pytest.raises(ipcheap.ChannelClosed):
            consumer.recv(timeout=5)
    assert (heap.statistics().records, heap.check()) == (0, [])


def test_a_stopped_peer_is_not_dead(heap: ipcheap.Heap) -> None:
    with peers.run(workers.hold_side, heap, "numbers", "producer") as peer:
        peer.hear()
        peer.kill(signal.SIGSTOP)
        try:
            with heap.consumer("numbers") as consumer, pytest.raises(TimeoutError):
                consumer.recv(timeout=1.5)
            with pytest.raises(ipcheap.ChannelBusy):
                heap.producer("numbers")
            assert heap.recover().participants == 0
        finally:
            peer.kill(signal.SIGCONT)
        peer.tell("close")
        assert peer.hear() == "closed"
        peer.tell("go")


def test_a_signal_ends_the_wait_and_changes_nothing(heap: ipcheap.Heap) -> None:
    class Enough(Exception):
        pass

    def handle(*_: object) -> None:
        raise Enough

    before = signal.signal(signal.SIGUSR1, handle)
    try:
        with heap.producer("numbers") as producer, heap.consumer("numbers") as consumer:
            for receive in (consumer.recv, consumer.recv_record, consumer.recv_many):
                threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1]).start()
                with pytest.raises(Enough):
                    receive(timeout=peers.PATIENCE)
            workers.give_numbers(producer, 0, 64)
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1]).start()
            with pytest.raises(Enough):
                producer.send(b"no room", timeout=peers.PATIENCE)
            consumer.close()
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1]).start()
            with pytest.raises(Enough):
                producer.wait_peer(timeout=peers.PATIENCE)
        with heap.consumer("numbers") as consumer:
            assert drain(consumer) == list(range(64))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (heap.statistics().records, heap.check()) == (0, [])


# Ends -----------------------------------------------------------------------------------


def test_iteration_ends_with_the_channel(heap: ipcheap.Heap) -> None:
    with heap.producer("numbers") as producer, heap.consumer("numbers") as consumer:
        workers.give_numbers(producer, 0, 40)
        producer.close()
        assert [workers.number_of(record.view) for record in consumer] == list(range(40))
        assert list(consumer) == []
    assert heap.statistics().records == 0


def test_iteration_does_not_hide_a_death(heap: ipcheap.Heap) -> None:
    with peers.run(workers.send_then_die, heap, "numbers", 3) as peer:
        peer.wait()
    found: list[int] = []
    with heap.consumer("numbers") as consumer, pytest.raises(ipcheap.PeerDied):
        found.extend(workers.number_of(record.view) for record in consumer)
    assert found == [0, 1, 2]


def test_a_new_producer_cancels_the_end(heap: ipcheap.Heap) -> None:
    with heap.consumer("numbers") as consumer:
        for turn in range(5):
            with heap.producer("numbers") as producer:
                producer.send(bytes([turn]))
            assert consumer.recv(timeout=5) == bytes([turn])
            with pytest.raises(ipcheap.ChannelClosed):
                consumer.try_recv_record()
        with heap.producer("numbers"):
            assert consumer.try_recv_record() is None


def test_a_consumer_that_sleeps_hears_of_the_end(heap: ipcheap.Heap) -> None:
    with peers.run(workers.hold_side, heap, "numbers", "producer") as peer:
        peer.hear()
        threading.Timer(0.2, peer.tell, ["close"]).start()
        with heap.consumer("numbers") as consumer, pytest.raises(ipcheap.ChannelClosed):
            consumer.recv(timeout=peers.PATIENCE)
        assert peer.hear() == "closed"
        peer.tell("go")


def test_a_full_ring_whose_consumer_has_closed_refuses(heap: ipcheap.Heap) -> None:
    heap.consumer("numbers").close()
    with heap.producer("numbers") as producer:
        workers.give_numbers(producer, 0, 64)  # there is room, so the send would not wait
        records = heap.statistics().records
        with pytest.raises(ipcheap.ChannelClosed, match="consumer has closed"):
            producer.send(b"no", timeout=5)
        record = producer.allocate_record(8)
        with pytest.raises(ipcheap.ChannelClosed):
            producer.try_send_record(record)
        record.free()
        assert heap.statistics().records == records
        with heap.consumer("numbers") as consumer:
            assert drain(consumer) == list(range(64))
            producer.send(b"yes", timeout=5)
            assert consumer.recv(timeout=5) == b"yes"


def test_a_side_that_was_never_claimed_is_waited_for(heap: ipcheap.Heap) -> None:
    with heap.consumer("numbers") as consumer:
        assert consumer.try_recv_record() is None
        with pytest.raises(TimeoutError):
            consumer.recv(timeout=0.05)
    heap.add_record_channel("other", 1)
    with heap.producer("other") as producer:
        while producer.statistics().sent < producer.capacity:
            producer.send(b"", timeout=5)
        with pytest.raises(TimeoutError):
            producer.send(b"", timeout=0.05)


def test_a_closing_consumer_keeps_what_it_holds(heap: ipcheap.Heap) -> None:
    with heap.producer("numbers") as producer:
        workers.give_numbers(producer, 0, 10)
        consumer = heap.consumer("numbers")
        held = [consumer.recv_record(timeout=5) for _ in range(4)]
        consumer.close()
        with heap.consumer("numbers") as other:
            assert drain(other) == list(range(4, 10))
        assert [workers.number_of(record.view) for record in held] == [0, 1, 2, 3]
        assert heap.statistics().records == 4
        for record in held:
            record.free()
        assert (heap.statistics().records, heap.check()) == (0, [])


def test_each_side_is_claimed_again_and_again(heap: ipcheap.Heap) -> None:
    for turn in range(50):
        with heap.producer("numbers") as producer:
            producer.send(turn.to_bytes(8, "little"))
        if turn % 3 == 2:
            with heap.consumer("numbers") as consumer:
                assert drain(consumer) == [turn - 2, turn - 1, turn]
    with heap.consumer("numbers") as consumer:
        assert drain(consumer) == [48, 49]
    assert heap.statistics().records == 0


def test_a_side_is_waited_for_until_its_holder_closes(heap: ipcheap.Heap) -> None:
    with peers.run(workers.hold_side, heap, "numbers", "producer") as peer:
        peer.hear()
        with pytest.raises(ipcheap.ChannelBusy):
            heap.producer("numbers", timeout=0.1)
        threading.Timer(0.2, peer.tell, ["close"]).start()
        with heap.producer("numbers", timeout=peers.PATIENCE) as producer:
            producer.send(b"mine")
        assert peer.hear() == "closed"
        peer.tell("go")


def test_a_side_is_waited_for_until_its_holder_is_killed(heap: ipcheap.Heap) -> None:
    with peers.run(workers.hold_side, heap, "numbers", "consumer") as peer:
        peer.hear()
        threading.Timer(0.2, peer.kill).start()
        with heap.consumer("numbers", timeout=peers.PATIENCE):
            pass


def test_closing_the_heap_closes_its_endpoints(heap: ipcheap.Heap, heap_name: str) -> None:
    with ipcheap.Heap.attach(heap_name) as other:
        producer = other.producer("numbers")
        producer.send(b"1")
        other.close()
        assert producer.closed
        with pytest.raises(ValueError, match="closed"):  # HeapClosed or EndpointClosed
            producer.send(b"2")
        producer.close()
        other.close()
    with heap.consumer("numbers") as consumer:
        assert consumer.recv(timeout=5) == b"1"
        with pytest.raises(ipcheap.ChannelClosed):
            consumer.recv(timeout=5)


def test_a_process_that_ends_without_closing_ends_its_channels(heap: ipcheap.Heap) -> None:
    with peers.run(workers.exit_without_closing, heap, "numbers") as peer:
        assert peer.hear() == "sent"
        assert peer.wait() == 0
    with heap.consumer("numbers") as consumer:
        assert consumer.recv(timeout=5) == b"last"
        with pytest.raises(ipcheap.ChannelClosed):
            consumer.recv(timeout=5)


def test_a_thread_that_ends_ends_its_endpoints(heap: ipcheap.Heap) -> None:
    left = []

    def produce() -> None:
        left.append(heap.producer("numbers"))
        left[0].send(b"1")

    thread = threading.Thread(target=produce)
    thread.start()
    thread.join()
    with heap.consumer("numbers") as consumer:
        assert consumer.recv(timeout=5) == b"1"
        with pytest.raises(ipcheap.ChannelClosed):
            consumer.recv(timeout=5)
    left[0].close()
    heap.producer("numbers").close()


def test_a_dropped_endpoint_is_closed_with_a_warning(heap: ipcheap.Heap) -> None:
    producer = heap.producer("numbers")
    producer.send(b"1")
    with pytest.warns(ResourceWarning, match="numbers"):
        del producer
    with heap.consumer("numbers") as consumer:
        assert consumer.recv(timeout=5) == b"1"
        with pytest.raises(ipcheap.ChannelClosed):
            consumer.recv(timeout=5)


def test_wait_peer_waits_for_a_living_other_side(heap: ipcheap.Heap) -> None:
    with heap.producer("numbers") as producer:
        with pytest.raises(TimeoutError):
            producer.wait_peer(timeout=0.05)
        with peers.run(workers.hold_side, heap, "numbers", "consumer") as peer:
            producer.wait_peer(timeout=peers.PATIENCE)
            peer.hear()
            peer.kill()
            peer.wait()
        with pytest.raises(TimeoutError):
            producer.wait_peer(timeout=0.05)

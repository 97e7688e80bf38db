"""What sends many things sends all of them, or says in `done` how many, and keeps the rest."""

from __future__ import annotations

import contextlib
import pickle
import signal
import threading
from typing import TYPE_CHECKING, Any

import peers
import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONG = 100_000


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("c", 2)
        heap.add_record_channel("wide", 1024)
        yield heap


def made(producer: ipcheap.Producer, count: int, nbytes: int = 1) -> list[ipcheap.Record]:
    """Return records whose first bytes count from 0."""
    records = producer.allocate_records(nbytes, count)
    for n, record in enumerate(records):
        record[0] = n
    return records


def send(
    how: str, producer: ipcheap.Producer, count: int, timeout: float | None = 0
) -> tuple[Callable[[], int], Callable[[int], None]]:
    """Return a call that sends so many, and one that sees that those from one on are ours."""
    if how == "send_many":
        datas = [bytes([n]) for n in range(count)]
        return lambda: producer.send_many(iter(datas), timeout), lambda _done: None
    records = made(producer, count)

    def still_ours(done: int) -> None:
        for record in records[:done]:
            with pytest.raises(ipcheap.RecordError, match="sent"):
                record.free()
        for n, record in enumerate(records[done:], done):
            assert bytes(record) == bytes([n])
            record.free()

    return lambda: producer.send_records(iter(records), timeout), still_ours


def all_of(consumer: ipcheap.Consumer) -> list[bytes]:
    """Receive what there is."""
    found: list[bytes] = []
    with contextlib.suppress(TimeoutError):
        while True:
            found += consumer.recv_many(timeout=0)
    return found


def numbers(count: int) -> list[bytes]:
    return [bytes([n]) for n in range(count)]


BOTH = pytest.mark.parametrize("how", ["send_many", "send_records"])


# The other side -----------------------------------------------------------------------------


def receive_two(heap: ipcheap.Heap) -> None:
    consumer = heap.consumer("c", timeout=peers.PATIENCE)
    peers.say("claimed")
    held = [consumer.recv_record(timeout=peers.PATIENCE) for _ in range(2)]
    peers.say(len(held))
    peers.listen()


@BOTH
def test_a_consumer_killed_after_the_second_record_leaves_two_to_its_successor(
    heap: ipcheap.Heap, how: str
) -> None:
    with heap.producer("c") as producer, peers.run(receive_two, heap) as peer:
        assert peer.hear() == "claimed"
        call, still_ours = send(how, producer, 4, peers.PATIENCE)

        def kill_when_it_holds_two() -> None:
            peer.hear()
            peer.kill()

        killer = threading.Thread(target=kill_when_it_holds_two)
        killer.start()
        with pytest.raises(ipcheap.PeerDied) as caught:
            call()
        killer.join()
        assert caught.value.done == 2
        still_ours(2)
        with heap.consumer("c") as successor:
            assert all_of(successor) == numbers(2)
            assert producer.send_many(numbers(2)) == 2
            assert all_of(successor) == numbers(2)
    assert (heap.statistics().records, heap.check()) == (0, [])


@BOTH
def test_a_consumer_that_closes(heap: ipcheap.Heap, how: str) -> None:
    with heap.producer("c") as producer:
        call, still_ours = send(how, producer, 5, peers.PATIENCE)
        closed = threading.Event()

        def take_one_and_close() -> None:
            with heap.consumer("c") as consumer:
                closed.set()
                consumer.recv(timeout=peers.PATIENCE)
                peers.until(lambda: consumer.pending == 2)

        thread = threading.Thread(target=take_one_and_close)
        thread.start()
        closed.wait(peers.PATIENCE)
        with pytest.raises(ipcheap.ChannelClosed) as caught:
            call()
        thread.join()
        assert caught.value.done == 3
        still_ours(3)
        with heap.consumer("c") as successor:
            assert all_of(successor) == numbers(3)[1:]


@BOTH
@pytest.mark.parametrize("timeout", [0, 0.05])
def test_time_that_runs_out(heap: ipcheap.Heap, how: str, timeout: float) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        call, still_ours = send(how, producer, 5, timeout)
        with pytest.raises(TimeoutError, match="no room") as caught:
            call()
        assert vars(caught.value)["done"] == 2
        still_ours(2)
        call, still_ours = send(how, producer, 3, timeout)
        with pytest.raises(TimeoutError, match="no room") as caught:
            call()
        assert vars(caught.value)["done"] == 0
        still_ours(0)
        assert all_of(consumer) == numbers(2)
        call, still_ours = send(how, producer, 2, timeout)
        assert call() == 2
        still_ours(2)
        assert all_of(consumer) == numbers(2)


@BOTH
def test_nothing_to_send_is_done_immediately(heap: ipcheap.Heap, how: str) -> None:
    with heap.producer("c") as producer:
        producer.send_many(numbers(2))
        assert send(how, producer, 0)[0]() == 0


# Signals --------------------------------------------------------------------------------------


@contextlib.contextmanager
def interrupted(after: float) -> Iterator[None]:
    """Give this thread what Ctrl-C gives it, so many seconds later."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    left, _ = signal.setitimer(signal.ITIMER_REAL, after)  # until the test has taken too long
    try:
        yield
    finally:
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            signal.signal(signal.SIGALRM, before)
            signal.setitimer(signal.ITIMER_REAL, left)


@BOTH
def test_ctrl_c_while_it_waits(heap: ipcheap.Heap, how: str) -> None:
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        call, still_ours = send(how, producer, 4, None)
        with pytest.raises(KeyboardInterrupt) as caught, interrupted(0.1):
            call()
        assert vars(caught.value)["done"] == 2
        still_ours(2)
        assert all_of(consumer) == numbers(2)


def test_ctrl_c_anywhere_in_it(heap_name: str) -> None:
    cut_short = 0
    with ipcheap.Heap.create(heap_name, "64MiB") as heap:
        heap.add_record_channel("c", 1 << 16)
        datas = [n.to_bytes(4, "little") for n in range(1 << 16)]
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            for tenths in range(1, 31):
                done = len(datas)
                try:
                    with interrupted(tenths * 1e-4):
                        assert producer.send_many(datas) == done
                except KeyboardInterrupt as error:
                    # It has none if it came after the call, or before it.
                    done = vars(error).get("done", consumer.pending)
                    cut_short += 0 < done < len(datas)
                assert consumer.pending == done
                assert all_of(consumer) == datas[:done]
    assert cut_short > 0


# The heap and what is to be sent ------------------------------------------------------------------


def test_a_heap_that_is_full(heap: ipcheap.Heap) -> None:
    with heap.producer("wide") as producer, heap.consumer("wide") as consumer:
        datas = [bytes([n]) * LONG for n in range(20)]
        with pytest.raises(ipcheap.HeapFull, match=r"97\.7 KiB asked for") as caught:
            producer.send_many(datas)
        assert 5 < caught.value.done < 12
        assert all_of(consumer) == datas[: caught.value.done]


@pytest.mark.parametrize("wrong", [5, "text", None, memoryview(b"abcdef")[::2]])
def test_something_that_cannot_be_sent(heap: ipcheap.Heap, wrong: Any) -> None:
    with heap.producer("wide") as producer, heap.consumer("wide") as consumer:
        for place in (0, 1, 63, 64, 100):
            datas: list[Any] = [*numbers(place), wrong, b"after"]
            with pytest.raises((TypeError, ValueError), match="bytes") as caught:
                producer.send_many(datas)
            assert vars(caught.value)["done"] == place
            assert all_of(consumer) == numbers(place)


def test_a_record_that_cannot_be_sent(heap: ipcheap.Heap) -> None:
    with heap.producer("wide") as producer, heap.consumer("wide") as consumer:
        records = made(producer, 4)
        records[2].free()
        for wrong in ([*records[:2], records[0]], records, [records[0], b"no record"]):
            with pytest.raises((ipcheap.RecordError, TypeError)) as caught:
                producer.send_records(wrong)  # type: ignore[arg-type]
            assert vars(caught.value)["done"] == 0
        assert producer.send_records([records[0], records[1], records[3]]) == 3
        assert all_of(consumer) == [b"\0", b"\1", b"\3"]


def test_a_record_that_another_thread_frees_meanwhile(heap: ipcheap.Heap) -> None:
    found: list[bytes] = []
    with heap.producer("c") as producer:
        records = made(producer, 5)

        def free_the_fourth() -> None:
            with heap.consumer("c") as consumer:
                peers.until(lambda: consumer.pending == 2)
                records[3].free()
                while len(found) < 3:
                    found.extend(consumer.recv_many(timeout=peers.PATIENCE))

        thread = threading.Thread(target=free_the_fourth)
        thread.start()
        with pytest.raises(ipcheap.RecordError, match="freed") as caught:
            producer.send_records(records, timeout=peers.PATIENCE)
        thread.join()
        assert caught.value.done == 3
        assert found == numbers(3)
        assert bytes(records[4]) == b"\4"
        records[4].free()


def test_an_iterable_that_raises_has_sent_nothing(heap: ipcheap.Heap) -> None:
    def two_and_then(error: BaseException) -> Iterator[bytes]:
        yield from numbers(2)
        raise error

    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        for error in (KeyError("mine"), KeyboardInterrupt(), ipcheap.PeerDied("of another")):
            with pytest.raises(type(error)) as caught:
                producer.send_many(two_and_then(error))
            assert caught.value is error
            assert vars(error)["done"] == 0
        for not_iterable in (5, None):
            with pytest.raises(TypeError, match="iterable") as refused:
                producer.send_many(not_iterable)  # type: ignore[arg-type]
            assert vars(refused.value)["done"] == 0
        assert consumer.pending == 0


@BOTH
def test_an_endpoint_that_may_not_be_used(heap: ipcheap.Heap, how: str) -> None:
    producer = heap.producer("wide")
    calls = [send(how, producer, 2) for _ in range(3)]
    caught: list[BaseException] = []

    def attempt() -> None:
        try:
            calls.pop()[0]()
        except ipcheap.Error as error:
            caught.append(error)

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    producer.close()
    attempt()
    heap.close()
    attempt()
    kinds = [ipcheap.WrongThread, ipcheap.EndpointClosed, ipcheap.HeapClosed]
    assert [type(error) for error in caught] == kinds
    assert [vars(error)["done"] for error in caught] == [0, 0, 0]


def test_done_pickles(heap: ipcheap.Heap) -> None:
    with heap.producer("c") as producer:
        for kind, datas in ((TimeoutError, numbers(3)), (ipcheap.HeapFull, [bytes(LONG)] * 99)):
            channel = producer if kind is TimeoutError else heap.producer("wide")
            with channel, pytest.raises(kind) as caught:
                channel.send_many(datas, timeout=0)
            again = pickle.loads(pickle.dumps(caught.value))
            assert vars(again)["done"] == vars(caught.value)["done"] > 0
            assert str(again) == str(caught.value)

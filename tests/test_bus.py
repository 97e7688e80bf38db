"""Buses in Python: what their calls take, return and raise."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pickle
import time
from typing import TYPE_CHECKING, Any

import bus_workers
import numpy as np
import peers
import pytest
import threads

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def heap() -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        yield heap
        assert heap.check() == []


@pytest.fixture
def bus(heap: ipcheap.Heap) -> ipcheap.Bus:
    return heap.add_bus("news")


@pytest.fixture
def listener(bus: ipcheap.Bus) -> Iterator[ipcheap.Listener]:
    with bus.listen() as listener:
        yield listener


# Adding ------------------------------------------------------------------------------------


def test_a_bus_has_the_options_that_it_was_added_with(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus(1, 8, history=3, patience=1.5)
    assert (bus.capacity, bus.history, bus.patience) == (8, 3, 1.5)
    assert (bus.id, bus.heap) == (1, heap)
    assert repr(bus) == f"<Bus 1 of {heap.label}, 8 messages>"


def test_the_defaults(bus: ipcheap.Bus) -> None:
    assert (bus.capacity, bus.history, bus.patience) == (256, 0, math.inf)


@pytest.mark.parametrize(("asked", "got"), [(1, 1), (2, 2), (3, 4), (255, 256), (257, 512)])
def test_the_capacity_is_rounded_up_to_a_power_of_two(
    heap: ipcheap.Heap, asked: int, got: int
) -> None:
    bus = heap.add_bus("rounded", asked)
    assert bus.capacity == got
    assert heap.add_bus("rounded", asked) == bus
    assert heap.add_bus("rounded", got) == bus


def test_the_history_may_be_as_large_as_the_rounded_capacity(heap: ipcheap.Heap) -> None:
    assert heap.add_bus("all", 5, history=8).history == 8
    with pytest.raises(ValueError, match="history is at most the capacity"):
        heap.add_bus("more", 5, history=9)
    assert heap.add_bus("long", history=300).capacity == 512  # of a capacity that is not passed


@pytest.mark.parametrize(
    ("asked", "got"), [(0.001, 0.001), (0.0014, 0.002), (0.25, 0.25), (1e300, math.inf), (0, 0.0)]
)
def test_patience_has_a_resolution_of_a_millisecond(
    heap: ipcheap.Heap, asked: float, got: float
) -> None:
    assert heap.add_bus("patient", patience=asked).patience == got
    assert heap.add_bus("patient", patience=asked).patience == got


def test_what_is_not_passed_takes_the_bus_as_it_is(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("news", 8, history=3, patience=1.5)
    assert heap.add_bus("news") == bus
    assert heap.add_bus("news", history=3) == bus
    again = heap.add_bus("news", patience=1.5)
    assert (again.capacity, again.history, again.patience) == (8, 3, 1.5)


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 256},
        {"history": 0},
        {"history": 4},
        {"patience": math.inf},
        {"patience": 0},
        {"patience": 1.499},
    ],
)
def test_what_is_passed_must_be_so_even_if_it_is_the_default(
    heap: ipcheap.Heap, options: Any
) -> None:
    heap.add_bus("news", 8, history=3, patience=1.5)
    ((name, _),) = options.items()
    with pytest.raises(ipcheap.ChannelTypeError, match=rf"{name}=.*, not a bus with {name}="):
        heap.add_bus("news", **options)
    assert heap.bus("news").capacity == 8


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"capacity": 0}, ValueError),
        ({"capacity": -1}, ValueError),
        ({"capacity": 2**24 + 1}, ValueError),
        ({"capacity": 2**70}, ValueError),
        ({"capacity": 1.5}, TypeError),
        ({"capacity": "8"}, TypeError),
        ({"history": -1}, ValueError),
        ({"history": 2**24 + 1}, ValueError),
        ({"history": 2**70}, ValueError),
        ({"capacity": 4, "history": 5}, ValueError),
        ({"history": 1.5}, TypeError),
        ({"patience": -1}, ValueError),
        ({"patience": -1e-9}, ValueError),
        ({"patience": -math.inf}, ValueError),
        ({"patience": math.nan}, ValueError),
        ({"patience": "1"}, TypeError),
        ({"patience": True}, TypeError),
    ],
)
def test_options_that_no_bus_has(heap: ipcheap.Heap, options: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        heap.add_bus("news", **options)
    assert "news" not in heap.channels


def test_an_exclusive_bus_is_new(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("news", 8, exclusive=True)
    heap.add_stream("bytes", 10)
    for taken in ("news", "bytes"):
        with pytest.raises(ipcheap.ChannelExists, match=f"'{taken}'"):
            heap.add_bus(taken, exclusive=True)
        with pytest.raises(FileExistsError):
            heap.add_bus(taken, 8, exclusive=True)
    heap.remove_channel("news")
    assert heap.add_bus("news", exclusive=True) != bus


def test_it_costs_little_until_it_is_used(heap: ipcheap.Heap) -> None:
    before = heap.statistics()
    for n in range(50):
        heap.add_bus(n, 1 << 20)
    after = heap.statistics()
    assert (after.in_use, after.records) == (before.in_use, before.records)
    assert after.channels == before.channels + 50


# Finding -----------------------------------------------------------------------------------


def test_a_bus_pickles_compares_and_hashes(heap: ipcheap.Heap, heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as other:
        bus = other.add_bus("news", 8, history=2, patience=3)
        copy = pickle.loads(pickle.dumps(bus))
        assert copy == bus
        assert hash(copy) == hash(bus)
        assert (copy.id, copy.capacity, copy.history, copy.patience) == ("news", 8, 2, 3.0)
        assert bus != heap.add_bus("news", 8, history=2, patience=3)  # of another heap
        assert bus != other.add_bus("others", 8, history=2, patience=3)
        assert {bus: 1}[copy] == 1
        assert peers.call(bus_workers.use, bus) == ("news", 8, 2, 3.0, 0, b"from a peer")
        copy.heap.close()


def test_a_bus_is_found(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    assert heap.bus("news") == heap.channel("news") == heap.channels["news"] == bus
    assert isinstance(heap.channel("news"), ipcheap.Bus)


def test_a_search_for_a_bus_waits(heap: ipcheap.Heap) -> None:
    with pytest.raises(ipcheap.ChannelNotFound, match="'later'"):
        heap.bus("later")
    began = time.monotonic()
    with pytest.raises(ipcheap.ChannelNotFound):
        heap.bus("later", timeout=0.05)
    assert time.monotonic() - began >= 0.05

    def add() -> None:
        time.sleep(0.05)
        heap.add_bus("later")

    with threads.run(add):
        assert heap.bus("later", timeout=peers.PATIENCE).id == "later"


def test_other_kinds_are_refused(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    heap.add_stream("bytes", 10)
    with pytest.raises(ipcheap.ChannelTypeError, match="not a bus"):
        heap.add_bus("bytes")
    with pytest.raises(ipcheap.ChannelTypeError, match="not a bus with capacity=8"):
        heap.add_bus("bytes", 8)
    with pytest.raises(ipcheap.ChannelTypeError, match="not a bus"):
        heap.bus("bytes")
    for claim in (heap.producer, heap.consumer, heap.stream_writer, heap.store_reader):
        with pytest.raises(ipcheap.ChannelTypeError, match="a bus with capacity=256"):
            claim(bus.id)


def test_a_bus_is_made_by_its_heap() -> None:
    with pytest.raises(TypeError):
        ipcheap.Bus()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        ipcheap.Listener()  # type: ignore[call-arg]


# Order and positions -----------------------------------------------------------------------


def test_positions_count_from_0_whatever_posts(
    heap: ipcheap.Heap, bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    record = bus.allocate_record(1)
    record[0] = 1
    assert bus.post(b"0") == 0
    assert bus.post_record(record) == 1
    assert bus.post_object("2") == 2
    assert bus.post_many([b"3", b"4"]) == 2
    assert bus.broadcast(b"5").position == 5
    with bus.loan(1, "u1") as array:
        array[0] = 6
    assert heap.bus("news").post(b"7") == 7
    assert threads.call(lambda: bus.post(b"8")) == 8
    assert [message.position for message in listener.recv_records(100)] == list(range(9))


def test_all_listeners_get_the_same_order_from_many_writers(heap_name: str) -> None:
    writers, count = 3, 2000
    with ipcheap.Heap.create(heap_name, "64MiB") as heap, contextlib.ExitStack() as stack:
        bus = heap.add_bus("news", 64)
        run: list[peers.Peer[Any]] = [
            *(peers.run(bus_workers.hear_all, bus, writers * count) for _ in range(3)),
            *(peers.run(bus_workers.post_numbers, bus, w, count) for w in range(writers)),
        ]
        for peer in run:
            stack.enter_context(peer)
            assert peer.hear() == "ready"
        for peer in run[3:]:
            peer.tell("go")
        heard = [peer.result() for peer in run[:3]]
        posted: Any = [peer.result() for peer in run[3:]]
        assert heard[0] == heard[1] == heard[2]
        assert [position for position, _ in heard[0]] == list(range(writers * count))
        for writer, positions in enumerate(posted):
            assert positions == sorted(positions)  # a post that returned first has the lower one
            said = [(at, n) for at, (w, n) in heard[0] if w == writer]
            assert said == list(zip(positions, range(count), strict=True))
        assert bus.statistics().posted == writers * count
        assert heap.statistics().in_use == 0
        assert heap.check() == []


def test_a_post_that_returned_first_has_the_lower_position_in_any_thread(
    bus: ipcheap.Bus,
) -> None:
    positions: list[int] = []
    for _ in range(20):
        positions.append(threads.call(lambda: bus.post(b"x")))
        positions.append(bus.post(b"x"))
    assert positions == list(range(40))


def test_a_listener_gets_each_message_once_from_its_registration_on(bus: ipcheap.Bus) -> None:
    listeners = []
    for n in range(10):
        bus.post(b"%d" % n)
        listeners.append(bus.listen())
    bus.post(b"10")
    for n, listener in enumerate(listeners):
        assert listener.pending == 10 - n
        assert listener.recv_many() == [b"%d" % k for k in range(n + 1, 11)]
        assert listener.pending == listener.lost == 0
        with pytest.raises(TimeoutError):
            listener.recv(timeout=0)
        listener.close()


def test_listeners_come_and_go_under_load_and_miss_nothing(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        bus = heap.add_bus("news", 16)
        with peers.run(bus_workers.post_over_and_over, bus) as peer:
            assert peer.hear() == "ready"
            for turn in range(60):
                with bus.listen() as listener:
                    first: int | None = None
                    for n in range(1 + turn % 7):
                        with listener.recv_record(peers.PATIENCE) as message:
                            first = message.position if first is None else first
                            assert message.position == first + n
                            assert bus_workers.number_of(message) == (1, first + n)
                    assert listener.lost == 0
        assert heap.check() == []


# Posting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"bytes",
        b"with\0NUL\0",
        bytearray(b"bytearray"),
        memoryview(b"memoryview"),
        np.arange(3, dtype="u1"),
        np.arange(6, dtype="f8").reshape(2, 3),
        np.zeros((0, 3)),
        bytes(100_000),
    ],
    ids=lambda data: f"{type(data).__name__}-{memoryview(data).nbytes}",
)
def test_anything_that_has_bytes_is_a_message(
    bus: ipcheap.Bus, listener: ipcheap.Listener, data: Any
) -> None:
    bus.post(data)
    bus.post_many([data, data])
    bus.broadcast(data)
    whole = np.asarray(data).tobytes() if isinstance(data, np.ndarray) else bytes(data)
    with listener.recv_record() as message:
        assert bytes(message) == whole
        assert message.nbytes == len(whole)
    assert listener.recv_many() == [whole] * 3


@pytest.mark.parametrize(
    ("data", "error"),
    [
        ("text", TypeError),
        (5, TypeError),
        (None, TypeError),
        (memoryview(b"abcdef")[::2], ValueError),
        (np.arange(10)[::2], ValueError),
        (np.array([object()]), TypeError),
    ],
    ids=["str", "int", "None", "pieces", "strided", "objects"],
)
def test_anything_else_is_none_and_posts_nothing(
    bus: ipcheap.Bus, listener: ipcheap.Listener, data: Any, error: type[Exception]
) -> None:
    for call in (bus.post, bus.broadcast, lambda wrong: bus.broadcast(wrong, 0)):
        with pytest.raises(error):
            call(data)
    with pytest.raises(error) as raised:
        bus.post_many([b"first", data, b"third"])
    assert vars(raised.value)["done"] == 1
    for take in (bus.post_record, bus.broadcast_record):
        with pytest.raises(TypeError, match="posts a Record"):
            take(data)
    assert listener.recv_many() == [b"first"]
    assert bus.statistics().posted == 1


def test_what_does_not_fit_the_heap_is_refused_and_posts_nothing(
    heap: ipcheap.Heap, bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    bus.post(b"before")
    large = bytes(17 << 20)
    calls: list[Any] = [
        lambda: bus.post(large),
        lambda: bus.broadcast(large),
        lambda: bus.broadcast(large, timeout=0),
        lambda: bus.post_object(np.zeros(17 << 20, "u1")),
        lambda: bus.allocate_record(17 << 20),
        lambda: bus.allocate_array(17 << 20, "u1"),
    ]
    for call in calls:
        with pytest.raises(ipcheap.HeapFull, match=r"17\.0 MiB asked for"):
            call()
    with pytest.raises(ipcheap.HeapFull), bus.loan(17 << 20, "u1"):
        pass
    with pytest.raises(ipcheap.HeapFull) as raised:
        bus.post_many([b"fits", large])
    assert raised.value.done == 1
    assert listener.recv_many() == [b"before", b"fits"]
    assert bus.post(b"after") == 2


def test_records_of_any_origin_are_posted(
    heap: ipcheap.Heap, bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    heap.add_record_channel("records", 8)
    with heap.producer("records") as producer, heap.consumer("records") as consumer:
        for number in range(4):
            producer.send(b"received %d" % number)
        kept, plain = consumer.recv_record(), consumer.recv_record()
        kept.keep()
        made = [bus.allocate_record(4), heap.allocate_record(4), producer.allocate_record(4)]
        for record in made:
            record[:] = b"made"
        for record in (kept, plain, *made):
            bus.post_record(record)
            with pytest.raises(ipcheap.RecordError, match=r"has been (sent|posted)"):
                bytes(record)
            with pytest.raises(ipcheap.RecordError):
                bus.post_record(record)
        expected = [b"received 0", b"received 1", b"made", b"made", b"made"]
        assert listener.recv_many() == expected
        bus.broadcast_record(consumer.recv_record())
        assert listener.recv() == b"received 2"
        freed = consumer.recv_record()
        freed.free()
        with pytest.raises(ipcheap.RecordError, match="freed"):
            bus.post_record(freed)
    assert heap.statistics().records == 0


def test_arrays_and_objects_keep_their_form(bus: ipcheap.Bus, listener: ipcheap.Listener) -> None:
    with bus.listen() as another:
        with bus.loan((2, 3), "f4", order="F") as array:
            array[:] = np.arange(6).reshape(2, 3)
        record = bus.allocate_array(4, [("a", "u4"), ("b", "f8")])
        record.array()["a"] = 7
        bus.post_record(record)
        bus.post_object({"x": np.arange(5), "y": "text"})
        bus.broadcast_object([1, 2])
        for each in (listener, another):
            assert np.array_equal(each.recv_array(), np.arange(6).reshape(2, 3))
            assert list(each.recv_array()["a"]) == [7] * 4
            with pytest.raises(ipcheap.RecordError):
                each.recv_array(timeout=0)  # and it stays
            found = each.recv_object()
            assert (found["y"], list(found["x"])) == ("text", list(range(5)))
            del found
            assert each.recv_object() == [1, 2]


def test_a_loan_that_raises_posts_nothing(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    with bus.listen() as listener:
        with pytest.raises(ZeroDivisionError), bus.loan(10, "u1") as array:
            array[0] = 1 / 0
        del array
        assert listener.pending == bus.statistics().posted == 0
    assert heap.statistics().in_use == 0


def test_a_record_of_another_heap_is_refused(bus: ipcheap.Bus) -> None:
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as other:
        record = other.allocate_record(3)
        for call in (bus.post_record, bus.broadcast_record):
            with pytest.raises(ipcheap.RecordError, match="another heap"):
                call(record)
        record.free()


def test_a_record_of_another_attachment_is_posted(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap, ipcheap.Heap.attach(heap_name) as again:
        bus = heap.add_bus("news")
        with again.bus("news").listen() as listener:
            record = again.allocate_record(3)
            record[:] = b"abc"
            bus.post_record(record)
            with listener.recv_record(0) as message:
                heap.bus("news").post_record(message)
            assert listener.recv(0) == b"abc"
        assert heap.statistics().in_use == 0


def test_post_many_posts_all_or_says_how_many(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("short", 4)
    assert bus.post_many([]) == 0
    with bus.listen() as listener:
        assert bus.post_many(iter([b"0", bytearray(b"1")])) == 2
        with pytest.raises(TimeoutError) as raised:
            bus.post_many([b"%d" % n for n in range(2, 9)], timeout=0)
        assert raised.value.done == 2  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError) as raised:
            bus.post_many([b"4"], timeout=0.02)
        assert raised.value.done == 0  # type: ignore[attr-defined]
        assert listener.recv_many() == [b"0", b"1", b"2", b"3"]
        for wrong in (5, None):
            with pytest.raises(TypeError, match="iterable") as refused:
                bus.post_many(wrong)  # type: ignore[arg-type]
            assert vars(refused.value)["done"] == 0

        def receive() -> None:
            with bus.listen() as mine:
                ready.append(1)
                while mine.recv(peers.PATIENCE) != b"last":
                    pass

        listener.close()
        ready: list[int] = []
        with threads.run(receive):
            peers.until(lambda: ready)
            assert bus.post_many([b"x"] * 100 + [b"last"], timeout=peers.PATIENCE) == 101


def test_memory_is_counted_once_however_many_listen(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    bus.listen().close()
    before = heap.statistics()

    def cost_of_a_message(count: int) -> tuple[int, int]:
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(bus.listen())
            empty = heap.statistics()
            bus.post(bytes(5000))
            full = heap.statistics()
        return full.in_use - empty.in_use, full.records - empty.records

    alone, many = cost_of_a_message(1), cost_of_a_message(500)
    assert alone == many
    assert 5000 <= alone[0] < 8192
    after = heap.statistics()
    assert (after.in_use, after.records) == (before.in_use, before.records)


def test_a_message_to_which_nobody_listens_is_freed_immediately(
    heap: ipcheap.Heap, bus: ipcheap.Bus
) -> None:
    for _ in range(1000):
        bus.post(bytes(100_000))
        assert heap.statistics().in_use == 0
    assert bus.statistics().posted == 1000


# Listeners ---------------------------------------------------------------------------------


def test_listeners_are_listed(bus: ipcheap.Bus) -> None:
    assert bus.listeners() == []
    bus.post(b"before")
    with bus.listen() as mine, bus.listen(lossy=True):
        bus.post_many([b"1", b"2", b"3"])
        held = mine.recv_record()
        reliable, lossy = sorted(bus.listeners(), key=lambda info: info.lossy)
        assert (reliable.lossy, lossy.lossy) == (False, True)
        assert (reliable.joined, reliable.pending, reliable.held, reliable.lost) == (1, 2, 1, 0)
        assert (lossy.joined, lossy.pending, lossy.held, lossy.lost) == (1, 3, 0, 0)
        participant = reliable.participant
        assert (participant.pid, participant.thread, participant.state) == (
            os.getpid(),
            os.getpid(),
            "alive",
        )
        held.free()
        assert sorted(info.held for info in bus.listeners()) == [0, 0]
    assert bus.listeners() == []


def test_the_numbers_of_a_listener_and_its_bus(bus: ipcheap.Bus) -> None:
    assert dataclasses.asdict(bus.statistics()) == {
        "capacity": 256,
        "history": 0,
        "posted": 0,
        "waiting": 0,
        "listeners": 0,
        "passed": 0,
    }
    with bus.listen() as first, bus.listen() as second:
        bus.post_many([b"1", b"2", b"3"])
        first.recv()
        message = first.recv_record()
        second.recv_many(1)
        numbers = bus.statistics()
        assert (numbers.posted, numbers.waiting, numbers.listeners) == (3, 2, 2)
        mine = first.statistics()
        assert (mine.received, mine.lost, mine.held, mine.pending) == (2, 0, 1, 1)
        message.keep()
        assert first.statistics().held == 1  # kept ones are held
        message.free()
        assert first.statistics().held == 0
        second.close()
        assert bus.statistics().waiting == 1
        first.recv()
        assert bus.statistics().waiting == 0
    assert bus.statistics().listeners == 0


def test_reports_and_numbers_are_frozen(bus: ipcheap.Bus) -> None:
    with bus.listen() as listener:
        things: list[Any] = [
            bus.broadcast(b"x"),
            bus.listeners()[0],
            bus.statistics(),
            listener.statistics(),
        ]
    for thing in things:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(thing, dataclasses.fields(thing)[0].name, 1)
        assert pickle.loads(pickle.dumps(thing)) == thing


def test_wait_listeners(bus: ipcheap.Bus) -> None:
    bus.wait_listeners(0, timeout=0)
    for count in (1, 3):
        with pytest.raises(TimeoutError, match=f"there were not {count} listener"):
            bus.wait_listeners(count, timeout=0.02)
    came: list[ipcheap.Listener] = []

    def come() -> None:
        with bus.listen():
            time.sleep(0.05)
            with bus.listen():
                done.append(1)
                peers.until(lambda: len(done) > 1)

    done: list[int] = []
    with threads.run(come):
        bus.wait_listeners(2, timeout=peers.PATIENCE)
        done.append(1)
    assert came == []
    with pytest.raises(ValueError, match="count"):
        bus.wait_listeners(-1)


def test_wait_listeners_does_not_count_the_dead(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        bus = heap.add_bus("news")
        with peers.run(bus_workers.sleep_with_a_listener, bus) as peer:
            peer.hear()
            bus.wait_listeners(1, timeout=0)
            peer.kill()
            peer.wait()
            with pytest.raises(TimeoutError):
                bus.wait_listeners(1, timeout=0)


def test_there_are_at_most_4096_listeners() -> None:
    with ipcheap.Heap.create(None, "64MiB", shm="memfd") as heap:
        bus = heap.add_bus("popular")
        listeners = [bus.listen() for _ in range(4096)]
        with pytest.raises(ipcheap.ChannelBusy, match="4096 listeners"):
            bus.listen()
        bus.post(b"to all")
        assert bus.statistics().listeners == 4096
        assert {listener.recv(0) for listener in listeners} == {b"to all"}
        listeners.pop().close()
        with bus.listen() as listener:
            bus.post(b"again")
            assert listener.recv(0) == b"again"
        for each in listeners:
            each.close()
        assert heap.statistics().in_use == 0
        assert heap.check() == []


# Removing ------------------------------------------------------------------------------------


def test_a_bus_with_a_living_listener_is_removed_by_force_only(
    heap: ipcheap.Heap, bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    bus.post(b"1")
    bus.post(bytes(100_000))
    with pytest.raises(ipcheap.ChannelBusy, match=rf"'news'.*{os.getpid()}.* listens to it"):
        heap.remove_channel("news")
    assert listener.recv() == b"1"
    held = listener.recv_record()
    bus.post(bytes(200_000))
    heap.remove_channel("news", force=True)
    assert 100_000 <= heap.statistics().in_use < 200_000  # what was not received is freed
    assert bytes(held) == bytes(100_000)
    for receive in (listener.recv, listener.recv_record, listener.recv_array, listener.recv_many):
        with pytest.raises(ipcheap.ChannelClosed, match="removed"):
            receive()
    assert list(listener) == []
    held.free()
    listener.close()
    assert heap.statistics().in_use == 0


def test_a_bus_without_a_living_listener_is_removed(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        bus = heap.add_bus("news", history=4)
        with peers.run(bus_workers.sleep_with_a_listener, bus) as peer:
            peer.hear()
            bus.post(b"never received")
            peer.kill()
            peer.wait()
        heap.remove_channel("news")
        assert "news" not in heap.channels
        heap.recover()
        assert heap.statistics().in_use == 0
        assert heap.check() == []


def test_a_removed_bus_is_not_the_one_that_is_added_later(
    heap: ipcheap.Heap, bus: ipcheap.Bus
) -> None:
    bus.post(b"x")
    heap.remove_channel("news")
    calls: list[Any] = [
        lambda: bus.post(b"x"),
        lambda: bus.post_many([b"x"]),
        lambda: bus.post_object(1),
        lambda: bus.broadcast(b"x"),
        lambda: bus.broadcast(b"x", 0),
        bus.drain,
        bus.listen,
        bus.listeners,
        bus.statistics,
        bus.wait_listeners,
    ]
    for again in (False, True):
        if again:
            assert heap.add_bus("news") != bus
        for call in calls:
            with pytest.raises(ipcheap.ChannelNotFound, match="'news'"):
                call()
    assert heap.bus("news").post(b"first") == 0
    assert (bus.capacity, bus.patience) == (256, math.inf)  # it still says what it was


def test_a_bus_of_a_closed_heap_says_so(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        bus = heap.add_bus("news")
        listener = bus.listen()
        record = bus.allocate_record(1)
    calls: list[Any] = [
        lambda: bus.post(b"x"),
        lambda: bus.post_many([b"x"]),
        lambda: bus.post_record(record),
        lambda: bus.post_object(1),
        lambda: bus.broadcast(b"x"),
        lambda: bus.broadcast(b"x", 0),
        bus.drain,
        bus.listen,
        bus.listeners,
        bus.statistics,
        listener.recv,
        listener.fileno,
    ]
    for call in calls:
        with pytest.raises(ipcheap.HeapClosed):
            call()
    assert listener.closed
    assert listener.lost == listener.statistics().pending == 0


def test_it_outlives_all_its_users(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        assert heap.add_bus("news", history=2).post_many([b"1", b"2", b"3"]) == 3
    with ipcheap.Heap.attach(heap_name) as heap:
        bus = heap.bus("news")
        assert bus.statistics().posted == 3
        with bus.listen(history=2) as listener:
            assert bus.post(b"4") == 3
            assert listener.recv_many() == [b"2", b"3", b"4"]

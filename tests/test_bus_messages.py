"""What listeners of a bus receive: shared, read-only, held, kept, forwarded and freed anywhere."""

from __future__ import annotations

import gc
import os
import threading
from typing import TYPE_CHECKING, Any

import bus_workers
import numpy as np
import peers
import pytest
import threads

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SIZES = [0, 1, 100, 4000, 5000, 40_000, 1_000_000]

each_size = pytest.mark.parametrize("size", SIZES)


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap
        gc.collect()
        assert heap.check() == []


@pytest.fixture
def bus(heap: ipcheap.Heap) -> ipcheap.Bus:
    return heap.add_bus("news")


@pytest.fixture
def listener(bus: ipcheap.Bus) -> Iterator[ipcheap.Listener]:
    with bus.listen() as listener:
        yield listener


def address(message: Any) -> int:
    return int(np.frombuffer(message, "u1").__array_interface__["data"][0])


def owed(bus: ipcheap.Bus) -> int:
    """Return how many listeners of this thread have not released everything."""
    return len(threads.call(lambda: bus.drain(0)).slow)


# Shared and unchanging -----------------------------------------------------------------------


def test_a_message_says_its_form_and_returns_its_object(bus: ipcheap.Bus) -> None:
    with bus.listen() as one, bus.listen() as other:
        bus.post(b"x")
        bus.post_object({"a": np.arange(1000)})
        with bus.loan(3, "i4") as array:
            array[:] = 0
        for listener in one, other:
            messages = listener.recv_records(3)
            assert [message.form for message in messages] == ["bytes", "object", "array"]
            with pytest.raises(ipcheap.RecordError, match=r"post_object.*bytes"):
                messages[0].object()
            with pytest.raises(ipcheap.RecordError, match=r"is an array: array\(\)"):
                messages[2].object()
            thing = messages[1].object()
            assert address(thing["a"]) == address(messages[1].object()["a"])
            for message in messages:
                message.free()
            assert not thing["a"].flags.writeable
            assert thing["a"].sum() == 499_500
            with pytest.raises(ipcheap.RecordError, match="freed"):
                _ = messages[1].form


@each_size
def test_all_listeners_see_the_same_bytes(heap: ipcheap.Heap, bus: ipcheap.Bus, size: int) -> None:
    data = os.urandom(size)
    with bus.listen() as one, bus.listen() as other:
        empty = heap.statistics()
        bus.post(data)
        posted = heap.statistics()
        assert posted.records == empty.records + 1
        first, second = one.recv_record(), other.recv_record()
        assert bytes(first) == bytes(second) == data
        if size:
            assert address(first) == address(second)
        assert heap.statistics().in_use == posted.in_use  # nothing was copied
        first.free()
        assert heap.statistics().in_use == posted.in_use
        assert bytes(second) == data
        second.free()
        del first, second
        gc.collect()
        if size > 32_768:
            assert heap.statistics().in_use == empty.in_use  # immediately
    assert heap.statistics().in_use == 0


def test_a_message_is_read_only(bus: ipcheap.Bus, listener: ipcheap.Listener) -> None:
    with bus.loan((2, 2), "i4") as array:
        array[:] = 7
    bus.post_many([b"abc", b"abc"])
    array = listener.recv_array()
    assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        array[0, 0] = 8
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    for message in listener.recv_records(2):
        assert message.view.readonly
        assert not message.array("u1").flags.writeable
        with pytest.raises(TypeError):
            message[0] = 1
        with pytest.raises(TypeError):
            message[:] = b"xyz"
        with pytest.raises(TypeError):
            message.view[0] = 1
        assert bytes(message) == b"abc"
        message.free()


def test_the_bytes_of_a_record_do_not_change_when_it_is_posted(
    heap: ipcheap.Heap, bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    for size in SIZES[1:]:
        record = bus.allocate_record(size)
        record[:] = b"r" * size
        at = address(record.view)
        bus.post_record(record)
        with listener.recv_record() as message:
            assert bytes(message) == b"r" * size
            assert address(message) == at  # not a copy
    assert heap.statistics().records == 0


# What it says --------------------------------------------------------------------------------


def test_a_message_is_a_record_with_a_position_and_a_sender(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    bus.post(b"first")
    bus.post(b"second")
    for position, data in enumerate((b"first", b"second")):
        message = listener.recv_record()
        assert isinstance(message, ipcheap.Message)
        assert isinstance(message, ipcheap.Record)
        assert (message.position, message.nbytes, len(message)) == (
            position,
            len(data),
            len(data),
        )
        assert bytes(message) == message[:] == data
        assert message[0] == data[0]
        assert message.view == data
        sender = message.sender
        assert (sender.pid, sender.state) == (os.getpid(), "alive")
        assert f"Message {position} of channel 'news'" in repr(message)
        message.free()
        assert message.position == position
        assert "freed" in repr(message)
        for use in (lambda m=message: m.sender, lambda m=message: bytes(m)):
            with pytest.raises(ipcheap.RecordError):
                use()


def test_the_sender_is_who_posted_it_in_its_present_state(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    with peers.run(bus_workers.post_and_linger, bus, b"x") as peer:
        assert peer.hear() == 0
        message = listener.recv_record()
        assert (message.sender.pid, message.sender.state) == (peer.pid, "alive")
        descriptor = os.pidfd_open(message.sender.pid)
        peer.kill()
        peer.wait()
        os.close(descriptor)
        assert (message.sender.pid, message.sender.state) == (peer.pid, "dead")
        bus.heap.recover()
        assert message.sender.pid == peer.pid
        message.free()


def test_a_thread_is_a_sender_of_its_own(bus: ipcheap.Bus, listener: ipcheap.Listener) -> None:
    number = threads.call(lambda: (bus.post(b"x"), threading.get_native_id())[1])
    with listener.recv_record() as message:
        assert (message.sender.pid, message.sender.thread) == (os.getpid(), number)
        assert message.sender.state == "dead"


def test_the_sender_of_a_forwarded_message_is_who_forwarded_it(heap: ipcheap.Heap) -> None:
    one, other = heap.add_bus("one"), heap.add_bus("other")
    with one.listen() as first, other.listen() as second:
        with peers.run(bus_workers.post_then_die, one, b"x") as peer:
            peer.wait()
        other.post_record(first.recv_record(0))
        with second.recv_record(0) as message:
            assert (bytes(message), message.position, message.sender.pid) == (b"x", 0, os.getpid())


# Released ------------------------------------------------------------------------------------


RELEASES: dict[str, Callable[[ipcheap.Listener], object]] = {
    "free": lambda listener: listener.recv_record().free(),
    "with": lambda listener: listener.recv_record().__enter__().__exit__(None, None, None),
    "recv": lambda listener: listener.recv(),
    "recv_many": lambda listener: listener.recv_many(),
    "drop": lambda listener: (listener.recv_record(), gc.collect()),
    "array": lambda listener: (listener.recv_array(), gc.collect()),
    "object": lambda listener: listener.recv_object(),
    "close": lambda listener: listener.close(),
}


@pytest.mark.filterwarnings("ignore:.*never freed")
@pytest.mark.parametrize("how", RELEASES)
def test_what_acknowledges(bus: ipcheap.Bus, how: str) -> None:
    with bus.listen() as listener:
        if how == "array":
            bus.post_record(bus.allocate_array(3, "u1"))
        else:
            bus.post_object([1, 2])
        assert owed(bus) == 1
        RELEASES[how](listener)
        assert owed(bus) == 0
        assert listener.statistics().held == 0


def test_what_does_not_acknowledge(bus: ipcheap.Bus, listener: ipcheap.Listener) -> None:
    bus.post_object(np.arange(5))
    bus.post_record(bus.allocate_array(5, "u1"))
    bus.post(b"x")
    bus.post(b"y")
    things: list[Any] = [listener.recv_object(), listener.recv_array()]
    things += listener.recv_records(2)
    assert listener.statistics().held == 4
    assert owed(bus) == 1
    views = [things[0][1:], things[1][::2]]
    del things[:2]
    gc.collect()
    assert listener.statistics().held == 4
    for view in views:
        assert view.size
    del view
    views.clear()
    gc.collect()
    assert listener.statistics().held == 2
    for message in things:
        message.free()
    assert owed(bus) == 0


def test_free_acknowledges_and_views_keep_the_memory(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    for make in (lambda m: m.view, lambda m: m.array("u1"), memoryview):
        with bus.listen() as listener:
            bus.post(b"v" * 50_000)
            message = listener.recv_record()
            view: Any = make(message)
            message.free()
            assert owed(bus) == 0
            for _ in range(20):
                bus.post(b"w" * 50_000)
                listener.recv()
            assert bytes(view) == b"v" * 50_000
            assert heap.statistics().records == 1
            del view, message
            gc.collect()
            assert heap.statistics().records == 0


def test_a_kept_message_is_acknowledged_and_stays_until_it_is_freed(
    heap: ipcheap.Heap, bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    bus.post_many([b"1" * 50_000, b"2" * 50_000, b"3" * 50_000])
    with listener.recv_record() as first:
        first.keep()
        first.keep()
    assert bytes(first) == b"1" * 50_000  # the block did not free it
    kept = []
    for message in listener:
        message.keep()
        kept.append(message)
        if len(kept) == 2:
            break
    assert [bytes(message)[:1] for message in kept] == [b"2", b"3"]  # nor did the iteration
    assert owed(bus) == 0
    assert listener.statistics().held == 3
    listener.close()
    assert [bytes(message)[:1] for message in (first, *kept)] == [b"1", b"2", b"3"]
    assert heap.statistics().records == 3
    for message in (first, *kept):
        message.free()
        with pytest.raises(ipcheap.RecordError, match="freed"):
            message.keep()
    assert heap.statistics().in_use == 0


def test_what_a_closed_listener_holds_stays_valid_until_freed(
    heap: ipcheap.Heap, bus: ipcheap.Bus
) -> None:
    with bus.listen() as listener:
        bus.post_many([b"1", b"2" * 100_000, b"3"])
        held = listener.recv_records(2)
        view = held[1].view
    assert owed(bus) == 0
    for _ in range(300):
        bus.post(bytes(100))
    assert [bytes(message)[:1] for message in held] == [b"1", b"2"]
    assert held[0].sender.pid == os.getpid()
    for message in held:
        message.free()
    assert bytes(view) == b"2" * 100_000
    del view, message, held
    gc.collect()
    assert heap.statistics().in_use == 0


def test_an_iteration_frees_each_message_when_the_next_is_wanted(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    bus.post_many([b"1", b"2", b"3"])
    before = None
    for number, message in enumerate(listener, 1):
        assert listener.statistics().held == 1
        if before is not None:
            with pytest.raises(ipcheap.RecordError, match="freed"):
                bytes(before)
        before = message
        if number == 3:
            break
    message.free()
    assert owed(bus) == 0


def test_what_a_dead_holder_held_comes_back(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    for size in (100, 500_000):
        with bus.listen() as listener, peers.run(bus_workers.obey, bus) as peer:
            assert peer.hear() == "ready"
            bus.post(b"h" * size)
            peer.tell("hold")
            assert peer.hear() == b"h" * size
            peer.tell("keep")
            peer.hear()
            mine = listener.recv_record()
            peer.kill()
            peer.wait()
            heap.recover()
            assert bytes(mine) == b"h" * size
            mine.free()
        assert heap.statistics().in_use == 0


def test_the_memory_of_messages_comes_back_with_the_last_of_its_holders(
    heap: ipcheap.Heap, bus: ipcheap.Bus
) -> None:
    for size in (64, 4000, 33_000, 2_000_000):
        with bus.listen() as one, bus.listen() as two, bus.listen() as three:
            for turn in range(6):
                bus.post(bytes(size))
                held = [each.recv_record(0) for each in (one, two, three)]
                for message in (held[turn % 3], held[(turn + 1) % 3], held[(turn + 2) % 3]):
                    message.free()
        assert heap.statistics().in_use == 0


# Other threads -------------------------------------------------------------------------------


def test_any_thread_may_read_free_and_keep(bus: ipcheap.Bus, listener: ipcheap.Listener) -> None:
    bus.post_many([b"free", b"keep", b"drop", b"with"])
    free, keep, drop, block = listener.recv_records(4)
    assert threads.call(lambda: bytes(free)) == b"free"
    threads.call(free.free)
    threads.call(keep.keep)
    assert bytes(keep) == b"keep"
    bag = [drop]
    del drop
    threads.call(bag.clear)
    threads.call(lambda: block.__enter__().__exit__(None, None, None))
    assert listener.statistics().held == 1
    assert owed(bus) == 0
    threads.call(keep.free)
    assert listener.statistics().held == 0
    for message in (free, keep, block):
        with pytest.raises(ipcheap.RecordError, match="freed"):
            message.free()


def test_any_thread_may_forward(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    other = heap.add_bus("other")
    heap.add_record_channel("records", 4)
    with (
        bus.listen() as listener,
        other.listen() as another,
        heap.consumer("records") as consumer,
    ):
        bus.post_many([b"1" * 1000, b"2" * 1000])
        first, second = listener.recv_records(2)
        threads.call(lambda: other.post_record(first))

        def send() -> None:
            with heap.producer("records") as producer:
                producer.send_record(second)

        threads.call(send)
        assert another.recv(0) == b"1" * 1000
        assert consumer.recv(0) == b"2" * 1000
        assert listener.statistics().held == 0
        assert owed(bus) == 0
    assert heap.statistics().records == 0


def test_threads_free_what_one_receives(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    with bus.listen() as one, bus.listen() as two:
        for turn in range(30):
            size = 40_000 if turn % 3 == 0 else 100 + turn
            bus.post_many([bytes(size)] * 16)
            messages = [*one.recv_records(16), *two.recv_records(16)]
            lock = threading.Lock()

            def work(messages: list[ipcheap.Message] = messages, lock: Any = lock) -> None:
                while True:
                    with lock:
                        if not messages:
                            return
                        message = messages.pop()
                    if len(messages) % 2:
                        message.keep()
                    message.free()

            threads.call_in(4, work)
            assert one.statistics().held == two.statistics().held == 0
    assert heap.statistics().in_use == 0


def test_a_listener_is_its_threads_and_a_bus_everybodys(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    calls: list[Callable[[], object]] = [
        listener.recv,
        listener.recv_record,
        listener.try_recv_record,
        lambda: next(iter(listener)),
        listener.fileno,
        listener.close,
    ]
    for call in calls:
        with pytest.raises(ipcheap.WrongThread, match="MainThread"):
            threads.call(call)
    assert threads.call(lambda: bus.post(b"x")) == 0
    assert listener.recv(0) == b"x"


# Forwarded -----------------------------------------------------------------------------------


@each_size
def test_forwarding_a_message_that_nobody_else_needs_copies_nothing(
    heap: ipcheap.Heap, bus: ipcheap.Bus, size: int
) -> None:
    heap.add_record_channel("records", 4)
    heap.add_store("values")
    other = heap.add_bus("other")
    data = os.urandom(size)
    with (
        bus.listen() as listener,
        other.listen() as another,
        heap.producer("records") as producer,
        heap.consumer("records") as consumer,
        heap.store_writer("values") as writer,
        heap.store_reader("values") as reader,
    ):
        bus.post(data)
        message = listener.recv_record(0)
        at = address(message) if size else 0
        producer.send_record(message)
        record = consumer.recv_record(0)
        assert bytes(record) == data
        assert not size or address(record) == at
        bus.post_record(record)
        message = listener.recv_record(0)
        assert not size or address(message) == at
        other.post_record(message)
        message = another.recv_record(0)
        assert bytes(message) == data
        assert not size or address(message) == at
        other.broadcast_record(message)
        message = another.recv_record(0)
        assert bytes(message) == data
        assert not size or address(message) == at
        writer.put_record("key", message)
        assert reader.get_bytes("key") == data
        assert listener.statistics().held == another.statistics().held == 0
        writer.delete("key")
        writer.collect()
    assert heap.statistics().records == 0


@each_size
def test_forwarding_a_message_that_others_need_copies_it_once(
    heap: ipcheap.Heap, bus: ipcheap.Bus, size: int
) -> None:
    other = heap.add_bus("other")
    data = os.urandom(size)
    with bus.listen() as one, bus.listen() as two, other.listen() as another:
        for needed in ("pending", "held", "kept"):
            bus.post(data)
            message = one.recv_record(0)
            theirs = None if needed == "pending" else two.recv_record(0)
            if needed == "kept" and theirs is not None:
                theirs.keep()
            other.post_record(message)
            assert one.statistics().held == 0  # it is released
            with pytest.raises(ipcheap.RecordError):
                bytes(message)
            assert heap.statistics().in_use < 2 * size + size // 2 + 1000
            if theirs is None:
                theirs = two.recv_record(0)
            copy = another.recv_record(0)
            assert bytes(copy) == bytes(theirs) == data
            assert not size or address(copy) != address(theirs)
            copy.free()
            theirs.free()
            del copy, theirs
    assert heap.statistics().in_use == 0


def test_forwarding_a_message_of_the_history_leaves_it_there(heap: ipcheap.Heap) -> None:
    bus, other = heap.add_bus("kept", history=2), heap.add_bus("other")
    with other.listen() as another:
        bus.post(b"x" * 1000)
        with bus.listen(history=1) as listener:
            other.post_record(listener.recv_record(0))
        assert another.recv(0) == b"x" * 1000
        with bus.listen(history=1) as listener:
            assert listener.recv(0) == b"x" * 1000


def test_arrays_and_objects_keep_their_form_when_forwarded(
    heap: ipcheap.Heap, bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    other = heap.add_bus("other")
    with other.listen() as another, bus.listen() as held:
        for _ in range(2):  # without a copy, and with one
            with bus.loan((2, 3), "f4") as array:
                array[:] = 5
            bus.post_object({"a": np.arange(3)})
            other.post_record(listener.recv_record())
            other.post_record(listener.recv_record())
            assert another.recv_array(0).shape == (2, 3)
            assert list(another.recv_object(0)["a"]) == [0, 1, 2]
            held.close()


def test_after_a_forward_that_failed_the_message_is_the_callers(
    heap: ipcheap.Heap, bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    full = heap.add_bus("full", 1)
    heap.add_record_channel("records", 1)
    with full.listen() as slow, heap.producer("records") as producer:
        full.post(b"in the way")
        producer.send(b"in the way")
        bus.post(b"mine")
        message = listener.recv_record()
        for call in (
            lambda: full.post_record(message, 0),
            lambda: full.broadcast_record(message, 0),
            lambda: full.broadcast_record(message, 0.01),
            lambda: producer.send_record(message, 0),
        ):
            with pytest.raises(TimeoutError):
                call()
            assert bytes(message) == b"mine"
            assert listener.statistics().held == 1
        assert producer.try_send_record(message) is False
        with pytest.raises(ipcheap.ChannelBusy):
            full.broadcast_record(message, nowait=True)
        assert (message.position, bytes(message)) == (0, b"mine")
        slow.recv()
        full.post_record(message, 0)
        assert slow.recv(0) == b"mine"


# Debugging -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("debugging")
def test_a_record_with_live_views_is_not_posted_when_debugging(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    record = bus.allocate_record(3)
    view = record.view
    for call in (bus.post_record, bus.broadcast_record):
        with pytest.raises(BufferError, match="view"):
            call(record)
    assert bus.statistics().posted == 0
    del view
    record[:] = b"abc"
    bus.post_record(record)
    assert listener.recv() == b"abc"


def test_it_is_posted_with_live_views_otherwise(
    bus: ipcheap.Bus, listener: ipcheap.Listener
) -> None:
    record = bus.allocate_record(3)
    view = record.view
    view[:] = b"abc"
    bus.post_record(record)
    with listener.recv_record() as message:
        assert bytes(message) == bytes(view) == b"abc"


@pytest.mark.usefixtures("debugging")
def test_a_message_that_was_never_freed_is_reported_when_debugging(bus: ipcheap.Bus) -> None:
    with bus.listen() as listener:
        bus.post(b"x")
        message = listener.recv_record()
        with pytest.warns(ResourceWarning, match=r"Message 0.*never freed|never freed.*Message 0"):
            del message
        assert listener.statistics().held == 0
        bus.post(b"y")
        with listener.recv_record() as message:
            pass
        del message

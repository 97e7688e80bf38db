"""Slow listeners of a bus: reliable, lossy and passed ones, and what room and memory they take."""

from __future__ import annotations

import contextlib
import signal
import time
from typing import TYPE_CHECKING, Any

import bus_workers
import numpy as np
import peers
import pytest
import threads

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHORT = 0.05
PATIENCE = 0.05


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap
        assert heap.check() == []


@pytest.fixture
def bus(heap: ipcheap.Heap) -> ipcheap.Bus:
    return heap.add_bus("news", 4)


@pytest.fixture
def impatient(heap: ipcheap.Heap) -> ipcheap.Bus:
    return heap.add_bus("impatient", 4, patience=PATIENCE)


def numbered(*numbers: int) -> list[bytes]:
    return [b"%d" % number for number in numbers]


def fill(bus: ipcheap.Bus, first: int = 0) -> int:
    """Post numbers until there is no room; return the first that was not posted."""
    with contextlib.suppress(TimeoutError):
        while True:
            bus.post(b"%d" % first, timeout=0)
            first += 1
    return first


def pass_all(bus: ipcheap.Bus, number: int) -> None:
    """Post a number for which those in the way have to be passed."""
    end = time.monotonic() + peers.PATIENCE
    while time.monotonic() < end:
        with contextlib.suppress(TimeoutError):
            bus.post(b"%d" % number, timeout=0)
            return
        time.sleep(PATIENCE / 5)
    raise AssertionError("nobody was passed")


# Reliable ----------------------------------------------------------------------------------


def test_a_reliable_listener_makes_writers_wait_and_loses_nothing(bus: ipcheap.Bus) -> None:
    with peers.run(bus_workers.obey, bus) as peer:
        assert peer.hear() == "ready"
        assert bus.post_many(numbered(0, 1, 2, 3)) == 4
        record = bus.allocate_record(1)
        calls: list[Callable[[float], object]] = [
            lambda timeout: bus.post(b"x", timeout),
            lambda timeout: bus.post_many([b"x"], timeout),
            lambda timeout: bus.post_record(record, timeout),
            lambda timeout: bus.post_object(1, timeout),
            lambda timeout: bus.broadcast(b"x", timeout),
        ]
        for call in calls:
            for timeout in (0, SHORT):
                began = time.monotonic()
                with pytest.raises(TimeoutError, match=rf"{peer.pid}.* is 4 messages behind"):
                    call(timeout)
                assert timeout <= time.monotonic() - began < timeout + 1
        with pytest.raises(TimeoutError), bus.loan(3, "u1", timeout=0):
            pass
        record.free()
        assert bus.statistics().posted == 4

        def receive() -> None:
            time.sleep(SHORT)
            for number in range(5):
                peer.tell("receive")
                assert peer.hear() == b"%d" % number

        with threads.run(receive):
            assert bus.post(b"4") == 4
        peer.tell("lost")
        assert peer.hear() == 0
        peer.tell("end")


def test_the_state_of_the_listener_in_the_way_is_told(bus: ipcheap.Bus) -> None:
    with peers.run(bus_workers.obey, bus) as peer:
        assert peer.hear() == "ready"
        peer.kill(signal.SIGSTOP)
        fill(bus)
        peers.until(lambda: bus.listeners()[0].participant.state == "stopped")
        with pytest.raises(TimeoutError, match=rf"the listener .*{peer.pid}.*, stopped is 4"):
            bus.post(b"x", SHORT)
        peer.kill(signal.SIGCONT)


def test_a_dead_listener_is_passed_within_a_tenth_of_a_second(bus: ipcheap.Bus) -> None:
    took = []
    for _ in range(3):  # the machine may be busy
        with peers.run(bus_workers.obey, bus) as peer:
            assert peer.hear() == "ready"
            fill(bus)
            died: list[float] = []

            def kill(peer: peers.Peer[None] = peer, died: list[float] = died) -> None:
                time.sleep(SHORT)
                peer.kill()
                died.append(time.monotonic())

            with threads.run(kill):
                bus.post(b"x", peers.PATIENCE)
                took.append(time.monotonic() - died[0])
    assert min(took) < 0.15, took


def test_a_listener_that_closes_makes_room(bus: ipcheap.Bus) -> None:
    with peers.run(bus_workers.obey, bus) as peer:
        assert peer.hear() == "ready"
        fill(bus)
        with threads.later(lambda: peer.tell("close"), peer.hear):
            assert bus.post(b"x", peers.PATIENCE) == 4
        peer.tell("end")


def test_only_the_listener_behind_most_is_waited_for(bus: ipcheap.Bus) -> None:
    with bus.listen() as quick, bus.listen() as slow:
        bus.post_many(numbered(0, 1, 2, 3))
        assert quick.recv_many() == numbered(0, 1, 2, 3)
        with pytest.raises(TimeoutError):
            bus.post(b"4", 0)
        slow.recv()
        assert bus.post(b"4", 0) == 4
        with pytest.raises(TimeoutError):
            bus.post(b"5", 0)
        assert quick.recv_many() == [b"4"]
        assert slow.recv_many() == numbered(1, 2, 3, 4)


# Held --------------------------------------------------------------------------------------


def test_what_is_held_takes_memory_and_no_place(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    with bus.listen() as listener:
        held = []
        for number in range(3000):
            assert bus.post(b"%d" % number, 0) == number
            held.append(listener.recv_record(0))
            if number % 3 == 0:
                held[-1].keep()
        assert listener.statistics().held == 3000
        assert heap.check() == []
        assert [bytes(message) for message in held] == numbered(*range(3000))
        for message in held[::2] + held[1::2]:
            message.free()
        assert listener.statistics().held == 0
        assert heap.statistics().records == 0


def test_one_may_hold_what_the_heap_has_room_for(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("large", 1024)
    with bus.listen() as listener:
        arrays: list[Any] = []

        def hold_all() -> None:
            while True:
                with bus.loan(1 << 20, "u1", timeout=0) as array:
                    array[:] = len(arrays)
                del array
                arrays.append(listener.recv_array(0))

        with pytest.raises(ipcheap.HeapFull):
            hold_all()
        assert len(arrays) > 10
        assert all((array == n % 256).all() for n, array in enumerate(arrays))
        arrays.clear()
        assert bus.post(bytes(10 << 20), 0) > 10


# Lossy -------------------------------------------------------------------------------------


def test_a_lossy_listener_never_makes_anybody_wait_and_loses_the_oldest(bus: ipcheap.Bus) -> None:
    with bus.listen(lossy=True) as lossy:
        assert bus.post_many(numbered(*range(4)), timeout=0) == 4
        assert lossy.recv_many(2) == numbered(0, 1)
        for number in range(4, 25):
            bus.post(b"%d" % number, timeout=0)
        left = lossy.recv_many()
        assert left == numbered(*range(25))[-len(left) :]
        assert 1 <= len(left) <= 4
        assert lossy.lost == 25 - 2 - len(left)
        assert bus.broadcast(b"25", 0).complete
        assert lossy.recv(0) == b"25"
        assert bus.listeners()[0].lost == lossy.lost == lossy.statistics().lost


def test_a_stopped_lossy_listener_makes_nobody_wait(bus: ipcheap.Bus) -> None:
    with peers.run(bus_workers.obey, bus, lossy=True) as peer:
        assert peer.hear() == "ready"
        peer.kill(signal.SIGSTOP)
        for number in range(1000):
            bus.post(b"%d" % number, timeout=0)
        assert bus.drain(0).complete
        peer.kill(signal.SIGCONT)
        peer.tell("receive")
        first = int(peer.hear())
        assert 996 <= first < 1000
        peer.tell("lost")
        assert peer.hear() == first


def test_what_a_lossy_listener_holds_stays_as_it_is(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    with bus.listen(lossy=True) as lossy:
        bus.post(b"held" * 100)
        message = lossy.recv_record()
        for _ in range(100):
            bus.post(b"other" * 80, timeout=0)
        assert bytes(message) == b"held" * 100
        message.free()
    assert heap.statistics().in_use == 0


def test_lossy_and_reliable_ones_do_not_concern_each_other(bus: ipcheap.Bus) -> None:
    with bus.listen(lossy=True) as lossy, bus.listen() as reliable:
        heard: list[bytes] = []
        for number in range(50):
            bus.post(b"%d" % number, timeout=0)
            if number % 4 == 3:
                heard += reliable.recv_many()
        heard += reliable.recv_many()
        assert heard == numbered(*range(50))
        assert reliable.lost == 0
        left = lossy.recv_many()
        assert lossy.lost + len(left) == 50


def test_messages_that_only_lossy_ones_wait_for_are_given_up_before_the_heap_is_full() -> None:
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        bus = heap.add_bus("news", 256)
        with bus.listen(lossy=True) as lossy:
            for number in range(100):
                bus.post(b"%03d" % number * 40_000, timeout=0)
            left = [data[:3] for data in lossy.recv_many()]
            assert left == [b"%03d" % n for n in range(100 - len(left), 100)]
            assert lossy.lost == 100 - len(left)
            assert left
            for _ in range(3000):  # small ones as well
                bus.post(bytes(1000), timeout=0)
            bus.allocate_record(500_000).free()
            with bus.listen() as reliable:
                with pytest.raises(ipcheap.HeapFull):
                    bus.post_many([bytes(120_000)] * 100, timeout=0)
                assert reliable.lost == 0
                got = reliable.recv_many()
                assert len(got) > 3
                bus.post(bytes(120_000), timeout=0)
        assert heap.statistics().in_use == 0
        assert heap.check() == []


# Passed ------------------------------------------------------------------------------------


def test_a_passed_listener_hears_of_its_loss_once_and_is_reliable_again(
    impatient: ipcheap.Bus,
) -> None:
    bus = impatient
    with bus.listen() as listener:
        assert fill(bus) == 4
        pass_all(bus, 4)
        assert bus.statistics().passed == 1
        for _ in range(2):
            assert listener.pending == 4
        with pytest.raises(ipcheap.MessagesLost, match="lost 1 message") as raised:
            listener.recv(timeout=0)
        assert raised.value.count == listener.lost == 1
        assert listener.recv_many() == numbered(1, 2, 3, 4)  # only as many as room took
        assert fill(bus, 5) == 9  # it makes writers wait again
        assert listener.recv(0) == b"5"
        assert listener.lost == 1


@pytest.mark.parametrize("more", [1, 2, 4, 50])
def test_it_loses_as_many_as_making_room_takes_and_the_number_is_exact(
    impatient: ipcheap.Bus, more: int
) -> None:
    bus = impatient
    with bus.listen() as listener:
        fill(bus)
        pass_all(bus, 4)
        for number in range(5, 4 + more):  # once passed, it is in nobody's way
            bus.post(b"%d" % number, timeout=0)
        with pytest.raises(ipcheap.MessagesLost) as raised:
            listener.recv()
        assert raised.value.count == listener.lost == more
        assert listener.recv_many() == numbered(*range(more, more + 4))
        assert bus.statistics().passed == 1


RECEIVES: dict[str, Callable[[ipcheap.Listener], object]] = {
    "recv": lambda listener: listener.recv(0),
    "recv_record": lambda listener: listener.recv_record(0),
    "try_recv_record": lambda listener: listener.try_recv_record(),
    "recv_many": lambda listener: listener.recv_many(timeout=0),
    "recv_records": lambda listener: listener.recv_records(10, timeout=0),
    "recv_array": lambda listener: listener.recv_array(0),
    "recv_object": lambda listener: listener.recv_object(0),
    "next": lambda listener: next(iter(listener)),
}


@pytest.mark.parametrize("how", RECEIVES)
def test_every_way_to_receive_raises_a_loss(impatient: ipcheap.Bus, how: str) -> None:
    with impatient.listen() as listener:
        fill(impatient)
        pass_all(impatient, 4)
        with pytest.raises(ipcheap.MessagesLost) as raised:
            RECEIVES[how](listener)
        assert (raised.value.count, listener.lost) == (1, 1)
        assert isinstance(raised.value, BufferError)
        assert listener.recv_many() == numbered(1, 2, 3, 4)


def test_an_iteration_goes_on_after_a_loss(impatient: ipcheap.Bus) -> None:
    found: list[bytes] = []
    with impatient.listen() as listener:
        fill(impatient)
        for message in listener:
            found.append(bytes(message))
            if len(found) == 2:
                break
        message.free()
        fill(impatient, 4)
        pass_all(impatient, 6)
        with pytest.raises(ipcheap.MessagesLost):
            next(iter(listener))
        for message in listener:
            found.append(bytes(message))
            if found[-1] == b"6":
                break
    assert found == numbered(0, 1, 3, 4, 5, 6)


def test_a_loss_in_the_middle_of_a_batch_is_told_after_what_came_before(
    impatient: ipcheap.Bus,
) -> None:
    with impatient.listen() as listener:
        fill(impatient)
        assert listener.recv_many(2) == numbered(0, 1)
        fill(impatient, 4)
        pass_all(impatient, 6)
        with pytest.raises(ipcheap.MessagesLost) as raised:
            listener.recv_many()
        assert raised.value.count == 1
        assert listener.recv_many() == numbered(3, 4, 5, 6)


def test_patience_counts_across_writers_and_calls(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("half a second", 4, patience=0.5)
    with bus.listen() as listener:
        bus.post_many(numbered(0, 1, 2, 3))
        began = time.monotonic()
        attempts = 0
        while True:
            attempts += 1
            with contextlib.suppress(TimeoutError):  # each from another participant
                threads.call(lambda: bus.post(b"4", timeout=0))
                break
            time.sleep(0.002)
        assert attempts > 1
        assert 0.49 <= time.monotonic() - began < 5
        with pytest.raises(ipcheap.MessagesLost):
            listener.recv()


def test_patience_begins_anew_when_something_is_received(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("two seconds", 4, patience=2)
    with bus.listen() as listener:
        number = fill(bus)
        for _ in range(5):
            with pytest.raises(TimeoutError):
                bus.post(b"x", timeout=0.45)
            listener.recv(0)
            number = fill(bus, number)
        assert listener.lost == 0
        assert listener.pending == 4


def test_a_slow_listener_that_is_in_nobodys_way_is_not_passed(impatient: ipcheap.Bus) -> None:
    with impatient.listen() as listener:
        impatient.post_many(numbered(0, 1, 2, 3))
        time.sleep(2 * PATIENCE)
        assert listener.recv_many() == numbered(0, 1, 2, 3)
        assert impatient.statistics().passed == 0


@pytest.mark.parametrize("timeout", [None, peers.PATIENCE])
def test_a_post_that_waits_longer_than_patience_passes_the_listener(
    impatient: ipcheap.Bus, timeout: float | None
) -> None:
    with peers.run(bus_workers.obey, impatient) as peer:
        assert peer.hear() == "ready"
        impatient.post_many(numbered(0, 1, 2, 3))
        began = time.monotonic()
        assert impatient.post(b"in time", timeout) == 4
        assert PATIENCE * 0.9 <= time.monotonic() - began < PATIENCE + 1
        assert impatient.statistics().passed == 1
        peer.tell("end")


def test_no_patience_makes_all_listeners_lossy(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("news", 4, patience=0)
    with bus.listen() as listener, bus.listen(lossy=True) as another:
        for number in range(10):
            bus.post(b"%d" % number, timeout=0)
        assert bus.broadcast(b"10").listeners == 0
        for each in (listener, another):
            left = each.recv_many()
            assert left == numbered(*range(11))[-len(left) :]
            assert each.lost == 11 - len(left)
        assert all(info.lossy for info in bus.listeners())


def test_one_that_is_passed_while_it_holds_keeps_what_it_holds(impatient: ipcheap.Bus) -> None:
    with impatient.listen() as listener:
        impatient.post(b"held")
        message = listener.recv_record()
        fill(impatient)
        pass_all(impatient, 4)
        for number in range(5, 40):
            impatient.post(b"%d" % number, timeout=0)
        assert bytes(message) == b"held"
        message.free()
        with pytest.raises(ipcheap.MessagesLost) as raised:
            listener.recv()
        assert listener.recv_many() == numbered(36, 37, 38, 39)
        assert raised.value.count == 36


# The calling thread's own ------------------------------------------------------------------


def test_a_thread_does_not_wait_indefinitely_for_itself(bus: ipcheap.Bus) -> None:
    with bus.listen() as listener:
        fill(bus)
        record = bus.allocate_record(1)
        calls: list[Callable[[], Any]] = [
            lambda: bus.post(b"x"),
            lambda: bus.post_many([b"x"]),
            lambda: bus.post_record(record),
            lambda: bus.post_object(1),
            lambda: bus.broadcast(b"x"),
            lambda: bus.broadcast_record(record),
            lambda: bus.broadcast_object(1),
        ]
        for call in calls:
            with pytest.raises(ipcheap.RecordError, match="listener of this thread"):
                call()
        record.free()
        with pytest.raises(TimeoutError, match="this process"):
            bus.post(b"x", timeout=SHORT)
        assert bus.statistics().posted == 4
        assert listener.recv_many() == numbered(0, 1, 2, 3)
        assert bus.post(b"4") == 4


def test_with_patience_a_thread_waits_for_itself_and_passes_itself(impatient: ipcheap.Bus) -> None:
    with impatient.listen() as listener:
        fill(impatient)
        assert impatient.post(b"4") == 4
        with pytest.raises(ipcheap.MessagesLost):
            listener.recv()


def test_a_thread_waits_for_another_one_of_its_process(bus: ipcheap.Bus) -> None:
    with bus.listen() as listener:
        fill(bus)

        def post() -> int:
            return bus.post(b"4")

        position: list[int] = []
        with threads.run(lambda: position.append(post())):
            time.sleep(SHORT)
            assert listener.recv() == b"0"
        assert position == [4]


# History -----------------------------------------------------------------------------------


@pytest.fixture
def kept(heap: ipcheap.Heap) -> ipcheap.Bus:
    return heap.add_bus("kept", 8, history=5)


@pytest.mark.parametrize("posted", [0, 1, 4, 5, 6, 8, 9, 100])
def test_a_listener_begins_with_the_last_that_are_there(kept: ipcheap.Bus, posted: int) -> None:
    for number in range(posted):
        kept.post(b"%d" % number)
    for wanted in range(6):
        with kept.listen(history=wanted) as listener:
            expected = numbered(*range(posted))[max(0, posted - wanted) :]
            assert listener.pending == len(expected)
            if expected:
                assert listener.recv_many() == expected
            with pytest.raises(TimeoutError):
                listener.recv(timeout=0)
            assert listener.lost == 0


@pytest.mark.parametrize("wrong", [6, 100, 2**64, -1])
def test_more_history_than_the_bus_keeps_is_refused(kept: ipcheap.Bus, wrong: int) -> None:
    with pytest.raises(ValueError, match="history"):
        kept.listen(history=wrong)
    with pytest.raises(TypeError):
        kept.listen(history="1")  # type: ignore[arg-type]
    assert kept.listeners() == []


def test_history_never_makes_a_writer_wait(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("all", 4, history=4)
    for number in range(100):
        bus.post(b"%d" % number, timeout=0)
    with bus.listen(history=4) as listener:
        with pytest.raises(TimeoutError):
            bus.post(b"x", timeout=0)  # but a listener does
        assert listener.recv_many() == numbered(96, 97, 98, 99)
        assert bus.post(b"100", timeout=0) == 100
        assert listener.recv(0) == b"100"


def test_the_history_takes_the_memory_of_its_messages_only(
    heap: ipcheap.Heap, kept: ipcheap.Bus
) -> None:
    kept.post(b"")
    for _ in range(50):
        kept.post(bytes(100_000))
        assert heap.statistics().in_use < 5 * 120_000 + 10_000
    for _ in range(50):
        kept.post(bytes(100))
    assert heap.statistics().in_use < 5 * 1000 + 5000
    heap.remove_channel("kept")
    assert heap.statistics().in_use == 0


def test_a_listener_with_history_under_load_begins_with_a_row(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        bus = heap.add_bus("news", 16, history=16)
        with peers.run(bus_workers.post_over_and_over, bus) as peer:
            assert peer.hear() == "ready"
            peers.until(lambda: bus.statistics().posted > 100)
            for turn in range(100):
                with bus.listen(history=turn % 17) as listener:
                    first: int | None = None
                    for n in range(20):
                        with listener.recv_record(peers.PATIENCE) as message:
                            first = message.position if first is None else first
                            assert message.position == first + n
                            assert bus_workers.number_of(message) == (1, first + n)
                    assert listener.lost == 0
        assert heap.check() == []


def test_arrays_in_the_history_are_shared_with_all_who_come_later(kept: ipcheap.Bus) -> None:
    with kept.loan(1000, "f8") as array:
        array[:] = np.arange(1000)
    with kept.listen(history=1) as one, kept.listen(history=5) as another:
        first, second = one.recv_array(0), another.recv_array(0)
        assert first.__array_interface__["data"] == second.__array_interface__["data"]
        assert (first == np.arange(1000)).all()

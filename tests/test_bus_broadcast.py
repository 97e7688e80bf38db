"""Broadcasts: who is waited for, in which order they go, and what becomes of them."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
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


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap
        assert heap.check() == []


@pytest.fixture
def bus(heap: ipcheap.Heap) -> ipcheap.Bus:
    return heap.add_bus("news", 4)


@contextlib.contextmanager
def listening(bus: ipcheap.Bus, count: int = 1, **how: Any) -> Iterator[list[peers.Peer[None]]]:
    """Run processes that listen and obey."""
    with contextlib.ExitStack() as stack:
        found = [stack.enter_context(peers.run(bus_workers.obey, bus, **how)) for _ in range(count)]
        for peer in found:
            assert peer.hear() == "ready"
        yield found
        for peer in found:
            with contextlib.suppress(OSError):
                peer.tell("end")


def do(peer: peers.Peer[Any], what: object) -> Any:
    peer.tell(what)
    return peer.hear()


def numbers(report: ipcheap.BroadcastReport) -> tuple[int, int, int, list[int]]:
    """Return what a report counts, and the processes that are slow."""
    assert report.listeners == report.released + report.gone + len(report.slow)
    assert report.complete == (not report.slow)
    return report.listeners, report.released, report.gone, [each.pid for each in report.slow]


@contextlib.contextmanager
def seconds(least: float, most: float) -> Iterator[None]:
    """Fail if the block takes less or more time."""
    began = time.monotonic()
    yield
    assert least <= time.monotonic() - began < most


# To whom it is owed ------------------------------------------------------------------------


def test_without_listeners_it_returns_immediately(heap: ipcheap.Heap, bus: ipcheap.Bus) -> None:
    for position, timeout in enumerate((None, 0, 10)):
        report = bus.broadcast(b"x", timeout)
        assert numbers(report) == (0, 0, 0, [])
        assert report.complete
        assert report.position == position
    assert heap.statistics().in_use == 0


@pytest.mark.parametrize("timeout", [None, peers.PATIENCE])
def test_it_returns_when_all_have_released_it(bus: ipcheap.Bus, timeout: float | None) -> None:
    with listening(bus, 2) as (one, other):
        for peer in (one, other):
            peer.tell("hold")
        came: list[str] = []

        def release() -> None:
            assert (one.hear(), other.hear()) == (b"x", b"x")
            for peer in (one, other):
                time.sleep(SHORT)
                came.append("released")
                assert do(peer, "free") is None

        with threads.run(release), seconds(2 * SHORT, peers.PATIENCE):
            report = bus.broadcast(b"x", timeout)
            assert came == ["released"] * 2
        assert numbers(report) == (2, 2, 0, [])


@pytest.mark.parametrize("what", ["keep", "close"])
def test_keeping_and_closing_release_as_well(bus: ipcheap.Bus, what: str) -> None:
    with listening(bus) as (peer,):
        peer.tell("hold")

        def release() -> None:
            assert peer.hear() == b"x"
            assert do(peer, what) is None

        with threads.run(release):
            report = bus.broadcast(b"x", peers.PATIENCE)
        assert report.listeners == 1
        assert report.released + report.gone == 1
        assert report.complete
        assert do(peer, "see") == [b"x"]  # which it may go on to read


def test_a_listener_that_closes_before_it_received_is_gone(bus: ipcheap.Bus) -> None:
    with listening(bus) as (peer,):
        with threads.later(lambda: do(peer, "close")):
            report = bus.broadcast(b"x", peers.PATIENCE)
        assert numbers(report) == (1, 0, 1, [])


@pytest.mark.parametrize("holding", [False, True])
def test_a_listener_that_dies_is_gone_within_a_tenth_of_a_second(
    bus: ipcheap.Bus, holding: bool
) -> None:
    took = []
    for _ in range(3):  # the machine may be busy
        with listening(bus) as (peer,):
            if holding:
                peer.tell("hold")
            died: list[float] = []

            def kill(
                peer: peers.Peer[None] = peer, died: list[float] = died, holding: bool = holding
            ) -> None:
                time.sleep(SHORT)
                if holding:
                    assert peer.hear() == b"x"
                peer.kill()
                died.append(time.monotonic())

            with threads.run(kill):
                report = bus.broadcast(b"x", peers.PATIENCE)
                took.append(time.monotonic() - died[0])
            assert numbers(report) == (1, 0, 1, [])
    assert min(took) < 0.15, took


def test_a_dead_listener_is_gone_even_without_any_time(bus: ipcheap.Bus) -> None:
    with listening(bus, 2) as (dead, alive):
        dead.kill()
        dead.wait()
        report = bus.broadcast(b"x", 0)
        assert report.gone + report.listeners - 1 in (0, 2)  # not owed to it, or gone
        assert [each.pid for each in report.slow] == [alive.pid]
        assert do(alive, "receive") == b"x"


def test_lossy_listeners_are_not_waited_for(bus: ipcheap.Bus) -> None:
    with listening(bus, lossy=True) as (peer,):
        assert numbers(bus.broadcast(b"x")) == (0, 0, 0, [])
        assert do(peer, "receive") == b"x"
        assert numbers(bus.drain()) == (0, 0, 0, [])


def test_listeners_of_the_calling_thread_are_not_waited_for(bus: ipcheap.Bus) -> None:
    with bus.listen() as mine, bus.listen() as another, listening(bus) as (peer,):
        peer.tell("receive")
        assert numbers(bus.broadcast(b"x")) == (1, 1, 0, [])
        assert peer.hear() == b"x"
        assert (mine.recv(0), another.recv(0)) == (b"x", b"x")
        # Those of another thread of the process are.
        report = threads.call(lambda: bus.broadcast(b"y", SHORT))
        assert numbers(report) == (3, 0, 0, [each.pid for each in report.slow])
        assert sorted(each.pid for each in report.slow) == sorted([os.getpid()] * 2 + [peer.pid])


def test_a_listener_that_comes_later_is_not_waited_for(bus: ipcheap.Bus) -> None:
    with listening(bus) as (early,):
        early.tell("hold")
        came: list[int] = []

        def later() -> None:
            assert early.hear() == b"x"
            with bus.listen() as listener:
                came.append(listener.pending)
                assert bus.post(b"y") == 1
                assert listener.recv(0) == b"y"
            do(early, "free")

        with threads.run(later):
            report = bus.broadcast(b"x", peers.PATIENCE)
        assert numbers(report) == (1, 1, 0, [])
        assert came == [0]


def test_a_listener_that_comes_later_is_not_owed_the_history(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("kept", 4, history=2)
    with listening(bus) as (early,):
        early.tell("hold")
        late: list[bytes] = []

        def later() -> None:
            assert early.hear() == b"x"
            with bus.listen(history=2) as listener, listener.recv_record(0) as message:
                late.append(bytes(message))
                do(early, "free")
                time.sleep(SHORT)
                late.append(bytes(message))

        with threads.run(later):
            report = bus.broadcast(b"x", peers.PATIENCE)
            assert numbers(report) == (1, 1, 0, [])
        assert late == [b"x", b"x"]


# Time that runs out ------------------------------------------------------------------------


@pytest.mark.parametrize("timeout", [0, SHORT, 0.7])
def test_a_listener_that_has_not_released_in_time_is_slow_and_gets_it_later(
    bus: ipcheap.Bus, timeout: float
) -> None:
    with listening(bus, 2) as (slow, quick):
        quick.tell("receive")
        with seconds(timeout, timeout + 1):
            report = bus.broadcast(b"x", timeout)
        assert report.listeners == 2
        assert slow.pid in [each.pid for each in report.slow]
        if timeout:
            assert numbers(report) == (2, 1, 0, [slow.pid])
            assert report.slow[0].state == "alive"
        assert not report.complete
        bus.post(b"y")
        assert [do(slow, "receive") for _ in range(2)] == [b"x", b"y"]
        assert quick.hear() == b"x"


def test_all_that_have_released_count_whichever_is_slow(bus: ipcheap.Bus) -> None:
    with listening(bus, 5) as found:
        for at, slow in enumerate(found):
            for peer in found:
                if peer is not slow:
                    peer.tell("receive")
            report = bus.broadcast(b"%d" % at, 0.5)
            assert numbers(report) == (5, 4, 0, [slow.pid])
            for peer in found:
                if peer is not slow:
                    assert peer.hear() == b"%d" % at
            assert do(slow, "receive") == b"%d" % at


def test_a_stopped_listener_is_slow_and_named_so(bus: ipcheap.Bus) -> None:
    with listening(bus) as (peer,):
        peer.kill(signal.SIGSTOP)
        report = bus.broadcast(b"x", SHORT)
        assert numbers(report) == (1, 0, 0, [peer.pid])
        assert report.slow[0].state == "stopped"
        peer.kill(signal.SIGCONT)
        assert do(peer, "receive") == b"x"


@pytest.mark.parametrize("wrong", [-1, float("nan"), "1"])
def test_a_timeout_that_is_none_posts_nothing(bus: ipcheap.Bus, wrong: Any) -> None:
    for call in (
        lambda: bus.broadcast(b"x", wrong),
        lambda: bus.drain(wrong),
        lambda: bus.broadcast_object(1, wrong),
        lambda: bus.wait_listeners(1, wrong),
    ):
        with pytest.raises((ValueError, TypeError), match="timeout"):
            call()
    assert bus.statistics().posted == 0


# Turns -------------------------------------------------------------------------------------


@contextlib.contextmanager
def having_the_turn(bus: ipcheap.Bus) -> Iterator[peers.Peer[None]]:
    """Run a process that waits in a broadcast for a listener of this thread."""
    with bus.listen() as listener, peers.run(bus_workers.broadcast_when_told, bus) as peer:
        assert peer.hear() == "ready"
        peer.tell(b"first")
        message = listener.recv_record(peers.PATIENCE)
        yield peer
        message.free()


def test_while_one_is_waited_for_no_other_is_posted_and_posts_go_on(bus: ipcheap.Bus) -> None:
    with bus.listen() as listener, peers.run(bus_workers.broadcast_when_told, bus) as peer:
        assert peer.hear() == "ready"
        peer.tell(b"first")
        message = listener.recv_record(peers.PATIENCE)
        for timeout in (0, SHORT):
            with (
                seconds(timeout, timeout + 1),
                pytest.raises(TimeoutError, match=rf"the turn of a broadcast of .*{peer.pid}"),
            ):
                bus.broadcast(b"second", timeout)
        assert bus.statistics().posted == 1  # and nothing was posted
        assert bus.post(b"between", 0) == 1
        message.free()
        assert peer.hear() == (0, 1, 1, 0)
        assert bus.broadcast(b"second", 0).position == 2
        assert listener.recv_many() == [b"between", b"second"]
        peer.tell(None)


def test_nowait_raises_instead_of_waiting_for_the_turn(bus: ipcheap.Bus) -> None:
    with having_the_turn(bus) as peer:
        calls: list[Callable[..., object]] = [
            lambda **how: bus.broadcast(b"x", **how),
            lambda **how: bus.broadcast_object(1, **how),
        ]
        for call in calls:
            for timeout in (None, 0, 10):
                with (
                    seconds(0, 1),
                    pytest.raises(ipcheap.ChannelBusy, match=rf"turn.*{peer.pid}"),
                ):
                    call(timeout=timeout, nowait=True)
        record = bus.allocate_record(3)
        record[:] = b"abc"
        with pytest.raises(BlockingIOError):
            bus.broadcast_record(record, nowait=True)
        assert bytes(record) == b"abc"  # still the caller's
        record.free()
        assert bus.statistics().posted == 1


def test_nowait_raises_instead_of_waiting_for_room(bus: ipcheap.Bus) -> None:
    with listening(bus) as (peer,):
        bus.post_many([b"x"] * 4)
        for timeout in (None, 0, 10):
            with seconds(0, 1), pytest.raises(ipcheap.ChannelBusy, match=rf"{peer.pid}.* behind"):
                bus.broadcast(b"y", timeout, nowait=True)
        assert bus.statistics().posted == 4


def test_nowait_still_waits_for_the_releases(bus: ipcheap.Bus) -> None:
    with listening(bus) as (peer,):
        with seconds(SHORT, SHORT + 1):
            report = bus.broadcast(b"x", SHORT, nowait=True)
        assert numbers(report) == (1, 0, 0, [peer.pid])
        assert do(peer, "receive") == b"x"


def test_a_turn_ends_when_its_caller_dies(bus: ipcheap.Bus) -> None:
    with having_the_turn(bus) as peer:
        with threads.later(peer.kill), seconds(0, 2):
            report = bus.broadcast(b"second", peers.PATIENCE)
        assert report.position == 1


@pytest.mark.parametrize("after", [0, SHORT])
def test_a_turn_ends_at_its_callers_deadline_even_if_that_is_stopped(
    bus: ipcheap.Bus, after: float
) -> None:
    with (
        bus.listen() as listener,
        peers.run(bus_workers.broadcast_when_told, bus, 0.5) as peer,
    ):
        assert peer.hear() == "ready"
        peer.tell(b"first")
        message = listener.recv_record(peers.PATIENCE)
        time.sleep(after)  # it is about to wait, or waits
        peer.kill(signal.SIGSTOP)
        with seconds(0.0, 5):
            report = bus.broadcast(b"second", peers.PATIENCE)
        assert report.position == 1
        message.free()
        assert listener.recv() == b"second"
        peer.kill(signal.SIGCONT)
        assert peer.hear()[0] == 0
        peer.tell(None)


def test_a_turn_ends_when_its_caller_is_interrupted(bus: ipcheap.Bus) -> None:
    with bus.listen() as listener, peers.run(bus_workers.interrupt_a_broadcast, bus, b"1") as peer:
        assert peer.hear() == "ready"
        message = listener.recv_record(peers.PATIENCE)
        time.sleep(SHORT)
        peer.kill(signal.SIGINT)
        assert peer.result() == "interrupted"
        assert bus.broadcast(b"second", 0).position == 1
        message.free()
        assert listener.recv(0) == b"second"  # what it had posted stays posted


def test_a_broadcast_is_received_when_the_one_before_is_released(heap_name: str) -> None:
    """The barrier: no listener is a step ahead of another."""
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        bus = heap.add_bus("steps")
        parties, steps = 3, 60
        at = [0] * parties
        spread: list[int] = []
        ready = threading.Barrier(parties + 1)

        def party(number: int) -> None:
            with bus.listen() as listener:
                ready.wait(peers.PATIENCE)
                for step in range(2 * steps):
                    with listener.recv_record(peers.PATIENCE):
                        spread.append(step - min(at))
                        at[number] = step + 1

        def direct(count: int) -> None:
            for _ in range(count):
                report = bus.broadcast(b"step", peers.PATIENCE)
                assert report.complete

        with contextlib.ExitStack() as stack:
            for number in range(parties):
                stack.enter_context(threads.run(functools.partial(party, number)))
            ready.wait(peers.PATIENCE)
            stack.enter_context(threads.run(lambda: direct(steps)))
            stack.enter_context(threads.run(lambda: direct(steps)))
        assert at == [2 * steps] * parties
        assert max(spread) == 0


def test_two_threads_that_broadcast_to_each_other_are_helped_by_a_timeout(
    bus: ipcheap.Bus,
) -> None:
    both = threading.Barrier(2)

    def talk() -> int:
        with bus.listen() as listener:
            slow = 0
            for _ in range(3):
                both.wait(peers.PATIENCE)
                with contextlib.suppress(TimeoutError):
                    slow += len(bus.broadcast(b"hello", SHORT).slow)
                with contextlib.suppress(TimeoutError):
                    listener.recv_many(timeout=0)
            both.wait(peers.PATIENCE)
            return slow

    assert sum(threads.call_in(2, talk)) > 0


# Room --------------------------------------------------------------------------------------


def test_time_that_runs_out_before_it_is_posted_posts_nothing(
    heap: ipcheap.Heap, bus: ipcheap.Bus
) -> None:
    with listening(bus) as (peer,):
        bus.post_many([b"0", b"1", b"2", b"3"])
        in_use = heap.statistics().in_use
        record = bus.allocate_record(10)
        record[:] = b"0123456789"
        calls: list[Callable[[], object]] = [
            lambda: bus.broadcast(b"x", SHORT),
            lambda: bus.broadcast(b"x", 0),
            lambda: bus.broadcast_record(record, SHORT),
            lambda: bus.broadcast_object([1], SHORT),
        ]
        for call in calls:
            with pytest.raises(TimeoutError, match=rf"{peer.pid}.* is 4 messages behind"):
                call()
        assert bytes(record) == b"0123456789"
        record.free()
        assert heap.statistics().in_use == in_use
        assert bus.statistics().posted == 4
        with threads.later(lambda: do(peer, "receive")):
            report = bus.broadcast(b"4", 0.5)
        assert (report.position, report.listeners) == (4, 1)
        assert [do(peer, "receive") for _ in range(4)] == [b"1", b"2", b"3", b"4"]


def test_all_ways_to_broadcast(bus: ipcheap.Bus) -> None:
    with listening(bus) as (peer,):
        record = bus.allocate_record(3)
        record[:] = b"abc"
        array = bus.allocate_array(3, "u1")
        array.array()[:] = 7
        calls: list[tuple[Callable[[], ipcheap.BroadcastReport], bytes | None]] = [
            (lambda: bus.broadcast(b"bytes", 5), b"bytes"),
            (lambda: bus.broadcast_record(record), b"abc"),
            (lambda: bus.broadcast_record(array, 5), b"\7\7\7"),
            (lambda: bus.broadcast_object(np.zeros(0)), None),
        ]
        for call, expected in calls:
            peer.tell("receive")
            assert numbers(call()) == (1, 1, 0, [])
            heard = peer.hear()
            assert expected is None or heard == expected
        for dead in (record, array):
            with pytest.raises(ipcheap.RecordError):
                bus.broadcast_record(dead)


# Drain -------------------------------------------------------------------------------------


def test_drain_waits_for_all_that_was_posted_before(bus: ipcheap.Bus) -> None:
    assert bus.drain(0) == ipcheap.BroadcastReport(-1, 0, 0, 0)
    with listening(bus, 2) as (one, other):
        bus.post_many([b"0", b"1", b"2"])
        assert (do(one, "hold"), do(one, "hold"), do(one, "receive")) == (b"0", b"1", b"2")
        for _ in range(3):
            do(other, "receive")
        report = bus.drain(SHORT)
        assert report.position == 2
        assert numbers(report) == (2, 1, 0, [one.pid])
        do(one, "free")
        assert not bus.drain(0).complete
        with threads.later(lambda: do(one, "free")):
            assert numbers(bus.drain(peers.PATIENCE)) == (2, 2, 0, [])
        assert numbers(bus.drain(0)) == (2, 2, 0, [])
        # It does not wait for what was posted meanwhile, or after.
        bus.post(b"3")
        do(other, "receive")
        with threads.later(lambda: bus.post(b"4"), lambda: do(one, "receive")):
            assert numbers(bus.drain(peers.PATIENCE)) == (2, 2, 0, [])


def test_drain_takes_no_turn(bus: ipcheap.Bus) -> None:
    with listening(bus) as (peer,):
        bus.post(b"0")
        draining = threading.Event()

        def drain() -> None:
            draining.set()
            assert bus.drain(peers.PATIENCE).complete

        with threads.run(drain):
            draining.wait(peers.PATIENCE)
            time.sleep(SHORT)
            assert bus.broadcast(b"1", SHORT).position == 1
            assert [do(peer, "receive") for _ in range(2)] == [b"0", b"1"]


def test_drain_does_not_wait_for_this_threads_own(bus: ipcheap.Bus) -> None:
    with bus.listen() as mine:
        bus.post(b"0")
        assert numbers(bus.drain()) == (0, 0, 0, [])
        assert mine.recv(0) == b"0"


# Passed -----------------------------------------------------------------------------


def test_a_listener_that_is_passed_before_it_received_is_slow(heap: ipcheap.Heap) -> None:
    bus = heap.add_bus("impatient", 4, patience=0.05)
    with listening(bus) as (peer,):
        reports: list[ipcheap.BroadcastReport] = []
        with threads.run(lambda: reports.append(bus.broadcast(b"never", peers.PATIENCE))):
            peers.until(lambda: bus.statistics().posted == 1)
            with seconds(0, 5):
                for n in range(8):
                    bus.post(b"%d" % n, peers.PATIENCE)
        (report,) = reports
        assert numbers(report) == (1, 0, 0, [peer.pid])
        peer.kill()


# Removal -----------------------------------------------------------------------------------


def test_removal_ends_a_broadcast_and_a_drain(heap: ipcheap.Heap) -> None:
    for wait in (
        lambda bus: bus.broadcast(b"x", peers.PATIENCE),
        lambda bus: bus.broadcast(b"x"),
        lambda bus: [bus.post(b"x"), bus.drain(peers.PATIENCE)],
    ):
        bus = heap.add_bus("short-lived")
        with listening(bus):

            def remove() -> None:
                time.sleep(SHORT)
                heap.remove_channel("short-lived", force=True)

            with (
                threads.run(remove),
                pytest.raises(ipcheap.ChannelClosed, match="removed while"),
            ):
                wait(bus)


def test_removal_ends_the_wait_for_a_turn_and_for_room(heap: ipcheap.Heap) -> None:
    def remove() -> None:
        time.sleep(SHORT)
        heap.remove_channel("short-lived", force=True)

    gone = (ipcheap.ChannelNotFound, ipcheap.ChannelClosed)
    for timeout in (None, peers.PATIENCE):
        bus = heap.add_bus("short-lived", 2)
        with listening(bus):
            bus.post_many([b"1", b"2"])
            with threads.run(remove), pytest.raises(gone, match="short-lived"):
                bus.post(b"3", timeout)
        bus = heap.add_bus("short-lived", 2)
        with having_the_turn(bus), threads.run(remove), pytest.raises(gone, match="short-lived"):
            bus.broadcast(b"3", timeout)


# Ctrl-C ------------------------------------------------------------------------------------


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """Take the signal as a terminal's process does: one in a shell's background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(call: Callable[[], object]) -> None:
    """Expect that Ctrl-C ends a call that waits."""
    timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with seconds(0, 5), pytest.raises(KeyboardInterrupt):
        call()
    timer.join()


@pytest.mark.usefixtures("_heeds_ctrl_c")
@pytest.mark.parametrize("timeout", [None, peers.PATIENCE])
def test_ctrl_c_while_it_waits_for_its_turn_has_posted_nothing(
    bus: ipcheap.Bus, timeout: float | None
) -> None:
    with having_the_turn(bus):
        record = bus.allocate_record(1)
        interrupted(lambda: bus.broadcast(b"x", timeout))
        interrupted(lambda: bus.broadcast_record(record, timeout))
        record.free()
        assert bus.statistics().posted == 1


@pytest.mark.usefixtures("_heeds_ctrl_c")
@pytest.mark.parametrize("timeout", [None, peers.PATIENCE])
def test_ctrl_c_while_it_waits_for_room_has_posted_nothing(
    heap: ipcheap.Heap, bus: ipcheap.Bus, timeout: float | None
) -> None:
    with listening(bus) as (peer,):
        bus.post_many([b"x"] * 4)
        in_use = heap.statistics().in_use
        record = bus.allocate_record(1)
        interrupted(lambda: bus.broadcast(b"x", timeout))
        interrupted(lambda: bus.broadcast_record(record, timeout))
        interrupted(lambda: bus.post(b"x", timeout))
        interrupted(lambda: bus.post_record(record, timeout))
        record.free()
        interrupted(lambda: bus.post_object(1, timeout))
        assert bus.statistics().posted == 4
        assert heap.statistics().in_use == in_use
        assert do(peer, "receive") == b"x"
        assert bus.broadcast(b"y", 0).position == 4  # the turn was given back


@pytest.mark.usefixtures("_heeds_ctrl_c")
@pytest.mark.parametrize("timeout", [None, peers.PATIENCE])
def test_ctrl_c_while_it_waits_for_releases_has_posted_it(
    bus: ipcheap.Bus, timeout: float | None
) -> None:
    with listening(bus) as (peer,):
        interrupted(lambda: bus.broadcast(b"x", timeout))
        assert bus.statistics().posted == 1
        interrupted(lambda: bus.drain(timeout))
        assert bus.broadcast(b"y", 0).position == 1
        assert [do(peer, "receive") for _ in range(2)] == [b"x", b"y"]


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_ctrl_c_in_post_many_says_how_many(bus: ipcheap.Bus) -> None:
    with listening(bus):
        threading.Timer(0.1, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt) as raised:
            bus.post_many([b"x"] * 9)
        assert vars(raised.value)["done"] == 4


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_ctrl_c_ends_a_wait_for_listeners(bus: ipcheap.Bus) -> None:
    interrupted(bus.wait_listeners)

"""One suite that an endpoint of every kind passes; `endpoints.ROLES` has the kinds."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import pickle
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

import endpoints
import peers
import pytest
import threads
from endpoints import ROLES, SIDES, Role

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SHORT = 0.05


def some(roles: Callable[[Role], object]) -> pytest.MarkDecorator:
    """Run a test for some of the roles only."""
    return pytest.mark.parametrize(
        "role", [*filter(roles, ROLES.values())], ids=lambda role: role.name, indirect=True
    )


exclusive = some(lambda role: not role.shared)
shared = some(lambda role: role.shared)
waiting = some(lambda role: role.waits)
never_waiting = some(lambda role: not role.waits)
sending = some(lambda role: role.send_many)
waiting_for_claims = some(lambda role: role.has_peer)
exclusive_claims = some(lambda role: role.has_peer and not role.shared)
with_a_peer = some(lambda role: role.has_peer)
waiting_for_a_peer = some(lambda role: role.waits and role.has_peer)


@pytest.fixture(params=ROLES.values(), ids=lambda role: role.name)
def role(request: pytest.FixtureRequest) -> Role:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def heap(heap_name: str, role: Role) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        role.add(heap, "c")
        yield heap
        if not heap.closed:
            assert heap.check() == []


@pytest.fixture
def mine(heap: ipcheap.Heap, role: Role) -> Iterator[Any]:
    with role.of_heap(heap, "c") as endpoint:
        yield endpoint


def other(heap: ipcheap.Heap, role: Role) -> Any:
    return SIDES[role.other].of_heap(heap, "c")


def calls(role: Role, endpoint: Any) -> dict[str, Callable[[], Any]]:
    """Return calls that only the thread may make that claimed the endpoint."""
    found = {
        "act": lambda: role.act(endpoint, 0),
        "attempt": lambda: role.attempt(endpoint),
        "fileno": endpoint.fileno,
        "wait": lambda: ipcheap.wait([endpoint], 0),
        "coroutine": lambda: asyncio.run(role.coroutine(endpoint)),
    }
    if role.has_peer:
        found["wait_peer"] = lambda: endpoint.wait_peer(0)
    return found


def errors(role: Role, endpoint: Any) -> dict[str, str]:
    """Return what each of these calls raises."""
    found = {}
    for name, call in calls(role, endpoint).items():
        try:
            call()
        except ipcheap.Error as error:
            found[name] = type(error).__name__
        else:
            found[name] = "nothing"
    return found


def all_raise(role: Role, error: str) -> dict[str, str]:
    names = ["act", "attempt", "fileno", "wait", "coroutine", *["wait_peer"] * role.has_peer]
    return dict.fromkeys(names, error)


# Claims -------------------------------------------------------------------------------------


@exclusive
def test_a_side_has_one_holder_and_its_name_is_told(
    heap: ipcheap.Heap, role: Role, mine: Any
) -> None:
    with pytest.raises(ipcheap.ChannelBusy, match=rf"'c'.*{role.text} side.*{os.getpid()}"):
        role.of_heap(heap, "c")
    mine.close()
    role.of_heap(heap, "c").close()
    with peers.run(endpoints.hold, heap, role.name) as peer:
        peer.hear()
        with pytest.raises(ipcheap.ChannelBusy, match=rf"'c'.*{role.text} side.*{peer.pid}"):
            role.of_heap(heap, "c", SHORT)
        threading.Timer(0.2, peer.tell, ["close"]).start()
        with role.of_heap(heap, "c", peers.PATIENCE):
            pass
        peer.hear()
        peer.tell("end")


@shared
def test_a_side_may_have_any_number_of_holders(heap: ipcheap.Heap, role: Role, mine: Any) -> None:
    with role.of_heap(heap, "c") as another, peers.run(endpoints.hold, heap, role.name) as peer:
        assert peer.hear() == "claimed"
        with other(heap, role) as sender:
            SIDES[role.other].act(sender, 0)
            peer.tell("act")
            assert peer.hear() == "done"
            role.act(another, peers.PATIENCE)
            role.act(mine, peers.PATIENCE)
        peer.tell("end")


@exclusive
def test_the_side_of_a_killed_holder_can_be_claimed(heap: ipcheap.Heap, role: Role) -> None:
    with peers.run(endpoints.hold, heap, role.name) as peer:
        peer.hear()
        threading.Timer(0.2, peer.kill).start()
        with role.of_heap(heap, "c", peers.PATIENCE):
            pass


def test_a_claim_waits_for_the_channel(heap: ipcheap.Heap, role: Role) -> None:
    with pytest.raises(ipcheap.ChannelNotFound, match="later"):
        role.of_heap(heap, "later")
    began = time.monotonic()
    with pytest.raises(KeyError):
        role.of_heap(heap, "later", SHORT)
    assert time.monotonic() - began >= SHORT
    adds_it = threading.Timer(0.1, role.add, [heap, "later"])
    adds_it.start()
    role.of_heap(heap, "later", peers.PATIENCE).close()
    adds_it.join()


@waiting_for_claims
def test_a_claim_through_a_channel_gives_up_when_that_is_removed(
    heap: ipcheap.Heap, role: Role
) -> None:
    channel = heap.channel("c")
    heap.remove_channel("c")
    role.add(heap, "c")  # another channel
    with pytest.raises(ipcheap.ChannelNotFound, match=r"'c' .* has been removed"):
        role.of_channel(channel, peers.PATIENCE)
    role.of_heap(heap, "c").close()


@exclusive_claims
def test_a_claim_that_waits_for_a_side_gives_up_when_the_channel_is_removed(
    heap: ipcheap.Heap, role: Role, mine: Any
) -> None:
    channel = heap.channel("c")
    began = time.monotonic()

    def replace() -> None:
        heap.remove_channel("c", force=True)
        role.add(heap, "c")

    with threads.later(replace), pytest.raises(ipcheap.ChannelNotFound, match=r"'c' .* removed"):
        role.of_channel(channel, peers.PATIENCE)
    assert time.monotonic() - began < peers.PATIENCE / 2
    mine.close()


def test_a_channel_of_another_kind_is_refused(heap: ipcheap.Heap, role: Role) -> None:
    channel = role.add(heap, "c")
    heap.add_static_segment("static", 64)
    with pytest.raises(ipcheap.ChannelTypeError, match="static"):
        role.of_heap(heap, "static")
    for another in ROLES.values():
        if another.add is not role.add:
            with pytest.raises(ipcheap.ChannelTypeError, match="c"):
                another.of_heap(heap, "c")
            with pytest.raises(ipcheap.ChannelTypeError, match="c"):
                another.add(heap, "c")
    assert heap.channel("c") == channel
    assert "c" in list(heap.channels)


def test_its_channel_pickles_and_the_endpoint_does_not(
    heap: ipcheap.Heap, role: Role, mine: Any
) -> None:
    channel = role.add(heap, "c")
    again = pickle.loads(pickle.dumps(channel))
    assert (again, hash(again)) == (channel, hash(channel))
    with pytest.raises(TypeError, match="pass its channel"):
        pickle.dumps(mine)
    if not role.sends:
        with other(heap, role) as sender:
            SIDES[role.other].act(sender, 0)
    mine.close()
    assert getattr(channel, role.size) == 2
    assert peers.call(endpoints.use_channel, channel, role.name) == ("c", 2)


# Closing ------------------------------------------------------------------------------------


def test_close_is_idempotent_and_final(role: Role, mine: Any) -> None:
    assert not mine.closed
    assert "'c'" in repr(mine)
    assert mine.channel == "c"
    mine.fileno()
    mine.close()
    mine.close()
    assert mine.closed
    assert "closed" in repr(mine)
    assert errors(role, mine) == all_raise(role, "EndpointClosed")
    with pytest.raises(ValueError, match="closed"):
        role.act(mine, 0)
    expect_counted(role, mine.statistics())
    with mine:
        pass


def test_a_closed_heap_has_closed_it(heap: ipcheap.Heap, heap_name: str, role: Role) -> None:
    with ipcheap.Heap.attach(heap_name) as attached:
        mine = role.of_heap(attached, "c")
        attached.close()
        assert mine.closed
        assert errors(role, mine) == all_raise(role, "HeapClosed")
        mine.close()
    expect_the_end(heap, role)


def stalled_act(role: Role, endpoint: Any) -> None:
    """Act until a call would have to wait, and let that one wait."""
    while True:
        role.act(endpoint, peers.PATIENCE)


def expect_the_end(heap: ipcheap.Heap, role: Role) -> None:
    """Expect that the other side finds this one closed, as soon as it would have to wait for it."""
    with other(heap, role) as peer:
        if SIDES[role.other].waits:
            with pytest.raises(ipcheap.ChannelClosed):
                stalled_act(SIDES[role.other], peer)
        if role.shared:
            channel: Any = heap.channel("c")
            there = channel.listeners if role.name == "listener" else channel.readers
            peers.until(lambda: there() == [])


def expect_counted(role: Role, statistics: Any) -> None:
    assert dataclasses.asdict(statistics).items() >= role.counted.items()


def test_what_is_dropped_is_closed_with_a_warning(heap: ipcheap.Heap, role: Role) -> None:
    mine = role.of_heap(heap, "c")
    with pytest.warns(ResourceWarning, match="unclosed.*'c'"):
        del mine
    expect_the_end(heap, role)
    role.of_heap(heap, "c").close()


def test_a_threads_end_closes_what_it_claimed(heap: ipcheap.Heap, role: Role) -> None:
    mine = threads.call(lambda: role.of_heap(heap, "c"))
    expect_the_end(heap, role)
    assert set(errors(role, mine).values()) <= {"EndpointClosed", "WrongThread"}
    mine.close()
    role.of_heap(heap, "c").close()


def test_a_normal_end_of_the_process_closes_it(heap: ipcheap.Heap, role: Role) -> None:
    with peers.run(endpoints.end_without_closing, heap, role.name) as process:
        assert process.wait() == 0
    expect_the_end(heap, role)


# Threads and processes ------------------------------------------------------------------------


def test_only_the_thread_that_claimed_it_may_use_it(role: Role, mine: Any) -> None:
    assert threads.call(lambda: errors(role, mine)) == all_raise(role, "WrongThread")
    with pytest.raises(ipcheap.WrongThread, match="MainThread"):
        threads.call(lambda: role.act(mine, 0))
    with pytest.raises(RuntimeError):
        threads.call(mine.close)
    expect_counted(role, threads.call(mine.statistics))
    assert not mine.closed


def test_a_forked_child_may_not_use_it(heap: ipcheap.Heap, role: Role, mine: Any) -> None:
    expected = all_raise(role, "WrongProcess")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            with pytest.raises(ipcheap.WrongProcess):
                mine.close()
            code = 0 if errors(role, mine) == expected else 2
            mine.statistics()
            with ipcheap.Heap.attach(heap.name or ""):  # the heap works in the child
                pass
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with other(heap, role) as peer:  # and nothing was closed here
        with contextlib.suppress(TimeoutError):
            role.act(mine, 0)
        SIDES[role.other].attempt(peer)
        assert not mine.closed


# The other side -------------------------------------------------------------------------------


@with_a_peer
def test_wait_peer_waits_for_a_living_other_side(heap: ipcheap.Heap, role: Role, mine: Any) -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="other side"):
        mine.wait_peer(timeout=SHORT)
    assert time.monotonic() - began >= SHORT
    with peers.run(endpoints.hold, heap, role.other) as peer:
        mine.wait_peer(timeout=peers.PATIENCE)
        peer.hear()
        peer.kill()
        peer.wait()
    with pytest.raises(TimeoutError):
        mine.wait_peer(timeout=SHORT)


@waiting_for_a_peer
@pytest.mark.parametrize("kill", [False, True], ids=["closed", "died"])
def test_the_end_of_the_other_side_ends_a_wait(
    heap: ipcheap.Heap, role: Role, mine: Any, kill: bool
) -> None:
    with peers.run(endpoints.hold, heap, role.other) as peer:
        peer.hear()
        role.stall(mine)
        threading.Timer(0.2, peer.kill if kill else lambda: peer.tell("close")).start()
        error = ipcheap.PeerDied if kill else ipcheap.ChannelClosed
        with pytest.raises(error, match=f"'c'.*{SIDES[role.other].text}"):
            role.act(mine, peers.PATIENCE)
        with pytest.raises(error):
            role.attempt(mine)
        with pytest.raises(error):
            asyncio.run(role.coroutine(mine))
        assert ipcheap.wait([mine], 0) == [mine]
        assert select.select([mine], [], [], 0)[0] == [mine]
        if not kill:
            peer.hear()
            peer.tell("end")
    with other(heap, role), pytest.raises(TimeoutError):  # a new holder cancels the end
        role.act(mine, 0)


@waiting
def test_a_side_that_was_never_claimed_is_waited_for(role: Role, mine: Any) -> None:
    role.stall(mine)
    assert not role.attempt(mine)
    with pytest.raises(TimeoutError):
        role.act(mine, SHORT)


# Removal --------------------------------------------------------------------------------------


def test_a_channel_in_use_is_removed_with_force_only(
    heap: ipcheap.Heap, role: Role, mine: Any
) -> None:
    with pytest.raises(ipcheap.ChannelBusy, match=rf"'c'.*{os.getpid()}"):
        heap.remove_channel("c")
    if role.waits:
        role.stall(mine)
        threading.Timer(0.1, lambda: heap.remove_channel("c", force=True)).start()
    else:
        heap.remove_channel("c", force=True)
    with pytest.raises(role.removed, match="'c'"):
        role.act(mine, peers.PATIENCE)
    # Pollers and wait() find it ready, so that its user learns of the end.
    ready = {"fileno": "nothing", "wait": "nothing"}
    assert errors(role, mine) == all_raise(role, role.removed.__name__) | ready
    assert ipcheap.wait([mine], 0) == [mine]
    assert select.select([mine], [], [], 0)[0] == [mine]
    mine.close()
    assert heap.statistics().in_use == 0
    with pytest.raises(ipcheap.ChannelNotFound):
        role.of_heap(heap, "c")


# Waiting --------------------------------------------------------------------------------------


@waiting
def test_time_runs_out_and_changes_nothing(role: Role, mine: Any) -> None:
    role.stall(mine)
    before = dataclasses.asdict(mine.statistics())
    for seconds in (0, SHORT, 0.6):  # the last is longer than one sleep
        began = time.monotonic()
        with pytest.raises(TimeoutError, match="'c'"):
            role.act(mine, seconds)
        assert seconds <= time.monotonic() - began < seconds + 5
    for wrong, error in ((-1, ValueError), (float("nan"), ValueError), ("1", TypeError)):
        with pytest.raises(error):
            role.act(mine, wrong)
    after = dataclasses.asdict(mine.statistics())
    same = {"capacity", "sent", "received", "written", "read", "writes", "reads", "lost", "held"}
    same |= {"given", "skipped"}
    assert {k: after[k] for k in same & after.keys()} == {
        k: before[k] for k in same & before.keys()
    }
    assert after["parks"] > before["parks"]


@waiting
def test_the_descriptor_says_whether_there_is_something_to_do(
    heap: ipcheap.Heap, role: Role, mine: Any
) -> None:
    with other(heap, role) as peer:
        descriptor = mine.fileno()
        assert mine.fileno() == descriptor

        def readable() -> bool:
            return bool(select.select([descriptor], [], [], 0)[0])

        for _ in range(3):
            role.stall(mine)
            assert not readable()
            assert ipcheap.wait([mine], 0) == []
            began = time.monotonic()
            assert ipcheap.wait([mine], SHORT) == []
            assert time.monotonic() - began >= SHORT
            SIDES[role.other].act(peer, 0)
            assert readable()
            assert readable()  # level-triggered
            assert ipcheap.wait([mine, mine], peers.PATIENCE) == [mine, mine]
            role.act(mine, 0)
        role.stall(mine)
        peer.close()
        assert readable() == role.has_peer


@never_waiting
def test_what_never_waits_is_always_ready(heap: ipcheap.Heap, role: Role, mine: Any) -> None:
    def expect_ready() -> None:
        assert select.select([mine], [], [], 0)[0] == [mine]
        assert ipcheap.wait([mine], 0) == [mine]
        assert role.attempt(mine)

    expect_ready()
    for kill in (False, True):  # whatever becomes of the other side
        with peers.run(endpoints.hold, heap, role.other) as peer:
            peer.hear()
            expect_ready()
            peer.kill() if kill else peer.tell("end")
            peer.wait()
        expect_ready()


@waiting
def test_another_process_ends_every_kind_of_wait(heap: ipcheap.Heap, role: Role, mine: Any) -> None:
    waits: list[Callable[[], Any]] = [
        lambda: role.act(mine, peers.PATIENCE),
        lambda: ipcheap.wait([mine], peers.PATIENCE),
        lambda: select.select([mine], [], [], peers.PATIENCE)[0],
        lambda: asyncio.run(asyncio.wait_for(role.coroutine(mine), peers.PATIENCE)),
    ]
    with peers.run(endpoints.hold, heap, role.other) as peer:
        peer.hear()
        for wait in waits:
            role.stall(mine)
            threading.Timer(SHORT, peer.tell, ["act"]).start()
            assert wait() != []
            assert peer.hear() == "done"
        peer.tell("end")


@waiting
def test_other_threads_run_while_it_sleeps(role: Role, mine: Any) -> None:
    role.stall(mine)
    turns = 0
    asleep = threading.Event()

    def count() -> None:
        nonlocal turns
        asleep.wait()
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            turns += 1
        assert turns > 100

    with threads.run(count):
        asleep.set()
        with pytest.raises(TimeoutError):
            role.act(mine, 0.3)
    assert turns > 100


def test_an_exception_of_a_signal_handler_ends_a_wait_and_changes_nothing(
    heap: ipcheap.Heap, role: Role, mine: Any
) -> None:
    def handle(*_: object) -> None:
        raise KeyboardInterrupt

    def interrupted(wait: Callable[[], Any]) -> None:
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1]).start()
        wait()

    waits: list[Callable[[], Any]] = []
    if role.has_peer:
        waits.append(lambda: mine.wait_peer(peers.PATIENCE))
    if role.waits:
        role.stall(mine)
        waits.append(lambda: role.act(mine, peers.PATIENCE))
        waits.append(lambda: ipcheap.wait([mine], peers.PATIENCE))
    before = signal.signal(signal.SIGUSR1, handle)
    try:
        for wait in waits:
            with pytest.raises(KeyboardInterrupt):
                interrupted(wait)
    finally:
        signal.signal(signal.SIGUSR1, before)
    with other(heap, role) as peer:
        if role.waits:
            assert not role.attempt(mine)
            SIDES[role.other].act(peer, 0)
        role.act(mine, 0)


@waiting
def test_what_is_cancelled_has_done_nothing(heap: ipcheap.Heap, role: Role, mine: Any) -> None:
    async def main() -> None:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(SHORT):
                    await role.coroutine(mine)
            task = asyncio.create_task(role.coroutine(mine))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        task = asyncio.create_task(role.coroutine(mine))
        await asyncio.sleep(0.01)
        SIDES[role.other].act(peer, 0)
        await asyncio.wait_for(task, peers.PATIENCE)

    role.stall(mine)
    with other(heap, role) as peer:
        asyncio.run(main())
        assert not role.attempt(mine)


def test_closing_the_heap_ends_every_wait(heap: ipcheap.Heap, role: Role) -> None:
    def waits(mine: Any) -> list[Callable[[], Any]]:
        found: list[Callable[[], Any]] = []
        if role.has_peer:
            found.append(lambda: mine.wait_peer(peers.PATIENCE))
        if role.waits:
            found.append(lambda: role.act(mine, peers.PATIENCE))
            found.append(lambda: ipcheap.wait([mine], peers.PATIENCE))
            found.append(lambda: asyncio.run(role.coroutine(mine)))
        return found

    for which in range(3 * role.waits + role.has_peer):
        attached = ipcheap.Heap.attach(heap.name or "")
        with role.of_heap(attached, "c") as mine:
            if role.waits:
                role.stall(mine)
            threading.Timer(0.1, attached.close).start()
            with pytest.raises(ipcheap.HeapClosed):
                waits(mine)[which]()
            assert mine.closed


@waiting
def test_closing_it_ends_a_coroutine_that_waits(role: Role, mine: Any) -> None:
    async def main() -> None:
        task = asyncio.create_task(role.coroutine(mine))
        await asyncio.sleep(0.01)
        mine.close()
        with pytest.raises(ipcheap.EndpointClosed):
            await asyncio.wait_for(task, peers.PATIENCE)

    role.stall(mine)
    asyncio.run(main())


@waiting
def test_a_task_that_never_has_to_wait_lets_others_run(
    heap: ipcheap.Heap, role: Role, mine: Any
) -> None:
    turns = 0

    async def tick() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def main() -> None:
        ticker = asyncio.create_task(tick())
        for _ in range(300):
            if role.sends:
                await role.coroutine(mine)
                SIDES[role.other].act(peer, 0)
            else:
                SIDES[role.other].act(peer, 0)
                await role.coroutine(mine)
        ticker.cancel()

    with other(heap, role) as peer:
        asyncio.run(main())
    assert turns >= 3


# Statistics -----------------------------------------------------------------------------------


def test_statistics_are_frozen_and_count(heap: ipcheap.Heap, role: Role, mine: Any) -> None:
    statistics: Any = mine.statistics()
    assert dataclasses.fields(statistics)
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(statistics, dataclasses.fields(statistics)[0].name, 1)
    assert pickle.loads(pickle.dumps(statistics)) == statistics
    if role.sized:
        assert getattr(mine, role.size) == 2
    expect_counted(role, statistics)
    if not role.waits:
        role.act(mine, 0)
        assert mine.statistics() != statistics
        return
    with peers.run(endpoints.hold, heap, role.other) as peer:
        peer.hear()
        role.stall(mine)
        threading.Timer(0.2, peer.tell, ["act"]).start()
        role.act(mine, peers.PATIENCE)
        peer.hear()
        peer.tell("end")
    assert mine.statistics().parks > statistics.parks


# Doing many things ----------------------------------------------------------------------------


@sending
@pytest.mark.parametrize("how", ["TimeoutError", "ChannelClosed", "PeerDied", "KeyboardInterrupt"])
def test_what_is_done_in_part_says_how_much(
    heap: ipcheap.Heap, role: Role, mine: Any, how: str
) -> None:
    assert role.send_many
    if how == "TimeoutError":
        for timeout in (0, SHORT):
            with pytest.raises(TimeoutError) as raised:
                role.send_many(mine, timeout)
            assert raised.value.done == (2 if timeout == 0 else 0)  # type: ignore[attr-defined]
        return
    if how == "KeyboardInterrupt":
        before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
        try:
            threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1]).start()
            with pytest.raises(KeyboardInterrupt) as interrupted:
                role.send_many(mine, peers.PATIENCE)
            assert interrupted.value.done == 2  # type: ignore[attr-defined]
        finally:
            signal.signal(signal.SIGUSR1, before)
        return
    kill = how == "PeerDied"
    with peers.run(endpoints.hold, heap, role.other) as peer:
        peer.hear()
        threading.Timer(0.2, peer.kill if kill else lambda: peer.tell("close")).start()
        with pytest.raises(getattr(ipcheap, how)) as ended:
            role.send_many(mine, peers.PATIENCE)
        assert ended.value.done == 2
        if not kill:
            peer.hear()
            peer.tell("end")

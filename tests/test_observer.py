"""Looking at a heap from outside: harmless, by a deadline, without a signal, exact when quiet."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import kinds
import observed
import peers
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[1]


def path_of(name: str) -> Path:
    return Path("/dev/shm", f"ipcheap.{name}")


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap
        assert heap.check() == []


def key_of(snapshot: ipcheap.Snapshot, pid: int) -> str:
    (key,) = (each.key for each in snapshot.participants if each.pid == pid)
    return key


# Exact when quiet -----------------------------------------------------------------------------


def compare(heap: ipcheap.Heap) -> ipcheap.Snapshot:
    """Compare a look with what the heap itself counts."""
    numbers = heap.statistics()
    seen = heap.snapshot()
    usage = seen.usage
    assert usage is not None
    assert seen.unreadable == ()
    assert seen.again == 0
    for name in ("capacity", "committed", "recoveries"):
        assert getattr(seen, name) == getattr(numbers, name), name
    for name in ("in_use", "largest_free", "records", "extents", "slabs"):
        assert getattr(usage, name) == getattr(numbers, name), (name, seen.holdings)
    living = [each for each in seen.participants if each.state != "dead"]
    assert len(living) == numbers.participants
    assert len(seen.channels) == numbers.channels
    # Every record in use is in exactly one holding.
    assert sum(each.records for each in seen.holdings) == numbers.records
    assert sum(each.nbytes for each in seen.holdings) == numbers.in_use
    for how in ("owned", "held", "pending", "static"):
        of_these = sum(each.nbytes for each in seen.holdings if each.how == how)
        assert of_these == getattr(usage, how), how
    whole = -(-numbers.capacity // 4096) * 4096
    assert usage.in_use + usage.idle + usage.free == whole
    return seen


def count(snapshot: ipcheap.Snapshot, how: str, channel: object = None) -> int:
    return sum(
        each.records
        for each in snapshot.holdings
        if each.how == how and channel in (None, each.channel)
    )


def compare_world(world: observed.World) -> None:
    heap, seen = world.heap, compare(world.heap)
    assert not any(each.holder is None for each in seen.holdings if each.how == "owned")
    for channel_id in ("a", 7):
        counts = heap.channel(channel_id).counts()  # type: ignore[attr-defined]
        view = seen.channel(channel_id)
        assert isinstance(view, ipcheap.ChannelView)
        for name in ("capacity", "sent", "received", "pending", "held"):
            assert getattr(view, name) == getattr(counts, name), name
        assert (view.producer.state, view.consumer.state) == (counts.producer, counts.consumer)
        assert count(seen, "held", channel_id) == counts.held
        assert count(seen, "pending", channel_id) == counts.pending
    store, numbers = seen.channel("t"), world.shop.statistics()
    assert isinstance(store, ipcheap.StoreView)
    for name in ("version", "chunks", "dead", "dead_bytes"):
        assert getattr(store, name) == getattr(numbers, name), name
    assert store.nbytes == numbers.bytes
    assert [reader.held for reader in store.readers] == [
        reader.held for reader in world.shop.readers()
    ]
    assert count(seen, "held", "t") == numbers.held
    assert count(seen, "static", "t") == numbers.chunks + numbers.dead - numbers.held
    bus, said = seen.channel("b"), world.bus.statistics()
    assert isinstance(bus, ipcheap.BusView)
    assert (bus.posted, bus.waiting, bus.passed) == (said.posted, said.waiting, said.passed)
    assert [
        (each.pending, each.held, each.lossy, each.lost)
        for each in bus.listeners
        if not each.closed
    ] == [(each.pending, each.held, each.lossy, each.lost) for each in world.bus.listeners()]
    stream = seen.channel("s")
    assert isinstance(stream, ipcheap.StreamView)
    writer = world.writer.statistics()
    assert (stream.written, stream.read, stream.room) == (
        writer.written,
        writer.read,
        1000 - writer.written + writer.read,
    )


@settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.lists(st.tuples(st.sampled_from(observed.STEPS), st.integers(0, 10**6)), max_size=60),
        max_size=5,
    )
)
def test_a_quiet_heap_is_seen_as_it_counts_itself(rounds: list[list[tuple[str, int]]]) -> None:
    with ipcheap.Heap.create(None, "4MiB", shm="memfd") as heap, observed.World(heap) as world:
        for steps in rounds:
            for name, number in steps:
                world.step(name, number)
            compare_world(world)


def test_a_long_history_is_seen_as_it_counts_itself() -> None:
    choice = random.Random(1)
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap, observed.World(heap) as world:
        for _ in range(40):
            world.go(choice, 200)
            compare_world(world)


@pytest.mark.parametrize("kind", kinds.ALL, ids=str)
def test_heaps_of_all_kinds_are_seen(kind: kinds.Kind, heap_name: str, tmp_path: Path) -> None:
    with kinds.made(kind, heap_name, tmp_path) as heap:
        channel = heap.add_record_channel("c", 4)
        with channel.producer() as producer, channel.consumer() as consumer:
            producer.send_many([b"x" * 100] * 3)
            record = consumer.recv_record()
            seen = compare(heap)
            assert (seen.shm, seen.sem) == (kind.shm, kind.sem)
            assert seen.identity == heap.identity
            place = kind.place(heap_name, tmp_path)
            with ipcheap.observe(seen.name if place is None else place) as observer:
                again = observer.snapshot()
            assert again.holdings == seen.holdings
            assert [each.state for each in again.participants] == ["alive"]
            record.free()


def test_a_holding_names_the_participant_that_has_it(heap: ipcheap.Heap) -> None:
    channel = heap.add_record_channel("c", 8)
    with channel.producer() as producer, peers.run(observed.hold_some, heap, "c", 2) as peer:
        producer.send_many([b"x" * 100] * 5)
        peer.hear()
        mine = [heap.allocate_record(100) for _ in range(3)]
        seen = compare(heap)
        theirs, ours = key_of(seen, peer.pid), key_of(seen, os.getpid())
        found = {(each.how, each.holder, each.channel, each.records) for each in seen.holdings}
        assert found == {
            ("owned", ours, None, 3),
            ("held", theirs, "c", 2),
            ("pending", theirs, "c", 3),
        }
        assert seen.participant(theirs).pid == peer.pid
        view = seen.channel("c")
        assert isinstance(view, ipcheap.ChannelView)
        assert (view.producer.holder, view.consumer.holder) == (ours, theirs)
        assert (view.held_bytes, view.pending_bytes, view.mean_nbytes) == (200, 300, 100)
        peer.tell("go")
        del mine


def test_records_of_a_thread_that_has_ended_have_an_owner(heap: ipcheap.Heap) -> None:
    records: list[ipcheap.Record] = []
    thread = threading.Thread(target=lambda: records.append(heap.allocate_record(100)))
    thread.start()
    thread.join()
    seen = compare(heap)
    (holding,) = seen.holdings
    assert holding.holder is not None
    assert seen.participant(holding.holder).pid == os.getpid()
    records.pop().free()


# Harmless -------------------------------------------------------------------------------------


def test_a_look_leaves_every_byte_as_it_was(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        world = observed.World(heap)
        world.go(random.Random(2), 1000)
        before = observed.bytes_of(path_of(heap_name))
        blocks = path_of(heap_name).stat().st_blocks
        with ipcheap.observe(heap_name) as observer:
            for memory in (True, False, True):
                observer.snapshot(memory)
        heap.snapshot()
        assert observed.bytes_of(path_of(heap_name)) == before
        assert path_of(heap_name).stat().st_blocks == blocks
        world.__exit__()


def test_read_permission_suffices(heap_name: str) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs a second user")
    with ipcheap.Heap.create(heap_name, "1MiB", mode=0o644) as heap:
        heap.add_record_channel("c", 4)
        record = heap.allocate_record(10)
        program = (
            "import os, sys, ipcheap, ipcheap.blockers, ipcheap._limits\n"
            "[getattr(ipcheap, name) for name in ipcheap.__all__]\n"  # before it may read less
            "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "seen = ipcheap.observe(sys.argv[1]).snapshot()\n"
            "print(seen.usage.records, [each.state for each in seen.participants])\n"
            "try: ipcheap.Heap.attach(sys.argv[1])\n"
            "except PermissionError: print('cannot attach')\n"
        )
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, heap_name],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "1 ['alive']\ncannot attach\n"
        heap.chmod(0o600)
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, heap_name], capture_output=True, text=True
        )
        assert "PermissionError" in done.stderr
        record.free()


def test_an_observer_is_no_participant(heap_name: str) -> None:
    heap = ipcheap.Heap.create(heap_name, "1MiB")
    heap.allocate_record(10).free()
    before = heap.participants()
    with ipcheap.observe(heap_name) as observer:
        observer.snapshot()
        assert heap.participants() == before
        heap.close()
        assert observer.snapshot().participants == ()
        (info,) = (each for each in ipcheap.heaps() if each.name == heap_name)
        assert info.stale


def test_the_sources_of_the_observer_store_nothing() -> None:
    folder = ROOT / "native" / "src" / "observe"
    sources = [folder / "observer.h", folder / "observer.c", folder / "census.c"]
    sources += folder.glob("*_seen.c")
    assert len(sources) == 6
    for source in sources:
        text = source.read_text()
        assert not re.search(r"\bput(_\w+)?\(|atomic_(store|exchange|fetch|compare)", text), source
        for header in re.findall(r'#include "([^"]+)"', text):
            assert header in (
                "base/os.h",
                "base/coredump.h",
                "ipcheap/ipcheap.h",
                "segment/layout.h",
                "observe/observer.h",
            ), source


# By a deadline --------------------------------------------------------------------------------


def test_a_heap_whose_lock_a_stopped_process_holds_is_seen(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 4)
    record = heap.allocate_record(10)
    with peers.run(hold_the_lock, heap) as peer:
        peer.hear()
        peers.until(lambda: is_stopped_with_the_lock(heap, peer))
        began = time.monotonic()
        seen = heap.snapshot()
        assert time.monotonic() - began < 8  # a caller that waits for the lock gives up after 10 s
        assert seen.lock is not None
        assert seen.lock.holder == key_of(seen, peer.pid)
        assert seen.lock.state == "stopped"
        assert seen.usage is not None
        assert seen.usage.records >= 1
        (blocker,) = (each for each in seen.blockers() if each.reason == "lock")
        assert blocker.blocker == seen.lock.holder
        assert f"kill -CONT {peer.pid}" in blocker.text
        peer.kill(signal.SIGCONT)
        peer.kill()
        peer.wait()
    heap.recover()
    record.free()


def hold_the_lock(heap: ipcheap.Heap) -> None:
    """Take the heap lock again and again, by allocating extents."""
    with heap:
        peers.say("begun")
        while True:
            heap.statistics()


def is_stopped_with_the_lock(heap: ipcheap.Heap, peer: peers.Peer[None]) -> bool:
    """Stop a peer; let it go on if it does not hold the lock."""
    stop(peer)
    if heap.snapshot(memory=False).lock is not None:
        return True
    peer.kill(signal.SIGCONT)
    return False


# Waits and roots ------------------------------------------------------------------------------


def stop(peer: peers.Peer[None]) -> None:
    peer.kill(signal.SIGSTOP)
    peers.until(lambda: b"State:\tT" in Path(f"/proc/{peer.pid}/status").read_bytes())


def when_blocked(
    heap: ipcheap.Heap, count: int = 1
) -> tuple[ipcheap.Snapshot, list[ipcheap.Blocker]]:
    """Look until so many waits are seen."""
    seen = look_until(heap, lambda seen: len(seen.blockers()) >= count)
    return seen, list(seen.blockers())


def look_until(
    heap: ipcheap.Heap, condition: Callable[[ipcheap.Snapshot], object]
) -> ipcheap.Snapshot:
    """Look until a condition holds; return what it holds for."""
    found: list[ipcheap.Snapshot] = []

    def look() -> bool:
        found[:] = [heap.snapshot(memory=False)]
        return bool(condition(found[0]))

    peers.until(look)
    return found[0]


def test_a_stopped_consumer_that_holds_is_the_root(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 4)
    with (
        peers.run(observed.fill, heap, "c") as producer,
        peers.run(observed.hold_some, heap, "c", 1) as consumer,
    ):
        consumer.hear()
        stop(consumer)
        seen, (blocker,) = when_blocked(heap)
        assert blocker.waiting == key_of(seen, producer.pid)
        assert blocker.blocker == key_of(seen, consumer.pid)
        assert (blocker.reason, blocker.root, blocker.channel) == ("stopped", True, "c")
        assert f"kill -CONT {consumer.pid}" in blocker.text
        view = seen.channel("c")
        assert isinstance(view, ipcheap.ChannelView)
        assert view.blocked == "held"
        consumer.kill(signal.SIGCONT)


def test_a_consumer_that_holds_the_oldest_record_is_the_root(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 4)
    with (
        peers.run(observed.fill, heap, "c") as producer,
        peers.run(observed.hold_some, heap, "c", 2) as consumer,
    ):
        consumer.hear()
        seen, (blocker,) = when_blocked(heap)
        assert blocker.waiting == key_of(seen, producer.pid)
        assert blocker.blocker == key_of(seen, consumer.pid)
        assert (blocker.reason, blocker.root) == ("held", True)
        assert "all 4 slots are full" in blocker.text


def test_a_dead_consumer_is_the_root(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 4)
    with (
        peers.run(observed.fill, heap, "c") as producer,
        peers.run(observed.hold_some, heap, "c", 1) as consumer,
    ):
        consumer.hear()
        when_blocked(heap)
        stop(producer)  # or it would recover the dead one
        consumer.kill()
        consumer.wait()
        seen, (blocker,) = when_blocked(heap)
        assert (blocker.reason, blocker.root) == ("dead", True)
        assert seen.participant(str(blocker.blocker)).state == "dead"
        assert seen.leaks() == ()  # without memory
        leaks = heap.snapshot().leaks()
        assert {each.how for each in leaks} == {"held", "pending"}


def test_a_stopped_producer_is_the_root_of_a_chain(heap: ipcheap.Heap) -> None:
    for channel in ("first", "second"):
        heap.add_record_channel(channel, 4)
    with (
        peers.run(observed.fill, heap, "first") as source,
        peers.run(observed.pass_on, heap, "first", "second") as middle,
        peers.run(observed.drain, heap, "second") as sink,
    ):
        for peer in (source, middle, sink):
            peer.hear()
        stop(source)
        seen, found = when_blocked(heap, 2)
        root = key_of(seen, source.pid)
        first, second = found
        assert (first.waiting, first.blocker) == (key_of(seen, middle.pid), root)
        assert (first.reason, first.root) == ("stopped", True)
        assert "2 participants wait for it" in first.text
        assert (second.waiting, second.blocker) == (
            key_of(seen, sink.pid),
            key_of(seen, middle.pid),
        )
        assert (second.reason, second.root) == ("empty", False)


def test_an_idle_consumer_is_not_blocked(heap: ipcheap.Heap) -> None:
    channel = heap.add_record_channel("c", 4)
    with channel.producer(), peers.run(observed.drain, heap, "c") as consumer:
        consumer.hear()

        seen = look_until(heap, lambda seen: seen.participant(key_of(seen, consumer.pid)).waits)
        assert seen.blockers() == ()
        (wait,) = seen.participant(key_of(seen, consumer.pid)).waits
        assert wait == ipcheap.Wait("c", "consumer", None, key_of(seen, os.getpid()))


def test_nobody_on_the_other_side_is_a_reason(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 4)
    with peers.run(observed.fill, heap, "c") as producer:
        producer.hear()
        seen, (blocker,) = when_blocked(heap)
        assert (blocker.reason, blocker.blocker, blocker.root) == ("absent", None, True)
        assert "nobody receives from it" in blocker.text
        (leak,) = heap.snapshot().leaks()
        assert (leak.how, leak.records, leak.holder) == ("pending", 4, None)
        assert blocker.waiting == key_of(seen, producer.pid)


def test_waits_in_a_circle_are_a_cycle(heap: ipcheap.Heap) -> None:
    for channel in ("there", "back"):
        heap.add_record_channel(channel, 4)
    with (
        peers.run(observed.pass_on, heap, "there", "back") as one,
        peers.run(observed.pass_on, heap, "back", "there") as other,
    ):
        one.hear()
        other.hear()
        seen, found = when_blocked(heap, 2)
        assert {each.reason for each in found} == {"cycle"}
        assert [each.root for each in found] == [True, False]
        assert {each.waiting for each in found} == {
            key_of(seen, one.pid),
            key_of(seen, other.pid),
        }
        assert "each waits for the next" in found[0].text


# Beside traffic -------------------------------------------------------------------------------


@pytest.mark.parametrize("looks", [300])
def test_looks_beside_traffic_raise_nothing(heap: ipcheap.Heap, looks: int) -> None:
    busy = observed.run_all(observed.be_busy, heap, 3, 6.0)
    try:
        for peer in busy:
            peer.hear()
        last: dict[object, int] = {}
        with ipcheap.observe(heap) as observer:
            for _ in range(looks):
                seen = observer.snapshot()
                assert seen.unreadable == ()
                assert seen.usage is not None
                whole = seen.usage.in_use + seen.usage.idle + seen.usage.free
                assert whole == pytest.approx(seen.capacity, rel=0.1)
                for view in seen.channels:
                    assert isinstance(view, ipcheap.ChannelView)
                    assert view.sent >= last.get(view.id, 0)
                    assert view.pending + view.held <= view.capacity + 1
                    last[view.id] = view.sent
                json.dumps(seen.as_dict())
        sent: dict[object, int] = {}
        for peer in busy:
            sent |= peer.result()
        assert set(last) <= set(sent)
        assert all(last[channel] <= sent[channel] for channel in last)
        assert sum(last.values()) > 0
        compare(heap)
    finally:
        for peer in busy:
            peer.__exit__()


def test_rates_are_those_of_the_traffic(heap: ipcheap.Heap) -> None:
    channel = heap.add_record_channel(7, 64)
    heap.add_record_channel("7", 64)
    with channel.producer() as producer, ipcheap.observe(heap) as observer:
        before = observer.snapshot(memory=False)
        time.sleep(0.1)
        producer.send_many([b"x" * 100] * 50)
        after = observer.snapshot(memory=False)
        rates = after.rates(before)
        seconds = after.taken - before.taken
        assert rates[7].records == pytest.approx(50 / seconds)
        assert rates[7].nbytes == pytest.approx(5000 / seconds)
        assert rates["7"].records == 0


def test_watching_is_paced_by_the_clock(heap: ipcheap.Heap) -> None:
    heap.allocate_record(10).free()
    with ipcheap.observe(heap) as observer:
        times = []
        for seen in observer.watch(0.05):
            assert seen.usage is None
            assert seen.holdings == ()
            times.append(seen.taken)
            if len(times) == 5:
                break
        assert times[-1] - times[0] == pytest.approx(0.2, abs=0.15)


# Corrupt heaps --------------------------------------------------------------------------------


def look_at_spoilt(path: str) -> None:
    with ipcheap.observe(path) as observer:
        for memory in (True, False):
            seen = observer.snapshot(memory)
            seen.blockers()
            seen.leaks()
            json.dumps(seen.as_dict())
            assert {each.state for each in seen.participants} <= {"unknown"}


@pytest.mark.parametrize("seed", range(4))
def test_scribbles_are_sentences_or_numbers(heap_name: str, tmp_path: Path, seed: int) -> None:
    """A second opinion on native/tests/test_observer.c, which has more cases."""
    choice = random.Random(seed)
    with ipcheap.Heap.create(heap_name, "4MiB") as heap, observed.World(heap) as world:
        world.go(choice, 1000)
        whole = observed.bytes_of(path_of(heap_name))
        size = path_of(heap_name).stat().st_size
    path = tmp_path / "spoilt"
    for case in range(25):
        with path.open("wb") as file:
            file.truncate(size)
            for at, data in whole:
                file.seek(at)
                file.write(data)
            for _ in range(choice.choice((1, 10, 1000))):
                at, data = choice.choice(whole)
                file.seek(at + choice.randrange(len(data) // 8) * 8)
                file.write(choice.choice((os.urandom(8), bytes(8), b"\xff" * 8)))
        before = path.read_bytes() if case == 0 else b""
        began = time.monotonic()
        with contextlib.suppress(ipcheap.FormatMismatch, ipcheap.HeapNotFound):
            look_at_spoilt(str(path))
        assert time.monotonic() - began < 30
        assert case or path.read_bytes() == before


def test_a_copy_calls_nobody_dead(heap: ipcheap.Heap, heap_name: str, tmp_path: Path) -> None:
    record = heap.allocate_record(10)
    copy = tmp_path / "copy"
    copy.write_bytes(path_of(heap_name).read_bytes())
    with ipcheap.observe(str(copy)) as observer:
        seen = observer.snapshot()
    assert [each.state for each in seen.participants] == ["unknown"]
    assert seen.usage == heap.snapshot().usage
    record.free()


def test_a_heap_that_is_truncated_while_it_is_watched_is_a_sentence(tmp_path: Path) -> None:
    path = str(tmp_path / "heap")
    with ipcheap.Heap.create(path, "1MiB", shm="file") as heap:
        heap.add_record_channel("c", 4)
    with ipcheap.observe(path) as observer:
        assert not observer.snapshot().unreadable
        os.truncate(path, 8192)
        seen = observer.snapshot()
        assert any("shorter" in text for text in seen.unreadable)
        os.truncate(path, 0)
        assert observer.snapshot().unreadable


# What a name may be ---------------------------------------------------------------------------


def test_a_name_may_be_a_descriptor_of_another_process() -> None:
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        record = heap.allocate_record(10)
        name = heap.snapshot().name
        assert name.startswith(f"memfd:{os.getpid()}/")
        program = (
            "import sys, ipcheap\n"
            "for name in sys.argv[1:]:\n"
            "    seen = ipcheap.observe(name).snapshot()\n"
            "    print(seen.usage.records, [each.state for each in seen.participants])\n"
        )
        path = "/proc/" + name.removeprefix("memfd:").replace("/", "/fd/")
        done = subprocess.run(
            [sys.executable, "-P", "-c", program, name, path],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "1 ['alive']\n" * 2
        record.free()


def test_what_is_no_heap_is_refused(tmp_path: Path, heap_name: str) -> None:
    for name in (heap_name, str(tmp_path / "none"), "memfd:1/999999", "/proc/1/fd/999999"):
        with pytest.raises((ipcheap.HeapNotFound, PermissionError)):
            ipcheap.observe(name)
    other = tmp_path / "text"
    other.write_text("something else " * 1000)
    with pytest.raises(ipcheap.FormatMismatch):
        ipcheap.observe(str(other))
    with pytest.raises(ipcheap.FormatMismatch):
        ipcheap.observe(str(tmp_path))
    (tmp_path / "empty").touch()
    with pytest.raises(ipcheap.HeapNotFound):
        ipcheap.observe(str(tmp_path / "empty"))


def test_no_descriptor_is_left(heap: ipcheap.Heap, heap_name: str, tmp_path: Path) -> None:
    heap.snapshot()
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        heap.snapshot()
        observer = ipcheap.observe(heap_name)
        assert repr(observer) == f"<Observer of {heap_name!r}>"
        assert observer.path == str(path_of(heap_name))
        observer.close()
        observer.close()
        assert observer.closed
        with pytest.raises(ValueError, match="cannot look any more"):
            observer.snapshot()
        ipcheap.observe(heap_name)
        with pytest.raises(ipcheap.FormatMismatch):
            ipcheap.observe(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before


def test_a_removed_heap_is_still_seen(heap_name: str) -> None:
    heap = ipcheap.Heap.create(heap_name, "1MiB")
    with ipcheap.observe(heap_name) as observer, heap:
        heap.unlink()
        heap.allocate_record(10)
        assert observer.snapshot().identity == heap.identity


# Views ----------------------------------------------------------------------------------------


def test_a_snapshot_pickles_and_is_plain_as_a_dict(heap: ipcheap.Heap) -> None:
    with observed.World(heap) as world:
        world.go(random.Random(3), 500)
        seen = heap.snapshot()
    assert pickle.loads(pickle.dumps(seen)) == seen
    plain = json.loads(json.dumps(seen.as_dict()))
    assert plain == seen.as_dict()
    assert set(plain) == {each.name for each in dataclasses.fields(seen)}
    assert {each["id"] for each in plain["channels"]} >= {"a", 7, "s", "t", "b"}
    old = ipcheap.Holding("owned", None, None, 1, 64, (100.0, 101.0), (90.0, 91.0), "bytes")
    aged = dataclasses.replace(seen, holdings=(old,))
    assert aged.as_dict()["holdings"][0]["oldest"] == {"at_least": 100.0, "at_most": 101.0}  # type: ignore[index]
    assert aged.leaks(older=60) == (old,)
    assert aged.leaks(older=200) == ()
    assert dataclasses.replace(old) == old


def test_keys_and_ids_find_their_views(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("1", 4)
    seen = heap.snapshot()
    with pytest.raises(KeyError):
        seen.channel(1)
    with pytest.raises(KeyError):
        seen.participant("1.1.1")
    assert seen.channel("1").id == "1"


def test_the_share_of_a_core_is_measured_between_looks(heap: ipcheap.Heap) -> None:
    heap.add_record_channel("c", 4)
    with ipcheap.observe(heap) as observer:
        (first,) = observer.snapshot().participants
        assert first.cpu is None
        used, began = time.thread_time(), time.monotonic()
        while time.thread_time() < used + 0.5:
            pass
        (second,) = observer.snapshot().participants
        share = (time.thread_time() - used) / (time.monotonic() - began)
        assert second.cpu == pytest.approx(share, rel=0.2, abs=0.05)


def test_many_channels_are_seen(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        for n in range(3000):
            heap.add_record_channel(n, 4)
        assert len(heap.snapshot().channels) == 3000


# Chains of waits ------------------------------------------------------------------------------


def side(holder: str | None, waiting: bool) -> ipcheap.SideView:
    return ipcheap.SideView("open" if holder else "never", holder, None, waiting, 0, 0)


@st.composite
def scenes(draw: st.DrawFn) -> ipcheap.Snapshot:
    """Draw participants, and channels between them on which some wait."""
    count = draw(st.integers(1, 6))
    states = st.sampled_from(("alive", "alive", "alive", "stopped", "dead"))
    holders = st.one_of(st.none(), st.integers(0, count - 1).map(str))
    waits: dict[str, list[ipcheap.Wait]] = {}
    channels = []
    for n in range(draw(st.integers(0, 8))):
        holder, other = draw(holders), draw(holders)
        which = draw(st.sampled_from(("producer", "consumer", None)))
        producer, consumer = side(holder, which == "producer"), side(other, which == "consumer")
        mine, its = (holder, other) if which == "producer" else (other, holder)
        if which is not None and mine is not None:
            waits.setdefault(mine, []).append(ipcheap.Wait(n, which, None, its))
        full = draw(st.sampled_from(("held", "pending")))
        blocked = full if which == "producer" else None
        channels.append(
            ipcheap.ChannelView(
                n, "record", 4, 0, 4, 2, 2, 2, 0, 0, None, None, producer, consumer, blocked,
                False, False, 0,
            )
        )  # fmt: skip
    participants = tuple(
        ipcheap.ParticipantView(
            str(n), "p", n, n, False, 0.0, draw(states), tuple(waits.get(str(n), ()))
        )
        for n in range(count)
    )
    with ipcheap.Heap.create(None, "64KiB", shm="memfd") as heap:
        empty = heap.snapshot(memory=False)
    return dataclasses.replace(empty, participants=participants, channels=tuple(channels))


@settings(max_examples=300, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(scenes())
def test_every_chain_of_waits_ends_and_roots_come_first(scene: ipcheap.Snapshot) -> None:
    views = {each.key: each for each in scene.participants}
    found = scene.blockers()
    roots = [each.root for each in found]
    assert roots == sorted(roots, reverse=True)
    listed = {(each.waiting, each.channel, each.side) for each in found}
    assert len(listed) == len(found)
    for each in found:
        waiting = views[str(each.waiting)]
        assert waiting.state != "dead"
        assert any(wait.for_ == each.blocker for wait in waiting.waits)
        assert each.text.startswith(f"p ({waiting.pid})")
        blocker = views.get(str(each.blocker))
        assert (each.reason == "absent") == (blocker is None)
        if blocker is not None and blocker.state != "alive":
            assert each.reason == blocker.state
            assert each.root
        if each.reason == "cycle":
            assert any(other.waiting == each.blocker for other in found)
    for key, view in views.items():
        for wait in view.waits:
            idle = wait.side == "consumer" and wait.for_ is not None
            if view.state == "dead":
                assert (key, wait.channel, wait.side) not in listed
            elif not idle:
                assert (key, wait.channel, wait.side) in listed
            elif views[str(wait.for_)].state == "alive" and not views[str(wait.for_)].waits:
                assert (key, wait.channel, wait.side) not in listed

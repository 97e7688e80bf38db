"""Waiting for a store: other processes, descriptors, wait-sets and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import select
import signal
import threading
import time
from typing import TYPE_CHECKING, TypeAlias

import peers
import pytest
import store_workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Sides: TypeAlias = tuple[ipcheap.Store, ipcheap.StoreWriter, ipcheap.StoreReader]


@pytest.fixture
def sides(heap_name: str) -> Iterator[Sides]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        store = heap.add_store("values")
        with store.writer() as writer, store.reader() as reader:
            yield store, writer, reader
        assert heap.check() == []


# Other processes ---------------------------------------------------------------------------


def test_another_process_reads_what_was_put(sides: Sides) -> None:
    store, writer, _ = sides
    writer.put("a", b"1")
    writer.put(5, bytes(1000))
    with peers.run(store_workers.values, store.heap, "values", ["a", 5, "b"]) as peer:
        assert peer.result() == [b"1", bytes(1000), None]


def test_what_was_put_stays_when_its_writer_has_died(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        store = heap.add_store("values")
        with peers.run(store_workers.put_then_die, heap, "values", "a", b"kept") as peer:
            assert peer.wait() == -signal.SIGKILL
        with store.reader() as reader:
            assert bytes(reader.next()) == b"kept"
            assert reader.get_bytes("a") == b"kept"
            with pytest.raises(ipcheap.PeerDied):
                reader.next(timeout=peers.PATIENCE)
            with pytest.raises(ipcheap.PeerDied):
                reader.wait_for("b", timeout=peers.PATIENCE)
            with store.writer() as writer:  # cancels the death
                assert writer.put("a", b"new") == 2
                assert bytes(reader.next()) == b"new"


def test_a_waiter_for_a_key_is_woken(sides: Sides) -> None:
    store, writer, _ = sides
    with peers.run(store_workers.wait_for, store.heap, "values", "a", 0) as peer:
        assert peer.hear() == "waiting"
        time.sleep(0.05)
        writer.put("b", b"other")
        writer.put("a", b"it")
        assert peer.result() == (2, b"it")
    with peers.run(store_workers.wait_for, store.heap, "values", "a", 2) as peer:
        assert peer.hear() == "waiting"
        time.sleep(0.05)
        for n in range(10):
            writer.put("b", b"%d" % n)
        writer.put("a", b"newer")
        assert peer.result() == (13, b"newer")


def test_a_follower_gets_everything_in_order_until_the_end(sides: Sides) -> None:
    store, writer, _ = sides
    with peers.run(store_workers.follow, store.heap, "values") as peer:
        assert peer.hear() == "following"
        for n in range(2000):
            writer.append(b"%d" % n)
        writer.close()
        assert peer.result() == [b"%d" % n for n in range(2000)]


def test_transactions_are_seen_whole_while_the_writer_is_killed(sides: Sides) -> None:
    store, writer, _ = sides
    writer.close()
    heap = store.heap
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(peers.run(store_workers.read_pairs, heap, "values", 5.0))
            for _ in range(2)
        ]
        for _ in range(6):
            with peers.run(store_workers.commit_pairs, heap, "values") as peer:
                assert peer.hear() == "going"
                time.sleep(0.1)
                peer.kill()
                peer.wait()
        assert all(reader.result() > 1 for reader in readers)


# This process ------------------------------------------------------------------------------


def test_a_wait_ends_when_another_thread_puts(sides: Sides) -> None:
    store, writer, reader = sides
    writer.close()

    puts = {b"1": threading.Event(), b"2": threading.Event()}

    def put_later() -> None:
        with store.writer() as mine:
            for data, wanted in puts.items():
                assert wanted.wait(peers.PATIENCE)
                time.sleep(0.05)  # the reader waits by then
                mine.put("a", data)

    thread = threading.Thread(target=put_later)
    with pytest.raises(ipcheap.ChannelClosed):
        reader.next()
    with pytest.raises(TimeoutError, match="no participant claimed the other side within"):
        reader.wait_peer(timeout=0)
    thread.start()
    reader.wait_peer(timeout=peers.PATIENCE)
    puts[b"1"].set()
    assert bytes(reader.next(timeout=peers.PATIENCE)) == b"1"
    puts[b"2"].set()
    assert bytes(reader.wait_for("a", newer_than=1, timeout=peers.PATIENCE)) == b"2"
    thread.join()
    with pytest.raises(ipcheap.ChannelClosed):
        reader.wait_for("a", newer_than=2)


def test_a_descriptor_says_whether_next_need_not_wait(sides: Sides) -> None:
    _, writer, reader = sides
    poller = select.poll()
    poller.register(reader.fileno(), select.POLLIN)
    assert poller.poll(0) == []
    writer.put("a", b"1")
    assert len(poller.poll(1000)) == 1
    assert bytes(reader.next()) == b"1"
    assert reader.try_next() is None
    assert poller.poll(0) == []
    writer.put("a", b"2")
    assert len(poller.poll(1000)) == 1
    reader.seek()
    assert poller.poll(0) == []
    writer.close()
    assert len(poller.poll(1000)) == 1


def test_a_wait_set_takes_readers_and_writers(sides: Sides) -> None:
    store, writer, reader = sides
    with store.reader() as other:
        assert ipcheap.wait([reader, other], timeout=0) == []
        assert ipcheap.wait([reader, writer], timeout=0) == [writer]
        writer.append(b"1")
        reader.next()
        assert ipcheap.wait([reader, other], timeout=1) == [other]
        other.seek()
        assert ipcheap.wait([reader, other], timeout=0.01) == []


@pytest.fixture
def _heeds_ctrl_c() -> Iterator[None]:
    """Take the signal as a terminal's process does: one in a shell's background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_heeds_ctrl_c")
def test_ctrl_c_ends_a_wait(sides: Sides) -> None:
    _, _, reader = sides
    calls: list[Callable[[], ipcheap.Chunk]] = [reader.next, lambda: reader.wait_for("a")]
    for call in calls:
        timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            call()
        timer.join()


def test_removal_ends_a_wait_and_leaves_what_is_held(sides: Sides) -> None:
    store, writer, reader = sides
    writer.put("a", b"held")
    chunk = reader["a"]
    reader.seek()
    with pytest.raises(
        ipcheap.ChannelBusy,
        match=r"writer side is held by .* and it is read by .*this process\); force=True closes",
    ):
        store.heap.remove_channel("values")
    timer = threading.Timer(0.1, store.heap.remove_channel, ["values"], {"force": True})
    timer.start()
    with pytest.raises(ipcheap.EndpointClosed):
        reader.next(timeout=peers.PATIENCE)
    timer.join()
    assert bytes(chunk) == b"held"
    chunk.release()


# asyncio -----------------------------------------------------------------------------------


def test_coroutines_follow_and_wait_for_keys_at_the_same_time(sides: Sides) -> None:
    _, writer, reader = sides

    async def follow() -> list[bytes]:
        return [bytes(chunk) async for chunk in reader.follow()]

    async def value(key: str, newer_than: int = 0) -> tuple[int, bytes]:
        chunk = await reader.await_for(key, newer_than)
        return chunk.version, bytes(chunk)

    async def main() -> tuple[list[bytes], list[tuple[int, bytes]]]:
        tasks = [asyncio.create_task(value(key)) for key in ("a", "b")]
        tasks.append(asyncio.create_task(value("a", 1)))
        following = asyncio.create_task(follow())
        for n, key in enumerate("xaxbxax"):
            await asyncio.sleep(0.005)
            writer.put(key, b"%d" % n)
        values = [await task for task in tasks]
        await asyncio.sleep(0.01)
        writer.close()
        return await following, values

    followed, values = asyncio.run(main())
    assert followed == [b"%d" % n for n in range(7)]
    assert values == [(2, b"1"), (4, b"3"), (2, b"1")]


def test_a_coroutine_that_waits_for_a_key_costs_no_processor_time(sides: Sides) -> None:
    _, writer, reader = sides
    writer.append(b"never followed")

    async def main() -> float:
        task = asyncio.create_task(reader.await_for("a"))
        await asyncio.sleep(0.05)
        start = time.process_time()
        await asyncio.sleep(0.5)
        spent = time.process_time() - start
        writer.put("a", b"1")
        assert bytes(await task) == b"1"
        return spent

    assert asyncio.run(main()) < 0.1


def test_a_cancelled_wait_has_taken_nothing(sides: Sides) -> None:
    _, writer, reader = sides

    async def main() -> None:
        for wait in (reader.anext, lambda: reader.await_for("a")):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await wait()
        writer.put("a", b"1")
        assert (await reader.anext()).version == 1
        assert (await reader.await_for("a")).version == 1
        assert reader.try_next() is None

    asyncio.run(main())


def test_a_coroutine_hears_of_the_end(sides: Sides) -> None:
    _, writer, reader = sides

    async def main() -> None:
        waits = [asyncio.create_task(reader.anext()), asyncio.create_task(reader.await_for("a"))]
        await asyncio.sleep(0.02)
        writer.close()
        for wait in waits:
            with pytest.raises(ipcheap.ChannelClosed):
                await wait

    asyncio.run(main())


# What errors say ---------------------------------------------------------------------------


def test_a_wait_for_a_writer_that_runs_out_says_so(sides: Sides) -> None:
    store, writer, reader = sides
    writer.close()
    with pytest.raises(TimeoutError, match="no participant claimed the other side"):
        reader.wait_peer(timeout=0)
    # Of a get_many(), which cannot be made to fail.
    error = reader._error(ipcheap.store_reader._TIMED_OUT)
    assert str(error) == (
        f"channel 'values' of heap {store.heap.name!r}: collections intervened in each of 1,000 "
        "attempts; try again, or get fewer keys at a time"
    )


def test_an_endpoint_of_a_closed_heap_says_that_it_is_the_heap(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        store = heap.add_store("values")
        writer, reader = store.writer(), store.reader()
    for call in (
        lambda: writer.version,
        lambda: reader.position,
        lambda: asyncio.run(reader.anext()),
    ):
        with pytest.raises(ipcheap.HeapClosed):
            call()

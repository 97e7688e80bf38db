"""What every way of reading shows of a store, and what its writer can rely on."""

from __future__ import annotations

import gc
import math
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import peers
import pytest
import store_workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap
        assert heap.check() == []


def seen(reader: ipcheap.StoreReader, key: str) -> dict[str, Any]:
    """Return what each way of reading shows of a key; each is None if it shows nothing."""

    def waited() -> bytes | None:
        try:
            return bytes(reader.wait_for(key, timeout=0))
        except TimeoutError:
            return None

    def followed() -> bytes | None:
        reader.seek(0)
        last = None
        while (chunk := reader.try_next()) is not None:
            last = bytes(chunk) if chunk.key == key else last
        return last

    def newest_in_history() -> ipcheap.Chunk | None:
        chunks = reader.history(key)
        return chunks[-1] if chunks else None

    def last_of_values() -> bytes | None:
        values = [bytes(chunk) for chunk in reader.values()]
        return values[-1] if values else None

    ways: dict[str, Callable[[], Any]] = {
        "get": lambda: reader.get(key),
        "[]": lambda: reader[key],
        "get_bytes": lambda: reader.get_bytes(key),
        "get_many": lambda: reader.get_many(["other", key]).get(key),
        "history": newest_in_history,
        "items": lambda: {k: bytes(chunk) for k, chunk in reader.items()}.get(key),
        "values": last_of_values,
        "keys": lambda: "listed" if reader.keys().count(key) == 1 else None,
        "iter": lambda: "listed" if key in list(reader) else None,
        "in": lambda: "listed" if key in reader else None,
        "len": lambda: "listed" if len(reader) else None,
        "wait_for": waited,
        "next": followed,
    }
    found = {}
    for name, way in ways.items():
        try:
            value = way()
        except KeyError:
            value = None
        found[name] = bytes(value) if isinstance(value, ipcheap.Chunk) else value
    return found


LISTED = ("keys", "iter", "in", "len")
NOTHING = dict.fromkeys(
    (
        "get",
        "[]",
        "get_bytes",
        "get_many",
        "history",
        "items",
        "values",
        "wait_for",
        "next",
        *LISTED,
    )
)


def all_see(value: bytes) -> dict[str, Any]:
    return dict.fromkeys(NOTHING, value) | dict.fromkeys(LISTED, "listed")


# Visible or not ----------------------------------------------------------------------------


def test_every_way_of_reading_shows_what_was_committed_and_nothing_else(
    heap: ipcheap.Heap,
) -> None:
    store = heap.add_store("values", depth=2)
    with store.writer() as writer, store.reader() as reader, store.reader() as poller:
        assert seen(reader, "key") == NOTHING
        with writer.transaction():
            writer.put("key", b"first")
            writer.append(b"loose")
            assert seen(reader, "key") == NOTHING
            assert ipcheap.wait([poller], 0) == []
        assert ipcheap.wait([poller], 0) == [poller]
        assert seen(reader, "key") == all_see(b"first")
        writer.put("key", b"second")
        assert seen(reader, "key") == all_see(b"second")
        with writer.transaction():
            writer.put("key", b"third")
            writer.delete("key")
            assert seen(reader, "key") == all_see(b"second")
        assert seen(reader, "key") == NOTHING


def test_no_way_of_reading_shows_what_has_expired(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", depth=2)
    with store.writer() as writer, store.reader() as reader:
        writer.put("key", b"lives", ttl=0.02)
        time.sleep(0.03)
        assert store.statistics().collections == 0
        assert seen(reader, "key") == NOTHING
        writer.put("key", b"older")
        writer.put("key", b"newest", ttl=1e-9)
        # The key is gone: what is older never becomes the newest again.
        assert seen(reader, "key") | {"next": None} == NOTHING
        writer.collect()
        assert seen(reader, "key") == NOTHING
        assert (store.statistics().expired, store.statistics().dead) == (3, 0)


@pytest.mark.parametrize("coming", [False, True], ids=["only them", "while others come and go"])
def test_a_key_that_is_always_there_is_always_listed_once(heap: ipcheap.Heap, coming: bool) -> None:
    keys = 40
    store = heap.add_store("values", garbage=0)
    with store.writer() as writer:
        writer.put_many(dict.fromkeys(range(keys), b""))
    with (
        store.reader() as reader,
        peers.run(store_workers.put_over_and_over, heap, "values", keys, coming) as peer,
    ):
        assert peer.hear() == "going"
        end, first = time.monotonic() + 1, reader.version
        while time.monotonic() < end or reader.version < first + 1000:
            listed = reader.keys()
            assert len(listed) == len(set(listed))
            assert {*listed} - {"coming"} == {*range(keys)}
            assert keys <= len(reader) <= keys + 2
            assert {key for key, _ in reader.items()} >= {*range(keys)}


def test_keys_are_listed_while_their_number_grows(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values")
    with store.writer() as writer, store.reader() as reader:
        for n in range(3000):
            writer.put(n, b"")
            if n & n + 1 == 0:
                assert reader.keys() == [*range(n + 1)]


# What is held ------------------------------------------------------------------------------


def test_held_bytes_stay_whatever_becomes_of_everything_else(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", evict=True, max_chunks=8, garbage=0)
    held: dict[bytes, ipcheap.Chunk] = {}

    def hold(reader: ipcheap.StoreReader, key: str) -> None:
        held[key.encode()] = reader[key]

    def expect_unchanged() -> None:
        assert {key: bytes(chunk)[: len(key)] for key, chunk in held.items()} == {
            key: key for key in held
        }
        assert all(len(chunk) == 3000 for chunk in held.values())

    with store.reader() as reader, store.reader() as other:
        with peers.run(store_workers.put_when_told, heap, "values") as peer:
            peer.hear()
            for key in ("replaced", "deleted", "evicted", "removed"):
                peer.tell((key, key.encode().ljust(3000, b".")))
                peer.hear()
                hold(reader, key)
                hold(other, key)
            peer.kill()
            peer.wait()
        expect_unchanged()
        with store.writer(peers.PATIENCE) as writer:
            writer.put("expired", b"expired".ljust(3000, b"."), ttl=0.01)
            hold(reader, "expired")
            writer.put("replaced", bytes(3000))
            writer.delete("deleted")
            for n in range(1000):
                writer.put(n, os.urandom(3000))
            assert "evicted" not in reader
            writer.collect()
            expect_unchanged()
            other.close()
        heap.recover()
        heap.trim()
        expect_unchanged()
        heap.remove_channel("values", force=True)
        again = heap.add_store("values")
        with again.writer() as writer:
            for n in range(100):
                writer.put(n, os.urandom(3000))
    expect_unchanged()
    held.clear()
    gc.collect()
    heap.remove_channel("values")
    assert heap.statistics().in_use == 0


# The writer --------------------------------------------------------------------------------


def collections(store: ipcheap.Store) -> int:
    return store.statistics().collections


@pytest.mark.parametrize("nbytes", [0, 1, 100_000])
def test_collect_keeps_nothing_for_puts_to_come(heap: ipcheap.Heap, nbytes: int) -> None:
    store = heap.add_store("s")
    before = heap.statistics().in_use
    with store.writer() as writer:
        writer.put("a", bytes(nbytes))
        writer.put("a", bytes(nbytes))
        writer.delete("a")
        assert writer.collect() == 2 * nbytes
        assert store.statistics().dead == 0
        assert heap.statistics().in_use == before


def test_a_put_collects_when_there_is_too_much_garbage(heap: ipcheap.Heap) -> None:
    every = heap.add_store("every", garbage=0)
    big, many = heap.add_store("big", garbage=10_000), heap.add_store("many")
    with every.writer() as writer:
        writer.put("a", b"1")
        for n in range(10):
            assert collections(every) == n
            writer.put("a", b"2")  # one more is dead
        assert every.statistics().dead == 0
    with big.writer() as writer:
        for n in range(12):
            writer.put("a", bytes(1000))
            assert big.statistics().dead_bytes <= 10_000
            assert collections(big) == (n == 11)
        left = big.statistics().dead_bytes
        assert left <= 10_000 / 2  # kept for the puts to come
        assert writer.collect() == left
        assert big.statistics().dead_bytes == 0
    with many.writer() as writer, many.reader() as reader:
        for n in range(65):
            writer.put("a", b"")
            assert collections(many) == (n == 64)  # 64 have died
        # Held ones are looked at again when as many more have died, not with every put.
        held = []
        for n in range(200):
            writer.put(n, b"")
            held.append(reader[n])
        for n in range(200):
            writer.delete(n)
        before = collections(many)
        for _ in range(199):
            writer.put("a", b"")
        assert collections(many) - before <= 2
        assert many.statistics().held == 200


def test_dead_and_expired_chunks_count_towards_no_limit(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", max_chunks=3, max_bytes=300, garbage="1GiB")
    with store.writer() as writer, store.reader() as reader:
        held = []
        for n in range(500):
            writer.put_many({key: bytes(100) for key in range(3)})
            if n % 5 == 0:
                held.append(reader[0])
        for n in range(3):
            writer.put(n, bytes(100), ttl=1e-9)
        writer.put_many({key: bytes(100) for key in "abc"})
        assert reader.keys() == ["a", "b", "c"]
        with pytest.raises(ipcheap.HeapFull):
            writer.put("d", b"")


def fill(writer: ipcheap.StoreWriter) -> None:
    for n in range(1000):
        writer.put(n, n.to_bytes(2, "little") * 5000)


def test_a_heap_full_of_live_chunks_fails_cleanly(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        store = heap.add_store("values")
        with store.writer() as writer, store.reader() as reader:
            with pytest.raises(ipcheap.HeapFull) as raised:
                fill(writer)
            assert "most dead bytes" not in str(raised.value)  # nobody holds anything
            n = len(reader)
            before = writer.version, heap.statistics().in_use, reader.keys()
            calls: list[Callable[[], Any]] = [
                lambda: writer.put("x", bytes(100_000)),
                lambda: writer.append(bytes(100_000)),
                lambda: writer.put_many({0: b"", "x": bytes(100_000)}),
                lambda: writer.put_object("x", bytes(100_000)),
                lambda: writer.allocate_record(100_000),
                lambda: writer.loan("x", 100_000, "u1").__enter__(),
            ]
            for call in calls:
                with pytest.raises(ipcheap.HeapFull):
                    call()
                assert (writer.version, heap.statistics().in_use, reader.keys()) == before
            for key in range(n):
                assert reader.get_bytes(key) == key.to_bytes(2, "little") * 5000
            writer.delete(0)
            writer.put("x", bytes(9000))
        assert heap.check() == []


@pytest.mark.parametrize("evict", [False, True])
def test_a_chunk_that_is_larger_than_the_heap_is_refused(heap: ipcheap.Heap, evict: bool) -> None:
    store = heap.add_store("values", evict=evict)
    with store.writer() as writer, store.reader() as reader:
        writer.put("a", b"stays")
        for call in (
            lambda: writer.put("a", bytes(17 << 20)),
            lambda: writer.put_many({"a": b"", "b": bytes(17 << 20)}),
            lambda: writer.put_object("a", bytes(17 << 20)),
            lambda: writer.allocate_record(1 << 50),
            lambda: writer.allocate_array(1 << 50, "u1"),
        ):
            with pytest.raises(ipcheap.HeapFull):
                call()
        assert (writer.version, reader.get_bytes("a")) == (1, b"stays")


def test_chunks_of_no_bytes_are_chunks(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", depth=2)
    with store.writer() as writer, store.reader() as reader:
        writer.put("a", b"")
        writer.put_many([("a", b""), (None, b"")])
        with writer.loan("b", (0, 5), "u4"):
            pass
        assert reader.keys() == ["a", "b"]
        assert [len(chunk) for chunk in reader.history("a")] == [0, 0]
        assert reader.get_array("b").shape == (0, 5)
        assert [reader.next().version for _ in range(4)] == [1, 2, 3, 4]
        chunk = reader["a"]
        assert (bytes(chunk), len(chunk), chunk.live, bool(chunk)) == (b"", 0, True, False)
        assert memoryview(chunk).nbytes == 0


def test_a_living_idle_writer_is_collected_for(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        idle, busy = heap.add_store("idle", garbage="1GiB"), heap.add_store("busy")
        with (
            peers.run(store_workers.put_when_told, heap, "idle") as peer,
            idle.reader() as reader,
            busy.writer() as writer,
        ):
            peer.hear()
            for n in range(6):
                peer.tell(("a", bytes([n]) * 120_000))
                peer.hear()
            assert idle.statistics().dead_bytes == 5 * 120_000
            writer.put("b", bytes(500_000))  # for which there was no room
            assert idle.statistics().dead == 0
            assert reader.get_bytes("a") == b"\5" * 120_000
            writer.delete("b")
            writer.collect()
            peer.tell(("a", bytes(120_000)))  # its lists are right
            assert peer.hear() == 7
            heap.allocate_record(700_000).free()
            peer.tell(None)


def test_readers_that_are_stopped_at_any_moment_do_not_stop_the_writer(
    heap: ipcheap.Heap,
) -> None:
    store = heap.add_store("values", garbage=0)
    with store.writer() as writer:
        writer.put("left", b"")
        writer.put("right", b"")
        with peers.run(store_workers.read_restlessly, heap, "values") as peer:
            assert peer.hear() == "reading"
            for _ in range(50):
                time.sleep(0.002)
                peer.kill(signal.SIGSTOP)
                for n in range(100):
                    writer.put("left" if n % 2 else "right", b"x" * n)
                peer.kill(signal.SIGCONT)
            peer.tell("end")
            assert peer.result() > 0
        writer.collect()
        assert (store.statistics().dead, store.readers()) == (0, [])


def test_times_to_live_that_are_no_number_or_longer_than_a_clock(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", ttl=math.inf)
    assert store.ttl is None
    with store.writer() as writer, store.reader() as reader:
        for wrong in (True, "1", [1]):
            with pytest.raises(TypeError, match="ttl must be seconds or None, not"):
                writer.put("a", b"", wrong)  # type: ignore[arg-type]
        writer.put("a", b"1", ttl=10**30)
        assert reader["a"].live

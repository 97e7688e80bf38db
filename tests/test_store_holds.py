"""What readers of a store hold: its bytes, its end, and what bounds memory."""

from __future__ import annotations

import gc
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pytest
import store_workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def heap() -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        yield heap
        assert heap.check() == []


def test_held_bytes_never_change(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", garbage=0, ttl=60)
    with store.writer() as writer, store.reader() as reader:
        writer.put("a", b"first", ttl=0.01)
        chunk = reader["a"]
        for n in range(1000):
            writer.put("a", b"%d" % n)
        writer.delete("a")
        writer.collect()
        assert bytes(chunk) == b"first"
        reader.close()
        assert bytes(chunk) == b"first"
    heap.remove_channel("values", force=True)
    heap.allocate_record(1 << 20).free()
    assert bytes(chunk) == b"first"
    chunk.release()


def test_a_hold_ends_with_the_chunk_and_its_last_view(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values")
    with store.writer() as writer, store.reader() as reader:
        writer.put("a", b"12345678")

        def held() -> int:
            return reader.statistics().held

        chunk = reader["a"]
        view, array = chunk.view[2:4], chunk.array("u4")
        part = array[1:]
        chunk.release()
        del array
        assert held() == 1
        del view
        assert (held(), bytes(part)) == (1, b"5678")
        del part
        assert held() == 0
        with reader["a"] as chunk:
            assert held() == 1
        assert held() == 0
        chunk = reader["a"]
        del chunk
        assert held() == 0
        with reader["a"] as chunk:
            chunk.release()


def test_a_released_chunk_has_its_key_version_and_size_only(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values")
    with store.writer() as writer, store.reader() as reader:
        writer.put("a", b"123")
        followed, got = reader.next(), reader["a"]
        for chunk in (followed, got):
            chunk.release()
            assert (chunk.key, chunk.version, chunk.nbytes) == ("a", 1, 3)
            assert "released" in repr(chunk)
            for use in (
                chunk.release,
                chunk.array,
                chunk.object,
                chunk.__enter__,
                lambda c=chunk: bytes(c),
                lambda c=chunk: len(c),
                lambda c=chunk: c[0],
                lambda c=chunk: c.view,
                lambda c=chunk: c.age,
                lambda c=chunk: c.live,
                lambda c=chunk: memoryview(c),
            ):
                with pytest.raises(ipcheap.RecordError, match="has been released"):
                    use()


def test_a_chunk_is_a_sequence_of_bytes(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values")
    with store.writer() as writer, store.reader() as reader:
        writer.put("a", b"abc")
        chunk = reader["a"]
        assert (len(chunk), chunk[0], chunk[-1], bytes(chunk[1:])) == (3, 97, 99, b"bc")
        assert list(chunk) == [97, 98, 99]
        with pytest.raises(IndexError):
            chunk[3]
        assert bytes(memoryview(chunk)) == b"abc"


def test_a_repeated_key_takes_no_further_hold(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", hold=2)
    with store.writer() as writer, store.reader() as reader:
        writer.put_many({"a": b"1", "b": b"2", "c": b"3"})
        found = reader.get_many(["a", "b", "a", "a", "b"])
        assert {key: bytes(chunk) for key, chunk in found.items()} == {"a": b"1", "b": b"2"}
        with pytest.raises(ipcheap.RecordError, match=r"hold=2"):
            reader.get_many(["c", "c"])
        found.clear()
        with pytest.raises(ipcheap.RecordError, match=r"hold=2"):
            reader.get_many(["a", "c", "c", "b"])
        assert list(reader.get_many(["c", "c", "a"])) == ["c", "a"]
        assert list(reader.get_many(["x", "c", "a", "y", "z"])) == ["c", "a"]  # these need none


def test_a_reader_holds_as_many_chunks_as_the_store_says(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", hold=3)
    with store.writer() as writer, store.reader() as reader:
        writer.put_many({n: b"%d" % n for n in range(10)})
        held = [reader.next(), reader[5], reader[6]]
        calls: list[Any] = [
            reader.next,
            reader.try_next,
            lambda: reader[7],
            lambda: reader.get_many([1]),
            lambda: reader.history(1),
            lambda: reader.wait_for(1),
        ]
        for call in calls:
            with pytest.raises(ipcheap.RecordError, match=r"as many chunks as it may \(hold=3\)"):
                call()
        assert reader.get_bytes(7) == b"7"  # a copy needs no hold
        assert (reader.position, reader.statistics().held) == (1, 3)
        held.pop().release()
        with pytest.raises(ipcheap.RecordError):
            reader.get_many([1, 2])
        assert reader.statistics().held == 2
        assert reader.next().version == 2


def test_iterating_releases_each_chunk_when_the_next_is_asked_for(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", hold=2)
    with store.writer() as writer, store.reader() as reader:
        writer.put_many({n: b"%d" % n for n in range(10)})
        chunks = list(zip(range(10), reader.follow(), strict=False))
        for _, chunk in chunks[:-1]:
            with pytest.raises(ipcheap.RecordError):
                bytes(chunk)
        del chunks, chunk
        assert [bytes(chunk) for _, chunk in reader.items()] == [b"%d" % n for n in range(10)]
        assert [bytes(chunk) for chunk in reader.values()] == [b"%d" % n for n in range(10)]
        reader.seek(0)
        for first in reader.follow():  # noqa: B007
            break
        assert bytes(first) == b"0"  # nothing has asked for the next one


def test_any_thread_may_release_and_a_chunk_outlives_its_reader(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values")
    chunks: list[ipcheap.Chunk] = []

    def read() -> None:
        with store.reader() as reader:
            chunks.extend(reader[n] for n in range(3))

    with store.writer() as writer:
        writer.put_many({n: bytes(1000) for n in range(3)})
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
        (info,) = store.readers()
        assert (info.state, info.held) == ("closed", 3)
        assert [len(bytes(chunk)) for chunk in chunks] == [1000] * 3
        chunks.pop().release()
        chunks.clear()
        assert store.readers() == []


def test_views_outlive_the_heap(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        store = heap.add_store("values")
        with store.writer() as writer, store.reader() as reader:
            with writer.loan("a", 100, "u4") as array:
                array[:] = np.arange(100)
            found, chunk = reader.get_array("a"), reader["a"]
    assert found.sum() == 4950
    assert bytes(chunk[:4]) == bytes(4)
    chunk.release()
    del found, chunk, array
    gc.collect()
    with ipcheap.Heap.attach(heap_name) as heap:
        assert heap.check() == []
        assert heap.add_store("values").readers() == []


def test_dead_chunks_never_make_a_write_fail(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        store = heap.add_store("values", garbage="1GiB")
        with store.writer() as writer:
            for _ in range(100):
                writer.put("a", bytes(100_000))
            assert heap.statistics().in_use < 2**20


def test_a_full_store_names_the_limit_and_changes_nothing(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", max_chunks=3, max_bytes=100)
    with store.writer() as writer, store.reader() as reader:
        writer.put_many({n: b"%d" % n for n in range(3)})
        calls: list[Any] = [
            lambda: writer.put("a", b"1"),
            lambda: writer.append(b"1"),
            lambda: writer.put_object("a", 5),
        ]
        for call in calls:
            with pytest.raises(ipcheap.HeapFull, match="live chunks as max_chunks=3 allows"):
                call()
        assert (writer.version, reader.keys()) == (3, [0, 1, 2])
        assert writer.put(0, b"5") == 4  # replaces one
        writer.delete(1)
        writer.put("a", b"1")
        with pytest.raises(ipcheap.HeapFull, match="101 bytes can never fit"):
            writer.put(2, bytes(101))
        with pytest.raises(ipcheap.HeapFull, match="104 bytes can never fit"):
            writer.loan(2, (13,), "f8")


def test_the_oldest_make_way_if_the_store_evicts(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "2MiB") as heap:
        store = heap.add_store("values", evict=True, max_chunks=3)
        with store.writer() as writer, store.reader() as reader:
            for n in range(10):
                writer.put(n, bytes(1000))
            assert reader.keys() == [7, 8, 9]
            for n in range(50):
                writer.put(n, bytes(900_000))
            assert store.statistics().evicted > 40
            for n in range(10):
                with writer.loan(n, 900_000, "u1") as array:
                    array[:] = n
                assert reader.get_array(n)[-1] == n
                writer.put_object(n, bytes(900_000))
            with pytest.raises(ipcheap.HeapFull, match=r"one commit would .* max_chunks=3 allows"):
                writer.put_many(dict.fromkeys(range(4), b""))
            with pytest.raises(ipcheap.HeapFull):
                writer.allocate_record(3 << 20)
            with pytest.raises(ipcheap.HeapFull):
                writer.put("a", bytes(3 << 20))
            assert reader.keys() != []


def test_a_full_heap_names_the_reader_that_holds_most(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        store = heap.add_store("values")
        with store.writer() as writer, store.reader() as reader:
            held = []
            for _ in range(2):
                writer.put("a", bytes(300_000))
                held.append(reader["a"])
            writer.put("a", bytes(300_000))
            with pytest.raises(
                ipcheap.HeapFull, match=r"most dead bytes is .*this process.* 2 chunks of"
            ):
                writer.put("a", bytes(300_000))
            with pytest.raises(ipcheap.HeapFull, match="most dead bytes"):
                writer.allocate_record(300_000)
            del held[0]
            writer.put("a", bytes(300_000))


def test_a_reader_killed_holding_a_thousand_chunks_gives_all_back(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        store = heap.add_store("values", garbage=0)
        keys = list(range(1000))
        with store.writer() as writer:
            before = heap.statistics().in_use
            writer.put_many({key: bytes(100) for key in keys})
            with peers.run(store_workers.hold_until_killed, heap, "values", keys) as peer:
                assert peer.hear() == 1000
                for key in keys:
                    writer.delete(key)
                numbers = store.statistics()
                assert (numbers.held, numbers.held_bytes) == (1000, 100_000)
                peer.kill(signal.SIGSTOP)
                writer.put("a", b"goes on")
                (info,) = store.readers()
                assert (info.state, len(info.holds), info.dead_bytes) == ("stopped", 1000, 100_000)
                peer.kill()
                peer.wait()
            heap.recover()
            writer.delete("a")
            writer.collect()
            assert store.statistics().dead == 0
            assert store.readers() == []
            assert heap.statistics().in_use == before


def test_a_forked_child_may_not_use_or_release_a_chunk(heap: ipcheap.Heap) -> None:
    import stream_sides

    store = heap.add_store("values")
    with store.writer() as writer, store.reader() as reader:
        writer.put("a", b"123")
        chunk = reader["a"]

        def use() -> str:
            try:
                chunk.release()
            except ipcheap.WrongProcess as error:
                return str(error)
            return ""

        assert "forked" in stream_sides.in_child(use)
        assert bytes(chunk) == b"123"
        assert reader.statistics().held == 1

"""What the exceptions of a store say: the heap, the channel, the number and the way out."""

from __future__ import annotations

import json
import re
import signal
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pytest
import store_workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS: dict[str, tuple[Callable[[Any], object], type[Exception], str]] = {
    # Keys, bytes and times that none are
    "key type": (
        lambda s: s.reader.get(1.5),
        TypeError,
        "a key must be an int, a str or bytes, not float",
    ),
    "negative key": (lambda s: s.writer.put(-1, b""), ValueError, "key -1 must be 0 to 2**64 - 1"),
    "large key": (
        lambda s: s.reader.get(2**64),
        ValueError,
        "key 18446744073709551616 must be 0 to 2**64 - 1",
    ),
    "empty key": (
        lambda s: s.writer.put("", b""),
        ValueError,
        "key '' must be 1 to 64 bytes, not 0",
    ),
    "long key": (
        lambda s: s.writer.put("ä" * 33, b""),
        ValueError,
        f"key {'ä' * 33!r} must be 1 to 64 bytes, not 66",
    ),
    "no bytes": (
        lambda s: s.writer.put("a", "text"),
        TypeError,
        "this call puts bytes-like objects, not str: try put_object()",
    ),
    "objects": (
        lambda s: s.writer.put("a", np.array([object()])),
        TypeError,
        (
            "the ndarray holds Python objects, whose addresses mean nothing to another "
            "process: try put_object()"
        ),
    ),
    "pieces": (
        lambda s: s.writer.put("a", np.arange(10)[::2]),
        ValueError,
        "the bytes of a ndarray are not in one piece: put a copy",
    ),
    "no record": (
        lambda s: s.writer.put_record("a", b""),
        TypeError,
        "this call puts a Record, not bytes",
    ),
    "ttl type": (
        lambda s: s.writer.put("a", b"", "1"),
        TypeError,
        "ttl must be seconds or None, not str",
    ),
    "ttl": (
        lambda s: s.writer.put("a", b"", 0),
        ValueError,
        "ttl must be seconds, more than 0, not 0",
    ),
    "version": (lambda s: s.reader.seek(-1), ValueError, "a version must be at least 0, not -1"),
    # Options
    "evict": (
        lambda s: s.heap.add_store("x", evict=1),
        TypeError,
        "evict must be a bool, not int",
    ),
    "max_bytes": (
        lambda s: s.heap.add_store("x", max_bytes=0),
        ValueError,
        "max_bytes must be at least 1, or None, not 0",
    ),
    "hold": (
        lambda s: s.heap.add_store("x", hold=65537),
        ValueError,
        "hold must be at most 65536, not 65537",
    ),
    "other options": (
        lambda s: s.heap.add_store("values", hold=1, depth=7),
        ipcheap.ChannelTypeError,
        "{it} is a store, with depth=1, hold=2, not depth=7, hold=1",
    ),
    "other kind": (
        lambda s: s.heap.store_reader("records"),
        ipcheap.ChannelTypeError,
        "channel 'records' of heap {heap} is a record channel of 4 slots, not a store",
    ),
    # Sides
    "closed": (
        lambda s: s.closed.get("a"),
        ipcheap.EndpointClosed,
        "{it}: this reader is closed",
    ),
    "no writer": (
        lambda s: s.writer.close() or (s.reader.seek() and s.reader.next()),
        ipcheap.ChannelClosed,
        "{it}: the writer has closed",
    ),
    "no transaction": (
        lambda s: s.nested(),
        ValueError,
        "<StoreWriter of {it}> has a transaction open already; leave its block",
    ),
    "wait": (
        lambda s: s.reader.seek() and s.reader.next(timeout=0),
        TimeoutError,
        "{it}: nothing came within the timeout",
    ),
    # Limits
    "max_chunks": (
        lambda s: s.writer.put("d", b""),
        ipcheap.HeapFull,
        (
            "{it} has as many live chunks as max_chunks=3 allows; delete some, let them expire, "
            "or add it with evict=True"
        ),
    ),
    "too large": (
        lambda s: s.writer.put("a", bytes(1001)),
        ipcheap.HeapFull,
        "{it}: 1001 bytes can never fit, because max_bytes is 1000",
    ),
    "too many": (
        lambda s: s.evicting.put_many(dict.fromkeys(range(3), b"")),
        ipcheap.HeapFull,
        (
            "channel 'evicting' of heap {heap}: one commit would have more than "
            "max_chunks=2 allows; put less by one commit"
        ),
    ),
    "holds": (
        lambda s: [s.reader[key] for key in "abc"],
        ipcheap.RecordError,
        (
            "{it}: this reader holds as many chunks as it may (hold=2); release some, or add the "
            "store with a larger hold"
        ),
    ),
    # Chunks
    "no key": (lambda s: s.reader["nothing"], KeyError, "'nothing'"),
    "array": (
        lambda s: s.reader.get_array("a"),
        ipcheap.RecordError,
        (
            "the chunk of {it} is of another kind: get_array() takes arrays of loan() and "
            "allocate_array(), get_object() takes objects of put_object(), get() and get_bytes() "
            "take any"
        ),
    ),
    "object": (
        lambda s: s.reader["a"].object(),
        ipcheap.RecordError,
        "<Chunk version 1 of {it}, 1 bytes> was not put by put_object()",
    ),
    "released": (
        lambda s: s.released.view,
        ipcheap.RecordError,
        "the chunk of {it} has been released and cannot be used",
    ),
    "released twice": (
        lambda s: s.released.release(),
        ipcheap.RecordError,
        "the chunk of {it} has been released twice",
    ),
    # Records
    "put twice": (
        lambda s: [s.writer.put_record("a", s.record) for _ in range(2)],
        ipcheap.RecordError,
        "the record of heap {heap} has been sent and cannot be put",
    ),
    "another heap": (
        lambda s: s.put_elsewhere(),
        ipcheap.RecordError,
        (
            "<Record of heap {heap}, 3 bytes> cannot be put in another heap, heap without a "
            "name: put its bytes"
        ),
    ),
}


class Sides:
    """Two stores in some state, with all that the calls need."""

    def __init__(self, heap: ipcheap.Heap) -> None:
        self.heap = heap
        heap.add_record_channel("records", 4)
        store = heap.add_store("values", max_chunks=3, max_bytes=1000, hold=2)
        self.writer, self.reader, self.closed = store.writer(), store.reader(), store.reader()
        self.closed.close()
        self.evicting = heap.add_store("evicting", evict=True, max_chunks=2).writer()
        self.writer.put_many({"a": b"1", "b": b"2", "c": b"3"})
        self.released = self.reader["a"]
        self.released.release()
        self.record = self.writer.allocate_record(3)

    def nested(self) -> None:
        with self.writer.transaction(), self.writer.transaction():
            pass

    def put_elsewhere(self) -> None:
        with ipcheap.Heap.create(None, "1MiB", shm="memfd") as other:
            other.add_store("values").writer().put_record("a", self.record)

    def close(self) -> None:
        for side in (self.writer, self.reader, self.evicting):
            side.close()


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        yield heap
        assert heap.check() == []


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("what", CALLS)
def test_what_is_wrong_is_said(heap: ipcheap.Heap, what: str) -> None:
    sides = Sides(heap)
    call, kind, text = CALLS[what]
    it = f"channel 'values' of heap {heap.name!r}"
    expected = text.replace("{it}", it).replace("{heap}", repr(heap.name))
    with pytest.raises(kind) as raised:
        call(sides)
    assert str(raised.value) == expected
    sides.close()


def test_a_full_heap_names_the_reader_with_the_most_dead_bytes_also_if_it_is_stopped(
    heap_name: str,
) -> None:
    with ipcheap.Heap.create(heap_name, "2MiB") as heap:
        store = heap.add_store("values")
        with store.writer() as writer:
            writer.put_many({"small": bytes(1000), "a": bytes(450_000), "b": bytes(450_000)})
            with (
                peers.run(store_workers.hold_until_killed, heap, "values", ["small"]) as little,
                peers.run(store_workers.hold_until_killed, heap, "values", ["a", "b"]) as much,
            ):
                assert (little.hear(), much.hear()) == (1, 2)
                much.kill(signal.SIGSTOP)
                for key in ("small", "a", "b"):
                    writer.delete(key)
                writer.collect()
                infos = {info.pid: info for info in store.readers()}
                assert infos[much.pid].dead_bytes == 900_000
                assert infos[little.pid].dead_bytes == 1000
                writer.put_many({n: bytes(450_000) for n in range(2)})
                with pytest.raises(ipcheap.HeapFull) as raised:
                    writer.put(2, bytes(450_000))
                found = re.search(
                    r"\. The reader that holds the most dead bytes is (.*): "
                    r"2 chunks of 878\.9 KiB, the oldest for \d+ s$",
                    str(raised.value),
                )
                assert found, str(raised.value)
                assert str(much.pid) in found[1]
                # The writer goes on with what there is room for, and with all when it is killed.
                writer.put(0, b"goes on")
                much.kill()
                much.wait()
            heap.recover()
            for n in range(3):
                writer.put(n, bytes(450_000))


def test_an_exception_of_a_codec_names_the_store(heap: ipcheap.Heap) -> None:
    class Codec:
        @staticmethod
        def encode(obj: Any) -> list[bytes]:
            return [json.dumps(obj).encode()]

        @staticmethod
        def decode(pieces: list[Any]) -> Any:
            return json.loads(bytes(pieces[0])[1:])

    store = heap.add_store("values")
    with store.writer() as writer, store.reader() as reader:
        with pytest.raises(TypeError, match="not JSON serializable") as raised:
            writer.put_object("a", object(), codec=Codec)
        assert raised.value.__notes__ == [
            f"The object was to be put by <StoreWriter of channel 'values' of {heap.label}>."
        ]
        writer.put_object("a", {"b": 1}, codec=Codec)
        with pytest.raises(json.JSONDecodeError) as read:
            reader.get_object("a", codec=Codec)
        assert read.value.__notes__[-1] == (
            f"The object was got by <StoreReader of channel 'values' of {heap.label}>."
        )
        del raised, read
        assert reader.statistics().held == 0


def test_another_thread_and_a_removed_store_are_named(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values")
    with store.writer() as writer, store.reader() as reader:
        said: list[str] = []

        def use() -> None:
            for call in (lambda: writer.put("a", b""), lambda: reader.get("a")):
                try:
                    call()
                except ipcheap.WrongThread as error:
                    said.append(str(error))

        thread = threading.Thread(target=use)
        thread.start()
        thread.join()
        it = f"channel 'values' of {heap.label}"
        assert said == [
            f"{it}: this {side} belongs to thread 'MainThread', which claimed it; claim one in "
            "each thread"
            for side in ("writer", "reader")
        ]
        heap.remove_channel("values", force=True)
        for call, side in ((lambda: writer.put("a", b""), "writer"), (reader.keys, "reader")):
            with pytest.raises(ipcheap.EndpointClosed) as raised:
                call()
            assert str(raised.value) == f"{it}: this {side} is closed"

"""Stores in Python: what their calls take, return and raise."""

from __future__ import annotations

import math
import pickle
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

KEYS: list[Any] = [0, 2**64 - 1, "a", "ä" * 32, b"a", b"\0" * 64]


class Sides:
    """A store with its writer and a reader."""

    def __init__(self, heap: ipcheap.Heap, **options: Any) -> None:
        self.store = heap.add_store("values", **options)
        self.writer, self.reader = self.store.writer(), self.store.reader()

    def close(self) -> None:
        self.writer.close()
        self.reader.close()


@pytest.fixture
def heap() -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        yield heap
        assert heap.check() == []


@pytest.fixture
def make(heap: ipcheap.Heap) -> Iterator[Callable[..., Sides]]:
    made: list[Sides] = []

    def make(**options: Any) -> Sides:
        made.append(Sides(heap, **options))
        return made[-1]

    yield make
    for sides in made:
        sides.close()


# Adding ------------------------------------------------------------------------------------


def test_a_store_has_the_options_that_it_was_added_with(heap: ipcheap.Heap) -> None:
    store = heap.add_store(
        1, depth=3, ttl=1.5, max_chunks=10, max_bytes="1MiB", evict=True, garbage=0, hold=7
    )
    assert (store.depth, store.ttl, store.max_chunks, store.max_bytes) == (3, 1.5, 10, 2**20)
    assert (store.evict, store.garbage, store.hold) == (True, 0, 7)
    assert (store.id, store.heap) == (1, heap)


def test_the_defaults(heap: ipcheap.Heap) -> None:
    store = heap.add_store("plain")
    assert (store.depth, store.ttl, store.max_chunks, store.max_bytes) == (1, None, None, None)
    assert (store.evict, store.garbage, store.hold) == (False, 2**20, 1024)
    assert heap.add_store("never", ttl=math.inf).ttl is None


def test_an_option_that_is_not_passed_takes_the_store_as_it_is(heap: ipcheap.Heap) -> None:
    store = heap.add_store("values", depth=3, hold=5)
    assert heap.add_store("values") == store
    assert heap.add_store("values", depth=3) == store
    assert heap.add_store("values").hold == 5


@pytest.mark.parametrize(
    "options", [{"depth": 1}, {"depth": 4}, {"hold": 1024}, {"evict": True}, {"ttl": 1}]
)
def test_an_option_that_is_passed_must_be_so_even_if_it_is_the_default(
    heap: ipcheap.Heap, options: Any
) -> None:
    heap.add_store("values", depth=3, hold=5)
    ((name, value),) = options.items()
    with pytest.raises(ipcheap.ChannelTypeError, match=rf"{name}=.*, not {name}={value}"):
        heap.add_store("values", **options)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"depth": 0}, ValueError),
        ({"depth": 1.5}, TypeError),
        ({"ttl": 0}, ValueError),
        ({"ttl": math.nan}, ValueError),
        ({"ttl": True}, TypeError),
        ({"ttl": "1"}, TypeError),
        ({"max_chunks": 0}, ValueError),
        ({"max_bytes": 0}, ValueError),
        ({"max_bytes": "lots"}, ValueError),
        ({"evict": 1}, TypeError),
        ({"garbage": -1}, ValueError),
        ({"hold": 0}, ValueError),
        ({"hold": 65537}, ValueError),
    ],
)
def test_options_that_no_store_has(
    heap: ipcheap.Heap, options: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        heap.add_store("values", **options)
    assert "values" not in heap.channels


def test_a_store_pickles_and_is_found(heap: ipcheap.Heap, heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as other:
        store = other.add_store("values", depth=2)
        copy = pickle.loads(pickle.dumps(store))
        assert copy == store
        assert copy.depth == 2
        copy.heap.close()
    assert heap.add_store("values") == heap.channel("values") == heap.channels["values"]


def test_other_kinds_are_refused(heap: ipcheap.Heap) -> None:
    heap.add_stream("bytes", 10)
    heap.add_store("values")
    with pytest.raises(ipcheap.ChannelTypeError, match="not a store"):
        heap.add_store("bytes")
    with pytest.raises(ipcheap.ChannelTypeError, match="not a store"):
        heap.store_writer("bytes")
    with pytest.raises(ipcheap.ChannelTypeError):
        heap.stream_writer("values")
    with pytest.raises(ipcheap.ChannelNotFound):
        heap.store_reader("nothing")


def test_a_second_writer_is_refused_and_told_the_holder(make: Callable[..., Sides]) -> None:
    sides = make()
    with pytest.raises(ipcheap.ChannelBusy, match=r"writer side is held by .* this process"):
        sides.store.writer()
    sides.writer.put("a", b"1")
    sides.writer.close()
    with sides.store.writer() as writer:  # goes on where the other one stopped
        assert writer.put("a", b"2") == 2


# Keys --------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
def test_every_key_has_its_own_value(make: Callable[..., Sides], key: Any) -> None:
    sides = make()
    for number, each in enumerate(KEYS):
        sides.writer.put(each, b"%d" % number)
    assert sides.reader.get_bytes(key) == b"%d" % KEYS.index(key)
    chunk = sides.reader[key]
    assert type(chunk.key) is type(key)
    assert chunk.key == key
    assert sides.reader.keys() == KEYS


@pytest.mark.parametrize("key", ["", b"", "x" * 65, b"x" * 65, -1, 2**64])
def test_values_that_no_key_has(make: Callable[..., Sides], key: Any) -> None:
    sides = make()
    for call in (lambda: sides.writer.put(key, b""), lambda: sides.reader.get(key)):
        with pytest.raises(ValueError, match="key"):
            call()


@pytest.mark.parametrize("key", [True, 1.0, (1,), bytearray(b"a"), None])
def test_types_that_no_key_has(make: Callable[..., Sides], key: Any) -> None:
    sides = make()
    calls: list[Callable[[], Any]] = [
        lambda: sides.reader.get(key),
        lambda: sides.reader[key],
        lambda: sides.reader.get_many([key]),
        lambda: key in sides.reader,
        lambda: sides.writer.delete(key),
        lambda: sides.reader.history(key),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="a key must be an int, a str or bytes"):
            call()


def test_numbers_and_texts_of_numpy_are_keys(make: Callable[..., Sides]) -> None:
    sides = make()
    number: Any = np.uint8(7)
    sides.writer.put(number, b"seven")
    sides.writer.put(np.str_("text"), b"text")
    assert sides.reader.get_bytes(7) == b"seven"
    assert [*map(type, sides.reader)] == [int, str]
    assert type(sides.reader[number].key) is int


# Putting -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data", [b"", b"abc", bytearray(b"abc"), memoryview(b"abc"), np.arange(4), b"x" * 1000000]
)
def test_a_put_copies_any_bytes(make: Callable[..., Sides], data: Any) -> None:
    sides = make()
    assert sides.writer.put("a", data) == 1
    assert sides.reader.get_bytes("a") == bytes(memoryview(data).cast("B"))
    assert sides.reader["a"].nbytes == memoryview(data).nbytes


@pytest.mark.parametrize("data", ["text", 5, None, np.array([object()])])
def test_what_is_no_bytes_is_a_type_error(make: Callable[..., Sides], data: Any) -> None:
    sides = make()
    calls: list[Callable[[], int]] = [
        lambda: sides.writer.put("a", data),
        lambda: sides.writer.append(data),
        lambda: sides.writer.put_many({"b": b"", "a": data}),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="put_object"):
            call()
    assert sides.writer.version == 0


def test_bytes_that_are_not_in_one_piece(make: Callable[..., Sides]) -> None:
    with pytest.raises(ValueError, match="one piece"):
        make().writer.put("a", np.arange(10)[::2])


def test_after_a_put_only_the_newest_is_there(make: Callable[..., Sides]) -> None:
    sides = make()
    for n in range(10):
        sides.writer.put("a", b"%d" % n)
        assert sides.reader.get_bytes("a") == b"%d" % n
    assert len(sides.reader.history("a")) == 1


def test_history_goes_back_as_far_as_the_depth(make: Callable[..., Sides]) -> None:
    sides = make(depth=3)
    for n in range(5):
        sides.writer.put("a", b"%d" % n)
        sides.writer.put("b", b"")
    assert [bytes(chunk) for chunk in sides.reader.history("a")] == [b"2", b"3", b"4"]
    assert [chunk.version for chunk in sides.reader.history("a")] == [5, 7, 9]
    assert sides.reader.history("c") == []


def test_a_chunk_without_a_key_is_followed_and_never_looked_up(
    make: Callable[..., Sides],
) -> None:
    sides = make()
    assert [sides.writer.append(b"1"), sides.writer.put(None, b"2")] == [1, 2]
    assert len(sides.reader) == 0
    chunks = [sides.reader.next(), sides.reader.next()]
    assert [(chunk.key, bytes(chunk)) for chunk in chunks] == [(None, b"1"), (None, b"2")]


def test_put_many_is_one_commit(make: Callable[..., Sides]) -> None:
    sides = make()
    assert sides.writer.put_many({"a": b"1", 2: b"2"}) == 2
    assert sides.writer.put_many([["a", b"3"], (None, b"4")], ttl=60) == 4  # type: ignore[list-item]
    assert sides.writer.put_many(iter([])) == 4
    assert {key: bytes(chunk) for key, chunk in sides.reader.items()} == {2: b"2", "a": b"3"}


def test_a_put_many_that_fails_has_put_nothing(make: Callable[..., Sides]) -> None:
    sides = make(max_chunks=2)
    sides.writer.put("a", b"1")
    with pytest.raises(ipcheap.HeapFull, match="max_chunks=2") as caught:
        sides.writer.put_many({"a": b"2", "b": b"3", "c": b"4"})
    assert caught.value.done == 0
    assert sides.writer.version == 1
    with pytest.raises(TypeError) as caught_type:
        sides.writer.put_many([("a", 5)])
    assert caught_type.value.done == 0  # type: ignore[attr-defined]
    pairs: list[Any] = [("a", b"2"), ("b", b"3", None)]
    with pytest.raises(ValueError, match="a key and bytes, not 3 items"):
        sides.writer.put_many(pairs)
    assert sides.reader.get_bytes("a") == b"1"


def test_a_deletion_takes_a_version_and_makes_no_chunk(make: Callable[..., Sides]) -> None:
    sides = make(depth=2)
    sides.writer.put("a", b"1")
    sides.writer.put("a", b"2")
    assert sides.writer.delete("a") is True
    assert (sides.writer.version, sides.reader.get("a"), sides.reader.history("a")) == (3, None, [])
    assert sides.writer.delete("a") is False
    assert sides.writer.put("b", b"") == 4
    assert [chunk.version for chunk in (sides.reader.next(),)] == [4]


# Records, arrays, objects ------------------------------------------------------------------


def test_arrays_know_what_they_are(make: Callable[..., Sides]) -> None:
    sides = make()
    with sides.writer.loan("a", (2, 3), "f4", order="F") as array:
        array[:] = [[1, 2, 3], [4, 5, 6]]
    with pytest.raises(ValueError, match="WRITEABLE"):
        array.flags.writeable = True
    found = sides.reader.get_array("a")
    assert found.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert found.flags.f_contiguous
    assert sides.reader["a"].array().tolist() == found.tolist()
    assert np.asarray(sides.reader["a"]).shape == (2, 3)
    assert sides.reader["a"].array("u1", (4, -1)).shape == (4, 6)


def test_views_and_arrays_cannot_be_made_writable(make: Callable[..., Sides]) -> None:
    sides = make()
    sides.writer.put("bytes", b"12345678")
    sides.writer.put_object("object", np.arange(5))
    with sides.writer.loan("array", 3, "u2") as lent:
        lent[:] = 1
    chunk = sides.reader["bytes"]
    for array in (
        chunk.array(),
        chunk.array("u4"),
        np.asarray(chunk),
        np.frombuffer(chunk.view, "u1"),
        np.ndarray(8, "u1", chunk.view),
        sides.reader.get_array("array"),
        sides.reader.get_object("object"),
    ):
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True
    assert chunk.view.readonly
    assert memoryview(chunk).readonly
    with pytest.raises(TypeError):
        chunk[0] = 1  # type: ignore[index]


def test_a_chunk_knows_what_it_was_put_as(make: Callable[..., Sides]) -> None:
    sides = make()
    sides.writer.put("bytes", b"12")
    sides.writer.put_object("object", [1])
    with sides.writer.loan("array", 3, "i4"):
        pass
    for form in "bytes", "object", "array":
        chunk = sides.reader[form]
        assert chunk.form == form
        chunk.release()
        with pytest.raises(ipcheap.RecordError, match="released"):
            _ = chunk.form


def test_a_chunk_of_another_form_is_refused(make: Callable[..., Sides]) -> None:
    sides = make()
    sides.writer.put("a", b"12")
    for call in (
        sides.reader.get_array,
        sides.reader.get_object,
        lambda key: sides.reader[key].object(),
    ):
        with pytest.raises(ipcheap.RecordError, match="put_object"):
            call("a")
    assert sides.reader.statistics().held == 0
    assert sides.reader.get_array("b", 5) == 5
    assert sides.reader.get_object("b") is None


def test_a_received_record_is_forwarded(heap: ipcheap.Heap, make: Callable[..., Sides]) -> None:
    sides = make()
    heap.add_record_channel("records", 4)
    with heap.producer("records") as producer, heap.consumer("records") as consumer:
        for n in range(10):
            with producer.loan(3, "u4") as array:
                array[:] = n
            record = consumer.recv_record()
            sides.writer.put_record("a", record)
            assert sides.reader.get_array("a").tolist() == [n] * 3
            with pytest.raises(ipcheap.RecordError, match="has been sent"):
                record.free()


def test_a_record_whose_put_fails_is_the_callers(make: Callable[..., Sides]) -> None:
    sides = make(max_bytes=10)
    record = sides.writer.allocate_record(11)
    with pytest.raises(ipcheap.HeapFull, match=r"11 bytes can never fit.* max_bytes is 10"):
        sides.writer.put_record("a", record)
    record.free()
    with pytest.raises(ipcheap.RecordError, match="freed"):
        sides.writer.put_record("a", record)
    with pytest.raises(TypeError, match="this call puts a Record"):
        sides.writer.put_record("a", b"")  # type: ignore[arg-type]


def test_an_object_is_put_with_its_arrays(make: Callable[..., Sides]) -> None:
    sides = make()
    sides.writer.put_object("a", {"n": 5, "array": np.arange(1000)})
    found = sides.reader.get_object("a")
    assert (found["n"], found["array"].sum()) == (5, 499500)
    assert sides.reader.statistics().held == 1
    del found
    assert sides.reader.statistics().held == 0
    assert sides.reader["a"].object()["n"] == 5


def test_a_loan_whose_block_raises_puts_nothing(
    heap: ipcheap.Heap, make: Callable[..., Sides]
) -> None:
    sides = make()
    before = heap.statistics().in_use
    with pytest.raises(ZeroDivisionError), sides.writer.loan("a", 5, "u1"):
        _ = 1 / 0
    assert (sides.reader.get("a"), heap.statistics().in_use) == (None, before)


# Transactions ------------------------------------------------------------------------------


def test_a_transaction_shows_nothing_before_it_ends(make: Callable[..., Sides]) -> None:
    sides = make()
    record = sides.writer.allocate_record(1)
    record[:] = b"r"
    with sides.writer.transaction():
        assert sides.writer.put("a", b"0") == 1
        assert sides.writer.put("a", b"1") == 2
        assert sides.writer.put_many({"b": b"2"}) == 3
        sides.writer.put_record("c", record)
        with sides.writer.loan("d", 1, "u1") as array:
            array[:] = 4
        assert sides.reader.keys() == []
        assert sides.writer.version == 0
    assert sides.writer.version == 5
    assert {k: bytes(c) for k, c in sides.reader.items()} == {
        "a": b"1",
        "b": b"2",
        "c": b"r",
        "d": b"\4",
    }
    with pytest.raises(ipcheap.RecordError):
        record.free()


def test_an_exception_undoes_a_transaction(heap: ipcheap.Heap, make: Callable[..., Sides]) -> None:
    sides = make()
    sides.writer.put("a", b"1")
    record = sides.writer.allocate_record(1)
    before = heap.statistics().in_use

    def fail() -> None:
        with sides.writer.transaction():
            sides.writer.put("a", b"2")
            sides.writer.delete("a")
            sides.writer.put_record("b", record)
            with sides.writer.loan("c", 5, "u1") as array:
                array[:] = 0
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (sides.reader.get_bytes("a"), sides.reader.keys()) == (b"1", ["a"])
    assert (sides.writer.version, heap.statistics().in_use) == (1, before)
    record[:] = b"x"
    assert sides.writer.put_record("b", record) == 2


def test_a_transaction_that_does_not_fit_changes_nothing(make: Callable[..., Sides]) -> None:
    sides = make(max_chunks=1)
    record = sides.writer.allocate_record(1)

    def put_two() -> None:
        with sides.writer.transaction():
            sides.writer.put("a", b"1")
            sides.writer.put_record("b", record)

    with pytest.raises(ipcheap.HeapFull, match="max_chunks=1"):
        put_two()
    assert len(sides.reader) == 0
    record.free()


def test_transactions_do_not_nest(make: Callable[..., Sides]) -> None:
    sides = make()
    with sides.writer.transaction():
        with (
            pytest.raises(ValueError, match="transaction open already"),
            sides.writer.transaction(),
        ):
            pass
        sides.writer.put("a", b"1")
    assert sides.reader.get_bytes("a") == b"1"


def test_a_transaction_ends_with_its_writer(make: Callable[..., Sides]) -> None:
    sides = make()
    record = sides.writer.allocate_record(1)

    def close_inside() -> None:
        with sides.writer.transaction():
            sides.writer.put_record("a", record)
            sides.writer.close()

    with pytest.raises(ipcheap.EndpointClosed):
        close_inside()
    assert sides.reader.get("a") is None
    record.free()


# Expiry ------------------------------------------------------------------------------------


def test_an_expired_chunk_is_not_delivered(make: Callable[..., Sides]) -> None:
    sides = make(ttl=60)
    sides.writer.put("short", b"1", ttl=0.05)
    sides.writer.put("long", b"2")
    sides.writer.put("never", b"3", ttl=math.inf)
    chunk = sides.reader["short"]
    assert 0 < chunk.expires_in <= 0.05
    assert 59 < sides.reader["long"].expires_in <= 60
    assert sides.reader["never"].expires_in == math.inf
    threading.Event().wait(0.06)
    assert (chunk.live, chunk.expires_in < 0, chunk.age > 0.05) == (False, True, True)
    assert bytes(chunk) == b"1"
    assert sides.reader.keys() == ["long", "never"]
    assert [sides.reader.next().key for _ in range(2)] == ["long", "never"]


@pytest.mark.parametrize("ttl", [0, -1, math.nan])
def test_times_that_nothing_lives(make: Callable[..., Sides], ttl: float) -> None:
    sides = make()
    for call in (
        lambda: sides.writer.put("a", b"", ttl),
        lambda: sides.writer.append(b"", ttl=ttl),
        lambda: sides.writer.loan("a", 1, "u1", ttl),
    ):
        with pytest.raises(ValueError, match="ttl must be seconds"):
            call()


# Reading -----------------------------------------------------------------------------------


def test_a_reader_is_a_mapping(make: Callable[..., Sides]) -> None:
    sides = make()
    sides.writer.put_many({"a": b"1", "b": b"2"})
    sides.writer.put("a", b"3")
    reader = sides.reader
    assert ("a" in reader, "c" in reader, len(reader)) == (True, False, 2)
    assert list(reader) == reader.keys() == ["b", "a"]
    assert [bytes(chunk) for chunk in reader.values()] == [b"2", b"3"]
    assert reader.get("c", 7) == 7
    assert reader.get("a", newer_than=3) is None
    found = reader.get("a", newer_than=2)
    assert found is not None
    assert found.version == 3
    with pytest.raises(KeyError, match="'c'"):
        reader["c"]


def test_many_keys_at_one_moment(make: Callable[..., Sides]) -> None:
    sides = make()
    sides.writer.put_many({n: b"%d" % n for n in range(100)})
    found = sides.reader.get_many([5, 7, 7, 1000])
    assert {key: bytes(chunk) for key, chunk in found.items()} == {5: b"5", 7: b"7"}
    assert sides.reader.statistics().held == 2
    found.clear()
    assert sides.reader.get_many([]) == {}
    assert sides.reader.statistics().held == 0


def test_late_readers_get_what_is_alive_in_order(make: Callable[..., Sides]) -> None:
    sides = make()
    for n in range(20):
        sides.writer.put(n % 3, b"%d" % n)
        sides.writer.append(b"-%d" % n)
    sides.writer.close()
    with sides.store.reader() as late:
        given = [(chunk.version, bytes(chunk)) for chunk in late.follow()]
        assert late.statistics() == ipcheap.StoreReaderStatistics(23, 17, 0, 0)
        with pytest.raises(ipcheap.ChannelClosed):
            late.next()
    assert [version for version, _ in given] == sorted(version for version, _ in given)
    assert [data for _, data in given if data[:1] != b"-"] == [b"17", b"18", b"19"]


def test_seeking(make: Callable[..., Sides]) -> None:
    sides = make()
    for n in range(5):
        sides.writer.append(b"%d" % n)
    reader = sides.reader
    assert (reader.position, reader.version) == (0, 5)
    assert reader.seek(3) == 3
    assert bytes(reader.next()) == b"3"
    assert (reader.position, reader.seek(), reader.try_next()) == (4, 5, None)
    assert (reader.seek(100), reader.seek(0)) == (5, 0)
    assert bytes(reader.next()) == b"0"
    with pytest.raises(ValueError, match="version"):
        reader.seek(-1)


def test_timeouts(make: Callable[..., Sides]) -> None:
    sides = make()
    sides.writer.put("a", b"1")
    assert sides.reader.next(timeout=0).version == 1
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError, match="nothing came"):
            sides.reader.next(timeout=timeout)
        with pytest.raises(TimeoutError, match="nothing came"):
            sides.reader.wait_for("b", timeout=timeout)
        with pytest.raises(TimeoutError):
            sides.reader.wait_for("a", newer_than=1, timeout=timeout)
    assert sides.reader.wait_for("a").version == 1


def test_statistics(make: Callable[..., Sides]) -> None:
    sides = make(depth=2, garbage="1MiB")
    for _ in range(4):
        sides.writer.put("a", b"1234")
    sides.writer.put("b", b"12")
    sides.writer.delete("b")
    kept = sides.reader["a"]
    sides.writer.put("a", b"1234")
    sides.writer.put("a", b"1234")
    numbers = sides.store.statistics()
    assert (numbers.version, numbers.keys, numbers.chunks, numbers.bytes) == (8, 1, 2, 8)
    assert (numbers.held, numbers.held_bytes, numbers.readers) == (1, 4, 1)
    assert (numbers.replaced, numbers.deleted, numbers.expired, numbers.evicted) == (4, 1, 0, 0)
    assert sides.writer.statistics() == ipcheap.StoreWriterStatistics(version=8, committed=8)
    (info,) = sides.store.readers()
    assert (info.held, info.held_bytes, info.dead_bytes, info.state) == (1, 4, 4, "alive")
    assert [(h.key, h.version, h.nbytes, h.live) for h in info.holds] == [("a", 4, 4, False)]
    assert not kept.live


# Endpoints ---------------------------------------------------------------------------------


def test_a_closed_endpoint_refuses(make: Callable[..., Sides]) -> None:
    sides = make()
    sides.writer.close()
    sides.reader.close()
    calls: list[Callable[[], Any]] = [
        lambda: sides.writer.put("a", b""),
        lambda: sides.writer.put_many({"a": b""}),
        lambda: sides.writer.delete("a"),
        lambda: sides.writer.transaction().__enter__(),
        sides.writer.collect,
        lambda: sides.writer.version,
        lambda: sides.reader.get("a"),
        sides.reader.keys,
        sides.reader.next,
        lambda: sides.reader.wait_for("a"),
        sides.reader.seek,
        lambda: sides.reader.position,
        lambda: "a" in sides.reader,
        lambda: len(sides.reader),
        lambda: sides.reader.history("a"),
    ]
    for call in calls:
        with pytest.raises(ipcheap.EndpointClosed):
            call()


def test_an_endpoint_belongs_to_its_thread(make: Callable[..., Sides]) -> None:
    sides = make()
    sides.writer.put("a", b"1")
    raised: list[BaseException] = []

    def use() -> None:
        for call in (
            lambda: sides.writer.put("a", b""),
            lambda: sides.reader.get("a"),
            sides.reader.keys,
            sides.reader.next,
        ):
            try:
                call()
            except ipcheap.WrongThread as error:
                raised.append(error)

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert len(raised) == 4


def test_the_sides_say_what_they_are(make: Callable[..., Sides]) -> None:
    sides = make(depth=2)
    assert repr(sides.store) == "<Store 'values' of heap without a name, depth 2>"
    assert repr(sides.reader).startswith("<StoreReader of channel 'values'")
    assert (sides.writer.depth, sides.reader.hold) == (2, 1024)
    with pytest.raises(TypeError, match="does not pickle"):
        pickle.dumps(sides.reader)
    sides.writer.put("a", b"1")
    with pytest.raises(TypeError, match="does not pickle"):
        pickle.dumps(sides.reader["a"])

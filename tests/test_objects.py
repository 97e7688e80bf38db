"""Objects: pickled with their buffers beside the pickle, or made by another codec."""

from __future__ import annotations

import gc
import pickle
import threading
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import peers
import pyarrow as pa
import pytest
import threads
from hypothesis import given, settings
from hypothesis import strategies as st

import ipcheap
from ipcheap.objects import PICKLE

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20


@pytest.fixture
def heap() -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(None, "64MiB", shm="memfd") as heap:
        heap.add_record_channel("a", 4)
        yield heap
        gc.collect()
        assert heap.check() == []
        assert heap.statistics().in_use == 0


@pytest.fixture
def line(heap: ipcheap.Heap) -> Iterator[tuple[ipcheap.Producer, ipcheap.Consumer]]:
    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        yield producer, consumer


def same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@pytest.mark.parametrize(
    "thing",
    [
        None,
        {"a": [1, 2.5, "x"], "b": {1, 2}},
        bytes(300_000),
        bytearray(b"abc"),
        np.arange(10),
        np.arange(24.0).reshape(4, 6).T,
        np.arange(24.0).reshape(4, 6)[::2, 1::3],
        np.zeros((0, 3)),
        np.array(5),
        np.array([(1, 2.0)], dtype=[("x", ">i4"), ("y", "f8")]),
        np.array([{"an": "object"}, None], dtype=object),
        [np.full(n, n, "u1") for n in range(200)],
        {"frame": np.ones((108, 192, 3), "u1"), "meta": {"n": 1}},
    ],
    ids=lambda thing: type(thing).__name__,
)
def test_an_object_arrives_as_it_was(
    line: tuple[ipcheap.Producer, ipcheap.Consumer], thing: Any
) -> None:
    producer, consumer = line
    producer.send_object(thing)
    assert same(consumer.recv_object(), thing)


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(json_like | st.integers(0, 3000).map(np.arange), max_size=4))
def test_any_object_arrives_as_it_was(things: list[Any]) -> None:
    with ipcheap.Heap.create(None, "4MiB", shm="memfd") as heap:
        heap.add_record_channel(1, 4)
        with heap.producer(1) as producer, heap.consumer(1) as consumer:
            for thing in things:
                producer.send_object(thing)
            got = [consumer.recv_object() for _ in things]
            assert same(got, things)
            del got
            gc.collect()
            assert heap.statistics().records == 0


def test_received_arrays_alias_the_record_and_keep_it(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    sent = {"frame": np.full(8 * MIB, 7, "u1"), "small": np.arange(5)}
    producer.send_object(sent)
    got = consumer.recv_object()
    assert got["frame"].flags.writeable
    assert got["frame"].ctypes.data % 64 == got["small"].ctypes.data % 64 == 0
    assert heap.statistics().records == 1
    assert consumer.statistics().held == 1
    small = got["small"][1:3]
    del got
    assert small.tolist() == [1, 2]
    assert heap.statistics().records == 1
    del small
    assert heap.statistics().records == 0
    assert consumer.statistics().held == 0


def test_one_copy_in_and_none_out(heap: ipcheap.Heap) -> None:
    """Only the pickle passes through Python's own memory, without the arrays."""
    import tracemalloc

    thing = {"frame": np.zeros(8 * MIB, "u1")}
    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        tracemalloc.start()
        try:
            for _ in range(3):
                producer.send_object(thing)
                got = consumer.recv_object()
                assert got["frame"].nbytes == 8 * MIB
                del got
            assert tracemalloc.get_traced_memory()[1] < MIB
        finally:
            tracemalloc.stop()


def test_without_arrays_it_is_acknowledged_immediately(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    got = []
    for n in range(100):
        producer.send_object({"n": n, "text": "x" * 1000}, timeout=5)
        got.append(consumer.recv_object(timeout=5))
        assert consumer.statistics().held == 0
    assert [each["n"] for each in got] == list(range(100))
    assert heap.statistics().records == 0


def test_what_was_read_only_is_read_only(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    array = np.arange(10)
    array.flags.writeable = False
    producer.send_object(array)
    assert not consumer.recv_object().flags.writeable


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError


class Explosive:
    """An object that pickles, with an array before it, and does not unpickle."""

    def __reduce__(self) -> Any:
        return explode, (np.arange(1000),)


class Unreadable:
    """An object that pickles, without arrays, and does not unpickle."""

    def __reduce__(self) -> Any:
        return explode, (range(3),)


def explode(array: np.ndarray[Any, Any] | range) -> None:
    raise ZeroDivisionError(len(array))


def test_what_does_not_pickle_sends_nothing(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    with pytest.raises(ZeroDivisionError) as raised:
        producer.send_object([np.arange(100), Unpicklable()])
    assert "channel 'a'" in raised.value.__notes__[-1]  # pickle has added one before
    assert consumer.pending == 0
    assert heap.statistics().records == 0


def test_what_does_not_unpickle_is_done_with(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    producer.send_object(Explosive())
    producer.send_object("next")
    with pytest.raises(ZeroDivisionError, match="1000") as raised:
        consumer.recv_object()
    assert "channel 'a'" in raised.value.__notes__[0]
    del raised  # whose traceback keeps the array
    gc.collect()
    assert consumer.recv_object() == "next"
    assert heap.statistics().records == 0


def test_an_error_of_what_has_no_arrays_keeps_nothing(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    producer.send_object(Unreadable())
    with pytest.raises(ZeroDivisionError, match="3") as raised:
        consumer.recv_object()
    assert consumer.statistics().held == 0
    assert heap.statistics().records == 0
    store = heap.add_store("store")
    with store.writer() as writer, store.reader() as reader:
        writer.put_object("key", Unreadable())
        with pytest.raises(ZeroDivisionError, match="3") as raised:
            reader.get_object("key")
        assert reader.statistics().held == 0
    del raised
    heap.remove_channel("store")


def test_an_object_without_room_is_freed_or_waits(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        for n in range(4):
            producer.send_object(n)
        with pytest.raises(TimeoutError):
            producer.send_object(np.zeros(MIB), timeout=0.01)
        assert heap.statistics().records == 4
        with pytest.raises(ipcheap.HeapFull):
            producer.send_object(np.zeros(100 * MIB, "u1"))
        assert [consumer.recv_object() for _ in range(4)] == [0, 1, 2, 3]


def test_a_slow_consumer_is_waited_for(heap: ipcheap.Heap) -> None:
    def consume() -> None:
        with heap.consumer("a") as consumer:
            while True:
                try:
                    got.append(consumer.recv_object().sum())
                except ipcheap.ChannelClosed:
                    return

    got: list[int] = []
    thread = threading.Thread(target=consume)
    with heap.producer("a") as producer:
        thread.start()
        for n in range(50):
            producer.send_object(np.full(100_000, n), timeout=30)
    thread.join()
    assert got == [100_000 * n for n in range(50)]


def test_a_record_that_holds_no_pieces_is_an_error(heap: ipcheap.Heap) -> None:
    from ipcheap.objects import pieces_of

    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        producer.send_object([1])
        record = consumer.recv_record()
        good = bytes(record)
        record.free()
    assert len(pieces_of(memoryview(good))) == 1
    for length in range(len(good)):
        with pytest.raises(ValueError, match="pieces"):
            pieces_of(memoryview(good[:length]))
    for at in range(16):
        spoilt = bytearray(good)
        spoilt[at] ^= 0xFF
        try:
            pieces = pieces_of(memoryview(spoilt))
        except ValueError:
            continue
        assert sum(map(len, pieces)) <= len(good)


# Other codecs -------------------------------------------------------------------------------


class Frame(msgspec.Struct):
    camera: str
    number: int
    corners: list[float]


class Msgspec:
    """MessagePack of one type, checked on arrival."""

    def __init__(self, type: Any) -> None:
        self._encoder, self._decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(type)

    def encode(self, obj: Any) -> list[Any]:
        return [self._encoder.encode(obj)]

    def decode(self, pieces: list[memoryview]) -> Any:
        return self._decoder.decode(pieces[0])


class Arrow:
    """Tables as an Arrow IPC stream; their columns alias the record."""

    def encode(self, table: pa.Table) -> list[Any]:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return [sink.getvalue()]

    def decode(self, pieces: list[memoryview]) -> pa.Table:
        return pa.ipc.open_stream(pa.py_buffer(pieces[0])).read_all()


def test_msgspec_is_a_codec(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    codec = Msgspec(Frame)
    frame = Frame("left", 3, [0.5, 1.5])
    producer.send_object(frame, codec=codec)
    assert consumer.recv_object(codec=codec) == frame
    producer.send_object({"camera": 1}, codec=codec)
    with pytest.raises(msgspec.ValidationError):
        consumer.recv_object(codec=codec)
    assert heap.statistics().records == 0


def test_arrow_is_a_codec_whose_columns_alias_the_record(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    codec = Arrow()
    table = pa.table({"x": np.arange(100_000), "name": ["n"] * 100_000})
    producer.send_object(table, codec=codec)
    before = pa.total_allocated_bytes()
    got = consumer.recv_object(codec=codec)
    assert pa.total_allocated_bytes() - before < 10_000
    assert got == table
    column = got["x"].chunk(0)
    del got
    assert heap.statistics().records == 1
    assert column[-1].as_py() == 99_999
    del column
    assert heap.statistics().records == 0


class Raw:
    """The pieces themselves."""

    def encode(self, obj: list[bytes]) -> list[Any]:
        return obj

    def decode(self, pieces: list[memoryview]) -> list[memoryview]:
        return pieces


def test_a_record_says_its_form(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        producer.send(b"x")
        producer.send_object([1])
        with producer.loan(3, "i4") as array:
            array[:] = 0
        records = consumer.recv_records(3)
        assert [record.form for record in records] == ["bytes", "object", "array"]
        records[1].keep()
        assert records[1].form == "object"
        producer.send_record(records[1])  # and it travels with the record
        assert consumer.recv_object() == [1]
        with pytest.raises(ipcheap.RecordError, match="sent"):
            _ = records[1].form
        for record in records[0], records[2]:
            record.free()
    with heap.allocate_record(8) as record:
        assert record.form == "bytes"


def test_an_object_of_a_record_leaves_the_record_as_it_is(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    thing = {"name": "x", "array": np.arange(1000)}
    producer.send_object(thing)
    record = consumer.recv_record()
    view = record.view
    first, second = record.object(), record.object()
    assert same(first, thing)
    assert same(second, thing)
    assert np.shares_memory(first["array"], second["array"])
    assert np.shares_memory(first["array"], np.frombuffer(view, "u1"))
    del first, second, view
    assert record.nbytes > 8000
    producer.send_record(record)
    assert same(consumer.recv_object(), thing)


def test_arrays_of_an_object_outlive_its_record_and_not_its_slot(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    channel = heap.channel("a")
    assert isinstance(channel, ipcheap.RecordChannel)
    for number in range(4):
        producer.send_object(np.full(1000, number))
    records = consumer.recv_records(4)
    arrays = [record.object() for record in records]
    for record in records:
        record.free()
    assert channel.counts().freed == 4
    for number in range(4, 8):  # the slots are free, and the memory is not
        producer.send_object(np.full(1000, number))
    assert [int(array.sum()) for array in arrays] == [0, 1000, 2000, 3000]
    before = heap.statistics().in_use
    del arrays, record, records
    gc.collect()
    for _ in range(4):
        consumer.recv_object()
    assert heap.statistics().in_use < before / 2


def test_what_is_no_object_says_how_to_read_it(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    producer.send(b"x" * 100)
    with producer.loan(3, "i4") as array:
        array[:] = 0
    with (
        consumer.recv_record() as record,
        pytest.raises(ipcheap.RecordError, match=r"not made by send_object.*bytes\(\)"),
    ):
        record.object()
    with (
        consumer.recv_record() as record,
        pytest.raises(ipcheap.RecordError, match=r"is an array: array\(\)"),
    ):
        record.object()
    producer.send_object([1])
    record = consumer.recv_record()
    record.free()
    with pytest.raises(ipcheap.RecordError, match="freed"):
        record.object()


def test_an_object_that_does_not_unpickle_leaves_the_record(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    producer.send_object(Explosive())
    with consumer.recv_record() as record:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                record.object()
        assert record.form == "object"


def test_an_object_of_a_record_may_have_any_codec(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    producer.send_object({"a": 1}, codec=Msgspec(Any))
    with consumer.recv_record() as record:
        assert record.object(codec=Msgspec(Any)) == {"a": 1}


def test_a_codec_may_keep_its_pieces_and_have_none(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    for sent in ([], [b""], [b"a", b"", b"b" * 100, bytearray(b"c"), np.arange(3, dtype="u1")]):
        producer.send_object(sent, codec=Raw())
        got = consumer.recv_object(codec=Raw())
        assert [bytes(piece) for piece in got] == [bytes(piece) for piece in sent]
        del got
    bad: list[Any]
    for bad, error in (([1], TypeError), ([memoryview(b"abcd")[::2]], ValueError)):
        with pytest.raises(error):
            producer.send_object(bad, codec=Raw())
    assert heap.statistics().records == 0


# Between processes --------------------------------------------------------------------------


def answer(heap: ipcheap.Heap) -> None:
    with (
        heap.consumer("there", timeout=peers.PATIENCE) as inbox,
        heap.producer("back", timeout=peers.PATIENCE) as outbox,
    ):
        for _ in range(50):
            outbox.send_object({"sum": inbox.recv_object(timeout=peers.PATIENCE)["frame"].sum()})


def test_objects_go_to_another_process_and_back(heap_name: str) -> None:
    with peers.answers(answer, heap_name) as (outbox, inbox):
        for n in range(50):
            outbox.send_object({"frame": np.full(1000 * n, n)})
            assert inbox.recv_object(timeout=peers.PATIENCE) == {"sum": 1000 * n * n}


def test_endpoints_and_records_do_not_pickle(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        with heap.allocate_record(8) as record:
            for thing in (producer, consumer, record):
                with pytest.raises(TypeError, match="does not pickle"):
                    pickle.dumps(thing)
        channel: Any = heap.channel("a")
        assert pickle.loads(pickle.dumps(channel)).capacity == 4


class Changing:
    """A codec whose list shrinks while it is copied."""

    def __init__(self) -> None:
        self.copying = threading.Event()

    def encode(self, obj: Any, /) -> list[Any]:
        self.pieces: list[Any] = [bytes(32 * MIB), b"b", obj]
        self.copying.set()
        return self.pieces

    def decode(self, pieces: list[memoryview], /) -> Any:
        return bytes(pieces[2])


def test_what_a_codec_gave_may_change_while_it_is_copied(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    for _ in range(5):
        codec = Changing()

        def shorten(codec: Changing = codec) -> None:
            codec.copying.wait(peers.PATIENCE)
            del codec.pieces[1:]

        with threads.run(shorten):
            producer.send_object(b"c", codec=codec)
        assert consumer.recv_object(codec=codec) == b"c"


def test_pieces_may_come_in_any_sequence(line: tuple[ipcheap.Producer, ipcheap.Consumer]) -> None:
    class Tuples(Changing):
        def encode(self, obj: Any, /) -> Any:
            return (b"a", b"b", obj)

    producer, consumer = line
    producer.send_object(b"c", codec=Tuples())
    assert consumer.recv_object(codec=Tuples()) == b"c"


def test_a_short_object_is_decoded_by_the_class_that_says_how(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    class Forbidding(type(PICKLE)):  # type: ignore[misc]
        def decode(self, pieces: list[memoryview], /) -> Any:
            raise ValueError(f"no pickles here: {len(pieces)} came")

    class Copying(Forbidding):
        def decode_one(self, piece: bytes, /) -> Any:
            return piece

    producer, consumer = line
    for codec, expected in ((PICKLE, [1]), (Copying(), pickle.dumps([1], 5))):
        producer.send_object([1])
        assert consumer.recv_object(codec=codec) == expected
    producer.send_object([1])
    with pytest.raises(ValueError, match="no pickles here"):
        consumer.recv_object(codec=Forbidding())


@pytest.mark.parametrize("nbytes", [0, 1, 16 * 1024 - 64, 16 * 1024, 16 * 1024 + 1, 70_000])
def test_objects_of_any_length_arrive(
    nbytes: int, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    for obj in (bytes(nbytes), "é" * nbytes):
        producer.send_object(obj)
        record = consumer.recv_record()
        assert record.object() == obj
        producer.send_record(record)
        assert consumer.recv_object() == obj

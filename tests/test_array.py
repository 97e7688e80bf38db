"""Arrays that travel with their shape and dtype."""

from __future__ import annotations

import ast
import itertools
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ipcheap
from ipcheap import array as array_module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NESTED = [("at", "<u8"), ("where", [("x", ">f4"), ("y", "<f8", (2, 3))]), ("name", "U5")]


@pytest.fixture
def heap() -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(None, "8MiB", shm="memfd") as heap:
        heap.add_record_channel("a", 8)
        yield heap
        assert heap.check() == []
        assert heap.statistics().in_use == 0


@pytest.fixture
def line(heap: ipcheap.Heap) -> Iterator[tuple[ipcheap.Producer, ipcheap.Consumer]]:
    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        yield producer, consumer


def fill(array: np.ndarray[Any, Any]) -> bytes:
    """Fill an array with bytes that no other one has; return them."""
    data = (np.arange(array.nbytes, dtype="u4") % 120).astype("u1").tobytes()
    array[...] = np.ndarray(array.shape, array.dtype, data)
    return array.tobytes("A")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 4), (2, 0, 5), (2, 3, 4), (1,) * 30])
@pytest.mark.parametrize(
    "dtype",
    ["u1", "?", "<i2", ">i4", "=f8", "<f2", ">c16", "S3", "<U4", ">U4", "M8[ns]", "m8[25us]", "V5"],
)
def test_shape_dtype_and_order_arrive(
    line: tuple[ipcheap.Producer, ipcheap.Consumer], shape: tuple[int, ...], dtype: str, order: str
) -> None:
    producer, consumer = line
    like: Any = np.empty(shape, dtype, order)  # type: ignore[call-overload]
    record = producer.allocate_array(shape, dtype, order=order)
    assert record.nbytes == like.nbytes == record.view.nbytes
    here = record.array()
    expected = fill(here)
    del here
    producer.send_record(record)
    there = consumer.recv_array()
    assert there.shape == shape
    assert there.dtype == like.dtype
    assert there.flags.c_contiguous == like.flags.c_contiguous
    assert there.flags.f_contiguous == like.flags.f_contiguous
    assert there.flags.writeable
    assert there.ctypes.data % 64 == 0
    assert there.tobytes("A") == expected


@pytest.mark.parametrize(
    "dtype",
    [
        NESTED,
        np.dtype([("a", "u1"), ("b", "f8"), ("c", "u2")], align=True),
        np.dtype({"names": ["a", "b"], "formats": ["u1", "u4"], "offsets": [3, 9], "itemsize": 20}),
        [(("a title", "a"), "i4"), ("b", "S3", (4,))],
        [(f"field {n}", "f8") for n in range(150)],
        [("ü", "i2")],
    ],
)
def test_structures_arrive(line: tuple[ipcheap.Producer, ipcheap.Consumer], dtype: Any) -> None:
    producer, consumer = line
    with producer.loan((3, 2), dtype) as lent:
        assert lent.dtype == np.dtype(dtype)
        expected = fill(lent)
        del lent
    there = consumer.recv_array()
    assert there.dtype == np.dtype(dtype)
    assert there.dtype.names == np.dtype(dtype).names
    assert there.tobytes() == expected


def test_an_array_of_arrays_has_more_dimensions(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    with producer.loan(5, ("f4", (2, 3))) as lent:
        assert (lent.shape, lent.dtype) == ((5, 2, 3), np.dtype("f4"))
    assert consumer.recv_array().shape == (5, 2, 3)


def test_metadata_stay_at_home(line: tuple[ipcheap.Producer, ipcheap.Consumer]) -> None:
    producer, consumer = line
    for dtype in (np.dtype("f4", metadata={"unit": "m"}), np.dtype([("x", "f4")])):
        with producer.loan(1, dtype) as lent:
            lent[:] = 0
        there = consumer.recv_array()
        assert there.dtype == dtype
        assert not there.dtype.metadata


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.sampled_from(["<i4", ">f8", "|u1", "<U3", "|S2", "<M8[s]", "|b1"]),
        lambda inner: st.lists(
            st.tuples(inner, st.sampled_from([(), (2,), (1, 3)])), min_size=1, max_size=4
        ).map(lambda fields: [(f"f{i}", *field) for i, field in enumerate(fields)]),
        max_leaves=12,
    ),
    st.lists(st.integers(0, 4), max_size=5),
    st.booleans(),
)
def test_any_description_is_read_as_it_was_written(
    dtype: Any, shape: list[int], fortran: bool
) -> None:
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        heap.add_record_channel(1)
        with heap.producer(1) as producer, heap.consumer(1) as consumer:
            with producer.allocate_array(
                tuple(shape), dtype, order="F" if fortran else "C"
            ) as record:
                producer.send_record(record)
            there = consumer.recv_array()
            assert (list(there.shape), there.dtype) == (shape, np.dtype(dtype))


# Records with a header used as plain ones ----------------------------------------------------


def test_its_array_is_the_one_allocated_or_any_other(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, producer.allocate_array((2, 3), ">f4") as record:
        assert record.array().dtype == np.dtype(">f4")
        assert record.array().shape == (2, 3)
        assert record.array(shape=(3, 2)).shape == (3, 2)
        assert record.array("u1").shape == (24,)
        assert record.array("u2", (4, 3)).shape == (4, 3)
        assert record.nbytes == len(record) == len(bytes(record)) == 24
        assert np.asarray(record).dtype == np.dtype(">f4")
        assert memoryview(record).shape == (2, 3)
        assert memoryview(record).format == ">f"
        assert b"".join([record]) == bytes(record)  # without a type, bytes
    with heap.allocate_record(24) as plain:
        assert plain.array().dtype == np.dtype("u1")


@pytest.mark.parametrize("dtype", ["i4", "M8[ns]", "m8[s]", "V5", [("t", "M8[us]"), ("v", "f8")]])
def test_what_numpy_makes_of_it_keeps_its_memory(heap: ipcheap.Heap, dtype: Any) -> None:
    """This holds even if the buffer protocol has no name for the items."""
    with heap.producer("a") as producer:
        record = producer.allocate_array(4, dtype)
        array = np.asarray(record)
        assert array.dtype == np.dtype(dtype)
        assert np.asarray(record, "V8" if dtype == "V5" else "O").shape == (4,)
        copied = np.array(record)
        record.free()
        assert heap.statistics().records == 1
        del array
        assert heap.statistics().records == 0
        assert copied.shape == (4,)


def test_items_that_no_buffer_can_name_are_not_exported(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer, producer.allocate_array(4, "M8[s]") as record:
        with pytest.raises(BufferError, match="view"):
            memoryview(record)
        assert len(b"".join([record])) == len(record.view) == 32


def test_it_is_forwarded_and_kept_with_what_it_is(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    heap.add_record_channel("b", 8)
    with heap.producer("b") as onward, heap.consumer("b") as last:
        for nbytes in (6, 600_000):
            with producer.loan(nbytes, "u1") as lent:
                lent[:] = 9
            onward.send_record(consumer.recv_record())
            record = last.recv_record()
            record.keep()
            onward.send_record(record)
            assert last.recv_array().tolist() == [9] * nbytes


def test_it_is_bytes_for_those_who_want_bytes(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    for _ in range(3):
        with producer.loan(5, "u1") as lent:
            lent[:] = 7
    assert consumer.recv() == b"\7" * 5
    assert consumer.recv_many() == [b"\7" * 5] * 2


def test_recv_array_leaves_what_is_no_array(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    with producer.allocate_array(4, "f4") as like:
        header = bytes(like) + b"\0" * 48 + b"ara1"
    producer.send(header)  # whatever bytes it holds
    producer.send_object([1])
    with producer.loan(1, "u1") as lent:
        lent[:] = 1
    takes: list[Callable[[], object]] = [consumer.recv, consumer.recv_object]
    for take in takes:
        for _ in range(2):
            with pytest.raises(ipcheap.RecordError, match="of another kind"):
                consumer.recv_array()
        assert consumer.statistics().held == 0
        take()
    with pytest.raises(ipcheap.RecordError, match="of another kind"):
        consumer.recv_object()
    assert consumer.recv_array().tolist() == [1]
    with pytest.raises(TimeoutError):
        consumer.recv_array(timeout=0)


def test_recv_array_waits_and_ends_as_others_do(heap: ipcheap.Heap) -> None:
    with heap.consumer("a") as consumer:
        with pytest.raises(TimeoutError):
            consumer.recv_array(timeout=0.01)
        with heap.producer("a") as producer, producer.loan((), "f8") as lent:
            lent[...] = 2.5
        assert consumer.recv_array() == 2.5
        with pytest.raises(ipcheap.ChannelClosed):
            consumer.recv_array()


def test_a_received_array_frees_its_record_when_it_dies(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line
    for dtype in ("u1", "f8"):
        with producer.loan((4, 100), dtype) as lent:
            lent[:] = 3
        del lent
        array = consumer.recv_array()
        row = array[1][::2]
        view = memoryview(row)
        del array, row
        assert consumer.statistics().held == 1
        assert heap.statistics().records == 1
        assert view[5] == 3
        del view
        assert consumer.statistics().held == 0


# Lending ------------------------------------------------------------------------------------


def test_a_loan_is_sent_on_leaving_and_then_read_only(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    with producer.loan((2, 2), "i4") as lent:
        assert consumer.pending == 0
        lent[:] = 5
    assert consumer.pending == 1
    with pytest.raises(ValueError, match="read-only"):
        lent[0] = 1
    assert (consumer.recv_array() == 5).all()


def test_a_loan_is_freed_on_an_exception(
    heap: ipcheap.Heap, line: tuple[ipcheap.Producer, ipcheap.Consumer]
) -> None:
    producer, consumer = line

    def fail() -> None:
        with producer.loan(100_000, "u1") as lent:
            lent[:] = 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert consumer.pending == 0
    assert heap.statistics().records == 0


def test_a_loan_that_cannot_be_sent_is_freed(heap: ipcheap.Heap) -> None:
    def fill_it() -> None:
        for _ in range(9):
            with producer.loan(10, "u1", timeout=0.01) as lent:
                lent[:] = 1

    with heap.producer("a") as producer, heap.consumer("a") as consumer:
        with pytest.raises(TimeoutError):
            fill_it()
        assert heap.statistics().records == 8
        assert len(consumer.recv_many()) == 8


@pytest.mark.usefixtures("debugging")
def test_debugging_lets_a_loan_have_its_one_array(
    line: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = line
    with producer.loan(4, "u1") as lent:
        lent[:] = 1
    assert consumer.recv_array().tolist() == [1] * 4

    def keep_another() -> None:
        with producer.loan(4, "u1") as lent:
            kept.append(memoryview(lent.base))  # type: ignore[arg-type]

    kept: list[memoryview] = []
    with pytest.raises(BufferError, match=r"test_array\.py:\d+, has live views"):
        keep_another()


# Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "dtype", "error"),
    [
        (3, "O", TypeError),
        (3, [("a", "i4"), ("b", "O")], TypeError),
        (3, "nonsense", TypeError),
        (1.5, "f4", TypeError),
        ((1.5,), "f4", TypeError),
        ("3", "f4", TypeError),
        (-1, "f4", ValueError),
        ((2**40, 2**40), "f4", ValueError),
        ((0, 2**70), "f4", ValueError),
        ((1,) * 70, "f4", ValueError),
        (3, "V0", ValueError),
        (3, [], ValueError),
        (3, [(f"a field with a long name {n}", "f8") for n in range(200)], ValueError),
        (3, {"names": ["a", "b"], "formats": ["i4", "i4"], "offsets": [0, 0]}, TypeError),
        ((1 << 20, 1 << 10), "f8", ipcheap.HeapFull),
    ],
)
def test_what_no_array_can_be_is_refused(
    heap: ipcheap.Heap, shape: Any, dtype: Any, error: type[Exception]
) -> None:
    with heap.producer("a") as producer:
        with pytest.raises(error):
            producer.allocate_array(shape, dtype)
        with pytest.raises(ValueError, match="order"):
            producer.allocate_array(3, "f4", order="K")


def test_whatever_a_peer_wrote_there_is_an_error_or_an_array() -> None:
    """Python reads the description, too: no object dtype, no code, no crash."""
    array_module.numpy_module()
    texts = ["|O", "|O8", "O", "<f8,<f8", "(4,)<f4", "[('a','|O')]", "[('a', ", "[" * 90, "1+1"]
    texts += ["__import__('os')", "[('a','<i4')]", "<f9", "<M8[xx]", "", "|V4", "[]", "[(1, 2)]"]
    texts += ["<f4", "<i4", "[('a','<f4',(1,))]", "[('', '<f4')]", "\0\0\0", "[None]", "{}"]
    good = 0
    for text, itemsize in itertools.product(texts, (4, 8)):
        header = struct.pack("=4sHHBB6xQ", b"ara1", 1, len(text), 1, 0, itemsize)
        description = header + struct.pack("=Q", 2) + text.encode() + b"\0"
        try:
            layout = array_module.read_description(description)
        except ValueError:
            continue
        assert layout.dtype.itemsize == itemsize
        assert not layout.dtype.hasobject
        good += 1
    assert good >= 4


def test_a_description_is_read_beside_other_threads_that_parse_python(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array_module.numpy_module()
    wrong: list[SystemError] = []
    parse = ast.literal_eval

    def disturbed(text: str) -> object:  # as CPython 3.11 is by another thread
        if len(wrong) < 3:
            wrong.append(SystemError("AST constructor recursion depth mismatch"))
            raise wrong[-1]
        return parse(text)

    monkeypatch.setattr(ast, "literal_eval", disturbed)
    assert array_module._dtype_of("[('a', '<f4')]") == np.dtype([("a", "<f4")])
    assert len(wrong) == 3


def spoil(heap: ipcheap.Heap, where: int) -> None:
    """Write beyond the end of a record, which no participant should do."""
    with heap.producer("a") as producer:
        record = producer.allocate_array(16, "u1")
        address = record.array().ctypes.data + 64 + where
        import ctypes

        ctypes.memset(address, 0xEE, 1)
        producer.send_record(record)


@pytest.mark.parametrize("where", [0, 4, 6, 8, 9, 16, 24, 32, 35])
def test_a_spoilt_header_is_an_error_and_the_record_is_freed(
    heap: ipcheap.Heap, where: int
) -> None:
    spoil(heap, where)
    with heap.consumer("a") as consumer:
        with pytest.raises((ipcheap.CorruptHeap, ipcheap.FormatMismatch)):
            consumer.recv_array()
        assert consumer.pending == 0
        assert heap.statistics().records == 0


# Between processes --------------------------------------------------------------------------


def double(heap: ipcheap.Heap) -> None:
    with (
        heap.consumer("there", timeout=peers.PATIENCE) as inbox,
        heap.producer("back", timeout=peers.PATIENCE) as outbox,
    ):
        for _ in range(100):
            array = inbox.recv_array(timeout=peers.PATIENCE)
            with outbox.loan(array.shape, array.dtype) as answer:
                np.multiply(array, 2, out=answer)


def test_arrays_go_to_another_process_and_back(heap_name: str) -> None:
    with peers.answers(double, heap_name) as (outbox, inbox):
        for n in range(100):
            with outbox.loan((n, 7), "i8") as lent:
                lent[:] = n
            assert (inbox.recv_array(timeout=peers.PATIENCE) == 2 * n).all()

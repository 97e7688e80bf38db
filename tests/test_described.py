"""Records of any form are carried to another heap by their description and their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def heap() -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        heap.add_record_channel("a", 8)
        heap.add_record_channel("b", 8)
        yield heap
        assert heap.statistics().in_use == 0
        assert heap.check() == []


def test_every_form_arrives_as_it_was(heap: ipcheap.Heap) -> None:
    with (
        heap.producer("a") as first,
        heap.consumer("a") as between,
        heap.producer("b") as second,
        heap.consumer("b") as last,
    ):
        first.send(b"bytes")
        first.send(b"")
        with first.loan((2, 3), [("n", "<i4"), ("x", ">f8")], order="F") as array:
            array["n"], array["x"] = 1, 2.5
        del array
        first.send_object({"a": np.arange(10)})
        for _ in range(4):
            with between.recv_record(0) as record:
                copy = second.allocate_described(record.describe(), record.nbytes)
                assert copy.form == record.form
                assert copy.describe() == record.describe()
                copy[:] = bytes(record)
            second.send_record(copy)
        assert last.recv(0) == b"bytes"
        assert last.recv(0) == b""
        got = last.recv_array(0)
        assert got.flags.f_contiguous
        assert got.tolist() == [[(1, 2.5)] * 3] * 2
        assert last.recv_object(0)["a"].tolist() == list(range(10))
        del got


def test_bytes_have_an_empty_description(heap: ipcheap.Heap) -> None:
    with heap.allocate_record(5) as record:
        assert record.describe() == b""
    with pytest.raises(ipcheap.RecordError):
        record.describe()


def test_what_describes_no_such_record_is_refused(heap: ipcheap.Heap) -> None:
    with heap.producer("a") as producer:
        with producer.allocate_array((2, 3), "f8") as record:
            good = record.describe()
        for description, nbytes in [
            (b"x", 4),
            (b"obj", 4),
            (b"obj2", 4),
            (good, 47),
            (good[:-1], 48),
            (good + b"x", 48),
            (bytes(len(good)), 48),
            (b"", -1),
        ]:
            with pytest.raises(ValueError, match="description is not that of a record"):
                producer.allocate_described(description, nbytes)
        with pytest.raises(TypeError):
            producer.allocate_described("text", 4)  # type: ignore[arg-type]
        with pytest.raises(ipcheap.HeapFull):
            producer.allocate_described(b"", 1 << 30)

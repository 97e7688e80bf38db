"""Addresses of Python objects mean nothing to another process: no call sends them as bytes."""

from __future__ import annotations

import asyncio
import ctypes
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

COLUMN: Any = np.array(["one", "two", "three"], object)
FIELDS = np.zeros(3, [("number", "u8"), ("text", object)])
INNER = np.zeros(3, [("a", [("b", "u1"), ("O", object)])])
PACKED = np.zeros(3, np.dtype([("a", "u1"), ("b", object)], align=False))
POINTERS: Any = ctypes.py_object * 2
OBJECTS = [COLUMN, COLUMN[:1], FIELDS, INNER, PACKED, memoryview(COLUMN), POINTERS(1, 2)]
COMPLEX: Any = np.zeros(3, "c16")
PLAIN = [
    np.zeros(3, "f8"),
    np.zeros(3, "M8[s]"),  # has no format in the buffer protocol
    np.zeros(3, [("O", "f8"), ("Of", "u8")]),
    np.zeros(3, "V16"),
    memoryview(COMPLEX),
    (ctypes.c_double * 3)(),
    np.zeros(3, "U4"),
]


@pytest.fixture
def sides(heap_name: str) -> Iterator[tuple[ipcheap.Producer, ipcheap.Consumer]]:
    with ipcheap.Heap.create(heap_name, "1MiB", shm="memfd") as heap:
        heap.add_record_channel("c", 4)
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            yield producer, consumer
        assert heap.statistics().records == 0


class _Raw:
    """A codec that returns what it is given."""

    def encode(self, obj: Any, /) -> list[Any]:
        return [b"", obj]

    def decode(self, pieces: list[memoryview], /) -> Any:
        return pieces


@pytest.mark.parametrize("data", OBJECTS, ids=lambda data: type(data).__name__)
def test_objects_are_not_sent_as_bytes(
    sides: tuple[ipcheap.Producer, ipcheap.Consumer], data: Any
) -> None:
    producer, consumer = sides
    with pytest.raises(TypeError, match=r"holds Python objects.*send_object\(\)"):
        producer.send(data)
    with pytest.raises(TypeError, match=r"send_object\(\)") as caught:
        producer.send_many([b"first", b"second", data])
    assert getattr(caught.value, "done", None) == 2
    with pytest.raises(TypeError, match=r"send_object\(\)"):
        asyncio.run(producer.asend(data))
    record = producer.allocate_record(memoryview(data).nbytes)
    with record, pytest.raises(TypeError, match=r"send_object\(\)"):
        record[:] = data
    with pytest.raises(TypeError, match="Python objects"):
        producer.send_object(data, codec=_Raw())
    assert consumer.recv_many() == [b"first", b"second"]
    assert consumer.pending == 0


@pytest.mark.parametrize("data", PLAIN, ids=lambda data: type(data).__name__)
def test_what_holds_no_objects_is_sent(
    sides: tuple[ipcheap.Producer, ipcheap.Consumer], data: Any
) -> None:
    producer, consumer = sides
    plain = data.tobytes() if hasattr(data, "tobytes") else bytes(data)
    for _ in range(2):
        producer.send(data)
        assert consumer.recv(timeout=5) == plain
    with producer.allocate_record(len(plain)) as record:
        record[:] = data
        assert bytes(record) == plain


def test_an_array_of_objects_is_sent_as_an_object(
    sides: tuple[ipcheap.Producer, ipcheap.Consumer],
) -> None:
    producer, consumer = sides
    producer.send_object(COLUMN)
    assert list(consumer.recv_object(timeout=5)) == ["one", "two", "three"]

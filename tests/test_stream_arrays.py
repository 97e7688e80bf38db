"""The arrays of a stream's windows: used again for later windows only if nobody can notice."""

from __future__ import annotations

import os
import signal
import sysconfig
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pytest
import stream_workers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAME = np.dtype(("f4", (2,)))
TYPES = ["f4", "u1", "S3", "M8[us]", "c16", FRAME, [("a", "u1"), ("b", "f8")], ("u2", (3, 1))]


@pytest.fixture
def heap() -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        yield heap


def sides(heap: ipcheap.Heap, dtype: Any, capacity: int = 100) -> tuple[Any, Any]:
    stream = heap.add_stream("s", capacity, dtype=dtype, backlog=10)
    return stream.writer(), stream.reader()


def pass_one(writer: Any, reader: Any, count: int = 8) -> None:
    with writer.window(count):
        pass
    with reader.window(count):
        pass


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_an_array_that_is_kept_is_left_alone(heap: ipcheap.Heap, dtype: Any) -> None:
    writer, reader = sides(heap, dtype)
    with writer, reader:
        kept = []
        for _ in range(30):
            with writer.window(8) as room:
                room[:] = np.zeros(8, writer.dtype)
            with reader.window(8) as items:
                pass
            kept += [(a, a.__array_interface__) for a in (room, items)]
            assert not room.flags.writeable
            assert not items.flags.writeable
        assert len({id(array) for array, _ in kept}) == 60
        for array, interface in kept:
            assert array.__array_interface__ == interface | {"data": (interface["data"][0], True)}


@pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
    reason="without a GIL another thread may be using the array",
)
def test_an_array_that_nobody_uses_is_used_again(heap: ipcheap.Heap) -> None:
    writer, reader = sides(heap, "f4")
    with writer, reader:
        seen = set()
        for _ in range(50):
            with writer.window(8) as room:
                seen.add(id(room))
            with reader.window(8):
                pass
        assert len(seen) <= 3


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_windows_of_any_size_have_the_right_flags(heap: ipcheap.Heap, dtype: Any) -> None:
    writer, reader = sides(heap, dtype)
    inner = np.empty(0, writer.dtype).shape[1:]
    with writer, reader:
        for count in [5, 1, 7, 2, 1, 1, 30, 8, 3, 1, 9] * 3:
            with writer.window(count) as room:
                like = np.empty(count, writer.dtype)
                room[:] = np.ones(like.shape, "u1").astype(like.dtype)
                assert room.shape == (count, *inner)
                assert room.dtype == like.dtype
                assert room.strides == like.strides
                assert room.flags.c_contiguous
                assert room.flags.f_contiguous == like.flags.f_contiguous
                assert room.flags.aligned == like.flags.aligned
                assert room.flags.writeable
            with reader.window(count) as items:
                assert items.shape == (count, *inner)
                assert items.flags.f_contiguous == like.flags.f_contiguous
                assert not items.flags.writeable
                assert items.tobytes(order="A") == room.tobytes(order="A")


@pytest.mark.filterwarnings("ignore:Setting the (shape|dtype):DeprecationWarning")
def test_what_was_done_to_an_array_does_not_last(heap: ipcheap.Heap) -> None:
    writer, reader = sides(heap, "f4")

    def reshape(array: Any) -> None:
        array.shape = (4, 2)

    def retype(array: Any) -> None:
        array.dtype = "u4"

    def narrow(array: Any) -> None:
        array.dtype = "u2"

    def lock(array: Any) -> None:
        array.flags.writeable = False

    with writer, reader:
        for change in (reshape, retype, narrow, lock) * 3:
            with writer.window(8) as room:
                change(room)
            with reader.window(8) as items:
                change(items)
            del room, items
            for _ in range(4):
                with writer.window(8) as room:
                    assert (room.shape, room.dtype) == ((8,), np.dtype("f4"))
                    room[:] = range(8)
                with reader.window(8) as items:
                    assert (items.shape, items.dtype) == ((8,), np.dtype("f4"))
                    assert items.tolist() == list(range(8))
                    with pytest.raises(ValueError, match="read-only"):
                        items[0] = 1


def test_views_and_weak_references_of_an_array(heap: ipcheap.Heap) -> None:
    writer, reader = sides(heap, "u4", 4096)
    with writer, reader:
        with writer.window(8) as room:
            room[:] = range(8)
            part, buffer = room[2:4], memoryview(room)
            watched = weakref.ref(room)
        del room
        for _ in range(20):
            pass_one(writer, reader)
        assert part.tolist() == [2, 3]
        assert buffer.tolist() == list(range(8))
        assert watched() is not None  # the buffer holds it


def test_a_stream_goes_on_with_equal_types_that_are_not_the_same_object(
    heap: ipcheap.Heap,
) -> None:
    writer, reader = sides(heap, "S64")
    with writer, reader:
        for n in range(5):
            dtype = np.dtype("S64")
            given, back = np.array([b"%d" % n] * 3, dtype), np.empty(3, np.dtype("S64"))
            assert writer.write(given) == 3
            assert reader.readinto(back) == 3
            assert (given == back).all()
            with writer.window(3) as room:
                assert room.dtype == dtype
            with reader.window(3):
                pass
        assert writer.write(np.array(b"one", "S64")) == 1
        with pytest.raises(TypeError):
            writer.write(np.zeros(2, "u1,u2"))


def test_an_array_that_is_not_in_one_piece_or_not_writable(heap: ipcheap.Heap) -> None:
    writer, reader = sides(heap, "f4")
    with writer, reader:
        assert writer.write(np.arange(4, dtype="f4")) == 4  # the type is known from here on
        assert writer.write(np.arange(12, dtype="f4")[::3]) == 4
        assert writer.write(np.arange(4, dtype=">f4")) == 4
        assert reader.read(12).tolist() == [0, 1, 2, 3, 0, 3, 6, 9, 0, 1, 2, 3]
        writer.write(np.ones(4, "f4"))
        locked = np.zeros(4, "f4")
        locked.flags.writeable = False
        with pytest.raises(TypeError, match="writable"):
            reader.readinto(locked)
        with pytest.raises(ValueError, match="contiguous"):
            reader.readinto(np.zeros(8, "f4")[::2])
        with pytest.raises(TypeError):
            reader.readinto(np.zeros(4, "i4"))
        assert reader.available == 4


def test_blocks_to_the_end_and_then_the_death(heap: ipcheap.Heap) -> None:
    heap.add_stream("s", 1000, dtype="u4")
    with heap.stream_reader("s") as reader:
        with peers.run(stream_workers.write_until_killed, heap, "s") as peer:
            assert len(reader.peek(200, timeout=peers.PATIENCE)) == 200
            assert peer.pid is not None
            os.kill(peer.pid, signal.SIGKILL)
        last = 0
        with pytest.raises(ipcheap.PeerDied):  # noqa: PT012
            for block in reader.blocks(200, timeout=peers.PATIENCE):
                assert block[0] == last
                last += len(block)
        assert reader.available == 0
        assert last == reader.position > 0

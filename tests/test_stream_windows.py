"""Streams: windows, which are the ring itself or a copy of it, and what outlives them."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import mmap
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kinds
import numpy as np
import pytest
import seccomp
import stream_sides
from stream_sides import in_child

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

    from stream_sides import Streams

each_shm = pytest.mark.parametrize("kind", kinds.ALL[::3], ids=str)


# What a window is -----------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [False, True])
def test_what_a_window_gives(streams: Streams, raw: bool) -> None:
    writer, reader = streams(100, dtype=("f4", (2,)))
    for _ in range(40):  # across the ring's end, too
        with writer.window(17, raw=raw) as window:
            if raw:
                assert (type(window), window.format, window.nbytes) == (memoryview, "B", 17 * 8)
                assert window.c_contiguous
                assert not window.readonly
                window[:] = np.ones((17, 2), "f4").tobytes()
            else:
                assert (type(window), window.dtype, window.shape) == (np.ndarray, "f4", (17, 2))
                assert window.flags.c_contiguous
                assert window.flags.writeable
                window[:] = 1
        with reader.window(17, raw=raw) as seen:
            if raw:
                assert (type(seen), seen.format, seen.nbytes) == (memoryview, "B", 17 * 8)
                assert seen.readonly
            else:
                assert seen.shape == (17, 2)
                assert seen.flags.c_contiguous
                assert not seen.flags.writeable
            assert bytes(seen) == bytes(np.ones((17, 2), "f4"))


def test_a_window_shows_what_was_there_before(streams: Streams) -> None:
    writer, reader = streams(4096)
    writer.write(b"old" * 100)
    reader.skip()
    writer.write(bytes(4096 - 300))
    reader.skip()
    with writer.window(300, raw=True) as window:
        assert bytes(window) == b"old" * 100
        window[:3] = b"new"
        assert bytes(writer.ring[:3]) == b"new"
    with writer.window(5) as window:
        pass
    assert reader.available == 305


def test_items_of_a_size_that_divides_nothing_wrap_inside(streams: Streams) -> None:
    writer, reader = streams(1000, dtype="V7", backlog=3)
    data = iter(itertools.cycle(range(251)))
    for count in (333, 400, 1, 500, 7) * 60:
        items = bytes(itertools.islice(data, count * 7))
        with writer.window(count, raw=True) as window:
            window[:] = items
        with reader.window(count, overlap=3) as seen:
            assert seen[-count:].tobytes() == items


@each_shm
@pytest.mark.parametrize("refused", [False, True])
def test_windows_of_all_kinds_at_full_size(
    kind: kinds.Kind, refused: bool, heap_name: str, tmp_path: Path
) -> None:
    """All of the capacity at any position, mapped twice or where the system refuses that."""

    def work(heap: ipcheap.Heap) -> bool:
        if refused:
            seccomp.refuse("mremap")
        stream = heap.add_stream("s", 500, dtype="V12", backlog=50)
        with stream.writer() as writer, stream.reader() as reader:
            for turn in range(60):
                before = min(50, reader.position)
                with writer.window(at_least=250, raw=True) as window:
                    assert len(window) == 6000
                    window[:] = bytes([turn]) * 6000
                    writer.commit(499)
                with reader.window(at_least=250, overlap=50) as seen:
                    assert len(seen) == before + 499
                    assert seen[:before].tobytes() == bytes([max(turn - 1, 0)]) * (12 * before)
                    assert seen[before:].tobytes() == bytes([turn]) * (12 * 499)
                assert reader.history(3).tobytes() == bytes([turn]) * 36
                data = os.urandom(12 * 77)
                assert writer.write(data) == 77
                assert reader.read(77).tobytes() == data
                assert writer.try_write(bytes([turn]) * 600) == 50
                assert reader.readinto(bytearray(600)) == 50
            assert not {side.statistics().mirrored for side in (writer, reader)} - {not refused}
        return heap.check() == []

    with kinds.made(kind, heap_name, tmp_path, "4MiB") as heap:
        assert in_child(lambda: work(heap))


def test_nothing_else_changes_where_windows_are_copies(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 100, backlog=5)

    def work() -> list[Any]:
        seccomp.refuse("mremap")
        writer, reader = stream.writer(mlock=True), stream.reader()
        with writer.window(10) as window:
            window[:] = 1
            assert not any(writer.ring[:10])  # nothing is written before the commit
        assert not window.flags.writeable
        assert bytes(writer.ring[:10]) == bytes([1]) * 10
        with contextlib.suppress(KeyError), writer.window(10) as window:
            window[:] = 2
            raise KeyError
        with writer.window(10) as window:
            window[:] = 3
            with pytest.raises(ValueError, match="still open"):
                writer.commit(11)
            with pytest.raises(ipcheap.WindowError):
                writer.write(b"x")
            writer.commit(4)
        with reader.window(12) as seen:
            assert not seen.flags.writeable
            with pytest.raises(ValueError, match="read-only"):
                seen[0] = 1
            reader.release(10)
        writer.reset()
        writer.write(bytes(range(50)))
        blocks = [block.tolist() for block in itertools.islice(reader.blocks(10, hop=5), 3)]
        with reader.window(10) as seen, writer.window(5) as window:
            writer.close()
            reader.close()
        assert not window.flags.writeable
        assert seen.tolist() == list(range(10, 20))
        successor = stream.reader()
        with successor.window(10, overlap=5) as last:
            successor.close()
        return [blocks, last.tolist()]

    blocks, last = in_child(work)
    assert blocks == [list(range(start, start + 10)) for start in (0, 5, 10)]
    assert last == list(range(5, 20))


def test_a_process_with_too_many_mappings_still_reads(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 100)
    if int(Path("/proc/sys/vm/max_map_count").read_text()) > 200_000:
        pytest.skip("a process may have too many mappings to use them up")

    def work() -> bool:
        kept = []
        try:
            while True:  # no two of them are merged
                kept.append(mmap.mmap(-1, 4096, prot=mmap.PROT_READ))
                kept.append(mmap.mmap(-1, 4096))
        except (OSError, MemoryError):
            pass
        with stream.writer() as writer, stream.reader() as reader:
            writer.write(b"abc")
            assert not writer.statistics().mirrored
            with reader.window(raw=True) as window:
                return bytes(window) == b"abc"

    assert in_child(work)


# Commit and release --------------------------------------------------------------------------


def test_leaving_commits_all_and_an_exception_nothing(streams: Streams) -> None:
    writer, reader = streams(100, backlog=4)
    with writer.window(10):
        assert writer.position == 0
    assert writer.position == 10
    with reader.window(6):
        assert reader.position == 0
    assert reader.position == 6
    with reader.window(2, overlap=4) as window:
        assert len(window) == 6
    assert reader.position == 8  # the overlap does not count
    for side in (writer, reader):
        before = side.position
        with pytest.raises(KeyError), side.window(1):
            raise KeyError
        assert side.position == before


def test_a_part_is_committed_immediately_and_ends_the_window(streams: Streams) -> None:
    writer, reader = streams(100)
    with writer.window(10):
        writer.commit(3)
        assert reader.available == 3
        writer.write(b"x")
    assert writer.position == 4
    with reader.window(4):
        reader.release(2)
        assert (writer.room, reader.position) == (98, 2)
        assert reader.read(1) == bytes(1)
    assert reader.position == 3
    for side, end in ((writer, writer.commit), (reader, reader.release)):
        before = side.position
        with side.window(1):
            for k, error in ((2, ValueError), (-1, ValueError), ("1", TypeError), (1.0, TypeError)):
                with pytest.raises(error):
                    end(k)  # type: ignore[arg-type]
                with pytest.raises(ipcheap.WindowError):
                    side.reset()
            end(0)
            with pytest.raises(ipcheap.WindowError, match="no window"):
                end(0)
        assert side.position == before
        with pytest.raises(ipcheap.WindowError, match="no window"):
            end(0)


def test_while_a_window_is_open_every_other_call_is_refused(streams: Streams) -> None:
    writer, reader = streams(100, backlog=5)
    writer.write(bytes(20))
    reader.read(5)

    output, source = writer.makefile("wb", 0), reader.makefile("rb", 0)

    async def awaited(make: Callable[[], Any]) -> None:
        await make()

    async def entered(side: Any) -> None:
        async with side.window(1):
            pass

    calls: dict[ipcheap.StreamWriter | ipcheap.StreamReader, list[Callable[[], Any]]] = {
        writer: [
            lambda: writer.write(b"x"),
            lambda: writer.write(b""),
            lambda: writer.try_write(b"x"),
            lambda: writer.window(1).__enter__(),
            lambda: writer.window(1, raw=True).__enter__(),
            writer.reset,
            lambda: asyncio.run(awaited(lambda: writer.awrite(b"x"))),
            lambda: asyncio.run(entered(writer)),
            lambda: output.write(b"x"),
        ],
        reader: [
            reader.read,
            lambda: reader.read(0),
            lambda: reader.read(1, at_least=1),
            lambda: reader.try_read(1),
            lambda: reader.readinto(bytearray(1)),
            lambda: reader.readinto(bytearray(2), at_least=1),
            reader.peek,
            reader.skip,
            lambda: reader.skip(0),
            reader.history,
            lambda: reader.history(0),
            reader.reset,
            lambda: reader.window(1).__enter__(),
            lambda: reader.window(0).__enter__(),
            lambda: next(reader.blocks()),
            lambda: next(iter(reader)),
            lambda: asyncio.run(awaited(lambda: reader.aread(1))),
            lambda: asyncio.run(awaited(lambda: reader.areadinto(bytearray(1)))),
            lambda: asyncio.run(awaited(lambda: anext(reader.blocks(1)))),
            lambda: asyncio.run(entered(reader)),
            lambda: source.read(1),
        ],
    }
    for side, refused in calls.items():
        before = side.position
        with side.window(3) as window:
            for call in refused:
                with pytest.raises(ipcheap.WindowError, match="window open"):
                    call()
            assert side.position == before
            assert side.statistics().capacity == side.capacity == 100
            assert (side.backlog, side.itemsize, side.overwrite) == (5, 1, False)
            assert side.dtype == np.dtype("u1")
            assert side.watermark == 1
            assert len(side.ring) >= 105
            assert side.window(1) is not None  # it opens when it is entered
            side.watermark = 1
            assert ipcheap.wait([side], 0) == [side]
            side.fileno()
            side.wait_peer(0)
            assert len(window) == 3
        assert side.position == before + 3
    assert (writer.room, reader.available) == (85, 15)
    assert isinstance(ipcheap.WindowError("x"), ValueError)
    assert isinstance(ipcheap.WindowError("x"), ipcheap.Error)


def test_a_window_that_was_left_can_be_entered_again(streams: Streams) -> None:
    writer, reader = streams(100)
    context = writer.window(3)
    with context, pytest.raises(ipcheap.WindowError):
        context.__enter__()
    with context:
        pass
    assert reader.available == 6


def test_the_overlap_is_what_has_been_read(streams: Streams) -> None:
    writer, reader = streams(100, backlog=6)
    writer.write(b"abcdefghijkl")
    for read, overlap in ((0, b""), (2, b"ab"), (4, b"abcdef"), (1, b"bcdefg")):
        reader.skip(read)
        with reader.window(1, overlap=6, raw=True) as window:
            assert bytes(window)[:-1] == overlap
            reader.release(0)
    for overlap_ in (7, -1):
        with pytest.raises(ValueError, match="overlap"):
            reader.window(1, overlap=overlap_)
    with pytest.raises(TypeError):
        reader.window(1, overlap=1.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="overlap"):
        writer.window(1, overlap=1)
    reader.reset()
    writer.write(b"x")
    with reader.window(1, overlap=6, raw=True) as window:
        assert bytes(window) == b"x"


# The end of a window --------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["left", "raised", "committed", "closed", "dropped"])
def test_the_writer_s_array_is_read_only_afterwards(streams: Streams, end: str) -> None:
    writer, _ = streams(100)
    context = writer.window(5)
    window = context.__enter__()
    if end == "left":
        context.__exit__(None, None, None)
    elif end == "raised":
        context.__exit__(KeyError, KeyError(), None)
    elif end == "committed":
        writer.commit(1)
    elif end == "closed":
        writer.close()
        context.__exit__(None, None, None)
    else:
        del context
    assert not window.flags.writeable


def test_an_ended_window_shows_the_ring(streams: Streams) -> None:
    writer, reader = streams(4096)
    with writer.window(4, raw=True) as raw, pytest.raises(KeyError):
        raise KeyError
    with writer.window(0):
        pass
    writer.write(bytes(4092))
    reader.skip()
    with writer.window(4) as window:
        window[:] = 1
        part = window[:2]
    assert bytes(raw) == bytes([1]) * 4
    raw[0] = part[1] = 7  # these stay writable
    assert reader.read() == bytes([7, 7, 1, 1])


@pytest.mark.parametrize("order", [*itertools.permutations(("view", "side", "heap"))], ids="-".join)
@pytest.mark.parametrize("writes", [False, True])
def test_views_in_every_order_of_endings(order: tuple[str, ...], writes: bool) -> None:
    heap = ipcheap.Heap.create(None, "1MiB", shm="memfd")
    stream = heap.add_stream("s", 5000, backlog=100)
    with stream.writer() as first:
        first.write(b"seen" * 1000)
    side: Any = stream.writer() if writes else stream.reader()
    with side.window(1000, raw=True) as view:
        kept = [view[:500], np.frombuffer(view, "u1"), side.ring[:4000]]
        if writes:
            view[:] = b"seen" * 250
    del stream, first
    for ended in order:
        if ended == "view":
            assert all(bytes(each[:500]) == b"seen" * 125 for each in kept)
            kept.clear()
            view.release()
        elif ended == "side":
            side.close()
        else:
            heap.close()
        gc.collect()
        if kept:
            assert all(bytes(each[:500]) == b"seen" * 125 for each in kept)
            assert bytes(view[-4:]) == b"seen"


@each_shm
def test_a_view_shows_what_was_there_after_the_memory_went_to_others(
    kind: kinds.Kind, heap_name: str, tmp_path: Path
) -> None:
    with kinds.made(kind, heap_name, tmp_path, "1MiB") as heap:
        made = stream_sides.Streams(heap)
        writer, reader = made(10_000, dtype="u4")
        with writer.window(3000) as filled:
            filled[:] = range(3000)
        writer.write(np.zeros(6000, "u4"))
        with reader.window(3000) as seen:
            pass
        writer.close()
        with heap.stream_writer(0) as successor:
            successor.write(np.zeros(3500, "u4"))  # not what the closed writer's view shows
        assert filled.tolist() == list(range(3000))
        assert seen[:2000].tolist() == [0] * 2000  # but the reader is open
        reader.close()
        shown = seen.copy()
        heap.remove_channel(0)
        for _ in range(3):
            record = heap.allocate_record(950_000)
            record[:] = b"\xff" * record.nbytes
            record.free()
        heap.trim()
        assert filled.tolist() == list(range(3000))
        assert (seen == shown).all()


def test_views_that_are_gone_leave_nothing_mapped(streams: Streams) -> None:
    def mappings() -> int:
        with open("/proc/self/maps") as file:
            return len(file.readlines())

    def use() -> None:
        stream = streams.heap.add_stream("s", 5000)
        with stream.writer() as writer, stream.reader() as reader:
            with writer.window(3) as window:
                window[:] = 1
            with reader.window(3) as seen:
                ring = reader.ring
        assert seen.tolist() == list(ring[:3]) == [1] * 3
        streams.heap.remove_channel("s")

    use()
    gc.collect()
    before = mappings()
    for _ in range(20):
        use()
    gc.collect()
    assert mappings() <= before + 2


# The ring -------------------------------------------------------------------------------------


def test_the_ring_is_there_at_any_time(streams: Streams) -> None:
    writer, reader = streams(1000, dtype="V7", backlog=10)
    assert len(writer.ring) == len(reader.ring) >= 1010 * 7
    for turn in range(40):
        first = writer.position
        items = os.urandom(7 * 100)
        writer.write(items)
        ring = bytes(reader.ring)
        start = first * 7 % len(ring)
        assert (ring[start:] + ring[:start])[:700] == items
        assert reader.skip() == 100, turn
    with pytest.raises(TypeError):
        reader.ring[0] = 1
    writer.ring[:] = bytes(len(writer.ring))
    assert not any(reader.ring)
    assert not any(bytes(reader.history()))


def test_a_raw_window_goes_to_a_descriptor_and_comes_from_one(streams: Streams) -> None:
    writer, reader = streams(100)
    reading, writing = os.pipe()
    os.write(writing, b"through a pipe")
    with writer.window(50, raw=True) as window:
        writer.commit(os.readv(reading, [window]))
    with reader.window(raw=True) as window:
        reader.release(os.write(writing, window))
    assert os.read(reading, 100) == b"through a pipe"
    os.close(reading)
    os.close(writing)

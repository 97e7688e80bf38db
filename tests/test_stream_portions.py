"""Streams: how much a call waits for, how much it takes, what it accepts."""

from __future__ import annotations

import array
import asyncio
import mmap
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pytest
import stream_workers
from stream_sides import killed

import ipcheap

if TYPE_CHECKING:
    from stream_sides import Streams


# n and at_least ---------------------------------------------------------------------------------


def test_n_and_at_least_are_checked_when_called(streams: Streams) -> None:
    writer, reader = streams(10)
    writer.write(b"abcdef")
    calls: list[Any] = [reader.read, reader.peek, reader.window, writer.window]
    for call in calls:
        for numbers in (
            {"n": -1},
            {"n": 3, "at_least": 4},
            {"at_least": 0},
            {"n": 0, "at_least": 1},
        ):
            with pytest.raises(ValueError, match="at"):
                call(**numbers)
        for numbers in (
            {"n": 6},
            {"at_least": 6},
            {"n": 9, "at_least": 6},
            {"n": 2**40},
            {"n": 2**70},
        ):
            with pytest.raises(ValueError, match="at most 5 items, half its capacity"):
                call(**numbers)
        for value in (1.5, "1", True):
            with pytest.raises(TypeError):
                call(value)
            with pytest.raises(TypeError):
                call(at_least=value)
        with pytest.raises(TypeError, match="positional"):
            call(1, None, 1)
    for opened in (reader.window, writer.window, reader.blocks):
        with pytest.raises(ValueError, match="timeout"):
            opened(1, timeout=-1)
    with pytest.raises(ValueError, match="half"):
        reader.readinto(bytearray(6))
    with pytest.raises(ValueError, match="at_least"):
        reader.readinto(bytearray(3), at_least=4)
    with pytest.raises(TypeError, match="positional"):
        reader.readinto(bytearray(3), None, 1)  # type: ignore[call-arg]
    for wrong in (reader.try_read, reader.skip, reader.history):
        with pytest.raises(ValueError, match="n must"):
            wrong(-1)
    assert reader.position == 0


def test_calls_that_wait_for_nothing_take_more_than_half(streams: Streams) -> None:
    writer, reader = streams(10)
    with writer.window(at_least=5) as window:
        assert len(window) == 10
    assert len(reader.peek(10, at_least=5)) == 10
    assert reader.readinto(bytearray(20), at_least=1) == 10
    writer.write(bytes(10))
    assert reader.try_read(10) == bytes(10)
    writer.write(bytes(10))
    assert reader.skip(10) == 10


@pytest.mark.parametrize("n", [2**62 + 1, 2**64 + 2, 2**70])
def test_no_number_is_too_large_for_what_there_is(streams: Streams, n: int) -> None:
    writer, reader = streams(10)
    with writer.window(n, at_least=1) as window:
        assert len(window) == 10
    with reader.window(n, at_least=1) as window:
        assert len(window) == 10
        with pytest.raises(ValueError, match=f"fewer than {n} items"):
            reader.release(n)
        reader.release(0)
    assert reader.peek(n, at_least=1) == bytes(10)
    assert reader.skip(n) == 10
    writer.write(bytes(10))
    assert reader.read(n, at_least=1) == bytes(10)
    writer.write(bytes(10))
    assert reader.try_read(n) == bytes(10)
    with writer.window(3), pytest.raises(ValueError, match="still open"):
        writer.commit(n)
    assert asyncio.run(reader.aread(n, at_least=1)) == bytes(3)


def test_coroutines_wait_for_no_more_than_others(streams: Streams) -> None:
    _, reader = streams(10)

    async def main() -> None:
        for awaitable in (
            reader.aread(6),
            reader.aread(at_least=6),
            reader.aread(3, at_least=4),
            reader.aread(-1),
            reader.areadinto(bytearray(6)),
            reader.areadinto(bytearray(3), at_least=4),
        ):
            with pytest.raises(ValueError, match=r"half|at_least|n must"):
                await awaitable
        for refused in (reader.aread(1.5), reader.areadinto(bytes(3))):  # type: ignore[arg-type]
            with pytest.raises(TypeError):
                await refused

    asyncio.run(main())


def test_half_is_rounded_up(streams: Streams) -> None:
    for capacity, half in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 3)):
        writer, reader = streams(capacity)
        writer.write(bytes(half))
        assert len(reader.read(half)) == half
        with writer.window(half):
            pass
        with pytest.raises(ValueError, match="half"):
            reader.read(half + 1)


def test_a_stream_that_overwrites_waits_for_up_to_its_capacity(streams: Streams) -> None:
    writer, reader = streams(10, overwrite=True)
    writer.write(b"0123456789abc")
    with pytest.raises(ValueError, match="its capacity, not for 11"):
        reader.read(11)
    assert reader.read(10) == b"3456789abc"
    with writer.window(10, raw=True) as window:
        window[:] = b"ABCDEFGHIJ"
    with reader.window(10, raw=True) as seen:
        assert bytes(seen) == b"ABCDEFGHIJ"
    reader.watermark = 10


def test_nothing_is_returned_immediately(streams: Streams) -> None:
    writer, reader = streams(10, dtype="f4", backlog=1)
    assert writer.write([]) == writer.try_write([]) == 0
    for empty in (reader.read(0), reader.peek(0), reader.try_read(0), reader.history(0)):
        assert (empty.shape, empty.dtype) == ((0,), np.dtype("f4"))
    assert reader.readinto(bytearray()) == reader.skip(0) == 0
    for side in (writer, reader):
        with side.window(0) as window:
            assert window.shape == (0,)
    plain, other = streams(10)
    assert plain.write(b"") == 0
    assert other.read(0) == other.peek(0) == other.try_read(0) == other.history() == b""

    async def main() -> list[Any]:
        return [await other.aread(0), await other.areadinto(bytearray()), await plain.awrite(b"")]

    assert asyncio.run(main()) == [b"", 0, 0]


def test_without_either_a_call_takes_all_there_is(streams: Streams) -> None:
    writer, reader = streams(10)
    writer.write(b"abcdefg")
    assert reader.peek() == b"abcdefg"
    with reader.window(raw=True) as window:
        assert bytes(window) == b"abcdefg"
        reader.release(1)
    with writer.window() as room:
        assert len(room) == 4
        writer.commit(0)
    assert reader.read() == b"bcdefg"


def test_at_least_waits_and_n_bounds(streams: Streams) -> None:
    writer, reader = streams(100)
    writer.write(b"abcd")
    with pytest.raises(TimeoutError):
        reader.read(50, 0.01, at_least=5)
    assert reader.read(3, at_least=2) == b"abc"
    writer.write(b"efgh")
    assert reader.read(50, at_least=5) == b"defgh"


@pytest.mark.parametrize("death", [False, True])
def test_fewer_items_come_only_after_the_writer_s_end(streams: Streams, death: bool) -> None:
    stream = streams.heap.add_stream("s", 100)

    def write() -> None:
        writer = stream.writer()
        writer.write(b"abc")
        if not death:
            writer.close()

    with stream.reader() as reader:
        (killed if death else lambda work: work())(write)
        assert reader.peek(40) == b"abc"
        with reader.window(40, raw=True) as window:
            assert bytes(window) == b"abc"
            reader.release(0)
        buffer = bytearray(40)
        assert reader.readinto(buffer) == 3
        assert buffer[:3] == b"abc"
        error = ipcheap.PeerDied if death else ipcheap.ChannelClosed
        for call in (
            lambda: reader.read(40),
            reader.peek,
            lambda: reader.readinto(buffer),
            reader.try_read,
            lambda: reader.window(1).__enter__(),
        ):
            with pytest.raises(error):
                call()
        assert reader.skip() == reader.available == 0
        assert reader.read(0) == b""


def test_two_sides_with_the_largest_portions_never_wait_for_each_other(streams: Streams) -> None:
    for capacity in (1, 2, 3, 7, 10):
        stream = streams.heap.add_stream(f"s{capacity}", capacity)
        half = (capacity + 1) // 2

        def write(stream: ipcheap.Stream = stream, half: int = half) -> None:
            with stream.writer() as writer:
                for _ in range(200):
                    with writer.window(half, peers.PATIENCE):
                        pass

        thread = threading.Thread(target=write)
        with stream.reader() as reader:
            thread.start()
            for _ in range(200):
                assert len(reader.read(half, timeout=peers.PATIENCE)) == half
            thread.join()


# Expiry, and what a write has done -----------------------------------------------------------


def test_a_write_fills_the_room_and_waits_for_one_item_of_it(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10)
    with stream.writer() as writer, peers.run(stream_workers.sip, streams.heap, "s", 40) as peer:
        assert writer.write(bytes(range(40)), timeout=peers.PATIENCE) == 40
        assert writer.position == 40
        assert peer.result() == bytes(range(40))


def test_a_write_waits_for_one_item_of_room_at_a_time(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10)

    def read_one() -> None:
        with stream.reader() as reader:
            ready.set()
            time.sleep(0.05)
            reader.read(1)
            done.wait(peers.PATIENCE)

    ready, done = threading.Event(), threading.Event()
    with stream.writer() as writer:
        writer.write(bytes(10))
        thread = threading.Thread(target=read_one)
        thread.start()
        ready.wait(peers.PATIENCE)
        with pytest.raises(TimeoutError) as raised:
            writer.write(b"abc", 0.5)
        assert raised.value.done == 1  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError):
            writer.window(2, 0.01).__enter__()
        done.set()
        thread.join()
        reader = stream.reader()
        reader.read(1)
        reader.close()
        with pytest.raises(ipcheap.ChannelClosed):
            writer.window(2).__enter__()  # there is room for one
        assert (writer.position, writer.room) == (11, 1)


def test_a_reader_may_still_come(streams: Streams) -> None:
    writer = streams.heap.add_stream("s", 10).writer()
    assert writer.try_write(bytes(12)) == 10
    assert writer.try_write(b"x") == 0
    with pytest.raises(TimeoutError):
        writer.write(b"x", 0.01)
    assert writer.position == 10
    writer.close()


@pytest.mark.parametrize("death", [False, True])
def test_done_is_the_prefix_that_is_committed(streams: Streams, death: bool) -> None:
    stream = streams.heap.add_stream("s", 10, dtype="u2")
    with stream.writer() as writer:
        with pytest.raises(TimeoutError) as expired:
            writer.write(range(13), 0)
        assert expired.value.done == 10  # type: ignore[attr-defined]
        with pytest.raises(TimeoutError) as nothing:
            writer.write([1], 0)
        assert nothing.value.done == 0  # type: ignore[attr-defined]
        error = ipcheap.PeerDied if death else ipcheap.ChannelClosed

        def read() -> None:
            reader = stream.reader()
            time.sleep(0.05)
            reader.read(4)
            if not death:
                reader.close()

        if death:
            killed(read)
        else:
            thread = threading.Thread(target=read)
            thread.start()
            thread.join()
        with pytest.raises(error) as raised:
            writer.write(np.arange(7, dtype="u2"))
        assert raised.value.done == 4
        assert writer.position == 14
    with stream.reader() as reader:
        assert reader.read().tolist() == [*range(4, 10), *range(4)]


def let_expire(reader: ipcheap.StreamReader) -> None:
    for call in (
        lambda: reader.read(5, 0.01),
        lambda: reader.peek(5, 0.01),
        lambda: reader.readinto(bytearray(5), 0.01),
        lambda: reader.window(5, 0.01).__enter__(),
        lambda: next(reader.blocks(5, timeout=0.01)),
    ):
        with pytest.raises(TimeoutError):
            call()


def test_what_expires_has_changed_nothing(streams: Streams) -> None:
    for shape in ({}, {"overwrite": True}):
        writer, reader = streams(10, backlog=2, **shape)
        writer.write(b"abcd")
        reader.read(1)
        before = reader.statistics().read, reader.statistics().reads, reader.history()
        let_expire(reader)
        after = reader.statistics().read, reader.statistics().reads, reader.history()
        assert before == after
    full, _ = streams(10)
    full.write(bytes(9))
    with pytest.raises(TimeoutError):
        full.window(2, 0.01).__enter__()
    assert (full.position, full.statistics().writes) == (9, 1)


def test_a_cancelled_write_leaves_a_prefix_that_position_tells(streams: Streams) -> None:
    writer, reader = streams(10)

    async def main() -> None:
        with pytest.raises(TimeoutError) as raised:
            async with asyncio.timeout(0.02):
                await writer.awrite(bytes(range(13)))
        assert not hasattr(raised.value, "done")
        assert writer.position == 10
        task = asyncio.ensure_future(writer.awrite(b"more"))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        assert cancelled.value.done == 0  # type: ignore[attr-defined]
        assert reader.read() == bytes(range(10))
        assert await writer.awrite(b"abc") == 3
        reader.close()
        with pytest.raises(ipcheap.ChannelClosed) as closed:
            await writer.awrite(bytes(20))
        assert closed.value.done == 7

    asyncio.run(main())


# Data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"abcd",
        bytearray(b"abcd"),
        memoryview(b"abcd"),
        array.array("H", [1, 2]),
        np.frombuffer(b"abcd", "i2"),
        np.frombuffer(b"abcd", "u1").reshape(2, 2),
    ],
    ids=lambda data: type(data).__name__,
)
def test_whatever_is_like_bytes_can_be_written(streams: Streams, data: Any) -> None:
    writer, reader = streams()
    assert writer.write(data) == writer.try_write(data) == 4
    assert reader.read() == bytes(data) * 2


def test_bytes_must_be_contiguous(streams: Streams) -> None:
    writer, reader = streams()
    for data in (np.zeros((4, 4), "u1")[:, 1], np.zeros((4, 4), "f4").T):
        for write in (writer.write, writer.try_write):
            with pytest.raises(ValueError, match="one piece"):
                write(data)
    for other in (["a"], None, 1.5, "text"):
        with pytest.raises(TypeError, match="bytes-like"):
            writer.write(other)
    assert reader.available == 0


@pytest.mark.parametrize(
    ("dtype", "data", "error"),
    [
        ("f4", "text", TypeError),
        ("f4", np.array([1j]), TypeError),
        ("i4", np.array([1.5]), TypeError),
        ("i4", {}, TypeError),
        ("f4", Ellipsis, TypeError),
        ("f4", [[1, 2]], ValueError),
        ("f4", [[1], [2, 3]], ValueError),
        ("f4", bytes(5), ValueError),
        (("f4", (2,)), 1.0, ValueError),
        (("f4", (2,)), [1.0, 2.0, 3.0], ValueError),
        (("f4", (2,)), np.zeros((2, 3), "f4"), ValueError),
        (("f4", (2,)), np.zeros((1, 2, 2), "f4"), ValueError),
        ([("x", "i4")], np.zeros(2, [("y", "M8[s]")]), TypeError),
    ],
    ids=str,
)
def test_what_does_not_fit_the_items(
    streams: Streams, dtype: Any, data: Any, error: type[Exception]
) -> None:
    writer, reader = streams(10, dtype=dtype)
    for write in (writer.write, writer.try_write):
        with pytest.raises(error):
            write(data)
    with pytest.raises(error) as raised:
        asyncio.run(writer.awrite(data))
    assert raised.value.done == 0  # type: ignore[attr-defined]
    assert reader.available == 0


@pytest.mark.parametrize(
    ("dtype", "data", "items"),
    [
        ("f4", 1, [1.0]),
        ("f4", [1, 2.5], [1.0, 2.5]),
        ("i4", [1.7], [1]),
        ("i2", np.array([1, 2]), [1, 2]),
        ("f4", np.arange(6.0)[::-2], [5.0, 3.0, 1.0]),
        ("f4", np.float64(2.5), [2.5]),
        ("f4", array.array("d", [0.5]), [0.5]),
        (">f8", np.array([1.5], "<f4"), [1.5]),
        (("f4", (2,)), [1.0, 2.0], [[1.0, 2.0]]),
        (("f4", (2,)), np.ones((3, 2)), [[1.0, 1.0]] * 3),
        (("f4", (2,)), bytes(16), [[0.0, 0.0]] * 2),
        ([("x", "i4"), ("y", "f8")], (1, 2.5), [(1, 2.5)]),
        ([("x", "i4"), ("y", "f8")], [(1, 2.5), (3, 4)], [(1, 2.5), (3, 4.0)]),
        ("U3", "abc", ["abc"]),
        ("S3", b"abcxyz", [b"abc", b"xyz"]),
        ("?", [1, 0], [True, False]),
        ("m8[s]", np.array([5], "m8[s]"), [np.timedelta64(5, "s")]),
        ("V3", b"abcdef", [b"abc", b"def"]),
    ],
    ids=str,
)
def test_what_is_converted_to_the_items(
    streams: Streams, dtype: Any, data: Any, items: Any
) -> None:
    writer, reader = streams(10, dtype=dtype)
    assert writer.write(data) == len(items)
    assert writer.try_write(data) == min(len(items), writer.capacity - len(items))
    assert asyncio.run(awritten(writer, reader, data)) == len(items)
    found = reader.read()
    base = np.dtype(dtype).base
    assert found.tolist() == np.array(items, base).tolist()
    assert found.base is None or found.flags.owndata
    assert found.flags.writeable


async def awritten(writer: Any, reader: Any, data: Any) -> int:
    reader.skip()
    return int(await writer.awrite(data))


def test_a_copy_owns_its_items(streams: Streams) -> None:
    writer, reader = streams(10, dtype="i4", backlog=3)
    writer.write([1, 2, 3])
    peeked, read = reader.peek(2), reader.read(3)
    history = reader.history()
    with writer.window(at_least=5) as window:
        window[:] = 9
    writer.ring[:] = bytes(len(writer.ring))
    assert (peeked.tolist(), read.tolist(), history.tolist()) == ([1, 2], [1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize("way", ["now", "later", "awaited"])
def test_what_can_be_filled(streams: Streams, way: str) -> None:
    frames = streams(50, dtype=("f4", (2,)))
    times = streams(50, dtype="M8[us]")
    plain = streams(50)

    def fill(sides: Any, buffer: Any) -> int:
        writer, reader = sides
        reader.skip()
        writer.write(bytes(48 * writer.itemsize))
        if way == "awaited":
            return int(asyncio.run(reader.areadinto(buffer)))
        return int(reader.readinto(buffer, **({"at_least": 1} if way == "later" else {})))

    read_only = np.zeros(4, "M8[us]")
    read_only.flags.writeable = False
    for sides, buffer, result in (
        (frames, np.empty((3, 2), "f4"), 3),
        (frames, bytearray(24), 3),
        (frames, memoryview(bytearray(24)), 3),
        (frames, mmap.mmap(-1, 16), 2),
        (times, np.empty(3, "M8[us]"), 3),
        (plain, np.empty(3, "u1"), 3),
        (plain, array.array("d", [1.0]), 8),
        (frames, np.empty((3, 2), "f8"), TypeError),
        (frames, np.empty(24, "u1"), TypeError),
        (plain, np.empty(3, "f4"), TypeError),
        (times, np.empty(3, "i8"), TypeError),
        (times, read_only, TypeError),
        (plain, bytes(3), TypeError),
        (plain, memoryview(b"abc"), TypeError),
        (plain, "text", TypeError),
        (frames, bytearray(12), ValueError),
        (frames, np.empty(3, "f4"), ValueError),
        (frames, np.empty((4, 4), "f4")[:, :2], ValueError),
        (times, np.empty(6, "M8[us]")[::2], ValueError),
        (plain, memoryview(bytearray(6))[::2], ValueError),
    ):
        if isinstance(result, int):
            assert fill(sides, buffer) == result
        else:
            with pytest.raises(result):
                fill(sides, buffer)

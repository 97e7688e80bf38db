"""Streams: blocks, one window after the other."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import peers
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stream_sides import killed

import ipcheap

if TYPE_CHECKING:
    from stream_sides import Streams


def expected(items: int, size: int, hop: int) -> list[list[int]]:
    """Return what blocks of a stream that has ended are, in plain Python."""
    blocks, start, seen = [], 0, 0
    while start + size <= items:
        blocks.append([*range(start, start + size)])
        seen = start + size
        start += hop
    if seen < items:
        blocks.append([*range(start, items)])
    return blocks


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    items=st.integers(0, 40), size=st.integers(1, 20), hop=st.integers(1, 20), fill=st.booleans()
)
def test_blocks_are_what_slices_are(
    streams: Streams, items: int, size: int, hop: int, fill: bool
) -> None:
    hop = min(hop, size)
    writer, reader = streams(41, dtype="i4")
    writer.write(range(items))
    writer.close()
    blocks = expected(items, size, hop)
    if fill and blocks:
        blocks[-1] += [-1] * (size - len(blocks[-1]))
    seen = reader.blocks(size, hop=hop, fill=-1 if fill else None)
    assert [block.tolist() for block in seen] == blocks
    assert reader.position == items  # everything is released
    assert next(seen, None) is None
    reader.close()
    streams.heap.remove_channel(len(streams.made) - 1)


@pytest.mark.parametrize(
    ("items", "size", "hop"), [(10, 4, 4), (8, 4, 4), (8, 4, 2), (3, 4, 1), (0, 4, 4)]
)
@pytest.mark.parametrize("awaited", [False, True])
def test_blocks_end_with_the_writer_s_death(
    streams: Streams, items: int, size: int, hop: int, awaited: bool
) -> None:
    stream = streams.heap.add_stream("s", 100, dtype="i4")
    killed(lambda: stream.writer().write(range(items)))
    got: list[list[int]] = []

    async def iterate() -> None:
        async for block in reader.blocks(size, hop=hop):
            got.append(block.tolist())

    with stream.reader() as reader:
        blocks = reader.blocks(size, hop=hop)
        with pytest.raises(ipcheap.PeerDied):
            asyncio.run(iterate()) if awaited else got.extend(b.tolist() for b in blocks)
        assert got == expected(items, size, hop)
        assert reader.position == items


def test_a_successor_of_the_writer_continues_the_blocks(streams: Streams) -> None:
    writer, reader = streams(100)
    writer.write(bytes(range(6)))
    writer.close()
    blocks = reader.blocks(4)
    assert next(blocks).tolist() == [0, 1, 2, 3]
    assert next(blocks).tolist() == [4, 5]
    with streams.heap.stream_writer(0) as successor:
        successor.write(bytes(range(6, 10)))
        assert next(blocks).tolist() == [6, 7, 8, 9]
    assert next(blocks, None) is None
    assert reader.position == 10


def test_blocks_without_a_size_are_what_there_is(streams: Streams) -> None:
    writer, reader = streams(100)
    writer.write(b"abc")
    blocks = reader.blocks()
    assert bytes(next(blocks)) == b"abc"
    assert reader.position == 0  # released when the next one is requested
    writer.write(b"defgh")
    assert bytes(next(blocks)) == b"defgh"
    assert reader.position == 3
    writer.close()
    assert next(blocks, None) is None
    assert reader.position == 8


def test_a_block_is_released_when_the_next_one_is_requested(streams: Streams) -> None:
    writer, reader = streams(100, dtype=("i4", (2,)))
    writer.write([[n, n] for n in range(12)])
    blocks = reader.blocks(6, hop=2)
    for position in (0, 2, 4):
        block = next(blocks)
        assert block.shape == (6, 2)
        assert not block.flags.writeable
        assert block[0, 0] == reader.position == position
    blocks.close()
    blocks.close()
    assert reader.position == 4
    assert reader.read(1).tolist() == [[4, 4]]


def test_a_block_that_a_loop_left_is_delivered_again(streams: Streams) -> None:
    writer, reader = streams(100)
    writer.write(bytes(range(30)))
    for block in reader.blocks(10, hop=5):
        if block[0] == 5:
            break
    assert bytes(block) == bytes(range(5, 15))
    with pytest.raises(ZeroDivisionError):
        [1 // (int(block[0]) - 5) for block in reader.blocks(10)]
    assert next(iter(reader.blocks(3))).tolist() == [5, 6, 7]

    async def leave() -> None:
        async for again in reader.blocks(10):
            assert again[0] == 5
            break

    asyncio.run(leave())
    reader.close()
    with streams.heap.stream_reader(0) as successor:
        assert next(successor.blocks(3))[0] == 5


def test_blocks_and_other_windows(streams: Streams) -> None:
    writer, reader = streams(100)
    writer.write(bytes(range(50)))
    blocks = reader.blocks(10)
    next(blocks)
    reader.release(3)  # ends the block; the next one begins there
    assert next(blocks)[0] == 3
    reader.release(10)
    with reader.window(5):
        with pytest.raises(ipcheap.WindowError):
            next(blocks)
        blocks.close()  # ends no other window
        assert reader.position == 13
        with pytest.raises(ipcheap.WindowError):
            reader.read(1)
    assert reader.position == 18


def test_arguments_of_blocks_are_checked_when_called(streams: Streams) -> None:
    _, reader = streams(10)
    for size, hop in ((0, None), (-1, None), (6, None), (4, 0), (4, 5), (4, -1)):
        with pytest.raises(ValueError, match=r"size|hop|half"):
            reader.blocks(size, hop=hop)
    with pytest.raises(ValueError, match="size"):
        reader.blocks(hop=1)
    with pytest.raises(TypeError):
        reader.blocks(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        reader.blocks(2, hop=1.5)  # type: ignore[arg-type]
    reader.blocks(5, hop=5, timeout=None).close()


def test_a_filled_block_is_a_copy(streams: Streams) -> None:
    writer, reader = streams(10, dtype=("f4", (2,)))
    writer.write([[1, 2], [3, 4]])
    writer.close()
    (block,) = reader.blocks(4, fill=0)
    assert block.tolist() == [[1, 2], [3, 4], [0, 0], [0, 0]]
    assert block.flags.owndata


def test_the_timeout_counts_for_each_block(streams: Streams) -> None:
    writer, reader = streams(100)

    async def wait() -> float:
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            async for _ in reader.blocks(10, timeout=0.05):
                pass
        return time.monotonic() - begin

    writer.write(bytes(15))
    blocks = reader.blocks(10, timeout=0.05)
    assert len(next(blocks)) == 10
    with pytest.raises(TimeoutError):
        next(blocks)
    writer.write(bytes(5))
    assert len(next(blocks)) == 10
    blocks.close()
    reader.skip()
    assert 0.04 < asyncio.run(wait()) < peers.PATIENCE


def test_a_reset_between_blocks(streams: Streams) -> None:
    writer, reader = streams(100)
    writer.write(bytes(range(30)))
    blocks = reader.blocks(10, hop=5)
    block = next(blocks)
    writer.reset()
    assert bytes(block) == bytes(range(10))
    writer.write(bytes(range(100, 115)))
    writer.close()
    assert [each[0] for each in blocks] == [100, 105]


def test_blocks_while_the_writer_works(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 64, dtype="i4")

    def write() -> None:
        with stream.writer() as writer:
            for start in range(0, 1000, 10):
                writer.write(range(start, start + 10), peers.PATIENCE)

    thread = threading.Thread(target=write)
    got: list[Any] = []
    with stream.reader() as reader:
        thread.start()
        reader.peek(timeout=peers.PATIENCE)
        for block in reader.blocks(7, hop=7, timeout=peers.PATIENCE):
            got.append(block.tolist())
        thread.join()
    assert [*itertools.chain(*got)] == [*range(1000)]
    assert {len(block) for block in got[:-1]} == {7}

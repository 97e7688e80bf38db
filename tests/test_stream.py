"""Streams: windows in one piece, portions, blocks, positions, resets, overwriting, ends, files."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import pickle
import random
import select
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import kinds
import numpy as np
import peers
import pytest
import stream_workers
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KILLS = int(os.environ.get("IPCHEAP_STREAM_KILLS", "60"))
SECONDS = float(os.environ.get("IPCHEAP_STREAM_SECONDS", "1"))

each_kind = pytest.mark.parametrize("kind", kinds.ALL[::3], ids=str)


@pytest.fixture
def heap() -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        yield heap


Sides = tuple[ipcheap.StreamWriter, ipcheap.StreamReader]


@pytest.fixture
def pair(heap: ipcheap.Heap) -> Iterator[Any]:
    """Return a function that adds a stream and claims both of its sides."""
    made: list[Any] = []

    def make(capacity: int | str = 100, **shape: Any) -> Sides:
        stream = heap.add_stream(len(made), capacity, **shape)
        sides = stream.writer(), stream.reader()
        made.append(sides)
        return sides

    yield make
    for sides in made:
        for side in sides:
            side.close()


# The channel --------------------------------------------------------------------------------


def test_a_stream_has_the_shape_that_was_asked_for(heap: ipcheap.Heap) -> None:
    frame = np.dtype(("f4", (2,)))
    stream = heap.add_stream("sound", 1000, dtype=frame, backlog=64)
    assert (stream.capacity, stream.backlog, stream.itemsize) == (1000, 64, 8)
    assert stream.dtype == frame
    assert not stream.overwrite
    assert heap.channel("sound") == stream
    assert heap.add_stream("sound") == stream
    assert heap.add_stream("sound", 1000, dtype=frame, backlog=64) == stream
    assert heap.statistics().in_use >= 1064 * 8
    heap.remove_channel("sound")
    assert heap.statistics().in_use == 0
    assert heap.check() == []


def test_a_capacity_in_bytes_is_rounded_down(heap: ipcheap.Heap) -> None:
    stream = heap.add_stream(1, "1KiB", dtype="V12", backlog="100B")
    assert (stream.capacity, stream.backlog) == (1024 // 12, 100 // 12)


@pytest.mark.parametrize(
    "other",
    [{"dtype": "f8"}, {"backlog": 1}, {"overwrite": True}, {"capacity": 99}],
    ids=lambda other: next(iter(other)),
)
def test_another_shape_is_another_stream(heap: ipcheap.Heap, other: dict[str, Any]) -> None:
    shape: dict[str, Any] = {"capacity": 100, "dtype": "f4", "backlog": 0, "overwrite": False}
    heap.add_stream("s", **shape)
    with pytest.raises(ipcheap.ChannelTypeError):
        heap.add_stream("s", **(shape | other))


def test_a_stream_is_no_record_channel(heap: ipcheap.Heap) -> None:
    heap.add_stream("s", 10)
    heap.add_record_channel("r", 16)
    with pytest.raises(ipcheap.ChannelTypeError, match="stream of 10 items"):
        heap.add_record_channel("s", 16)
    with pytest.raises(ipcheap.ChannelTypeError, match="record channel of 16 slots"):
        heap.add_stream("r", 16)
    with pytest.raises(ipcheap.ChannelTypeError):
        heap.stream_writer("r")
    with pytest.raises(ipcheap.ChannelNotFound):
        heap.add_stream("none")


@pytest.mark.parametrize(
    ("shape", "error"),
    [
        ({"capacity": 0}, ValueError),
        ({"capacity": -1}, ValueError),
        ({"capacity": 10, "backlog": -1}, ValueError),
        ({"capacity": 10, "dtype": "O"}, TypeError),
        ({"capacity": 10, "dtype": "V0"}, ValueError),
        ({"capacity": 10, "overwrite": 1}, TypeError),
        ({"capacity": 10.5}, TypeError),
        ({"capacity": 2**70}, ValueError),
    ],
)
def test_a_bad_shape_is_refused(
    heap: ipcheap.Heap, shape: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        heap.add_stream("s", **shape)
    assert list(heap.channels) == []


def test_a_stream_that_does_not_fit_is_refused_when_it_is_added(heap: ipcheap.Heap) -> None:
    with pytest.raises(ipcheap.HeapFull):
        heap.add_stream("s", "1GiB")
    assert list(heap.channels) == []


def test_a_claim_compares_the_dtype(heap: ipcheap.Heap) -> None:
    stream = heap.add_stream("s", 10, dtype="f4")
    stream.writer(dtype="f4").close()
    with pytest.raises(ipcheap.ChannelTypeError):
        stream.writer(dtype="f8")


def test_a_stream_pickles_and_its_sides_do_not(heap: ipcheap.Heap, pair: Any) -> None:
    writer, _ = pair(dtype="f4")
    assert peers.call(stream_workers.describe, heap.add_stream(0)) == (100, 0, "<f4", False)
    with pytest.raises(TypeError):
        pickle.dumps(writer)


def test_a_side_has_one_holder(heap: ipcheap.Heap, pair: Any) -> None:
    writer, reader = pair()
    with pytest.raises(ipcheap.ChannelBusy, match="writer side is held"):
        heap.stream_writer(0)
    writer.write(b"abc")
    writer.close()
    with pytest.raises(ipcheap.EndpointClosed):
        writer.write(b"d")
    with heap.stream_writer(0) as successor:
        assert successor.position == 3
        successor.write(b"def")
        assert reader.read() == b"abcdef"


# Writing and reading ------------------------------------------------------------------------


def test_portions(pair: Any) -> None:
    writer, reader = pair(10)
    assert writer.write(b"abcdef") == 6
    assert (writer.room, reader.available) == (4, 6)
    assert reader.read(2) == b"ab"
    assert reader.peek(2) == b"cd"
    assert reader.read(at_least=1) == b"cdef"
    assert reader.read(0) == b""
    assert reader.try_read() is None
    assert writer.try_write(b"0123456789abc") == 10
    assert writer.try_write(b"x") == 0
    assert reader.skip(3) == 3
    buffer = bytearray(5)
    assert reader.readinto(buffer) == 5
    assert buffer == b"34567"
    assert reader.skip() == 2
    assert reader.skip() == 0
    assert (writer.position, reader.position) == (16, 16)


@pytest.mark.parametrize("call", ["read", "peek", "window"])
def test_no_call_waits_for_more_than_half(pair: Any, call: str) -> None:
    _, reader = pair(11)
    wait = {"window": lambda: reader.window(6, 0).__enter__()}
    with pytest.raises(TimeoutError):
        wait.get(call, lambda: getattr(reader, call)(6, timeout=0))()
    for count in (7, 2**40, 2**70):
        with pytest.raises(ValueError, match="half its capacity"):
            getattr(reader, call)(count)
    with pytest.raises(ValueError, match="at most n"):
        getattr(reader, call)(3, at_least=4)


def test_what_times_out_has_changed_nothing(pair: Any) -> None:
    writer, reader = pair(10)
    writer.write(b"abc")
    for call in (reader.read, reader.peek):
        with pytest.raises(TimeoutError):
            call(4, timeout=0.01)
    with pytest.raises(TimeoutError):
        reader.readinto(bytearray(4), timeout=0.01)
    writer.write(b"defghi")
    with pytest.raises(TimeoutError), writer.window(2, 0):
        pass
    assert reader.read() == b"abcdefghi"


def test_a_write_that_raises_says_how_much_is_written(pair: Any) -> None:
    writer, reader = pair(10)
    with pytest.raises(TimeoutError) as raised:
        writer.write(b"0123456789abc", timeout=0.01)
    assert raised.value.done == 10  # type: ignore[attr-defined]
    assert writer.position == 10
    assert reader.read() == b"0123456789"
    writer.write(b"x" * 8)
    reader.close()
    with pytest.raises(ipcheap.ChannelClosed) as closed:
        writer.write(b"abcdef")
    assert closed.value.done == 2


@pytest.mark.parametrize(
    ("data", "error"), [("text", TypeError), (7, TypeError), (memoryview(b"abcd")[::2], ValueError)]
)
def test_a_stream_of_bytes_takes_bytes(pair: Any, data: Any, error: type[Exception]) -> None:
    writer, reader = pair()
    with pytest.raises(error) as raised:
        writer.write(data)
    assert raised.value.done == 0  # type: ignore[attr-defined]
    with pytest.raises(error):
        writer.try_write(data)
    assert reader.available == 0


DTYPES = [
    np.dtype("i2"),
    np.dtype(">f8"),
    np.dtype(("f4", (2,))),
    np.dtype([("x", "i4"), ("y", "f8", (3,))]),
    np.dtype("M8[us]"),
    np.dtype("S3"),
    np.dtype("U2"),
    np.dtype("?"),
    np.dtype("c16"),
    np.dtype("V5"),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_items_of_any_type(pair: Any, dtype: np.dtype[Any]) -> None:
    writer, reader = pair(50, dtype=dtype, backlog=5)
    raw = np.random.default_rng(1).integers(0, 2, 40 * dtype.itemsize, "u1").tobytes()
    items = np.frombuffer(raw, dtype.base).reshape(40, *dtype.shape)
    for _ in range(5):
        assert writer.write(items[:20]) == 20
        with writer.window(20) as window:
            window[:] = items[20:]
        with reader.window(10) as window:
            assert window.tobytes() == items[:10].tobytes()
            assert window.shape == items[:10].shape
        back = reader.read(10)
        assert back.dtype == items.dtype
        assert back.tobytes() == items[10:20].tobytes()
        room = np.empty((20, *dtype.shape), dtype.base)
        assert reader.readinto(room) == 20
        assert room.tobytes() == items[20:].tobytes()
        assert reader.history(5).tobytes() == items[35:].tobytes()
    writer.write(items[:1])
    writer.write(items[1:2].tobytes())
    assert reader.read(2).tobytes() == items[:2].tobytes()


def test_conversion_as_in_an_assignment(pair: Any) -> None:
    writer, reader = pair(50, dtype="f4")
    writer.write([1, 2.5])
    writer.write(7)
    writer.write(np.arange(6, dtype="i8")[::2])
    assert reader.read().tolist() == [1, 2.5, 7, 0, 2, 4]
    with pytest.raises(TypeError, match="cannot be converted"):
        writer.write(np.ones(3, "c8"))
    with pytest.raises(ValueError, match="neither items"):
        writer.write(np.ones((3, 2), "f4"))
    with pytest.raises(ValueError, match="whole number"):
        writer.write(b"abc")
    assert reader.available == 0


def test_a_buffer_to_be_filled_must_fit(pair: Any) -> None:
    _, reader = pair(50, dtype="f4")
    for buffer, error in (
        (bytes(8), TypeError),
        (bytearray(6), ValueError),
        (np.empty(2, "f8"), TypeError),
        (np.empty((4, 4), "f4")[:, 0], ValueError),
        (7, TypeError),
    ):
        with pytest.raises(error):
            reader.readinto(buffer, timeout=0)


# Windows ------------------------------------------------------------------------------------


@each_kind
def test_windows_are_one_piece_on_every_kind_of_heap(
    kind: kinds.Kind, heap_name: str, tmp_path: Path
) -> None:
    with kinds.made(kind, heap_name, tmp_path, "4MiB") as heap:
        stream = heap.add_stream("s", 1000, dtype="V12", backlog=50)
        with stream.writer() as writer, stream.reader() as reader:
            assert writer.statistics().mirrored
            for turn in range(100):
                with writer.window(333, raw=True) as window:
                    assert len(window) == 333 * 12
                    window[:] = bytes([turn]) * (333 * 12)
                with reader.window(333, overlap=50, raw=True) as window:
                    now = bytes([turn]) * (333 * 12)
                    before = bytes([max(turn - 1, 0)]) * (50 * 12) if turn else b""
                    assert bytes(window) == before + now


def test_a_window_is_the_ring(pair: Any) -> None:
    writer, reader = pair(100)
    with writer.window(10) as window:
        window[:] = 7
        assert writer.ring[:10] == bytes([7]) * 10
        assert reader.available == 0
    assert not window.flags.writeable
    with reader.window() as window:
        assert len(window) == 10
        assert not window.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            window[0] = 1
    assert reader.ring.readonly
    assert not writer.ring.readonly


def test_a_window_commits_all_or_nothing_or_a_part(pair: Any) -> None:
    writer, reader = pair(100)
    with pytest.raises(KeyError), writer.window(10):
        raise KeyError
    assert writer.position == 0
    with writer.window(10) as window:
        window[:3] = 1
        writer.commit(3)
        with pytest.raises(ipcheap.WindowError):
            writer.commit(0)
    assert writer.position == 3
    with writer.window(10), pytest.raises(ValueError, match="still open"):
        writer.commit(11)
    assert writer.position == 13
    with reader.window(10):
        reader.release(4)
    assert reader.position == 4
    with pytest.raises(KeyError), reader.window(3):
        raise KeyError
    assert reader.position == 4
    with pytest.raises(ipcheap.WindowError):
        reader.release(0)


def test_one_window_at_a_time(pair: Any) -> None:
    writer, reader = pair(100, backlog=5)
    writer.write(bytes(20))
    reader.read(5)
    with reader.window(3):
        for call in (reader.read, reader.peek, reader.skip, reader.try_read, reader.history):
            with pytest.raises(ipcheap.WindowError):
                call(1)
        for other in (reader.reset, lambda: reader.window(1).__enter__()):
            with pytest.raises(ipcheap.WindowError):
                other()
        assert reader.position == 5
        assert reader.statistics().read == 5
    with writer.window(3):
        for write in (writer.write, writer.try_write):
            with pytest.raises(ipcheap.WindowError):
                write(b"x")


def test_closing_inside_a_window_commits_nothing(heap: ipcheap.Heap, pair: Any) -> None:
    writer, reader = pair()
    with writer.window(5):
        writer.close()
    with heap.stream_writer(0) as successor:
        assert successor.position == 0
    with pytest.raises(ipcheap.EndpointClosed):
        writer.window(1).__enter__()
    reader.close()


@pytest.mark.parametrize("raw", [False, True])
def test_a_view_outlives_its_endpoint_and_heap(raw: bool) -> None:
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        stream = heap.add_stream("s", 5000)
        writer, reader = stream.writer(), stream.reader()
        writer.write(b"before" * 800)
        with reader.window(2400, raw=raw) as view:
            pass
        ring = writer.ring
        writer.close()
        reader.close()
        heap.remove_channel("s")
        record = heap.allocate_record(900_000)
        record[:] = b"\xff" * 900_000
        assert bytes(view) == b"before" * 400
    del record, heap
    gc.collect()
    assert bytes(view) == b"before" * 400
    assert bytes(ring[:6]) == b"before"


# Blocks -------------------------------------------------------------------------------------


def test_blocks_overlap(pair: Any) -> None:
    writer, reader = pair(100, dtype="i4")
    writer.write(range(23))
    writer.close()
    blocks = [block.tolist() for block in reader.blocks(8, hop=4)]
    assert blocks[:3] == [list(range(8)), list(range(4, 12)), list(range(8, 16))]
    assert blocks[-1] == list(range(16, 23))
    assert reader.position == 23


def test_the_last_block_can_be_filled_up(pair: Any) -> None:
    writer, reader = pair(100, dtype="i4")
    writer.write(range(10))
    writer.close()
    assert [b.tolist() for b in reader.blocks(4, fill=-1)][-1] == [8, 9, -1, -1]
    assert reader.position == 10


def test_a_block_that_was_left_is_delivered_again(pair: Any) -> None:
    writer, reader = pair(100)
    writer.write(bytes(range(30)))
    for block in reader.blocks(10):
        if block[0] == 10:
            break
    assert bytes(block) == bytes(range(10, 20))
    assert reader.read(3) == bytes([10, 11, 12])
    blocks = reader.blocks(10)
    assert next(blocks)[0] == 13
    with pytest.raises(ipcheap.WindowError):
        reader.read(1)
    with pytest.raises(ipcheap.WindowError):
        next(reader.blocks(10))
    blocks.close()
    with pytest.raises(StopIteration):
        next(blocks)

    def look(block: Any) -> None:
        raise LookupError(block[0])

    with pytest.raises(LookupError, match="13"):
        look(next(reader.blocks(10)))
    assert next(reader.blocks(10))[0] == 13


def test_iterating_takes_what_there_is(pair: Any) -> None:
    writer, reader = pair(100)
    writer.write(b"abc")
    writer.close()
    assert [bytes(block) for block in reader] == [b"abc"]


# Positions, resets, overwriting -----------------------------------------------------------


def test_a_reset_drops_what_was_written(pair: Any) -> None:
    writer, reader = pair(10, backlog=3)
    writer.write(b"0123456789")
    reader.read(5)
    writer.reset()
    assert reader.available == 0
    assert (writer.room, reader.position, reader.lost) == (10, 10, 0)
    assert reader.history() == b""
    writer.write(b"abc")
    reader.reset()
    assert reader.try_read() is None
    assert reader.position == 13


def test_history(pair: Any) -> None:
    writer, reader = pair(10, backlog=3)
    for letter in (b"ab", b"cd", b"ef"):
        writer.write(letter)
        reader.read()
    assert reader.history() == b"def"
    assert reader.history(2) == b"ef"
    with pytest.raises(ValueError, match="backlog"):
        reader.history(4)
    writer.write(b"0123456789")  # the backlog never yields to the writer
    assert reader.history() == b"def"


def test_overwriting_never_waits_and_counts(pair: Any) -> None:
    writer, reader = pair(100, dtype="u4", overwrite=True)
    writer.write(np.arange(1000, dtype="u4"))
    assert (writer.room, reader.available) == (100, 100)
    got = reader.read(10)
    assert got.tolist() == list(range(900, 910))
    assert (reader.lost, reader.position) == (900, 910)
    with reader.window(50) as window:
        writer.write(np.arange(1000, dtype="u4"))
        assert window.tolist() == list(range(910, 960))
    assert reader.position == 960


@pytest.mark.timeout(SECONDS + 120)
def test_a_fast_writer_is_never_seen_tearing(heap: ipcheap.Heap) -> None:
    """IPCHEAP_STREAM_SECONDS says how long it writes."""
    stream = heap.add_stream("s", 4096, dtype="u8", backlog=512, overwrite=True)
    looks = delivered = skipped = 0

    def look(items: Any, position: int) -> None:
        """Compare items that end before a position with their numbers."""
        first = position - len(items)
        assert (items == np.arange(first, position, dtype="u8")).all()

    with stream.reader() as reader, peers.run(stream_workers.overwrite, heap, "s", SECONDS) as peer:
        with contextlib.suppress(ipcheap.ChannelClosed):
            for looks in itertools.count():
                items = reader.read(at_least=1 + looks % 1000, timeout=peers.PATIENCE)
                look(items, reader.position)
                delivered += len(items)
                assert delivered + skipped + reader.lost == reader.position
                look(reader.history(), reader.position)
                with reader.window(1000, peers.PATIENCE, at_least=1, overlap=512) as window:
                    begin, before = reader.position, reader.position - int(window[0])
                    look(window, begin + len(window) - before)
                    assert delivered + skipped + reader.lost == begin
                    taken = (len(window) - before) // (1 + looks % 3)
                    reader.release(taken)
                delivered += taken
                assert delivered + skipped + reader.lost == reader.position
                peeked = reader.peek(100, peers.PATIENCE, at_least=1)
                look(peeked, reader.position + len(peeked))
                skipped += reader.skip(10)
                assert delivered + skipped + reader.lost == reader.position
        written = peer.result()
        assert delivered + skipped + reader.lost == reader.position == written
        assert reader.lost > 0
    print(f"{written:,} written, {delivered:,} delivered, {looks:,} times, {reader.lost:,} lost")


# Ends and waiting ---------------------------------------------------------------------------


def test_what_is_left_comes_before_the_end(pair: Any) -> None:
    writer, reader = pair(100)
    writer.write(b"abc")
    writer.close()
    assert reader.read(50) == b"abc"
    with pytest.raises(ipcheap.ChannelClosed):
        reader.read()
    with pytest.raises(ipcheap.ChannelClosed):
        reader.try_read()
    assert reader.skip() == 0


def test_a_killed_writer_leaves_a_prefix(heap: ipcheap.Heap) -> None:
    stream = heap.add_stream("s", 1000, dtype="u4")
    with stream.reader() as reader:
        with peers.run(stream_workers.write_until_killed, heap, "s") as peer:
            first = reader.read(100, timeout=peers.PATIENCE)
            os.kill(peer.pid, signal.SIGKILL)
            items = first.tolist()
            with pytest.raises(ipcheap.PeerDied):
                items.extend(item for block in reader.blocks() for item in block.tolist())
        assert items == list(range(len(items)))
        with stream.writer(timeout=peers.PATIENCE) as writer:
            assert writer.position == len(items)


@pytest.mark.timeout(120 + KILLS / 2)
@each_kind
def test_sides_killed_at_random_lose_and_repeat_nothing(
    kind: kinds.Kind, heap_name: str, tmp_path: Path
) -> None:
    """IPCHEAP_STREAM_KILLS says how many of each side are killed."""
    dice = random.Random(7)
    with kinds.made(kind, heap_name, tmp_path, "4MiB") as heap:
        heap.add_stream("s", 1000, dtype="u8", backlog=50)
        work = (stream_workers.write_numbers, stream_workers.read_numbers)
        children = [forked(part, heap, n) for n, part in enumerate(work)]
        try:
            for kill in range(2 * KILLS):
                time.sleep(dice.random() * 0.02)
                side = kill % 2
                os.kill(children[side], signal.SIGKILL)
                _, status = os.waitpid(children[side], 0)
                assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
                children[side] = forked(work[side], heap, kill)
        finally:
            for child in children:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        with (
            heap.stream_writer("s", peers.PATIENCE) as writer,
            heap.stream_reader("s", peers.PATIENCE) as reader,
        ):
            first = reader.position
            assert first > 1000
            items = reader.try_read()
            assert (0 if items is None else len(items)) == writer.position - first
            assert items is None or items.tolist() == list(range(first, writer.position))
        assert heap.check() == []


def forked(work: Callable[[ipcheap.Heap, int], None], heap: ipcheap.Heap, seed: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work(heap, seed)
    finally:
        os._exit(2)


def test_waiting_for_many_items_is_one_sleep(heap: ipcheap.Heap) -> None:
    stream = heap.add_stream("s", 2000)
    with stream.reader() as reader, peers.run(stream_workers.drip, heap, "s", 1000, 10):
        reader.peek(1, peers.PATIENCE)
        before = reader.statistics().parks
        assert len(reader.read(1000, timeout=peers.PATIENCE)) == 1000
        assert reader.statistics().parks - before <= 2  # a sleep that a signal or a second ends


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_million_items_make_no_system_call(heap: ipcheap.Heap, overwrite: bool) -> None:
    heap.add_stream("s", 4096, overwrite=overwrite)
    with peers.run(stream_workers.pass_without_system_calls, heap, "s", 1_000_000 // 4) as peer:
        assert peer.wait() == 7


def test_the_descriptor_obeys_the_watermark(pair: Any) -> None:
    writer, reader = pair(100)

    def readable(side: Any) -> bool:
        return bool(select.select([side], [], [], 0)[0])

    reader.watermark = 20
    writer.write(bytes(19))
    assert not readable(reader)
    assert ipcheap.wait([reader], 0) == []
    writer.write(bytes(1))
    assert readable(reader)
    assert ipcheap.wait([reader], 0) == [reader]
    assert readable(writer)
    with pytest.raises(ValueError, match="half"):
        reader.watermark = 51
    reader.read(1)
    assert not readable(reader)
    reader.watermark = 1
    assert readable(reader)


def test_the_thread_that_claimed_it_uses_it(pair: Any) -> None:
    writer, _ = pair()
    errors: list[type[Exception]] = []
    calls: list[Callable[[], Any]]
    calls = [
        lambda: writer.write(b"x"),
        lambda: writer.window(1).__enter__(),
        lambda: writer.ring,
    ]

    def use() -> None:
        for call in calls:
            try:
                call()
            except Exception as error:
                errors.append(type(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert errors == [ipcheap.WrongThread] * 3


def test_a_removed_stream_closes_its_sides(heap: ipcheap.Heap, pair: Any) -> None:
    writer, reader = pair()
    with pytest.raises(ipcheap.ChannelBusy):
        heap.remove_channel(0)
    heap.remove_channel(0, force=True)
    with pytest.raises(ipcheap.EndpointClosed):
        reader.read(timeout=1)
    with pytest.raises(ipcheap.EndpointClosed):
        writer.window(1).__enter__()
    writer.close()
    reader.close()
    assert heap.statistics().in_use == 0


# Files --------------------------------------------------------------------------------------


def test_lines_travel_as_through_a_pipe(heap: ipcheap.Heap) -> None:
    stream = heap.add_stream("log", 4096)
    lines = [f"line {n}: äöü\n" for n in range(5000)]

    def write() -> None:
        with stream.writer().makefile("w", encoding="utf-8") as file:
            file.writelines(lines)

    with stream.reader().makefile("r", encoding="utf-8") as file:
        thread = threading.Thread(target=write)
        thread.start()
        assert list(file) == lines
    thread.join()


def test_files_are_refused_where_they_make_no_sense(pair: Any) -> None:
    writer, reader = pair()
    calls: list[Callable[[], Any]] = [
        lambda: writer.makefile("rb"),
        lambda: reader.makefile("wb"),
        lambda: reader.makefile("rb", encoding="utf-8"),
        lambda: reader.makefile("r", 0),
    ]
    for make in calls:
        with pytest.raises(ValueError, match=r"mode|text"):
            make()
    wide, _ = pair(10, dtype="f4")
    with pytest.raises(TypeError, match="of one"):
        wide.makefile()
    file = reader.makefile()
    with pytest.raises(OSError, match="for waiting"):
        file.fileno()
    file.close()
    assert reader.closed


def test_a_death_is_not_an_end_of_file(heap: ipcheap.Heap) -> None:
    stream = heap.add_stream("s", 1000)
    with (
        stream.reader().makefile() as file,
        peers.run(stream_workers.write_until_killed, heap, "s") as peer,
    ):
        file.read(100)
        os.kill(peer.pid, signal.SIGKILL)
        with pytest.raises(ipcheap.PeerDied):
            file.read()


# asyncio ------------------------------------------------------------------------------------


def test_coroutines_exchange_items(pair: Any) -> None:
    writer, reader = pair(64)

    async def write() -> None:
        for n in range(100):
            assert await writer.awrite(bytes([n]) * 50) == 50
        async with writer.window(10) as window:
            window[:] = 100
        writer.close()

    async def read() -> bytes:
        got = b""
        buffer = bytearray(20)
        while len(got) < 3000:
            got += await reader.aread(10, at_least=5)
            got += bytes(buffer[: await reader.areadinto(buffer)])
            async with reader.window(at_least=1) as window:
                got += bytes(window)
        async for block in reader.blocks(7):
            got += bytes(block)
        return got

    async def main() -> bytes:
        _, got = await asyncio.gather(write(), read())
        return got

    expected = b"".join(bytes([n]) * 50 for n in range(100)) + bytes([100]) * 10
    assert asyncio.run(main()) == expected


def test_a_cancelled_read_has_taken_nothing(pair: Any) -> None:
    writer, reader = pair(64)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await reader.aread(30)
        with pytest.raises(TimeoutError):
            async with reader.window(30, 0.02):
                pass

    writer.write(bytes(20))
    asyncio.run(main())
    assert reader.available == 20
    assert reader.watermark == 1


def test_coroutines_that_wait_for_different_numbers_do_not_disturb_each_other(pair: Any) -> None:
    writer, reader = pair(100)

    async def main() -> None:
        few = asyncio.create_task(reader.aread(5))
        await asyncio.sleep(0.01)
        many = asyncio.create_task(reader.aread(30))
        await asyncio.sleep(0.01)
        reader.watermark = 50  # which is for pollers
        writer.write(bytes(5))
        assert await asyncio.wait_for(few, peers.PATIENCE) == bytes(5)
        writer.write(bytes(29))
        await asyncio.sleep(0.01)
        assert not many.done()
        writer.write(bytes(1))
        assert await asyncio.wait_for(many, peers.PATIENCE) == bytes(30)

    asyncio.run(main())
    assert reader.watermark == 50
    writer.write(bytes(49))
    assert ipcheap.wait([reader], 0) == []
    writer.write(bytes(1))
    assert ipcheap.wait([reader], 0) == [reader]


# Without NumPy ------------------------------------------------------------------------------


def without_numpy(script: str) -> None:
    """Run a script in a process in which NumPy cannot be imported."""
    before = 'import sys\nsys.modules["numpy"] = None\n'
    code = before + script
    subprocess.run([sys.executable, "-P", "-c", code], timeout=peers.PATIENCE, check=True)


def test_bytes_need_no_numpy(heap_name: str) -> None:
    without_numpy(f"""
import asyncio, pickle
import ipcheap
with ipcheap.Heap.create({heap_name!r}, "1MiB") as heap:
    stream = heap.add_stream("s", 100, backlog=3)
    assert pickle.loads(pickle.dumps(stream)) == heap.channel("s") == stream
    assert (stream.capacity, stream.itemsize, stream.backlog) == (100, 1, 3)
    writer, reader = stream.writer(dtype="u1"), stream.reader(dtype="u1")
    writer.write(b"abcdef")
    with writer.window(3, raw=True) as window:
        window[:] = b"ghi"
    assert reader.read(4) == b"abcd"
    with reader.window(raw=True, overlap=2) as window:
        assert bytes(window) == b"cdefghi"
    assert reader.history() == b"ghi"
    writer.write(bytearray(b"jk"))
    buffer = bytearray(1)
    assert (reader.peek(), reader.readinto(buffer), buffer) == (b"jk", 1, b"j")
    assert (reader.skip(), reader.try_read(), bytes(reader.ring[:3])) == (1, None, b"abc")
    for refused, error in ((b"bytes", TypeError), (memoryview(bytearray(4))[::2], ValueError)):
        try:
            reader.readinto(refused)
        except error:
            pass
        else:
            raise AssertionError
    async def main():
        await writer.awrite(b"123")
        assert await reader.aread(2) == b"12"
        assert await reader.areadinto(buffer) == 1
        async with writer.window(3, raw=True) as window:
            window[:] = b"abc"
        async with reader.window(raw=True) as window:
            assert bytes(window) == b"abc"
    asyncio.run(main())
    for side in (writer, reader):
        writer.write(b"x")
        try:
            side.window(1).__enter__()
        except ImportError as reason:
            assert "NumPy" in str(reason)
        else:
            raise AssertionError
        assert reader.read(1) == b"x"  # no window is open
    for use in (lambda: next(reader.blocks()), lambda: stream.dtype):
        writer.write(b"x")
        try:
            use()
        except ImportError:
            pass
        else:
            raise AssertionError
        assert reader.read(1) == b"x"
    file = writer.makefile("w")
    file.write("text")
    file.close()
    assert reader.makefile("r").read() == "text"
    assert reader.closed
    with ipcheap.sealed(b"abc") as box:
        assert bytes(box.view) == b"abc"
    heap.unlink()
""")


def test_streams_of_items_are_listed_without_numpy(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        stream = heap.add_stream("frames", 100, dtype=("f4", (2,)))
        without_numpy(f"""
import ipcheap
with ipcheap.Heap.attach({heap_name!r}) as heap:
    stream = heap.channels["frames"]
    assert heap.channel("frames") == heap.add_stream("frames") == stream
    assert (stream.capacity, stream.itemsize) == (100, 8)
    for claim in (stream.writer, stream.reader):
        try:
            claim()
        except ImportError as reason:
            assert "NumPy" in str(reason)
        else:
            raise AssertionError
""")
        with stream.writer() as writer, stream.reader() as reader:
            assert writer.try_write([[1, 2]]) == reader.skip() == 1  # neither side was claimed


# Against plain Python -------------------------------------------------------------------------


class StreamMachine(RuleBasedStateMachine):
    """A stream does what a bytearray and two positions do."""

    CAPACITY, BACKLOG = 37, 5

    def __init__(self) -> None:
        super().__init__()
        self.heap = ipcheap.Heap.create(None, "1MiB", shm="memfd")
        stream = self.heap.add_stream("s", self.CAPACITY, dtype="V3", backlog=self.BACKLOG)
        self.writer, self.reader = stream.writer(), stream.reader()
        self.all: list[bytes] = []
        self.read = self.base = 0

    def items(self, count: int) -> list[bytes]:
        first = len(self.all)
        return [(first + n).to_bytes(3, "little") for n in range(count)]

    @rule(count=st.integers(0, 60))
    def write(self, count: int) -> None:
        items = self.items(count)
        room = self.CAPACITY - (len(self.all) - self.read)
        assert self.writer.room == room
        done = self.writer.try_write(b"".join(items))
        assert done == min(room, count)
        self.all += items[:done]

    @rule(count=st.integers(1, 19), part=st.integers(0, 19))
    def window(self, count: int, part: int) -> None:
        room = self.CAPACITY - (len(self.all) - self.read)
        if count > room:
            with pytest.raises(TimeoutError), self.writer.window(count, 0, raw=True):
                pass
            return
        part = min(part, count)
        items = self.items(count)
        with self.writer.window(count, raw=True) as window:
            window[:] = b"".join(items)
            self.writer.commit(part)
        self.all += items[:part]

    @rule(count=st.integers(1, 60))
    def take(self, count: int) -> None:
        there = self.all[self.read :]
        assert self.reader.available == len(there)
        got = self.reader.try_read(count)
        if not there:
            assert got is None
        else:
            assert got.tobytes() == b"".join(there[:count])
            self.read += len(got)

    @rule(overlap=st.integers(0, 5), part=st.integers(0, 60))
    @precondition(lambda self: len(self.all) > self.read)
    def look(self, overlap: int, part: int) -> None:
        there = len(self.all) - self.read
        back = min(overlap, self.read - max(self.base, self.read - self.BACKLOG))
        with self.reader.window(overlap=overlap, raw=True) as window:
            assert bytes(window) == b"".join(self.all[self.read - back :])
            self.reader.release(min(part, there))
        self.read += min(part, there)

    @rule()
    def history(self) -> None:
        oldest = max(self.base, self.read - self.BACKLOG, 0)
        assert self.reader.history().tobytes() == b"".join(self.all[oldest : self.read])

    @rule(by_writer=st.booleans())
    def reset(self, by_writer: bool) -> None:
        (self.writer if by_writer else self.reader).reset()
        assert self.reader.available == 0
        self.read = self.base = len(self.all)

    @rule(writer=st.booleans())
    def succeed(self, writer: bool) -> None:
        if writer:
            self.writer.close()
            self.writer = self.heap.stream_writer("s")
        else:
            self.reader.close()
            self.reader = self.heap.stream_reader("s")
        assert (self.writer.position, self.reader.position) == (len(self.all), self.read)

    def teardown(self) -> None:
        assert self.heap.check() == []
        self.writer.close()
        self.reader.close()
        self.heap.close()


StreamMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_a_stream_does_what_a_list_does = StreamMachine.TestCase


class OverwritingMachine(RuleBasedStateMachine):
    """A stream that overwrites does what a list, a floor and two positions do."""

    CAPACITY, BACKLOG = 37, 5

    def __init__(self) -> None:
        super().__init__()
        self.heap = ipcheap.Heap.create(None, "1MiB", shm="memfd")
        stream = self.heap.add_stream(
            "s", self.CAPACITY, dtype="u4", backlog=self.BACKLOG, overwrite=True
        )
        self.writer, self.reader = stream.writer(), stream.reader()
        self.written = self.read = self.floor = self.base = self.lost = 0

    def spoil(self, end: int) -> None:
        self.floor = max(self.floor, end - self.CAPACITY - self.BACKLOG)

    @property
    def first(self) -> int:
        return max(self.read, self.floor, self.written - self.CAPACITY)

    def find(self) -> list[int]:
        """Move past what is lost, as each call does that finds something; return what is left."""
        self.lost += self.first - self.read
        self.read = self.first
        return [*range(self.read, self.written)]

    def kept(self, most: int) -> list[int]:
        oldest = max(self.base, self.read - self.BACKLOG, self.floor, 0)
        return [*range(max(oldest, self.read - most), self.read)]

    @rule(count=st.integers(0, 100), now=st.booleans())
    def write(self, count: int, now: bool) -> None:
        assert self.writer.room == self.CAPACITY
        items = np.arange(self.written, self.written + count, dtype="u4")
        assert (self.writer.try_write(items) if now else self.writer.write(items, 0)) == count
        self.written += count
        self.spoil(self.written)

    @rule(count=st.integers(1, 37), part=st.integers(0, 37))
    def window(self, count: int, part: int) -> None:
        part = min(part, count)
        with self.writer.window(count, 0) as window:
            self.spoil(self.written + count)
            assert self.reader.available == max(self.written - self.first, 0)
            window[:] = range(self.written, self.written + count)
            self.writer.commit(part)
        self.written += part

    @rule(count=st.integers(1, 60))
    def take(self, count: int) -> None:
        assert self.reader.available == max(self.written - self.first, 0)
        got = self.reader.try_read(count)
        if self.first >= self.written:
            assert got is None
            return
        assert got.tolist() == self.find()[:count]
        self.read += len(got)

    @rule(count=st.integers(1, 60))
    def skip(self, count: int) -> None:
        there = self.find()[:count] if self.first < self.written else []
        assert self.reader.skip(count) == len(there)
        self.read += len(there)

    @rule(count=st.integers(1, 37))
    def peek(self, count: int) -> None:
        if self.first >= self.written:
            with pytest.raises(TimeoutError):
                self.reader.peek(count, 0)
        else:
            assert self.reader.peek(count, 0, at_least=1).tolist() == self.find()[:count]

    @rule(overlap=st.integers(0, 5), part=st.integers(0, 60))
    def look(self, overlap: int, part: int) -> None:
        if self.first >= self.written:
            return
        there = self.find()
        with self.reader.window(overlap=overlap) as window:
            assert window.tolist() == self.kept(overlap) + there
            self.reader.release(min(part, len(there)))
        self.read += min(part, len(there))

    @rule()
    def history(self) -> None:
        assert self.reader.history().tolist() == self.kept(self.BACKLOG)

    @rule(by_writer=st.booleans())
    def reset(self, by_writer: bool) -> None:
        (self.writer if by_writer else self.reader).reset()
        assert self.reader.available == 0
        self.read = self.base = self.written

    @rule(writer=st.booleans())
    def succeed(self, writer: bool) -> None:
        if writer:
            self.writer.close()
            self.writer = self.heap.stream_writer("s")
        else:
            self.reader.close()
            self.reader = self.heap.stream_reader("s")
            self.lost = 0

    @invariant()
    def everything_is_counted(self) -> None:
        assert (self.writer.position, self.reader.position) == (self.written, self.read)
        assert self.reader.lost == self.lost

    def teardown(self) -> None:
        assert self.heap.check() == []
        self.writer.close()
        self.reader.close()
        self.heap.close()


OverwritingMachine.TestCase.settings = StreamMachine.TestCase.settings
test_a_stream_that_overwrites_does_what_a_list_does = OverwritingMachine.TestCase

"""Streams: positions and their successors, resets, the backlog, overwriting, statistics."""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pytest
from stream_sides import in_child, killed

import ipcheap

if TYPE_CHECKING:
    from stream_sides import Streams


# Positions and statistics -----------------------------------------------------------------------


def test_positions_count_from_the_beginning_over_all_successors(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10, backlog=2)
    written = read = 0
    for turn in range(6):
        with stream.writer() as writer, stream.reader() as reader:
            assert (writer.position, reader.position) == (written, read)
            written += writer.try_write(bytes(7))
            read += len(reader.try_read(3) or b"")
            read += reader.skip(1)
            with reader.window(1):
                read += 1
            if turn == 3:
                read += reader.available
                writer.reset()
                reader.available  # noqa: B018
            assert (writer.position, reader.position) == (written, read)
            assert (writer.room, reader.available) == (10 - written + read, written - read)


def test_statistics_say_what_happened(streams: Streams) -> None:
    writer, reader = streams(10, backlog=2)
    writer.write(b"abc")
    writer.try_write(b"defghijklm")
    writer.try_write(b"x")
    reader.read(2)
    reader.peek(2)
    reader.skip(1)
    with reader.window(1):
        pass
    with reader.window(1):
        reader.release(0)
    with writer.window(1):
        writer.commit(1)
    seen = reader.statistics()
    assert dataclasses.asdict(seen) == {
        "capacity": 10,
        "backlog": 2,
        "written": 11,
        "read": 4,
        "writes": 3,
        "reads": 3,
        "lost": 0,
        "parks": 0,
        "wakes": 0,
        "mirrored": True,
    }
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen.read = 1  # type: ignore[misc]
    assert writer.statistics().written == 11
    with pytest.raises(TimeoutError):
        reader.read(5, 0) and reader.read(5, 0)
    with pytest.raises(TimeoutError):
        reader.read(5, 0.05)
    assert reader.statistics().parks >= 1


# The backlog --------------------------------------------------------------------------------------


def test_the_backlog_is_what_was_released_or_skipped(streams: Streams) -> None:
    writer, reader = streams(10, backlog=4)
    assert reader.history() == reader.history(4) == b""
    writer.write(b"abcdefghij")
    reader.read(1)
    assert reader.history() == b"a"
    reader.skip(2)
    with reader.window(2):
        pass
    assert reader.history() == b"bcde"
    assert reader.history(3) == b"cde"
    for _ in range(3):
        writer.try_write(bytes(10))  # it never yields to the writer
        assert reader.history() == b"bcde"
    reader.close()
    with streams.heap.stream_reader(0) as successor:
        assert successor.history() == b"bcde"
        with successor.window(1, overlap=4, raw=True) as window:
            assert bytes(window) == b"bcdef"
        for n, error in ((5, ValueError), (-1, ValueError), (1.0, TypeError)):
            with pytest.raises(error):
                successor.history(n)  # type: ignore[arg-type]
        successor.reset()
        assert successor.history() == b""


def test_a_reset_of_either_side_forgets_the_backlog(streams: Streams) -> None:
    for by_writer in (True, False):
        writer, reader = streams(10, backlog=4)
        writer.write(b"abcdef")
        reader.read(5)
        (writer if by_writer else reader).reset()
        assert reader.history() == b""
        assert (reader.position, reader.available, reader.lost) == (6, 0, 0)
        writer.write(b"xyz")
        assert reader.read(2) == b"xy"
        assert reader.history() == b"xy"


# Resets ---------------------------------------------------------------------------------------


def test_a_reset_leaves_an_open_window_intact(streams: Streams) -> None:
    writer, reader = streams(4000, backlog=96)  # the ring has no cell to spare
    writer.write(b"a" * 4000)
    with reader.window(2000, raw=True) as window:
        writer.reset()
        assert reader.available == 0
        assert ipcheap.wait([reader], 0) == []
        with pytest.raises(TimeoutError):
            ipcheap.wait([reader], 0.01) or writer.write(b"x", 0)
        reader.wait_peer(0)
        writer.try_write(b"b" * 4000)
        assert bytes(window) == b"a" * 2000
        assert reader.statistics().read == 0
    assert reader.position == 4000  # the release was stale, and dropped all
    assert writer.write(b"c" * 4000) == 4000
    with reader.window(10):
        pass
    assert reader.position == 4010  # the next one counts again


@pytest.mark.parametrize("end", ["raised", "released none", "closed"])
def test_the_room_of_a_reset_comes_back_however_the_window_ends(streams: Streams, end: str) -> None:
    writer, reader = streams(10)
    writer.write(bytes(10))
    try:
        with reader.window(3):
            writer.reset()
            assert writer.room == 0
            if end == "raised":
                raise KeyError
            if end == "released none":
                reader.release(0)
            else:
                reader.close()
    except KeyError:
        pass
    assert writer.room == 10
    assert writer.write(bytes(10)) == 10


def test_the_room_comes_back_when_the_reader_notices(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10)
    with stream.writer() as writer:
        writer.write(bytes(10))
        writer.reset()  # there is no reader
        assert writer.room == 10
        for notice in ("available", "try_read", "skip", "history", "peek"):
            with stream.reader() as reader:
                writer.write(bytes(10))
                writer.reset()
                assert writer.room == 0
                if notice == "available":
                    assert reader.available == 0
                elif notice == "peek":
                    with pytest.raises(TimeoutError):
                        reader.peek(timeout=0)
                else:
                    getattr(reader, notice)()
                assert writer.room == 10
        killed(lambda: stream.reader().available)
        writer.write(bytes(10))
        writer.reset()
        assert writer.room == 10


def test_the_room_comes_back_immediately_if_the_reader_sleeps(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10)

    def read() -> None:
        with stream.reader() as reader:
            ready.set()
            got.append(reader.read(5, timeout=peers.PATIENCE))

    got: list[bytes] = []
    ready = threading.Event()
    with stream.writer() as writer:
        writer.write(bytes(4))
        thread = threading.Thread(target=read)
        thread.start()
        ready.wait()
        time.sleep(0.1)
        assert not got
        writer.reset()
        peers.until(lambda: writer.room == 10)
        writer.write(b"abcde")
        thread.join()
    assert got == [b"abcde"]


def test_no_call_mixes_items_from_before_and_after_a_reset(streams: Streams) -> None:
    """Items carry the number of resets before them; each call must see one number only."""
    stream = streams.heap.add_stream("s", 50, dtype="u4", backlog=10)
    dice = random.Random(3)
    stop = threading.Event()
    seen: list[set[int]] = []
    resets = [0]

    def read() -> None:
        with stream.reader() as reader:
            while not stop.is_set():
                try:
                    if dice.random() < 0.5:
                        items = reader.read(timeout=0.01)
                    else:
                        with reader.window(timeout=0.01, overlap=10) as window:
                            items = window.copy()
                except TimeoutError:
                    continue
                seen.append({*items.tolist()})

    thread = threading.Thread(target=read)
    with stream.writer() as writer:
        thread.start()
        for _ in range(3000):
            writer.write(np.full(7, resets[0], "u4"), peers.PATIENCE)
            if dice.random() < 0.2:
                resets[0] += 1
                writer.reset()
        stop.set()
        thread.join()
    assert all(len(each) == 1 for each in seen)
    assert len(seen) > 100


def test_nothing_that_was_dropped_is_delivered_after_a_reset(streams: Streams) -> None:
    writer, reader = streams(10, backlog=3)
    for side in (writer, reader):
        writer.try_write(b"before....")
        side.reset()
        assert reader.try_read() is None
        assert reader.skip() == 0
        assert reader.history() == b""
        with pytest.raises(TimeoutError):
            reader.read(1, 0)
        with pytest.raises(TimeoutError):
            reader.window(1, 0, overlap=3).__enter__()
        writer.write(b"after")
        assert reader.peek() == b"after"
        assert reader.read() == b"after"
    assert reader.lost == 0
    assert reader.position == writer.position


# Overwriting --------------------------------------------------------------------------------------


def test_an_overwriting_writer_has_room_whether_there_is_a_reader_or_not(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10, overwrite=True)
    with stream.writer() as writer:
        for _ in range(5):
            assert writer.room == 10
            assert writer.write(bytes(25), 0) == 25
            assert writer.try_write(bytes(25)) == 25
            with writer.window(10, 0):
                pass
        assert writer.statistics().parks == 0
        killed(lambda: stream.reader().read(3))
        assert writer.write(bytes(100), 0) == 100
        stream.reader().close()
        assert writer.write(bytes(100), 0) == 100
        assert writer.position == 500


def test_lost_counts_from_the_predecessor_s_position(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10, dtype="u4", overwrite=True)
    with stream.writer() as writer:
        writer.write(range(25))
        with stream.reader() as reader:
            assert reader.lost == 0
            assert reader.read(2).tolist() == [15, 16]
            assert (reader.lost, reader.position) == (15, 17)
        writer.write(range(25, 40))
        with stream.reader() as successor:
            claimed = successor.position
            assert claimed == 17
            assert successor.available == 10
            assert successor.read().tolist() == [*range(30, 40)]
            assert successor.lost == 13
            assert 10 + successor.lost == successor.position - claimed


def test_each_item_is_delivered_skipped_dropped_or_lost(streams: Streams) -> None:
    """Exactly, at any time between calls."""
    dice = random.Random(11)
    writer, reader = streams(20, dtype="u4", overwrite=True, backlog=4)
    counts, written, cut = dict.fromkeys(("delivered", "skipped"), 0), 0, 0
    dropped = 0
    for _ in range(3000):
        way = dice.randrange(8)
        if way < 3:
            count = dice.randrange(30)
            writer.write(np.arange(written, written + count, dtype="u4"))
            written += count
        elif way == 3:
            got = reader.try_read(dice.randrange(1, 30))
            counts["delivered"] += 0 if got is None else len(got)
            if got is not None:
                assert got.tolist() == [*range(reader.position - len(got), reader.position)]
        elif way == 4:
            counts["skipped"] += reader.skip(dice.randrange(1, 10))
        elif way == 5 and reader.available:
            with reader.window(overlap=dice.randrange(5)) as window:
                assert (np.diff(window.astype("i8")) == 1).all()
                part = dice.randrange(1 + min(reader.available, len(window)))
                reader.release(part)
                counts["delivered"] += part
        elif way == 6 and reader.available:
            first, position = reader.peek(1)[0], reader.position
            assert first == position
        elif way == 7 and dice.random() < 0.2:
            before = reader.position + 0 * reader.available
            lost = reader.lost
            (writer if dice.random() < 0.5 else reader).reset()
            reader.available  # noqa: B018
            dropped += reader.position - before - (reader.lost - lost)
            cut = written
            assert reader.position == cut
        assert sum(counts.values()) + dropped + reader.lost == reader.position
    assert reader.lost > 100
    assert min(counts.values()) > 100


def test_windows_and_blocks_of_an_overwriting_stream_are_copies(streams: Streams) -> None:
    writer, reader = streams(20, dtype="u4", overwrite=True, backlog=5)
    writer.write(range(20))
    reader.read(5)
    with reader.window(10, overlap=5) as window:
        writer.write(range(100, 200))
        assert window.tolist() == [*range(15)]
    assert not window.flags.writeable
    assert window.tolist() == [*range(15)]
    block = next(reader.blocks(10))
    kept = block.copy()
    writer.write(range(200, 300))
    assert (np.diff(block) == 1).all()
    assert not block.flags.writeable
    reader.close()
    assert (block == kept).all()


def test_the_backlog_is_kept_as_far_as_it_is_not_overwritten(streams: Streams) -> None:
    writer, reader = streams(20, dtype="u4", overwrite=True, backlog=10)
    writer.write(range(20))
    reader.read(20)
    assert reader.history().tolist() == [*range(10, 20)]
    writer.write(range(20, 40))
    assert reader.history().tolist() == [*range(10, 20)]
    writer.write(range(40, 44))
    assert reader.history().tolist() == [*range(14, 20)]
    with reader.window(1, overlap=10) as window:
        assert (reader.position, reader.lost) == (24, 4)
        assert window[-1] == 24
        assert (np.diff(window) == 1).all()
    writer.write(range(44, 100))
    assert reader.history().tolist() == []


def test_a_writer_s_window_spoils_what_was_in_its_place(streams: Streams) -> None:
    for commit in (0, 2, None):
        writer, reader = streams(20, dtype="u4", overwrite=True)
        writer.write(range(20))
        with writer.window(8):
            assert reader.available == 12
            if commit is not None:
                writer.commit(commit)
        assert reader.peek(1).tolist() == [8]
        assert reader.lost == 8
        assert reader.available == 12 + (8 if commit is None else commit)


def test_the_newest_items_are_a_quarter(streams: Streams) -> None:
    """A writer much faster than the reader is overtaken by nobody: what comes is whole and new."""
    stream = streams.heap.add_stream("s", 200_000, dtype="u8", overwrite=True)

    def write() -> int:
        with stream.writer() as writer:
            end, next_ = time.monotonic() + 1.0, 0
            while time.monotonic() < end:
                writer.write(np.arange(next_, next_ + 200_000, dtype="u8"))
                next_ += 200_000
            return writer.position

    thread = threading.Thread(target=lambda: totals.append(in_child(write)))
    totals: list[int] = []
    delivered = calls = 0
    with stream.reader() as reader:
        thread.start()
        try:
            while True:
                items = reader.read(timeout=peers.PATIENCE)
                calls += 1
                assert (np.diff(items.view("i8")) == 1).all()
                assert items[-1] + 1 == reader.position
                delivered += len(items)
                assert delivered + reader.lost == reader.position
        except ipcheap.ChannelClosed:
            pass
        thread.join()
        assert reader.position == totals[0]
    assert calls > 3


def test_a_stream_that_does_not_overwrite_loses_nothing(streams: Streams) -> None:
    writer, reader = streams(10)
    writer.write(bytes(10))
    reader.skip(3)
    writer.reset()
    assert reader.available == reader.lost == reader.statistics().lost == 0


def test_a_dead_writer_s_half_filled_window_is_never_handed_out(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 1000, dtype="u4", overwrite=True)

    def spoil() -> Any:
        writer = stream.writer()
        writer.write(range(1000))
        window = writer.window(300)
        window.__enter__()[:] = 0xFFFFFFFF
        return window

    killed(spoil)
    with stream.reader() as reader:
        assert reader.read().tolist() == [*range(300, 1000)]
        assert reader.lost == 300

"""Streams as channels: shapes, memory, claims, ends, threads and processes."""

from __future__ import annotations

import asyncio
import inspect
import mmap
import os
import pickle
import resource
import signal
import struct
import threading
from typing import TYPE_CHECKING, Any

import kinds
import numpy as np
import peers
import pytest
import seccomp
import stream_sides
import stream_workers
from stream_sides import in_child, killed

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stream_sides import Streams


# The interface ---------------------------------------------------------------------------------

FILE = "buffering=-1, *, encoding=None, errors=None, newline=None"
CLAIM = "timeout=0.0, *, dtype=None, mlock=False"
SIGNATURES: dict[tuple[type, str], str] = {
    (ipcheap.Heap, "add_stream"): "id, capacity=None, *, dtype='u1', backlog=0, overwrite=False",
    (ipcheap.Heap, "stream_writer"): f"id, {CLAIM}",
    (ipcheap.Heap, "stream_reader"): f"id, {CLAIM}",
    (ipcheap.Stream, "writer"): CLAIM,
    (ipcheap.Stream, "reader"): CLAIM,
    (ipcheap.StreamWriter, "write"): "data, timeout=None",
    (ipcheap.StreamWriter, "commit"): "k",
    (ipcheap.StreamWriter, "reset"): "",
    (ipcheap.StreamWriter, "awrite"): "data",
    (ipcheap.StreamWriter, "makefile"): f"mode='wb', {FILE}",
    (ipcheap.StreamWriter, "wait_peer"): "timeout=None",
    (ipcheap.StreamReader, "read"): "n=None, timeout=None, *, at_least=None",
    (ipcheap.StreamReader, "try_read"): "n=None",
    (ipcheap.StreamReader, "readinto"): "buffer, timeout=None, *, at_least=None",
    (ipcheap.StreamReader, "peek"): "n=None, timeout=None, *, at_least=None",
    (ipcheap.StreamReader, "skip"): "n=None",
    (ipcheap.StreamReader, "release"): "k",
    (ipcheap.StreamReader, "blocks"): "size=None, *, hop=None, fill=None, timeout=None",
    (ipcheap.StreamReader, "history"): "n=None",
    (ipcheap.StreamReader, "reset"): "",
    (ipcheap.StreamReader, "aread"): "n=None, *, at_least=None",
    (ipcheap.StreamReader, "areadinto"): "buffer, *, at_least=None",
    (ipcheap.StreamReader, "makefile"): f"mode='rb', {FILE}",
    (ipcheap.Sealed, "array"): "dtype='u1', shape=None",
}


@pytest.mark.parametrize(
    ("owner", "name"), SIGNATURES, ids=lambda part: getattr(part, "__name__", part)
)
def test_the_arguments_have_names_and_defaults(owner: type, name: str) -> None:
    first, *found = inspect.signature(getattr(owner, name)).parameters.values()
    assert first.name == "self"
    bare = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in found]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[owner, name]})"


def test_what_each_side_tells(streams: Streams) -> None:
    shape: dict[str, Any] = {"dtype": ("f4", (2,)), "backlog": 3, "overwrite": True}
    for side in streams(10, **shape):
        assert (side.channel, side.capacity, side.backlog, side.overwrite) == (0, 10, 3, True)
        assert (side.dtype, side.itemsize, side.position) == (np.dtype(("f4", (2,))), 8, 0)
        assert (side.watermark, side.closed, len(side.ring)) == (1, False, 4096)
        side.close()
        assert side.closed
    stream = streams.heap.add_stream(0)
    assert (stream.id, stream.heap, stream.overwrite) == (0, streams.heap, True)


def test_an_error_names_the_channel_the_number_and_the_way_out(streams: Streams) -> None:
    heap = streams.heap
    writer, reader = streams(10, dtype="f4", backlog=2)
    seen: dict[str, str] = {}

    def see(name: str, call: Callable[[], Any]) -> None:
        with pytest.raises(Exception) as raised:  # noqa: PT011
            call()
        seen[name] = f"{type(raised.value).__name__}: {raised.value}"

    see("full", lambda: heap.add_stream("more", "64MiB"))
    see("limit", lambda: reader.read(6))
    see("timeout", lambda: reader.read(2, timeout=0.01))
    see("backlog", lambda: reader.history(3))
    see("overlap", lambda: reader.window(1, overlap=3))
    see("no window", lambda: writer.commit(1))
    with writer.window(2):
        see("larger", lambda: writer.commit(3))
        see("window", lambda: writer.write([1]))
        writer.commit(0)
    see("busy", lambda: heap.stream_writer(0))
    see("dtype", lambda: heap.add_stream("s", 5).reader(dtype="i4"))
    see("pickle", lambda: pickle.dumps(reader))
    see("file", writer.makefile)
    see("whole", lambda: writer.write(bytes(6)))
    see("shape", lambda: writer.write(np.zeros((2, 3), "f4")))
    see("fork", lambda: in_child(lambda: writer.write([1])))
    thread = threading.Thread(target=lambda: see("thread", lambda: writer.write([1])))
    thread.start()
    thread.join()
    writer.close()
    see("closed", lambda: writer.write([1]))
    see("end", reader.read)
    words = {
        "full": ("HeapFull", "64.0 MiB", "larger heap"),
        "limit": ("ValueError", "channel 0", "at most 5 items", "not for 6", "at_least"),
        "timeout": ("TimeoutError", "channel 0", "timeout"),
        "backlog": ("ValueError", "backlog, 2, not 3"),
        "overlap": ("ValueError", "backlog, 2, not 3"),
        "no window": ("WindowError", "channel 0", "no window"),
        "larger": ("ValueError", "fewer than 3", "still open"),
        "window": ("WindowError", "channel 0", "leave its block first"),
        "busy": ("ChannelBusy", "channel 0", "writer side", str(os.getpid())),
        "dtype": ("ChannelTypeError", "'s'", "uint8", "'i4'"),
        "pickle": ("TypeError", "StreamReader", "pass its channel"),
        "file": ("TypeError", "StreamWriter", "4 bytes"),
        "whole": ("ValueError", "6 bytes", "items of 4"),
        "shape": ("ValueError", "(2, 3)"),
        "fork": ("WrongProcess", "channel 0", "forked from"),
        "thread": ("WrongThread", "channel 0", "'MainThread'", "claim one in each thread"),
        "closed": ("EndpointClosed", "channel 0"),
        "end": ("ChannelClosed", "channel 0"),
    }
    assert seen.keys() == words.keys()
    for name, text in seen.items():
        assert all(word in text for word in words[name]), text


# Shape and memory -----------------------------------------------------------------------------


def test_capacity_is_exact_whatever_the_backlog(streams: Streams) -> None:
    for capacity, backlog in ((1, 0), (3, 0), (3, 5000), (4097, 1)):
        writer, reader = streams(capacity, backlog=backlog, dtype="V7")
        assert writer.room == capacity
        assert writer.try_write(bytes(7 * (capacity + 1))) == capacity
        assert (writer.room, reader.available) == (0, capacity)


@pytest.mark.parametrize(
    ("dtype", "error"),
    [
        ([("x", "i4"), ("y", "O")], TypeError),
        (("O", (2,)), TypeError),
        ("no type", TypeError),
        (("f4", (0,)), ValueError),
        ("U0", ValueError),
        ([(f"field {n}", "f4") for n in range(1000)], ValueError),
    ],
    ids=str,
)
def test_what_no_item_can_be(streams: Streams, dtype: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        streams.heap.add_stream("s", 10, dtype=dtype)
    assert list(streams.heap.channels) == []


def test_names_of_one_dtype_are_one_stream(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10)
    for dtype in ("u1", np.uint8, np.dtype("B"), "|u1"):
        assert streams.heap.add_stream("s", 10, dtype=dtype) == stream
        stream.writer(dtype=dtype).close()
    with pytest.raises(ipcheap.ChannelTypeError):
        streams.heap.add_stream("s", 10, dtype="i1")


def test_without_a_capacity_other_arguments_are_ignored(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10, dtype="f4", backlog=3)
    nonsense: Any = "what"
    assert streams.heap.add_stream("s", dtype="O", backlog=-1, overwrite=nonsense) == stream
    assert streams.heap.add_stream("s").backlog == 3


def test_an_item_in_bytes_that_does_not_fit_is_refused(streams: Streams) -> None:
    with pytest.raises(ValueError, match="capacity"):
        streams.heap.add_stream("s", "7B", dtype="f8")


def test_new_memory_is_zero_and_counts(streams: Streams) -> None:
    heap = streams.heap
    record = heap.allocate_record(4 << 20)
    record[:] = b"\xff" * record.nbytes
    record.free()
    stream = heap.add_stream("s", "4MiB", dtype="f8")
    assert heap.statistics().in_use >= 4 << 20
    with stream.writer() as writer:
        assert not np.frombuffer(writer.ring, "u8").any()
        with writer.window(1000) as window:
            assert not window.any()
    heap.remove_channel("s")
    assert heap.statistics().in_use == 0


def test_all_memory_is_committed_when_a_stream_is_added() -> None:
    seen = kinds.call_apart(stream_workers.fill_a_ring_without_memory_left, shm_bytes=16 << 20)
    assert seen == {"refused": True, "kept": True, "names": ["s"], "check": []}


def test_kinds_are_compared(streams: Streams) -> None:
    heap = streams.heap
    heap.add_static_segment("static", 100)
    heap.add_record_channel("record", 16)
    stream = heap.add_stream("stream", 10)
    for other in ("static", "record"):
        for call in (heap.stream_writer, heap.stream_reader, heap.add_stream):
            with pytest.raises(ipcheap.ChannelTypeError, match="not a stream"):
                call(other)
    for call_on_stream in (heap.producer, heap.consumer):
        with pytest.raises(ipcheap.ChannelTypeError):
            call_on_stream("stream")
    with pytest.raises(ipcheap.ChannelNotFound):
        heap.stream_reader("none")
    found = heap.channel("stream")
    assert type(found) is ipcheap.Stream
    assert found == stream


def test_a_pickled_stream_is_used_elsewhere(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 100, dtype="i4")
    with stream.reader() as reader:
        peers.call(stream_workers.write_once, stream, [1, 2, 3])
        assert reader.read().tolist() == [1, 2, 3]


# Claims -----------------------------------------------------------------------------------------


def test_a_claim_of_another_dtype_disturbs_nobody(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 100, dtype="f4")
    with stream.reader() as reader:
        killed(lambda: stream.writer().write([1.0]))
        with pytest.raises(ipcheap.ChannelTypeError, match="not of 'f8'"):
            stream.writer(dtype="f8")
        assert reader.read().tolist() == [1.0]
        with pytest.raises(ipcheap.PeerDied):
            reader.read()


def test_a_claim_has_the_shape_of_the_stream_that_it_found(streams: Streams) -> None:
    heap = streams.heap
    old = heap.add_stream("s", 100, dtype="f8")
    heap.remove_channel("s")
    heap.add_stream("s", 50, dtype="V3")
    with pytest.raises(ipcheap.ChannelNotFound):
        old.writer()
    with heap.stream_writer("s") as writer:
        assert (writer.capacity, writer.itemsize) == (50, 3)
        assert writer.write(bytes(9)) == 3


def test_a_claim_waits_for_the_stream_and_the_side(streams: Streams) -> None:
    heap = streams.heap

    def add_late() -> None:
        with heap.add_stream("late", 10).writer() as first:
            first.write(b"abc")

    timer = threading.Timer(0.05, add_late)
    timer.start()
    with heap.stream_reader("late", peers.PATIENCE) as reader:
        assert reader.read(3, timeout=peers.PATIENCE) == b"abc"
    timer.join()
    with heap.stream_writer("late"), pytest.raises(ipcheap.ChannelBusy, match="writer side"):
        heap.stream_writer("late", 0.01)


def test_a_dead_side_can_be_claimed_again(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 100)
    killed(lambda: stream.writer().write(b"abc"))
    killed(lambda: stream.reader().peek(2))
    with stream.writer() as writer, stream.reader() as reader:
        assert (writer.position, reader.position) == (3, 0)
        assert reader.read() == b"abc"


def test_a_new_writer_cancels_the_end_mark(streams: Streams) -> None:
    writer, reader = streams()
    writer.close()
    with pytest.raises(ipcheap.ChannelClosed):
        reader.read()
    with streams.heap.stream_writer(0) as successor:
        with pytest.raises(TimeoutError):
            reader.read(timeout=0.01)
        assert reader.try_read() is None
        successor.write(b"more")
        assert reader.read() == b"more"


def test_the_other_side_s_end_matters_only_to_a_call_that_would_wait(streams: Streams) -> None:
    writer, reader = streams(10)
    reader.close()
    assert writer.write(bytes(8)) == 8
    with writer.window(2):
        pass
    assert writer.room == 0
    for call in (
        lambda: writer.write(b"x"),
        lambda: writer.try_write(b"x"),
        lambda: writer.window(1).__enter__(),
    ):
        with pytest.raises(ipcheap.ChannelClosed):
            call()
    with streams.heap.stream_reader(0) as successor:
        assert writer.try_write(b"x") == 0
        assert successor.read() == bytes(10)


def test_a_killed_reader_is_told_apart(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10)
    with stream.writer() as writer:
        killed(lambda: stream.reader().position)
        writer.write(bytes(8))
        with pytest.raises(ipcheap.PeerDied) as raised:
            writer.write(bytes(4))
        assert raised.value.done == 2
        with pytest.raises(ipcheap.PeerDied):
            writer.try_write(b"x")


def test_what_was_not_released_outlives_its_reader(streams: Streams) -> None:
    writer, reader = streams(100, backlog=4)
    writer.write(b"abcdefgh")
    assert reader.read(3) == b"abc"
    with reader.window(2):
        reader.close()
    writer.close()
    with streams.heap.stream_reader(0) as successor:
        assert successor.position == 3
        assert successor.history() == b"abc"
        with successor.window(overlap=2, raw=True) as window:
            assert bytes(window) == b"bcdefgh"


def test_closing_is_idempotent_and_dropping_warns(streams: Streams) -> None:
    writer, reader = streams()
    for _ in range(2):
        writer.close()
        reader.close()
    for call in (
        lambda: writer.try_write(b"x"),
        lambda: writer.write(b""),
        lambda: writer.window(1).__enter__(),
        lambda: writer.commit(0),
        writer.reset,
        lambda: writer.room,
        lambda: writer.ring,
        writer.fileno,
        lambda: writer.wait_peer(0),
        lambda: reader.read(0),
        reader.try_read,
        lambda: reader.readinto(bytearray()),
        lambda: reader.peek(1),
        lambda: reader.skip(0),
        reader.history,
        lambda: next(reader.blocks()),
        lambda: reader.release(0),
        lambda: reader.available,
    ):
        with pytest.raises(ipcheap.EndpointClosed):
            call()
    assert writer.closed
    dropped = streams.heap.stream_writer(0)
    with pytest.warns(ResourceWarning, match="unclosed"):
        del dropped
    streams.heap.stream_writer(0).close()


def test_a_closed_heap_closes_its_sides() -> None:
    heap = ipcheap.Heap.create(None, "1MiB", shm="memfd")
    stream = heap.add_stream("s", 10)
    writer, reader = stream.writer(), stream.reader()
    heap.close()
    for call in (lambda: writer.write(b"x"), reader.read, lambda: reader.ring, stream.reader):
        with pytest.raises(ipcheap.HeapClosed):
            call()
    assert writer.closed


@pytest.mark.parametrize("refused", [False, True])
def test_a_heap_closed_with_windows_open(refused: bool) -> None:
    def use() -> tuple[bool, bytes, list[int]]:
        if refused:
            seccomp.refuse("mremap")
        heap = ipcheap.Heap.create(None, "1MiB", shm="memfd")
        stream = heap.add_stream("s", 10)
        writer, reader = stream.writer(), stream.reader()
        writer.write(b"abc")
        with writer.window(3) as filled, reader.window(3, raw=True) as seen:
            filled[:] = 7
            heap.close()
        with pytest.raises(ipcheap.HeapClosed):
            writer.commit(1)
        return filled.flags.writeable, bytes(seen), filled.tolist()

    assert in_child(use) == (False, b"abc", [7, 7, 7])


def write_until_refused(writer: ipcheap.StreamWriter, data: bytes) -> None:
    while True:
        writer.write(data)


def test_a_heap_closed_in_another_thread_ends_a_wait_and_spares_a_copy() -> None:
    for _ in range(20):
        heap = ipcheap.Heap.create(None, "16MiB", shm="memfd")
        stream = heap.add_stream("s", "4MiB", overwrite=True)
        writer, data = stream.writer(), bytes(8 << 20)
        timer = threading.Timer(0.001, heap.close)
        timer.start()
        with pytest.raises(ipcheap.HeapClosed):
            write_until_refused(writer, data)
        timer.join()
    heap = ipcheap.Heap.create(None, "1MiB", shm="memfd")
    reader = heap.add_stream("s", 10).reader()
    timer = threading.Timer(0.05, heap.close)
    timer.start()
    with pytest.raises(ipcheap.HeapClosed):
        reader.read(timeout=peers.PATIENCE)
    timer.join()


def test_the_end_of_a_thread_closes_its_sides(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", 10)
    kept: list[Any] = []
    thread = threading.Thread(target=lambda: kept.append(stream.writer()))
    thread.start()
    thread.join()
    with stream.reader() as reader, pytest.raises(ipcheap.ChannelClosed):
        reader.read(timeout=peers.PATIENCE)
    stream.writer().close()
    kept[0].close()


def test_every_call_refuses_another_thread(streams: Streams) -> None:
    writer, reader = streams(100, backlog=3)
    calls: dict[str, Any] = {
        "write": lambda: writer.write(b"x"),
        "try_write": lambda: writer.try_write(b"x"),
        "window": lambda: writer.window(1).__enter__(),
        "commit": lambda: writer.commit(0),
        "room": lambda: writer.room,
        "reset": writer.reset,
        "fileno": writer.fileno,
        "close": writer.close,
        "read": reader.read,
        "read(0)": lambda: reader.read(0),
        "try_read": reader.try_read,
        "readinto": lambda: reader.readinto(bytearray(1)),
        "peek": lambda: reader.peek(1),
        "skip": reader.skip,
        "history": reader.history,
        "blocks": lambda: next(reader.blocks(1)),
        "release": lambda: reader.release(0),
        "available": lambda: reader.available,
        "watermark": lambda: setattr(reader, "watermark", 2),
        "ring": lambda: reader.ring,
    }
    seen: dict[str, str] = {}

    def use() -> None:
        for name, call in calls.items():
            try:
                call()
            except Exception as error:
                seen[name] = type(error).__name__

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert seen == dict.fromkeys(calls, "WrongThread")

    def use_in_child() -> set[str]:
        use()
        return {*seen.values()}

    assert in_child(use_in_child) == {"WrongProcess"}


def test_a_removed_stream_keeps_what_open_windows_show(streams: Streams) -> None:
    """Its memory is given to others when both sides have closed."""
    heap = streams.heap
    writer, reader = streams("4MiB")
    writer.write(b"a" * (1 << 20))
    with writer.window(1000) as filled, reader.window(1 << 19) as seen:
        with pytest.raises(ipcheap.ChannelBusy):
            heap.remove_channel(0)
        in_child(lambda: heap.remove_channel(0, force=True))
        record = heap.allocate_record(8 << 20)
        record[:] = b"\xff" * record.nbytes
        filled[:] = ord("b")
        assert (seen == ord("a")).all()
        assert bytes(record.view[:1000]) == b"\xff" * 1000
        record.free()
    for call in (lambda: writer.write(b"x"), reader.read, reader.reset):
        with pytest.raises(ipcheap.EndpointClosed):
            call()
    del record
    writer.close()
    reader.close()
    assert heap.statistics().in_use == 0
    assert heap.check() == []


def test_a_corrupt_stream_says_so(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        stream = heap.add_stream("s", 1000, backlog=10)
        writer, reader = stream.writer(), stream.reader()
        while writer.position < 77_770:
            writer.write(bytes(777))
            reader.read()
        calls: list[Callable[[], Any]] = [
            reader.read,
            reader.try_read,
            reader.peek,
            reader.skip,
            reader.history,
            reader.reset,
            lambda: reader.available,
            lambda: reader.readinto(bytearray(1)),
            lambda: reader.window(1).__enter__(),
            lambda: next(reader.blocks(1)),
            lambda: asyncio.run(read_later(reader)),
            lambda: writer.write(b"x"),
            lambda: writer.try_write(b"x"),
            lambda: writer.window(1).__enter__(),
            lambda: writer.room,
            writer.reset,
        ]
        segment = f"/dev/shm/ipcheap.{heap_name}"
        with open(segment, "r+b") as file, mmap.mmap(file.fileno(), 0) as raw:
            at = raw.find(struct.pack("Q", writer.position))  # the writer's side comes first
            raw[at : at + 8] = struct.pack("Q", 12)
        for call in calls:
            with pytest.raises(ipcheap.CorruptHeap, match="'s'"):
                call()
        assert any("stream" in fault for fault in heap.check())
        for side in (writer, reader):
            assert side.statistics().capacity == 1000
            side.close()
        for claim in (stream.writer, stream.reader):
            with pytest.raises(ipcheap.CorruptHeap, match="'s'"):
                claim()
        heap.remove_channel("s")
        assert heap.check() == []


async def read_later(reader: ipcheap.StreamReader) -> Any:
    return await reader.aread(1)


# Locking ------------------------------------------------------------------------------------------


def locked_bytes() -> int:
    """Return how much memory this process has locked."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmLck"))
    return int(line.split()[1]) << 10


def test_mlock_locks_the_ring_until_the_endpoint_closes(streams: Streams) -> None:
    stream = streams.heap.add_stream("s", "256KiB")

    def lock() -> tuple[int, int]:
        writer = stream.writer(mlock=True)
        locked, view = locked_bytes(), writer.ring
        writer.close()
        return locked, len(view) * locked_bytes()

    locked, left = in_child(lock)
    assert locked >= 256 << 10
    assert left == 0


@pytest.mark.parametrize("refused", [False, True])
def test_no_call_faults_where_the_ring_is_locked(streams: Streams, refused: bool) -> None:
    pages = 512
    stream = streams.heap.add_stream("s", pages * 4096)

    def faults(lock: bool) -> int:
        if refused:
            seccomp.refuse("mremap")
        buffer = bytearray(b"x" * (pages * 1024))
        with stream.writer(mlock=lock) as writer, stream.reader(mlock=lock) as reader:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            for _ in range(4):  # all of the ring
                writer.write(buffer)
                reader.readinto(buffer)
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    assert in_child(lambda: faults(True)) < pages // 8
    if not refused:  # the heap's own mapping may have been touched before
        assert in_child(lambda: faults(False)) >= pages


@pytest.mark.parametrize("limit", [0, 64 << 10])
def test_a_lock_that_is_refused_claims_nothing(streams: Streams, limit: int) -> None:
    stream = streams.heap.add_stream("s", "256KiB")
    reader = stream.reader()
    killed(lambda: stream.writer().write(b"abc"))

    def lock() -> str:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
        if os.getuid() == 0:
            os.setresuid(65534, 65534, 65534)
        try:
            stream.writer(mlock=True)
        except OSError as error:
            return f"{type(error).__name__} {error}"
        return "locked"

    text = in_child(lock)
    assert "RLIMIT_MEMLOCK" in text
    assert f"{limit:,} bytes" in text
    assert reader.read() == b"abc"
    with pytest.raises(ipcheap.PeerDied):  # and not ChannelClosed
        reader.read()
    reader.close()


def test_signals_end_a_write_and_say_how_much_is_written(streams: Streams) -> None:
    writer, _ = streams(10)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt) as raised:
            writer.write(bytes(25))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert raised.value.done == 10  # type: ignore[attr-defined]
    assert writer.position == 10


each_shm = pytest.mark.parametrize("kind", kinds.ALL[::3], ids=str)


@each_shm
def test_every_kind_of_heap_keeps_sides_and_their_views(
    kind: kinds.Kind, heap_name: str, tmp_path: Path
) -> None:
    with kinds.made(kind, heap_name, tmp_path, "1MiB") as heap:
        made = stream_sides.Streams(heap)
        writer, reader = made("64KiB", backlog="4KiB")
        assert writer.statistics().mirrored
        writer.write(b"seen" * 1000)
        with reader.window(2000) as window:
            pass
        ring = reader.ring
        made.close()
        heap.remove_channel(0)
        record = heap.allocate_record(900_000)
        record[:] = b"\xff" * record.nbytes
        assert window.tobytes() == b"seen" * 500
        assert bytes(ring[:4000]) == b"seen" * 1000
        record.free()
        del record
        assert heap.check() == []

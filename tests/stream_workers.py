"""What other processes do with streams; peers.py starts them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import time
from typing import Any

import numpy as np
import peers
import seccomp

import ipcheap

MEMORY = "mmap", "munmap", "mprotect", "mremap", "madvise", "brk"  # system calls


def describe(stream: ipcheap.Stream) -> tuple[Any, ...]:
    return stream.capacity, stream.backlog, stream.dtype.str, stream.overwrite


def overwrite(heap: ipcheap.Heap, id: str, seconds: float) -> int:
    """Overwrite consecutive numbers as fast as possible, in portions of several sizes: how many."""
    end = time.monotonic() + seconds
    next_ = 0
    with heap.stream_writer(id) as writer:
        while time.monotonic() < end:
            for count in (1, 7, 100, 1000, 3000):
                writer.write(np.arange(next_, next_ + count, dtype="u8"))
                next_ += count
                with writer.window(count) as window:
                    window[:] = np.arange(next_, next_ + count, dtype="u8")
                next_ += count
    return next_


def write_until_killed(heap: ipcheap.Heap, id: str) -> None:
    """Write consecutive numbers, in one byte or item each."""
    next_ = 0
    with heap.stream_writer(id) as writer:
        plain = writer.itemsize == 1
        while True:
            items = np.arange(next_, next_ + 17, dtype="u4")
            writer.write(bytes(17) if plain else items)
            next_ += 17


def drip(heap: ipcheap.Heap, id: str, total: int, portion: int) -> None:
    """Write slowly, in small portions."""
    with heap.stream_writer(id) as writer:
        for _ in range(0, total, portion):
            writer.write(bytes(portion))
            time.sleep(0.001)


def unseal(box: ipcheap.Sealed) -> str:
    return bytes(box.view).decode()


def pass_without_system_calls(heap: ipcheap.Heap, id: str, count: int) -> None:
    """Write and read while neither full nor empty; end with 7. Any system call kills it."""
    with heap.stream_writer(id) as writer, heap.stream_reader(id) as reader:
        data, buffer = bytes(range(64)), bytearray(64)
        writer.write(data)
        blocks = reader.blocks(32, hop=16)
        seccomp.forbid_all_but(*MEMORY, "exit_group")
        for _ in range(count):
            writer.write(data)
            reader.readinto(buffer)
            with writer.window(64, raw=True) as window:
                window[:] = data
            with reader.window(64, raw=True):
                pass
        for _ in range(100):
            writer.try_write(data)
            writer.write(data, 0)
            if not (reader.read(64) == reader.peek(64) == data):
                os._exit(8)
            next(blocks)
            next(blocks)
            reader.release(16)
            if not (reader.available == 96 and reader.skip(32) == 32 and writer.room > 0):
                os._exit(8)
            reader.try_read(64)
            reader.reset()
            writer.write(data)
        os._exit(7 if buffer == data else 8)


def write_numbers(heap: ipcheap.Heap, seed: int) -> None:
    """Until killed: write at each position its number, in all the ways there are."""
    dice = random.Random(seed)
    with heap.stream_writer("s", 10.0) as writer:
        while True:
            try:
                write_some_numbers(writer, dice)
            except ipcheap.PeerDied:
                writer.wait_peer(10.0)


def write_some_numbers(writer: ipcheap.StreamWriter, dice: random.Random) -> None:
    count = dice.randrange(1, writer.capacity // 2)
    first = writer.position
    items = np.arange(first, first + count, dtype="u8")
    if dice.random() < 0.5:
        writer.write(items)
        return
    with writer.window(count) as window:
        window[:] = items
        if dice.random() < 0.3:
            writer.commit(dice.randrange(count))


def read_numbers(heap: ipcheap.Heap, seed: int) -> None:
    """Until killed: read, and end with 1 if an item is not the number of its position."""
    dice = random.Random(seed)
    with heap.stream_reader("s", 10.0) as reader:
        while True:
            try:
                read_some_numbers(reader, dice)
            except ipcheap.PeerDied:
                reader.wait_peer(10.0)


def read_some_numbers(reader: ipcheap.StreamReader, dice: random.Random) -> None:
    count, overlap = dice.randrange(1, reader.capacity // 2), dice.randrange(reader.backlog)
    way = dice.randrange(4)
    if way < 2:
        items = reader.read(count) if way else reader.read(at_least=1)
        check_numbers(items, reader.position - len(items))
        return
    position = reader.position
    with reader.window(at_least=1 if way == 2 else count, overlap=overlap) as window:
        before = min(overlap, position)
        check_numbers(window, position - before)
        if way == 2:
            reader.release((len(window) - before) // 2)


def check_numbers(items: Any, first: int) -> None:
    if not (items == np.arange(first, first + len(items), dtype="u8")).all():
        os._exit(1)


def write_once(stream: ipcheap.Stream, items: Any) -> None:
    with stream.writer() as writer:
        writer.write(items)


def fill_shm() -> None:
    with open("/dev/shm/stranger", "wb", buffering=0) as stranger, contextlib.suppress(OSError):
        while True:
            stranger.write(bytes(4096))


def fill_a_ring_without_memory_left() -> dict[str, Any]:
    """Add a stream, fill /dev/shm, then fill the whole ring in windows: no SIGBUS."""
    seen: dict[str, Any] = {}
    with ipcheap.Heap.create("full", "1GiB") as heap:
        stream = heap.add_stream("s", "4MiB", backlog="1MiB")
        with stream.writer() as writer, stream.reader() as reader:
            writer.write(bytes(1000))
            with writer.window(2 << 20) as early, reader.window(1000):
                fill_shm()
                early[:] = 99
            reader.skip()
            for turn in range(10):
                with writer.window(2 << 20) as window:
                    window[:] = turn
                with reader.window(2 << 20, overlap=1 << 20) as window:
                    assert (window[-(2 << 20) :] == turn).all()
            try:
                heap.add_stream("more", "64MiB")
            except ipcheap.HeapFull:
                seen["refused"] = True
            view = reader.ring
            shown = bytes(view)
        seen["kept"] = bytes(view) == shown
        seen["names"] = list(heap.channels)
        seen["check"] = heap.check()
    ipcheap.unlink("full")
    return seen


def sip(heap: ipcheap.Heap, id: str, total: int) -> bytes:
    """Read slowly, one item at a time."""
    read = b""
    with heap.stream_reader(id) as reader:
        while len(read) < total:
            read += reader.read(1, timeout=10.0)
            time.sleep(0.001)
    return read


def claim_and_close(stream: ipcheap.Stream) -> None:
    with stream.writer() as writer:
        writer.write(bytes(3))
        time.sleep(0.05)


def claim_and_reset(stream: ipcheap.Stream) -> None:
    with stream.writer() as writer:
        writer.write(bytes(3))
        time.sleep(0.05)
        writer.reset()


def claim_and_remove(stream: ipcheap.Stream) -> None:
    with stream.writer() as writer:
        writer.write(bytes(3))
        time.sleep(0.05)
        stream.heap.remove_channel(stream.id, force=True)


def claim_and_die(stream: ipcheap.Stream) -> None:
    writer = stream.writer()
    writer.write(bytes(3))
    time.sleep(0.05)
    peers.die()


def send_400_at_a_time(stream: ipcheap.Stream, times: int) -> str:
    """Return the checksum of all that was sent."""
    digest = hashlib.sha256()
    with stream.writer() as writer:
        for _ in range(times):
            data = os.urandom(400)
            digest.update(data)
            writer.write(data)
    return digest.hexdigest()


def send_to_all(streams: list[ipcheap.Stream], nbytes: int) -> list[str]:
    """Send to each in turn; return the checksums."""
    writers = [stream.writer() for stream in streams]
    digests = [hashlib.sha256() for _ in streams]
    dice = random.Random(5)
    for _ in range(nbytes // 50):
        for writer, digest in zip(writers, digests, strict=True):
            data = dice.randbytes(50)
            digest.update(data)
            writer.write(data)
    for writer in writers:
        writer.close()
    return [digest.hexdigest() for digest in digests]


def drip_here() -> None:
    """Fork a writer of many portions; wait for all of them at once."""
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        stream = heap.add_stream("s", 2000)
        reading, writing = os.pipe()
        with stream.reader() as reader:
            child = os.fork()
            if child == 0:
                writer = stream.writer()
                os.write(writing, b"x")
                time.sleep(0.2)
                for _ in range(100):
                    writer.write(bytes(10))
                os._exit(0)
            os.read(reading, 1)
            assert len(reader.read(1000, timeout=10.0)) == 1000
            os.waitpid(child, 0)

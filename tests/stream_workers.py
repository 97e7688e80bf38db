"""What other processes do with streams; peers.py starts them."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import seccomp

if TYPE_CHECKING:
    import ipcheap


def describe(stream: ipcheap.Stream) -> tuple[Any, ...]:
    return stream.capacity, stream.backlog, stream.dtype.str, stream.overwrite


def overwrite(heap: ipcheap.Heap, id: str, seconds: float) -> None:
    """Overwrite consecutive numbers as fast as possible, in portions of several sizes."""
    end = time.monotonic() + seconds
    next_ = 0
    with heap.stream_writer(id) as writer:
        while time.monotonic() < end:
            for count in (1, 7, 100, 1000, 3000):
                writer.write(np.arange(next_, next_ + count, dtype="u8"))
                next_ += count


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
        seccomp.forbid(*seccomp.NUMBERS["x86_64"])
        for _ in range(count):
            writer.write(data)
            reader.readinto(buffer)
            with writer.window(64, raw=True) as window:
                window[:] = data
            with reader.window(64, raw=True):
                pass
        os._exit(7 if buffer == data else 8)

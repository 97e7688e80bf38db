"""What other processes do with stores; peers.py starts them."""

from __future__ import annotations

import contextlib
import hashlib
import random
import time
from typing import TYPE_CHECKING, Any

import peers

if TYPE_CHECKING:
    import ipcheap


def values(heap: ipcheap.Heap, id: str, keys: list[Any]) -> list[bytes | None]:
    with heap.store_reader(id) as reader:
        return [reader.get_bytes(key) for key in keys]


def put(heap: ipcheap.Heap, id: str, key: Any, data: bytes) -> int:
    with heap.store_writer(id) as writer:
        return writer.put(key, data)


def put_when_told(heap: ipcheap.Heap, id: str) -> None:
    """Put what it is told, a pair of a key and bytes, until it is told None."""
    with heap.store_writer(id) as writer:
        peers.say("ready")
        while (told := peers.listen()) is not None:
            peers.say(writer.put(*told))


def put_then_die(heap: ipcheap.Heap, id: str, key: Any, data: bytes) -> None:
    writer = heap.store_writer(id)
    writer.put(key, data)
    peers.die()


def hold_until_killed(heap: ipcheap.Heap, id: str, keys: list[Any]) -> None:
    with heap.store_reader(id) as reader:
        held = [reader[key] for key in keys]
        peers.say(len(held))
        time.sleep(peers.PATIENCE)


def wait_for(heap: ipcheap.Heap, id: str, key: Any, newer_than: int) -> tuple[int, bytes]:
    with heap.store_reader(id) as reader:
        peers.say("waiting")
        with reader.wait_for(key, newer_than, timeout=peers.PATIENCE) as chunk:
            return chunk.version, bytes(chunk)


def follow(heap: ipcheap.Heap, id: str) -> list[bytes]:
    with heap.store_reader(id) as reader:
        peers.say("following")
        return [bytes(chunk) for chunk in reader.follow()]


def put_over_and_over(heap: ipcheap.Heap, id: str, keys: int, coming: bool = False) -> None:
    """Put all of so many keys again and again; with `coming` one more is put and deleted, too."""
    with heap.store_writer(id) as writer:
        number = 0
        while True:
            if number == 100:
                peers.say("going")
            writer.put(number % keys, b"%d" % number)
            if coming:
                writer.put("coming", b"")
                writer.delete("coming")
            number += 1


def read_restlessly(heap: ipcheap.Heap, id: str) -> int:
    """Read in several ways until told to end; return how often."""
    rounds = 0
    with heap.store_reader(id) as reader:
        peers.say("reading")
        while True:
            for _ in range(100):
                reader.get_many(["left", "right"])
                reader.keys()
                reader.try_next()
            rounds += 1
            with contextlib.suppress(TimeoutError):
                peers.listen(0)
                return rounds


def checked(number: int) -> bytes:
    """Return bytes that begin with their own checksum."""
    body = number.to_bytes(8, "little") * random.Random(number).randrange(1, 200)
    return hashlib.blake2b(body, digest_size=16).digest() + body


def number_in(data: bytes) -> int:
    """Return the number in such bytes; AssertionError if they are torn."""
    assert hashlib.blake2b(data[16:], digest_size=16).digest() == data[:16]
    return int.from_bytes(data[16:24], "little")


def commit_pairs(heap: ipcheap.Heap, id: str) -> None:
    """Commit two keys with the same number, over and over, until it is killed."""
    with heap.store_writer(id) as writer:
        number = 0
        while True:
            with writer.transaction():
                writer.put("left", checked(number))
                writer.put("right", checked(number))
            if number == 0:
                peers.say("going")
            number += 1


def read_pairs(heap: ipcheap.Heap, id: str, seconds: float) -> int:
    """Check that both keys always have the same number; return how many there were."""
    end, found = time.monotonic() + seconds, set[int]()
    with heap.store_reader(id) as reader:
        while time.monotonic() < end:
            both = reader.get_many(["left", "right"])
            numbers = {number_in(bytes(chunk)) for chunk in both.values()}
            assert len(both) in (0, 2)
            assert len(numbers) <= 1
            found |= numbers
    return len(found)

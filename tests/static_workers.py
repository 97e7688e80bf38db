"""Work of other processes on static segments; `peers` runs each function here in one."""

from __future__ import annotations

import threading
import time

import peers

import ipcheap


def race_to_initialise(heap: ipcheap.Heap, rounds: int) -> int:
    """Add segments as others do; return how often this one initialised."""
    mine = 0

    def initialise(view: memoryview) -> None:
        nonlocal mine
        mine += 1
        half = len(view) // 2
        view[:half] = b"a" * half
        time.sleep(0.002)
        view[half:] = b"b" * half

    for turn in range(rounds):
        peers.say("ready")
        start = peers.listen()
        while time.monotonic() < start:
            pass
        segment = heap.add_static_segment(turn, 4096, initialise)
        assert bytes(segment.view) == b"a" * 2048 + b"b" * 2048, "not complete"
    return mine


def die_while_initialising(heap: ipcheap.Heap, name: str) -> None:
    """Be killed half-way through an initialiser."""

    def initialise(view: memoryview) -> None:
        view[:100] = b"x" * 100
        peers.say("half")
        peers.die()

    heap.add_static_segment(name, 4096, initialise)


def hammer_cells(heap: ipcheap.Heap, rounds: int) -> None:
    """Change cells that others change, too."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    up, down = segment.atomic(0, "u4"), segment.atomic(8, "i8")
    odd, claims = segment.atomic(16, "u8"), segment.atomic(24, "i4")
    peers.say("ready")
    peers.listen()
    for _ in range(rounds):
        up.fetch_add(3)
        down.fetch_sub(1)
        odd.fetch_xor(1 << 63 | 5)
        while True:
            seen = claims.load()
            if claims.compare_exchange(seen, seen + 1):
                break


def wait_for_change(heap: ipcheap.Heap, offset: int, dtype: str, value: int) -> bool:
    """Wait until a cell no longer has this value."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    peers.say("waiting")
    return segment.atomic(offset, dtype).wait(value, timeout=peers.PATIENCE)


def wait_for_event(heap: ipcheap.Heap) -> bool:
    """Wait for the event."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    peers.say("waiting")
    return ipcheap.Event(segment, 0).wait(peers.PATIENCE)


def pass_barriers(heap: ipcheap.Heap, parties: int, rounds: int) -> list[int]:
    """Count rounds in which no party may be ahead; return the order of arrival in each."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    barrier = ipcheap.Barrier(segment, 0, parties)
    arrived = segment.atomic(64)
    orders = []
    for turn in range(rounds):
        arrived.fetch_add(1)
        orders.append(barrier.wait(peers.PATIENCE))
        assert arrived.load() >= (turn + 1) * parties, "somebody is not there yet"
    return orders


def die_with_lock(heap: ipcheap.Heap) -> None:
    """Be killed with the lock held."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    ipcheap.Lock(segment, 0).acquire()
    peers.say("locked")
    peers.listen()


def hold_lock_for_a_while(heap: ipcheap.Heap) -> None:
    """Hold the lock until asked to release it."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    with ipcheap.Lock(segment, 0):
        peers.say("locked")
        peers.listen()
    peers.say("released")


def break_barrier(heap: ipcheap.Heap) -> str:
    """Wait at a barrier that no other party reaches, or that another breaks."""
    segment = heap.channel("cells", timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    peers.say("waiting")
    try:
        ipcheap.Barrier(segment, 0, 3).wait(peers.PATIENCE)
    except threading.BrokenBarrierError as error:
        return type(error).__name__
    return "passed"

"""Other processes that use static segments; `peers` runs each function here in one."""

from __future__ import annotations

import gc
import os
import time
from typing import TYPE_CHECKING

import peers
import threads

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


def segment_of(heap: ipcheap.Heap, name: str) -> ipcheap.StaticSegment:
    """Return a segment that exists."""
    segment = heap.channel(name, timeout=10)
    assert isinstance(segment, ipcheap.StaticSegment)
    return segment


def what_is_kept(segment: ipcheap.StaticSegment, what: str) -> tuple[Any, Any]:
    """Return an object that uses a segment, and a function that writes to it."""
    if what == "view":
        view = segment.view
        return view, lambda: view.__setitem__(slice(64, 128), b"S" * 64)
    if what == "array":
        array = segment.array("u8")
        return array, lambda: array.__setitem__(slice(8, 16), 7)
    if what == "cell":
        cell = segment.atomic(64)
        return cell, lambda: cell.fetch_add(1)
    lock = ipcheap.Lock(segment, 64)
    return lock, lock.acquire


def use(heap: ipcheap.Heap, name: str, what: str, close: bool) -> None:
    """Use a segment, until told to stop."""
    kept, write = what_is_kept(segment_of(heap, name), what)
    if close:
        heap.close()
    gc.collect()
    peers.say("uses it")
    while (told := peers.listen()) != "stop":
        assert told == "write"
        write()
        peers.say("has written")
    del kept, write
    gc.collect()
    peers.say("has stopped")
    peers.listen()


def use_in_a_thread(heap: ipcheap.Heap, name: str) -> None:
    """Get a view in a thread that ends, and write to it later."""
    view = threads.call(lambda: segment_of(heap, name).view)
    peers.say("uses it")
    assert peers.listen() == "write"
    view[:64] = b"S" * 64
    peers.say("has written")
    peers.listen()


def fork_and_leave(heap: ipcheap.Heap, name: str) -> None:
    """Fork a child that only uses what it inherits, and end."""
    view = segment_of(heap, name).view
    if os.fork() == 0:
        peers.say(os.getpid())
        while not view[0]:  # told through the segment, which it only looks at
            time.sleep(0.001)
        view[64:128] = b"S" * 64
        peers.say("has written")
        peers.listen()
        os._exit(0)
    assert peers.listen() == "leave"
    os._exit(0)


def wait_for_ever(heap: ipcheap.Heap, name: str, what: str) -> str:
    """Wait for what never happens in a segment; return the text of the error that ends it."""
    segment = segment_of(heap, name)
    waits: dict[str, Callable[[], object]] = {
        "event": lambda: ipcheap.Event(segment, 0).wait(),
        "barrier": lambda: ipcheap.Barrier(segment, 64, 2).wait(),
        "lock": lambda: ipcheap.Lock(segment, 128).acquire(),
        "cell": lambda: segment.atomic(192).wait(0),
    }
    peers.say("waits")
    try:
        waits[what]()
    except ipcheap.ChannelNotFound as reason:
        return str(reason)
    return "nothing"

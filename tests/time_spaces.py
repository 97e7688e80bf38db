"""Processes in time namespaces of their own, where the boot-time clock shows another time."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

_NEW_TIME, _NEW_USER = 0x80, 0x10000000  # flags of unshare()
OFFSETS = Path("/proc/self/timens_offsets")


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def unshare(ahead: int) -> None:
    """Let all children from now on have a boot-time clock that is ahead; OSError if impossible."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_NEW_TIME) and libc.unshare(_NEW_TIME | _NEW_USER):
        raise OSError(ctypes.get_errno(), "unshare")
    OFFSETS.write_text(f"boottime {ahead} 0\n")


def enter(ahead: int) -> None:
    """Continue in a child whose boot-time clock is ahead; the parent ends with it."""
    before = boot_time()
    unshare(ahead)
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF)
    assert abs(boot_time() - before - ahead) < peers.PATIENCE


def why_not() -> str:
    """Return why no time namespace can be made here; an empty text if one can."""
    if not OFFSETS.exists():
        return "this kernel has no time namespaces"
    try:
        peers.call(unshare, 1)
    except OSError as error:
        return f"no time namespace can be made here: {error}"
    return ""


# What a process does there ------------------------------------------------------------------

TTLS = {"short": 0.2, "long": 60.0}


def put_all(writer: ipcheap.StoreWriter) -> None:
    for key, ttl in TTLS.items():
        writer.put(key, key.encode(), ttl)


def look(reader: ipcheap.StoreReader) -> dict[str, tuple[float, float, float]]:
    """Return age, rest of life and wall-clock time of the chunks that are there."""
    found = reader.get_many(list(TTLS))
    return {str(k): (chunk.age, chunk.expires_in, chunk.time) for k, chunk in found.items()}


def serve(heap: ipcheap.Heap) -> None:
    """Look at store "there" and write store "here", as told."""
    with heap.store_writer("here") as writer, heap.store_reader("there") as reader:
        acts: dict[str, Callable[[], Any]] = {
            "put": lambda: put_all(writer),
            "look": lambda: look(reader),
            "keys": reader.keys,
            "collect": writer.collect,
            "trim": lambda: (heap.trim(), heap.recover())[:0],
        }
        peers.say(boot_time())
        while (told := peers.listen()) != "end":
            peers.say(acts[told]())


def attach_there(name: str, ahead: int) -> None:
    """Attach in the other namespace."""
    enter(ahead)
    with ipcheap.Heap.attach(name) as heap:
        serve(heap)


def inherit_there(name: str, ahead: int) -> None:
    """Attach here, and use the heap in a forked child in the other namespace."""
    with ipcheap.Heap.attach(name) as heap:
        enter(ahead)
        serve(heap)


def unshare_here(name: str, ahead: int) -> None:
    """Attach in this namespace, when only children would be in the other one."""
    unshare(ahead)
    with ipcheap.Heap.attach(name) as heap:
        serve(heap)

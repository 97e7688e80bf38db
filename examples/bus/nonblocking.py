"""Pollers that look now and then, and writers that do not wait for their turn."""

from __future__ import annotations

import argparse
import multiprocessing
import time
from typing import TYPE_CHECKING

import ipcheap

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier


def poll(bus: ipcheap.Bus, pause: float) -> tuple[int, int]:
    """Look for messages until one says stop; return how many were heard, and the empty looks."""
    heard = empty = 0
    with bus.listen() as listener:
        while True:
            message = listener.try_recv_record()
            if message is None:
                empty += 1
                time.sleep(pause)
                continue
            with message:  # released at the end of the block: the broadcast may return
                if bytes(message) == b"stop":
                    return heard, empty
                heard += 1


def write(bus: ipcheap.Bus, start: Barrier, text: bytes) -> None:
    """Broadcast, unless another broadcast has the turn."""
    start.wait()
    began = time.monotonic()
    try:
        report = bus.broadcast(text, nowait=True)
    except ipcheap.ChannelBusy:
        result = "busy"
    else:
        result = f"{report.released} released it in {time.monotonic() - began:.1f} s"
    print(f"{text.decode()}: {result}\n", end="", flush=True)  # one write


def main() -> None:
    """Start the pollers, then the writers, all at the same moment."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two looks")
    pause = parser.parse_args().pause

    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap, context.Pool(3) as pool:
        bus = heap.add_bus("news")
        results = pool.starmap_async(poll, [(bus, pause)] * 3, chunksize=1)
        bus.wait_listeners(3, timeout=60)
        writers = [
            context.Process(target=write, args=(bus, start, b"message %d" % number))
            for number in range(3)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()
        bus.broadcast(b"stop")
        for heard, empty in results.get():
            print(f"poller: {heard} heard, {empty} looks for nothing")


if __name__ == "__main__":
    main()

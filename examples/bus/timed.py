"""Everything by a deadline: listeners that stop waiting, and broadcasts that name the slow ones."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time

import ipcheap


def poll(bus: ipcheap.Bus, unit: float, nap: float) -> str:
    """Handle messages until one says stop. Each takes `nap` seconds."""
    handled = waits = 0
    with bus.listen() as listener:
        while True:
            try:
                message = listener.recv_record(timeout=unit)
            except TimeoutError:
                waits += 1
                continue
            with message:  # released at the end of the block, after the nap
                if bytes(message) == b"stop":
                    return f"process {os.getpid()}: {handled} messages, waited {waits} times"
                time.sleep(nap)
                handled += 1


def read(bus: ipcheap.Bus, seconds: float) -> str:
    """Take what comes within a time from the first on, and leave: then nobody waits for it."""
    with bus.listen() as listener:
        listener.recv()
        handled, deadline = 1, time.monotonic() + seconds
        while True:
            try:
                listener.recv(timeout=max(0, deadline - time.monotonic()))
            except TimeoutError:
                return f"process {os.getpid()}: {handled} messages, then its time was up"
            handled += 1


def write(bus: ipcheap.Bus, text: bytes, seconds: float) -> None:
    """Broadcast with a deadline for all of it: the turn, room, and the releases."""
    try:
        report = bus.broadcast(text, timeout=seconds)
    except TimeoutError as error:
        result = f"not posted, {str(error).rpartition('because ')[2]}"
    else:
        slow = ", ".join(f"process {listener.pid}" for listener in report.slow) or "none"
        result = f"to {report.listeners} listeners, slow: {slow}"
    print(f"{text.decode()}: {result}\n", end="", flush=True)  # one write


def main() -> None:
    """Let broadcasts meet a slow listener, and each other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--unit", type=float, default=1.0, help="seconds that things take")
    unit = parser.parse_args().unit

    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap, context.Pool(3) as pool:
        bus = heap.add_bus("news")
        fast = pool.apply_async(poll, (bus, unit / 10, 0))
        slow = pool.apply_async(poll, (bus, unit / 10, 2 * unit))
        reader = pool.apply_async(read, (bus, 5 * unit))
        bus.wait_listeners(3, timeout=60)

        first = context.Process(target=write, args=(bus, b"first", unit))
        first.start()
        while bus.statistics().posted < 1:
            time.sleep(0.001)
        write(bus, b"second", unit / 10)  # it is the turn of the first for longer than that
        first.join()
        write(bus, b"third", 60)  # waits for the slow listener, too
        print("reader,", reader.get())
        write(bus, b"stop", 60)
        print("fast,", fast.get())
        print("slow,", slow.get())


if __name__ == "__main__":
    main()

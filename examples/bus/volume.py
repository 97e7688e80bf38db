"""Displays that follow the volume without asking for it again and again."""

from __future__ import annotations

import argparse
import multiprocessing
import time

import ipcheap


def set_volume(heap: ipcheap.Heap, percent: int) -> None:
    """Change the volume, as the mixer's command does, and say so."""
    heap.add_static_segment("mixer", 64).atomic(0).store(percent)
    heap.bus("sound").post(b"volume changed")  # waits for nobody: all listeners are lossy


def display(bus: ipcheap.Bus, nap: float) -> tuple[float, int, int, int]:
    """Show the volume whenever it has changed, each time for `nap` seconds."""
    volume = bus.heap.add_static_segment("mixer", 64).atomic(0)
    shown = changes = 0
    with bus.listen(lossy=True) as listener:
        while listener.recv() != b"end":
            shown = volume.load()
            changes += 1
            time.sleep(nap)
        return nap, changes, shown, listener.lost


def main() -> None:
    """Turn the volume up and down, before a quick and a slow display."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args().steps

    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap, context.Pool(2) as pool:
        bus = heap.add_bus("sound", capacity=16)
        displays = [pool.apply_async(display, (bus, nap)) for nap in (0, 0.05)]
        bus.wait_listeners(2, timeout=60)
        for step in range(steps):
            set_volume(heap, step % 101)
            time.sleep(0.002)
        bus.post(b"end")
        for result in displays:
            nap, changes, shown, lost = result.get()
            print(f"{1000 * nap:2.0f} ms each: {changes} changes, {lost} lost, at last {shown} %")


if __name__ == "__main__":
    main()

"""Posts the frames that listener.c adds up: arrays, filled in place."""

from __future__ import annotations

import argparse

import ipcheap

SHAPE = (480, 640)


def main() -> None:
    """Create the heap, post frames to all that listen, wait for them, and remove the heap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("heap")
    parser.add_argument("--frames", type=int, default=500)
    parser.add_argument("--listeners", type=int, default=1)
    arguments = parser.parse_args()

    with ipcheap.Heap.open(arguments.heap, "64MiB") as heap:
        try:
            camera = heap.add_bus("camera", capacity=16)  # so many frames may wait for a listener
            camera.wait_listeners(arguments.listeners, timeout=60)
            for number in range(arguments.frames):
                with camera.loan(SHAPE, "u2") as frame:  # posted when the block ends
                    frame[:] = number
            report = camera.broadcast(b"", timeout=60)  # the end
        finally:
            heap.unlink()
    done = report.released + report.gone  # they close when they have released the end
    print(f"writer: posted {arguments.frames} frames to {done} listeners, {len(report.slow)} slow")


if __name__ == "__main__":
    main()

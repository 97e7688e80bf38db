"""Puts the frames that reader.c looks at: arrays, filled in place."""

from __future__ import annotations

import argparse
import time

import ipcheap

SHAPE = (480, 640)


def main() -> None:
    """Create the heap, put one frame every 2 ms while there is a reader, remove the heap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("heap")
    parser.add_argument("--frames", type=int, default=500)
    arguments = parser.parse_args()

    with ipcheap.Heap.open(arguments.heap, "64MiB") as heap:
        try:
            with heap.add_store("camera").writer() as camera:
                camera.wait_peer(timeout=60)
                for number in range(arguments.frames):
                    with camera.loan("frame", SHAPE, "u2") as frame:
                        frame[:] = number
                    time.sleep(0.002)
        finally:
            heap.unlink()
    print(f"writer: put {arguments.frames} frames")


if __name__ == "__main__":
    main()

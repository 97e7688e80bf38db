"""A camera puts its newest frame; three viewers of different speed look at it."""

import argparse
import multiprocessing
import time

import numpy as np

import ipcheap

SHAPE = (480, 640)


def film(heap: ipcheap.Heap, frames: int) -> None:
    """Put one frame every 2 ms, filled in place with its own number."""
    with heap, heap.store_writer("camera", 10) as camera:
        while len(heap.add_store("camera").readers()) < 3:
            time.sleep(0.01)
        for number in range(frames):
            with camera.loan("frame", SHAPE, "u2") as frame:
                frame[:] = number
            time.sleep(0.002)


def view(heap: ipcheap.Heap, nap: float) -> tuple[int, int, bool]:
    """Look at each new frame: how many, the last one, and whether one was torn."""
    seen = last = version = 0
    torn = False
    with heap.store_reader("camera", 10) as reader:
        try:
            while True:
                chunk = reader.wait_for("frame", newer_than=version, timeout=30)
                version, frame = chunk.version, chunk.array()
                last = int(frame[0, 0])
                time.sleep(nap)  # a slow viewer: the frame stays as it is, and the camera goes on
                torn |= not np.all(frame == last)
                seen += 1
        except ipcheap.ChannelClosed:
            return seen, last, torn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=500)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(None, "64MiB", shm="memfd") as heap:
        heap.add_store("camera", garbage=0)
        camera = context.Process(target=film, args=(heap, options.frames))
        camera.start()
        with context.Pool(3) as pool:
            naps = (0.0, 0.01, 0.1)
            results = pool.starmap(view, [(heap, nap) for nap in naps], chunksize=1)
        camera.join()
    for nap, (seen, last, torn) in zip(naps, results, strict=True):
        state = "torn" if torn else "whole"
        print(f"{nap * 1000:3.0f} ms a frame: {seen} frames seen, the last is {last}, all {state}")


if __name__ == "__main__":
    main()

"""A capture that never waits, and a viewer that is too slow and knows exactly what it lost."""

import argparse
import multiprocessing
import time

import numpy as np

import ipcheap

SAMPLE = [("number", "u8"), ("value", "f4"), ("flags", "u4")]


def capture(heap: ipcheap.Heap, seconds: float) -> None:
    """Write samples as fast as possible; they are numbered to show what is lost."""
    end, first = time.monotonic() + seconds, 0
    with heap, heap.stream_writer("samples", 10) as writer:
        while time.monotonic() < end:
            with writer.window(256) as samples:
                samples["number"] = np.arange(first, first + 256)
                samples["value"] = np.sqrt(samples["number"])
            first += 256


def view(heap: ipcheap.Heap) -> tuple[int, int, int]:
    """Return how many samples were seen and lost, and how many were wrong."""
    seen = wrong = 0
    with heap.stream_reader("samples", 10) as reader:
        for samples in reader.blocks():
            first = reader.position
            wrong += int((samples["number"] != np.arange(first, first + len(samples))).sum())
            seen += len(samples)
            time.sleep(0.001)  # what the viewer does with them takes longer than it should
        return seen, reader.lost, wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long it captures")
    options = parser.parse_args()
    with ipcheap.Heap.create(None, "4MiB", shm="memfd") as heap:
        stream = heap.add_stream("samples", 10_000, dtype=SAMPLE, overwrite=True)
        camera = multiprocessing.get_context("spawn").Process(
            target=capture, args=(heap, options.seconds)
        )
        camera.start()
        seen, lost, wrong = view(heap)
        camera.join()
        with stream.writer() as writer:
            written = writer.position
    print(f"{written} written: {seen} seen, {lost} lost, {wrong} wrong")
    assert seen + lost == written, "every sample is accounted for"


if __name__ == "__main__":
    main()

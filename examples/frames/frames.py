"""Produces pictures in one process, picks some in a second, and examines those in a third."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time

import numpy as np

import ipcheap

SHAPE = (1080, 1920, 3)
NBYTES = 1080 * 1920 * 3
SLOTS = 4


def camera(heap: ipcheap.Heap, pictures: int) -> None:
    """Write pictures into shared memory: a grey wall, and sometimes something white."""
    with heap, heap.producer("camera") as out:
        for n in range(pictures):
            with out.loan(SHAPE, "u1") as picture:  # sent on leaving
                picture[:] = 64
                if n % 3 == 0:
                    picture[400:600, n : n + 300] = 255
                picture[0, 0, 0] = n % 256


def pick(heap: ipcheap.Heap) -> None:
    """Forward, untouched, the pictures that show something."""
    with heap, heap.consumer("camera") as source, heap.producer("picked") as out:
        for record in source:  # a record that is not forwarded is freed
            if (record.array()[::50, ::50] > 200).any():
                out.send_record(record)


def main() -> None:
    """Start the two other processes, examine the picked pictures, and remove the heap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=int, nargs="?", default=120)
    pictures = parser.parse_args().pictures

    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(f"frames-{os.getpid()}", "256MiB") as heap:
        try:
            heap.add_record_channel("camera", capacity=SLOTS)
            heap.add_record_channel("picked", capacity=SLOTS)
            stages = [
                context.Process(target=camera, args=(heap, pictures)),
                context.Process(target=pick, args=(heap,)),
            ]
            for stage in stages:
                stage.start()
            numbers = []
            most = 0
            with heap.consumer("picked") as picked:
                picked.wait_peer(timeout=60)
                start = time.perf_counter()
                for record in picked:
                    picture = record.array()
                    numbers.append(int(picture[0, 0, 0]))
                    assert np.count_nonzero(picture[400:600] == 255) >= 200 * 300 * 3
                    most = max(most, heap.statistics().in_use)
                seconds = time.perf_counter() - start
            for stage in stages:
                stage.join()
        finally:
            heap.unlink()
    assert numbers == [n % 256 for n in range(0, pictures, 3)]
    print(f"{pictures} pictures of {NBYTES / 1e6:.1f} MB, {len(numbers)} of them picked")
    print(f"{pictures / seconds:.0f} pictures/s; at most {most / NBYTES:.0f} in memory at a time")


if __name__ == "__main__":
    main()

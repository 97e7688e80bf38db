"""Reads what writer.c samples, in blocks of NumPy structures that are the ring itself."""

from __future__ import annotations

import argparse

import numpy as np

import ipcheap

CAPACITY = 4096
BLOCK = 256

# struct sample in writer.c
sample = np.dtype([("seconds", "f8"), ("volts", "f4", 2)])


def main() -> None:
    """Create the heap, read until the writer closes, remove the heap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("heap")
    arguments = parser.parse_args()

    blocks = 0
    squares = np.zeros(2)
    seconds = 0.0
    with ipcheap.Heap.open(arguments.heap, "1MiB") as heap:
        try:
            stream = heap.add_stream("samples", CAPACITY, dtype=sample)
            with stream.reader() as reader:
                for block in reader.blocks(BLOCK, timeout=60):
                    blocks += 1
                    squares += (block["volts"].astype("f8") ** 2).sum(axis=0)
                    seconds = block["seconds"][-1]
                count = reader.position
        finally:
            heap.unlink()
    first, second = np.sqrt(squares / count)
    print(
        f"reader: {count} samples of {seconds:.3f} s in {blocks} blocks, "
        f"{first:.3f} V and {second:.3f} V effective"
    )


if __name__ == "__main__":
    main()

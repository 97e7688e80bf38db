"""Receives what producer.c sends, as NumPy structures over the same bytes."""

from __future__ import annotations

import argparse

import numpy as np

import ipcheap

SAMPLES = 1000
SLOTS = 16

# struct reading in producer.c
reading = np.dtype([("number", "u8"), ("seconds", "f8"), ("samples", "f4", SAMPLES)])


def main() -> None:
    """Create the heap, receive until the producer closes, remove the heap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("heap")
    arguments = parser.parse_args()

    received = 0
    mean = 0.0
    with ipcheap.Heap.open(arguments.heap, "1MiB") as heap:
        try:
            heap.add_record_channel("readings", capacity=SLOTS)
            with heap.consumer("readings") as consumer:
                consumer.wait_peer(timeout=60)
                for record in consumer:
                    (data,) = record.array(reading)
                    assert data["number"] == received
                    received += 1
                    mean += (data["samples"].mean() - mean) / received
        finally:
            heap.unlink()
    print(f"consumer: received {received} readings, mean {mean:.3f}")


if __name__ == "__main__":
    main()

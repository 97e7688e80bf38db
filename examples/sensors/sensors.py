"""One sensor and three processes that want its readings, with a channel for each of them."""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import time

import numpy as np

import ipcheap

SAMPLES = 256
READING = np.dtype([("number", "u8"), ("seconds", "f8"), ("samples", "f4", SAMPLES)])

# For each listener, its number of slots and whether the sensor waits if all of them are full.
LISTENERS = {"log": (64, True), "alarm": (64, True), "plot": (4, False)}


def log(readings: ipcheap.Consumer) -> str:
    """Receive every reading, in order."""
    count = 0
    for record in readings:
        (reading,) = record.array(READING)
        assert reading["number"] == count
        count += 1
    return f"{count} readings"


def alarm(readings: ipcheap.Consumer) -> str:
    """Find readings that are too loud."""
    loud = []
    for record in readings:
        (reading,) = record.array(READING)
        if reading["samples"].max() > 3.0:
            loud.append(int(reading["number"]))
    return f"{len(loud)} too loud, first {loud[0]}"


def plot(readings: ipcheap.Consumer) -> str:
    """Process readings slowly, and count those that were missed."""
    last, count, missed = -1, 0, 0
    for record in readings:
        (reading,) = record.array(READING)
        missed += int(reading["number"]) - last - 1
        last, count = int(reading["number"]), count + 1
        time.sleep(0.002)  # drawing
    return f"{count + missed} readings up to the last one seen, {missed} of them missed"


def listen(heap: ipcheap.Heap, name: str) -> None:
    """Run one of the listeners."""
    with heap, heap.consumer(name) as readings:
        print(f"{name}: {globals()[name](readings)}\n", end="", flush=True)  # one write


def sense(heap: ipcheap.Heap, count: int) -> None:
    """Send each reading to all listeners; drop it for a slow one that may miss some."""
    noise = np.random.default_rng(1)
    reading = np.zeros((), READING)
    with contextlib.ExitStack() as stack:
        outputs = [
            (stack.enter_context(heap.producer(name)), None if wait else 0.0)
            for name, (_, wait) in LISTENERS.items()
        ]
        for number in range(count):
            reading["number"], reading["seconds"] = number, time.time()
            reading["samples"] = noise.uniform(-1, 1, SAMPLES)
            if number % 100 == 0:
                reading["samples"] *= 5
            for output, timeout in outputs:
                with contextlib.suppress(TimeoutError):
                    output.send(reading, timeout)


def main() -> None:
    """Start the listeners, run the sensor, and remove the heap."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readings", type=int, nargs="?", default=1000)
    count = parser.parse_args().readings

    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(f"sensors-{os.getpid()}", "16MiB") as heap:
        try:
            for name, (slots, _) in LISTENERS.items():
                heap.add_record_channel(name, slots)
            listeners = [context.Process(target=listen, args=(heap, name)) for name in LISTENERS]
            for listener in listeners:
                listener.start()
            sense(heap, count)
            for listener in listeners:
                listener.join()
        finally:
            heap.unlink()


if __name__ == "__main__":
    main()

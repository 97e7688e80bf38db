"""One sensor and three kernels that want its readings. One of them may miss some."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ipcheap.graph import Flow, Graph

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES = 256
READING = np.dtype([("number", "u8"), ("seconds", "f8"), ("samples", "f4", SAMPLES)])


def sense(count: int) -> Iterator[Any]:
    """Yield readings, some of them loud."""
    noise = np.random.default_rng(1)
    reading = np.zeros((), READING)
    for number in range(count):
        reading["number"], reading["seconds"] = number, time.time()
        reading["samples"] = noise.uniform(-1, 1, SAMPLES)
        if number % 100 == 0:
            reading["samples"] *= 5
        yield reading


def say(text: str) -> None:
    """Print a line by one write, because several processes print."""
    print(f"{text}\n", end="", flush=True)


def log(readings: Flow[Any]) -> None:
    """Receive every reading, in order."""
    count = 0
    for reading in readings:
        assert reading["number"] == count
        count += 1
    say(f"log: {count} readings")


def alarm(readings: Flow[Any]) -> None:
    """Find readings that are too loud."""
    loud = [int(each["number"]) for each in readings if each["samples"].max() > 3.0]
    say(f"alarm: {len(loud)} too loud, first {loud[0]}")


def plot(readings: Flow[Any]) -> None:
    """Process readings slowly, and count those that were missed."""
    last, missed = -1, 0
    for reading in readings:
        missed += int(reading["number"]) - last - 1
        last = int(reading["number"])
        time.sleep(0.002)  # drawing
    say(f"plot: {last + 1} readings up to the last one seen, {missed} of them missed")


def main() -> None:
    """Run the graph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("readings", type=int, nargs="?", default=1000)
    count = parser.parse_args().readings

    graph = Graph(capacity="16MiB")
    readings = graph.add(sense, count=count)
    graph.add(log, readings, slots=64)
    graph.add(alarm, readings, slots=64)
    graph.add(plot, readings, slots=4, full="drop")
    graph.run()


if __name__ == "__main__":
    main()

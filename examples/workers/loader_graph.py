"""Several processes that load batches for training, in order: one call of `graph.map`."""

from __future__ import annotations

import argparse
import itertools
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ipcheap import graph

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = np.dtype([("image", "f4", (3, 32, 32)), ("label", "i8"), ("worker", "i8")])
TOTAL, BATCH = 500, 32


def load(indices: Any) -> Any:
    """Return the samples with these indices, in shared memory."""
    samples = graph.empty(len(indices), SAMPLE)
    for index, sample in zip(indices, samples, strict=True):
        dice = np.random.default_rng(int(index))
        dice.random(dtype="f4", out=sample["image"])
        sample["label"] = index
    samples["worker"] = os.getpid()
    return samples


def indices(epochs: int) -> Iterator[Any]:
    """Yield each index once an epoch, shuffled, in batches."""
    for epoch in range(epochs):
        order = np.random.default_rng(epoch).permutation(TOTAL)
        for at in range(0, TOTAL, BATCH):
            yield order[at : at + BATCH]


def main() -> None:
    """Run some epochs. Each must see every sample once, from the same workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    everybody: set[int] = set()
    batches = graph.map(load, indices(arguments.epochs), processes=arguments.workers, slots=2)
    for epoch in range(arguments.epochs):
        start = time.perf_counter()
        seen: list[int] = []
        total = 0.0
        for samples in itertools.islice(batches, -(-TOTAL // BATCH)):
            seen += samples["label"].tolist()
            everybody |= set(samples["worker"].tolist())
            total += float(samples["image"].mean(dtype="f8")) * len(samples)
        assert sorted(seen) == list(range(TOTAL))
        seconds = time.perf_counter() - start
        print(f"epoch {epoch}: {len(seen)} samples in {seconds:.2f} s, mean {total / TOTAL:.6f}")
    assert next(batches, None) is None  # the workers have ended
    print(f"{len(everybody)} workers did it all")


if __name__ == "__main__":
    main()

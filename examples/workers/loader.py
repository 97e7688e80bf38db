"""A pool of workers that load batches for training, in order, as arrays in shared memory."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from typing import TYPE_CHECKING, Any, Self

import numpy as np

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLE = np.dtype([("image", "f4", (3, 32, 32)), ("label", "i8"), ("worker", "i8")])


class Dataset:
    """A data set that loads one sample at a time."""

    def __len__(self) -> int:
        return 500

    def load(self, index: int, into: Any) -> None:
        """Fill in a sample."""
        dice = np.random.default_rng(index)
        dice.random(dtype="f4", out=into["image"])
        into["label"] = index


def work(heap: ipcheap.Heap, number: int, dataset: Dataset) -> None:
    """Load batch after batch directly into records, until the task channel closes."""
    with (
        heap,
        heap.consumer(f"tasks {number}") as tasks,
        heap.producer(f"batches {number}") as batches,
    ):
        tasks.wait_peer()
        for task in tasks:
            indices = task.array("i8")
            record = batches.allocate_record(len(indices) * SAMPLE.itemsize)
            samples = record.array(SAMPLE)
            for index, sample in zip(indices, samples, strict=True):
                dataset.load(int(index), sample)
            samples["worker"] = os.getpid()
            del sample, samples
            batches.send_record(record)


class Loader:
    """Batches of a dataset, loaded in advance by several processes that serve all epochs."""

    def __init__(self, dataset: Dataset, batch: int, workers: int = 2, ahead: int = 2) -> None:
        self._total, self._batch, self._ahead = len(dataset), batch, ahead * workers
        self._heap = ipcheap.Heap.create(f"workers-{os.getpid()}", "256MiB")
        context = multiprocessing.get_context("spawn")
        self._tasks: list[ipcheap.Producer] = []
        self._batches: list[ipcheap.Consumer] = []
        self._processes: list[Any] = []
        for number in range(workers):
            tasks = self._heap.add_record_channel(f"tasks {number}", 2 * ahead)
            batches = self._heap.add_record_channel(f"batches {number}", 2 * ahead)
            self._tasks.append(tasks.producer())
            self._batches.append(batches.consumer())
            process = context.Process(target=work, args=(self._heap, number, dataset))
            process.start()
            self._processes.append(process)
        for consumer in self._batches:
            consumer.wait_peer(timeout=60)

    def epoch(self, seed: int) -> Iterator[Any]:
        """Yield each sample once, shuffled, in batches; the next request frees the last batch."""
        order = np.random.default_rng(seed).permutation(self._total)
        parts = [order[at : at + self._batch] for at in range(0, self._total, self._batch)]
        for n, part in enumerate(parts[: self._ahead]):
            self._tasks[n % len(self._tasks)].send(part)
        for n in range(len(parts)):
            with self._batches[n % len(self._batches)].recv_record() as record:
                if n + self._ahead < len(parts):
                    ask = self._tasks[(n + self._ahead) % len(self._tasks)]
                    ask.send(parts[n + self._ahead])
                yield record.array(SAMPLE)

    def close(self) -> None:
        """End the workers and remove the heap."""
        for tasks in self._tasks:
            tasks.close()  # which ends their loops
        for process in self._processes:
            process.join()
        self._heap.close()
        self._heap.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def main() -> None:
    """Run some epochs. Each must see every sample once, from the same workers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    everybody: set[int] = set()
    with Loader(Dataset(), batch=32, workers=arguments.workers) as loader:
        for epoch in range(arguments.epochs):
            start = time.perf_counter()
            seen: list[int] = []
            total = 0.0
            for samples in loader.epoch(seed=epoch):
                seen += samples["label"].tolist()
                everybody |= set(samples["worker"].tolist())
                total += float(samples["image"].mean(dtype="f8")) * len(samples)
            assert sorted(seen) == list(range(500))
            seconds = time.perf_counter() - start
            print(f"epoch {epoch}: {len(seen)} samples in {seconds:.2f} s, mean {total / 500:.6f}")
    print(f"{len(everybody)} workers did it all")


if __name__ == "__main__":
    main()

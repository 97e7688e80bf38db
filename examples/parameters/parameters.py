"""A trainer publishes its parameters after each step; inference workers use them in place."""

import argparse
import multiprocessing
import time

import numpy as np

import ipcheap

LAYERS = ("input", "hidden", "output")


def train(heap: ipcheap.Heap, steps: int, workers: int) -> None:
    """Publish all layers by one commit a step."""
    with heap, heap.store_writer("parameters", 10) as writer:
        while len(heap.add_store("parameters").readers()) < workers:
            time.sleep(0.01)
        for step in range(1, steps + 1):
            with writer.transaction():
                for layer in LAYERS:
                    with writer.loan(layer, (100, 100), "f4") as weights:
                        weights[:] = step
                writer.put_object("about", {"step": step, "loss": 1 / step})
            time.sleep(0.002)


def infer(heap: ipcheap.Heap) -> tuple[int, int, int]:
    """Use the newest parameters: how many predictions, how many mixed steps, and the last step."""
    predictions = mixed = step = version = 0
    with heap.store_reader("parameters", 10) as reader:
        while True:
            try:
                version = reader.wait_for("about", newer_than=version, timeout=30).version
            except ipcheap.ChannelClosed:
                return predictions, mixed, step
            model = reader.get_many([*LAYERS, "about"])  # all of one step
            step = model["about"].object()["step"]
            activation = np.ones(100, "f4")
            for layer in LAYERS:
                weights = model[layer].array()
                mixed += bool((weights != step).any())
                activation = weights @ activation
            predictions += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(None, "64MiB", shm="memfd") as heap:
        heap.add_store("parameters")
        trainer = context.Process(target=train, args=(heap, options.steps, options.workers))
        trainer.start()
        with context.Pool(options.workers) as pool:
            results = pool.map(infer, [heap] * options.workers, chunksize=1)
        trainer.join()
    for predictions, mixed, step in results:
        print(f"{predictions} predictions, {mixed} with mixed steps, the last with step {step}")


if __name__ == "__main__":
    main()

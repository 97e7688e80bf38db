"""Ray: compiled graphs, and actors whose results are objects."""

import collections
import itertools
import os

os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import numpy as np
import ray

from peers.graphs import FUNCTIONS, ITEMS, SIZES, SLOTS, TEXT, WORKERS, Graphs, fill, reverse, total

IN_FLIGHT = 8  # of a compiled graph, whose buffers hold ten


@ray.remote(num_cpus=0)
class Source:
    """Makes the item of a number."""

    def make(self, size_and_number):
        size, number = size_and_number
        if size == "64":
            return TEXT
        array = np.empty(SIZES[size], "u1")
        fill(array, number)
        return array


@ray.remote(num_cpus=0)
class Kernel:
    """Calls a function."""

    def call(self, item):
        return reverse(item) if type(item) is bytes else total(item)

    def apply(self, kind, item):
        return FUNCTIONS[kind](item)


class Ray(Graphs):
    """One Ray on this machine, for one run."""

    package = "ray"

    def __init__(self):
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)

    def close(self):
        ray.shutdown()

    def ordered(self, submit, count, in_flight):
        """Yield what `submit` returns a reference to, with so many under way."""
        waiting = collections.deque()
        for number in range(count):
            waiting.append(submit(number))
            if len(waiting) >= in_flight:
                yield ray.get(waiting.popleft())
        while waiting:
            yield ray.get(waiting.popleft())


class RayActors(Ray):
    """An actor for the source and one for the kernel; references go from one to the other."""

    title = "Ray, actors"

    def chain(self, size, count):
        source, kernel = Source.remote(), Kernel.remote()
        return self.ordered(
            lambda number: kernel.call.remote(source.make.remote((size, number))), count, SLOTS
        )

    def mapped(self, kind, count):
        kernels = itertools.cycle([Kernel.remote() for _ in range(WORKERS)])
        item = ITEMS[kind]
        return self.ordered(
            lambda _: next(kernels).apply.remote(kind, item), count, SLOTS * WORKERS
        )


class RayCompiled(Ray):
    """The chain as a compiled graph."""

    title = "Ray, compiled graph"
    only = ("graph-chain-64", "graph-chain-64k", "graph-chain-frames")

    def chain(self, size, count):
        from ray.dag import InputNode

        source, kernel = Source.remote(), Kernel.remote()
        with InputNode() as given:
            compiled = kernel.call.bind(source.make.bind(given)).experimental_compile()
        yield from self.ordered(lambda number: compiled.execute((size, number)), count, IN_FLIGHT)
        compiled.teardown(kill_actors=True)

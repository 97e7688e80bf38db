"""What a way to run a chain of kernels has to implement, and the kernels that all of them run.

A *chain* is a source, a kernel and the calling program, each in a process of its own. A *map*
deals items of the calling program to two processes, and returns the results in order.
"""

import numpy as np

SIZES = {"64": 64, "64k": 1 << 16, "frames": 1080 * 1920 * 3}
PAGE = 4096  # one byte of each is written and read
WORKERS = 2
SLOTS = 16
TEXT = bytes(range(64))


def fill(array, number):
    """Write the picture of that number."""
    array[::PAGE] = number & 127


def total(array):
    """Return the kernel's result for an array."""
    return int(array[::PAGE].sum())


def reverse(text):
    """Return the kernel's result for 64 bytes."""
    return text[::-1]


def expected(size, number):
    """Return what the chain gives for the item of that number."""
    return TEXT[::-1] if size == "64" else (number & 127) * -(-SIZES[size] // PAGE)


ITEMS = {
    "64": (7, "x" * 42),  # 64 bytes as a pickle
    "1m": np.full(1 << 20, 1, "u1"),
    "frames": np.full((1080, 1920, 3), 1, "u1"),
}


def first(item):
    """Return the result of a map for an object."""
    return item[0]


def sparse(array):
    """Return the result of a map for an array."""
    return int(array.reshape(-1)[::PAGE].sum())


FUNCTIONS = {"64": first, "1m": sparse, "frames": sparse}


class Graphs:
    """A way to run kernels in processes."""

    title = ""
    package = None
    version = None
    only = ()

    def chain(self, size, count):
        """Yield the results of a chain for `count` items."""
        raise NotImplementedError

    def mapped(self, kind, count):
        """Yield the results of a map for `count` times the item of that kind."""
        raise NotImplementedError

    def close(self):
        """End what was started."""

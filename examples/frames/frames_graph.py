"""Produces pictures, picks some, and examines those: three kernels of a graph."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from ipcheap import graph

if TYPE_CHECKING:
    from collections.abc import Iterator

SHAPE = (1080, 1920, 3)
NBYTES = 1080 * 1920 * 3


def camera(pictures: int) -> Iterator[Any]:
    """Write pictures into shared memory: a grey wall, and sometimes something white."""
    for n in range(pictures):
        picture = graph.empty(SHAPE, "u1")
        picture[:] = 64
        if n % 3 == 0:
            picture[400:600, n : n + 300] = 255
        picture[0, 0, 0] = n % 256
        yield picture


def pick(picture: Any) -> Any:
    """Forward, untouched, the pictures that show something."""
    return picture if (picture[::50, ::50] > 200).any() else None


def examine(picture: Any) -> int:
    """Return the number of a picture, which must be white in some places."""
    assert np.count_nonzero(picture[400:600] == 255) >= 200 * 300 * 3
    return int(picture[0, 0, 0])


def main() -> None:
    """Run the graph, and check that the pictures arrive in order."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pictures", type=int, nargs="?", default=120)
    pictures = parser.parse_args().pictures

    made = graph.Graph(capacity="256MiB")
    picked = made.add(pick, made.add(camera, pictures=pictures), slots=4)
    start = time.perf_counter()
    numbers = made.collect(made.add(examine, picked, slots=4))
    seconds = time.perf_counter() - start
    assert numbers == [n % 256 for n in range(0, pictures, 3)]
    print(f"{pictures} pictures of {NBYTES / 1e6:.1f} MB, {len(numbers)} of them picked")
    print(f"{pictures / seconds:.0f} pictures/s, with the start of all processes")


if __name__ == "__main__":
    main()

"""Creators and removers killed at random moments, of all kinds: nothing of theirs may stay behind.

`python tests/killed.py SECONDS [SEED]` runs for so long, in namespaces of its own, and prints how
many processes were killed. tests/test_kernel_objects.py runs some rounds of it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import kinds

import ipcheap
from ipcheap.tools import doctor

if TYPE_CHECKING:
    from collections.abc import Callable

LONGEST = 0.004  # seconds until a kill: about what creating and removing together take


def make(kind: kinds.Kind, place: str) -> None:
    """Create a heap."""
    ipcheap.Heap.create(place, "64KiB", shm=kind.shm, sem=kind.sem)


def remove(kind: kinds.Kind, place: str) -> None:
    """Create a heap and remove it."""
    with ipcheap.Heap.create(place, "64KiB", shm=kind.shm, sem=kind.sem) as heap:
        heap.add_record_channel(1, 4)
        with heap.consumer(1) as consumer:
            consumer.fileno()  # a pipe beside the file
            heap.unlink()


def open_and_remove(kind: kinds.Kind, place: str) -> None:
    """Open a heap, and remove it, by whichever process it was made."""
    with ipcheap.Heap.open(place, "64KiB", shm=kind.shm, sem=kind.sem) as heap:
        heap.allocate_record(100).free()
    ipcheap.unlink(place)


ACTS = (make, remove, open_and_remove)


def killed(act: Callable[[kinds.Kind, str], None], kind: kinds.Kind, place: str, at: float) -> bool:
    """Run an act in a child, and kill that so many seconds later; return whether it still lived."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(ipcheap.Error):
            act(kind, place)
        os._exit(0)
    end = time.perf_counter() + at
    while time.perf_counter() < end:
        pass
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def clean(kind: kinds.Kind, place: str, how: int) -> None:
    """Remove what is there by one of three ways; afterwards there must be nothing."""
    if how == 0:
        with ipcheap.Heap.open(place, "64KiB", shm=kind.shm, sem=kind.sem) as heap:
            heap.allocate_record(100).free()
    elif how == 1:
        doctor.examine(place, repair=True)
    kinds.forget(place)


def rounds(seconds: float, seed: int, most: int = 1 << 62) -> dict[str, int]:
    """Kill until the time is over or so many rounds are done; return how many died, by kind."""
    chance = random.Random(seed)
    died = dict.fromkeys(map(str, kinds.NAMED), 0)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for kind in kinds.NAMED:  # imports everything
            remove(kind, _place(kind, folder))
            clean(kind, _place(kind, folder), 0)
            clean(kind, _place(kind, folder), 1)
        end = time.monotonic() + seconds
        number = 0
        while number < most and time.monotonic() < end:
            number += 1
            kind = chance.choice(kinds.NAMED)
            place = _place(kind, folder)
            acts = [chance.choice(ACTS) for _ in range(chance.randint(1, 3))]
            for act in acts:
                died[str(kind)] += killed(act, kind, place, chance.random() * LONGEST)
            how = chance.randrange(3)
            clean(kind, place, how)
            left = _left(folder)
            if left:
                names = ", ".join(act.__name__ for act in acts)
                raise AssertionError(
                    f"round {number} of seed {seed}, {kind}: {names} killed and way {how} taken to "
                    f"clean up, {left} stays behind"
                )
    return died


def _left(folder: str) -> list[str]:
    """Return what is left; System V memory of the killed may need a moment to go."""
    end = time.monotonic() + 1
    while True:
        left = [name for name in kinds.kernel_objects() if name != folder] + os.listdir(folder)
        if not left or time.monotonic() > end:
            return left
        time.sleep(0.01)


def _place(kind: kinds.Kind, folder: str) -> str:
    place = kind.place("heap", folder)
    assert place is not None
    return place


def main() -> None:
    """Run in namespaces of its own."""
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else int.from_bytes(os.urandom(4))
    died = kinds.call_apart(rounds, seconds, seed, patience=seconds + kinds.PATIENCE)
    print(f"seed {seed}: {sum(died.values())} processes killed", died)


if __name__ == "__main__":
    main()

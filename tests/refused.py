"""Functions that meet a limit of the kernel; `kinds.call_apart` runs them in a namespace."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
from typing import TYPE_CHECKING

import kinds

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable


def _warm(kind: kinds.Kind, folder: str) -> str | None:
    """Import everything, and return the place of a heap."""
    place = kind.place("limited", folder)
    with ipcheap.Heap.create(place, "64KiB", shm=kind.shm, sem=kind.sem) as heap:
        heap.unlink()
    try:
        ipcheap.Heap.create("/no/folder/heap", "64KiB", shm="file")
    except FileNotFoundError:
        pass
    return place


def _said(
    make: Callable[[], ipcheap.Heap], undo: Callable[[], object] = lambda: None
) -> list[str | int | None]:
    """Return kind, errno and text of an error, or nothing if there was none; first undo a limit."""
    try:
        heap = make()
        undo()
    except (OSError, MemoryError, ValueError) as error:
        undo()
        return [type(error).__name__, getattr(error, "errno", None), str(error)]
    with heap:
        heap.unlink()
    return []


def _left(folder: str) -> list[str]:
    return [name for name in kinds.kernel_objects() if name != folder] + os.listdir(folder)


def make_with_few_descriptors(shm: str, sem: str, folder: str) -> list[list[str | int | None]]:
    """Create with 0, 1, 2, ... descriptors left, until it works; return the errors."""
    kind = kinds.Kind(shm, sem)
    place = _warm(kind, folder)
    free = os.open("/dev/null", os.O_RDONLY)
    os.close(free)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said: list[list[str | int | None]] = []
    for left in range(12):
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + left, hard))
        outcome = _said(
            lambda: ipcheap.Heap.create(place, "64KiB", shm=shm, sem=sem),
            lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard)),
        )
        assert _left(folder) == [], (left, outcome, _left(folder))
        if not outcome:
            return said
        said.append(outcome)
    raise AssertionError(said)


def make_within(
    limit: str, numbers: list[int], shm: str, sem: str, folder: str
) -> list[list[str | int | None]]:
    """Create a heap of 64 MiB within a limit of the process; return the error for each number."""
    kind = kinds.Kind(shm, sem)
    place = _warm(kind, folder)
    which = getattr(resource, limit)
    _, hard = resource.getrlimit(which)
    said = []
    for number in numbers:
        resource.setrlimit(which, (number, hard))
        outcome = _said(
            lambda: ipcheap.Heap.create(place, "64MiB", shm=shm, sem=sem),
            lambda: resource.setrlimit(which, (hard, hard)),
        )
        assert _left(folder) == [], (number, outcome, _left(folder))
        said.append(outcome)
    return said


def make_within_system_v_limits(folder: str) -> dict[str, list[str | int | None]]:
    """Create System V heaps beyond each limit of the IPC namespace."""
    _warm(kinds.Kind("sysv", "sysv"), folder)
    said = {}
    for name, text, shm, sem in (
        ("shmmax", "10000000", "sysv", "futex"),
        ("shmmni", "0", "sysv", "futex"),
        ("shmall", "100", "sysv", "posix"),
        ("sem", "250 32000 32 0", "posix", "sysv"),
        ("sem", "250 32000 32 0", "memfd", "sysv"),
    ):
        path = f"/proc/sys/kernel/{name}"
        with open(path) as file:
            before = file.read()
        with open(path, "w") as file:
            file.write(text)
        place = kinds.Kind(shm, sem).place("limited", folder)
        make = functools.partial(ipcheap.Heap.create, place, "64MiB", shm=shm, sem=sem)
        said[f"{name} {shm}"] = _said(make)
        with open(path, "w") as file:
            file.write(before)
        assert _left(folder) == [], (name, _left(folder))
    said["memory"] = _said(lambda: ipcheap.Heap.create("limited", "900GiB", shm="sysv"))
    assert _left(folder) == []
    return said


def make_on(kind: str, options: str, folder: str) -> list[str | int | None]:
    """Create a heap on a file system mounted for it; return the error."""
    subprocess.run(["mount", "-t", kind, "-o", options, kind, folder], check=True)
    outcome = _said(lambda: ipcheap.Heap.create(f"{folder}/heap", "1MiB", shm="file"))
    assert os.listdir(folder) == []
    return outcome

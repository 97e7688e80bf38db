"""The kinds of heaps, and a place where a test may make one that leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE = 60.0  # seconds for a call in a namespace of its own


class Kind(NamedTuple):
    """The kind of a heap's memory, and what waiters for its lock sleep on."""

    shm: str
    sem: str

    def __str__(self) -> str:
        return f"{self.shm}-{self.sem}"

    def place(self, name: str, folder: str | Path) -> str | None:
        """Return the name for a heap of this kind."""
        if self.shm == "memfd":
            return None
        return str(Path(folder) / name) if self.shm == "file" else name


ALL = [
    Kind(shm, sem)
    for shm in ("posix", "sysv", "file", "memfd")
    for sem in ("futex", "posix", "sysv")
]
NAMED = [kind for kind in ALL if kind.shm != "memfd"]
# The pairs of the two packages, and the default.
PAIRS = [kind for kind in NAMED if kind.shm != "file" and kind.sem != "futex"]
PAIRS.append(Kind("posix", "futex"))


def forget(name: str | None) -> None:
    """Remove everything that may exist under a heap's name."""
    if name is not None:
        with contextlib.suppress(ipcheap.HeapNotFound):
            ipcheap.unlink(name)


@contextlib.contextmanager
def made(
    kind: Kind, name: str, folder: Path, capacity: int | str = "64MiB", mode: int = 0o600
) -> Iterator[ipcheap.Heap]:
    """Make a heap; close and remove it at the end."""
    place = kind.place(name, folder)
    try:
        with ipcheap.Heap.create(place, capacity, shm=kind.shm, sem=kind.sem, mode=mode) as heap:
            yield heap
    finally:
        forget(place)


# A namespace of its own -----------------------------------------------------------------


# What only these functions need is imported here: processes that are forked often are to be small.


def _skip(reason: str) -> NoReturn:
    import pytest

    pytest.skip(reason)


def _unshare() -> list[str]:
    """Return the command that gives a process its own mounts and System V objects."""
    import shutil
    import subprocess

    tool = shutil.which("unshare")
    if tool is None:
        _skip("there is no unshare command to make a mount namespace with")
    reason = ""
    for options in ("-mi", "-rmi"):
        tried = subprocess.run(
            [tool, options, "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        if tried.returncode == 0:
            return [tool, options]
        reason = tried.stderr.strip()
    _skip(f"no mount namespace can be made here: {reason}")


def call_apart(
    function: Callable[..., Any],
    *args: Any,
    shm_bytes: int = 1 << 30,
    patience: float = PATIENCE,
) -> Any:
    """Call a function of an importable module in a process with a small /dev/shm of its own.

    No other process has anything there, nor any System V object. Arguments and result
    travel as JSON; what the function raises fails the test, as does a signal.
    """
    import subprocess

    code = (
        "import importlib, json, sys\n"
        "_, module, name, args = sys.argv\n"
        "result = getattr(importlib.import_module(module), name)(*json.loads(args))\n"
        "print(json.dumps(result))\n"
    )
    module = function.__module__
    if module == "__main__":
        module = Path(sys.argv[0]).stem
    mount = f'mount -t tmpfs -o size={shm_bytes} tmpfs /dev/shm && exec "$@"'
    done = subprocess.run(
        [
            *_unshare(),
            *("sh", "-c", mount, "sh"),
            *(sys.executable, "-P", "-X", "faulthandler", "-c", code),
            *(module, function.__name__, json.dumps(args)),
        ],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=patience,
    )
    assert done.returncode == 0, f"ended with {done.returncode}:\n{done.stderr}"
    return json.loads(done.stdout)


def kernel_objects() -> list[str]:
    """List the files in /dev/shm and the System V objects."""
    found = [f"/dev/shm/{name}" for name in os.listdir("/dev/shm")]
    for what in ("shm", "sem"):
        lines = Path("/proc/sysvipc", what).read_text().splitlines()[1:]
        found += [f"{what} {line.split()[1]}" for line in lines]
    return sorted(found)

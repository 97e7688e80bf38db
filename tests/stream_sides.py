"""Both sides of a stream in one process, and a child that is one of them."""

from __future__ import annotations

import os
import pickle
from typing import TYPE_CHECKING, Any, TypeAlias

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable

Sides: TypeAlias = tuple[ipcheap.StreamWriter, ipcheap.StreamReader]


class Streams:
    """A heap, in which a call adds a stream and claims both of its sides."""

    def __init__(self, heap: ipcheap.Heap) -> None:
        self.heap = heap
        self.made: list[Sides] = []

    def __call__(self, capacity: int | str = 100, **shape: Any) -> Sides:
        stream = self.heap.add_stream(len(self.made), capacity, **shape)
        self.made.append((stream.writer(), stream.reader()))
        return self.made[-1]

    def close(self) -> None:
        for sides in self.made:
            for side in sides:
                side.close()


def in_child(work: Callable[[], Any]) -> Any:
    """Return what a function returns in a forked child; AssertionError with what it raises."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            result: Any = True, work()
        except BaseException as error:
            result = False, f"{type(error).__name__}: {error}"
        with os.fdopen(writing, "wb") as file:
            file.write(pickle.dumps(result))
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        sent = file.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"ended with {os.waitstatus_to_exitcode(status)}"
    fine, value = pickle.loads(sent)
    assert fine, value
    return value


def killed(work: Callable[[], Any]) -> None:
    """Run a function in a forked child that is killed when the function returns."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os.kill(os.getpid(), 9)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == -9

"""Other threads for tests: what a thread raises is raised where it is joined."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import peers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


def call(function: Callable[[], T]) -> T:
    """Call a function in a new thread, which is another participant, and wait for its end."""
    return call_in(1, function)[0]


def call_in(count: int, function: Callable[[], T]) -> list[T]:
    """Call a function in so many threads at the same time, until the system has ended them.

    join() returns before: Python's part of the thread is over, and the end of its participant, at
    the exit of the system's thread, is still to come.
    """
    results: list[Future[T]] = [Future() for _ in range(count)]
    numbers: list[int] = []

    def body(result: Future[T]) -> None:
        numbers.append(threading.get_native_id())
        try:
            result.set_result(function())
        except BaseException as error:
            result.set_exception(error)

    bodies = [threading.Thread(target=body, args=(result,)) for result in results]
    for thread in bodies:
        thread.start()
    for thread in bodies:
        thread.join()
    end = time.monotonic() + peers.PATIENCE
    for number in numbers:
        while Path(f"/proc/self/task/{number}").exists():
            assert time.monotonic() < end, "a thread did not end"
            os.sched_yield()
    return [result.result() for result in results]


@contextlib.contextmanager
def later(*calls: Callable[[], object]) -> Iterator[None]:
    """Make calls in another thread, each some time later, when the block waits."""

    def body() -> None:
        for call in calls:
            time.sleep(0.05)
            call()

    with run(body):
        yield


@contextlib.contextmanager
def run(function: Callable[[], object]) -> Iterator[None]:
    """Run a function in a thread of its own meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(function)
        yield
        work.result()

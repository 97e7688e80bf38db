"""Other threads for tests: what a thread raises is raised where it is joined."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")


def call(function: Callable[[], T]) -> T:
    """Call a function in a new thread, which is another participant, and wait for its end."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result()


@contextlib.contextmanager
def run(function: Callable[[], object]) -> Iterator[None]:
    """Run a function in a thread of its own meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(function)
        yield
        work.result()

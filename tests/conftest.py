"""Fixtures that all tests share."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest
import stream_sides

import ipcheap
from ipcheap import record

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["ipcheap.pytest_plugin"]


def gil_is_on() -> bool:
    """Whether Python has a GIL now."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


GIL_AT_FIRST = gil_is_on()
if not GIL_AT_FIRST:
    # In child processes too: two kinds of semaphores and one of shared memory turn it on.
    os.environ["PYTHONWARNINGS"] = "ignore:The global interpreter lock (GIL):RuntimeWarning"


@pytest.fixture(autouse=True)
def gil_stays_off() -> Iterator[None]:
    """Fail if the GIL has come on in free-threaded Python, except for two packages."""
    yield
    if gil_is_on() and not GIL_AT_FIRST:
        assert {"posix_ipc", "sysv_ipc"} & set(sys.modules)


@pytest.fixture
def debugging() -> Iterator[None]:
    """Behave as with IPCHEAP_DEBUG=1."""
    record.debug(True)
    yield
    record.debug(record.DEBUG)


@pytest.fixture
def streams() -> Iterator[stream_sides.Streams]:
    """Return a heap that adds streams and claims both sides of each."""
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        made = stream_sides.Streams(heap)
        yield made
        made.close()

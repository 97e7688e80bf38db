"""Fixtures that all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import stream_sides

import ipcheap
from ipcheap import record

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["ipcheap.pytest_plugin"]


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

"""Fixtures for pytest: put `pytest_plugins = ["ipcheap.pytest_plugin"]` into conftest.py."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

import ipcheap
from ipcheap import testing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def heap_name() -> Iterator[str]:
    """A heap name that is not in use. A heap of this name is removed after the test."""
    name = testing.unique_name()
    yield name
    with contextlib.suppress(ipcheap.HeapNotFound):
        ipcheap.unlink(name)


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    """A heap of 64 MiB, closed and removed after the test."""
    with ipcheap.Heap.create(heap_name, "64MiB") as heap:
        yield heap

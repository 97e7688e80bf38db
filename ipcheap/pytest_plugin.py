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
    """Give a heap name that nobody else uses; no heap is left under it afterwards."""
    name = testing.unique_name()
    yield name
    with contextlib.suppress(ipcheap.HeapNotFound):
        ipcheap.unlink(name)


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    """Give a heap of 64 MiB, closed and gone afterwards."""
    with ipcheap.Heap.create(heap_name, "64MiB") as heap:
        yield heap

"""Fixtures that all tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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

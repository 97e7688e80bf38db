"""What all tests share."""

from __future__ import annotations

import contextlib
import os
import secrets
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def heap_name() -> Iterator[str]:
    """Give a name that no other test uses; nothing is left under it afterwards."""
    import ipcheap

    name = f"test.{os.getpid()}.{secrets.token_hex(4)}"
    yield name
    with contextlib.suppress(ipcheap.HeapNotFound):
        ipcheap.unlink(name)

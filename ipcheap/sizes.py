"""Sizes as this package reads and writes them, for programs that take or show sizes.

from ipcheap import sizes

sizes.parse("1.5 MiB")  # 1572864
sizes.show(1572864)  # "1.5 MiB"
"""

from __future__ import annotations

from . import _arguments


def parse(size: _arguments.Size) -> int:
    """Return a size in bytes, given in bytes or as a string like "64MiB", "1.5GiB" or "10kB".

    ValueError for a negative size or another string, TypeError for another type.
    """
    return _arguments.size(size)


def show(nbytes: int) -> str:
    """Return a number of bytes as text, like "63.1 MiB"."""
    return _arguments.show_size(nbytes)

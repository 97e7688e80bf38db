"""Names of kernels and outputs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from .errors import GraphError

if TYPE_CHECKING:
    from collections.abc import Container

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,17}")
_MOST = 18  # characters


def name_for(name: str | None, otherwise: str, taken: Container[str]) -> str:
    """Return a name that is not taken; GraphError for one that nobody may choose."""
    if name is not None and not NAME.fullmatch(name):
        raise GraphError(
            f"a name has 1 to {_MOST} of A-Z a-z 0-9 _ - and does not begin with a digit or '-': "
            f"{name!r}"
        )
    base = name or re.sub(r"[^A-Za-z0-9_-]", "_", otherwise)[:_MOST]
    if not NAME.fullmatch(base):
        base = f"_{base}"[:_MOST]
    found, number = base, 1
    while found in taken:
        number += 1
        found = f"{base[: _MOST - len(str(number))]}{number}"
    return found

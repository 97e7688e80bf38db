"""The limits of a store: what it may have, and how the core is told."""

from __future__ import annotations

from . import _arguments
from ._core import ffi, lib
from ._failures import error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle

NEVER = float("inf")
MOST = 2**63 - 1

_GIVEN = {
    "depth": lib.IPCHEAP_GIVEN_DEPTH,
    "ttl": lib.IPCHEAP_GIVEN_TTL,
    "max_chunks": lib.IPCHEAP_GIVEN_MAX_CHUNKS,
    "max_bytes": lib.IPCHEAP_GIVEN_MAX_BYTES,
    "evict": lib.IPCHEAP_GIVEN_FLAGS,
    "garbage": lib.IPCHEAP_GIVEN_GARBAGE,
    "hold": lib.IPCHEAP_GIVEN_HOLD,
}


class Limited:
    """What a store and its two sides have in common: its limits."""

    _limits: CData

    @property
    def depth(self) -> int:
        """How many chunks of a key are live at the same time."""
        return int(self._limits.depth)

    @property
    def ttl(self) -> float | None:
        """How many seconds a chunk lives whose put says nothing else; None if it never expires."""
        return self._limits.ttl_ns / 1e9 if self._limits.ttl_ns > 0 else None

    @property
    def max_chunks(self) -> int | None:
        """How many chunks may be live; None for as many as the heap has room for."""
        return int(self._limits.max_chunks) or None

    @property
    def max_bytes(self) -> int | None:
        """How many bytes the live chunks may have; None for as many as the heap has room for."""
        return int(self._limits.max_bytes) or None

    @property
    def evict(self) -> bool:
        """Whether the oldest chunks make way for new ones when a limit is reached."""
        return bool(self._limits.flags & lib.IPCHEAP_EVICT)

    @property
    def garbage(self) -> int:
        """How many bytes of dead chunks that no reader holds a put leaves uncollected."""
        return int(self._limits.garbage)

    @property
    def hold(self) -> int:
        """How many chunks a reader may hold."""
        return int(self._limits.hold)


def limits_of(handle: Handle, channel_id: ChannelId, entry: CData) -> CData:
    limits = ffi.new("ipcheap_store_options *")
    code = lib.ipcheap_store_options_of(handle.pointer, entry, limits)
    if code:
        raise error(code, handle, channel_id)
    return limits


def nanoseconds(ttl: Any, never: int) -> int:
    """Return a time to live as the core takes it; ValueError or TypeError if it is none."""
    if isinstance(ttl, bool) or not hasattr(ttl, "__float__"):
        raise TypeError(f"ttl must be seconds or None, not {type(ttl).__name__}")
    seconds = float(ttl)
    if not seconds > 0:
        raise ValueError(f"ttl must be seconds, more than 0, not {ttl!r}")
    return never if seconds == NEVER else max(int(min(seconds * 1e9, MOST // 2)), 1)


def fill_options(options: CData, given: dict[str, Any]) -> None:
    """Check the options that were passed, and fill them in."""
    for name, value in given.items():
        options.given |= _GIVEN[name]
        if name == "ttl":
            options.ttl_ns = 0 if value is None else nanoseconds(value, never=0)
        elif name == "evict":
            if not isinstance(value, bool):
                raise TypeError(f"evict must be a bool, not {type(value).__name__}")
            options.flags = lib.IPCHEAP_EVICT if value else 0
        elif name in ("max_chunks", "max_bytes") and value is None:
            setattr(options, name, 0)
        elif name in ("max_bytes", "garbage"):
            size = _arguments.size(value, name)
            if name == "max_bytes" and size < 1:
                raise ValueError(f"max_bytes must be at least 1, or None, not {size}")
            setattr(options, name, min(size, MOST))
        else:
            number = _arguments.count(value, name, least=1)
            if name == "hold" and number > lib.IPCHEAP_MOST_HOLDS:
                raise ValueError(f"hold must be at most {lib.IPCHEAP_MOST_HOLDS}, not {number}")
            setattr(options, name, min(number, MOST))

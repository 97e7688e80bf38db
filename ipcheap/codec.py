"""What `send_object` and `recv_object` take to be a codec, for type checkers and readers."""

from __future__ import annotations

from typing import Any, Protocol


class Codec(Protocol):
    """How objects become bytes and come back.

    Any object with these two methods will do. Both sides of a channel must use the same one;
    nothing in a record tells which it was.
    """

    def encode(self, obj: Any, /) -> list[Any]:
        """Return bytes-like objects, each of them in one piece; each is copied once."""
        ...

    def decode(self, pieces: list[memoryview], /) -> Any:
        """Make the object of the same pieces.

        They alias the record, each at a multiple of 64 bytes, and may be kept: the record is
        freed when nothing refers to them any more.
        """

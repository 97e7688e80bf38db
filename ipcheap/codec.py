"""The protocol of codecs for `send_object` and `recv_object`, for type checkers and readers."""

from __future__ import annotations

from typing import Any, Protocol


class Codec(Protocol):
    """Turns objects into bytes and back.

    Any object with these two methods is a codec. Both sides of a channel must use the same codec; a
    record does not say which one made it.

    A class of codecs may also have a method `decode_one(piece: bytes)`: it is called instead of
    `decode` with a copy of the only piece of a short object. A subclass does not inherit it.
    """

    def encode(self, obj: Any, /) -> list[Any]:
        """Return C-contiguous bytes-like objects, the pieces of `obj`. Each is copied once."""
        ...

    def decode(self, pieces: list[memoryview], /) -> Any:
        """Return the object made from the same pieces.

        The pieces alias the record, each at a multiple of 64 bytes. The object may keep them: the
        record is freed when nothing refers to them any more.
        """

"""Objects as records: the default codec, and the pieces that a codec makes of an object."""

from __future__ import annotations

from ._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    import pickle
    from typing import Any

    from .codec import Codec

_HEAD = 8  # bytes: the magic and the count, each of 4
_ALIGN = 64
_pickle: Any = None  # imported on first use: it is slow to import, and only needed for objects


def _pickle_module() -> Any:
    global _pickle  # noqa: PLW0603
    import pickle

    _pickle = pickle
    return pickle


class PickleCodec:
    """Pickle protocol 5, with the buffers of arrays beside the pickle, not in it.

    Unpickling runs code that the pickle names. A process that can write into the heap can run code
    in every process that receives objects from it.
    """

    def encode(self, obj: Any, /) -> list[Any]:
        """Return the pickle, followed by the buffers that it refers to."""
        buffers: list[pickle.PickleBuffer] = []
        data = (_pickle or _pickle_module()).dumps(obj, 5, buffer_callback=buffers.append)
        return [data, *(buffer.raw() for buffer in buffers)] if buffers else [data]

    def decode(self, pieces: list[memoryview], /) -> Any:
        """Return the unpickled object, whose arrays alias the pieces."""
        return (_pickle or _pickle_module()).loads(pieces[0], buffers=pieces[1:])

    def decode_one(self, piece: bytes, /) -> Any:
        """Return the unpickled object of a single piece: nothing aliases it."""
        return (_pickle or _pickle_module()).loads(piece)


PICKLE = PickleCodec()


def encode(codec: Codec, obj: Any, fate: str, by: object) -> list[Any]:
    """Return the pieces that a codec makes of an object; an error says what was to come of it."""
    try:
        return codec.encode(obj)
    except Exception as error:
        error.add_note(f"The object was to be {fate} {by!r}.")
        raise


def pieces_of(view: memoryview) -> list[memoryview]:
    """Return the pieces that py_pack() put into a record; ValueError if there are none."""
    magic, count = view[:_HEAD].cast("I") if len(view) >= _HEAD else (0, 0)
    end = _HEAD + 8 * count
    if magic != lib.PY_PIECES or end > len(view):
        raise ValueError("it does not list its pieces")
    pieces: list[memoryview] = []
    for length in view[_HEAD:end].cast("Q"):
        at = -(-end // _ALIGN) * _ALIGN
        end = at + length
        if end > len(view):
            raise ValueError("its pieces are longer than it is")
        pieces.append(view[at:end])
    return pieces


def decode(codec: Codec, pieces: list[memoryview]) -> Any:
    """Return the object that a codec makes from the pieces of a record."""
    try:
        return codec.decode(pieces)
    except BaseException:
        # The traceback would keep them alive, and with them the record.
        for piece in pieces:
            try:
                piece.release()
            except BufferError:  # another object uses it
                pass
        raise

"""Chunks: what a reader of a store holds."""

from __future__ import annotations

from ._core import lib, use_chunks
from ._failures import error
from ._store_limits import NEVER
from ._types import ChunkCore
from .array import as_numpy_asks, make_array
from .errors import RecordError
from .objects import PICKLE
from .record import array_of, object_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    import numpy.typing

    from ._arguments import ChannelId
    from ._handle import Handle
    from .array import Shape
    from .codec import Codec

_ARRAY, _OBJECT = lib.IPCHEAP_ARRAY, lib.IPCHEAP_OBJECT
_FORMS = {_ARRAY: "array", _OBJECT: "object"}


def wall_clock() -> float:
    """Return the time in seconds since the epoch."""
    import time

    return time.time()


class Home:
    """What the chunks that a reader was given keep alive."""

    __slots__ = ("channel", "handle")

    handle: Handle
    channel: ChannelId

    def __init__(self, handle: Handle, channel: ChannelId) -> None:
        self.handle = handle
        self.channel = channel


class Chunk(ChunkCore):
    """A committed value of a store, which a reader holds: its bytes do not change while it does.

    The hold ends when the chunk was released, by `release()`, the end of its `with` block or
    garbage collection, *and* the last view or array on it is gone. All of them are read-only.
    After its release, `key`, `version` and `nbytes` can still be used; anything else raises
    RecordError.

    `len(chunk)` and `chunk.nbytes` are the size in bytes, `bytes(chunk)` is a copy, `chunk[i]` a
    byte, `chunk[i:j]` a view. A chunk supports the buffer protocol. One that was put as an array
    carries its shape and dtype; NumPy and the buffer protocol see it as that array. Chunks cannot
    be sent or put: others may hold them, too.
    """

    __slots__ = ()

    @property
    def form(self) -> str:
        """What it was put as: "bytes", "array" or "object"."""
        return _FORMS.get(self._export().form, "bytes")

    def array(
        self, dtype: numpy.typing.DTypeLike | None = None, shape: Shape | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return a read-only NumPy array that aliases the chunk, and keeps the hold.

        Without a dtype it is the array that was put, or the bytes if none was. With another dtype
        and `shape` None it has one dimension; a length of -1 in `shape` is computed. ValueError if
        the chunk is no whole number of items of the dtype, or if `shape` has another size;
        TypeError for a dtype that holds Python objects.
        """
        grip = self._export()
        if dtype is None and grip.form == _ARRAY:
            array = array_of(grip, self._source)
        else:
            array = make_array(grip, "u1" if dtype is None else dtype)
        return array if shape is None else array.reshape(shape)

    def object(self, *, codec: Codec = PICKLE) -> Any:
        """Return the object that `put_object` put. `codec` must be the same; unpickling runs code.

        Arrays in the object alias the chunk, are read-only, and keep the hold. RecordError if the
        chunk is no object.
        """
        grip = self._export()
        if grip.form != _OBJECT:
            raise RecordError(f"{self!r} was not put by put_object()")
        return object_of(grip, self._source, codec)

    @property
    def age(self) -> float:
        """How many seconds ago it was committed, by a clock that counts suspended time."""
        return self._describe()[0] / 1e9

    @property
    def time(self) -> float:
        """When it was committed, in seconds since the epoch: the wall clock now minus its age."""
        return wall_clock() - self.age

    @property
    def expires_in(self) -> float:
        """In how many seconds it expires; infinity if never, 0 or less if it has."""
        left = self._describe()[1]
        return NEVER if left is None else left / 1e9

    @property
    def live(self) -> bool:
        """Whether it is neither replaced, nor deleted, evicted or expired."""
        return self._describe()[2]

    def __array__(
        self, dtype: numpy.typing.DTypeLike | None = None, copy: bool | None = None
    ) -> numpy.typing.NDArray[Any]:
        """Return the array. NumPy calls this for items that the buffer protocol cannot describe."""
        return as_numpy_asks(self.array(), dtype, copy, "chunk")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a chunk does not pickle: get it in the other process, or pickle its bytes")

    def __repr__(self) -> str:
        state = f"{self.nbytes} bytes" if self._is_held else "released"
        return f"<Chunk version {self.version} of {self._where()}, {state}>"

    # Inside -----------------------------------------------------------------------------------

    def _typed(self) -> numpy.typing.NDArray[Any]:
        """Return the array; ValueError if its buffer would have another type."""
        array = self.array()
        if array.dtype.kind == "V" and array.dtype.names is None:
            raise ValueError("the items have no type")
        return array

    def _where(self) -> str:
        return f"channel {self._source.channel!r} of {self._source.handle}"

    def _refuse(self, code: int, asked: str) -> NoReturn:
        if code != lib.PY_ENDED:
            raise error(code, self._source.handle, self._source.channel, side="chunk")
        twice = "twice" if asked == "released" else f"and cannot be {asked}"
        raise RecordError(f"the chunk of {self._where()} has been released {twice}")


use_chunks(Chunk)

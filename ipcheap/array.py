"""NumPy arrays over shared memory: their descriptions there, and arrays made from these."""

from __future__ import annotations

from ._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias, TypeVar

    import numpy
    import numpy.typing

    K = TypeVar("K")
    V = TypeVar("V")

Shape: TypeAlias = "int | tuple[int, ...]"

_KINDS = (
    "biufcSUVMm"  # all kinds of dtypes except those that hold Python objects or have no fixed size
)
_SIMPLE = rf"[<>|][{_KINDS}]\d+(\[\w+\])?"
_HEADER = "=IHHBB6xQ"  # an ipcheap_array_header
_PARSED_AGAIN = 100  # attempts to parse a description beside other threads that parse
_numpy: Any = None  # imported on first use


def numpy_module() -> Any:
    """Return NumPy, imported on first use."""
    global _numpy  # noqa: PLW0603
    if _numpy is None:
        try:
            import numpy as _numpy
        except ModuleNotFoundError:
            raise ImportError("arrays need NumPy: pip install numpy") from None
    return _numpy


def make_array(buffer: Any, dtype: numpy.typing.DTypeLike) -> numpy.typing.NDArray[Any]:
    """Return a one-dimensional array over a buffer, which it keeps alive."""
    np = _numpy or numpy_module()
    try:
        return np.frombuffer(buffer, dtype)  # type: ignore[no-any-return]
    except ValueError:
        kind = np.dtype(dtype)
        if kind.hasobject:
            raise TypeError(f"{kind!r} holds Python objects, which shared memory cannot") from None
        raise ValueError(
            f"{len(buffer)} bytes are no whole number of items of {kind!r}, "
            f"which have {kind.itemsize} bytes"
        ) from None


def as_numpy_asks(
    array: numpy.typing.NDArray[Any],
    dtype: numpy.typing.DTypeLike | None,
    copy: bool | None,
    owner: str,
) -> numpy.typing.NDArray[Any]:
    """Return what `__array__(dtype, copy)` of the array's owner returns."""
    if dtype is not None and array.dtype != dtype:
        if copy is False:
            raise ValueError(
                f"an array of {dtype!r} needs a copy: the {owner} is of {array.dtype!r}"
            )
        return array.astype(dtype)
    return array.copy() if copy else array


class Layout:
    """Shape, dtype and order of an array: the arguments of `numpy.ndarray`."""

    __slots__ = ("dtype", "order", "shape")

    shape: tuple[int, ...]
    dtype: numpy.dtype[Any]
    order: str

    def __init__(self, shape: tuple[int, ...], dtype: numpy.dtype[Any], order: str) -> None:
        self.shape = shape
        self.dtype = dtype
        self.order = order

    def array(self, buffer: Any) -> numpy.typing.NDArray[Any]:
        """Return an array with this layout over a buffer, which it keeps alive."""
        return _numpy.ndarray(self.shape, self.dtype, buffer, 0, None, self.order)  # type: ignore[no-any-return]


# What was made of recent descriptions and requests. `functools.lru_cache` would do, but importing
# `functools` takes a quarter of the time that `import ipcheap` takes.
_read: dict[bytes, Layout] = {}
_described: dict[tuple[tuple[int, ...], Any, str], tuple[bytes, int, Layout]] = {}
_MOST_REMEMBERED = 256


def _remember(results: dict[K, V], key: K, result: V) -> V:
    if len(results) >= _MOST_REMEMBERED:
        results.clear()
    results[key] = result
    return result


# Sending ------------------------------------------------------------------------------------


def describe(shape: Shape, dtype: numpy.typing.DTypeLike, order: str) -> tuple[bytes, int, Layout]:
    """Return the core's description of an array to be allocated, its size, and its layout.

    TypeError for a dtype that holds Python objects or has no description as text; ValueError for a
    dtype without a size, or a shape that no array can have.
    """
    global _latest  # noqa: PLW0603
    latest = _latest
    if shape is latest[0] and dtype is latest[1] and order is latest[2]:
        return latest[3]
    np = _numpy or numpy_module()
    import operator  # NumPy has imported it

    if order not in ("C", "F"):
        raise ValueError(f"order must be 'C' or 'F', not {order!r}")
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    asked = tuple(map(operator.index, lengths)), np.dtype(dtype), order
    made = _described.get(asked) or _remember(_described, asked, _describe(*asked))
    if type(shape) is tuple and {*map(type, shape)} == {int} and type(dtype) in (str, type):
        _latest = shape, dtype, order, made
    return made


# The last request, if its arguments are immutable: a stream repeats the same request.
_latest: tuple[Any, Any, Any, tuple[bytes, int, Layout]]
_latest = object(), None, None, (b"", 0, Layout((), _numpy, "C"))


def _describe(
    shape: tuple[int, ...], dtype: numpy.dtype[Any], order: str
) -> tuple[bytes, int, Layout]:
    import math
    import struct

    if dtype.subdtype is not None:
        dtype, inner = dtype.subdtype
        shape += inner
    text = _text_of(dtype).encode()
    if dtype.itemsize == 0:
        raise ValueError(f"the items of {dtype!r} have no size")
    if len(text) >= lib.IPCHEAP_ARRAY_TYPE:
        raise ValueError(
            f"the description of a dtype of {len(dtype.names or ())} fields is too long"
        )
    if len(shape) > lib.IPCHEAP_ARRAY_DIMENSIONS:
        most = lib.IPCHEAP_ARRAY_DIMENSIONS
        raise ValueError(f"an array has at most {most} dimensions, not {len(shape)}")
    nbytes = math.prod(shape) * dtype.itemsize
    if any(not 0 <= length < 2**63 for length in shape) or nbytes >= 2**55:
        raise ValueError(f"no array can have the shape {shape}")
    header = struct.pack(
        _HEADER,
        lib.IPCHEAP_ARRAY_MAGIC,
        lib.IPCHEAP_ARRAY_VERSION,
        len(text),
        len(shape),
        order == "F",
        dtype.itemsize,
    )
    description = header + struct.pack(f"={len(shape)}Q", *shape) + text + b"\0"
    return description, nbytes, Layout(shape, _dtype_of(text.decode()), order)


def _text_of(dtype: numpy.dtype[Any]) -> str:
    """Return the description of a dtype that .npy files use."""
    if dtype.hasobject:
        raise TypeError(f"{dtype!r} holds Python objects, which shared memory cannot")
    try:
        text = dtype.str if dtype.names is None else _text_of_fields(dtype)
        if dtype.kind in _KINDS and _dtype_of(text) == dtype:
            return text
    except ValueError:
        pass
    raise TypeError(f"{dtype!r} has no description that another process could read")


def _text_of_fields(dtype: numpy.dtype[Any]) -> str:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about metadata, which are not sent
        return repr(_numpy.lib.format.dtype_to_descr(dtype))


# Receiving ----------------------------------------------------------------------------------


def read_description(description: bytes) -> Layout:
    """Return the layout in a block's description; ValueError if there is no such dtype.

    The core has checked all of the description except the type. A stream of arrays of one layout
    reads it once.
    """
    layout = _read.get(description)
    if layout is None:
        layout = _remember(_read, description, _read_description(description))
    return layout


def _read_description(description: bytes) -> Layout:
    import struct

    _, _, type_length, dimensions, order, itemsize = struct.unpack_from(_HEADER, description)
    shape = struct.unpack_from(f"={dimensions}Q", description, struct.calcsize(_HEADER))
    text = description[-1 - type_length : -1].decode()
    if _numpy is None:
        numpy_module()
    dtype = _dtype_of(text)
    if dtype.itemsize != itemsize:
        raise ValueError(f"items of {itemsize} bytes are not {dtype!r}")
    return Layout(shape, dtype, "F" if order else "C")


def _dtype_of(text: str) -> numpy.dtype[Any]:
    """Return the dtype that `_text_of` described; a peer may have written anything."""
    import re  # NumPy has imported it

    try:
        if re.fullmatch(_SIMPLE, text):
            dtype = _numpy.dtype(text)
        else:
            fields = _literal(text)
            if not isinstance(fields, list):
                raise TypeError(text)
            dtype = _numpy.lib.format.descr_to_dtype(fields)
    except (TypeError, ValueError, SyntaxError, IndexError, KeyError, MemoryError, RecursionError):
        raise ValueError(f"no dtype is described by {text!r}") from None
    if dtype.hasobject:
        raise ValueError(f"shared memory cannot hold {dtype!r}")
    return dtype  # type: ignore[no-any-return]


def _literal(text: str) -> object:
    """Return what a literal stands for, also while other threads parse Python.

    CPython before 3.13 counts how deep a tree is in one place for all threads. What it then raises
    says nothing about the text.
    """
    import ast

    for _ in range(_PARSED_AGAIN):
        try:
            return ast.literal_eval(text)
        except SystemError:
            pass
    return ast.literal_eval(text)

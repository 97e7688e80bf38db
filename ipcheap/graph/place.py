"""How a worker gets the functions and classes of a graph: by name, or by value.

Kernels that another process can import are found there by file and name, so that the functions of
a script and of a test work as well. Others are pickled by value if `cloudpickle` is installed.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
import sys
from pathlib import Path
from types import FunctionType
from typing import Any

from ipcheap import places

from .errors import GraphError


def where(thing: Any) -> tuple[str, str, str] | None:
    """Return module, file and qualified name of a function or class; None if it has no such."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", "<>")
    home: Any = sys.modules.get(module) if isinstance(module, str) else None
    if home is None or "<" in name:
        return None
    found = home
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not thing:
        return None
    # Not that of the code: a decorated function has another, and in a notebook there is none.
    file = getattr(home, "__file__", None)
    return (str(module), file, name) if isinstance(file, str) else None


def found_elsewhere(module: str, file: str, name: str) -> Any:
    """Return what `name` is in a module, on any host: imported, or of the same file there."""
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        if not Path(file).exists():
            error.add_note(f"{name} is in {file}, which this host does not have, either.")
            raise
        return places.found_at(module, file, name)
    for part in name.split("."):
        found = getattr(found, part)
    return found


class _Pickler(pickle.Pickler):
    """Pickles functions and classes by their place."""

    def __init__(self, into: io.BytesIO, elsewhere: bool) -> None:
        super().__init__(into, 5)
        self._elsewhere = elsewhere

    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, FunctionType | type):
            return NotImplemented
        place = where(obj)
        if place is not None and self._elsewhere and place[1].endswith(".py"):
            if place[0] == "__main__" and importlib.util.find_spec("cloudpickle"):
                place = None  # the other host may not have the program
            elif place[0].partition(".")[0] != "ipcheap":
                return found_elsewhere, place
        if place is not None:
            if place[1].endswith(".py") and place[0].partition(".")[0] != "ipcheap":
                return places.found_at, place
            return NotImplemented
        home = sys.modules.get(getattr(obj, "__module__", ""))
        if (
            home is not None
            and getattr(home, obj.__qualname__, None) is obj
            and (home.__name__ != "__main__")
        ):
            return NotImplemented  # of an extension module
        try:
            cloudpickle: Any = importlib.import_module("cloudpickle")
        except ModuleNotFoundError:
            raise GraphError(
                f"{obj.__qualname__} cannot be found by name in another process, because it is "
                "defined inside of a function, or in a program without a file: define it in a "
                "module, pip install cloudpickle, or use runner='threads'"
            ) from None
        return pickle.loads, (cloudpickle.dumps(obj),)


def packed(thing: Any, *, elsewhere: bool = False) -> bytes:
    """Return the pickle of anything that a worker needs; GraphError if it has none.

    With `elsewhere` it is for another host: what the program itself defines is pickled by value if
    possible, and modules are imported by name.
    """
    into = io.BytesIO()
    try:
        _Pickler(into, elsewhere).dump(thing)
    except GraphError:
        raise
    except Exception as error:
        raise GraphError(f"{thing!r} does not pickle, so no worker can get it: {error}") from error
    return into.getvalue()


def unpacked(data: bytes) -> Any:
    """Return what was packed, in any process."""
    return pickle.loads(data)

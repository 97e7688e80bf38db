"""Where functions and classes are: found by file and name, so that another process gets them.

`ipcheap.testing` and `ipcheap.graph` need that for the functions of scripts and of tests.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType


def _is_of(module: ModuleType | None, file: str) -> bool:
    return module is not None and getattr(module, "__file__", None) == file


def _module(name: str, file: str) -> ModuleType:
    """Return the module of that file: the one of that name if it is of the same file here."""
    for known in (name, "__mp_main__", Path(file).stem):
        module = sys.modules.get(known)
        if module is not None and _is_of(module, file):
            return module
    # pytest gives test files names by which no other process can import them.
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin == file:
            return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a module", path=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def found_at(module: str, file: str, name: str) -> Any:
    """Return what `name` is in a module, which need not be importable by its name here.

    The module is that of `file`: the one that has been imported already, as the main program or
    under any name, or else a new one.
    """
    found: Any = _module(module, file)
    for part in name.split("."):
        found = getattr(found, part)
    return found

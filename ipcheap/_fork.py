"""A fork while another thread imports leaves a child that can import.

Python's lock of a module that is being imported belongs to a thread. A forked child that lacks this
thread would wait for the lock indefinitely, in its first call that needs the module. So the child
drops such a lock, and the module is executed again when it is imported next. This is done for this
package and what it imports, not for the modules of a program: those may run as long as the program.

The parent cannot prevent it. What runs before a fork runs with the locks of `logging` and others
held, which the import in the other thread may need in order to end.

The first module of the package, because importing the others may be interrupted too.
"""

from __future__ import annotations

import sys
from _thread import get_ident
from os import register_at_fork

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_importlib: Any = sys.modules["_frozen_importlib"]
_external: Any = sys.modules["_frozen_importlib_external"]
_OURS = frozenset({"ipcheap", "numpy", "posix_ipc", "sysv_ipc", "_cffi_backend"})
_halves: dict[str, ModuleType] = {}  # of modules whose import a fork has interrupted


class _Again:
    """A finder and loader of modules of which there is a half already.

    The half is executed from its beginning, and keeps what it has: a package has its submodules.
    Half an extension module is loaded again instead. NumPy's refuses that, by an ImportError.
    """

    @staticmethod
    def find_spec(
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG004  # finders are given it
        target: ModuleType | None = None,  # noqa: ARG004
    ) -> ModuleSpec | None:
        half = _halves.get(name)
        if half is None or half.__spec__ is None:
            return None
        again: ModuleSpec = _importlib.ModuleSpec(name, _Again, origin=half.__spec__.origin)
        again.submodule_search_locations = half.__spec__.submodule_search_locations
        again.loader_state = half.__spec__
        return again

    @staticmethod
    def create_module(spec: ModuleSpec) -> ModuleType:
        return _halves.pop(spec.name)

    @staticmethod
    def exec_module(module: ModuleType) -> None:
        again: Any = module.__spec__
        spec = again.loader_state
        spec.loader.exec_module(module)
        spec._initializing = False
        module.__spec__ = spec


def _is_compiled(spec: ModuleSpec) -> bool:
    """Whether a module is an extension, in a file or in the interpreter: Pythons differ."""
    loader = spec.loader
    return isinstance(loader, _external.ExtensionFileLoader) or loader is _importlib.BuiltinImporter


def _drop_imports_of_lost_threads() -> None:
    locks: dict[str, Any] = _importlib._module_locks
    for name, reference in list(locks.items()):
        lock = reference()
        top = name.partition(".")[0]
        if lock is None or lock.owner == get_ident():  # an import that forks goes on in the child
            continue
        if top not in _OURS and top not in sys.stdlib_module_names:
            continue
        del locks[name]
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if spec is not None and spec._initializing:
            half = sys.modules.pop(name)
            if not _is_compiled(spec):
                _halves[name] = half
    if _halves and _Again not in sys.meta_path:
        sys.meta_path.insert(0, _Again)


register_at_fork(after_in_child=_drop_imports_of_lost_threads)

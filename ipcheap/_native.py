"""The core's values in Python: text, addresses, the names of its kinds."""

from __future__ import annotations

from ._core import ffi, lib, require_main

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._core import CData

require_main()  # before anything of this package is made


def text_of(chars: CData) -> str:
    """Return a C string as a str; bytes that are not UTF-8 are replaced."""
    return ffi.string(chars).decode(errors="replace")


def address(pointer: CData) -> int:
    """Return the address that a pointer holds."""
    return int(ffi.cast("uintptr_t", pointer))


__version__: str = text_of(lib.ipcheap_version_string())

# In the order of the core's numbers.
SHM_KINDS = ("posix", "sysv", "file", "memfd")
SEM_KINDS = ("futex", "posix", "sysv")

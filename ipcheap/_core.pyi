"""What the extension module offers, built from native/bindings.

The rule, held by tests/test_stub.py: `_Lib` has one method for each function of
core.cdef.txt, its arguments positional, and one `Final[int]` for each constant; nothing
else. Integers and enums are `int`, `_Bool` is `bool`, `void` is `None`; what comes back as
a pointer or a struct is `CData`; a pointer that goes in is `CData`, or whatever else
cffi takes for it.
"""

from typing import TypeAlias, type_check_only

from _cffi_backend import FFI

CData: TypeAlias = FFI.CData

@type_check_only
class _Lib:
    def ipcheap_version_string(self) -> CData: ...

ffi: FFI
lib: _Lib

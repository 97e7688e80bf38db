"""What the writer and the readers of a store have in common."""

from __future__ import annotations

from . import _arguments
from ._core import ffi, lib
from ._endpoint import SidedEndpoint
from ._store_limits import Limited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle
    from ._types import Key
    from .store import Store

LAST = 2**64 - 1
_LONGEST_KEY = lib.IPCHEAP_STORE_KEY_MAX


class StoreEndpoint(Limited, SidedEndpoint):
    """What a writer and a reader of a store have in common."""

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData, store: Store) -> None:
        super().__init__(handle, channel, pointer)
        self._entry = store._entry
        self._limits = store._limits

    @property
    def version(self) -> int:
        """The version of the newest commit; 0 if there is none."""
        return self._number(lib.ipcheap_store_version)

    # Inside -----------------------------------------------------------------------------------

    def _number(self, of: Callable[[CData], int]) -> int:
        self._insist_open()
        return int(of(self._pointer))

    def _insist_open(self) -> None:
        """Raise HeapClosed or EndpointClosed if that is so."""
        if self._handle.closed:
            raise self._error(lib.IPCHEAP_HEAP_CLOSED)
        if self.closed:
            raise self._error(lib.IPCHEAP_ENDPOINT_CLOSED)

    def _numbers(self) -> CData:
        numbers = ffi.new("ipcheap_store_endpoint_statistics *")
        self._checked(lib.ipcheap_store_endpoint_describe(self._pointer, numbers))
        return numbers

    def _refuse(self, code: int) -> NoReturn:
        raise self._error(code)

    def _plain_key(self, key: Any) -> Key:
        """Return an int, str or bytes for what stands for one; or raise what is wrong with it."""
        if isinstance(key, str):
            key = str(key)
            length = len(key.encode())
        elif isinstance(key, bytes):
            key = bytes(key)
            length = len(key)
        elif isinstance(key, bool) or not hasattr(key, "__index__"):
            raise TypeError(f"a key must be an int, a str or bytes, not {type(key).__name__}")
        else:
            number = _arguments.whole_number(key, "a key")
            if not 0 <= number <= LAST:
                raise ValueError(f"key {number} must be 0 to 2**64 - 1")
            return number
        if not 1 <= length <= _LONGEST_KEY:
            raise ValueError(f"key {key!r} must be 1 to {_LONGEST_KEY} bytes, not {length}")
        return key  # type: ignore[no-any-return]

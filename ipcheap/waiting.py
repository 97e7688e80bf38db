"""Waiting for any of many: endpoints, events and atomic cells, of any heaps."""

from __future__ import annotations

import contextlib
from functools import partial

from . import _timing
from ._core import ffi, lib
from ._endpoint import Endpoint
from ._failures import error
from .static import Atomic
from .sync import Event

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, TypeAlias, TypeVar

    from ._core import CData

    Waitable: TypeAlias = Endpoint | Event | tuple[Atomic, int]
    W = TypeVar("W", bound=Waitable)


def wait(objects: Iterable[W], timeout: float | None = None) -> list[W]:
    """Wait until one or more of `objects` are ready; return all that are, in their order.

    A producer or consumer is ready when a send or receive would not have to wait, also
    because the other side has closed or died; an `Event` when it is set; a pair of an
    `Atomic` and a value when the cell holds another one (who changes it must `notify()`).
    There may be any number of them, of several heaps. Waits `timeout` seconds, None for
    ever; the list is empty when time is up, or when there was nothing to wait for.

    Raises TypeError for what cannot be waited for, and what using an endpoint would raise:
    `WrongThread`, `WrongProcess`, `EndpointClosed`, `HeapClosed`.
    """
    if isinstance(objects, Endpoint):  # to iterate over a consumer is to receive
        raise TypeError(f"wait() takes a list of what to wait for: wait([{objects._side}])")
    chosen = list(objects)
    deadline = _timing.deadline_of(timeout)
    if not chosen:
        return []
    items = ffi.new("ipcheap_waitable[]", len(chosen))
    left_over = [_describe(item, thing) for item, thing in zip(items, chosen, strict=True)]
    if any(left_over):
        deadline = _timing.deadline_of(0.0)
    count = 0

    def step(nanoseconds: int) -> int:
        nonlocal count
        count = int(lib.py_wait_any(items, len(chosen), nanoseconds))
        return count if count < 0 else 0 if count else int(lib.IPCHEAP_TIMED_OUT)

    code = _timing.sleep(step, deadline)
    if code not in (0, lib.IPCHEAP_TIMED_OUT):
        raise _error(code, chosen)
    return [
        thing
        for item, thing, more in zip(items, chosen, left_over, strict=True)
        if item.ready or more
    ]


def _describe(item: CData, thing: Any) -> bool:
    """Fill in what the core is to wait for; return whether it need not."""
    if isinstance(thing, Endpoint):
        item.endpoint = thing._pointer
        return thing._has_left_over()
    if isinstance(thing, Event):
        item.word = thing._at
        return False
    cell: Any = None
    value: Any = None
    with contextlib.suppress(TypeError, ValueError):
        cell, value = thing
    if isinstance(cell, Atomic):
        item.word, item.width = cell._address, cell._width
        item.expected = cell._operand(value)
        return False
    raise TypeError(
        "one can wait for producers, consumers, events and (atomic, value) pairs, "
        f"not for {type(thing).__name__!r}"
    )


def _error(code: int, chosen: Iterable[Waitable]) -> Exception:
    """Name the endpoint that is to blame."""
    for thing in chosen:
        if isinstance(thing, Endpoint):
            found = partial(lib.py_wait, thing._pointer)(0)
            if found not in (0, lib.IPCHEAP_TIMED_OUT):
                return thing._error(found)
    return error(code, "wait()")

"""Wait for any of many endpoints, events and atomic cells, in any heaps."""

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
    from .static import StaticSegment

    Waitable: TypeAlias = Endpoint | Event | tuple[Atomic, int]
    W = TypeVar("W", bound=Waitable)


def wait(objects: Iterable[W], timeout: float | None = None) -> list[W]:
    """Wait until one or more of `objects` are ready; return all that are, in their order.

    A producer or consumer is ready if a send or receive would not have to wait, or if the other
    side has closed or died. An `Event` is ready if it is set. A pair of an `Atomic` and a value is
    ready if the cell has another value; a participant that changes the cell must call `notify()`.
    Either is ready, too, once its segment has been removed: waiting on it is an error then. The
    objects may be in several heaps. Waits `timeout` seconds, None indefinitely. The list is
    empty if time is up, or if there was nothing to wait for.

    TypeError for an object that cannot be waited for. An endpoint that may not be used raises
    `WrongThread`, `WrongProcess`, `EndpointClosed` or `HeapClosed`.
    """
    if isinstance(objects, Endpoint):  # iterating over a consumer would receive its records
        raise TypeError(f"wait() takes a list of objects to wait for: wait([{objects._side}])")
    chosen = list(objects)
    deadline = _timing.deadline_of(timeout)
    if not chosen:
        return []
    items = ffi.new("ipcheap_waitable[]", len(chosen))
    left_over: list[bool] = []
    segments: list[StaticSegment | None] = []
    for item, thing in zip(items, chosen, strict=True):
        segment = _describe(item, thing)
        segments.append(segment)
        left_over.append(isinstance(thing, Endpoint) and thing._has_left_over())
    if any(left_over):
        deadline = _timing.deadline_of(0.0)
    count = 0

    def step(nanoseconds: int) -> int:
        nonlocal count
        count = int(lib.py_wait_any(items, len(chosen), nanoseconds))
        if count == 0:
            left_over[:] = [segment is not None and segment._is_removed() for segment in segments]
            if any(left_over):
                return 0
        return count if count < 0 else 0 if count else int(lib.IPCHEAP_TIMED_OUT)

    code = _timing.sleep(step, deadline)
    if code not in (0, lib.IPCHEAP_TIMED_OUT):
        raise _error(code, chosen)
    return [
        thing
        for item, thing, more in zip(items, chosen, left_over, strict=True)
        if item.ready or more
    ]


def _describe(item: CData, thing: Any) -> StaticSegment | None:
    """Fill in what the core waits for; return the segment that it is in."""
    if isinstance(thing, Endpoint):
        item.endpoint = thing._pointer
        return None
    if isinstance(thing, Event):
        item.word = thing._at
        return thing._segment
    cell: Any = None
    value: Any = None
    with contextlib.suppress(TypeError, ValueError):
        cell, value = thing
    if isinstance(cell, Atomic):
        item.word, item.width = cell._address, cell._width
        item.expected = cell._operand(value)
        return cell._segment
    raise TypeError(
        "wait() takes producers, consumers, events and (atomic, value) pairs, "
        f"not {type(thing).__name__!r}"
    )


def _error(code: int, chosen: Iterable[Waitable]) -> Exception:
    """Return the exception of the endpoint that caused an error."""
    for thing in chosen:
        if isinstance(thing, Endpoint):
            found = partial(lib.py_wait, thing._pointer)(0)
            if found not in (0, lib.IPCHEAP_TIMED_OUT):
                return thing._error(found)
    return error(code, "wait()")

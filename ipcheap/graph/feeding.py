"""A kernel called as a graph calls it, without a graph: for tests of the kernel."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, cast

from ipcheap import Record

from . import kernels as forms
from .errors import GraphError
from .kernels import Flow


def fed(
    kernel: Any,
    inputs: tuple[Iterable[Any], ...],
    batch: int,
    inplace: bool,
    params: Mapping[str, Any],
) -> list[Any]:
    """Return all outputs of a kernel; see `ipcheap.testing.feed`."""
    form = forms.form_of(kernel, len(inputs), params)
    if batch and len(inputs) != 1:
        raise GraphError(f"kernel {forms.name_of(kernel)!r}: batch is for kernels with one input")
    hints = forms.input_hints(kernel, len(inputs))
    wanted = [forms.wanted(hint) for hint in hints]
    if Record in wanted:
        raise GraphError(
            f"kernel {forms.name_of(kernel)!r} takes records, which are in a heap: test it in a "
            "graph with runner='threads'"
        )
    given: list[Iterator[Any]] = [
        (received(item, want, inplace) for item in items)
        for items, want in zip(inputs, wanted, strict=True)
    ]
    return [value for value in _outputs(form, kernel, given, batch, params) if value is not None]


def _outputs(
    form: str, kernel: Any, given: list[Iterator[Any]], batch: int, params: Mapping[str, Any]
) -> Iterator[Any]:
    if form == "source":
        yield from kernel(**params)
    elif form == "flow":
        flows = [Flow(items.__next__) for items in given]
        yield from _values(kernel(*flows, **params), flow=True)
    elif form == "object":
        yield from _of_object(kernel, given, batch, params)
    else:
        yield from _per_item(functools.partial(kernel, **params), given, batch)


def _of_object(
    kernel: Any, given: list[Iterator[Any]], batch: int, params: Mapping[str, Any]
) -> Iterator[Any]:
    made = kernel(**params) if isinstance(kernel, type) else kernel
    try:
        if hasattr(made, "setup"):
            made.setup()
        yield from _per_item(made.process, given, batch)
        if hasattr(made, "finish"):
            yield from _values(made.finish())
    finally:
        if hasattr(made, "teardown"):
            made.teardown()


def _per_item(call: Any, given: list[Iterator[Any]], batch: int) -> Iterator[Any]:
    if not batch:
        for items in zip(*given, strict=False):
            yield from _values(call(*items))
        return
    while taken := list(islice(given[0], batch)):
        value = call(taken)
        if forms.is_list(value) and len(value) == len(taken):
            yield from value
        else:
            yield from _values(value)


def _values(value: Any, *, flow: bool = False) -> Iterator[Any]:
    if forms.is_generator_result(value) or (flow and isinstance(value, Iterable)):
        yield from value
    else:
        yield value


def received(item: Any, wanted: type | None, inplace: bool) -> Any:
    """Return an item as a kernel would receive it."""
    numpy = sys.modules.get("numpy")
    is_array = numpy is not None and type(item) is numpy.ndarray and not item.dtype.hasobject
    if wanted is memoryview:
        data = bytearray(item.tobytes() if is_array else item)
        return memoryview(data) if inplace else memoryview(data).toreadonly()
    if is_array:
        view = item.copy() if inplace else item.view()
        view.flags.writeable = inplace
        return view
    if isinstance(item, bytearray | memoryview):
        return bytes(cast("bytearray | memoryview[int]", item))
    return item

"""What keeps a graph from running."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from . import kernels as forms
from .errors import GraphError
from .place import packed

if TYPE_CHECKING:
    from .graph import Graph
    from .plan import Kernel


def problems_of(graph: Graph, runner: str | None = None) -> list[str]:
    """Return a sentence for each reason why a graph cannot run, by any runner or by this one."""
    kernels = graph._kernels
    problems: list[str] = []
    if all(kernel.is_caller for kernel in kernels.values()):
        problems.append("it has no kernel")
    read = {ref for kernel in kernels.values() for refs in kernel.inputs for ref in refs}
    for kernel in kernels.values():
        if kernel.form == "input" and (kernel.name, "") not in read:
            problems.append(
                f"nobody reads the input {kernel.name!r}: add a kernel that does, or leave it out"
            )
        problems += [
            f"nobody reads the output {port!r} of kernel {kernel.name!r}: add a kernel that does, "
            "or take it out of outputs"
            for port in kernel.outputs
            if (kernel.name, port) not in read
        ]
        if not kernel.is_caller:
            problems += _annotations(kernels, kernel)
            if runner != "threads":
                problems += _pickling(kernel)
            if kernel.on and runner in ("processes", "threads"):
                problems.append(
                    f"kernel {kernel.name!r} runs on {', '.join(kernel.on)}: that needs "
                    "runner='ray', or leave out on"
                )
    try:
        graph._plan()
    except GraphError as error:
        problems.append(str(error))
    names = [name for kernel in kernels.values() for name in kernel.on]
    if names and "ray" in sys.modules:
        from .cluster import unknown_hosts

        problems += unknown_hosts(names)
    return problems


def _pickling(kernel: Kernel) -> list[str]:
    problems: list[str] = []
    things = {"": kernel.call, "its key: ": kernel.key}
    things |= {f"its parameter {name!r}: ": value for name, value in kernel.params.items()}
    for which, thing in things.items():
        try:
            packed(thing)
        except GraphError as error:
            problems.append(f"kernel {kernel.name!r}: {which}{error}")
    return problems


# Annotations ------------------------------------------------------------------------------


def _annotations(kernels: dict[str, Kernel], kernel: Kernel) -> list[str]:
    """Return what outputs give that the inputs which read them do not take."""
    problems: list[str] = []
    if kernel.form == "flow":
        return problems
    hints = forms.input_hints(kernel.call, len(kernel.inputs))
    for refs, hint in zip(kernel.inputs, hints, strict=True):
        taken = _forms(_element(hint, list) if kernel.batch else hint)
        for name, _ in refs:
            given = _given(kernels[name])
            if taken and given and not any(_fits(one, other) for one in given for other in taken):
                problems.append(
                    f"kernel {kernel.name!r} takes {' or '.join(sorted(taken))}, and {name!r} "
                    f"gives {' or '.join(sorted(given))}: change one of the annotations"
                )
    return problems


def _given(kernel: Kernel) -> set[str]:
    """Return the forms of what a kernel gives; none if it does not say."""
    if kernel.is_caller or kernel.outputs or kernel.batch:
        return set()
    hint = forms.return_hint(kernel.call)
    if kernel.form in ("source", "generator", "flow") or typing.get_origin(hint) is not None:
        for kind in (Iterator, Iterable, Generator):
            if typing.get_origin(hint) is kind:
                return _forms(_element(hint, kind))
        if kernel.form in ("source", "generator", "flow"):
            return set()
    return _forms(hint)


def _element(hint: Any, of: type) -> Any:
    """Return X of an annotation `of[X, ...]`; None for others."""
    arguments = typing.get_args(hint) if typing.get_origin(hint) is of else ()
    return arguments[0] if arguments else None


def _forms(hint: Any) -> set[str]:
    """Return the forms of an annotation, if all that it allows is known."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        found = [_forms(one) for one in typing.get_args(hint) if one is not type(None)]
        return set[str]().union(*found) if all(found) else set()
    kind = typing.get_origin(hint) or hint
    if hasattr(kind, "__value__"):  # an alias from a `type` statement, as NumPy's NDArray
        return _forms(kind.__value__)
    if kind in (bytes, bytearray):
        return {"bytes"}
    if getattr(kind, "__module__", "") == "numpy" and kind.__name__ == "ndarray":
        return {"ndarray"}
    known = (str, int, float, complex, bool, dict, list, tuple, set)
    return {kind.__name__} if kind in known else set()


def _fits(given: str, taken: str) -> bool:
    numbers = {"bool", "int", "float", "complex"}
    return given == taken or {given, taken} <= numbers

"""What keeps a graph from running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import kernels as forms
from .errors import GraphError
from .place import packed

if TYPE_CHECKING:
    from .graph import Graph
    from .plan import Kernel


def problems_of(graph: Graph, runner: str = "processes") -> list[str]:
    """Return a sentence for each reason why a graph cannot run."""
    kernels = graph._kernels
    problems: list[str] = []
    if all(kernel.is_caller for kernel in kernels.values()):
        problems.append("it has no kernel")
    read = {ref for kernel in kernels.values() for refs in kernel.inputs for ref in refs}
    for kernel in kernels.values():
        ports = kernel.outputs
        if kernel.form == "input" and (kernel.name, "") not in read:
            problems.append(f"nobody reads the input {kernel.name!r}")
        problems += [
            f"nobody reads the output {port!r} of kernel {kernel.name!r}"
            for port in ports
            if (kernel.name, port) not in read
        ]
        if not kernel.is_caller:
            problems += _annotations(kernels, kernel)
            if runner != "threads":
                problems += _pickling(kernel)
    try:
        graph._plan()
    except GraphError as error:
        problems.append(str(error))
    return problems


def _pickling(kernel: Kernel) -> list[str]:
    try:
        packed((kernel.call, dict(kernel.params), kernel.key))
    except GraphError as error:
        return [f"kernel {kernel.name!r}: {error}"]
    return []


# What an output annotated so can never be for an input annotated so.
_FORMS: dict[Any, str] = {bytes: "bytes", bytearray: "bytes"}


def _form(hint: Any) -> str | None:
    origin = getattr(hint, "__origin__", hint)
    if hint in (bytes, bytearray):
        return "bytes"
    if getattr(origin, "__module__", "") == "numpy" and origin.__name__ == "ndarray":
        return "ndarray"
    if hint in (int, float, str, bool, dict, list, tuple, set):
        return str(hint.__name__)
    return None


def _annotations(kernels: dict[str, Kernel], kernel: Kernel) -> list[str]:
    """Return what outputs give that the inputs which read them do not take."""
    problems: list[str] = []
    if kernel.batch or kernel.form == "flow":
        return problems
    hints = forms.input_hints(kernel.call, len(kernel.inputs))
    for refs, hint in zip(kernel.inputs, hints, strict=True):
        for name, _ in refs:
            source = kernels[name]
            if source.is_caller or source.form != "function" or source.outputs:
                continue
            if source.batch:
                continue
            given, taken = _form(forms.return_hint(source.call)), _form(hint)
            if given is not None and taken is not None and given != taken:
                if {given, taken} <= {"int", "float", "bool"}:
                    continue
                problems.append(f"kernel {kernel.name!r} takes {taken}, and {name!r} gives {given}")
    return problems

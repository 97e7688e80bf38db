"""What a kernel is: a source, a function, a generator function, an object or a flow function."""

from __future__ import annotations

import difflib
import functools
import inspect
import typing
from collections.abc import Mapping
from typing import Any, Generic, TypeVar, cast

import ipcheap

from .errors import GraphError

if typing.TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

# Of `Graph.add`, besides the name.
OPTIONS = (
    "processes",
    "threads",
    "together",
    "cpus",
    "on",
    "resources",
    "ordered",
    "key",
    "batch",
    "slots",
    "full",
    "window",
    "hop",
    "inplace",
    "outputs",
    "restart",
    "checkpoint",
    "on_error",
)


class Flow(Generic[T]):
    """An input as an iterator, for kernels that own their loop.

    A function with a parameter annotated `Flow` or `Flow[T]` is called once per worker, and each of
    its inputs is a Flow. What it yields are its outputs. An item is acknowledged when the next one
    is requested.

        def changes(numbers: Flow[int]):
            last = None
            for number in numbers:
                if number != last:
                    yield number
                last = number
    """

    def __init__(self, receive: Callable[[], T]) -> None:
        self._receive = receive

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        return self._receive()


class Spread:
    """A function of several arguments as one of a tuple of them."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__: str = name_of(function)

    def __call__(self, items: Any) -> Any:
        """Call the function."""
        return self.function(*items)


def name_of(kernel: Any) -> str:
    """Return the name that a kernel has by itself."""
    if isinstance(kernel, functools.partial):
        return name_of(kernel.func)
    return str(getattr(kernel, "__name__", type(kernel).__name__))


def is_object(kernel: Any) -> bool:
    """Whether a kernel is a class or an instance with `process`."""
    return callable(getattr(kernel, "process", None))


def called(kernel: Any) -> Any:
    """Return the function that is called for each item."""
    return kernel.process if is_object(kernel) else kernel


def form_of(kernel: Any, inputs: int, params: Mapping[str, Any]) -> str:
    """Return the form of a kernel; GraphError if it cannot be called as it would be."""
    what = f"kernel {name_of(kernel)!r}"
    if is_object(kernel):
        if not inputs:
            raise GraphError(
                f"{what} has process(), but no input: give a node after it, or use a source, which "
                "is a function that yields"
            )
        if isinstance(kernel, type):
            _bind(what, kernel, 0, params)
            _bind(f"{what}.process", called(kernel), inputs, {}, bound=1)
        elif params:
            raise GraphError(
                f"{what} is an object, which takes no parameters such as {next(iter(params))!r}: "
                "give its class, or make the object with them"
            )
        else:
            _bind(f"{what}.process", kernel.process, inputs, {})
        if (callable(getattr(kernel, "snapshot", None))) != (
            callable(getattr(kernel, "restore", None))
        ):
            raise GraphError(f"{what} needs both snapshot() and restore(state), or neither")
        return "object"
    if not callable(kernel):
        raise GraphError(
            f"{kernel!r} is no kernel: that is a function, or a class or object with a method "
            "process"
        )
    if isinstance(kernel, type) and inputs:
        raise GraphError(
            f"{what} is a class without a method process, which gets the items of its inputs"
        )
    if inspect.iscoroutinefunction(kernel) or inspect.isasyncgenfunction(kernel):
        raise GraphError(
            f"{what} is async, which kernels cannot be: call asyncio.run() inside of it"
        )
    _bind(what, kernel, inputs, params)
    if not inputs:
        return "source"
    if any(_is_flow(hint) for hint in hints_of(kernel).values()):
        return "flow"
    return "generator" if _is_generator(kernel) else "function"


def _is_generator(function: Any) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    if isinstance(function, Spread):
        return _is_generator(function.function)
    if not inspect.isroutine(function):
        kind = cast("Any", type(function))
        function = getattr(kind, "__call__", function)  # noqa: B004
    return inspect.isgeneratorfunction(function)


def _bind(
    what: str, function: Any, inputs: int, params: Mapping[str, Any], *, bound: int = 0
) -> None:
    """Raise GraphError if a function does not take so many inputs and these parameters."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # of an extension module, which does not tell
    names = [*signature.parameters]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for name in params:
        if name not in names and not takes_any:
            if name in OPTIONS:
                raise GraphError(
                    f"{what} has no parameter {name!r}, which is an option: options are "
                    "arguments of add(), and stand beside params in a file"
                )
            near = difflib.get_close_matches(name, [*names, *OPTIONS], 1)
            hint = f": is {near[0]!r} meant?" if near else ""
            raise GraphError(
                f"{what} has no parameter {name!r}, and it is no option of add(){hint}"
            )
    try:
        signature.bind(*[None] * (bound + inputs), **params)
    except TypeError as error:
        plural = "" if inputs == 1 else "s"
        raise GraphError(
            f"{what} with {inputs} input{plural}: {error}. It is called with an item of each "
            "input, and with the parameters that add() is given by keyword"
        ) from None


def has_parameter(kernel: Any, name: str) -> bool:
    """Whether a callable has a parameter of that name."""
    try:
        return name in inspect.signature(kernel).parameters
    except (TypeError, ValueError):
        return False


def has_snapshots(kernel: Any) -> bool:
    """Whether an object can be restored after a kill."""
    return callable(getattr(kernel, "snapshot", None))


def hints_of(function: Any) -> dict[str, Any]:
    """Return the annotations of the parameters, in order; what cannot be resolved is left out."""
    while isinstance(function, functools.partial):
        function = function.func
    if not inspect.isroutine(function):
        kind = cast("Any", type(function))
        function = getattr(kind, "__call__", function)  # noqa: B004
    try:
        hints = typing.get_type_hints(function)
    except Exception:
        hints = {}
        names = {
            "memoryview": memoryview,
            "Record": ipcheap.Record,
            "ipcheap.Record": ipcheap.Record,
        }
        for name, hint in getattr(function, "__annotations__", {}).items():
            if isinstance(hint, str):
                plain = "Flow" if hint.rpartition(".")[2].startswith("Flow") else hint
                hint = Flow if plain == "Flow" else names.get(hint)
            hints[name] = hint
    hints.pop("return", None)
    return hints


def input_hints(kernel: Any, inputs: int) -> list[Any]:
    """Return the annotation of each input's parameter; None where there is none."""
    function = called(kernel)
    if isinstance(function, Spread):
        return [None] * inputs
    hints = hints_of(function)
    try:
        names = [*inspect.signature(function).parameters]
    except (TypeError, ValueError):
        return [None] * inputs
    if isinstance(kernel, type):
        names = names[1:]  # self
    return [hints.get(name) for name in [*names, *[""] * inputs][:inputs]]


def _is_flow(hint: Any) -> bool:
    return hint is Flow or typing.get_origin(hint) is Flow


def wanted(hint: Any) -> type | None:
    """Return `memoryview` or `Record` if an annotation, or that of a list, asks for it."""
    if typing.get_origin(hint) in (list, Flow) and typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    return hint if hint in (memoryview, ipcheap.Record) else None


def is_generator_result(value: Any) -> bool:
    """Whether what a kernel returned yields its outputs."""
    return inspect.isgenerator(value)


def is_list(value: Any) -> typing.TypeGuard[Sequence[Any]]:
    """Whether a value is a list or a tuple."""
    return isinstance(value, list | tuple)


def is_table(value: Any) -> typing.TypeGuard[Mapping[Any, Any]]:
    """Whether a value is a mapping, as a table of a file."""
    return isinstance(value, Mapping)


def return_hint(kernel: Any) -> Any:
    """Return what a kernel says it returns; None if it does not say."""
    try:
        return typing.get_type_hints(called(kernel)).get("return")
    except Exception:
        return None

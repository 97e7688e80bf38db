"""Frozen dataclasses that are made without importing `dataclasses`.

Importing it takes longer than importing this package and sending a message. What `dataclass` makes
here is a dataclass for `dataclasses.fields`, `asdict` and `replace`, and for classes that inherit
from it. What they need is made when they first ask for it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


class field:  # noqa: N801  # as in dataclasses
    """The default of a field that is made anew for each object."""

    __slots__ = ("default_factory",)

    def __init__(self, *, default_factory: Callable[[], object]) -> None:
        self.default_factory = default_factory


def dataclass(*, frozen: bool) -> Callable[[type], type]:
    """Return a decorator that does what that of `dataclasses` does."""
    assert frozen
    return _make


def _make(kind: type) -> type:
    names = tuple(kind.__annotations__)
    defaults = {name: vars(kind)[name] for name in names if name in vars(kind)}
    for name, default in defaults.items():
        if isinstance(default, field):
            delattr(kind, name)

    every = frozenset(names)

    def __init__(self: Any, *values: object, **named: object) -> None:  # noqa: N807
        if not values and named.keys() == every:
            self.__dict__.update(named)
            return
        given = dict(zip(names, values, strict=False))
        if len(values) > len(names) or given.keys() & named.keys():
            raise TypeError(f"{kind.__name__}() got too many values, or one of them twice")
        given |= named
        for name in names:
            if name in given:
                self.__dict__[name] = given.pop(name)
            elif name in defaults:
                default = defaults[name]
                is_made = isinstance(default, field)
                self.__dict__[name] = default.default_factory() if is_made else default
            else:
                raise TypeError(f"{kind.__name__}() needs {name!r}")
        if given:
            raise TypeError(f"{kind.__name__}() has no field {next(iter(given))!r}")

    def values_of(thing: Any) -> tuple[object, ...]:
        return tuple([getattr(thing, name) for name in names])

    def __repr__(self: Any) -> str:  # noqa: N807
        shown = ", ".join([f"{name}={getattr(self, name)!r}" for name in names])
        return f"{type(self).__qualname__}({shown})"

    def __eq__(self: Any, other: object) -> bool:  # noqa: N807
        if type(other) is not type(self):
            return NotImplemented
        return values_of(self) == values_of(other)

    def __hash__(self: Any) -> int:  # noqa: N807
        return hash(values_of(self))

    def __setattr__(self: Any, name: str, value: object) -> None:  # noqa: N807
        if type(self) is kind or name in names:
            _refuse(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def __delattr__(self: Any, name: str) -> None:  # noqa: N807
        if type(self) is kind or name in names:
            _refuse(f"cannot delete field {name!r}")
        object.__delattr__(self, name)

    def __replace__(self: Any, /, **changes: object) -> Any:  # noqa: N807
        import dataclasses

        return dataclasses.replace(self, **changes)

    for method in (
        __init__, __repr__, __eq__, __hash__, __setattr__, __delattr__, __replace__
    ):  # fmt: skip
        method.__qualname__ = f"{kind.__qualname__}.{method.__name__}"
        setattr(kind, method.__name__, method)
    setattr(kind, "__match_args__", names)  # noqa: B010
    for name in ("__dataclass_fields__", "__dataclass_params__", "__signature__"):
        setattr(kind, name, _Later(name, names, defaults))
    return kind


def _refuse(text: str) -> NoReturn:
    from dataclasses import FrozenInstanceError

    raise FrozenInstanceError(text)


class _Later:
    """An attribute of a class that is taken from the real dataclass when it is first read."""

    def __init__(self, name: str, names: tuple[str, ...], defaults: dict[str, Any]) -> None:
        self._name = name
        self._names = names
        self._defaults = defaults

    def __get__(self, _thing: object, kind: type) -> object:
        import dataclasses
        import inspect

        # The class that it belongs to: a class that inherits it may be the one that asks.
        kind = next(each for each in kind.__mro__ if vars(each).get(self._name) is self)
        made: dict[str, Any] = {
            name: dataclasses.field(default_factory=default.default_factory)
            if isinstance(default, field)
            else default
            for name, default in self._defaults.items()
        }
        made |= {"__annotations__": kind.__annotations__, "__module__": kind.__module__}
        real: Any = dataclasses.dataclass(frozen=True)(type(kind.__name__, (), made))
        real.__signature__ = inspect.signature(real)
        value: object = getattr(real, self._name)
        setattr(kind, self._name, value)
        return value

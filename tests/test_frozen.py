"""The frozen dataclasses of this package are those of `dataclasses`, without its import."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import subprocess
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import pytest

from ipcheap import results

if TYPE_CHECKING:
    from dataclasses import dataclass, field
else:
    from ipcheap._frozen import dataclass, field


def classes() -> list[type]:
    return [
        thing
        for thing in vars(results).values()
        if inspect.isclass(thing) and thing.__module__ == results.__name__
    ]


@dataclass(frozen=True)
class Ours:
    """As an example."""

    a: int
    b: str = "b"
    c: list[int] = field(default_factory=list[int])

    @property
    def both(self) -> str:
        """Two in one."""
        return f"{self.a}{self.b}"


@dataclasses.dataclass(frozen=True)
class Theirs:
    """As an example."""

    a: int
    b: str = "b"
    c: list[int] = dataclasses.field(default_factory=list[int])

    @property
    def both(self) -> str:
        """Two in one."""
        return f"{self.a}{self.b}"


def outcome(attempt: Any, kind: Any) -> Any:
    """Return what an attempt with a class comes to, without the name of the class."""
    try:
        result = attempt(kind)
    except Exception as error:
        return type(error)
    return str(result).replace(kind.__name__, "Kind").replace(f"{type(kind)}", "")


@pytest.mark.parametrize(
    "attempt",
    [
        lambda kind: kind(),
        lambda kind: kind(1),
        lambda kind: kind(1, "x", [2]),
        lambda kind: kind(b="x", a=1),
        lambda kind: kind(1, a=1),
        lambda kind: kind(1, d=1),
        lambda kind: kind(1, 2, [3], 4),
        lambda kind: (kind.b, hasattr(kind, "a"), hasattr(kind, "c")),
        lambda kind: kind(1).both,
        lambda kind: (kind(1) == kind(1), kind(1) == kind(2), kind(1) == (1, "b", [])),
        lambda kind: kind(1).c is kind(1).c,
        lambda kind: hash(kind(1)),
        lambda kind: hash(kind(1, "b", ())) == hash((1, "b", ())),
        lambda kind: setattr(kind(1), "a", 2),
        lambda kind: setattr(kind(1), "other", 2),
        lambda kind: delattr(kind(1), "a"),
        lambda kind: kind.__match_args__,
        inspect.signature,
        lambda kind: (dataclasses.is_dataclass(kind(1)), dataclasses.is_dataclass(kind)),
        lambda kind: [(f.name, f.type, f.default is f.default_factory) for f in fields(kind)],
        lambda kind: [f.name for f in fields(kind(1))],
        lambda kind: dataclasses.asdict(kind(1, "x", [kind(2)])),
        lambda kind: dataclasses.astuple(kind(1)),
        lambda kind: dataclasses.replace(kind(1, "x"), a=2),
        lambda kind: dataclasses.replace(kind(1), d=2),
        lambda kind: copy.deepcopy(kind(1, c=[2])),
        lambda kind: kind.__dataclass_params__.frozen,
        lambda kind: kind.__doc__,
    ],
)
def test_it_behaves_like_a_frozen_dataclass(attempt: Any) -> None:
    found = outcome(attempt, Ours)
    assert found == outcome(attempt, Theirs)


def test_a_dataclass_may_inherit_from_it() -> None:
    @dataclasses.dataclass(frozen=True)
    class More(Ours):
        d: int = 4

    assert str(More(1)).endswith(".More(a=1, b='b', c=[], d=4)")
    assert [field.name for field in fields(More)] == ["a", "b", "c", "d"]
    assert [field.name for field in fields(Ours)] == ["a", "b", "c"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        More(1).a = 2  # type: ignore[misc]


def test_it_pickles() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        made = Ours(1, c=[2])
        assert pickle.loads(pickle.dumps(made, protocol)) == made


@pytest.mark.parametrize("kind", classes())
def test_every_result_is_one(kind: Any) -> None:
    names = kind.__match_args__
    assert names
    made = kind(*range(len(names)))
    assert dataclasses.asdict(made) == dict(zip(names, range(len(names)), strict=True))
    assert str(inspect.signature(kind)).startswith(f"({names[0]}: ")


def test_results_are_made_without_importing_dataclasses() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "from ipcheap.results import HeapInfo, Participant\n"
        "print(Participant('a', 1, 2, 'alive', False, 0.0, 'lowest', ()))\n"
        "assert not {'dataclasses', 'inspect', 're'} & (set(sys.modules) - before)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)

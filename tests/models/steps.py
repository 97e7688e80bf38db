"""The vocabulary of models: steps, named as in the C sources, and the view that properties get.

    def put_one():
        word = yield get(("word", 0))
        yield put(("word", 0), word + 1)

A process yields steps and gets back what they found. The explorer decides what each of them does to
memory, and when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Hashable, Iterable

    Name = Hashable
    Steps = Generator["Step", Any, Any]
    Memory = tuple[Any, ...]


class Violation(Exception):
    """A property does not hold; raised by processes, found by the explorer."""


class Step(NamedTuple):
    """What a process is about to do."""

    kind: str
    name: Any = None
    value: Any = None
    also: Any = ()  # ghosts written at the same instant; what put_if() expects

    def __str__(self) -> str:
        where = show(self.name)
        match self.kind:
            case "store" | "exchange":
                return f"{where} = {show(self.value)}"
            case "or" | "and" | "add":
                sign = {"or": "|", "and": "&", "add": "+"}[self.kind]
                return f"{where} {sign}= {self.value}"
            case "if":
                return f"{where}: {show(self.also)} -> {show(self.value)}"
            case "load":
                return f"reads {where}"
            case "when" | "now":
                return where
            case "flush":
                return f"({where} = {show(self.value)} is seen by all)"
            case "sleep" | "sleep any":
                return f"sleeps while {where} is {show(self.value)}"
            case _:
                return f"{self.kind} {where}".rstrip()


def show(value: object) -> str:
    """Return a name or a value in readable form."""
    if isinstance(value, tuple):
        return " ".join(show(part) for part in value)
    return "" if value is None else str(value)


# Steps, named as in the C sources -----------------------------------------------------------


def get(name: Name) -> Step:
    """Load a word."""
    return Step("load", name)


get_acquire = get


def put(name: Name, value: Any, also: tuple[tuple[Name, Any], ...] = ()) -> Step:
    """Store a word, and ghosts that only the properties look at."""
    return Step("store", name, value, also)


put_release = put


def put_exchange(name: Name, value: Any) -> Step:
    """Store a word and return what it was."""
    return Step("exchange", name, value)


def put_add(name: Name, number: int) -> Step:
    """Add to a word and return what it was."""
    return Step("add", name, number)


def put_or(name: Name, bits: int) -> Step:
    """Set bits and return what the word was."""
    return Step("or", name, bits)


def put_and(name: Name, bits: int) -> Step:
    """Keep only these bits and return what the word was."""
    return Step("and", name, bits)


def put_if(name: Name, expected: Any, value: Any) -> Step:
    """Store if the word is as expected; return what it was."""
    return Step("if", name, value, expected)


def full_fence() -> Step:
    """Wait until this process's own stores are visible."""
    return Step("fence")


def compiler_fence() -> Step:
    """Do nothing: the processor does not see it."""
    return Step("nothing")


def os_membarrier(*others: str) -> Steps:
    """Have each of the other processes run a full fence, one after the other."""
    yield full_fence()
    for other in others:
        yield Step("interrupt", other)


def os_futex_wait(name: Name, value: Any, *, timed: Callable[[View], bool] | None = None) -> Step:
    """Sleep while the word has that value: "woken", "changed" or, if allowed, "timed out"."""
    return Step("sleep", name, value, timed)


def os_futex_wait_any(
    words: tuple[tuple[Name, Any], ...], *, timed: Callable[[View], bool] | None = None
) -> Step:
    """Sleep while each of the words has its value."""
    return Step("sleep any", tuple(name for name, _ in words), words, timed)


def os_futex_wait_as(
    name: Name, value: Any, *, timed: Callable[[View], bool] | None = None
) -> Step:
    """Do what `os_futex_wait` does; a closing thread's wake-up is not modelled."""
    return os_futex_wait(name, value, timed=timed)


def os_futex_wake(name: Name) -> Step:
    """Wake any one process that sleeps on the word."""
    return Step("wake", name)


def choose(*options: Any) -> Step:
    """Continue in every one of these ways."""
    return Step("choose", None, options)


def when(what: str, do: Callable[..., Any], *arguments: Any, rest: bool = False) -> Step:
    """Wait until `do(view, *arguments)` is not None: (stores, result), done in one instant.

    For what is not the subject of a model: a poll, a lock that another model is about. A
    process that may `rest` there may stay there in the end.
    """
    return Step("when", what, (do, arguments), rest)


def now(what: str, do: Callable[..., Any], *arguments: Any) -> Step:
    """Do that at the moment of the step before, as when() does it: for checks and ghosts."""
    return Step("now", what, (do, arguments))


class Index(dict[Any, int]):
    """Where each word is in memory."""

    def __init__(self, names: Iterable[Name]) -> None:
        super().__init__((name, i) for i, name in enumerate(names))
        groups: dict[Any, list[Any]] = {}
        for name in self:
            if isinstance(name, tuple):
                groups.setdefault(name[0], []).append(name)
        self.groups = groups


class View:
    """The shared words by name, read-only."""

    __slots__ = ("index", "memory")

    def __init__(self, index: Index, memory: Memory) -> None:
        self.index = index
        self.memory = memory

    def __getitem__(self, name: Name) -> Any:
        return self.memory[self.index[name]]

    def __contains__(self, name: Name) -> bool:
        return name in self.index

    def names(self, first: str) -> list[Any]:
        """Return the names that begin with a word."""
        return self.index.groups.get(first, [])


def stuck(what: str, view: View) -> str:
    """Describe the memory of a state in which no process can go on."""
    words = ", ".join(f"{show(n)}: {show(view[n])}" for n in view.index)
    return f"{what} ({words})"

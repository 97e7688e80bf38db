"""Graphs with one kernel of every form, for tests/graph_crash.py, which kills that kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ipcheap import Record, graph
from ipcheap.graph import Flow  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ipcheap.graph import Graph

Results = list[list[Any]]  # of each output


def exactly(results: Results) -> Any:
    """What every run gives, in this order."""
    return results


def of_any_order(results: Results) -> Any:
    """What every run gives, if items of one origin stay in order; 100 * origin + n are items."""
    return [[sorted(items, key=lambda item: item // 100)] for items in results]


def of_any_worker(results: Results) -> Any:
    """What every run gives, if any worker may get an item."""
    return [sorted(items) for items in results]


def of_batches(results: Results) -> Any:
    """What every run gives of batches of items of several origins."""
    lengths = [len(batch) for batch in results[0]]
    return lengths, of_any_order([[item for batch in results[0] for item in batch]])


def counted(results: Results) -> Any:
    """What every run gives of items of several origins that are counted."""
    counts = [count for count, _ in results[0]]
    return counts, of_any_order([[item for _, item in results[0]]])


def at_least_once(results: Results) -> Any:
    """What every run gives of a kernel that keeps no promise but this."""
    return [sorted(set(items)) for items in results]


@dataclass(frozen=True)
class Form:
    """A graph, the kernel of it that is killed, and what its results have in common.

    `ended` are the kernels whose workers end before the victim begins.
    """

    build: Callable[[Graph], None]
    victim: str = "victim"
    worker: int = 0
    same: Callable[[Results], Any] = exactly
    ended: tuple[str, ...] = ()


FORMS: dict[str, Form] = {}
WRONG: dict[str, Form] = {}  # whose results depend on kills


def form(name: str, **how: Any) -> Callable[[Callable[[Graph], None]], Callable[[Graph], None]]:
    """Add a form."""

    def add(build: Callable[[Graph], None]) -> Callable[[Graph], None]:
        FORMS[name] = Form(build, **how)
        return build

    return add


# Kernels --------------------------------------------------------------------------------------


def numbers(n: int, first: int = 0, resume: int = 0) -> Iterator[int]:
    for i in range(resume, n):
        yield first + i


def texts(n: int, resume: int = 0) -> Iterator[bytes]:
    for i in range(resume, n):
        yield b"%d" % i


def some_texts(n: int, resume: int = 0) -> Iterator[Any]:
    for i in range(resume, n):
        yield i if i % 3 == 0 else b"x" * i


def arrays(n: int, resume: int = 0) -> Iterator[Any]:
    for i in range(resume, n):
        yield np.full(20, i)


def plus(x: int) -> int:
    return x + 1


def odd(x: int) -> int | None:
    return x if x % 2 else None


def third(x: int) -> int | None:
    return x if x % 3 else None


def same(x: Any) -> Any:
    return x


def odd_text(x: bytes) -> bytes | None:
    return x if int(x) % 2 else None


def some(x: int) -> Iterator[int]:
    """Yield none, one or two."""
    for n in range(x % 3):
        yield 10 * x + n


def and_on(x: bytes) -> Iterator[bytes]:
    """Yield something, and what it received; or nothing."""
    if int(x) % 3:
        yield b"<" + x
        if int(x) % 3 == 2:
            yield x


def and_back(x: bytes) -> Iterator[bytes]:
    """Yield what it received, not as the last."""
    yield x
    if int(x) % 2:
        yield b">" + x


def ports(x: int) -> dict[str, Any]:
    return {"left": x if x % 2 else None, "right": -x} if x % 3 else {}


def sides(x: bytes) -> Iterator[dict[str, bytes]]:
    """Yield dicts, of which the last one may hold what it received."""
    yield {"left": b"<" + x}
    if int(x) % 2:
        yield {"left": x, "right": x}


def switch(n: int, resume: int = 0) -> Iterator[dict[str, int]]:
    for i in range(resume, n):
        yield {"left": i} if i % 3 else {"right": i} if i % 2 else {"left": i, "right": i}


def tens(xs: list[int]) -> list[int | None]:
    return [10 * x if x % 4 else None for x in xs]


def whole(xs: list[int]) -> Any:
    return (*xs, 0) if len(xs) == 2 else sum(xs)


def listed(xs: list[int]) -> dict[str, list[int]]:
    return {"all": list(xs)}


def both(a: int, b: int) -> int:
    return 1000 * a + b


def first(a: bytes, b: bytes) -> bytes | None:
    return a if int(b) % 3 else None


def second(a: bytes, b: bytes) -> Iterator[bytes]:
    """May yield something, and yields what it received as the second."""
    if len(a) % 2:
        yield a + b"&" + b
    yield b


def is_odd(x: int) -> int:
    return x % 3


class Count:
    """Counts, and gives more than it receives."""

    def __init__(self) -> None:
        self.count = 0

    def process(self, x: int) -> Iterator[tuple[int, int]]:
        self.count += 1
        if x % 2:
            yield self.count, x
        if x % 3:
            yield -self.count, x

    def snapshot(self) -> int:
        return self.count

    def restore(self, count: int) -> None:
        self.count = count

    def finish(self) -> Iterator[tuple[int, str]]:
        yield self.count, "end"
        yield 1 // self.count, "of all"  # fails if the state is lost


class CountEach(Count):
    """Counts."""

    def process(self, x: int) -> tuple[int, int]:  # type: ignore[override]
        self.count += 1
        return self.count, x

    def finish(self) -> None:  # type: ignore[override]
        pass


class CountAll(Count):
    """Counts batches."""

    def process(self, xs: list[int]) -> tuple[int, int]:  # type: ignore[override]
        self.count += 1
        return self.count, sum(xs)


class CountBoth(Count):
    """Counts pairs."""

    def process(self, a: int, b: int) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        self.count += 1
        if a % 2:
            yield self.count, 1000 * a + b


class Plain:
    """Knows nothing that could be lost."""

    def process(self, x: int) -> Iterator[int]:
        yield x
        yield -x

    def finish(self) -> int:
        return 77


def negated(x: Any) -> Any:
    """Return a new array in the heap."""
    made = graph.empty(x.shape, x.dtype)
    made[:] = -x
    return made


def record(x: Record) -> Record | None:
    return x if x.nbytes % 2 else None


def records(x: Record) -> Iterator[Record | bytes]:
    """Yield what it received, first and last."""
    yield x
    yield b"!"
    yield x


def records_of(xs: list[Record]) -> list[Record | None]:
    return [x if n % 2 else None for n, x in enumerate(xs)]


KEPT: list[Any] = []


def kept(x: Any) -> Any:
    """Keep what it received."""
    KEPT.append(x)
    return x if x[0] % 2 else int(x[0])


def uniq(xs: Flow[int]) -> Iterator[int]:
    last = None
    for x in xs:
        if x // 2 != last:
            last = x // 2
            yield last


def picky(x: int) -> int:
    if x % 3 == 0:
        raise ValueError(x)
    return x


def out(g: Graph, *ports: graph.Port) -> None:
    """Have the calling program receive ports, with room for all that there is."""
    for port in ports:
        g.output(port, slots=64)


# Sources ------------------------------------------------------------------------------------------


@form("source")
def _(g: Graph) -> None:
    out(g, g.add(numbers, name="victim", n=7))


@form("source, two edges")
def _(g: Graph) -> None:
    node = g.add(numbers, name="victim", n=7)
    out(g, node, node)


@form("source, ports")
def _(g: Graph) -> None:
    node = g.add(switch, name="victim", n=9, outputs=["left", "right"])
    out(g, node["left"], node["right"], node["left"])


@form("source, key")
def _(g: Graph) -> None:
    out(g, g.add(plus, g.add(numbers, name="victim", n=9), processes=3, key=is_odd))


@form("source, two workers", worker=1, same=of_any_worker)
def _(g: Graph) -> None:
    out(g, g.add(plus, g.add(numbers, name="victim", n=5, processes=2), processes=2))


@form("source, drop")
def _(g: Graph) -> None:
    node = g.add(numbers, name="victim", n=7)
    out(g, g.add(plus, node, slots=2, full="drop"))
    out(g, node)


@form("source, drop only")
def _(g: Graph) -> None:
    node = g.add(numbers, name="victim", n=7)
    out(g, g.add(plus, node, slots=2, full="drop"))


@form("source, a reader has ended", ended=("plus",))
def _(g: Graph) -> None:
    node = g.add(numbers, name="victim", n=7)
    g.add(plus, node, name="plus")
    out(g, node)


# One output at most ---------------------------------------------------------------------------


@form("function")
def _(g: Graph) -> None:
    out(g, g.add(plus, g.add(numbers, n=7), name="victim"))


@form("function, no reader")
def _(g: Graph) -> None:
    g.add(plus, g.add(numbers, n=7), name="victim")


@form("function, two edges")
def _(g: Graph) -> None:
    node = g.add(odd, g.add(numbers, n=7), name="victim")
    out(g, node, node)


@form("function, workers", worker=1)
def _(g: Graph) -> None:
    node = g.add(odd, g.add(third, g.add(numbers, n=14), processes=3), name="victim", processes=2)
    out(g, node, g.add(plus, node, processes=3))


@form("function, forwards")
def _(g: Graph) -> None:
    out(g, g.add(odd_text, g.add(texts, n=7), name="victim"))


@form("function, forwards, two edges")
def _(g: Graph) -> None:
    node = g.add(odd_text, g.add(texts, n=7), name="victim")
    out(g, node, node)


@form("function, forwards, workers", worker=1)
def _(g: Graph) -> None:
    node = g.add(odd_text, g.add(same, g.add(texts, n=9), processes=3), name="victim", processes=2)
    out(g, node, node)


@form("function, arrays")
def _(g: Graph) -> None:
    node = g.add(negated, g.add(arrays, n=5), name="victim")
    out(g, node, node)


@form("function, keeps arrays")
def _(g: Graph) -> None:
    out(g, g.add(kept, g.add(arrays, n=5), name="victim"))


@form("function, records, two edges")
def _(g: Graph) -> None:
    out(g, *[g.add(record, g.add(some_texts, n=9), name="victim")] * 2)


@form("generator, records, two edges")
def _(g: Graph) -> None:
    out(g, *[g.add(records, g.add(some_texts, n=4), name="victim")] * 2)


@form("batches, records")
def _(g: Graph) -> None:
    out(g, *[g.add(records_of, g.add(some_texts, n=7), name="victim", batch=3)] * 2)


@form("function, left out")
def _(g: Graph) -> None:
    out(g, g.add(picky, g.add(numbers, n=7), name="victim", on_error="skip"))


@form("function, drop")
def _(g: Graph) -> None:
    node = g.add(odd_text, g.add(texts, n=9), name="victim")
    out(g, node, g.add(same, node, slots=2, full="drop"))


@form("function, a reader has ended", ended=("same",))
def _(g: Graph) -> None:
    node = g.add(odd_text, g.add(texts, n=7), name="victim")
    out(g, node)
    g.add(same, node, name="same")


@form("function, merged", same=of_any_order)
def _(g: Graph) -> None:
    a, b = g.add(numbers, n=4), g.add(numbers, n=4, first=100)
    out(g, g.add(plus, [a, b], name="victim"))


@form("function, key, two senders", worker=1, same=of_any_worker)
def _(g: Graph) -> None:
    a = g.add(plus, g.add(numbers, n=10), processes=2)
    out(g, g.add(odd, a, name="victim", processes=2, key=is_odd))


@form("function, sends by key", worker=1)
def _(g: Graph) -> None:
    a = g.add(odd, g.add(numbers, n=14), name="victim", processes=2)
    for port in range(2):
        out(g, g.add(plus, a, processes=3, key=is_odd, name=f"plus{port}"))


@form("function, unordered", worker=1, same=of_any_worker)
def _(g: Graph) -> None:
    a = g.add(plus, g.add(numbers, n=9), processes=2)
    b = g.add(odd, a, name="victim", processes=2, ordered=False)
    out(g, g.add(plus, b, processes=2))


@form("function, several inputs")
def _(g: Graph) -> None:
    out(g, g.add(both, g.add(numbers, n=5), g.add(numbers, n=9), name="victim"))


@form("function, several inputs, forwards")
def _(g: Graph) -> None:
    node = g.add(first, g.add(texts, n=5), g.add(texts, n=9), name="victim")
    out(g, node, node)


@form("function, several inputs of one port", worker=1)
def _(g: Graph) -> None:
    a, b = g.add(numbers, n=7), g.add(numbers, n=9)
    out(g, g.add(both, [a], b, name="victim", processes=2, ordered=False))


@form("function, several inputs, workers", worker=1)
def _(g: Graph) -> None:
    a, b = g.add(third, g.add(numbers, n=12), processes=3), g.add(numbers, n=9)
    out(g, g.add(both, a, b, name="victim", processes=2))


@form("what counts items", victim="add-in0")
def _(g: Graph) -> None:
    a, b = g.add(some, g.add(numbers, n=8), processes=3), g.add(numbers, n=9)
    out(g, g.add(both, a, b, name="add", processes=2))


# Any number of outputs ------------------------------------------------------------------------


@form("generator")
def _(g: Graph) -> None:
    out(g, g.add(some, g.add(numbers, n=6), name="victim"))


@form("generator, two edges")
def _(g: Graph) -> None:
    node = g.add(some, g.add(numbers, n=6), name="victim")
    out(g, node, node)


@form("generator, workers", worker=1)
def _(g: Graph) -> None:
    node = g.add(some, g.add(numbers, n=9), name="victim", processes=2)
    out(g, node, g.add(plus, node, processes=3))


@form("generator behind marks", worker=1)
def _(g: Graph) -> None:
    node = g.add(some, g.add(third, g.add(numbers, n=14), processes=3), name="victim", processes=2)
    out(g, node, g.add(plus, node))


@form("generator behind turns", worker=1)
def _(g: Graph) -> None:
    node = g.add(some, g.add(some, g.add(numbers, n=9), processes=3), name="victim", processes=2)
    out(g, node, g.add(plus, node))


@form("function behind turns", worker=1)
def _(g: Graph) -> None:
    node = g.add(odd, g.add(some, g.add(numbers, n=9), processes=3), name="victim", processes=2)
    out(g, node, g.add(plus, node, processes=3))


@form("function behind turns, forwards", worker=0)
def _(g: Graph) -> None:
    a = g.add(and_on, g.add(texts, n=9), processes=3)
    node = g.add(same, a, name="victim", processes=2)
    out(g, node, node)


@form("generator, forwards")
def _(g: Graph) -> None:
    node = g.add(and_on, g.add(texts, n=6), name="victim")
    out(g, node, node)


@form("generator, forwards, workers", worker=1)
def _(g: Graph) -> None:
    node = g.add(and_on, g.add(texts, n=12), name="victim", processes=2)
    out(g, node, node)


@form("generator, forwards not as the last")
def _(g: Graph) -> None:
    out(g, g.add(and_back, g.add(texts, n=5), name="victim"))


@form("generator, forwards, drop")
def _(g: Graph) -> None:
    node = g.add(and_on, g.add(texts, n=9), name="victim")
    out(g, node, g.add(same, node, slots=2, full="drop"))


@form("generator, forwards, a reader has ended", ended=("same",))
def _(g: Graph) -> None:
    node = g.add(and_on, g.add(texts, n=9), name="victim")
    out(g, node)
    g.add(same, node, name="same")


@form("generator, merged", same=of_any_order)
def _(g: Graph) -> None:
    a, b = g.add(numbers, n=4), g.add(numbers, n=4, first=100)
    out(g, g.add(twice_of, [a, b], name="victim"))


@form("generator, merged, forwards", same=of_any_worker)
def _(g: Graph) -> None:
    a = g.add(texts, n=4)
    out(g, g.add(and_on, [a, a], name="victim"))


@form("generator, unordered", worker=1, same=of_any_worker)
def _(g: Graph) -> None:
    a = g.add(plus, g.add(numbers, n=9), processes=2)
    b = g.add(some, a, name="victim", processes=2, ordered=False)
    out(g, g.add(plus, b, processes=2))


@form("generator, several inputs, forwards")
def _(g: Graph) -> None:
    node = g.add(second, g.add(texts, n=5), g.add(texts, n=9), name="victim")
    out(g, node, node)


@form("generator, several inputs behind marks, forwards")
def _(g: Graph) -> None:
    a = g.add(odd_text, g.add(texts, n=10), processes=3)
    b = g.add(odd_text, g.add(texts, n=14), processes=2)
    node = g.add(second, a, b, name="victim")
    out(g, node, node)


@form("generator, several inputs behind turns, forwards")
def _(g: Graph) -> None:
    a = g.add(and_on, g.add(texts, n=8), processes=3)
    b = g.add(and_on, g.add(texts, n=9), processes=2)
    node = g.add(second, a, b, name="victim")
    out(g, node, g.add(same, node))


@form("generator, several inputs, workers, forwards", worker=1)
def _(g: Graph) -> None:
    a = g.add(odd_text, g.add(texts, n=14), processes=3)
    node = g.add(second, a, g.add(texts, n=9), name="victim", processes=2)
    out(g, node, g.add(same, node))


@form("ports")
def _(g: Graph) -> None:
    node = g.add(ports, g.add(numbers, n=7), name="victim", outputs=["left", "right"])
    out(g, node["left"], node["right"], node["right"])


@form("ports, workers, forwards", worker=1)
def _(g: Graph) -> None:
    node = g.add(sides, g.add(texts, n=9), name="victim", outputs=["left", "right"], processes=2)
    out(g, node["left"], node["right"])


# Batches ------------------------------------------------------------------------------------


@form("batches, each item")
def _(g: Graph) -> None:
    node = g.add(tens, g.add(numbers, n=8), name="victim", batch=3)
    out(g, node, node)


@form("batches, whole")
def _(g: Graph) -> None:
    out(g, g.add(whole, g.add(numbers, n=8), name="victim", batch=3))


@form("batches, workers", worker=1)
def _(g: Graph) -> None:
    node = g.add(tens, g.add(numbers, n=14), name="victim", batch=3, processes=2)
    out(g, node, g.add(plus, node, processes=3))


@form("batches behind marks")
def _(g: Graph) -> None:
    a = g.add(third, g.add(numbers, n=14), processes=3)
    out(g, g.add(tens, a, name="victim", batch=3))


@form("batches behind turns", worker=1)
def _(g: Graph) -> None:
    a = g.add(some, g.add(numbers, n=12), processes=3)
    out(g, g.add(tens, a, name="victim", batch=3, processes=2))


@form("batches, merged", same=of_batches)
def _(g: Graph) -> None:
    a, b = g.add(numbers, n=5), g.add(numbers, n=5, first=100)
    out(g, g.add(unwrapped, g.add(listed, [a, b], name="victim", batch=3)))


# Objects ------------------------------------------------------------------------------------


@form("object with snapshots")
def _(g: Graph) -> None:
    node = g.add(Count, g.add(numbers, n=7), name="victim", checkpoint=2)
    out(g, node, node)


@form("object with snapshots, workers", worker=1)
def _(g: Graph) -> None:
    a = g.add(third, g.add(numbers, n=16), processes=3)
    node = g.add(Count, a, name="victim", checkpoint=3, processes=2)
    out(g, node, node)


@form("object with snapshots behind turns")
def _(g: Graph) -> None:
    a = g.add(some, g.add(numbers, n=8), processes=3)
    out(g, g.add(Count, a, name="victim", checkpoint=3))


@form("object with snapshots, merged", same=counted)
def _(g: Graph) -> None:
    a, b = g.add(numbers, n=5), g.add(numbers, n=5, first=100)
    out(g, g.add(CountEach, [a, b], name="victim", checkpoint=3))


@form("object with snapshots, batches")
def _(g: Graph) -> None:
    node = g.add(CountAll, g.add(numbers, n=13), name="victim", checkpoint=5, batch=2)
    out(g, node)


@form("object with snapshots, several inputs behind marks")
def _(g: Graph) -> None:
    a = g.add(third, g.add(numbers, n=14), processes=3)
    out(g, g.add(CountBoth, a, g.add(numbers, n=9), name="victim", checkpoint=3))


@form("object without snapshots", worker=1)
def _(g: Graph) -> None:
    a = g.add(Plain, g.add(numbers, n=7), name="victim", restart=True, processes=2)
    out(g, a)


@form("flow function", same=at_least_once)
def _(g: Graph) -> None:
    out(g, g.add(uniq, g.add(numbers, n=8), name="victim", restart=True))


def twice_of(x: int) -> Iterator[int]:
    """Yield what it received, perhaps twice."""
    yield x
    if x % 2:
        yield x


def unwrapped(x: dict[str, list[int]]) -> list[int]:
    return x["all"]


def begins_again(g: Graph) -> None:
    """Add a source without `resume` that is started again all the same."""
    out(g, g.add(lambda n: iter(range(n)), name="victim", n=5, restart=True))


WRONG["a source that begins again"] = Form(begins_again)


# Edges of other kinds -------------------------------------------------------------------------


def ranges(n: int, resume: int = 0) -> Iterator[Any]:
    """Yield consecutive numbers, in arrays of 0 to 4."""
    at = sum(i % 5 for i in range(resume))
    for i in range(resume, n):
        yield np.arange(at, at + i % 5)
        at += i % 5


def parts(x: Any) -> Iterator[Any]:
    yield x[:1]
    yield x[1:]


def listed_twice(x: Any) -> Iterator[list[int]]:
    yield x.tolist()
    yield x.tolist()


class Sum:
    """Adds up windows."""

    total = 0

    def process(self, x: Any) -> tuple[int, list[int]]:
        self.total += int(x.sum())
        return self.total, x.tolist()

    def snapshot(self) -> int:
        return self.total

    def restore(self, state: int) -> None:
        self.total = state


@form("source, windows")
def _(g: Graph) -> None:
    node = g.add(ranges, name="victim", n=12)
    out(g, g.add(same, node, window=3, hop=2, slots=64))
    out(g, g.add(plus, node))


@form("function, sends windows")
def _(g: Graph) -> None:
    node = g.add(negated, g.add(ranges, n=9), name="victim")
    out(g, g.add(same, node, window=3, slots=64))
    out(g, node)


@form("generator, sends windows")
def _(g: Graph) -> None:
    node = g.add(parts, g.add(ranges, n=9), name="victim")
    out(g, node)
    out(g, g.add(same, node, window=3, hop=1, slots=64))


@form("function, windows")
def _(g: Graph) -> None:
    node = g.add(same, g.add(ranges, n=9), name="victim", window=3, hop=2, slots=64)
    out(g, node, node)


@form("generator, windows of windows")
def _(g: Graph) -> None:
    a = g.add(ranges, n=9)
    node = g.add(parts, a, name="victim", window=5, hop=2, slots=64)
    out(g, g.add(same, node, window=3, slots=64))


@form("object with snapshots, windows")
def _(g: Graph) -> None:
    a = g.add(ranges, n=12)
    node = g.add(Sum, a, name="victim", window=3, hop=2, slots=64, checkpoint=3)
    out(g, node, node)


@form("source, latest")
def _(g: Graph) -> None:
    node = g.add(texts, name="victim", n=7)
    out(g, g.add(same, node, full="latest"))
    out(g, g.add(same, node, full="latest"))
    out(g, node)


@form("function, sends latest, forwards")
def _(g: Graph) -> None:
    node = g.add(odd_text, g.add(texts, n=7), name="victim")
    out(g, node)
    out(g, g.add(same, node, full="latest"))


@form("generator, sends latest, forwards")
def _(g: Graph) -> None:
    node = g.add(and_on, g.add(texts, n=7), name="victim")
    out(g, node)
    out(g, g.add(same, node, full="latest"))


@form("function, latest", same=at_least_once)
def _(g: Graph) -> None:
    node = g.add(same, g.add(texts, n=7), name="victim", full="latest")
    out(g, node, node)


@form("generator, latest of several", worker=1, same=at_least_once)
def _(g: Graph) -> None:
    a = g.add(plus, g.add(numbers, n=8), processes=2)
    node = g.add(twice_of, a, name="victim", full="latest", processes=2)
    out(g, node, node)

"""Puts workers in a row together, each of which may be killed, and says what must come out."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..explorer import Model, Process
from .even import _map
from .uneven import worker
from .words import ITSELF, MARK, World, nothing_done

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..steps import View


NUMBERS = ((0, 1, 2, 3, 4),)
MARKED = ((0, MARK, 3), (MARK, 2))
TURNS = ((0, 2, MARK, 3, MARK), (MARK, 1, 0, MARK))
MERGED = (("a0", "a1"), ("b0", "b1"))
END = ((0, "x"), (1, "y"), (0, "z"))


# Kernels ------------------------------------------------------------------------------------


def some(x: int) -> tuple[Any, ...]:
    """Give one item, none, or on one of two edges only."""
    return ((f"a{x}", f"b{x}"), (None, None), (f"a{x}", ITSELF), (None, f"b{x}"))[x % 4]


def some_of_one(x: int) -> tuple[Any, ...]:
    """Give one item, none, or the one that was received, on one edge."""
    return ((ITSELF,), (None,), (f"a{x}",))[x % 3]


def of_two(x: int, y: int) -> tuple[Any, ...]:
    """Give an item of two, or the second one."""
    return (f"{x}&{y}", ITSELF if y % 2 else None)


def many(x: int) -> tuple[Any, ...]:
    """Give any number of items on two edges; what was received may be the last of them."""
    return (
        ((0, f"a{x}"), (1, f"b{x}"), (0, f"c{x}"), (1, ITSELF)),
        (),
        ((1, f"b{x}"), (0, ITSELF)),
        ((0, f"a{x}"), (0, f"c{x}")),
    )[x % 4]


def many_of_two(x: int, y: int) -> tuple[Any, ...]:
    """Give any number of items of two; the second one may be the last of them."""
    return (((0, f"a{x}{y}"), (1, ITSELF)), ((1, ITSELF),), ())[y % 3]


def itself(x: Any) -> tuple[Any, ...]:
    """Give two items of what was received, which is the second one."""
    return ((0, x), (0, ITSELF))


def counted(x: Any) -> tuple[Any, ...]:
    """Give two items, on two edges."""
    return ((0, x), (1, x))


# What must come out -------------------------------------------------------------------------


def sequence(w: World, entry: int) -> Iterator[Any]:
    """Yield the records of an input in their order."""
    left = [list(w.records[channel]) for channel in w.channels(entry)]
    turn = 0
    while left[turn % len(left)]:
        record = left[turn % len(left)].pop(0)
        yield record
        turn += w.turns_in != "many" or record == MARK


def calls(w: World) -> Iterator[tuple[Any, ...] | None]:
    """Yield the items of each call, and None for a mark of an only input."""
    if len(w.inputs) == 1:
        for record in sequence(w, 0):
            yield None if record == MARK else (record,)
        return
    items = [[one for one in sequence(w, n) if one != MARK] for n in range(len(w.inputs))]
    yield from zip(*items, strict=False)


def results(w: World, even: bool) -> list[list[Any]]:
    """Return what must come out on each edge, if the order of the input is given."""
    out: list[list[Any]] = [[] for _ in range(w.edges)]
    state = 0
    for items in calls(w):
        values: Any = ()
        if items is not None:
            state += 1
            values = enumerate(w.kernel(*items)) if even else w.kernel(*items)
        elif even:
            values = enumerate((None,) * w.edges)
        for edge, value in values:
            if value is not None:
                one = items[-1] if value == ITSELF and items else value
                out[edge].append((one, state) if w.checkpoint else one)
            elif w.turns == "one":
                out[edge].append(MARK)
        if w.turns == "many" and (not w.has_turns or items is None):
            for one in out:
                one.append(MARK)
    for edge, value in w.finish or ():
        out[edge].append((value, state))
    if w.finish is not None and w.turns == "many":
        for one in out:
            one.append(MARK)
    return [[] if edge in w.ended else one for edge, one in enumerate(out)]


def in_order(w: World, even: bool, view: View) -> str | None:
    """Whether what has come out is a beginning of what must."""
    right = results(w, even)
    for edge in range(w.edges):
        found = list(view["out", edge])
        if found != right[edge][: len(found)]:
            return f"edge {edge}: {found} instead of {right[edge]}"
    return None


def complete(w: World, even: bool, view: View) -> str | None:
    """Whether everything has come out, and nothing stays behind."""
    if not view["finished",]:
        return "no worker has ended"
    right = results(w, even)
    for edge in range(w.edges):
        if list(view["out", edge]) != right[edge]:
            return f"edge {edge}: {list(view['out', edge])} instead of {right[edge]}"
    return nothing_left(w, view)


def nothing_left(w: World, view: View) -> str | None:
    """Whether all inputs are freed, and all snapshots."""
    if any(view["here", channel] for channel in range(len(w.records))):
        return "an input is not freed"
    return "a snapshot is not freed" if view["states",] else None


def complete_in_any_order(w: World, view: View) -> str | None:
    """The same, if a worker takes what comes first of several channels."""
    if not view["finished",]:
        return "no worker has ended"
    values = list(view["out", 0])
    items = [value[0] if w.checkpoint else value for value in values]
    if w.checkpoint and [state for _, state in values] != list(range(1, len(values) + 1)):
        return f"the states are not in order: {values}"
    if w.edges > 1 and values != list(view["out", 1]):
        return "the edges differ"
    each = 1 if w.checkpoint else len(w.kernel("item"))
    for channel, records in enumerate(w.records):
        right = [record for record in records for _ in range(each)]
        if [item for item in items if item[0] == "abc"[channel]] != right:
            return f"{items} is not everything in order"
    if any(len(set(items[i : i + each])) > 1 for i in range(0, len(items), each)):
        return f"a unit is torn: {items}"
    return nothing_left(w, view)


# Models -------------------------------------------------------------------------------------


def model(name: str, w: World, body: Callable[..., Any], kills: int, **how: Any) -> Model:
    """Return a model of workers in a row."""
    names = [f"W{number}" for number in range(kills + 1)]
    processes = tuple(
        Process(one, partial(body, w, before, **how), one != names[-1])
        for one, before in zip(names, [None, *names], strict=False)
    )
    memory: dict[Any, Any] = {("alive", one): True for one in names}
    memory |= {("here", c): tuple(range(len(records))) for c, records in enumerate(w.records)}
    for edge in range(w.edges):
        memory |= {("out", edge): (), ("without", edge): 0}
    words = nothing_done(w).words()
    memory |= {("note", n, i): word for n in range(2) for i, word in enumerate(words)}
    memory |= {("selector",): 0, ("states",): (), ("finished",): False, ("picked",): 0}
    memory |= {("pick", i): 0 for i in range(sum(map(len, w.records)))}
    even = body is _map
    if w.deal == "free":
        end: Any = partial(complete_in_any_order, w)
        return Model(f"graph, {name}", processes, memory, finally_=end, kills=kills)
    return Model(
        f"graph, {name}",
        processes,
        memory,
        always=partial(in_order, w, even),
        finally_=partial(complete, w, even),
        kills=kills,
    )


def evenly(name: str, *inputs: Any, kernel: Any = some, kills: int = 2, **how: Any) -> Model:
    """Return a model of workers that commit nothing."""
    world = {key: how.pop(key) for key in (*World.__dataclass_fields__,) if key in how}
    return model(name, World(kernel, inputs, **world), _map, kills, **how)


def unevenly(name: str, *inputs: Any, kernel: Any = many, kills: int = 2, **how: Any) -> Model:
    """Return a model of workers that commit notes or snapshots."""
    world = {key: how.pop(key) for key in (*World.__dataclass_fields__,) if key in how}
    return model(name, World(kernel, inputs, **world), worker, kills, **how)

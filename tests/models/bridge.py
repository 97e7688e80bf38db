"""The counts of a bridge: connections that are cut, ends that are killed, and their successors.

`freed` and `ring` are what the two rings know; they survive everybody. The sending end has a
window and a connection; the receiving end reads one connection until another one has come. What is
on its way stays there when the connection is cut, and may still be read.

    ring          the records in the receiving ring, by number
    freed         how many records the sending ring has freed
    closed        whether the receiving end has closed its side of the ring
    call          the connection that the receiving end is to read next, or None
    open, n       whether connection n is not cut
    forth, n      what is on its way on it, and
    back, n       the answers: (how many the ring has, whether it is closed)
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .explorer import Model, Process
from .steps import View, Violation, choose, get, put, when

if TYPE_CHECKING:
    from collections.abc import Callable

    from .steps import Steps

BROKEN, REPLACED, END = "broken", "replaced", "end"


class World(NamedTuple):
    """How much there is of everything."""

    records: int
    window: int
    connections: int


# The network --------------------------------------------------------------------------------


def connect(view: View, world: World) -> Any:
    """Make the next connection; the end that has called most recently is heard."""
    number = view["made"]
    listens = view["alive", "R1"] or view["taken over"]
    if number == world.connections or not listens:
        return None
    return {"made": number + 1, "call": number, ("open", number): True}, number


def cut(view: View) -> Any:
    number = view["made"] - 1
    if number < 0 or not view["open", number]:
        return None
    return {("open", number): False}, None


def cutter(cuts: int) -> Steps:
    while cuts:
        yield when("cuts the connection", cut, rest=True)
        cuts -= 1


def transmit(view: View, way: str, number: int, what: Any) -> Any:
    if not view["open", number]:
        return {}, BROKEN
    return {(way, number): (*view[way, number], what)}, None


def hear(view: View, number: int) -> Any:
    """Take the next answer; what was on its way when the connection was cut may arrive or not."""
    if view["back", number]:
        first, *rest = view["back", number]
        return {("back", number): tuple(rest)}, first
    return None if view["open", number] else ({}, BROKEN)


def read(view: View, number: int) -> Any:
    """Take what comes next, unless another connection has come."""
    if view["call"] is not None:
        return {}, REPLACED
    if view["forth", number]:
        first, *rest = view["forth", number]
        return {("forth", number): tuple(rest)}, first
    return None if view["open", number] else ({}, BROKEN)


def take_call(view: View) -> Any:
    return None if view["call"] is None else ({"call": None}, view["call"])


def has_died(view: View, who: str) -> Any:
    """Wait for a death, which breaks the connections of the dead."""
    if view["alive", who]:
        return None
    stores: dict[Any, Any] = {("open", number): False for number in range(view["made"])}
    if who == "R1":
        stores |= {"taken over": True, "call": None}
    return stores, None


# The ends -----------------------------------------------------------------------------------


def sender(world: World, after: str | None = None, mistake: str = "") -> Steps:
    """Mirror Sender._carry() and _converse()."""
    if after is not None:
        yield when(f"{after} has died", has_died, after, rest=True)
    first = yield get("freed")
    while True:
        number = yield when("connects", connect, world, rest=True)
        answer = yield when("hears the first answer", hear, number)
        if answer == BROKEN:
            continue
        if mistake == "sends all again":
            answer = (first, answer[1])
        first = yield from confirm(first, world.records, *answer)
        following, told, over = first, False, answer[1]
        while not over:
            may_send = not told and following - first < world.window
            if may_send and following > first:
                may_send = yield choose(True, False)
            if may_send:
                what = END if following == world.records else following
                if (yield when(f"sends {what}", transmit, "forth", number, what)) == BROKEN:
                    break
                told = what == END
                following += not told
                over = told and mistake == "does not wait for the end"
                if mistake == "frees what it has sent" and not told:
                    first = yield from confirm(first, following, following, False)
            else:
                answer = yield when("hears", hear, number)
                if answer == BROKEN:
                    break
                first = yield from confirm(first, following, *answer)
                over = answer[1]
        if over:
            if first != world.records and not mistake:
                raise Violation(f"the end came after {first} records")
            yield put("done", True)
            return


def confirm(first: int, most: int, count: int, closed: bool) -> Steps:
    """Mirror Sender._confirm(): each record is freed by a step of its own."""
    del closed
    if not first <= count <= most:
        raise Violation(f"{count} records were taken, of {first} to {most}")
    while first < count:
        first += 1
        yield put("freed", first)
    return first


def receiver(world: World, after: str | None = None, mistake: str = "") -> Steps:
    """Mirror Receiver._carry() and _converse()."""
    del world
    if after is not None:
        yield when(f"{after} has died", has_died, after, rest=True)
    ring = yield get("ring")
    closed = yield get("closed")
    while True:
        number = yield when("takes the newest connection", take_call, rest=True)
        broken = yield when("answers", transmit, "back", number, (len(ring), closed))
        while broken is None:
            what = yield when("reads", read, number, rest=True)
            if what == REPLACED and mistake == "reads an old connection on":
                newer = yield when("takes the newest connection", take_call)
                yield when("answers", transmit, "back", newer, (len(ring), closed))
                late = yield when("reads the older one", read, number)
                if late not in (BROKEN, REPLACED, END):
                    ring = (*ring, late)
                    yield put("ring", ring)
                number = newer
                continue
            if what == BROKEN and mistake == "takes a break for the end":
                yield put("closed", True)
            if what in (BROKEN, REPLACED):
                break
            if what == END:
                closed = True
                yield put("closed", True)
            else:
                if what != len(ring):
                    raise Violation(f"record {what} follows {len(ring) - 1}")
                ring = (*ring, what)
                if mistake == "answers too early":
                    yield when("answers", transmit, "back", number, (len(ring), closed))
                yield put("ring", ring)
            broken = yield when("answers", transmit, "back", number, (len(ring), closed))


# Models -------------------------------------------------------------------------------------


def in_order(world: World, view: View) -> str | None:
    if view["ring"] != tuple(range(len(view["ring"]))):
        return "the ring is not what was sent"
    if view["freed"] > len(view["ring"]):
        return "a record was freed that has not arrived"
    if view["closed"] and len(view["ring"]) < world.records:
        return "the end came too early"
    return None


def all_or_stopped(world: World, view: View) -> str | None:
    """Nothing is missing if the end was confirmed; it is, unless there are no more connections."""
    if view["done"]:
        whole = view["ring"] == tuple(range(world.records)) and view["closed"]
        return None if whole and view["freed"] == world.records else "something is missing"
    if view["made"] < world.connections and view["alive", "S2"] and view["alive", "R2"]:
        return "the bridge stopped"
    return None


def model(
    name: str,
    *,
    records: int = 3,
    window: int = 2,
    connections: int = 3,
    cuts: int = 1,
    kills: int = 0,
    mistake: str = "",
) -> Model:
    world = World(records, window, connections)
    memory: dict[Any, Any] = {"freed": 0, "ring": (), "closed": False, "done": False}
    memory |= {"made": 0, "call": None, "taken over": False}
    for number in range(connections):
        memory |= {("open", number): False, ("forth", number): (), ("back", number): ()}
    processes = [
        Process("S1", partial(sender, world, None, mistake), kills > 0),
        Process("S2", partial(sender, world, "S1", mistake)),
        Process("R1", partial(receiver, world, None, mistake), kills > 0),
        Process("R2", partial(receiver, world, "R1", mistake)),
        Process("cutter", partial(cutter, cuts)),
    ]
    memory |= {("alive", process.name): True for process in processes}
    return Model(
        f"bridge, {name}",
        tuple(processes),
        memory,
        always=partial(in_order, world),
        finally_=partial(all_or_stopped, world),
        kills=kills,
    )


MIRRORS = ()
MODELS: dict[str, Callable[[], Model]] = {
    "two cuts": lambda: model("two cuts", cuts=2),
    "a cut and a kill": lambda: model("a cut and a kill", records=2, kills=1),
    "both are killed": lambda: model("both are killed", records=2, cuts=0, kills=2),
    "a window of one": lambda: model("a window of one", window=1, cuts=1, kills=1),
}
MISTAKES = (
    "sends all again",
    "does not wait for the end",
    "frees what it has sent",
    "reads an old connection on",
    "takes a break for the end",
    "answers too early",
)
CONTROLS: dict[str, Callable[[], Model]] = {
    mistake: partial(model, "control", records=2, cuts=1, kills=1, mistake=mistake)
    for mistake in MISTAKES
}

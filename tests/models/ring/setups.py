"""Models of one or two channels: their processes, and what must hold in the end."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..explorer import Model, Process
from ..steps import View, get, when
from .endpoint import claim
from .processes import (
    consumes,
    consumes_groups,
    eats,
    feeds,
    forwards,
    hoards,
    produces,
    produces_copies,
)
from .record import free, receive_one
from .recover import recover_participant
from .ring import ring_collect, ring_sent
from .world import (
    CONSUMER,
    DONE,
    EMPTY,
    FREE,
    FULL,
    OPEN,
    OWN,
    PRODUCER,
    Channel,
    World,
    heap_lock,
    heap_unlock,
    is_alive,
    shared,
)

if TYPE_CHECKING:
    from ..steps import Steps


# The end ------------------------------------------------------------------------------------------


def settle(world: World, recover_participant: Any = recover_participant) -> Steps:
    """Recover all the dead, then take what is left on channels without a consumer."""
    yield from heap_lock("last")
    dead = yield when("who is dead?", the_dead)
    for who in dead:
        yield from recover_participant(world, who)
    yield from heap_unlock()
    for c in world.channels:
        state, _ = yield get(("holder", c.name, CONSUMER))
        if state == OPEN:
            continue
        position, doubtful = yield from claim(world, "last", c, CONSUMER)
        sent = yield from ring_sent(c)
        while position < sent:
            word = yield get(("word", *c.slot(position)))
            if word[0] == FULL and word[1] == c.lap(position):
                got = yield from receive_one(world, "last", c, position, doubtful)
                yield from free("last", c, *got)
            position += 1
    for c in world.channels:
        yield from ring_collect(c)


def the_dead(view: View) -> Any:
    """Return the participants of the dead processes."""
    dead = [name for _, name in view.names("alive") if not view["alive", name]]
    return {}, tuple(who for name in dead for who in (name, f"{name}.in", f"{name}.out"))


def adds_up(world: World, view: View) -> str | None:
    """Check that everything sent was received, and that every block is in one place."""
    for _, number in view.names("done"):
        if view["done", number] not in ("", DONE):
            return f"record {number} is lost: {view['done', number]}"
    if view["done", world.records - 1] == "" and all(view[n] for n in view.names("alive")):
        return "something was not sent, though nobody died"
    for _, block in view.names("tag"):
        tag = view["tag", block]
        if tag != FREE and not (tag[0] == OWN and is_alive(view, tag[1])):
            return f"block {block} leaks: {tag}"
    for name in view.names("word"):
        if view[name][0] != EMPTY and view["holder", name[1], PRODUCER][0] != OPEN:
            return f"slot {name[1:]} is left {view[name]}"
    return None


# Models -------------------------------------------------------------------------------------------


def one_channel(
    name: str,
    *,
    slots: int,
    records: int,
    kills: int,
    producer: Any = None,
    consumer: Any = None,
    watchful: bool = False,
    trusting: bool = False,
    private: tuple[str, ...] = ("intent", "from"),
    fast: str = "",
    mortal: str = "PC",
    copies: bool = False,
    groups: tuple[str, ...] = (),
    hoarders: tuple[str, ...] = (),
    settle: Any = settle,
) -> Model:
    """Build a model of one channel: producer P, consumer C, and their successors.

    The `fast` processes take one step a record and are never killed. Producers may send `copies`;
    `groups` are the consumers that take what comes in groups, `hoarders` those that hold it all.
    """
    produces_them = produces_copies if copies else produces
    c = Channel("X", slots, trusting)
    world = World((c,), records + 1 if hoarders else slots + 2, records, watchful)

    def body_of(who: str) -> Any:
        return consumes_groups if who in groups else hoards if who in hoarders else consumes

    sending, receiving = producer or {}, consumer or {}
    processes = []
    if fast == "P":
        processes += [Process("P", partial(feeds, world, "P", c))]
    else:
        body = partial(produces_them, world, c=c, **sending)
        processes += [Process("P", partial(body, me="P"), "P" in mortal)]
    if fast == "C":
        processes += [Process("C", partial(eats, world, "C", c))]
    else:
        body = partial(body_of("C"), world, c=c)
        processes += [Process("C", partial(body, me="C", **receiving), "C" in mortal)]
    if "P" in mortal:
        body = partial(produces_them, world, c=c, **sending)
        processes += [Process("P2", partial(body, me="P2", after="P"), True)]
    if "C" in mortal:
        body = partial(body_of("C2"), world, c=c)
        processes += [Process("C2", partial(body, me="C2", after="C", **receiving), True)]
    memory = shared(world, processes, {("X", PRODUCER): "P", ("X", CONSUMER): "C"})
    return Model(
        f"ring, {name}",
        tuple(processes),
        memory,
        last=partial(settle, world),
        finally_=partial(adds_up, world),
        kills=kills,
        private=frozenset(private),
    )


def two_channels(
    name: str,
    *,
    records: int,
    kills: int,
    threads: bool = False,
    settle: Any = settle,
    **how: Any,
) -> Model:
    """Build a model of two channels: P sends on X, M forwards to Y, C receives there."""
    x, y = Channel("X", 1), Channel("Y", 1)
    world = World((x, y), 3, records)
    processes = (
        Process("P", partial(feeds, world, "P", x)),
        Process("M", partial(forwards, world, "M", x, y, threads=threads, **how), True),
        Process("C", partial(eats, world, "C", y)),
        Process("M2", partial(forwards, world, "M2", x, y, "M", threads=threads, **how), True),
    )
    middle = ("M.in", "M.out") if threads else ("M", "M")
    holders = {
        ("X", PRODUCER): "P",
        ("X", CONSUMER): middle[0],
        ("Y", PRODUCER): middle[1],
        ("Y", CONSUMER): "C",
    }
    return Model(
        f"ring, {name}",
        processes,
        shared(world, processes, holders),
        last=partial(settle, world),
        finally_=partial(adds_up, world),
        kills=kills,
        private=frozenset({"intent", "from"}),
    )

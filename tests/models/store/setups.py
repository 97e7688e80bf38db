"""Models of a writer, readers, and those that collect, claim and recover, put together."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ..explorer import Model, Process, nothing_wrong
from ..park.words import OPEN, Endpoint
from .changes import Writer
from .forward import RING, buries_consumer, in_one_place, the_last_of_both
from .moments import accounted, always_so
from .processes import (
    buries,
    expires,
    reclaims,
    succeeds,
    the_last,
    writes,
)
from .wait import Sleeper
from .waiters import is_told, nobody_waits, polls, tells, tells_after, waits_for
from .words import LEAVING, LIVE, NONE, STORED, Lists, Store, X, lists_of, shared

if TYPE_CHECKING:
    from ..steps import View

# Stable from PREPARED, or from a hold, on.
FIELDS = frozenset({"offset", "hash", "died", "data"})
# Words that one process looks at, unless a model is about them.
QUIET = frozenset(
    {
        *("busy", "flags", "fences", "fences_since", "collector", "pieces", "keyed", "bell"),
        *("older", "log", "used", "closed", "parked", "pipe", "holder"),
    }
)


def all_given(view: View) -> str | None:
    """Check that every follower has been given all that is live."""
    for _, slot in view.names("word"):
        state, version = view["word", slot]
        for name in view.names("got"):
            chunk = state == LIVE and view["offset", slot] is not NONE
            if chunk and version not in view[name] and view["alive", name[1]]:
                return f"version {version}, live, was never given to {name[1]}"
    return accounted(view)


def store(
    name: str,
    *,
    plan: tuple[tuple[str, ...], ...] = (),
    chunks: tuple[Any, ...] = ("A",),
    readers: tuple[Any, ...] = (),
    slots: int = 0,
    keys: str = "A",
    after: tuple[tuple[str, ...], ...] = (),
    collects: int = 0,
    gone: tuple[int, ...] = (),
    ends: str = "",
    kills: int = 0,
    mortal: str = "",
    tso: bool = False,
    about: tuple[str, ...] = (),
    pieces: int = 1,
    words: int = 2,
    blocks: int = 0,
    fenced: int = 0,
    spare: bool = False,
    instead: tuple[tuple[str, Any], ...] = (),
    always: Any = always_so,
    finally_: Any = accounted,
    memory: dict[Any, Any] | None = None,
    **how: Any,
) -> Model:
    """Build a model: W commits the plan, beside readers, which are functions of their store.

    The first of `mortal` may be killed; W then has a successor, W2, which commits what is `after`;
    C collects for others. `fenced`: so many collections ago, membarrier was refused.
    `spare`: in the beginning, there is one.
    """
    who = tuple(f"R{i}" for i in range(len(readers)))
    names = ["W", *who]
    names += ["W2"] if "W" in mortal else []
    names += ["C"] if collects else []
    names += ["T"] if gone else []
    names += ["B"] if "R" in mortal or "C" in mortal else []
    slots = slots or len(chunks) + 1 + len(readers)
    s = Store("W", slots, who, who, keys, expires=bool(gone), instead=instead, **how)
    commits = sum(map(len, plan)) + sum(map(len, after))
    shared_words = shared(
        s, tuple(names), chunks, commits=commits, pieces=pieces, words=words, blocks=blocks
    )
    shared_words |= memory or {}
    shared_words |= {("fences",): int(fenced > 0), ("fences_since",): int(fenced > 0)}
    if spare:
        shared_words |= {("word", slots - 1): (LEAVING, 0), ("offset", slots - 1): slots - 1}
        shared_words |= {("tag", slots - 1): (STORED, slots - 1)}
    w = Writer(lists_of(shared_words, s)._replace(fences=fenced))
    if spare:
        w = w._replace(at=w.at._replace(spares=((slots - 1, 0),)))
    processes = [Process("W", partial(writes, s, w, plan, ends), "W" in mortal)]
    for r, body in zip(who, readers, strict=True):
        mine = s._replace(me=r, others=tuple(n for n in names if n != r))
        processes.append(Process(r, partial(body, mine), "R" in mortal))
    if "W" in mortal:
        dead = tuple(n for n in names if n in ("W", "C", *who))
        body = partial(succeeds, s._replace(me="W2"), dead, after)
        processes.append(Process("W2", body, "S" in mortal))
    if collects:
        mine = s._replace(me="C", others=("W", *who))
        processes.append(Process("C", partial(reclaims, mine, collects), "C" in mortal))
    if gone:
        processes.append(Process("T", partial(expires, gone)))
    if "B" in names:
        victim = "R0" if "R" in mortal else "C"
        processes.append(Process("B", partial(buries, s._replace(me="B"), victim)))
    last = s._replace(me="last", others=(), refused=False)
    return Model(
        f"store, {name}",
        tuple(processes),
        shared_words,
        always=always,
        last=partial(the_last, last, tuple(names)),
        finally_=finally_,
        kills=kills,
        tso=tso,
        private=FIELDS | (QUIET - frozenset(about)),
        inert=FIELDS | (QUIET - frozenset(about)),
    )


# Forwarding ---------------------------------------------------------------------------------------


def forwarding(name: str, plan: Any = ((">A",),), *, split: bool = False, **how: Any) -> Model:
    """Build a model: W forwards a record, and is killed; `split`: it was two participants."""
    given: dict[str, Any] = {"chunks": (), "slots": 3, "blocks": 3, "mortal": "W", "kills": 1} | how
    memory = RING | {("alive", "B"): True}
    model = store(
        name, plan=plan, memory=memory, always=nothing_wrong, finally_=in_one_place, **given
    )
    instead = given.get("instead", ())
    s = Store("B", given["slots"], keys=given.get("keys", "A"), instead=instead)
    bury = Process("B", partial(buries_consumer, s, "W"))
    last = partial(the_last_of_both, s._replace(me="last"), ("W",))
    processes = (*model.processes, bury) if split else model.processes
    return replace(model, processes=processes, last=last)


# Waiting ------------------------------------------------------------------------------------------


def is_poller(body: Any) -> bool:
    return getattr(body, "func", body) is polls


def waiting(
    name: str,
    *sleepers: Any,
    total: int = 1,
    ends: str = "",
    fences: bool = False,
    kills: int = 0,
    blind: bool = False,
    instead: tuple[tuple[str, Any], ...] = (),
) -> Model:
    """Build a model: W commits, and readers wait, each in its way; entry 1 may poll."""
    who = tuple(range(1, len(sleepers) + 1))
    names = ("W", *(f"R{i}" for i in who), *(("W2",) if kills else ()))
    s = Store("W", 0, who, log=4, cells=0, instead=instead)
    memory = shared(s, names, commits=total)
    memory |= {("fences",): int(fences), ("watched",): None, ("pidfd",): None}
    memory |= {("outside",): False, ("calm",): None, ("position",): 0}
    memory |= {("way", n): False for n in names} | {("knock", n): 0 for n in names}
    processes = [Process("W", partial(tells, s, Lists(), total, ends), bool(kills))]
    for i, sleeps in zip(who, sleepers, strict=True):
        memory["holder", X, i] = (OPEN, f"R{i}")
        memory["pipe", X, i] = int(not is_poller(sleeps))
        others = tuple(n for n in names if n[0] == "W")
        base = Endpoint(X, i, f"R{i}", others, fences)
        e = Sleeper(s._replace(me=i), base, blind=blind)
        processes.append(Process(f"R{i}", partial(sleeps, e, total)))
    if kills:
        processes.append(Process("W2", partial(tells_after, s._replace(me="W2"), total)))
    polled = any(map(is_poller, sleepers))
    quiet = {"pieces", "collector", "flags", "keyed", "epoch", "watched", "lock"} - (
        {"lock"} if kills else set()
    )
    return Model(
        f"store, {name}",
        tuple(processes),
        memory,
        always=is_told if polled and not blind else nothing_wrong,
        finally_=nobody_waits if polled else nothing_wrong,
        kills=kills,
        tso=not kills,
        private=frozenset(quiet),
        inert=frozenset(quiet),
    )


def waiting_for(name: str, plan: Any, key: str = "A", newer: int = 1, **how: Any) -> Model:
    """Build a model: W commits a plan, and a reader waits until a key is newer than that."""

    def waits(s: Store) -> Any:
        base = Endpoint(X, s.me, s.me, tuple(n for n in s.others if n[0] == "W"))
        return waits_for(Sleeper(s, base), key, newer)

    given: dict[str, Any] = {"about": ("bell", "keyed")} | how
    return store(name, plan=plan, readers=(waits,), **given)

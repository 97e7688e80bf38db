"""A store: what is given was committed, what is held stays, nothing leaks, nobody sleeps on.

A writer puts, replaces, deletes and forwards, in transactions, and collects, beside readers that
get one key or several as of one moment, list a history, follow, or wait. A killed writer has a
successor, which recovers it; others collect for a writer that lives. The store is the real one,
with two to five slots, one to three cells and a log of two or four entries.

    word      s: (state, version) of slot s     offset  s: its block    hash  s: its key
    died      s: before the commit, the tag that the block had          older s: as in C
    tag       b: FREE, (OWN, who), (STORED, slot) or (SENT, ring)       data  b: for which key
    cell      i: (key, slot); (key, none): gone; none: never used
    log       piece, i: (version, slot)         bell    of the store, or of a cell
    words     r, w: the slot that a hold word names                     used  r: as in C
    slot      the place in a ring from which a record is forwarded
    has       r, w: (slot, block, version) that a caller was given      } ghosts, which only
    moment    h: which versions each key had when head was h            } the properties
    by        v: the block that was committed as version v              } look at
    done      the head that calls which have returned have left         }

`bells`, `holds`, `lists`, `collect`, `changes`, `commit`, `reader`, `next`, `recover` and `wait`
mirror the C sources, on the words that `words` describes; `forward` has the ring's side of a
forwarded record. `moments` says what must hold, `processes` and `waiters` are those who call,
`setups` puts them together, and `mistakes` has what must fail.

What a writer knows in private memory follows from what it has stored, so its loads of words that
only it stores are left out.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from . import (
    bells,
    changes,
    collect,
    commit,
    forward,
    holds,
    lists,
    next,
    processes,
    reader,
    recover,
    wait,
)
from .mistakes import CONTROLS
from .processes import follows, gets, gets_history, gets_in_order, gets_many, lists_keys, sits_down
from .setups import all_given, forwarding, store, waiting, waiting_for
from .waiters import parks, polls, sleeps_among

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model

__all__ = ["CONTROLS", "MIRRORS", "MODELS"]

MIRRORS = (
    *bells.MIRRORS,
    *holds.MIRRORS,
    *lists.MIRRORS,
    *collect.MIRRORS,
    *changes.MIRRORS,
    *commit.MIRRORS,
    *reader.MIRRORS,
    *next.MIRRORS,
    *recover.MIRRORS,
    *processes.MIRRORS,
    *forward.MIRRORS,
    *wait.MIRRORS,
)

GETS = partial(gets, keys="A")
PUTS: dict[str, Any] = {"plan": (("A",), ("A",)), "readers": (GETS,)}
PUT: dict[str, Any] = {"plan": (("A",),), "readers": (GETS,)}
W_DIES: dict[str, Any] = {"mortal": "W", "kills": 1}
PAIR: dict[str, Any] = {
    "chunks": ("A", "B"),
    "keys": "AB",
    "cells": 3,
    "words": 3,
    "readers": (partial(gets_many, keys="AB"),),
}
PAST: dict[str, Any] = {
    "plan": (("A",), ("A",)),
    "chunks": ("A", "A"),
    "depth": 2,
    "slots": 4,
    "words": 5,
    "readers": (partial(gets_history, key="A"),),
}
FOLLOW: dict[str, Any] = {
    "keys": "AB",
    "cells": 2,
    "slots": 5,
    "readers": (follows,),
    "about": ("log",),
    "finally_": all_given,
}
GROWS: dict[str, Any] = {
    "plan": (("B",), ("A",)),
    "keys": "AB",
    "cells": 2,
    "slots": 1,
    "pieces": 2,
    "blocks": 3,
}
BESIDE: dict[str, Any] = {"collects": 1, "slots": 4, "about": ("busy", "flags", "collector")}
LOOSE = partial(gets, keys="A", loose=True)

CHUNKS: dict[str, dict[str, Any]] = {
    "a reader": PUTS | {"tso": True},
    "a reader that gets twice": PUTS | {"readers": (partial(gets, keys="AA"),), "about": ("used",)},
    "`used` goes back": PUTS
    | {"readers": (partial(gets, keys="AA"),), "about": ("used",), "many": 1},
    "two readers": PUT | {"readers": (GETS, GETS)},
    "membarrier is refused": PUTS
    | {"refused": True, "about": ("fences",), "slots": 4, "tso": True},
    "fences": PUTS | {"refused": True, "fenced": 2, "tso": True},
    "a reader claims and closes": PUTS
    | {
        "readers": (partial(sits_down, key="A"),),
        "about": ("holder", "used", "closed"),
        "memory": {("holder", "X", "R0"): ("never", None)},
    },
    "the last writer closes": PUT
    | {"ends": "closes", "readers": (partial(gets, keys="AA"),), "about": ("holder",)},
    "the reader dies": PUTS | {"mortal": "R", "kills": 1, "about": ("holder", "used")},
    "the writer dies": PUT | {"after": (("A",),)} | W_DIES,
    "the writer dies, collecting": PUTS | {"readers": ()} | W_DIES,
    "writer and successor die": PUT | {"after": (("A",),), "mortal": "WS", "kills": 2},
    "reader and writer die": PUT | {"mortal": "WR", "kills": 2, "about": ("holder",)},
    "spares": PUTS | {"spared": 1},
    "spares, buffers": PUT | {"spared": 1, "spare": True, "tso": True},
    "spares, the writer dies": PUTS | {"spared": 1, "readers": ()} | W_DIES,
    "spares, a reader, the writer dies": PUT
    | {"spared": 1, "spare": True, "after": (("A",),)}
    | W_DIES,
    "spares, collected by another": PUTS | {"spared": 1, "readers": ()} | BESIDE,
    "evicted": {
        "plan": (("B",), ("A",)),
        "keys": "AB",
        "cells": 2,
        "most": 1,
        "slots": 3,
        "readers": (partial(gets, keys="AB", loose=True),),
    },
    "history": PAST,
    "history, a deletion": PAST | {"plan": (("-A",), ("A",))},
    "a chain from which one expires": PUTS
    | {
        "chunks": ("A", "A"),
        "depth": 3,
        "gone": (2,),
        "slots": 5,
        "readers": (LOOSE,),
        "about": ("older",),
    },
    "transaction": PAIR | {"plan": (("A", "B"), ("B", "A")), "slots": 6},
    "transaction, one by one": PAIR
    | {"plan": (("A", "B"),), "slots": 4, "readers": (partial(gets, keys="ABA"),)},
    "transaction, the writer dies": PAIR | {"plan": (("A", "B"),), "slots": 4} | W_DIES,
    "transaction with a deletion": PAIR | {"plan": (("-A", "B"),), "slots": 4},
    "transaction, a key twice": PUT | {"plan": (("A", "A"),), "slots": 4, "extents": True},
    "transaction, a key twice, the writer dies": PUT | {"plan": (("A", "A"),), "slots": 4} | W_DIES,
    "all keys": PAIR | {"plan": (("-A", "B"),), "slots": 4, "readers": (lists_keys,)},
    "two keys expire": PAIR
    | {"plan": (("C",),), "keys": "ABC", "gone": (1, 2), "slots": 4, "readers": (gets_in_order,)},
    "a key returns": PAIR
    | {"plan": (("-A",), ("A",)), "slots": 4, "readers": (partial(gets, keys="AB"),)},
    "following": FOLLOW | {"plan": (("B",), ("B",), ("B",)), "slots": 4},
    "following what is not collected": FOLLOW | {"plan": (("B",), ("B",), ("B",)), "garbage": 9},
    "following transactions": FOLLOW | {"plan": (("A", "B"), ("A",)), "chunks": ()},
    "following, the writer dies": FOLLOW
    | {"plan": (("A",), ("B",)), "after": (("A",),), "chunks": ()}
    | W_DIES,
    "following, a longer log, the writer dies": FOLLOW
    | {"plan": (("A",), ("B",)), "chunks": (), "log": 4}
    | W_DIES,
    "growing": GROWS | {"readers": (partial(gets, keys="AB"),), "about": ("pieces",)},
    "growing, a follower": GROWS
    | {"readers": (follows,), "about": ("pieces", "log"), "finally_": all_given},
    "collected by another": PUTS | {"readers": (), "garbage": 9, "tso": True} | BESIDE,
    "collected by another, expired": PUT | {"gone": (1,), "readers": (LOOSE,)} | BESIDE,
    "collected by another, buffers": PUT | {"gone": (1,), "readers": (), "tso": True} | BESIDE,
    "collected by another, a transaction": {"plan": (("A", "B"),), "keys": "AB", "cells": 2}
    | BESIDE,
    "collected by another, which dies": PUTS | {"readers": (), "mortal": "C", "kills": 1} | BESIDE,
    "collected by another, both die": PUT
    | {"after": (("A",),), "readers": (), "mortal": "CW", "kills": 2}
    | BESIDE,
}

FORWARDING: dict[str, dict[str, Any]] = {
    "the writer dies": {"readers": (GETS,)},
    "writer and successor": {"readers": (GETS,), "after": (("A",),)},
    "two threads die": {"split": True},
    "superseded, the writer dies": {"plan": ((">A", "A"),), "readers": (GETS,)},
    "undone": {"plan": ((">A", "B"),), "keys": "AB", "cells": 2, "ends": "undoes", "kills": 0}
    | {"readers": (partial(gets, keys="AB"),)},
    "collected by another": {"collects": 1, "about": ("busy", "flags", "collector")},
}

patient = partial(polls, unasked=0)
WAITING: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "two sleepers": ((parks, parks), {}),
    "fences": ((parks,), {"total": 2, "fences": True}),
    "among several": ((sleeps_among,), {}),
    "among several, and a sleeper": ((sleeps_among, parks), {}),
    "the writer closes": ((parks,), {"ends": "closes"}),
    "the writer dies": ((parks,), {"kills": 1}),
    "a poller": ((polls,), {}),
    "a poller, fences": ((polls,), {"fences": True}),
    "a poller and a sleeper": ((patient, parks), {}),
    "a poller, and one among several": ((patient, sleeps_among), {}),
    "a poller, the writer closes": ((polls,), {"ends": "closes"}),
    "a poller, the writer dies": ((polls,), {"kills": 1}),
    "a poller that cannot watch, the writer dies": ((patient,), {"kills": 1, "blind": True}),
}

KEYS: dict[str, dict[str, Any]] = {
    "put": {"plan": (("A",),), "tso": True},
    "that moves": {"plan": (("-A",), ("B", "A")), "keys": "AB", "cells": 2, "slots": 4},
    "that comes": {
        "plan": (("B",), ("A",)),
        "keys": "AB",
        "cells": 2,
        "slots": 4,
        "chunks": (),
        "newer": 0,
    },
    "while tables grow": GROWS | {"about": ("bell", "keyed", "pieces")},
}

MODELS: dict[str, Callable[[], Model]] = {
    **{name: partial(store, name, **how) for name, how in CHUNKS.items()},
    **{f"forwarding, {n}": partial(forwarding, n, **how) for n, how in FORWARDING.items()},
    **{f"waiting, {n}": partial(waiting, n, *who, **how) for n, (who, how) in WAITING.items()},
    **{f"waiting for a key {n}": partial(waiting_for, n, **how) for n, how in KEYS.items()},
}

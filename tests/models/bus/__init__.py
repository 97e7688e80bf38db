"""A bus: one order, nothing lost that is owed, nothing used after it is freed, nobody held up.

Writers post to a log of one to four slots; listeners, reliable or lossy, some of which come later,
receive, hold and release; participants that die anywhere are recovered by others, which die as
well. Apart from the log: how listeners are woken, how writers wait for listeners, how broadcasts
take turns, and how a bus is removed while others are inside.

    slot      i: (position, block)                  tag  b: FREE, (OWN, who), (SENT, p), (PART, b)
    floor     no position below it may be received  settled, swept  as in C
    position  n: the next that listener n receives  hold  n, i: (state, position, block)
    active    n: it is registered                   flags, joined, lost, passed  n: as in C
    intent    w: (state, position, block) that w is about to post; letting  w: what it frees
    payload   b: the block that the payload of envelope b is in, if it is apart
    bus       w: it is inside                       sleepers, wake, polled, turns, waiters  as in C
    turn      (caller, count), or 0                 clock  1 when the time of the hurried is over
    posted    how many were posted                  } ghosts, which only
    start     n: from which position on it gets all } the properties
    log       broadcasts, in order                  } look at

`reclaim`, `post`, `receive`, `listeners`, `recover`, `wake`, `awaits`, `broadcast` and `removal`
mirror the C sources, on the words that `words` describes. `processes` and `waiters` are those who
call, `setups` puts them together, and `mistakes` has what must fail.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from . import (
    awaits,
    broadcast,
    listeners,
    post,
    receive,
    reclaim,
    recover,
    removal,
    waiters,
    wake,
)
from .awaits import awaiting
from .broadcast import turns
from .mistakes import (
    APART,
    BACK,
    BESIDE,
    CONTROLS,
    DIE,
    EXTENTS,
    HISTORY,
    HOLDER,
    JOINS,
    KEPT,
    LAP,
    LOSING,
    RECOVERER,
    REFUSED,
    TWO,
)
from .removal import removing
from .setups import begun, log
from .waiters import parks, polls, sleeps_among, waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model

__all__ = ["CONTROLS", "MIRRORS", "MODELS"]

MIRRORS = (
    *reclaim.MIRRORS,
    *post.MIRRORS,
    *receive.MIRRORS,
    *listeners.MIRRORS,
    *recover.MIRRORS,
    *wake.MIRRORS,
    *waiters.MIRRORS,
    *awaits.MIRRORS,
    *broadcast.MIRRORS,
    *removal.MIRRORS,
)

LOG: dict[str, dict[str, Any]] = {
    "two writers, two listeners": TWO,
    "one holds back": BACK,
    "a hint that is late": {"counts": (1, 1), "about": ("head",)},
    "two writers die": DIE,
    "a writer and a holder die": HOLDER,
    "a writer dies a lap later": LAP,
    "one that recovers dies": RECOVERER,
    "records, all die": APART,
    "a lossy listener beside a reliable one": BESIDE,
    "two lossy listeners": LOSING,
    "a lossy listener dies": {"counts": (2,), "lossy": "L", "kills": 1, "mortal": "L"}
    | {"keepers": "K", "blocks": 4},
    "membarrier is refused": REFUSED,
    "one is passed": {"counts": (3,), "patient": False, "tso": True},
    "one joins": {"counts": (2,), "late": "L", "tso": True},
    "one joins while another tidies": JOINS,
    "one joins, history": HISTORY,
    "one joins, all of the history": {"counts": (2,), "late": "L", "asks": 2, "history": 2}
    | {"capacity": 2, "blocks": 4, "memory": begun(2, 2), "tso": True},
    "extents": EXTENTS | {"tso": True},
    "extents, one after the other": EXTENTS | {"counts": (2,), "listeners": "L", "capacity": 1},
    "extents, a history": KEPT,
    "extents, a lossy listener": EXTENTS | {"lossy": "M"},
}

WAKE: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "two writers, a sleeper": ((parks,), {"counts": (1, 1), "tso": True}),
    "two sleepers": ((parks, parks), {"tso": True}),
    "a sleeper and a poller": ((parks, polls), {"tso": True}),
    "a sleeper, and one among several": ((parks, sleeps_among), {"tso": True}),
    "among several": ((sleeps_among,), {"counts": (2,), "tso": True}),
    "a poller": ((polls,), {"counts": (2,), "tso": True}),
    "the writer dies": ((parks, polls), {"kills": 1}),
    "a writer is stopped": ((polls,), {"counts": (1, 1), "stops": "V"}),
}

AWAIT: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "two listeners": (("V", "LM"), {"tso": True}),
    "two writers": (("VW", "L"), {"tso": True}),
    "what is kept": (("V", "L"), {"keeps": "L", "tso": True}),
    "fences": (("V", "L"), {"fences": True, "tso": True}),
    "two writers, the listener dies": (("VW", "L"), {"kills": 1}),
    "listeners die": (("V", "LM"), {"kills": 2}),
    "by a deadline": (("V", "LM"), {"hurried": "V"}),
    "by a deadline, a listener dies": (("V", "LM"), {"hurried": "V", "kills": 1}),
}

TURN: dict[str, tuple[tuple[str, str], dict[str, Any]]] = {
    "two callers": (("VW", "LM"), {}),
    "two callers, several": (("VW", "L"), {"counts": (2, 1)}),
    "callers and listeners die": (("VW", "LM"), {"kills": 2, "mortal": "VWLM"}),
    "a caller dies, several": (("VW", "L"), {"kills": 1, "mortal": "VW", "counts": (2, 1)}),
    "by a deadline": (("VW", "L"), {"hurried": "V", "counts": (2, 1)}),
    "by a deadline, stopped": (("VW", "L"), {"hurried": "V", "stops": "V"}),
    "stopped, and all have released": (("VW", "L"), {"stops": "V"}),
    "room that is gone": (("VW", "L"), {"tight": "VW"}),
}

REMOVED: dict[str, dict[str, Any]] = {
    "a writer": {"posters": "V", "times": 2, "tso": True},
    "two writers": {"posters": "VW", "tso": True},
    "one closes": {"closers": "L", "tso": True},
    "a last message": {"holders": "M", "tso": True},
    "a last extent": {"holders": "M", "extents": True, "tso": True},
    "one closes beside a last message": {"closers": "L", "holders": "M"},
    "a writer beside a last message": {"posters": "V", "holders": "M"},
    "a writer dies": {"posters": "V", "kills": 1},
}

MODELS: dict[str, Callable[[], Model]] = {
    **{name: partial(log, name, **how) for name, how in LOG.items()},
    **{f"waking, {n}": partial(waiting, n, *who, **how) for n, (who, how) in WAKE.items()},
    **{f"awaiting, {n}": partial(awaiting, n, *who, **how) for n, (who, how) in AWAIT.items()},
    **{f"turns, {n}": partial(turns, n, *who, **how) for n, (who, how) in TURN.items()},
    **{f"removed, {n}": partial(removing, n, **how) for n, how in REMOVED.items()},
}

"""The two positions of a stream: nothing is lost uncounted, nothing twice, nobody sleeps on.

A writer and a reader share a ring of one to three items; a killed one has a successor. The value of
an item is its position, so a copy or a window shows what was lost, repeated, torn or written too
early. The sides wait by parking, by polling, or as one of several. Either is killed before any
store, also while it claims its side or recovers the other one.

`position`, `flow`, `waiting` and `endpoint` mirror the C sources, on the words that `words`
describes. `writer`, `reader` and `poller` have their callers, `setups` puts them together, and
`mistakes` has what must fail.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from . import endpoint, flow, position, waiting
from .mistakes import CONTROLS
from .poller import asks, peeks, reads, wants, writes
from .reader import gives_up_among, looks, remembers, skips, sleeps_among, takes, watches
from .setups import GIVES_UP, RESET_BETWEEN, no_end, reset_at, stream
from .writer import fills, hesitates

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model

__all__ = ["CONTROLS", "MIRRORS", "MODELS"]

MIRRORS = (
    *position.MIRRORS,
    *flow.MIRRORS,
    *waiting.MIRRORS,
    *endpoint.MIRRORS,
)

ONE: dict[str, Any] = {"capacity": 1, "portions": (1,)}
TWO: dict[str, Any] = {"portions": (2,), "wants": ((1, 2),)}
STAYS: dict[str, Any] = {"stays": True}
WATCHES: dict[str, Any] = {"waits": watches}
LOOKS: dict[str, Any] = {"ways": (looks,)} | WATCHES
W_DIES: dict[str, Any] = {"kills": 1, "mortal": "W", "tso": False}
R_DIES: dict[str, Any] = {"kills": 1, "mortal": "R", "tso": False}
ANY_DIES: dict[str, Any] = {"kills": 1, "mortal": "WR", "tso": False}

PARKING: dict[str, dict[str, Any]] = {
    "one item": {"total": 2} | ONE,
    "two items": {"total": 3} | TWO,
    "three items": {"total": 3, "capacity": 3, "portions": (3,), "wants": ((2, 3),)},
    "fences": {"total": 2, "fences": True} | TWO,
    "a wait that ends": GIVES_UP,
    "among several": {
        "total": 2,
        "capacity": 3,
        "portions": (1,),
        "wants": ((2, 2),),
        "reader": {"waits": sleeps_among},
    },
    "among several, a wait that ends": GIVES_UP
    | {"reader": {"waits": gives_up_among, "stays": True}},
    "windows": {
        "total": 2,
        "backlog": 1,
        "portions": (1,),
        "writer": {"ways": (fills,)},
        "reader": {"ways": (looks,)},
    },
    "windows that are copies": {
        "total": 2,
        "copies": True,
        "writer": {"ways": (fills,)},
        "reader": {"ways": (takes, skips)},
    }
    | TWO,
    "backlog": {
        "total": 3,
        "backlog": 1,
        "portions": (1,),
        "writer": STAYS,
        "reader": {"ways": (remembers,)} | WATCHES | STAYS,
    },
}

DEATHS: dict[str, dict[str, Any]] = {
    "two die": {"total": 1, "writer": STAYS, "reader": STAYS} | ONE | ANY_DIES | {"kills": 2},
    "claimants die": {"total": 1, "claims": True, "writer": STAYS, "reader": STAYS}
    | ONE
    | ANY_DIES,
    "the writer dies": {"total": 2, "writer": STAYS, "reader": STAYS} | TWO | W_DIES,
    "the reader dies in a window": {
        "total": 3,
        "backlog": 1,
        "portions": (2,),
        "writer": STAYS,
        "reader": LOOKS | STAYS,
    }
    | R_DIES,
    "the reader dies, buffers": {"total": 1, "writer": STAYS, "reader": STAYS}
    | ONE
    | R_DIES
    | {"tso": True},
}

OVERWRITING: dict[str, dict[str, Any]] = {
    "a parked reader": {"total": 2, "writer": STAYS, "reader": STAYS} | ONE,
    "a fast writer": {"total": 3, "portions": (1,), "wants": ((1, 2),), "reader": WATCHES},
    "skipping": {"total": 2, "reader": {"ways": (skips,)} | WATCHES} | ONE,
    "windows": {
        "total": 3,
        "backlog": 1,
        "writer": STAYS,
        "reader": LOOKS | STAYS,
    }
    | ONE,
    "a window without a commit": {
        "total": 4,
        "writer": {"ways": (hesitates,)},
        "reader": WATCHES,
    }
    | TWO,
    "the writer dies": {"total": 2, "writer": STAYS, "reader": WATCHES | STAYS} | ONE | W_DIES,
    "the writer dies in a window": {
        "total": 3,
        "writer": {"ways": (fills,)} | STAYS,
        "reader": WATCHES | STAYS,
    }
    | TWO
    | W_DIES,
    "the reader dies": {"total": 2, "reader": WATCHES} | ONE | R_DIES,
    "reset by the writer": reset_at(1, total=2, reader=WATCHES, **ONE),
    "reset between items": RESET_BETWEEN,
    "reset by the reader": {"total": 2, "reader": {"resets": 1} | WATCHES} | ONE,
}

RESETS: dict[str, dict[str, Any]] = {
    "of a parked reader": {
        "total": 2,
        "capacity": 3,
        "portions": (1,),
        "wants": ((2, 2),),
        "writer": {"resets": (1,), "awaits": True},
    },
    "twice": reset_at(1, 2, total=3, capacity=3, portions=(1,), reader=WATCHES | STAYS, tso=False),
    "of a window": reset_at(2, total=4, portions=(2,), reader=LOOKS | STAYS),
    "of a full ring": reset_at(1, total=2, reader=LOOKS | STAYS, **ONE),
    "after the reader's end": reset_at(1, total=2, reader={"leaves": 0}, ends=no_end, **ONE),
    "before a successor": reset_at(1, total=2, reader={"leaves": 0}, after="R", ends=no_end, **ONE),
    "two die": reset_at(2, total=2, portions=(2,), backlog=1, reader=LOOKS | STAYS)
    | ANY_DIES
    | {"kills": 2},
    "the reader dies": reset_at(1, total=2, reader=WATCHES | STAYS, **ONE) | R_DIES,
    "by the reader": {
        "total": 2,
        "backlog": 1,
        "portions": (1,),
        "reader": {"ways": (looks, remembers), "resets": 1} | WATCHES,
    },
    "by a reader that dies": {
        "total": 2,
        "backlog": 1,
        "portions": (1,),
        "reader": {"ways": (looks,), "resets": 1} | WATCHES,
    }
    | R_DIES,
}

POLLING: dict[str, dict[str, Any]] = {
    "a reader": {"poller": "R", "total": 1, "reader": {"calls": ((reads, 1),)}} | ONE,
    "a reader's watermark": {
        "poller": "R",
        "total": 1,
        "capacity": 3,
        "portions": (1,),
        "writer": STAYS,
        "reader": {"watermark": 2, "calls": ((reads, 1), (wants, 1))},
    },
    "a reader, reset": {
        "poller": "R",
        "total": 2,
        "capacity": 3,
        "portions": (2,),
        "writer": {"resets": (2,)} | STAYS,
        "reader": {
            "watermark": 2,
            "unasked": False,
            "calls": ((asks, 1), (peeks, 1), (reads, 1)),
        },
    },
    "a reader, overwriting": {
        "poller": "R",
        "total": 2,
        "overwrite": True,
        "writer": STAYS,
        "reader": {"unasked": False, "calls": ((reads, 1),)},
    }
    | ONE,
    "a reader, the writer dies": {
        "poller": "R",
        "total": 0,
        "reader": {"unasked": False, "calls": ((reads, 1),)},
    }
    | ONE
    | W_DIES,
    "a writer": {
        "poller": "W",
        "total": 2,
        "writer": {"unasked": False, "calls": ((writes, 1),)},
        "reader": STAYS,
    }
    | ONE,
    "a writer, reset": {
        "poller": "W",
        "total": 2,
        "writer": {"unasked": False, "calls": ((writes, 1),)},
        "reader": {"resets": 1} | WATCHES | STAYS,
    }
    | ONE,
    "a writer, the reader dies": {
        "poller": "W",
        "total": 1,
        "writer": {"unasked": False, "calls": ((writes, 1), (asks, 1))},
        "reader": STAYS | WATCHES,
    }
    | ONE
    | R_DIES,
}

MODELS: dict[str, Callable[[], Model]] = {
    name: partial(stream, name, **how)
    for name, how in (
        *PARKING.items(),
        *DEATHS.items(),
        *((f"overwriting, {name}", how | {"overwrite": True}) for name, how in OVERWRITING.items()),
        *((f"reset {name}", how) for name, how in RESETS.items()),
        *((f"polling, {name}", how) for name, how in POLLING.items()),
    )
}

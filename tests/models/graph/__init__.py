"""The delivery of a graph: exactly once and in order, wherever workers are killed.

Workers in a row do the work of one: each is killed at any store, and the next one concludes from
the counts of the rings, notes, snapshots and picks how far it was. `words` describes what they
share, `even` and `uneven` mirror `ipcheap/graph/`, `setups` puts them together, and `mistakes` has
what must fail.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from .mistakes import CONTROLS
from .setups import (
    END,
    MARKED,
    MERGED,
    NUMBERS,
    TURNS,
    counted,
    evenly,
    itself,
    many_of_two,
    of_two,
    some_of_one,
    unevenly,
)
from .ties import TIES
from .words import MARK

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model

__all__ = ["CONTROLS", "MIRRORS", "MODELS", "TIES"]

MODELS: dict[str, Callable[[], Model]] = {
    "even, one edge": partial(evenly, "even", NUMBERS, kernel=some_of_one, kills=3),
    "even, two edges": partial(evenly, "even, two edges", NUMBERS, edges=2),
    "even, marks": partial(evenly, "even, marks", MARKED, edges=2, turns_in="one", turns="one"),
    "even, several inputs": partial(
        evenly, "even, several inputs", ((1, 2, 3),), ((1, 2, 3),), kernel=of_two, edges=2
    ),
    "uneven, two edges": partial(unevenly, "uneven", NUMBERS, edges=2),
    "uneven, marks behind turns": partial(
        unevenly, "uneven, turns", TURNS, edges=2, turns_in="many", turns="many"
    ),
    "uneven, marks behind marks": partial(
        unevenly, "uneven, marks", MARKED, edges=2, turns_in="one", turns="many"
    ),
    "uneven, a reader has ended": partial(
        unevenly, "uneven, a reader has ended", ((0, 2, 3),), edges=2, ended=(1,)
    ),
    "uneven, several inputs": partial(
        unevenly,
        "uneven, several inputs",
        ((MARK, 1, 2), (4, MARK)),
        ((0, MARK), (1, MARK), (MARK, 2)),
        kernel=many_of_two,
        edges=2,
        turns_in="one",
        turns="many",
    ),
    "uneven, merged": partial(unevenly, "uneven, merged", MERGED, kernel=itself, deal="free"),
    "snapshots": partial(
        unevenly,
        "snapshots",
        ((0, 1, 2),),
        edges=2,
        turns="many",
        checkpoint=2,
        finish=END,
    ),
    "snapshots, merged": partial(
        unevenly,
        "snapshots, merged",
        MERGED,
        kernel=counted,
        edges=2,
        deal="free",
        checkpoint=3,
    ),
}

MIRRORS = ()  # of C sources

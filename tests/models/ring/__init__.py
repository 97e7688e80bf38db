"""The ring of a record channel: killed anywhere, nothing is lost, repeated or leaked.

Producers send numbered records in blocks of a small pool. Consumers free, keep or forward
them, and hold one while they take the next. Any of them is killed before any store, and so are the
processes that recover them. Successors claim the side and go on. At the end a last process recovers
what is left and takes what is pending, and everything must add up. The heap lock is one step;
freeing a block is one store to its tag.

    word     (state, lap, block)        tag     FREE, (OWN, who) or (SENT, channel, position)
    done     what has become of a record: "", (SENT, channel), (RECEIVED, channel, who), DONE

`record` and `group` (sending, receiving, copying), `ring`, `recover` and `endpoint` mirror the C
sources, on the words that `world` describes. `processes` has their callers, `setups` puts them
together, and `mistakes` has what must fail.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import endpoint, group, record, recover, ring
from .mistakes import CONTROLS
from .setups import one_channel, two_channels

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model

__all__ = ["CONTROLS", "MIRRORS", "MODELS"]

MIRRORS = (
    *record.MIRRORS,
    *group.MIRRORS,
    *ring.MIRRORS,
    *recover.MIRRORS,
    *endpoint.MIRRORS,
)

MODELS: dict[str, Callable[[], Model]] = {
    "one slot, two die": lambda: one_channel(
        "one slot, two die", slots=1, records=2, kills=2, watchful=True
    ),
    "one slot, three laps": lambda: one_channel(
        "one slot, three laps", slots=1, records=3, kills=1, watchful=True
    ),
    "two slots, consumers die": lambda: one_channel(
        "two slots, consumers die", slots=2, records=4, kills=1, mortal="C"
    ),
    "two slots, producers die": lambda: one_channel(
        "two slots, producers die", slots=2, records=4, kills=2, mortal="P", fast="C"
    ),
    "copies, one slot": lambda: one_channel(
        "copies, one slot", slots=1, records=3, kills=1, watchful=True, copies=True
    ),
    "copies, two slots, producers die": lambda: one_channel(
        "copies, two slots, producers die",
        slots=2,
        records=5,
        kills=2,
        mortal="P",
        fast="C",
        copies=True,
    ),
    "copies, two slots, consumers die": lambda: one_channel(
        "copies, two slots, consumers die", slots=2, records=4, kills=1, mortal="C", copies=True
    ),
    "groups, one slot": lambda: one_channel(
        "groups, one slot", slots=1, records=3, kills=1, watchful=True, groups=("C", "C2")
    ),
    "groups, two slots": lambda: one_channel(
        "groups, two slots", slots=2, records=4, kills=1, mortal="C", groups=("C", "C2")
    ),
    "groups after one by one": lambda: one_channel(
        "groups after one by one", slots=2, records=4, kills=1, mortal="C", groups=("C2",)
    ),
    "groups of copies": lambda: one_channel(
        "groups of copies",
        slots=2,
        records=4,
        kills=1,
        mortal="C",
        copies=True,
        groups=("C", "C2"),
    ),
    "hoarding, one slot": lambda: one_channel(
        "hoarding, one slot", slots=1, records=3, kills=1, watchful=True, hoarders=("C", "C2")
    ),
    "hoarding, two slots": lambda: one_channel(
        "hoarding, two slots", slots=2, records=4, kills=1, mortal="C", hoarders=("C", "C2")
    ),
    "hoarding, producers die": lambda: one_channel(
        "hoarding, producers die", slots=2, records=4, kills=1, mortal="P", hoarders=("C",)
    ),
    "forwarding": lambda: two_channels("forwarding", records=2, kills=2),
    "forwarding, two threads": lambda: two_channels(
        "forwarding, two threads", records=2, kills=1, threads=True
    ),
}

"""Parking: no wake-up is lost, though a message needs no fence.

Producers send numbered records through rings of one slot to a consumer that sleeps in one of
three ways: in park(), among several endpoints, or as a poller at a descriptor. Stores are
buffered. Sleeping has no timeout: in C it has one of half a second, which would hide a lost
wake-up for that long, and a poller has none in C either.

    word      2 n: free for record n      2 n + 1: record n is in it
    pipe      1: there are bytes in it. Reading and writing it takes the kernel's lock of it
    pidfd     the process whose end also makes the descriptor readable
    taken     how many records the consumer has received  } ghosts, which only
    way       which process has published and not yet woken the other side  } the properties
    outside   the poller is outside of all calls          } look at
    calm      None; or, if nothing was to be done or on its way since the call began: the dead then

`park`, `wait_any`, `bell`, `recover` and `endpoint` mirror the C sources of these names, on the
words that `words` describes. `here`, `among` and `poller` are the three kinds of models, each with
its controls, and `processes` has what they have in common.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import among, bell, endpoint, here, park, poller, recover, wait_any

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..explorer import Model

__all__ = ["CONTROLS", "MIRRORS", "MODELS"]

MODELS: dict[str, Callable[[], Model]] = here.MODELS | among.MODELS | poller.MODELS
CONTROLS: dict[str, Callable[[], Model]] = here.CONTROLS | among.CONTROLS | poller.CONTROLS
MIRRORS = (
    *park.MIRRORS,
    *bell.MIRRORS,
    *wait_any.MIRRORS,
    *recover.MIRRORS,
    *endpoint.MIRRORS,
)

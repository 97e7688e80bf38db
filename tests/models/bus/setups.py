"""Models of those who use a bus, put together."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..explorer import Model, Process
from .processes import accounted, begins_rightly, buries, listens, the_last, writes
from .reclaim import bus_tidy
from .words import SENT, Bus, shared

# Words that concern one process at a time, unless a model is about them.
QUIET = frozenset(
    {
        *("bus", "intent", "from", "letting", "payload", "head", "laggard", "fences", "used"),
        *("flags", "active", "polled", "parked", "holder", "joined", "lost", "lost_from"),
        *("lost_to", "waiters", "turns", "sleepers", "turn", "passed", "start"),
    }
)
# A death between two of their stores is another than one before both.
TELLING = frozenset({"bus", "intent", "from", "letting"})


def begun(capacity: int, posted: int) -> dict[Any, Any]:
    """Return the memory of a bus on which so many were posted, and the last ones are there."""
    floor = max(posted - capacity, 0)
    memory: dict[Any, Any] = {("posted",): posted, ("head",): posted}
    memory |= {("floor",): floor, ("settled",): floor, ("swept",): floor}
    for p in range(floor, posted):
        memory["slot", p % capacity] = (p, p % capacity)
        memory["tag", p % capacity] = (SENT, p)
    return memory


def log(
    name: str,
    *,
    counts: tuple[int, ...] = (),
    listeners: str = "L",
    lossy: str = "",
    keeps: str = "",
    late: str = "",
    absent: str = "",
    tidies: str = "",
    total: int = 0,
    asks: int = 0,
    blocks: int = 3,
    kills: int = 0,
    mortal: str = "",
    keepers: str = "",
    tso: bool = False,
    about: tuple[str, ...] = (),
    memory: dict[Any, Any] | None = None,
    instead: tuple[tuple[str, Any], ...] = (),
    **how: Any,
) -> Model:
    """Build a model: V, W and so on post so many messages each, to listeners L, M and so on.

    Those of `keeps` hold one message back, those that come late ask for so many of the history,
    and those that are absent never come. Those of `tidies` free what is not needed, once. Listeners
    receive `total` messages, or all.
    """
    writers = tuple("VWU"[: len(counts)])
    names = (*writers, *listeners, *tidies, *keepers)
    bus = Bus("", listeners=tuple(listeners), words=1 + bool(keeps), instead=instead, **how)
    total = total or sum(counts) + (memory or {}).get(("posted",), 0)

    def of(me: str) -> Bus:
        return bus._replace(me=me, others=tuple(n for n in listeners if n != me))

    processes = [
        Process(w, partial(writes, of(w), count), w in mortal)
        for w, count in zip(writers, counts, strict=True)
    ]
    for n in listeners:
        if n in absent:
            continue
        given = (total, int(n in keeps), n in lossy, n in late, asks)
        processes.append(Process(n, partial(listens, of(n), *given), n in mortal))
    processes += [Process(t, partial(bus_tidy, of(t))) for t in tidies]
    processes += [Process(k, partial(buries, of(k)), k in mortal) for k in keepers]
    words = shared(bus, names, blocks=blocks, lossy=tuple(lossy), late=tuple(late + absent))
    words |= {("recovered", n): False for n in (*mortal,)}
    words |= memory or {}
    quiet = QUIET - frozenset(about)
    quiet -= frozenset({"passed"} if not bus.patient else ())
    quiet -= frozenset({"active", "holder", "joined", "lost"} if late or kills or absent else ())
    return Model(
        f"bus, {name}",
        tuple(processes),
        words,
        always=partial(begins_rightly, bus=bus),
        last=partial(the_last, of("last")._replace(others=(), instead=()), tuple(mortal)),
        finally_=partial(accounted, bus=bus, total=total),
        kills=kills,
        tso=tso,
        private=quiet,
        inert=quiet - TELLING,
    )

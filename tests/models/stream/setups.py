"""Models of a writer and a reader, and of their successors, put together."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..explorer import Model, Process, nothing_wrong
from ..park.words import Endpoint
from .poller import is_told, nobody_waits, polls
from .reader import gives_up, reads, watches
from .words import READER, WRITER, StreamEndpoint, X, shared
from .writer import writes

if TYPE_CHECKING:
    from ..steps import View


def all_is_read(view: View, total: int) -> str | None:
    """Check that if all live, the reader has come as far as the writer, and both to the end."""
    at = view["position", WRITER], view["position", READER]
    return None if at == (total, total) else f"it ends at {at} of {total}"


def no_end(_: View, total: int) -> str | None:
    """Accept any end: nobody reads the rest."""
    return None


def stream(
    name: str,
    *,
    total: int,
    capacity: int = 2,
    backlog: int = 0,
    overwrite: bool = False,
    copies: bool = False,
    portions: tuple[int, ...] = (1, 2),
    wants: tuple[tuple[int, int], ...] = ((1, 1),),
    fences: bool = False,
    kills: int = 0,
    mortal: str = "",
    after: str = "",
    claims: bool = False,
    tso: bool = True,
    writer: dict[str, Any] | None = None,
    reader: dict[str, Any] | None = None,
    instead: tuple[tuple[str, Any], ...] = (),
    poller: str = "",
    ends: Any = all_is_read,
) -> Model:
    """Build a model: W writes to R; those of `mortal` may be killed, the `poller` polls.

    Those of `after` or `mortal` have a successor. If the first two claim their sides, they may be
    killed while they do.
    """
    after = after or mortal
    polling = None
    names = ("W", "R", *(f"{who}2" for who in after))
    processes = []
    for who in names:
        side = WRITER if who[0] == "W" else READER
        others = tuple(name for name in names if name[0] != who[0])
        base = Endpoint(X, side, who, others, fences)
        polled = poller not in ("", who[0])
        e = StreamEndpoint(base, capacity, backlog, overwrite, copies, polled, instead)
        how: dict[str, Any] = {"after": who[0] if len(who) > 1 else "", "claims": claims}
        how |= (writer if side == WRITER else reader) or {}
        if who[0] == poller:
            polling = e
            body = partial(polls, e, total, **how)
        elif side == WRITER:
            body = partial(writes, e, total, portions, **how)
        else:
            body = partial(reads, e, total, wants, **how)
        processes.append(Process(who, body, who in mortal))
    memory = shared(names, capacity + backlog, None if claims else ("W", "R"))
    if polling is not None:
        memory["pipe", X, polling.side] = 0
    return Model(
        f"stream, {name}",
        tuple(processes),
        memory,
        always=partial(is_told, polling) if polling else nothing_wrong,
        finally_=partial(nobody_waits, polling) if polling else partial(ends, total=total),
        kills=kills,
        tso=tso,
        private=frozenset({"watched"}),
    )


GIVES_UP: dict[str, Any] = {
    "total": 1,
    "capacity": 3,
    "portions": (1,),
    "wants": ((2, 2),),
    "writer": {"stays": True},
    "reader": {"waits": gives_up, "stays": True},
}


def reset_at(*positions: int, **how: Any) -> dict[str, Any]:
    how = {"total": 3, "portions": (1, 2), "wants": ((1, 2),)} | how
    return how | {"writer": {"resets": positions}}


# Of an overwriting stream: a call that mixed items of both sides would find the ring full.
RESET_BETWEEN = reset_at(
    3, total=4, portions=(1,), wants=((2, 2),), reader={"waits": watches}, tso=False
)

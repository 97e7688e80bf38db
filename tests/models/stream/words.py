"""The words of a stream, what its holders keep in private memory, and what calls deliver."""

from __future__ import annotations

from functools import partial, wraps
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ..park.words import (
    AWAKE,
    CLOSED,
    CONSUMER,
    DIED,
    NEVER,
    OPEN,
    PRODUCER,
    Bell,
    Endpoint,
    has_told,
    telling,
)
from ..steps import Step, Violation, compiler_fence, full_fence, get, when

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..steps import Steps, View

X = "X"
WRITER, READER = PRODUCER, CONSUMER
WOULD_BLOCK = "would block"
NONE = -1


class StreamEndpoint(NamedTuple):
    """One side of a stream: what does not change while it is held."""

    base: Endpoint
    capacity: int
    backlog: int = 0
    overwrite: bool = False
    copies: bool = False  # its windows are copies: the ring is not mapped twice
    polled: bool = False  # the other side polls: how far a waker has come is noted
    instead: tuple[tuple[str, Any], ...] = ()  # mistakes, in place of the functions of these names

    @property
    def side(self) -> int:
        """Which side it is."""
        return int(self.base.side)

    @property
    def cells(self) -> int:
        """Return how many items the ring has room for."""
        return self.capacity + self.backlog


class Own(NamedTuple):
    """Mirrors what changes in struct stream_endpoint."""

    position: int = 0
    seen: int = 0
    watermark: int = 1
    need: int = 1
    lost: int = 0
    dropped: int = 0  # by resets; nothing in C counts these
    overtaken: int = 0
    window: int = NONE  # the position where the open window begins
    bell: Bell | None = None


Body = TypeVar("Body", bound="Callable[..., Any]")


def replaceable(function: Body) -> Body:
    """Let a control put a mistake in the place of a function."""

    @wraps(function)
    def call(e: StreamEndpoint, *arguments: Any, **more: Any) -> Any:
        instead = dict(e.instead).get(function.__name__, function)
        return instead(e, *arguments, **more)

    return call  # type: ignore[return-value]


# Steps --------------------------------------------------------------------------------------------


def atomic_thread_fence(order: str) -> Step:
    """Mirror C's: an acquire fence is nothing on x86."""
    return full_fence() if order == "seq_cst" else compiler_fence()


def publishing(e: StreamEndpoint, *more: tuple[Any, Any]) -> Any:
    """Return the ghosts of a store after which the other side may have to be woken."""
    return (*(telling(e.base.me) if e.polled else ()), *more)


def has_notified(e: StreamEndpoint) -> Steps:
    if e.polled:
        yield when("has told", has_told, e.base.me)


# What calls deliver -------------------------------------------------------------------------------


def from_ring(e: StreamEndpoint, first: int, count: int) -> Steps:
    found: tuple[int, ...] = ()
    while len(found) < count:
        found = (*found, (yield get(("cell", (first + len(found)) % e.cells))))
    return found


def compare(e: StreamEndpoint, first: int, found: tuple[int, ...]) -> None:
    """Check that each item is the one that was written for its position."""
    right = tuple(range(first, first + len(found)))
    if found != right:
        raise Violation(f"{e.base.me} gets {found} where {right} was written")


def reset_until(view: View) -> Any:
    """Return below which position everything was dropped, by resets that have returned."""
    return {}, view["reset",]


def dropped_rightly(view: View, first: int, end: int, known: int) -> Any:
    if first < known:
        return {}, f"the call began after a reset at {known} and delivers {first}"
    mixed = [r for r in view["resets",] if first < r < end]
    if mixed:
        return {}, f"one call delivers {first} to {end - 1}, and a reset stood at {mixed[0]}"
    return {}, ""


def delivered(e: StreamEndpoint, first: int, end: int, known: int) -> Steps:
    """Check a call's items against the resets; `known` had returned when the call began."""
    fault = yield when("compares with the resets", dropped_rightly, first, end, known)
    if fault:
        raise Violation(f"{e.base.me}: {fault}")


# Memory -------------------------------------------------------------------------------------------


def shared(names: tuple[str, ...], cells: int, holders: tuple[str, str] | None) -> dict[Any, Any]:
    """Return a new stream, with or without holders."""
    memory: dict[Any, Any] = {"lock": 0, ("fences",): 0, ("flags", X): 0}
    memory |= {("cut",): 0, ("base",): 0, ("floor",): 0}
    for side in (WRITER, READER):
        memory |= {("position", side): 0, ("wanted", side): 0, ("parked", X, side): AWAKE}
        memory["holder", X, side] = (OPEN, holders[side]) if holders else (NEVER, None)
        memory["pipe", X, side] = 1  # no bell: a ring changes nothing
    memory |= {("cell", i): NONE for i in range(cells)}
    memory |= {("alive", name): True for name in names}
    memory |= {("knock", name): 0 for name in names}
    # Ghosts.
    memory |= {("way", name): False for name in names}
    memory |= {("ended", name): False for name in names}
    memory |= {("watched",): None, ("pidfd",): None, ("calm",): None, ("outside",): 0}
    return memory | {("reset",): 0, ("resets",): ()}


def is_missed(side: int, view: View) -> bool:
    """Return whether a death may have kept a sleeper from being woken.

    In C each sleep ends after half a second, which would hide a lost wake-up among the living.
    Here it ends only if a dead process has the lock or a side, or may have taken the word.
    """
    dead = {name[1] for name in view.names("alive") if not view[name]}
    if not dead:
        return False
    if view["parked", X, side] == AWAKE or view["lock"] in dead:
        return True
    return any(view["holder", X, s][1] in dead for s in (WRITER, READER))


MISSED = (partial(is_missed, WRITER), partial(is_missed, READER))


def is_over(state: str) -> bool:
    return state in (CLOSED, DIED)


def is_ready_now(view: View, e: StreamEndpoint, watermark: int) -> bool:
    if is_over(view["holder", X, 1 - e.side][0]):
        return True
    written, released = view["position", WRITER], view["position", READER]
    if e.side == WRITER:
        if e.overwrite:
            return True
        return bool(released + e.capacity - written >= watermark)
    first = max(released, view["cut",])
    if e.overwrite:
        first = max(first, view["floor",], written - e.capacity)
    return bool(written - first >= watermark)

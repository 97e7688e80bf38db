"""The words that processes share, their endpoints, and what the operating system does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..steps import Step, View, choose, put_and, put_if, put_or

if TYPE_CHECKING:
    from ..steps import Steps


PRODUCER, CONSUMER = 0, 1
NEVER, OPEN, CLOSED, DIED = "never", "open", "closed", "died"
AWAKE, PARKED_HERE, PARKED_BELL, PARKED_AMONG = "awake", "here", "bell", "among"
QUIET, ARMED, RUNG = "quiet", "armed", "rung"
GONE, DESERTED = 2, 4
INSIDE, CLOSING, SHUT = 1, 2, 4


class Endpoint(NamedTuple):
    """One side of a channel, and what its holder knows."""

    channel: str
    side: Any  # or the entry of a reader, which is a seat of its own
    me: str
    others: tuple[str, ...]  # the processes that a membarrier interrupts
    fences: bool = False  # membarrier is refused, and wakers know it
    shared: bool = False  # another thread may close it
    removable: bool = False
    poor: bool = False  # once, no descriptor is left for the bell


class Bell(NamedTuple):
    """Mirrors struct own_bell."""

    state: str = QUIET
    due: bool = False


# Steps of the operating system and of private words -----------------------------------------------


def os_pipe_ring(channel: str, side: int) -> Step:
    return Step("exchange", ("pipe", channel, side), 1)


def os_pipe_clear(channel: str, side: int) -> Step:
    return Step("exchange", ("pipe", channel, side), 0)


def os_pipe_clear_soon(channel: str, side: int) -> Steps:
    """Clear the byte that is on its way, or time out before it comes."""
    if (yield choose(True, False)):
        yield os_pipe_clear(channel, side)


atomic_fetch_or, atomic_fetch_and = put_or, put_and
atomic_compare_exchange_strong = put_if


def tells(_: View, me: str) -> Any:
    return dict(telling(me)), None


def has_told(_: View, me: str) -> Any:
    return {("way", me): False}, None


def telling(me: str) -> tuple[tuple[Any, Any], ...]:
    """Return the ghosts of a store after which the other side is to be woken."""
    return ((("way", me), True), (("calm",), None))


def claiming(me: str) -> tuple[tuple[Any, Any], ...]:
    """Return the ghosts of the store that claims."""
    return ((("way", me), "claims"), (("calm",), None))


def ask_alive(view: View, who: str) -> Any:
    return {}, view["alive", who]


def shared(channels: str, names: tuple[str, ...], producer: Any) -> dict[Any, Any]:
    memory: dict[Any, Any] = {"lock": 0, ("fences",): 0, ("use",): 0, ("closings",): 0}
    memory |= {("knock", "consumer"): 0, ("outside",): False, ("calm",): None, ("taken",): 0}
    memory |= {("watched",): None, ("pidfd",): None}
    for channel in channels:
        memory |= {("word", channel): 0, ("flags", channel): 0, ("pipe", channel, CONSUMER): 0}
        memory |= {("parked", channel, side): AWAKE for side in (PRODUCER, CONSUMER)}
        memory["holder", channel, PRODUCER] = producer
        memory["holder", channel, CONSUMER] = (OPEN, "consumer")
    memory |= {("alive", name): True for name in names}
    return memory | {("way", name): False for name in names}


# For the tie to C: pointers to words, and what else is followed there.
PARKED = (("word", "parked"),)
ATOMICS = frozenset(
    {"atomic_fetch_or", "atomic_fetch_and", "atomic_compare_exchange_strong", "ready"}
)
SYSTEM = frozenset({"os_pipe_ring", "os_pipe_clear", "os_pipe_clear_soon", "os_futex_wait_any"})

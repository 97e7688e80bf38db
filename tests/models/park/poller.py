"""*Bell*: a consumer polls, producers may be killed, a process removes the channel."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from ..explorer import Model, Process, nothing_wrong
from ..steps import (
    View,
    Violation,
    choose,
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    put,
    put_exchange,
    put_release,
    when,
)
from .bell import arm, bell_bring_in_line, ring_self
from .endpoint import claim, ipcheap_remove_channel, side_taken
from .park import bell_disarm, bell_ring, endpoint_ready, park, side_end, sleeper_fence, unpark
from .processes import notify_without_a_fence, sends
from .recover import recover_if_dead
from .words import (
    ARMED,
    AWAKE,
    CLOSED,
    CONSUMER,
    DIED,
    GONE,
    NEVER,
    OPEN,
    PARKED_BELL,
    PRODUCER,
    QUIET,
    RUNG,
    Bell,
    Endpoint,
    claiming,
    has_told,
    os_pipe_ring,
    shared,
    telling,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..steps import Steps


# What must hold of the descriptor -----------------------------------------------------------------


def is_readable(view: View, channel: str) -> bool:
    watched = view["pidfd",]
    return bool(view["pipe", channel, CONSUMER]) or (
        watched is not None and not view["alive", watched]
    )


def is_ready_now(view: View, channel: str) -> bool:
    if view["word", channel] == 2 * view["taken",] + 1 or view["flags", channel] & GONE:
        return True
    return view["holder", channel, PRODUCER][0] in (CLOSED, DIED)


def on_the_way(view: View) -> bool:
    return any(view[name] and view["alive", name[1]] for name in view.names("way"))


def is_told(view: View) -> str | None:
    """Check that a ready endpoint's descriptor is readable, or a living process about to ring."""
    if not view["outside",] or not is_ready_now(view, "X"):
        return None
    if is_readable(view, "X") or on_the_way(view):
        return None
    return "it is ready, the descriptor is not readable, and nobody is on the way"


def nobody_waits(view: View) -> str | None:
    """Check that in the end a poller waits only if nothing is to be done and nobody has died."""
    state, who = view["holder", "X", PRODUCER]
    if not view["outside",] or is_readable(view, "X"):
        return None
    if is_ready_now(view, "X"):
        return "the poller sleeps indefinitely"
    # A claimant killed before it has woken the poller is noticed by the next claimant.
    dead = state == OPEN and not view["alive", who] and view["way", who] != "claims"
    return "the poller is not notified of a death" if dead else None


# The poller ---------------------------------------------------------------------------------------


def goes_out(view: View, channel: str) -> Any:
    """Leave a call: if nothing was to be done, nor on its way, the descriptor is not readable."""
    dead = view["calm",]
    left = view["pipe", channel, CONSUMER] or view["pidfd",] in (dead or ())
    if dead is not None and left and not is_ready_now(view, channel):
        return {}, "nothing is to be done, but the descriptor stays readable"
    return {("outside",): True}, None


def comes_in(view: View, channel: str, way: str) -> Any:
    if way == "polls" and not is_readable(view, channel):
        return None
    calm = not is_ready_now(view, channel) and not on_the_way(view)
    dead = tuple(name for _, name in view.names("alive") if not view["alive", name])
    return {("outside",): False, ("calm",): dead if calm else None}, None


def not_died(view: View, channel: str) -> Any:
    return None if view["holder", channel, PRODUCER][0] == DIED else ({}, None)


def receives(e: Endpoint, n: int, records: int) -> Steps:
    """Return "a record", "nothing", or the kind of end."""
    word = yield get_acquire(("word", e.channel))
    if word != 2 * n + 1:
        if e.removable and (yield get(("flags", e.channel))) & GONE:
            return "removed"
        state, _ = yield get_acquire(("holder", e.channel, PRODUCER))
        if state not in (CLOSED, DIED):
            return "nothing"
        word = yield get_acquire(("word", e.channel))
        if word != 2 * n + 1:
            if state == CLOSED and n != records:
                raise Violation(f"the end came after {n} of {records} records")
            return state
    yield put_release(("word", e.channel), 2 * n + 2, ((("taken",), n + 1),))
    return "a record"


def polls(
    e: Endpoint,
    records: int,
    ways: tuple[str, ...] = ("polls", "calls without polling"),
    settles: Any = bell_bring_in_line,
) -> Steps:
    """Call when the descriptor is readable, and sometimes when it is not."""
    n = 0
    b, _ = yield from settles(e, n, Bell())
    while True:
        fault = yield when("goes outside", goes_out, e.channel)
        if fault:
            raise Violation(fault)
        way = yield choose(*ways)
        yield when(way, comes_in, e.channel, way, rest=True)
        if way == "parks":
            b = yield from park(e, n, b)
            b, _ = yield from settles(e, n, b)
        while True:
            found = yield from receives(e, n, records)
            if found in (CLOSED, "removed"):
                return
            if found == DIED:
                yield when("waits for the next producer", not_died, e.channel, rest=True)
            n += found == "a record"
            b, again = yield from settles(e, n, b)
            if not again or found == "a record":
                break


def removes(e: Endpoint) -> Steps:
    yield from ipcheap_remove_channel(e)
    yield when("has told", has_told, e.me)


def bell(
    name: str,
    *,
    records: int = 2,
    fences: bool = False,
    kills: int = 0,
    claims: bool = False,
    poor: bool = False,
    remover: bool = False,
    producer: dict[str, Any] | None = None,
    **how: Any,
) -> Model:
    """Build the model: a consumer polls; the producer and its successor may be killed."""
    fences = fences or bool(kills)
    names = (
        "producer",
        "consumer",
        *(("successor",) if kills else ()),
        *(("remover",) if remover else ()),
    )
    others = tuple(n for n in names if n != "consumer")
    into = Endpoint("X", CONSUMER, "consumer", others, fences, removable=remover)
    out = Endpoint("X", PRODUCER, "producer", (), fences, removable=remover, poor=poor)
    send = partial(sends, records=records, **(producer or {}))
    processes = [
        Process("producer", partial(send, out, claims=claims), bool(kills)),
        Process("consumer", partial(polls, into, records, **how)),
    ]
    if kills:
        after = partial(send, out._replace(me="successor"), after="producer")
        processes.append(Process("successor", after, True))
    if remover:
        processes.append(Process("remover", partial(removes, out._replace(me="remover"))))
    memory = shared("X", names, (NEVER, None) if claims else (OPEN, "producer"))
    return Model(
        f"park, {name}",
        tuple(processes),
        memory,
        always=is_told if not poor else nothing_wrong,
        finally_=nobody_waits,
        kills=kills,
        private=frozenset({"watched"}),
        tso=not kills,  # only models without deaths have buffers
    )


# What must fail -----------------------------------------------------------------------------------


def notify_ringing_first(e: Endpoint, pull: str = "") -> Steps:
    yield compiler_fence()
    if (yield get(("parked", e.channel, 1 - e.side))) == PARKED_BELL:
        yield from bell_ring(e.channel, 1 - e.side, pull)
        yield put_exchange(("parked", e.channel, 1 - e.side), AWAKE)


def notify_giving_up(e: Endpoint, pull: str) -> Steps:
    """Leave the word taken if there was no descriptor to ring with."""
    yield compiler_fence()
    yield put_exchange(("parked", e.channel, 1 - e.side), AWAKE)


def settle_without_looking_again(e: Endpoint, n: int, b: Bell) -> Steps:
    if (yield from endpoint_ready(e, n)):
        return (yield from ring_self(e, b)), False
    return (yield from arm(e, b, emptied=False)), False


def settle_without_a_barrier(e: Endpoint, n: int, b: Bell) -> Steps:
    return (yield from bell_bring_in_line(e._replace(others=()), n, b))


def arm_without_emptying(e: Endpoint, b: Bell, emptied: bool) -> Steps:
    yield from bell_disarm(e, b)
    yield put(("parked", e.channel, e.side), PARKED_BELL)
    yield from sleeper_fence(e)
    return Bell(ARMED)


def no_late_byte(e: Endpoint, b: Bell) -> Steps:
    yield from ()
    return False


def peer_not_watched(e: Endpoint) -> Steps:
    yield from ()
    return False


def ring_self_unless_due(e: Endpoint, b: Bell) -> Steps:
    b = yield from bell_disarm(e, b)
    if b.state == QUIET:
        yield os_pipe_ring(e.channel, e.side)
    return b._replace(state=RUNG)


def recover_without_ringing(channel: str, side: int, dead: str, me: str) -> Steps:
    yield put(("parked", channel, side), AWAKE, telling(me))
    yield from side_end(channel, side, DIED, me)


def claim_without_ringing(e: Endpoint) -> Steps:
    yield from side_taken(e, e.side)
    yield put_release(("holder", e.channel, e.side), (OPEN, e.me), claiming(e.me))
    yield full_fence()
    yield from unpark(e.channel, 1 - e.side)


def claim_recovering_without_ringing(e: Endpoint) -> Steps:
    silent = partial(recover_if_dead, side_recover=recover_without_ringing)
    yield from claim(e, side_taken=partial(side_taken, recover_if_dead=silent))


def settling(**how: Any) -> Any:
    return partial(bell_bring_in_line, **how)


MODELS: dict[str, Callable[[], Model]] = {
    "bell": lambda: bell("bell"),
    "bell, fences": lambda: bell("bell, fences", fences=True),
    "bell, a poller that also parks": lambda: bell("bell", ways=("polls", "parks")),
    "bell, wakers die": lambda: bell("bell, wakers die", kills=1, records=1, ways=("polls",)),
    "bell, two claimants die": lambda: bell(
        "bell, two claimants die",
        kills=2,
        records=0,
        claims=True,
        ways=("polls",),
        producer={"stays": True},
    ),
    "bell, a claimant dies": lambda: bell(
        "bell, claims",
        kills=1,
        records=1,
        claims=True,
        ways=("polls",),
        producer={"stays": True},
    ),
    "bell, removed": lambda: bell(
        "bell, removed", remover=True, records=1, ways=("polls",), producer={"stays": True}
    ),
    "bell, no descriptor left": lambda: bell("bell, poor", records=1, poor=True),
}

CONTROLS: dict[str, Callable[[], Model]] = {
    "bell: no membarrier": lambda: bell("control", settles=settle_without_a_barrier),
    "bell: no fence on the waker's side": lambda: bell(
        "control", fences=True, producer={"notifies": notify_without_a_fence}
    ),
    "bell: not looking again after arming": lambda: bell(
        "control", settles=settle_without_looking_again
    ),
    "bell: rung before the word is taken": lambda: bell(
        "control", producer={"notifies": notify_ringing_first}
    ),
    "bell: settled without emptying the pipe": lambda: bell(
        "control", settles=settling(arm=arm_without_emptying, has_late_byte=no_late_byte)
    ),
    "bell: a late byte left in the pipe": lambda: bell(
        "control", settles=settling(has_late_byte=no_late_byte)
    ),
    "bell: the peer's process not watched": lambda: bell(
        "control", kills=1, settles=settling(peer_is_lost=peer_not_watched)
    ),
    "bell: a due byte relied upon": lambda: bell(
        "control", kills=1, records=1, settles=settling(ring_self=ring_self_unless_due)
    ),
    "bell: the byte of a dead predecessor relied upon": lambda: bell(
        "control",
        kills=1,
        records=1,
        ways=("polls",),
        producer={"claim": claim_without_ringing},
    ),
    "bell: the byte of a recovered claimant relied upon": lambda: bell(
        "control",
        kills=2,
        records=0,
        claims=True,
        ways=("polls",),
        producer={"claim": claim_recovering_without_ringing, "stays": True},
    ),
    "bell: no descriptor, and the word not restored": lambda: bell(
        "control", records=1, poor=True, producer={"notifies": notify_giving_up}
    ),
}

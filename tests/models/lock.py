"""The heap lock: one word, taken over from the dead, rebuilt before use, no wake-up lost.

Members take the lock and change a structure; some are killed, anywhere. A newcomer takes the
slot of a dead member, in the next generation, as participant_join() does. Sleeping times out
only after a death: among the living no wake-up may be lost.

    lock        0, or (waiters, generation, slot)
    structure   "sound", or the name of the member that is changing it
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from .explorer import Model, Process
from .mirror import Mirror
from .steps import (
    Step,
    View,
    Violation,
    get,
    get_acquire,
    os_futex_wait,
    os_futex_wake,
    put,
    put_exchange,
    put_if,
    put_release,
    when,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .steps import Steps

    Word = tuple[int, int, int]


class Member(NamedTuple):
    """A participant."""

    name: str
    slot: int
    generation: int

    @property
    def lock_word(self) -> Word:
        """The lock's word while this member holds it."""
        return (0, self.generation, self.slot)


WAITERS = 1


def waited(word: Word) -> Word:
    return (WAITERS, *word[1:])


# What the system does ----------------------------------------------------------------------------


def somebody_died(view: View) -> bool:
    return not all(view[name] for name in view.names("alive"))


def sleep_on(seen: Word) -> Step:
    return os_futex_wait("lock", seen, timed=somebody_died)


def wake_one() -> Step:
    return os_futex_wake("lock")


def byte_is_locked(view: View, slot: int) -> Any:
    return {}, view[("alive", view[("byte", slot)])]


def take_byte(view: View, slot: int, name: str) -> Any:
    locked = view[("alive", view[("byte", slot)])]
    return None if locked else ({("byte", slot): name}, None)


# The lock ----------------------------------------------------------------------------------------


def lock_owner_alive(word: Word) -> Steps:
    _, generation, slot = word
    current = yield get_acquire(("slot", slot))
    if current != generation:
        return False
    return (yield when(f"is byte {slot} locked?", byte_is_locked, slot))


def try_lock(mine: Word) -> Steps:
    return (yield put_if("lock", 0, mine)) == 0


def lock_is_lost(me: Member, word: Word) -> Steps:
    # Our own word although we do not hold the lock: only a corrupted heap contains that.
    return word[1:] == me.lock_word[1:] or not (yield from lock_owner_alive(word))


def lock_slowly(me: Member) -> Steps:
    """Return whether the lock was taken over from a dead owner."""
    while True:
        seen = yield get("lock")
        if seen == 0:
            if (yield put_if("lock", seen, waited(me.lock_word))) == seen:
                return False
            continue
        if seen[0] != WAITERS:
            if (yield put_if("lock", seen, waited(seen))) != seen:
                continue
            seen = waited(seen)
        result = yield sleep_on(seen)
        seen = yield get("lock")
        if seen != 0 and result == "timed out" and (yield from lock_is_lost(me, seen)):
            if (yield put_if("lock", seen, waited(me.lock_word))) != seen:
                continue
            return True


def rebuild(me: Member) -> Steps:
    yield put("structure", me.name)
    yield put("structure", "sound")


def heap_lock(me: Member, lock_slowly: Any = lock_slowly) -> Steps:
    if (yield from try_lock(me.lock_word)):
        return
    if (yield from lock_slowly(me)):
        yield from rebuild(me)


def heap_unlock() -> Steps:
    seen = yield put_exchange("lock", 0)
    if seen[0] == WAITERS:
        yield wake_one()


MIRRORS = (
    Mirror("segment/lock.c", try_lock),
    Mirror("segment/lock.c", lock_slowly, calls=frozenset({"sleep_on"})),
    Mirror(
        "segment/lock.c",
        heap_lock,
        calls=frozenset({"rebuild"}),
        ignored=frozenset({"heap_unlock"}),
    ),
    Mirror("segment/lock.c", heap_unlock, calls=frozenset({"wake_one"})),
    Mirror("segment/lock.c", lock_owner_alive),
    Mirror("segment/lock.c", lock_is_lost),
)


# The processes -----------------------------------------------------------------------------------


def change(me: Member) -> Steps:
    """Change the structure, under the lock and alone; it must be sound."""
    found = yield get("structure")
    if found != "sound":
        raise Violation(f"{me.name} uses what {found} left half changed")
    yield put("structure", me.name)
    found = yield get("structure")
    if found != me.name:
        raise Violation(f"{me.name} and {found} have the lock at the same time")
    yield put("structure", "sound")


def member(me: Member, times: int, lock: Any = heap_lock, unlock: Any = heap_unlock) -> Steps:
    for _ in range(times):
        yield from lock(me)
        yield from change(me)
        yield from unlock()


def newcomer(me: Member, lock: Any = heap_lock, unlock: Any = heap_unlock) -> Steps:
    """Mirror participant_join() in a dead member's slot; the member is recovered under the lock."""
    yield when(f"takes byte {me.slot}", take_byte, me.slot, me.name, rest=True)
    yield put_release(("slot", me.slot), me.generation)
    yield from lock(me)
    yield from change(me)
    yield from unlock()


def model(
    name: str,
    *,
    members: int = 3,
    times: int = 1,
    kills: int = 0,
    mortal: int = 0,
    reuse: bool = False,
    **how: Any,
) -> Model:
    memory: dict[Any, Any] = {"lock": 0, "structure": "sound"}
    processes = []
    for slot in range(members):
        me = Member("ABC"[slot], slot, 1)
        memory[("slot", slot)] = me.generation
        memory[("byte", slot)] = me.name
        memory[("alive", me.name)] = True
        processes.append(Process(me.name, partial(member, me, times, **how), slot < mortal))
    if reuse:
        memory["alive", "N"] = True
        body = partial(newcomer, Member("N", 0, 2), **how)
        processes.append(Process("N", body, mortal > 1))
    return Model(f"lock, {name}", tuple(processes), memory, finally_=is_free, kills=kills)


def is_free(view: View) -> str | None:
    """Only a dead member may have left the lock taken when all the living are done."""
    if view["lock"] == 0:
        return None
    _, generation, slot = view["lock"]
    holder = view["byte", slot]
    taken = view["alive", holder] and view["slot", slot] == generation
    return f"{holder} has ended with the lock" if taken else None


# What must fail ----------------------------------------------------------------------------------


def take_over_without_rebuilding(me: Member) -> Steps:
    if not (yield from try_lock(me.lock_word)):
        yield from lock_slowly(me)


def unlocked_by_a_store() -> Steps:
    seen = yield get("lock")
    yield put("lock", 0)
    if seen[0] == WAITERS:
        yield wake_one()


def had_or_slept(mine: Word) -> Steps:
    """Do as lock_slowly() does until it wakes; return "had", or how it woke."""
    while True:
        seen = yield get("lock")
        if seen == 0:
            if (yield put_if("lock", seen, mine)) == seen:
                return "had"
            continue
        if seen[0] != WAITERS:
            if (yield put_if("lock", seen, waited(seen))) != seen:
                continue
            seen = waited(seen)
        return (yield sleep_on(seen))


def lock_forgetting_others(me: Member) -> Steps:
    if (yield from try_lock(me.lock_word)):
        return
    while (yield from had_or_slept(me.lock_word)) != "had":
        pass


def slowly_by_slot_alone(me: Member) -> Steps:
    while (result := (yield from had_or_slept(waited(me.lock_word)))) != "had":
        seen = yield get("lock")
        if seen == 0 or result != "timed out":
            continue
        alive = yield when(f"is byte {seen[2]} locked?", byte_is_locked, seen[2])
        if not alive and (yield put_if("lock", seen, waited(me.lock_word))) == seen:
            return True
    return False


def slowly_from_the_living(me: Member) -> Steps:
    while True:
        seen = yield get("lock")
        if seen == 0:
            if (yield put_if("lock", seen, waited(me.lock_word))) == seen:
                return False
            continue
        result = yield sleep_on(seen)
        if result == "timed out" and (yield put_if("lock", seen, waited(me.lock_word))) == seen:
            return True


def take_over_by_a_store(me: Member) -> Steps:
    if (yield from try_lock(me.lock_word)):
        return
    while (result := (yield from had_or_slept(waited(me.lock_word)))) != "had":
        seen = yield get("lock")
        if seen != 0 and result == "timed out" and not (yield from lock_owner_alive(seen)):
            yield put("lock", waited(me.lock_word))
            yield from rebuild(me)
            return


MODELS: dict[str, Callable[[], Model]] = {
    "three members": lambda: model("three members", times=2),
    "two are killed": lambda: model("two are killed", kills=2, mortal=2),
    "a slot is used again": lambda: model(
        "a slot is used again", members=2, kills=2, mortal=2, reuse=True
    ),
}

CONTROLS: dict[str, Callable[[], Model]] = {
    "taken over and not rebuilt": lambda: model(
        "control", kills=1, mortal=1, lock=take_over_without_rebuilding
    ),
    "taken over by a store": lambda: model("control", kills=1, mortal=1, lock=take_over_by_a_store),
    "unlocked by a load and a store": lambda: model("control", unlock=unlocked_by_a_store),
    "the flag forgotten after sleeping": lambda: model("control", lock=lock_forgetting_others),
    "liveness of the slot, not of its generation": lambda: model(
        "control",
        members=2,
        kills=1,
        mortal=1,
        reuse=True,
        lock=partial(heap_lock, lock_slowly=slowly_by_slot_alone),
    ),
    "taken from a living owner": lambda: model(
        "control", kills=1, mortal=1, lock=partial(heap_lock, lock_slowly=slowly_from_the_living)
    ),
}

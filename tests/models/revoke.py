"""Taking memory from a living participant that runs no fence: `busy` and membarrier.

Four protocols of one kind. Stores are buffered. The heap lock, which has a model of its own, is a
single step here; a slab has one block, and so one tag, except where it is shared.

    slab       an owner allocates and frees while another process takes its empty slab
    sharing    the same while it takes a slab of which the owner holds a block
    garbage    a producer collects its ring while another process collects it, by CHANNEL_REVOKED
    removal    a consumer receives while another process removes the channel, by CHANNEL_GONE
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from .explorer import Model, Process
from .mirror import Mirror
from .steps import (
    View,
    Violation,
    choose,
    compiler_fence,
    full_fence,
    get,
    get_acquire,
    os_membarrier,
    put,
    put_and,
    put_or,
    put_release,
    when,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from .steps import Steps

REVOKED, GONE = 1, 2
FREE, OWN, SENT = "FREE", "OWN", "SENT"
EMPTY, FULL, RELEASED = "EMPTY", "FULL", "RELEASED"


# The heap lock, in one step, also from a dead owner -----------------------------------------------


def lock_is_taken(view: View, me: str) -> Any:
    owner = view["lock"]
    if owner and view["alive", owner]:
        return None
    return {"lock": me}, None


def heap_lock(me: str) -> Steps:
    yield full_fence()
    yield when("takes the lock", lock_is_taken, me)


def heap_unlock() -> Steps:
    yield full_fence()
    yield put("lock", 0)
    yield full_fence()


# Inside and outside -------------------------------------------------------------------------------


def participant_enter() -> Steps:
    yield put(("busy",), 1)
    yield compiler_fence()


def participant_leave() -> Steps:
    yield put_release(("busy",), 0)


def participant_settled() -> Steps:
    """Look again any number of times, or give up."""
    while (yield get_acquire(("busy",))) != 0:
        if (yield choose("looks again", "gives up")) == "gives up":
            return False
    return True


# A slab -------------------------------------------------------------------------------------------


def slab_take(*, spoilt: bool = False) -> Steps:
    """Return whether the block was taken; a corrupted slab counts blocks that it does not have."""
    yield from participant_enter()
    owner = yield get(("owner",))
    if owner != "mine":
        yield from participant_leave()
        return False
    if spoilt:
        yield from participant_leave()
        return False
    yield put(("tags",), OWN)
    yield from participant_leave()
    return True


def slab_is_free() -> Steps:
    return (yield get_acquire(("tags",))) == FREE


def revoke(others: tuple[str, ...], has_free: Any = slab_is_free) -> Steps:
    """Return whether the slab was taken; under the lock."""
    owner = yield get(("owner",))
    if owner != "mine" or not (yield from has_free()):
        return False
    yield put(("revoked",), 1)
    yield put(("owner",), "being revoked")
    yield from os_membarrier(*others)
    quiet = yield from participant_settled()
    if quiet and (yield from has_free()):
        return True
    yield put(("owner",), "mine")
    return False


def extent_free() -> Steps:
    """Give the memory away, under the lock: from now on it may hold anything."""
    yield put("memory", "given away")


def revoke_empty(others: tuple[str, ...], revoke: Any = revoke) -> Steps:
    return (yield from revoke(others))


def slabs_revoke(others: tuple[str, ...], revoke: Any = revoke) -> Steps:
    if (yield from revoke_empty(others, revoke)):
        yield put(("owner",), 0)
        yield from extent_free()


def drop_if_revoked() -> Steps:
    if (yield get(("owner",))) == "mine":
        return True
    yield from heap_lock("owner")
    mine = (yield get(("owner",))) == "mine"
    yield from heap_unlock()
    return mine


def owns(times: int, take: Any = slab_take) -> Steps:
    """Allocate the one block and free it again, until the slab is found to be gone."""
    for _ in range(times):
        if not (yield from take()):
            if not (yield from drop_if_revoked()):
                return
            continue
        # The user writes to the block: the memory must not have been given away.
        if (yield get("memory")) != "a slab":
            raise Violation("the owner has a block of a slab that was given away")
        yield put(("tags",), FREE)


def revokes(times: int, others: tuple[str, ...] = ("owner",), revoke: Any = revoke) -> Steps:
    for _ in range(times):
        yield from heap_lock("revoker")
        yield from slabs_revoke(others, revoke)
        yield from heap_unlock()


def slab_model(name: str, times: int = 2, **how: Any) -> Model:
    take = {"take": how.pop("take")} if "take" in how else {}
    memory: dict[Any, Any] = {
        "lock": 0,
        ("busy",): 0,
        ("owner",): "mine",
        ("tags",): FREE,
        ("revoked",): 0,
        "memory": "a slab",
        ("alive", "owner"): True,
        ("alive", "revoker"): True,
    }
    processes = (
        Process("owner", partial(owns, times, **take), mortal=True),
        Process("revoker", partial(revokes, times, **how)),
    )
    return Model(f"revoke, {name}", processes, memory, always=one_place, kills=1, tso=True)


# A slab that is shared ----------------------------------------------------------------------------

BLOCKS = (0, 1)


def is_remote(block: int) -> Steps:
    return (yield get_acquire(("remote",))) >> block & 1


def any_free() -> Steps:
    for block in BLOCKS:
        if (yield get_acquire(("tags", block))) == FREE or (yield from is_remote(block)):
            return True
    return False


def collect_by_tags(free: frozenset[int]) -> Steps:
    """Add the blocks that their former owner freed in its own half."""
    for block in BLOCKS:
        if (yield get_acquire(("tags", block))) == FREE:
            free |= {block}
    return free


def collect(free: frozenset[int], collect_by_tags: Any = collect_by_tags) -> Steps:
    """Return the blocks that are known to be free, now with those that others have freed."""
    bits = yield get_acquire(("remote",))
    for block in BLOCKS:
        if bits >> block & 1 and block not in free:
            yield put_release(("tags", block), FREE)
            free |= {block}
    if bits:
        yield put_and(("remote",), ~bits)
    return (yield from collect_by_tags(free))


def slab_adopt(collect: Any) -> Steps:
    free: frozenset[int] = frozenset()
    yield put_release(("owner",), "taken")
    for block in BLOCKS:
        if (yield get(("tags", block))) == FREE:
            free |= {block}
    for block in BLOCKS:
        if block in free and (yield from is_remote(block)):
            yield put_and(("remote",), ~(1 << block))
    return (yield from collect(free))


def free_mine(block: int) -> Steps:
    yield put_release(("tags", block), FREE)


def slab_free(block: int) -> Steps:
    """Return whether the slab was still the owner's."""
    if (yield get(("owner",))) == "mine":
        yield from free_mine(block)
        return True
    yield put_or(("remote",), 1 << block)
    return False


def still_has(block: int, who: str) -> Steps:
    """Let the user write to the block: nobody else may have it."""
    if (yield get(("tags", block))) != who or (yield from is_remote(block)):
        raise Violation(f"the {who} has a block that another has, too")


def take_own(block: int) -> Steps:
    """Take a block as slab_take() does."""
    yield from participant_enter()
    mine = (yield get(("owner",))) == "mine"
    if mine:
        yield put(("tags", block), "owner")
    yield from participant_leave()
    return mine


def owns_shared(times: int, take: Any = take_own) -> Steps:
    """Hold block 0, and allocate and free whatever is free, as long as the slab is mine."""
    held: tuple[int, ...] = (0,)
    free: tuple[int, ...] = (1,)
    for _ in range(times):
        if free and (yield choose("allocates", "frees")) == "allocates":
            if (yield from take(free[0])):
                held, free = (*held, free[0]), free[1:]
            else:
                free = ()
        elif held:
            yield from still_has(held[0], "owner")
            if (yield get(("revoked",))) == 0:
                yield from free_mine(held[0])  # the private half is trusted
                free = (*free, held[0])
            elif (yield from slab_free(held[0])):
                free = (*free, held[0])
            held = held[1:]
    for block in held:
        yield from still_has(block, "owner")
        yield from slab_free(block)
    yield put("gone", 1)


def is_gone(view: View, _: str) -> Any:
    return ({}, None) if view["gone"] else None


def takes_shared(
    times: int,
    others: tuple[str, ...] = ("owner",),
    revoke: Any = revoke,
    collect: Any = collect,
) -> Steps:
    """Take the slab, and allocate and free in it; in the end every block must be found."""
    yield from heap_lock("revoker")
    taken = yield from revoke(others, any_free)
    free = (yield from slab_adopt(collect)) if taken else frozenset()
    yield from heap_unlock()
    for _ in range(times if taken else 0):
        if not free:
            free = yield from collect(free)
        if free:
            block = max(free)
            yield put(("tags", block), "revoker")
            yield from still_has(block, "revoker")
            yield from free_mine(block)
    yield when("waits for the end of the owner", is_gone, "owner")
    if taken:
        free = yield from collect(free)
        if free != frozenset(BLOCKS):
            raise Violation(f"only {len(free)} blocks are known to be free")


def sharing_model(name: str, times: int = 3, **how: Any) -> Model:
    take = {"take": how.pop("take")} if "take" in how else {}
    memory: dict[Any, Any] = {
        "lock": 0,
        ("busy",): 0,
        ("owner",): "mine",
        ("tags", 0): "owner",
        ("tags", 1): FREE,
        ("remote",): 0,
        ("revoked",): 0,
        "gone": 0,
        ("alive", "revoker"): True,
    }
    processes = (
        Process("owner", partial(owns_shared, times, **take)),
        Process("revoker", partial(takes_shared, 2, **how)),
    )
    return Model(f"revoke, {name}", processes, memory, tso=True)


def one_place(view: View) -> str | None:
    given_away = view["memory"] == "given away" and view[("tags",)] != FREE
    return "a block in use was given away" if given_away else None


# The garbage in a ring ----------------------------------------------------------------------------


def wait_for_collector() -> Steps:
    yield from heap_lock("producer")
    yield put_and(("flags",), ~REVOKED)
    yield from heap_unlock()


def enter_ring(wait_for_collector: Any = wait_for_collector) -> Steps:
    while True:
        yield from participant_enter()
        if not (yield get(("flags",))) & (REVOKED | GONE):
            return True
        yield from participant_leave()
        if (yield get(("flags",))) & GONE:
            return False
        yield from wait_for_collector()


def freed(view: View, position: int, who: str) -> Any:
    """Return the block that was sent as `position` to its slab."""
    if view["freed", position]:
        raise Violation(f"{who} frees again what the {view['freed', position]} has freed")
    return {("freed", position): who}, None


def collect_slot(position: int) -> Steps:
    """Free the block that came back, as the producer."""
    if (yield get(("tag",))) == (SENT, position - 1):
        yield put(("tag",), FREE)
        yield when("the block is free", freed, position - 1, "producer")


def ring_collect() -> Steps:
    """Collect a ring of one slot, as another process than its producer."""
    word = yield get_acquire(("word",))
    if word[0] != RELEASED:
        return
    if (yield get_acquire(("tag",))) in ((SENT, word[1] - 1), (SENT, word[1])):
        yield put(("tag",), FREE)
        yield when("the block is free", freed, word[1] - 1, "collector")
    yield put_release(("word",), (EMPTY, word[1]))


def collect_from_other(others: tuple[str, ...]) -> Steps:
    yield put_or(("flags",), REVOKED)
    yield from os_membarrier(*others)
    if (yield from participant_settled()):
        yield from ring_collect()
    yield put_and(("flags",), ~REVOKED)


def sends(laps: int, enter_ring: Any = enter_ring) -> Steps:
    """Collect, allocate, send in one slot; the consumer frees immediately, so it is RELEASED."""
    for position in range(1, laps + 1):
        yield from enter_ring()
        word = yield get_acquire(("word",))
        if word[0] == RELEASED:
            yield from collect_slot(position)
        # A double free leads to two users of one block.
        yield put(("tag",), OWN)
        if (yield get(("tag",))) != OWN:
            raise Violation("a block that the producer had was freed by another")
        yield put_release(("tag",), (SENT, position))
        yield put_release(("word",), (RELEASED, position + 1))
        yield from participant_leave()


def still_its_own(view: View, position: int) -> Any:
    """Check that what is sent again as `position` is still the producer's block."""
    if view["freed", position - 1]:
        raise Violation(f"what the {view['freed', position - 1]} has freed is sent again")
    return {}, None


def sends_again(laps: int, enter_ring: Any = enter_ring, looks: bool = True) -> Steps:
    """Send what comes back without freeing it, going by the slot as it was read a lap before."""
    word = yield get_acquire(("word",))
    for position in range(1, laps + 1):
        yield from enter_ring()
        again = word[0] == RELEASED
        if again and looks:
            again = (yield get(("tag",))) == (SENT, position - 1)
        if again:
            yield when("is it still its own?", still_its_own, position)
        else:
            yield put(("tag",), OWN)
        yield put(("tag",), (SENT, position))
        yield put_release(("word",), (RELEASED, position + 1))
        yield from participant_leave()
        word = (RELEASED, position + 1)


def collects(times: int, others: tuple[str, ...] = ("producer",), collect: Any = None) -> Steps:
    for _ in range(times):
        yield from heap_lock("collector")
        yield from (collect or collect_from_other)(others)
        yield from heap_unlock()


def garbage_model(
    name: str, laps: int = 3, times: int = 2, sends: Any = sends, **how: Any
) -> Model:
    entering = {"enter_ring": how.pop("enter_ring")} if "enter_ring" in how else {}
    memory: dict[Any, Any] = {
        "lock": 0,
        ("busy",): 0,
        ("flags",): 0,
        ("tag",): (SENT, 0),
        ("word",): (RELEASED, 1),
        ("alive", "producer"): True,
        ("alive", "collector"): True,
    }
    memory |= {("freed", position): "" for position in range(laps + 1)}
    processes = (
        Process("producer", partial(sends, laps, **entering)),
        Process("collector", partial(collects, times, **how), mortal=True),
    )
    return Model(f"revoke, {name}", processes, memory, kills=1, tso=True)


# A removed channel --------------------------------------------------------------------------------


def move_to(position: int) -> Steps:
    yield put(("position",), position)


def move_on(position: int, count: int) -> Steps:
    """Return whether the records are the consumer's."""
    yield from move_to(position + count)
    yield compiler_fence()
    if (yield get(("flags",))) & GONE:
        yield from move_to(position)
        return False
    return True


def drain_pending(others: tuple[str, ...]) -> Steps:
    """Return the position from which on ipcheap_remove_channel() frees."""
    yield from os_membarrier(*others)
    return (yield get(("position",)))


def has(view: View, position: int, who: str) -> Any:
    if view[("record", position)] != "pending":
        raise Violation(f"{who} has record {position}, which was {view[('record', position)]}")
    return {("record", position): who}, None


def receives(records: int, group: int, move_on: Any = move_on) -> Steps:
    for first in range(0, records, group):
        yield get_acquire(("word",))
        count = min(group, records - first)
        if not (yield from move_on(first, count)):
            return
        for position in range(first, first + count):
            yield when(f"has record {position}", has, position, "the consumer")


def removes(records: int, others: tuple[str, ...] = ("consumer",)) -> Steps:
    yield put_or(("flags",), GONE)
    position = yield from drain_pending(others)
    while position < records:
        yield when(f"frees record {position}", has, position, "the remover")
        position += 1


def removal_model(name: str, records: int = 3, group: int = 1, **how: Any) -> Model:
    receiving = {"move_on": how.pop("move_on")} if "move_on" in how else {}
    memory: dict[Any, Any] = {("flags",): 0, ("position",): 0, ("word",): FULL}
    memory |= {("record", position): "pending" for position in range(records)}
    processes = (
        Process("consumer", partial(receives, records, group, **receiving)),
        Process("remover", partial(removes, records, **how)),
    )
    return Model(f"revoke, {name}", processes, memory, finally_=none_left, tso=True)


def none_left(view: View) -> str | None:
    """Check that only what the consumer was about to take is left for the last side that closes."""
    left = sorted(n[1] for n in view.names("record") if view[n] == "pending")
    first = view[("position",)]
    return f"nobody has {left}" if left != list(range(first, first + len(left))) else None


MIRRORS = (
    Mirror("segment/participant.h", participant_enter),
    Mirror("segment/participant.h", participant_leave),
    Mirror("segment/participant.c", participant_settled),
    Mirror("memory/slab_local.h", slab_take, aliases=(("index", "tags"),)),
    Mirror("memory/slab.c", revoke),
    Mirror("memory/slab.c", revoke_empty),
    Mirror("memory/slab.c", slabs_revoke, calls=frozenset({"extent_free"})),
    Mirror("memory/slab.c", collect_by_tags),
    Mirror("memory/slab.c", collect),
    Mirror("memory/slab.c", slab_adopt),
    Mirror("memory/slab.c", slab_free),
    Mirror("memory/slab_local.h", free_mine),
    Mirror("memory/slab.c", drop_if_revoked, calls=frozenset({"heap_lock", "heap_unlock"})),
    Mirror("record/send.c", wait_for_collector, calls=frozenset({"heap_lock", "heap_unlock"})),
    Mirror("record/send.c", enter_ring),
    Mirror("record/ring.c", collect_from_other),
    Mirror("record/receive.c", move_to),
    Mirror("record/receive.c", move_on),
    Mirror("record/endpoint.c", drain_pending, ignored=frozenset({"participant_settled"})),
)


# What must fail -----------------------------------------------------------------------------------


def take_before_entering() -> Steps:
    owner = yield get(("owner",))
    if owner != "mine":
        return False
    yield from participant_enter()
    yield put(("tags",), OWN)
    yield from participant_leave()
    return True


def revoke_without_settling(others: tuple[str, ...], has_free: Any = slab_is_free) -> Steps:
    owner = yield get(("owner",))
    if owner != "mine" or not (yield from has_free()):
        return False
    yield put(("revoked",), 1)
    yield put(("owner",), "being revoked")
    yield from os_membarrier(*others)
    if (yield from has_free()):
        return True
    yield put(("owner",), "mine")
    return False


def collect_only_bits(free: frozenset[int]) -> Steps:
    return (yield from collect(free, same))


def same(free: frozenset[int]) -> Steps:
    yield from ()
    return free


def take_own_before_entering(block: int) -> Steps:
    mine = (yield get(("owner",))) == "mine"
    yield from participant_enter()
    if mine:
        yield put(("tags", block), "owner")
    yield from participant_leave()
    return mine


def revoke_without_looking_again(others: tuple[str, ...]) -> Steps:
    owner = yield get(("owner",))
    if owner != "mine" or (yield get(("tags",))) != FREE:
        return False
    yield put(("owner",), "being revoked")
    yield from os_membarrier(*others)
    if (yield from participant_settled()):
        return True
    yield put(("owner",), "mine")
    return False


def collect_without_settling(others: tuple[str, ...]) -> Steps:
    yield put_or(("flags",), REVOKED)
    yield from os_membarrier(*others)
    yield from ring_collect()
    yield put_and(("flags",), ~REVOKED)


def enter_without_clearing() -> Steps:
    yield from enter_ring(wait_without_clearing)


def wait_without_clearing() -> Steps:
    yield from heap_lock("producer")
    yield from heap_unlock()


def move_on_before_telling(position: int, count: int) -> Steps:
    if (yield get(("flags",))) & GONE:
        return False
    yield put(("position",), position + count)
    return True


MODELS: dict[str, Callable[[], Model]] = {
    "slab": lambda: slab_model("slab", times=3),
    "sharing": lambda: sharing_model("sharing"),
    "garbage": lambda: garbage_model("garbage"),
    "garbage sent again": lambda: garbage_model("garbage sent again", sends=sends_again),
    "removal": lambda: removal_model("removal"),
    "removal, groups": lambda: removal_model("removal, groups", records=5, group=2),
}

CONTROLS: dict[str, Callable[[], Model]] = {
    "slab: no membarrier": lambda: slab_model("control", others=()),
    "slab: not waiting until busy is 0": lambda: slab_model(
        "control", revoke=revoke_without_settling
    ),
    "slab: not looking at the tags again": lambda: slab_model(
        "control", revoke=revoke_without_looking_again
    ),
    "slab: the owner word read before busy = 1": lambda: slab_model(
        "control", take=take_before_entering
    ),
    "sharing: no membarrier": lambda: sharing_model("control", others=()),
    "sharing: not waiting until busy is 0": lambda: sharing_model(
        "control", revoke=revoke_without_settling
    ),
    "sharing: the owner word read before busy = 1": lambda: sharing_model(
        "control", take=take_own_before_entering
    ),
    "sharing: what the owner freed in its own half not looked for": lambda: sharing_model(
        "control", collect=collect_only_bits
    ),
    "garbage: no membarrier": lambda: garbage_model("control", others=()),
    "garbage: not waiting until busy is 0": lambda: garbage_model(
        "control", collect=collect_without_settling
    ),
    "garbage: a dead collector's flag stays": lambda: garbage_model(
        "control", enter_ring=enter_without_clearing
    ),
    "garbage sent again: no look at the tag": lambda: garbage_model(
        "control", sends=partial(sends_again, looks=False)
    ),
    "garbage sent again: not waiting until busy is 0": lambda: garbage_model(
        "control", sends=sends_again, collect=collect_without_settling
    ),
    "removal: no membarrier": lambda: removal_model("control", others=()),
    "removal: the flag before the position": lambda: removal_model(
        "control", move_on=move_on_before_telling
    ),
}

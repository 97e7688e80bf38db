"""The subject of all models here: channels, blocks, the heap's lock, and their words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..steps import View, get_acquire, put, when

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..explorer import Process
    from ..steps import Steps


EMPTY, FULL, RELEASED = "EMPTY", "FULL", "RELEASED"
FREE, OWN, SENT, RECEIVED, DONE = "FREE", "OWN", "SENT", "RECEIVED", "DONE"
NEVER, OPEN, CLOSED, DIED = "NEVER", "OPEN", "CLOSED", "DIED"
PRODUCER, CONSUMER = 0, 1
GONE, DESERTED = 2, 4


class Channel(NamedTuple):
    """A channel's name, how many slots its ring has, and whether hints are read only once."""

    name: str
    slots: int
    trusting: bool = False

    def slot(self, position: int) -> tuple[str, int]:
        """Return where in memory a position's slot is."""
        return self.name, position % self.slots

    def lap(self, position: int) -> int:
        """Return the lap a position is in."""
        return position // self.slots

    def full(self, position: int, block: int) -> Any:
        """Return the word of a slot that holds a record."""
        return (FULL, self.lap(position), block)

    def sent_tag(self, position: int) -> Any:
        """Return the tag of a block that was sent there."""
        return (SENT, self.name, position)


class World(NamedTuple):
    """What all processes know."""

    channels: tuple[Channel, ...]
    blocks: int
    records: int
    watchful: bool = True  # a process that waits for a dead side recovers it

    def channel(self, name: str) -> Channel:
        """Return the channel with this name."""
        return next(c for c in self.channels if c.name == name)


def is_alive(view: View, who: str) -> bool:
    """Return whether a participant lives: "M.in" and "M.out", of one process, die together."""
    return bool(view[("alive", who.split(".", maxsplit=1)[0])])


def ask_alive(view: View, who: str) -> Any:
    return {}, is_alive(view, who)


# The heap lock, in one step, also from a dead owner -----------------------------------------------


def lock_is_taken(view: View, me: str) -> Any:
    owner = view["lock"]
    if owner and owner != me and is_alive(view, owner):
        return None
    return {"lock": me}, None


def heap_lock(me: str) -> Steps:
    yield when("takes the lock", lock_is_taken, me)


def ask_locked(view: View, me: str) -> Any:
    return {}, view["lock"] == me


def heap_unlock() -> Steps:
    yield put("lock", 0)


# Blocks -------------------------------------------------------------------------------------------


def take_block(view: View, world: World, me: str, number: int) -> Any:
    for block in range(world.blocks):
        if view["tag", block] == FREE:
            return {("tag", block): (OWN, me), ("data", block): number}, block
    return None


def block_free(block: int) -> Steps:
    """Free a block whose tag was checked, by one store: to the tag, or to its remote bit."""
    yield put(("tag", block), FREE)


def place_is(block: int, tag: Any) -> Steps:
    return (yield get_acquire(("tag", block))) == tag


# Memory -------------------------------------------------------------------------------------------


def shared(world: World, processes: Sequence[Process], holders: dict[Any, str]) -> dict[Any, Any]:
    """Return a memory in which the first holders have claimed their sides."""
    memory: dict[Any, Any] = {"lock": 0}
    for c in world.channels:
        for slot in range(c.slots):
            memory["word", c.name, slot] = (EMPTY, 0, None)
            memory["size", c.name, slot] = None
        for side in (PRODUCER, CONSUMER):
            memory["position", c.name, side] = 0
            memory["holder", c.name, side] = (OPEN, holders[c.name, side])
        memory |= {
            ("flags", c.name): 0,
            ("intent", c.name): None,
            ("from", c.name): FREE,
            ("published", c.name): 0,
        }
    memory |= {("tag", block): FREE for block in range(world.blocks)}
    memory |= {("data", block): None for block in range(world.blocks)}
    memory |= {("done", number): "" for number in range(world.records)}
    memory |= {("alive", process.name): True for process in processes}
    return memory | {("alive", "last"): True}

"""The words of a store, what its sides keep in private memory, and the heap around it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ..park.words import AWAKE, OPEN
from ..revoke import heap_lock, heap_unlock
from ..steps import Violation, compiler_fence, get_acquire, now, put, put_release
from ..stream.words import replaceable

if TYPE_CHECKING:
    from ..steps import Steps, View

__all__ = ["heap_lock", "heap_unlock", "replaceable"]

X = "X"
WRITER, READER = 0, 1
FREE, PREPARED, LIVE, DEAD, LEAVING = "FREE", "PREPARED", "LIVE", "DEAD", "LEAVING"
OWN, STORED, SENT = "OWN", "STORED", "SENT"
REVOKED = 1
SLEEPING, POLLING, COUNT = 1, 2, 4
ABSENT, FOUND, AGAIN, HOLDS = "absent", "found", "again", "no word left"
NONE = None


class Store(NamedTuple):
    """A store as a participant sees it: what does not change."""

    me: Any
    slots: int
    readers: tuple[Any, ...] = ()  # their entries
    others: tuple[str, ...] = ()  # the processes that a membarrier interrupts
    keys: str = "A"
    depth: int = 1
    cells: int = 1  # of the first table; the one after a growth has twice as many
    log: int = 2
    most: int = 0  # max_chunks; the store evicts
    garbage: int = 0
    spared: int = 0  # blocks that a collection leaves, to be overwritten
    many: int = 9  # hold words above which `used` goes back to 1
    refused: bool = False  # membarrier is
    extents: bool = False  # a block cannot always be freed immediately
    expires: bool = False  # versions in `gone` have expired
    instead: tuple[tuple[str, Any], ...] = ()  # mistakes, in place of the functions of these names


class Chunk(NamedTuple):
    """A committed chunk or deletion, in the writer's lists."""

    slot: int
    version: int
    key: str
    block: Any = NONE  # none: a deletion


class Lists(NamedTuple):
    """Mirrors struct lists, and what the writer knows of words that only it stores."""

    free: tuple[int, ...] = ()  # the next one last
    dead: tuple[tuple[int, int], ...] = ()  # slots and versions
    live: tuple[Chunk, ...] = ()  # by version
    spares: tuple[tuple[int, int], ...] = ()  # slots and versions, the next one last
    table: tuple[Any, ...] = ()  # cells of the table in use
    head: int = 0
    epoch: int = 0
    held: int = 0
    pieces: int = 1
    fences: int = 0  # collections since membarrier was refused

    def chain(self, key: str) -> tuple[Chunk, ...]:
        """Return what a key has, oldest first."""
        return tuple(c for c in self.live if c.key == key)


class Change(NamedTuple):
    """Mirrors struct change."""

    slot: int
    key: str
    block: Any
    origin: Any = NONE  # the tag of the place that a forwarded block has in its ring
    superseded: bool = False
    cell: Any = NONE


class Own(NamedTuple):
    """Mirrors what changes in a reader's endpoint and in struct ipcheap_holds."""

    used: int = 0
    free: tuple[int, ...] = (1,)  # hold words, the next one last
    pieces: int = 1
    position: int = 0
    scanned: int = 0
    backlog: tuple[tuple[int, int], ...] = ()  # versions and slots, oldest last


# Inside and outside -------------------------------------------------------------------------------


def participant_enter(s: Store) -> Steps:
    yield put(("busy", s.me), 1)
    yield compiler_fence()


@replaceable
def participant_leave(s: Store) -> Steps:
    yield put_release(("busy", s.me), 0)


# Blocks -------------------------------------------------------------------------------------------


def take_block(view: View, me: str, key: str) -> Any:
    """Allocate a block and fill it: its bytes are private to the writer."""
    for _, block in view.names("tag"):
        if view["tag", block] == FREE:
            return {("tag", block): (OWN, me), ("data", block): key}, block
    return None


def place_is(block: int, tag: Any) -> Steps:
    return (yield get_acquire(("tag", block))) == tag


def block_free(block: int) -> Steps:
    yield put_release(("tag", block), FREE)


def owned_by_dead(view: View, dead: str) -> Any:
    for _, block in view.names("tag"):
        if view["tag", block] == (OWN, dead):
            return {("tag", block): FREE}, True
    return {}, False


def recover_memory(dead: str) -> Steps:
    while (yield now("frees a block of the dead", owned_by_dead, dead)):
        pass


# Where things are ---------------------------------------------------------------------------------


def table_of(s: Store, pieces: int) -> tuple[int, ...]:
    """Return the cells of a table; keys of all models belong into the first one."""
    return tuple(range(10 * pieces, 10 * pieces + s.cells * pieces))


def entry_of(s: Store, pieces: int, version: int) -> Any:
    """Return where a version's entry is: the log of a piece, and the place in it."""
    return pieces, version % (s.log * pieces)


def slots_of(s: Store, pieces: int) -> int:
    """Return how many slots there are in so many pieces."""
    return s.slots * ((1 << pieces) - 1)


# Memory -------------------------------------------------------------------------------------------


def shared(
    s: Store,
    names: tuple[str, ...],
    chunks: tuple[Any, ...] = (),
    *,
    commits: int = 1,
    pieces: int = 1,
    words: int = 2,
    blocks: int = 0,
) -> dict[Any, Any]:
    """Return a store that has these chunks: keys, None for those that were replaced long ago."""
    memory: dict[Any, Any] = {
        "lock": 0,
        ("head",): len(chunks),
        ("epoch",): 0,
        ("collector",): NONE,
        ("flags",): 0,
        ("fences",): 0,
        ("fences_since",): 0,
        ("pieces",): 1,
        ("keyed",): 0,
        ("bell",): 0,
        ("holder", X, WRITER): (OPEN, "W"),
        ("gone",): (),
    }
    for slot in range(slots_of(s, pieces)):
        memory |= {("word", slot): (FREE, 0), ("offset", slot): NONE, ("hash", slot): NONE}
        memory |= {("older", slot): NONE, ("died", slot): NONE}
    memory |= {("tag", block): FREE for block in range(blocks or s.slots)}
    memory |= {("data", block): NONE for block in range(blocks or s.slots)}
    for piece in range(1, pieces + 1):
        memory |= {("cell", i): NONE for i in table_of(s, piece)}
        memory |= {("bell", i): 0 for i in table_of(s, piece)}
        memory |= {("log", piece, i): (0, NONE) for i in range(s.log * piece)}
    newest = list(dict.fromkeys(k for k in chunks if k))
    slot = 0
    for i, key in enumerate(chunks):
        memory["log", *entry_of(s, 1, i + 1)] = (i + 1, slot if key else NONE)
        if not key:
            continue
        memory |= {("word", slot): (LIVE, i + 1), ("offset", slot): slot, ("hash", slot): key}
        memory |= {("tag", slot): (STORED, slot), ("data", slot): key}
        cell = table_of(s, 1)[newest.index(key)]
        memory["older", slot] = memory["cell", cell] and memory["cell", cell][1]
        memory["cell", cell] = (key, slot)
        slot += 1
    for r in s.readers:
        memory |= {("used", r): 0, ("closed", r): 0, ("holder", X, r): (OPEN, r)}
        memory |= {("parked", X, r): AWAKE, ("pipe", X, r): 1, ("got", r): ()}
        memory |= {("words", r, w): NONE for w in range(words)}
        memory |= {("has", r, w): NONE for w in range(words)}
    memory |= {("busy", name): 0 for name in names}
    memory |= {("alive", name): True for name in (*names, "last")}
    # Ghosts: the head that a returned call has left, and what each head has made of the keys.
    memory |= {("done",): len(chunks), ("over",): False}
    memory |= {("moment", head): NONE for head in range(len(chunks) + commits + 1)}
    memory |= {("by", head): NONE for head in range(len(chunks) + commits + 1)}
    memory |= {("by", i + 1): block for i, block in enumerate(of_blocks(chunks))}
    chains = tuple(tuple(i + 1 for i, c in enumerate(chunks) if c == key) for key in s.keys)
    memory["moment", len(chunks)] = tuple(chain[-s.depth :] for chain in chains)
    return memory


def of_blocks(chunks: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the blocks that chunks have in the beginning: those of the same numbers as slots."""
    return tuple(len([c for c in chunks[:i] if c]) if key else NONE for i, key in enumerate(chunks))


def lists_of(memory: dict[Any, Any], s: Store) -> Lists:
    """Return the lists of a writer that has been there from the beginning."""
    live = tuple(
        Chunk(slot, memory["word", slot][1], memory["hash", slot], memory["offset", slot])
        for slot in range(s.slots)
        if memory["word", slot][0] == LIVE
    )
    free = tuple(slot for slot in range(s.slots) if memory["word", slot][0] == FREE)[::-1]
    table = tuple(memory["cell", i] for i in table_of(s, 1))
    return Lists(free, live=live, table=table, head=memory["head",])


def check(fault: str) -> None:
    """Report what a process has found."""
    if fault:
        raise Violation(fault)

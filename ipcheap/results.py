"""Results about heaps, channels and participants: frozen dataclasses.

Imported on first use, because a first message needs none of them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import dataclass, field

    from ._arguments import ChannelId
else:
    from ._frozen import dataclass, field


@dataclass(frozen=True)
class HeapInfo:
    """What can be seen of a heap from outside, without becoming a participant.

    Sizes are in bytes. `mode`, `uid` and `gid` are those of its file. `participants` counts the
    threads that use it. `open` is true if a process sees its memory, perhaps without a participant:
    one that inherited it by fork, or has closed it and still has views of static segments. `stale`
    is true if none does. `created` is in seconds since the epoch. `capacity` and `created` are 0
    for a heap that is not ready.
    """

    name: str
    path: str
    shm: str
    sem: str
    capacity: int
    committed: int
    mode: int
    uid: int
    gid: int
    participants: int
    open: bool
    stale: bool
    created: float


@dataclass(frozen=True)
class HeapStatistics:
    """The contents of a heap; sizes are in bytes.

    `capacity` is the size for users' data, and `committed` the part of it that has memory. `in_use`
    is the size of what was allocated or sent and not freed, `largest_free` the size of the largest
    record that fits. `records`, `extents` and `slabs` count those in use, and `participants` the
    living ones. `recoveries` counts the dead participants that were recovered.
    """

    capacity: int
    committed: int
    in_use: int
    largest_free: int
    records: int
    extents: int
    slabs: int
    participants: int
    channels: int
    recoveries: int


@dataclass(frozen=True)
class Participant:
    """A thread of a process that uses a heap.

    `name` is the name of the process. `state` is "alive", "dead" (it awaits recovery), "stopped" or
    "stopped by a debugger". `pid` and `thread` are numbers of the participant's own PID namespace;
    `elsewhere` is true if that is not the caller's. `since` is in seconds since the epoch.

    The library measures which way is faster. `extents` says where large records are allocated: at
    the "lowest" free place, or "in-turn" through a part of memory. `copies_past` lists the sizes,
    each up to twice that size, whose copies bypass the caches.
    """

    name: str
    pid: int
    thread: int
    state: str
    elsewhere: bool
    since: float
    extents: str
    copies_past: tuple[int, ...]


@dataclass(frozen=True)
class RecoveryReport:
    """What a recovery found and did.

    It counts the dead `participants`, the `endpoints` that they held, the `blocks` that were freed,
    their `bytes` in all, and the `redelivered` records, which the dead had received and not freed.
    `dead` lists the dead participants. `channels` has the number of redelivered records by channel.
    Earlier recoveries by other participants do not count.
    """

    participants: int
    endpoints: int
    blocks: int
    bytes: int
    redelivered: int
    dead: tuple[Participant, ...] = ()
    channels: Mapping[ChannelId, int] = field(default_factory=dict["ChannelId", int])


@dataclass(frozen=True)
class EndpointStatistics:
    """The traffic of an endpoint's channel, and how this side waited.

    `capacity` is the number of slots. `sent` and `received` count records since the channel was
    added. `held` counts records received and not freed; a producer does not know it and has 0.
    `parks` counts how often this side went to sleep, `wakes` how often it woke the other side.
    `detached` counts records that were taken out of the channel because the consumer held them and
    the next record needed their slot: they are not redelivered if the consumer dies. `spins` is how
    often this side looks before it sleeps, `doze` how many seconds it sleeps on a timer before it
    looks again; both are learnt from recent waits.
    """

    capacity: int
    sent: int
    received: int
    held: int
    parks: int
    wakes: int
    detached: int
    spins: int
    doze: float


@dataclass(frozen=True)
class ChannelCounts:
    """What has passed through a record channel, as anybody can see it.

    `capacity` is the number of slots. `sent`, `received` and `freed` count records since the
    channel was added; kept, forwarded and detached records are `freed`, too. `pending` records were
    sent and not received, `held` ones received and not freed: `sent` = `received` + `pending`, and
    `received` = `freed` + `held`. What a dead consumer held becomes `pending` at its recovery, or
    at the next claim.

    `sent` is exact while the producer is idle or dead, `freed` while the consumer is, whatever the
    other side does. That holds at every moment of a death, before and after its recovery, and a
    forwarded record counts on exactly one of the two channels.

    `producer` and `consumer` are "never" (claimed), "open", "closed" or "died". `blocked` is "full"
    if the producer sleeps because the slot of the next record is taken, "empty" if the consumer
    sleeps and nothing is pending, and otherwise None.
    """

    capacity: int
    sent: int
    received: int
    freed: int
    pending: int
    held: int
    producer: str
    consumer: str
    blocked: str | None


@dataclass(frozen=True)
class StreamStatistics:
    """What has passed through a stream, as one of its sides sees it.

    `capacity` and `backlog` are its shape. `written` and `read` are the positions of the two sides,
    in items, `writes` and `reads` how often items were committed or released. `lost` is what this
    reader has missed. This side slept `parks` times and woke the other `wakes` times. `mirrored`
    is true if windows are the ring itself, false if they are copies.
    """

    capacity: int
    backlog: int
    written: int
    read: int
    writes: int
    reads: int
    lost: int
    parks: int
    wakes: int
    mirrored: bool


@dataclass(frozen=True)
class StoreStatistics:
    """The contents of a store; bytes are as they were put.

    `version` is that of the newest commit. `keys` counts the keys that have a chunk, `chunks` and
    `bytes` what is live, `dead` and `dead_bytes` what is dead and has not been given back yet,
    `held` and `held_bytes` those of the dead that readers hold. `readers` counts the open ones.
    `replaced`, `expired`, `evicted` and `deleted` count chunks since the store was added,
    `collections` how often dead ones were freed.
    """

    version: int
    keys: int
    chunks: int
    bytes: int
    dead: int
    dead_bytes: int
    held: int
    held_bytes: int
    readers: int
    replaced: int
    expired: int
    evicted: int
    deleted: int
    collections: int


@dataclass(frozen=True)
class Hold:
    """A chunk that a reader holds; `since` is in seconds since the epoch, to about a second."""

    key: int | str | bytes | None
    version: int
    nbytes: int
    live: bool
    since: float


@dataclass(frozen=True)
class StoreReaderInfo:
    """A reader of a store, and what it holds.

    `name`, `pid`, `thread`, `elsewhere` and `since` are those of a `Participant`, and so is
    `state`; it is "closed" for a reader that has closed and still holds chunks. `behind` counts the
    versions after its `position`. It holds `held` chunks of `held_bytes` bytes in all, of which
    `dead_bytes` are those of dead ones. `holds` lists them.
    """

    name: str
    pid: int
    thread: int
    state: str
    elsewhere: bool
    since: float
    position: int
    behind: int
    held: int
    held_bytes: int
    dead_bytes: int
    holds: tuple[Hold, ...] = ()


@dataclass(frozen=True)
class StoreReaderStatistics:
    """What a reader has done: chunks that `next` has given, and versions that it passed over.

    `held` counts the chunks that it holds now, `parks` how often it went to sleep.
    """

    given: int
    skipped: int
    held: int
    parks: int


@dataclass(frozen=True)
class StoreWriterStatistics:
    """What a writer has done: the versions that it has `committed`.

    `version` is the newest one of the store.
    """

    version: int
    committed: int


@dataclass(frozen=True)
class BroadcastReport:
    """What became of a broadcast, or a drain.

    `position` is that of the message; of a drain the last one posted before, -1 if there is none.
    It was owed to `listeners`: those registered when it was posted, except lossy ones and those of
    the calling thread. Of these, `released` have released or kept it, and `gone` have closed or
    died before. `slow` are the others: they had not in time, or were passed.
    `listeners` = `released` + `gone` + len(`slow`).
    """

    position: int
    listeners: int
    released: int
    gone: int
    slow: tuple[Participant, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether no listener is slow."""
        return not self.slow


@dataclass(frozen=True)
class ListenerInfo:
    """A listener of a bus, as anybody can see it.

    It is owed what was posted from the position `joined` on. `pending` counts what it can still
    receive, `held` what it has received and not freed, and `lost` what it did not get. `lossy` is
    true if it never makes a writer wait.
    """

    participant: Participant
    joined: int
    pending: int
    held: int
    lossy: bool
    lost: int


@dataclass(frozen=True)
class BusStatistics:
    """The traffic of a bus.

    `posted` counts its messages so far, and `waiting` those that some listener has not received
    yet. `listeners` are registered now; `passed` counts how often one was passed. A listener may be
    `capacity` messages behind, and the last `history` are kept for later ones.
    """

    capacity: int
    history: int
    posted: int
    waiting: int
    listeners: int
    passed: int


@dataclass(frozen=True)
class ListenerStatistics:
    """What a listener has heard.

    `received` counts messages, and `lost` those that it did not get because it is lossy or was
    passed. `held` are received and not freed, kept ones included, and `pending` can still be
    received. `parks` counts how often it went to sleep.
    """

    received: int
    lost: int
    held: int
    pending: int
    parks: int

"""Results about heaps, channels and participants: frozen dataclasses.

Imported on first use, because a first message needs none of them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from dataclasses import dataclass, field
    from typing import Any, TypeAlias

    from ._arguments import ChannelId

    Age: TypeAlias = "tuple[float, float] | None"
    AnyChannelView: TypeAlias = "ChannelView | SegmentView | StreamView | StoreView | BusView"
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


# What an observer sees ----------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """What the memory of a heap is used for.

    Bytes are those of whole blocks and extents: `in_use` = `owned` + `pending` + `held` + `static`.
    `idle` waits in slabs and channels to be used again, `free` is free, `largest_free` the longest
    part of that, and `system` what channels need for themselves. `records`, `extents` and `slabs`
    are counts; static segments and streams are extents, but no records.
    """

    in_use: int
    owned: int
    pending: int
    held: int
    static: int
    idle: int
    free: int
    largest_free: int
    system: int
    records: int
    extents: int
    slabs: int


@dataclass(frozen=True)
class Wait:
    """What a participant waits for.

    `side` is the side of `channel` on which it waits: "producer", "consumer", "writer", "reader" or
    "listener". `since` is for how many seconds, None if nothing is known. `for_` is the key of the
    participant on the other side, None if there is none, or any may do.
    """

    channel: ChannelId
    side: str
    since: float | None
    for_: str | None


@dataclass(frozen=True)
class ParticipantView:
    """A participant, as an observer sees it.

    `key` is its slot and generation, "3.17", which no other one of this heap has. `label` is the
    name of its program. `pid` and `thread` are numbers of its own PID namespace; `elsewhere` is
    true if that is not the observer's. `since` is when it joined, in seconds since the epoch.
    `state` is "alive", "stopped", "stopped by a debugger", "dead" (it awaits recovery), or
    "unknown" in a copy of a heap's file. `cpu` is the share of a core that its thread has used
    since the observer's last look, None at the first one or if /proc does not say.
    """

    key: str
    label: str
    pid: int
    thread: int
    elsewhere: bool
    since: float
    state: str
    waits: tuple[Wait, ...] = ()
    cpu: float | None = None


@dataclass(frozen=True)
class SideView:
    """One side of a channel.

    `state` is "never" (claimed), "open", "closed" or "died". `holder` is the key of the participant
    that holds it. `waiting` is true if it sleeps, or a poller watches for it, and there is nothing
    to do for it. `since` is for how many seconds, None if nothing is known. It went to sleep
    `parks` times and woke the other side `wakes` times.
    """

    state: str
    holder: str | None
    since: float | None
    waiting: bool
    parks: int
    wakes: int


@dataclass(frozen=True)
class ChannelView:
    """A record channel, as an observer sees it.

    `capacity` is the number of slots and `nbytes` the size of the records in it. `sent`,
    `received`, `pending` and `held` are those of `ChannelCounts`, `pending_bytes` and `held_bytes`
    the sizes of the last two. `oldest_pending` and `oldest_held` are ages: (at least, at most)
    seconds, or None if nothing is known. `blocked` is "held" or "pending" if the producer sleeps
    because the slot of the next record is taken, by a record that was received or not; otherwise
    None. `mean_nbytes` is the mean size of the last records.
    """

    id: ChannelId
    kind: str
    capacity: int
    nbytes: int
    sent: int
    received: int
    pending: int
    held: int
    pending_bytes: int
    held_bytes: int
    oldest_pending: Age
    oldest_held: Age
    producer: SideView
    consumer: SideView
    blocked: str | None
    traced: bool
    poisoned: bool
    mean_nbytes: int


@dataclass(frozen=True)
class SegmentView:
    """A static segment, as an observer sees it; `capacity` and `nbytes` are its size in bytes."""

    id: ChannelId
    kind: str
    capacity: int
    nbytes: int
    poisoned: bool


@dataclass(frozen=True)
class StreamView:
    """A stream, as an observer sees it.

    `capacity` is in items, and `nbytes` the size of those that are not read. `written` and `read`
    are the positions of the two sides, `room` how many items may be written now. `lost` is None,
    because only a reader knows that. `blocked` is "pending" if the writer sleeps for room.
    """

    id: ChannelId
    kind: str
    capacity: int
    nbytes: int
    written: int
    read: int
    pending: int
    room: int
    lost: int | None
    writer: SideView
    reader: SideView
    blocked: str | None
    poisoned: bool
    mean_nbytes: int


@dataclass(frozen=True)
class StoreReaderView:
    """A reader of a store.

    `holder` is its participant's key. `closed` is true if it has closed and still holds chunks. It
    holds `held` chunks of `held_bytes` bytes, of which `dead` are dead, and is `behind` by so many
    versions. `waiting` is true if it sleeps.
    """

    holder: str | None
    closed: bool
    waiting: bool
    behind: int
    held: int
    held_bytes: int
    dead: int
    parks: int


@dataclass(frozen=True)
class StoreView:
    """A store, as an observer sees it.

    `capacity` is how many live chunks it may have, 0 for any number, `nbytes` the size of those
    that it has, and `chunks` their number. `dead` ones of `dead_bytes` bytes have not been freed
    yet. `version` is that of the newest commit.
    """

    id: ChannelId
    kind: str
    capacity: int
    nbytes: int
    version: int
    chunks: int
    dead: int
    dead_bytes: int
    writer: SideView
    readers: tuple[StoreReaderView, ...]
    poisoned: bool
    mean_nbytes: int


@dataclass(frozen=True)
class ListenerView:
    """A listener of a bus.

    `holder` is its participant's key. `closed` is true if it has closed and still holds messages.
    `pending` counts what it can still receive, `held` what it has received and not freed, `lost`
    what it did not get. `passed` is true if writers go on without it, `lossy` if it never makes one
    wait, and `stalls` if one waits for it, or has. `waiting` is true if it sleeps.
    """

    holder: str | None
    closed: bool
    waiting: bool
    pending: int
    held: int
    lost: int
    passed: bool
    lossy: bool
    stalls: bool
    parks: int


@dataclass(frozen=True)
class BusView:
    """A bus, as an observer sees it.

    `capacity` is the number of messages that a listener may be behind. `posted` counts messages,
    `waiting` those that some listener has not received. A listener was passed `passed` times.
    `blocked` is "pending" if a writer waits for the last listener. `nbytes` is 0: only the messages
    themselves say how long they are.
    """

    id: ChannelId
    kind: str
    capacity: int
    nbytes: int
    posted: int
    waiting: int
    passed: int
    listeners: tuple[ListenerView, ...]
    blocked: str | None
    poisoned: bool


@dataclass(frozen=True)
class ChannelRate:
    """Records (items, versions, messages) and bytes for each second.

    `nbytes` is an estimate by the mean size of the last records. That of a bus is 0: unknown.
    """

    records: float
    nbytes: float


@dataclass(frozen=True)
class Holding:
    """The records that one holder has in one place.

    `how` is "owned" (by `holder`), "held" (received from `channel` by `holder` and not freed),
    "pending" (in `channel`, and `holder` is to receive it) or "static" (`channel` itself keeps it:
    a static segment, a stream, the chunks of a store, the history of a bus). `holder` is the key of
    a participant, None if there is none. `nbytes` counts whole blocks and extents. `oldest` and
    `newest` are ages: (at least, at most) seconds, or None if nothing is known. `form` is "bytes",
    "array", "object", "mixed" or "unknown".
    """

    how: str
    holder: str | None
    channel: ChannelId | None
    records: int
    nbytes: int
    oldest: Age
    newest: Age
    form: str


@dataclass(frozen=True)
class Blocker:
    """A participant that does not go on because of another one.

    The one with the key `waiting` waits on `side` of `channel` for the one with the key `blocker`,
    for `since` seconds; None each if that is not known, or not there. `reason` is "held", "slow",
    "stopped", "dead", "absent", "empty", "cycle" or "lock". `root` is true if the blocker itself
    waits for no participant. `text` is a sentence that names the way out.
    """

    waiting: str | None
    channel: ChannelId | None
    side: str | None
    since: float | None
    blocker: str | None
    reason: str
    root: bool
    text: str


@dataclass(frozen=True)
class LockView:
    """The heap lock, while a participant holds it.

    `holder` is its key, None if it is not known any more, and `state` that participant's state.
    `contended` is true if others wait for the lock.
    """

    holder: str | None
    state: str
    contended: bool


@dataclass(frozen=True)
class Snapshot:
    """What one look at a heap has found.

    `name` and `path` are those that the observer was given, `uid` and `mode` those of the file.
    `taken` is when the look began, in seconds since the epoch, `seconds` how long it took, and
    `again` how often it looked again at something that moved. `unreadable` has a sentence for
    each part that could not be read. `saved` is None. `lock` is None if the heap lock is free.
    Without memory `holdings` is empty, and `usage` None.

    On a heap where nothing moves the numbers are those of `Heap.statistics()`, and every record in
    use is in exactly one holding. While it moves, each was right at some time within the look.
    """

    name: str
    path: str
    shm: str
    sem: str
    capacity: int
    committed: int
    mode: int
    uid: int
    created: float
    identity: int
    recoveries: int
    taken: float
    seconds: float
    again: int
    unreadable: tuple[str, ...]
    saved: float | None
    lock: LockView | None
    participants: tuple[ParticipantView, ...]
    channels: tuple[AnyChannelView, ...]
    holdings: tuple[Holding, ...]
    usage: Usage | None

    def blockers(self) -> tuple[Blocker, ...]:
        """Return which participant waits for which, those that wait for a root first.

        Waiting for records of a producer that is alive and waits for no participant is none.
        """
        from .blockers import blockers_of

        return tuple(Blocker(*found) for found in blockers_of(self))

    def leaks(self, older: float = 60.0) -> tuple[Holding, ...]:
        """Return the holdings that no participant moves, oldest and largest first.

        These are pending records that nobody receives, and what a dead or stopped participant, or
        one that is not known, is to free or receive. Holdings whose oldest record is known to be
        younger than `older` seconds do not count, those of unknown age do.
        """
        from .blockers import is_stuck

        found = [holding for holding in self.holdings if is_stuck(self, holding, older)]
        return tuple(sorted(found, key=_age_and_size, reverse=True))

    def rates(self, before: Snapshot) -> dict[ChannelId, ChannelRate]:
        """Return how much has passed through each channel since an earlier snapshot.

        Channels that were not there before, and static segments, are left out.
        """
        seconds = self.taken - before.taken
        earlier = {view.id: view for view in before.channels}
        found: dict[ChannelId, ChannelRate] = {}
        for view in self.channels:
            then = earlier.get(view.id)
            if seconds <= 0 or then is None or then.kind != view.kind:
                continue
            count, size = _passed(view)
            if count is None:
                continue
            records = max(0, count - (_passed(then)[0] or 0)) / seconds
            found[view.id] = ChannelRate(records=records, nbytes=records * size)
        return found

    def participant(self, key: str) -> ParticipantView:
        """Return the participant with that key; KeyError if there is none."""
        for view in self.participants:
            if view.key == key:
                return view
        raise KeyError(key)

    def channel(self, id: ChannelId) -> AnyChannelView:
        """Return the channel of that ID; KeyError if there is none."""
        for view in self.channels:
            if view.id == id and type(view.id) is type(id):
                return view
        raise KeyError(id)

    def as_dict(self) -> dict[str, object]:
        """Return all of it as JSON types; an age is None or has `at_least` and `at_most`."""
        return {name: _plain(name, getattr(self, name)) for name in type(self).__match_args__}


_AGES = frozenset({"oldest", "newest", "oldest_pending", "oldest_held"})


def _is_a(value: object, kind: type) -> bool:
    return isinstance(value, kind)


def _plain(name: str, value: Any) -> object:
    if name in _AGES:
        return None if value is None else {"at_least": value[0], "at_most": value[1]}
    if _is_a(value, tuple):
        return [_plain("", each) for each in value]
    if hasattr(value, "__match_args__"):
        names: tuple[str, ...] = value.__match_args__
        return {each.rstrip("_"): _plain(each, getattr(value, each)) for each in names}
    return value


def _age_and_size(holding: Holding) -> tuple[float, int]:
    return (holding.oldest[0] if holding.oldest else 0.0, holding.nbytes)


def _passed(view: AnyChannelView) -> tuple[int | None, int]:
    """Return how much has passed through a channel so far, and the mean size."""
    if isinstance(view, ChannelView):
        return view.sent, view.mean_nbytes
    if isinstance(view, StreamView):
        return view.written, view.mean_nbytes
    if isinstance(view, StoreView):
        return view.version, view.mean_nbytes
    return (view.posted, 0) if isinstance(view, BusView) else (None, 0)

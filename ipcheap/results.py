"""What calls tell about heaps, channels and who uses them: frozen dataclasses.

Imported when the first of them is made or asked for: `dataclasses`, and what it makes,
would take longer than the rest of the package.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._arguments import ChannelId


@dataclass(frozen=True)
class HeapInfo:
    """What can be seen of a heap from outside, without taking part in it.

    `stale` says that no living participant has it open; `created` is in seconds since the
    epoch; sizes are bytes. Of a heap that is not ready, `capacity` and `created` are 0.
    """

    name: str
    path: str
    shm: str
    sem: str
    capacity: int
    committed: int
    mode: int
    uid: int
    participants: int
    stale: bool
    created: float


@dataclass(frozen=True)
class HeapStatistics:
    """What a heap holds; sizes are bytes.

    `capacity` is for users' data, `committed` what of it has memory behind it, `in_use` what
    is allocated or sent and not freed, `largest_free` the largest record that fits.
    `records`, `extents` and `slabs` are in use; `participants` live; `recoveries` is how
    often somebody who died was cleaned up after.
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
    """A thread of a process that takes part in a heap.

    `state` is "alive", "dead" (and awaits recovery), "stopped" or "stopped by a debugger".
    `pid` and `thread` count in the PID namespace that it lives in; `elsewhere` says that this
    is another one than ours. `name` is the process's, `since` seconds since the epoch.

    The library finds out by trying which way is faster: `extents` says where large records go,
    to the "lowest" place that is free or through memory "in-turn"; `copies_past` has the sizes,
    from each up to twice that, whose copies go past the caches.
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
    """What a recovery found, and did.

    So many dead `participants` had held so many `endpoints`; so many `blocks` of theirs,
    `bytes` in all, were freed; so many records that they had received and not freed are
    `redelivered`. `dead` says who they were, `channels` how many records come again on which.
    What others had recovered before is not in it.
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
    """What has gone through an endpoint's channel, and how this side waited.

    `capacity` slots; `sent` and `received` records since the channel was added; `held`
    received and not given back, which only a consumer knows; `parks` times this side went to
    sleep, `wakes` times it woke the other. `detached` records were taken out of the channel because
    a consumer held them for a whole ring: they are not redelivered if it dies. `spins` is how often
    this side looks before it sleeps, `doze` for how many seconds it sleeps on a timer before it
    looks, both learnt from recent waits.
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

"""Races about the name of a heap, in every order of their system calls that chance finds.

    python tests/races.py opening|stale|inherited|killed ROUNDS [SEED]
    python tests/races.py opening|stale|inherited|killed each KIND [ACT]  as sysv-posix open_it

In a round each of two or three processes performs one act on the same name. They advance from one
system call to the next in a random order, as stepped.py describes. With `each`, every order with
one change comes once: the first of any two acts stops at each of its system calls in turn until the
second is over. The killed are killed at each of their system calls, with each way to clean up. ACT
is the only first act then.

- `opening`: open, create and attach beside unlink.
- `stale`: a service that opens and closes, creators and others that attach, beside what
  `ipcheap rm --stale` does and a doctor.
- `inherited`: the same beside a child that inherited the heap, and may be killed at random.
- `killed`: all but that, with one to all of the processes killed at a random system call. One
  of the ways to clean up follows.

All kinds of heaps take part. Each call ends as it says or with the error that it documents. A heap
that was opened works, and as long as none calls `unlink` it stays under its name until it is
closed. In rounds without a death, each heap that was seen was removed or is left; what was removed
may have been half-made. After each round nothing is left in /dev/shm, and no System V object.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import mmap
import os
import random
import select
import struct
import sys
import time
import warnings
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import kinds
import stepped

import ipcheap
from ipcheap import _kernel, _outside
from ipcheap.tools import doctor

if TYPE_CHECKING:
    from collections.abc import Callable

    Act = Callable[[kinds.Kind, str], tuple[str, int]]

CAPACITY = "64KiB"
_PATIENCE = 1.0  # seconds for memory of the killed to go


class Told:
    """What an actor is to do and what came of it, in memory that it shares with its tracer."""

    _BYTES = 4096

    def __init__(self) -> None:
        self._bytes = mmap.mmap(-1, self._BYTES)

    def write(self, *what: Any) -> None:
        text = json.dumps(what).encode()
        self._bytes[: 4 + len(text)] = struct.pack("I", len(text)) + text

    def read(self) -> Any:
        (length,) = struct.unpack_from("I", self._bytes)
        return json.loads(self._bytes[4 : 4 + length])


# Acts: each returns the words for what it has done, and the heap that it had ------------------


def _use(heap: ipcheap.Heap) -> int:
    with heap.allocate_record(100) as record:
        record.view[:] = b"x" * 100
    return heap.identity


def _expect_there(heap: ipcheap.Heap, kind: kinds.Kind, place: str) -> None:
    """Expect that nothing of an open heap was removed."""
    path = _kernel.path_of(place)
    assert os.path.samestat(os.stat(path), heap._file), "another file is under its name"
    if kind.shm == "sysv":
        assert _kernel.find_sysv("segment", id=heap._shmid), "its memory was removed"
    if kind.sem == "sysv":
        assert _kernel.find_sysv("semaphore", id=heap._info.sem_id), "its semaphore was removed"


def open_it(kind: kinds.Kind, place: str) -> tuple[str, int]:
    with ipcheap.Heap.open(place, CAPACITY, shm=kind.shm, sem=kind.sem) as heap:
        return "opened", _use(heap)


def create_it(kind: kinds.Kind, place: str) -> tuple[str, int]:
    try:
        with ipcheap.Heap.create(place, CAPACITY, shm=kind.shm, sem=kind.sem) as heap:
            return "created", _use(heap)
    except ipcheap.HeapExists:
        return "exists", 0


def attach_to_it(kind: kinds.Kind, place: str) -> tuple[str, int]:
    try:
        with ipcheap.Heap.attach(place) as heap:
            return "attached", _use(heap)
    except ipcheap.HeapNotFound:
        return "not there", 0


def unlink_it(kind: kinds.Kind, place: str) -> tuple[str, int]:
    try:
        ipcheap.unlink(place)
    except ipcheap.HeapNotFound:
        return "nothing to unlink", 0
    return "unlinked", 0


def open_and_unlink(kind: kinds.Kind, place: str) -> tuple[str, int]:
    """Open a heap with a pipe beside its file, and remove it, if another one has not."""
    with ipcheap.Heap.open(place, CAPACITY, shm=kind.shm, sem=kind.sem) as heap:
        heap.add_record_channel(1, 4)
        with contextlib.suppress(ipcheap.ChannelBusy), heap.consumer(1) as consumer:
            consumer.fileno()
        identity = _use(heap)
        try:
            heap.unlink()
        except ipcheap.HeapNotFound:
            return "opened", identity
        return "opened and unlinked", identity


def be_readable(kind: kinds.Kind, place: str) -> tuple[str, int]:
    """Make a pipe in an open heap, after a pause, and remove it."""
    with ipcheap.Heap.open(place, CAPACITY, shm=kind.shm, sem=kind.sem) as heap:
        heap.add_record_channel(1, 4)
        with heap.consumer(1) as consumer:
            stepped.pause()
            consumer.fileno()
        return "opened", heap.identity


def serve(kind: kinds.Kind, place: str) -> tuple[str, int]:
    """Open a heap, which stays until it is closed, though it has no name for `rm --stale` else."""
    with ipcheap.Heap.open(place, CAPACITY, shm=kind.shm, sem=kind.sem) as heap:
        _expect_there(heap, kind, place)
        identity = _use(heap)
        with ipcheap.Heap.attach(place) as other:
            assert other.identity == identity, "another heap is under its name"
        _expect_there(heap, kind, place)
        return "served", identity


def serve_new(kind: kinds.Kind, place: str) -> tuple[str, int]:
    """Do the same with a heap that must be new."""
    try:
        heap = ipcheap.Heap.create(place, CAPACITY, shm=kind.shm, sem=kind.sem)
    except ipcheap.HeapExists:
        return "exists", 0
    with heap:
        _expect_there(heap, kind, place)
        return "created", _use(heap)


def use_inherited(kind: kinds.Kind, place: str) -> tuple[str, int]:
    """Use a heap that was open before the fork, and closed in the parent since."""
    heap = Actor.inherited
    assert heap
    with heap:
        _expect_there(heap, kind, place)
        identity = _use(heap)
        _expect_there(heap, kind, place)
        return "used", identity


def remove_stale(kind: kinds.Kind, place: str) -> tuple[str, int]:
    """Do what `ipcheap rm --stale` does; a heap in a file has to be named."""
    if kind.shm != "file" and not any(heap.stale for heap in ipcheap.heaps()):
        return "nothing stale", 0
    try:
        doctor.remove_unused(place)
    except (ipcheap.HeapBusy, ipcheap.HeapNotFound):
        return "nothing stale", 0
    return "unlinked", 0


def repair(kind: kinds.Kind, place: str) -> tuple[str, int]:
    """Do what `ipcheap doctor --repair` does."""
    for finding in doctor.examine(place, repair=True).findings:
        if "there is no heap" in finding.text:
            return "nothing to repair", 0
        assert finding.what != "broken", finding
        assert not finding.hopeless, finding
    return "repaired", 0


OPENING = (open_it, create_it, attach_to_it, open_and_unlink, unlink_it)
STALE = (serve, serve_new, attach_to_it, remove_stale, repair)
KILLED = tuple(dict.fromkeys(OPENING + STALE))
RACES = {"opening": OPENING, "stale": STALE, "inherited": STALE, "killed": KILLED}
CLEANING = (open_it, repair, remove_stale, unlink_it)


# The players ----------------------------------------------------------------------------------


class Actor(stepped.Stepped):
    """A child that performs the acts that it is told."""

    inherited: ipcheap.Heap | None = None  # what is open while it is forked

    def __init__(self) -> None:
        self.told = Told()
        super().__init__(self._act)

    def _act(self) -> None:
        warnings.simplefilter("error")  # none of them leaves something alone
        while True:
            stepped.pause()
            name, shm, sem, place = self.told.read()
            self.told.write(*globals()[name](kinds.Kind(shm, sem), place))


class Round(NamedTuple):
    """What happens in one round."""

    kind: kinds.Kind
    is_there: bool  # the heap, before
    acts: tuple[Act, ...]
    changes: Callable[[stepped.Stepped], bool]
    kills: dict[int, int]
    cleaning: Act


class Rounds:
    """Rounds of one race, in namespaces of their own."""

    def __init__(self, race: str, seed: int = 0) -> None:
        self.race = race
        self.seed = seed
        self.chance = random.Random(seed)
        self.folder = "/dev/shm/files"
        self.rounds: Counter[str] = Counter()  # by kind
        self.seen: Counter[str] = Counter()
        self.killed_at: set[tuple[str, kinds.Kind, int]] = set()
        self.longest: dict[tuple[str, kinds.Kind], int] = {}
        self.actors: list[Actor] = []
        os.makedirs(self.folder, exist_ok=True)
        # One process runs at a time: on one core it need not be woken on another one.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[os.getpid() % len(cores)]})
        for kind in kinds.NAMED:  # imports everything
            for act in KILLED:
                act(kind, self._place(kind))
            kinds.forget(self._place(kind))

    def close(self) -> None:
        for actor in self.actors:
            actor.kill()

    def result(self) -> list[Any]:
        """End; return the rounds by kind, what came of them, and in how many places some died."""
        self.close()
        return [
            dict(sorted(self.rounds.items())),
            dict(sorted(self.seen.items())),
            len(self.killed_at),
        ]

    def _place(self, kind: kinds.Kind) -> str:
        place = kind.place("heap", self.folder)
        assert place is not None
        return place

    # Which rounds

    def at_random(self, count: int) -> None:
        """Play rounds of which chance decides everything."""
        for _ in range(count):
            kind = self.chance.choice(kinds.NAMED)
            among = RACES[self.race]
            if self.race == "killed":
                among = self.chance.choice((OPENING, STALE))
            acts = tuple(self.chance.choices(among, k=self.chance.choice((2, 2, 2, 3))))
            if self.race == "inherited":
                acts = (use_inherited, *acts[1:])
            kills = self._kills(kind, acts)
            cleaning = self.chance.choice(CLEANING)
            is_there = self.chance.random() < 0.5
            self.play(Round(kind, is_there, acts, self._changes(), kills, cleaning))

    def _changes(self) -> Callable[[stepped.Stepped], bool]:
        often = self.chance.choice((0.02, 0.1, 0.5))
        return lambda _: self.chance.random() < often

    def _kills(self, kind: kinds.Kind, acts: tuple[Act, ...]) -> dict[int, int]:
        """Choose who is killed at which stop: each that the act is known to have is as likely."""
        doomed = []
        if self.race == "killed":
            doomed = self.chance.sample(range(len(acts)), self.chance.choice((1, 1, len(acts))))
        elif self.race == "inherited" and self.chance.random() < 0.5:
            doomed = [0]
        return {
            number: self.chance.randint(1, self.longest.get((acts[number].__name__, kind), 100))
            for number in doomed
        }

    def each(self, kind: kinds.Kind, only: str = "") -> None:
        """Play each round of a kind that has one change, or one death."""
        firsts = seconds = RACES[self.race]
        if self.race == "killed":
            seconds = CLEANING
        pairs = list(itertools.product(firsts, seconds))
        if self.race == "inherited":
            pairs = [pair for act in STALE for pair in ((use_inherited, act), (act, use_inherited))]
        for first, second in pairs:
            if only in ("", first.__name__):
                if self.race != "inherited":
                    self.each_stop(kind, False, first, second)
                self.each_stop(kind, True, first, second)

    def each_stop(self, kind: kinds.Kind, is_there: bool, first: Act, second: Act) -> None:
        """Stop, or kill, an act at each system call in turn, and perform another one meanwhile."""
        stop = 1
        while True:
            if self.race == "killed":
                one = Round(kind, is_there, (first,), lambda _: False, {0: stop}, second)
            else:
                one = Round(kind, is_there, (first, second), _once(stop), {}, second)
            if self.play(one) < stop:
                return
            stop += 1

    # One round

    def play(self, one: Round) -> int:
        """Play one round; return how many stops the first one has had."""
        self.rounds[str(one.kind)] += 1
        try:
            return self._play(one)
        except BaseException as error:
            acts = ", ".join(act.__name__ for act in one.acts)
            stops = [actor.stops for actor in self.actors]
            error.add_note(
                f"in round {self.rounds.total()} of seed {self.seed}: {one.kind}, there before: "
                f"{one.is_there}, {acts}, killed at {one.kills}, stopped at {stops}, then "
                f"{one.cleaning.__name__}"
            )
            raise

    def _play(self, one: Round) -> int:
        kind, place = one.kind, self._place(one.kind)
        had = {open_it(kind, place)[1]} if one.is_there else set()
        while len(self.actors) < len(one.acts):
            self.actors.append(Actor())
        heirs = [self._heir(kind, place)] if use_inherited in one.acts else []
        playing = self.actors[: len(one.acts) - len(heirs)]
        if heirs:
            playing.insert(one.acts.index(use_inherited), *heirs)
        for actor, act in zip(playing, one.acts, strict=True):
            actor.told.write(act.__name__, *kind, place)
        stepped.interleave(playing, self.chance, one.changes, one.kills)
        removed = 0
        for actor, act in zip(playing, one.acts, strict=True):
            key = act.__name__, kind
            if actor.ended:
                self.seen[f"{act.__name__}: killed"] += 1
                self.killed_at.add((*key, actor.stops))
                continue
            self.longest[key] = max(self.longest.get(key, 0), min(actor.stops, 200))
            said, identity = actor.told.read()
            self.seen[f"{act.__name__}: {said}"] += 1
            removed += "unlinked" in said
            had |= {identity} - {0}
        if any(actor.ended for actor in playing):
            self._clean(one)
        else:
            self._count(kind, place, removed, len(had))
        for heir in heirs:
            heir.kill()
        self._expect_nothing_left()
        stops = playing[0].stops
        self.actors = [actor for actor in self.actors if not actor.ended]
        return stops

    def _heir(self, kind: kinds.Kind, place: str) -> Actor:
        with ipcheap.Heap.open(place, CAPACITY, shm=kind.shm, sem=kind.sem) as heap:
            Actor.inherited = heap
            heir = Actor()
        Actor.inherited = None
        return heir

    def _count(self, kind: kinds.Kind, place: str, removed: int, had: int) -> None:
        there = unlink_it(kind, place)[0] == "unlinked"
        assert removed + there >= had, f"of {had} heaps {removed} were removed, left: {there}"

    def _clean(self, one: Round) -> None:
        place = self._place(one.kind)
        with warnings.catch_warnings(action="error"):
            one.cleaning(one.kind, place)
            kinds.forget(place)

    def _expect_nothing_left(self) -> None:
        end = time.monotonic() + _PATIENCE
        while True:
            left = [name for name in kinds.kernel_objects() if name != self.folder]
            left += os.listdir(self.folder)
            if not left:
                return
            assert time.monotonic() < end, f"{left} stays behind"
            time.sleep(0.001)


def _once(stop: int) -> Callable[[stepped.Stepped], bool]:
    """Return a function that lets another one go on at the first one's `stop`, and not again."""
    done = False

    def changes(actor: stepped.Stepped) -> bool:
        nonlocal done
        now = not done and actor.stops == stop
        done |= now
        return now

    return changes


def at_random(race: str, rounds: int, seed: int) -> list[Any]:
    """Play so many rounds; return how many of each kind, what came of them, and places of death."""
    players = Rounds(race, seed)
    players.at_random(rounds)
    return players.result()


def each(race: str, shm: str, sem: str, only: str = "") -> list[Any]:
    """Play each round of one kind that has one change or one death; return the same."""
    players = Rounds(race)
    players.each(kinds.Kind(shm, sem), only)
    return players.result()


def each_stop(race: str, shm: str, sem: str, is_there: bool, first: str, second: str) -> int:
    """Play each round of two acts that has one change; return how many there were."""
    players = Rounds(race)
    acts = {act.__name__: act for act in KILLED}
    players.each_stop(kinds.Kind(shm, sem), is_there, acts[first], acts[second])
    players.close()
    return players.rounds.total()


def renew_at_each_stop(shm: str, sem: str) -> int:
    """Put a new heap in the place of one in which a pipe is made and removed; return the stops.

    The new heap's pipe, of the same seat, is not taken for the one of the old heap.
    """
    players = Rounds("opening")
    kind = kinds.Kind(shm, sem)
    place = players._place(kind)
    actor = Actor()
    stop = 0
    while True:
        actor.told.write(be_readable.__name__, *kind, place)
        _step_to_pause(actor)
        for _ in range(stop):
            actor.step()
        if stop and actor.pauses:
            break
        unlink_it(kind, place)
        before = stepped.CALLS[actor.at]
        assert _renew(kind, place, actor) == "rung", f"in stop {stop}, before {before}"
        stop += 1
    actor.kill()
    kinds.forget(place)
    players._expect_nothing_left()
    return stop


def _renew(kind: kinds.Kind, place: str, actor: Actor) -> str:
    """Make a heap with a pipe beside its file, continue the actor, return what the pipe does."""
    with ipcheap.Heap.open(place, CAPACITY, shm=kind.shm, sem=kind.sem) as heap:
        channel = heap.add_record_channel(1, 4)
        with channel.consumer() as consumer, channel.producer() as producer:
            consumer.fileno()
            _step_to_pause(actor)
            if not _pipes(place):
                return "removed"
            producer.send(b"")
            is_rung = bool(select.select([consumer], [], [], 0)[0])
        heap.unlink()
        return "rung" if is_rung else "silent"


def _step_to_pause(actor: Actor) -> None:
    actor.step()
    while not actor.pauses:
        actor.step()


def _pipes(place: str) -> list[str]:
    folder, file = os.path.split(_kernel.path_of(place))
    return [name for name in os.listdir(folder) if name.startswith(f"{file}~")]


def lose_the_semaphore(name: str) -> list[str]:
    """Attach to a heap whose semaphore was removed, first while a process has it open."""
    said = []
    with ipcheap.Heap.create(name, CAPACITY, sem="sysv") as heap:
        _kernel.remove_sysv_semaphore(heap._info.sem_id, heap._file, "a test")
        with ipcheap.Heap.attach(name) as other:
            said.append("same" if other.identity == heap.identity else "new")
    said.append(_outside.state_of(name))
    try:
        ipcheap.Heap.attach(name).close()
    except ipcheap.HeapNotFound as error:
        said.append(type(error).__name__)
    with ipcheap.Heap.open(name, CAPACITY, sem="sysv") as other:
        said.append("same" if other.identity == heap.identity else "new")
        other.unlink()
    return said


def main() -> None:
    """Run in namespaces of its own, and print what came of it."""
    race, what, *more = sys.argv[1:]
    begin = time.monotonic()
    if what == "each":
        played = kinds.call_apart(each, race, *more[0].split("-"), *more[1:], patience=3600)
    else:
        seed = int(more[0]) if more else int.from_bytes(os.urandom(4))
        played = kinds.call_apart(at_random, race, int(what), seed, patience=3600)
    rounds, seen, places = played
    print(
        f"{' '.join(sys.argv[1:])}: {sum(rounds.values())} rounds in "
        f"{time.monotonic() - begin:.1f} s, killed in {places} places; {json.dumps(rounds)}; "
        f"{json.dumps(seen)}"
    )


if __name__ == "__main__":
    main()

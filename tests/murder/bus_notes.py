"""What is written down about buses, and what must agree with it."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from .words import Word, insist, words_of

if TYPE_CHECKING:
    import ipcheap

WORKS = 4  # lives that a child may have: its works, each in a thread of its own
CHILDREN_PER_SECOND = 60  # more than are ever started
MESSAGES_PER_SECOND = 60_000  # on one bus: more than is possible
EARS = 8  # listeners whose releases are written down
MARKS = 1 << 16  # more messages than one of them holds
PIDS = 1 << 22

BROADCAST = 1 << 63
NUMBER_BITS = 38


class Line(NamedTuple):
    """A bus: the arguments of `add_bus()`."""

    id: int
    capacity: int
    history: int
    patience: float | None

    def add(self, heap: ipcheap.Heap) -> ipcheap.Bus:
        return heap.add_bus(self.id, self.capacity, history=self.history, patience=self.patience)


# Nothing is lost on the first one, except by lossy listeners. The last one is removed all the time.
LINES = (Line(20, 64, 0, None), Line(21, 16, 8, 0.02), Line(22, 8, 4, None))
WHOLE, LIMITED, PASSING = range(3)


def name_of(life: int, number: int, *, broadcast: bool) -> int:
    return broadcast << 63 | life << NUMBER_BITS | number


def life_of(name: int) -> int:
    return (name & ~BROADCAST) >> NUMBER_BITS


def number_of(name: int) -> int:
    return name & (1 << NUMBER_BITS) - 1


class Life:
    """One work of one child, as a poster: words that it alone writes."""

    line = Word(0)  # the bus that it posts on, + 1
    begun = Word(1)  # it has begun to post so many messages
    posted = Word(2)  # and has posted no less than so many
    until = Word(3)  # its broadcast ends at this time, in monotonic nanoseconds
    returned = Word(4)  # it has returned from the broadcast of all below this number
    forwards = Word(5)  # it posts what it has received

    def __init__(self, words: memoryview[int]) -> None:
        self.words = words


class Ear:
    """A reliable listener, in a thread that does not broadcast."""

    session = Word(0)  # the child's number << 32 | how often it has listened; 0: not registered
    line = Word(1)
    bound = Word(2)  # it was registered before this position was posted
    releasing = Word(3)  # it has begun to release all below

    def __init__(self) -> None:
        self.words = words_of(8)
        self._begun = words_of(MARKS)

    def begin(self, position: int) -> None:
        """Note that it begins to release a message."""
        self._begun[position % MARKS] = position + 1

    def has_begun(self, position: int) -> bool:
        return self.releasing > position or self._begun[position % MARKS] > position


class BusNotes:
    """Memory shared by fork."""

    def __init__(self, seconds: float) -> None:
        children = int((seconds + 70) * CHILDREN_PER_SECOND)
        room = int((seconds + 10) * MESSAGES_PER_SECOND)
        self._lives = words_of(8 * WORKS * children)
        self.pids = words_of(children)  # of a child, by its number
        self.ended = words_of(children)  # when it was killed or ended, in monotonic nanoseconds
        self.reaped = words_of(children)  # when it was dead for certain
        self.stops = words_of(children)  # odd: it is stopped, or is about to be
        self.children = words_of(PIDS)  # the number of a child, by its pid
        self.ears = [Ear() for _ in range(EARS)]
        # Of each bus: what stands at each position, and which life has forwarded it, + 1.
        self.names = [words_of(room) for _ in LINES]
        self.forwarders = [words_of(room) for _ in LINES]
        words = words_of(512)
        self.clerks = words[0:1]  # listeners that receive everything
        self.returned = words[8:16]  # of each bus: all below a position have been posted
        self.heard = words[16:24]  # messages received
        self.lost = words[24:32]
        self.reports = words[32:40]  # broadcasts: complete, with a slow listener, with one gone
        self.waits = words[40:41]  # posts that came to their deadline
        self.late = words[64:104]  # calls by how late they returned: less than 2 ** n microseconds

    def life(self, number: int) -> Life:
        return Life(self._lives[8 * number : 8 * number + 8])

    def be_born(self, number: int, pid: int) -> None:
        """Note the pid of a child, before it or its parent goes on."""
        self.pids[number] = pid
        self.children[pid] = number

    def put_name(self, line: int, position: int, name: int, forwarder: int = 0) -> None:
        """Note what stands at a position, or check that it is what others have found there."""
        known = self.names[line][position]
        insist(
            known in (0, name),
            f"bus {line}: message {name:x} stands at {position}, where others found {known:x}",
        )
        self.forwarders[line][position] = forwarder
        self.names[line][position] = name

    def debtors(self, line: int, position: int, *, before: bool = False) -> list[str]:
        """Return which living listeners have not even begun to release a message they owe.

        With `before`, the messages before it as well.
        """
        found = []
        for ear in self.ears:
            session, bound = ear.session, ear.bound
            child = session >> 32
            if not session or ear.line != line or bound > position:
                continue
            if ear.releasing > position if before else ear.has_begun(position):
                continue
            if ear.session == session and not self.ended[child]:
                found.append(f"child {child}, there by {bound}, released up to {ear.releasing}")
        return found

    def punctuality(self) -> str:
        """Describe how late calls with a deadline returned."""
        counts = list(self.late)
        tardy, slowest = sum(counts[17:]), max((n for n in range(40) if counts[n]), default=0)
        return (
            f"{sum(counts):,} calls came to their deadline, {tardy:,} returned more than 65 ms "
            f"late, none more than {2**slowest / 1e3:.0f} ms"
        )


def account(notes: BusNotes, line: int, posted: int) -> None:
    """Check that the messages of a bus are those that were posted, each once and in order."""
    names, forwarders = (each[line][:posted].tolist() for each in (notes.names, notes.forwarders))
    insist(not any(notes.names[line][posted : posted + 1000]), f"bus {line}: more than {posted}")
    unknown = names.count(0)
    insist(line != WHOLE or not unknown, f"bus {line}: nobody received {unknown} messages")
    last: dict[tuple[int, int], int] = {}
    counts: Counter[int] = Counter()
    for position, (name, forwarder) in enumerate(zip(names, forwarders, strict=True)):
        if not name:
            continue
        life, number = life_of(name), number_of(name)
        before = last.get((forwarder, life), -1)
        what = f"bus {line}: message {number} of life {life} at {position}"
        insist(number > before, f"{what} comes after {before}")
        if not forwarder:
            insist(unknown > 0 or number == before + 1, f"{what} comes after {before}")
            insist(notes.life(life).line == line + 1, f"{what} was not posted there")
        last[forwarder, life] = number
        counts[forwarder - 1 if forwarder else life] += 1
    for life in range(len(notes.pids) * WORKS):
        known = notes.life(life)
        if known.line == line + 1:
            insist(
                known.posted - unknown <= counts[life] <= known.begun,
                f"bus {line}: {counts[life]} messages of life {life}, which has posted "
                f"{known.posted} and begun to post {known.begun}",
            )

"""The killer: starts, kills and replaces all children, and accounts for all records."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import secrets
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn

import ipcheap

from . import bus_notes, buses, flows, shelves
from .notes import AUDITORS, GONE, RINGS, SOURCES, Notes
from .victims import (
    CAPACITY,
    GUARDED,
    GUISES,
    PATIENCE,
    Guise,
    Worker,
    clean,
    consume,
    forward,
    idle,
    produce,
)
from .words import Wrong, insist

STALLED = 30.0  # seconds without progress after which something is stuck
LONG_STOP = 3.0  # seconds; longer than any call may take after its deadline
RESIGNED = 3  # exit code of a child with work left to do
PARTS = ("channels", "buses")

Work = Callable[[Worker], bool]


@dataclass(frozen=True)
class Role:
    """What a child does; further works run in threads of their own."""

    name: str
    works: tuple[Work, ...]
    spared: bool = False  # it is stopped only, and ends last


def roles(parts: Sequence[str]) -> list[Role]:
    """Return the children that run at any time."""
    return [
        *(channel_roles() if "channels" in parts else ()),
        *(bus_roles() if "buses" in parts else ()),
        *(Role("idler", (idle,)) for _ in range(3)),
        Role("cleaner", (clean,)),
    ]


def channel_roles() -> list[Role]:
    return [
        Role("producer", (partial(produce, channel=0),)),
        Role("consumer and producer", (partial(consume, channel=0), partial(produce, channel=1))),
        Role("forwarder", (partial(forward, channel=1, onward=2),)),
        Role("consumer", (partial(consume, channel=2),)),
        Role("producer", (partial(produce, channel=3),)),
        Role("forwarder", (partial(forward, channel=3, onward=4),)),
        Role("forwarder", (partial(forward, channel=4, onward=5),)),
        Role("consumer", (partial(consume, channel=5),)),
        Role("writer", (partial(flows.write, flow=0),)),
        Role("reader", (partial(flows.read, flow=0),)),
        Role("writer and reader", (partial(flows.write, flow=1), partial(flows.read, flow=2))),
        Role("reader and writer", (partial(flows.read, flow=1), partial(flows.write, flow=2))),
        Role("producer", (partial(produce, channel=6),)),
        Role("storer", (partial(shelves.shelve, channel=6),)),
        Role("browser", (shelves.browse,)),
        Role("scribe", (shelves.keep,)),
        Role("auditor", (partial(shelves.audit, number=0),)),
        Role("two auditors", tuple(partial(shelves.audit, number=n) for n in range(1, AUDITORS))),
    ]


def bus_roles() -> list[Role]:
    def posts(line: int, part: int = 0) -> Work:
        return partial(buses.post, part=part, line=line)

    def listens(line: int, part: int = 0, **how: Any) -> Work:
        return partial(buses.listen, part=part, line=line, **how)

    whole, limited = bus_notes.WHOLE, bus_notes.LIMITED
    clerks = [partial(buses.record_all, part=line, line=line) for line in (whole, limited)]
    return [
        Role("clerk", tuple(clerks), spared=True),
        Role("poster", (posts(whole),)),
        Role("two posters", (posts(whole), posts(limited, 1))),
        Role("poster", (posts(limited),)),
        Role("listener", (listens(whole, ear=0),)),
        Role("two listeners", (listens(whole, ear=1), listens(limited, 1, ear=2))),
        Role("poster and listener", (posts(whole), listens(whole, 1, ear=3))),
        Role("listener", (listens(limited, ear=4),)),
        Role("two lossy ones", tuple(listens(line, line, lossy=True) for line in (whole, limited))),
        Role("talker", (partial(buses.talk, part=0, line=whole),)),
        Role("repeater", (partial(buses.forward, part=0, ear=5),)),
        *(Role("remover", (partial(buses.remove, part=0),)) for _ in range(2)),
    ]


class Killer:
    """Starts all children, kills and replaces them, and checks the result."""

    def __init__(self, seconds: float, seed: int, parts: Sequence[str] = PARTS) -> None:
        self.seconds = seconds
        self.parts = parts
        self.seed = seed
        self.dice = random.Random(seed)
        self.notes = Notes(seconds)
        self.name = f"murder.{os.getpid()}.{secrets.token_hex(4)}"
        self.counts: Counter[str] = Counter()
        self.children: dict[int, Role] = {}
        self.numbers: dict[int, int] = {}  # of the children, by pid
        self.missing: list[tuple[float, Role]] = []  # to be started, and when
        self.stopped: dict[int, float] = {}  # to be continued, and when
        self.killed: set[int] = set()
        self.started = 0
        self.complaints, self._complaints_in = os.pipe()
        os.set_blocking(self.complaints, False)
        self.heap = ipcheap.Heap.create(self.name, CAPACITY)

    def run(self) -> None:
        """Do all of it; raise Wrong if a promise was not kept."""
        for channel, slots in enumerate(RINGS):
            self.heap.add_record_channel(channel, slots)
        self.heap.add_static_segment(GUARDED, 128)
        for flow, notes in zip(flows.FLOWS, self.notes.flows, strict=False):
            flow.add(self.heap)
            if flow.resets:  # which the writer may do before there is a reader
                notes.releasing = 1 << 62
        before = self.heap.statistics()
        if "channels" in self.parts:
            shelves.add(self.heap)
        if "buses" in self.parts:
            for line in bus_notes.LINES:
                line.add(self.heap)
        self.missing = [(0.0, role) for role in roles(self.parts)]
        end = time.monotonic() + self.seconds
        try:
            self.work(lambda: time.monotonic() >= end, murder=True)
            self.notes.stop[0] = 1
            late = time.monotonic() + PATIENCE
            self.work(lambda: self.is_over(late), murder=False)
            self.account(before)
        finally:
            for pid in self.children:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def is_over(self, late: float) -> bool:
        insist(time.monotonic() < late, f"not done after {PATIENCE:.0f} s: {self.left()}")
        if not self.missing and all(role.spared for role in self.children.values()):
            self.notes.stop[0] = 2
        return not self.children and not self.missing

    def left(self) -> list[str]:
        return [f"{role.name} {pid}" for pid, role in self.children.items()]

    def work(self, done: Callable[[], bool], *, murder: bool) -> None:
        """Keep all children at work until the time is over."""
        next_kill = time.monotonic() + 0.2
        moved: dict[str, float] = {}
        progress: dict[str, int] = {}
        while not done():
            now = time.monotonic()
            self.reap()
            self.resume(now)
            for due, role in list(self.missing):
                if due <= now:
                    self.missing.remove((due, role))
                    self.start(role)
            if murder and now >= next_kill:
                self.strike(now)
                next_kill = now + 0.15 * self.dice.random() ** 2
            for what, made in self.progress().items():
                if made != progress.get(what):
                    moved[what], progress[what] = now, made
                insist(now - moved[what] < STALLED, f"{what} for {STALLED:.0f} s")
            time.sleep(0.002)

    def progress(self) -> dict[str, int]:
        """Return counts that must increase."""
        made = {}
        if "buses" in self.parts and not self.notes.stop[0]:
            for line, heard in zip(bus_notes.LINES, self.notes.buses.heard, strict=False):
                made[f"nothing was heard on bus {line.id}"] = heard
        if "channels" not in self.parts:
            return made
        made["no record has moved"] = sum(self.notes.fresh) + sum(self.notes.sent)
        for flow, notes in zip(flows.FLOWS, self.notes.flows, strict=False):
            if not notes.done:
                made[f"nothing was written to stream {flow.id}"] = notes.written
                made[f"nothing was read from stream {flow.id}"] = notes.released
        if not self.notes.stop[0]:
            made["nothing was committed to the ledger"] = self.notes.ledger.commits[0]
            made["nobody looked at the ledger"] = sum(self.notes.ledger.looks)
            made["nothing was found on the shelf"] = self.notes.found[0]
        return made

    def start(self, role: Role) -> None:
        self.started += 1
        number, anew = self.started, self.dice.random() < 0.5
        guise = self.dice.choice(GUISES)
        self.counts[guise.__name__] += 1
        pid = os.fork()
        if pid == 0:
            self.be(role, number, anew, guise)
        self.notes.buses.be_born(number, pid)
        self.children[pid], self.numbers[pid] = role, number

    def be(self, role: Role, number: int, anew: bool, guise: type[Guise]) -> NoReturn:
        """Work, in a child, with a newly attached heap or with the inherited one."""
        faulthandler.enable()
        self.notes.buses.be_born(number, os.getpid())
        heap = ipcheap.Heap.attach(self.name) if anew else self.heap
        program = guise(self._complaints_in)
        done = []

        def work(which: int) -> None:
            try:
                worker = Worker(heap, self.notes, number, f"{self.seed}.{number}.{which}")
                worker.forks, worker.serves = program.forks, program.serves
                done.append(role.works[which](worker))
                program.verify()
            except BaseException:
                text = f"{role.name} {os.getpid()}:\n{traceback.format_exc()}"
                os.write(self._complaints_in, text.encode()[:60_000])
                os._exit(1)

        others = [threading.Thread(target=work, args=(n,)) for n in range(1, len(role.works))]
        for thread in others:
            thread.start()
        work(0)
        if not done[0]:
            self.notes.buses.ended[number] = time.monotonic_ns()
            os._exit(RESIGNED)  # in whatever state the others are
        for thread in others:
            thread.join()
        heap.close()
        os._exit(0 if all(done) else RESIGNED)

    def strike(self, now: float) -> None:
        if not self.children:
            return
        pid = self.dice.choice(list(self.children))
        number = self.numbers[pid]
        if self.dice.random() < 0.15:
            if pid not in self.stopped:
                self.notes.buses.stops[number] += 1
            os.kill(pid, signal.SIGSTOP)
            long = LONG_STOP if self.dice.random() < 0.1 else 0.5
            self.stopped[pid] = now + self.dice.random() * long
            self.counts["stops"] += 1
        elif pid not in self.killed and not self.children[pid].spared:
            self.notes.buses.ended[number] = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            self.killed.add(pid)
            self.counts["kills"] += 1
            self.counts[f"kills of a {self.children[pid].name}"] += 1

    def resume(self, now: float) -> None:
        for pid, due in list(self.stopped.items()):
            if due <= now:
                del self.stopped[pid]
                if pid in self.children:
                    os.kill(pid, signal.SIGCONT)
                    self.notes.buses.stops[self.numbers[pid]] += 1

    def reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            role = self.children.pop(pid)
            self.notes.buses.reaped[self.numbers[pid]] = time.monotonic_ns()
            self.stopped.pop(pid, None)
            code = os.waitstatus_to_exitcode(status)
            if pid in self.killed and code == -signal.SIGKILL:
                self.killed.discard(pid)
            else:
                if code not in (0, RESIGNED):
                    raise Wrong(f"a {role.name} ended with {code}:\n{self.complaint()}")
                self.counts["ends"] += 1
                if code == 0:
                    continue
            wait = self.dice.choice((0.0, 0.0, 0.01, 0.05, 0.6))
            self.missing.append((time.monotonic() + wait, role))

    def complaint(self) -> str:
        try:
            return os.read(self.complaints, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            return "(it said nothing)"

    def account(self, before: ipcheap.HeapStatistics) -> None:
        """Check the state of everything in the end."""
        self.heap.recover()
        if "channels" in self.parts:
            self.account_channels()
        if "buses" in self.parts:
            self.account_buses()
        heap = self.heap
        for channel_id in list(heap.channels):
            if isinstance(channel_id, str) and channel_id != GUARDED:
                heap.remove_channel(channel_id)
        faults = heap.check()
        insist(not faults, f"check() says: {faults}")
        after = heap.statistics()
        for what in ("in_use", "records", "extents", "channels", "participants"):
            was, now = getattr(before, what), getattr(after, what)
            insist(now == was, f"{what} was {was} and is {now}")
        heap.close()
        heap.unlink()
        left = [name for name in os.listdir("/dev/shm") if self.name in name]
        insist(not left, f"{left} is left in /dev/shm")

    def account_buses(self) -> None:
        for number, line in enumerate(bus_notes.LINES):
            bus = line.add(self.heap)
            figures = bus.statistics()
            insist(figures.listeners == figures.waiting == 0, f"bus {number} is left as {figures}")
            if number != bus_notes.PASSING:
                bus_notes.account(self.notes.buses, number, figures.posted)
            self.heap.remove_channel(line.id)

    def account_channels(self) -> None:
        notes, heap = self.notes, self.heap
        for channel, source in SOURCES.items():
            sent = notes.sent[source]
            with heap.consumer(channel) as consumer:
                insist(consumer.pending == 0, f"channel {channel}: {consumer.pending} pending")
                found = consumer.statistics().sent
            insist(found == sent, f"channel {channel}: {found} of {sent} records were sent")
            insist(notes.fresh[channel] == sent, f"channel {channel}: not all were received")
            gone = sum(word & 3 == GONE for word in notes.records[channel][:sent])
            insist(gone == sent, f"channel {channel}: {sent - gone} records were not released")
        for flow, known in zip(flows.FLOWS, notes.flows, strict=False):
            with heap.stream_writer(flow.id) as writer, heap.stream_reader(flow.id) as reader:
                insist(
                    writer.position == reader.position == known.written > 0,
                    f"stream {flow.id}: {writer.position} items of {known.written} written, "
                    f"{reader.position} read",
                )
        shelves.account(heap, notes)

    def figures(self) -> str:
        notes = self.notes
        records = sum(notes.sent[channel] for channel in set(SOURCES.values()))
        passed = sum(notes.fresh[channel] for channel in range(len(RINGS)))
        killed = ", ".join(
            f"{count} {what.removeprefix('kills of a ')}"
            for what, count in sorted(self.counts.items())
            if what.startswith("kills of a ")
        )
        text = (
            f"seed {self.seed}: {self.seconds:g} s, {self.counts['kills']} kills ({killed}), "
            f"{self.counts['stops']} stops, {self.counts['ends']} ends, "
            f"{self.counts['Daemon']} daemons, {self.counts['Nobody']} without privileges"
        )
        if "channels" in self.parts:
            text += (
                f"; {records:,} records sent, "
                f"{passed:,} received, {sum(notes.again):,} redelivered, "
                f"{sum(notes.undecided):,} killed while being released; "
                f"{sum(flow.written for flow in notes.flows):,} items written to streams; "
                f"{notes.ledger.commits[0]:,} commits to a ledger, {sum(notes.ledger.looks):,} "
                f"looks, {notes.found[0]:,} chunks found on a shelf"
            )
        if "buses" in self.parts:
            on = notes.buses
            text += (
                f"; {sum(on.returned):,} messages posted, {sum(on.heard):,} received, "
                f"{sum(on.lost):,} lost, {on.waits[0]:,} posts that found no room, "
                f"{on.reports[0]:,} broadcasts complete, {on.reports[1]:,} with a slow listener, "
                f"{on.reports[2]:,} with one gone; {on.punctuality()}"
            )
        return text

    def state(self) -> str:
        """Describe the present state, to help find the cause of a failure."""
        notes = self.notes
        lines = [
            f"channel {c}: sending {notes.sending[SOURCES[c]]}, sent {notes.sent[SOURCES[c]]}, "
            f"received {notes.fresh[c]}, unsettled {notes.unsettled(c)}"
            for c in range(len(RINGS))
        ]
        lines += [
            f"stream {flow.id}: written {known.written} to {known.writing}, released "
            f"{known.released} to {known.releasing}, cut {known.cut}, done {known.done}"
            for flow, known in zip(flows.FLOWS, notes.flows, strict=False)
        ]
        with contextlib.suppress(Exception):
            for line in bus_notes.LINES if "buses" in self.parts else ():
                bus = line.add(self.heap)
                lines += [f"bus {line.id}: {bus.statistics()}", *map(str, bus.listeners())]
        with contextlib.suppress(Exception):
            lines += [str(self.heap.statistics()), *self.heap.check()]
        return "\n".join([*lines, f"heap {self.name} is left as it is"])

"""Kill participants of a heap at random, for as long as you like; then account for all of it.

    python tests/murder.py --seconds 10 --seed 7

Producers, consumers, forwarders and idle participants, a process each, work on one heap:

    0 -> consumer        1 -> forwarder -> 2 -> consumer
    3 -> forwarder -> 4 -> forwarder -> 5 -> consumer

with records of 8 bytes to 4 MiB. They are killed (SIGKILL) at random, stopped and continued,
and replaced. What each has done it writes down in memory that does not belong to the heap:
a word for every record of every channel, one store before an act and one after it. So when
somebody has been killed, it is known of each record that

    RECEIVED   he had it: it must come again
    LEAVING    he was freeing or forwarding it: it may come again, or is done with
    GONE       it was done with: it must never be seen again

and the consumer that follows must get just these first, in order, and then the first record
that nobody has had. In the end every record that was sent has gone from every channel,
heap use is back at what it was, `check()` finds nothing, and no kernel object is left.

Ends with 0 when all of that holds. What it chooses follows from the seed; when the kernel
runs whom does not, so a failure may take several runs to come again.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import mmap
import os
import random
import secrets
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

import ipcheap

RINGS = (8, 16, 4, 32, 8, 16)  # slots of each channel
SOURCES = {0: 0, 1: 1, 2: 1, 3: 3, 4: 3, 5: 3}  # whose records a channel carries
CAPACITY = 64 << 20
LARGEST = 4 << 20
RECORDS_PER_SECOND = 100_000  # on one channel, more than there can be
STALLED = 30.0  # seconds without any progress after which something is waited on for ever
PATIENCE = 60.0  # seconds for everybody to finish

RESIGNED = 3  # exit code of a child whose work is not done
NONE, RECEIVED, LEAVING, GONE = range(4)
IDLE_SEGMENTS = 4
GUARDED = "guarded"  # a static segment: a lock, and two words that it keeps equal


class Wrong(Exception):
    """A promise that was not kept."""


def insist(condition: bool, text: str) -> None:
    """Fail unless a condition holds."""
    if not condition:
        raise Wrong(text)


# Records ------------------------------------------------------------------------------------


def size_of(source: int, number: int) -> int:
    """Return the size of a record, the same for all who ask; most are small."""
    dice = random.Random(source << 48 | number).random()
    return int(8 * (LARGEST / 8) ** (dice * dice))


def content_of(source: int, number: int) -> bytes:
    """Return what a record holds: its name, over and over."""
    nbytes = size_of(source, number)
    name = (source << 48 | number).to_bytes(8, "little")
    return (name * (nbytes // 8 + 1))[:nbytes]


# What is written down -------------------------------------------------------------------------


class Notes:
    """Memory shared by fork, apart from the heap: who has done what; one store each."""

    def __init__(self, seconds: float) -> None:
        self.room = int((seconds + 10) * RECORDS_PER_SECOND)
        self.records = [memoryview(mmap.mmap(-1, 4 * self.room)).cast("B").cast("I") for _ in RINGS]
        words = memoryview(mmap.mmap(-1, 4096)).cast("B").cast("Q")
        self.stop = words[0:1]
        self.sending = words[8:16]  # by channel: a producer has begun with all below
        self.sent = words[16:24]  # and is done with all below
        self.fresh = words[24:32]  # all below have been received at least once
        self.again = words[32:40]  # records that came again
        self.undecided = words[40:48]  # killed while freeing or forwarding one
        self.done = words[48:56]  # nobody will ever send on that channel again

    def state(self, channel: int, number: int) -> int:
        return self.records[channel][number] & 3

    def put(self, channel: int, number: int, state: int, who: int) -> None:
        self.records[channel][number] = who << 2 | state

    def unsettled(self, channel: int) -> tuple[list[int], list[int]]:
        """Return the records that a killed consumer had, and those that it was letting go."""
        fresh = self.fresh[channel]
        window = range(max(0, fresh - 2 * max(RINGS)), fresh + 1)
        states = [(number, self.state(channel, number)) for number in window]
        return (
            [number for number, state in states if state == RECEIVED],
            [number for number, state in states if state == LEAVING],
        )


# Who works ------------------------------------------------------------------------------------


class Worker:
    """What a child does, with a heap, notes and dice of its own."""

    def __init__(self, heap: ipcheap.Heap, notes: Notes, number: int, seed: str) -> None:
        self.heap = heap
        self.notes = notes
        self.number = number
        self.dice = random.Random(seed)
        self.killer = os.getppid()

    @property
    def stopping(self) -> bool:
        return bool(self.notes.stop[0])

    def resigns(self) -> bool:
        """Now and then one goes of its own accord, and is replaced as well."""
        self.obey()
        return self.dice.random() < 0.0005

    def obey(self) -> None:
        """End with the killer, if somebody kills him."""
        if os.getppid() != self.killer:
            os._exit(1)

    def patience(self) -> float:
        self.obey()
        return self.dice.choice((0.0, 0.001, 0.05, 1.0))

    def nap(self) -> None:
        time.sleep(self.dice.random() * 0.004)


# Each of these returns whether its work is done; if not, somebody else is to go on with it.


def produce(worker: Worker, channel: int) -> bool:
    """Send records in their order, going on behind the last one that was sent."""
    notes, heap, dice = worker.notes, worker.heap, worker.dice
    with heap.producer(channel, timeout=PATIENCE) as producer:
        at = producer.statistics().sent
        insist(
            notes.sent[channel] <= at <= notes.sending[channel],
            f"channel {channel} has {at} records sent, which should be from "
            f"{notes.sent[channel]} to {notes.sending[channel]}",
        )
        notes.sent[channel] = at
        while not worker.stopping and not worker.resigns():
            records: list[ipcheap.Record] = []
            for number in range(at, at + dice.choice((1, 1, 1, 2, 5))):
                content = content_of(channel, number)
                while not worker.stopping:
                    try:
                        record = heap.allocate_record(len(content))
                    except ipcheap.HeapFull:
                        if records:
                            break
                        worker.nap()
                        continue
                    record.view[:] = content
                    records.append(record)
                    break
                if len(records) <= number - at:
                    break
            at = _send(worker, producer, channel, at, records)
        notes.done[channel] = worker.stopping
        return worker.stopping


def _send(
    worker: Worker,
    producer: ipcheap.Producer,
    channel: int,
    at: int,
    records: list[ipcheap.Record],
) -> int:
    """Send records one by one or together; return the number of the next one."""
    notes = worker.notes
    while records and not worker.stopping:
        notes.sending[channel] = at + len(records)
        try:
            if worker.dice.random() < 0.5:
                producer.send_record(records[0], timeout=worker.patience())
                went = 1
            else:
                went = producer.send_records(records, timeout=worker.patience())
        except (TimeoutError, ipcheap.PeerDied, ipcheap.ChannelClosed):
            worker.nap()
            continue
        at += went
        notes.sent[channel] = at
        del records[:went]
    for record in records:
        record.free()
    notes.sending[channel] = at
    return at


class Intake:
    """A consumer, and what it must get and must not."""

    def __init__(self, worker: Worker, consumer: ipcheap.Consumer, channel: int) -> None:
        self.worker = worker
        self.notes = worker.notes
        self.consumer = consumer
        self.channel = channel
        self.source = SOURCES[channel]
        self.owed, self.undecided = self.notes.unsettled(channel)
        self.notes.undecided[channel] += len(self.undecided)
        self.held: list[tuple[int, ipcheap.Record]] = []
        self.last = -1
        self.ended = False

    def receive(self) -> None:
        """Take a record, if one comes."""
        try:
            record = self.consumer.recv_record(timeout=self.worker.patience())
        except (TimeoutError, ipcheap.RecordError):
            return  # nothing came; or all slots are held
        except ipcheap.PeerDied:
            self.worker.nap()
            return
        except ipcheap.ChannelClosed:
            self.ended = bool(self.notes.done[self.channel])
            self.worker.nap()
            return
        self.judge(record)

    def judge(self, record: ipcheap.Record) -> None:
        """Look whether it is one that had to come now, and all of it."""
        channel, notes = self.channel, self.notes
        name = int.from_bytes(record.view[:8], "little")
        source, number = name >> 48, name & (1 << 48) - 1
        what = f"record {number} on channel {channel}"
        insist(source == self.source, f"{what} is of channel {source}")
        insist(number > self.last, f"{what} came after {self.last}")
        self.last = number
        fresh, state = notes.fresh[channel], notes.state(channel, number)
        insist(state != GONE, f"{what} came again though it was freed or forwarded")
        if number in self.owed:
            self.owed.remove(number)
            notes.again[channel] += 1
        elif number in self.undecided:
            self.undecided.remove(number)
            notes.again[channel] += 1
        else:
            insist(number == fresh, f"{what} came, not {fresh}")
            insist(state == NONE, f"{what} came again though nobody was killed with it")
            insist(not self.owed, f"{what} came, but {self.owed} did not come again")
        if number >= fresh:
            self.settle()
        notes.put(channel, number, RECEIVED, self.worker.number)
        notes.fresh[channel] = max(fresh, number + 1)
        insist(bytes(record) == content_of(source, number), f"{what} is not what was sent")
        self.held.append((number, record))

    def settle(self) -> None:
        """What may have come again, and did not, is done with."""
        for number in self.undecided:
            self.notes.put(self.channel, number, GONE, self.worker.number)
        self.undecided.clear()

    def let_go(self, at: int, act: Callable[[ipcheap.Record], object]) -> None:
        """Do what ends a held record, writing it down before and after."""
        number, record = self.held[at]
        self.notes.put(self.channel, number, LEAVING, self.worker.number)
        act(record)
        self.notes.put(self.channel, number, GONE, self.worker.number)
        del self.held[at]

    def finish(self) -> bool:
        """Return whether this is the end; if it is, all that had to come has come."""
        if self.ended:
            insist(not self.owed, f"channel {self.channel}: {self.owed} did not come again")
            self.settle()
        return self.ended


def consume(worker: Worker, channel: int) -> bool:
    """Receive, hold some, and free them in any order."""
    dice = worker.dice
    with worker.heap.consumer(channel, timeout=PATIENCE) as consumer:
        intake = Intake(worker, consumer, channel)
        most = dice.randrange(1, RINGS[channel] + 1)
        while not intake.ended and not worker.resigns():
            intake.receive()
            while intake.held and (len(intake.held) >= most or dice.random() < 0.5):
                act = free_kept if dice.random() < 0.1 else ipcheap.Record.free
                intake.let_go(dice.randrange(len(intake.held)), act)
        while intake.held:
            intake.let_go(0, ipcheap.Record.free)
        return intake.finish()


def free_kept(record: ipcheap.Record) -> None:
    """Take it out of its channel before it is freed."""
    record.keep()
    record.free()


def forward(worker: Worker, channel: int, onward: int) -> bool:
    """Send on what comes, in its order."""
    dice = worker.dice
    with (
        worker.heap.consumer(channel, timeout=PATIENCE) as consumer,
        worker.heap.producer(onward, timeout=PATIENCE) as producer,
    ):
        intake = Intake(worker, consumer, channel)
        most = dice.randrange(1, RINGS[channel] + 1)
        while not intake.ended and not worker.resigns():
            intake.receive()
            while intake.held and (len(intake.held) >= most or dice.random() < 0.5):
                _send_on(worker, producer, intake)
        while intake.held:
            _send_on(worker, producer, intake)
        worker.notes.done[onward] = intake.ended
        return intake.finish()


def _send_on(worker: Worker, producer: ipcheap.Producer, intake: Intake) -> None:
    def act(record: ipcheap.Record) -> None:
        while True:
            try:
                producer.send_record(record, timeout=worker.patience())
                return
            except (TimeoutError, ipcheap.PeerDied, ipcheap.ChannelClosed):
                worker.nap()

    intake.let_go(0, act)


def idle(worker: Worker) -> bool:
    """Have memory, look around, add and remove channels, use locks; send nothing."""
    acts = (hold_memory, look_around, make_channels, use_lock, initialise, fork_a_user)
    while not worker.stopping and not worker.resigns():
        worker.dice.choice(acts)(worker)
        worker.nap()
    return worker.stopping


def hold_memory(worker: Worker) -> None:
    dice = worker.dice
    with contextlib.suppress(ipcheap.HeapFull):
        held = []
        try:
            for _ in range(dice.randrange(1, 20)):
                content = content_of(9, dice.randrange(1 << 32))
                record = worker.heap.allocate_record(len(content))
                record.view[:] = content
                held.append((record, content))
        finally:
            worker.nap()
            for record, content in held:
                insist(bytes(record) == content, "somebody wrote into a record that is not his")
                record.free()


def look_around(worker: Worker) -> None:
    heap = worker.heap
    what = worker.dice.randrange(5)
    if what == 0:
        faults = heap.check()
        insist(not faults, f"check() says: {faults}")
    elif what == 1:
        heap.recover()
    elif what == 2:
        heap.trim(worker.dice.randrange(CAPACITY))
    else:
        heap.statistics()


def make_channels(worker: Worker) -> None:
    heap, dice, own = worker.heap, worker.dice, f"own of {worker.number}"
    with contextlib.suppress(ipcheap.HeapFull):
        heap.add_record_channel(own, dice.choice((1, 8, 100)))
        with heap.producer(own) as producer, heap.consumer(own) as consumer:
            for content in (b"1", bytes(5000), bytes(100_000)):
                producer.send(content, timeout=0)
                insist(consumer.recv(timeout=0) == content, "a record is not what was sent")
            producer.send(b"left behind", timeout=0)
    with contextlib.suppress(ipcheap.ChannelNotFound):
        heap.remove_channel(own)


def use_lock(worker: Worker) -> None:
    segment = worker.heap.channel(GUARDED)
    assert isinstance(segment, ipcheap.StaticSegment)
    lock, pair = ipcheap.Lock(segment, 0), segment.view[64:80].cast("Q")
    if not lock.acquire(timeout=PATIENCE):
        raise Wrong("a lock could not be had")
    if not lock.owner_died:
        insist(pair[0] == pair[1], "what the lock guards is half-made and nobody said so")
    pair[0] += 1
    if worker.dice.random() < 0.1:
        worker.nap()
    pair[1] = pair[0]
    lock.release()


def initialise(worker: Worker) -> None:
    def fill(view: memoryview) -> None:
        for at in range(0, len(view), 256):
            view[at : at + 256] = b"i" * 256
            if worker.dice.random() < 0.05:
                worker.nap()

    name = f"segment {worker.dice.randrange(IDLE_SEGMENTS)}"
    with contextlib.suppress(ipcheap.HeapFull):
        segment = worker.heap.add_static_segment(name, 4096, fill)
        insist(bytes(segment.view) == b"i" * 4096, "a static segment is half-initialised")


def fork_a_user(worker: Worker) -> None:
    if worker.dice.random() > 0.1:
        return
    record = None
    with contextlib.suppress(ipcheap.HeapFull):
        record = worker.heap.allocate_record(1000)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with contextlib.suppress(ipcheap.HeapFull):
                worker.heap.allocate_record(2000)  # and dies with it
            worker.heap.statistics()
            code = 0
        finally:
            os._exit(code)
    insist(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "a forked user failed")
    if record is not None:
        record.free()


# Who kills ------------------------------------------------------------------------------------


Work = Callable[[Worker], bool]


@dataclass(frozen=True)
class Role:
    """What a child is for; the further works are for threads of their own."""

    name: str
    works: tuple[Work, ...]


def roles() -> list[Role]:
    """Return who there is at any time."""
    return [
        Role("producer", (partial(produce, channel=0),)),
        Role("consumer and producer", (partial(consume, channel=0), partial(produce, channel=1))),
        Role("forwarder", (partial(forward, channel=1, onward=2),)),
        Role("consumer", (partial(consume, channel=2),)),
        Role("producer", (partial(produce, channel=3),)),
        Role("forwarder", (partial(forward, channel=3, onward=4),)),
        Role("forwarder", (partial(forward, channel=4, onward=5),)),
        Role("consumer", (partial(consume, channel=5),)),
        *(Role("idler", (idle,)) for _ in range(3)),
    ]


class Killer:
    """Starts everybody, kills, replaces, and looks what became of it."""

    def __init__(self, seconds: float, seed: int) -> None:
        self.seconds = seconds
        self.seed = seed
        self.dice = random.Random(seed)
        self.notes = Notes(seconds)
        self.name = f"murder.{os.getpid()}.{secrets.token_hex(4)}"
        self.counts: Counter[str] = Counter()
        self.children: dict[int, Role] = {}
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
        before = self.heap.statistics()
        self.missing = [(0.0, role) for role in roles()]
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
        return not self.children and not self.missing

    def left(self) -> list[str]:
        return [f"{role.name} {pid}" for pid, role in self.children.items()]

    def work(self, done: Callable[[], bool], *, murder: bool) -> None:
        """Keep everybody at work until it is done."""
        next_kill = time.monotonic() + 0.2
        moved, progress = time.monotonic(), -1
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
            made = sum(self.notes.fresh) + sum(self.notes.sent)
            if made != progress:
                moved, progress = now, made
            insist(now - moved < STALLED, f"nothing has moved for {STALLED:.0f} s")
            time.sleep(0.002)

    def start(self, role: Role) -> None:
        self.started += 1
        number, anew = self.started, self.dice.random() < 0.5
        pid = os.fork()
        if pid == 0:
            self.be(role, number, anew)
        self.children[pid] = role

    def be(self, role: Role, number: int, anew: bool) -> NoReturn:
        """Work, in a child, with a heap attached to anew or the one that was inherited."""
        faulthandler.enable()
        heap = ipcheap.Heap.attach(self.name) if anew else self.heap
        done = []

        def work(which: int) -> None:
            try:
                worker = Worker(heap, self.notes, number, f"{self.seed}.{number}.{which}")
                done.append(role.works[which](worker))
            except BaseException:
                text = f"{role.name} {os.getpid()}:\n{traceback.format_exc()}"
                os.write(self._complaints_in, text.encode()[:60_000])
                os._exit(1)

        others = [threading.Thread(target=work, args=(n,)) for n in range(1, len(role.works))]
        for thread in others:
            thread.start()
        work(0)
        if not done[0]:
            os._exit(RESIGNED)  # whatever the others are doing
        for thread in others:
            thread.join()
        heap.close()
        os._exit(0 if all(done) else RESIGNED)

    def strike(self, now: float) -> None:
        if not self.children:
            return
        pid = self.dice.choice(list(self.children))
        if self.dice.random() < 0.15:
            os.kill(pid, signal.SIGSTOP)
            self.stopped[pid] = now + self.dice.random() * 0.5
            self.counts["stops"] += 1
        elif pid not in self.killed:
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

    def reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            role = self.children.pop(pid)
            self.stopped.pop(pid, None)
            code = os.waitstatus_to_exitcode(status)
            if pid in self.killed and code == -signal.SIGKILL:
                self.killed.discard(pid)
            else:
                ended = code in (0, RESIGNED)
                insist(ended, f"a {role.name} ended with {code}:\n{self.complaint()}")
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
        """Look whether all is as it must be in the end."""
        notes, heap = self.notes, self.heap
        heap.recover()
        for channel, source in SOURCES.items():
            sent = notes.sent[source]
            with heap.consumer(channel) as consumer:
                insist(consumer.pending == 0, f"channel {channel}: {consumer.pending} pending")
                found = consumer.statistics().sent
            insist(found == sent, f"channel {channel}: {found} of {sent} records were sent")
            insist(notes.fresh[channel] == sent, f"channel {channel}: not all were received")
            gone = sum(word & 3 == GONE for word in notes.records[channel][:sent])
            insist(gone == sent, f"channel {channel}: {sent - gone} records were not let go")
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

    def figures(self) -> str:
        notes = self.notes
        records = sum(notes.sent[channel] for channel in (0, 1, 3))
        passed = sum(notes.fresh[channel] for channel in range(len(RINGS)))
        killed = ", ".join(
            f"{count} {what.removeprefix('kills of a ')}"
            for what, count in sorted(self.counts.items())
            if what.startswith("kills of a ")
        )
        return (
            f"seed {self.seed}: {self.seconds:g} s, {self.counts['kills']} kills ({killed}), "
            f"{self.counts['stops']} stops, {self.counts['ends']} ends; {records:,} records sent, "
            f"{passed:,} received, {sum(notes.again):,} of them again, "
            f"{sum(notes.undecided):,} killed while being let go"
        )

    def state(self) -> str:
        """Describe how things stand, for whoever has to find out why."""
        notes = self.notes
        lines = [
            f"channel {c}: sending {notes.sending[SOURCES[c]]}, sent {notes.sent[SOURCES[c]]}, "
            f"received {notes.fresh[c]}, unsettled {notes.unsettled(c)}"
            for c in range(len(RINGS))
        ]
        with contextlib.suppress(Exception):
            lines += [str(self.heap.statistics()), *self.heap.check()]
        return "\n".join([*lines, f"heap {self.name} is left as it is"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_AsWritten)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to kill (10)")
    parser.add_argument("--seed", type=int, default=None, help="of the dice (at random)")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if arguments.seed is None else arguments.seed
    killer = Killer(arguments.seconds, seed)
    try:
        killer.run()
    except Wrong as wrong:
        print(f"{killer.figures()}\nFAILED: {wrong}\n{killer.state()}")
        return 1
    print(killer.figures())
    return 0


class _AsWritten(argparse.RawDescriptionHelpFormatter):
    pass


if __name__ == "__main__":
    sys.exit(main())

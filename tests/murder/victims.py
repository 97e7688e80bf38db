"""The children that work and are killed: producers, consumers, forwarders, idle participants."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import ipcheap

from .notes import GONE, LEAVING, NONE, RECEIVED, RINGS, SOURCES, Notes, content_of
from .words import Wrong, insist

if TYPE_CHECKING:
    from collections.abc import Callable

CAPACITY = 64 << 20
PATIENCE = 60.0  # seconds for all children to finish

NOBODY = 65534  # the user without privileges

IDLE_SEGMENTS = 4
GUARDED = "guarded"  # a static segment: a lock, and two words that it keeps equal


class Worker:
    """What a child does, with a heap, notes and dice of its own."""

    def __init__(self, heap: ipcheap.Heap, notes: Notes, number: int, seed: str) -> None:
        self.heap = heap
        self.notes = notes
        self.number = number
        self.dice = random.Random(seed)
        self.killer = os.getppid()
        self.forks = True  # whether a child of this child may use the heap
        self.serves = True  # whether it may have children of a forkserver

    @property
    def stopping(self) -> bool:
        return bool(self.notes.stop[0])

    def resigns(self) -> bool:
        """Return whether this child ends by itself, to be replaced as well."""
        self.obey()
        return self.dice.random() < 0.0005

    def obey(self) -> None:
        """End with the killer, if the killer is killed."""
        if os.getppid() != self.killer:
            os._exit(1)

    def patience(self) -> float:
        self.obey()
        return self.dice.choice((0.0, 0.001, 0.05, 1.0))

    def nap(self) -> None:
        time.sleep(self.dice.random() * 0.004)


# Each of these returns whether its work is done; if not, another child continues it.


def produce(worker: Worker, channel: int) -> bool:
    """Send records in order, starting after the last one that was sent."""
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
        except (TimeoutError, ipcheap.PeerDied, ipcheap.ChannelClosed) as error:
            went = getattr(error, "done", 0)
            worker.nap()
        at += went
        notes.sent[channel] = at
        del records[:went]
    for record in records:
        record.free()
    notes.sending[channel] = at
    return at


class Intake:
    """A consumer, and what it must receive and must not."""

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
        self.note_detaching()
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

    def note_detaching(self) -> None:
        """Note that receiving may detach the held record in the slot that is waited for.

        A detached record is not redelivered, so from now on both are right.
        """
        in_the_way = self.last + 1 - RINGS[self.channel]
        if any(number == in_the_way for number, _ in self.held):
            self.notes.put(self.channel, in_the_way, LEAVING, self.worker.number)

    def judge(self, record: ipcheap.Record) -> None:
        """Check that this record had to come now, and that its content is complete."""
        channel, notes = self.channel, self.notes
        name = int.from_bytes(record.view[:8], "little")
        source, number = name >> 48, name & (1 << 48) - 1
        what = f"record {number} on channel {channel}"
        insist(source == self.source, f"{what} is of channel {source}")
        insist(number > self.last, f"{what} came after {self.last}")
        self.last = number
        fresh, state = notes.fresh[channel], notes.state(channel, number)
        insist(state != GONE, f"{what} was redelivered although it was freed or forwarded")
        if number in self.owed:
            self.owed.remove(number)
            notes.again[channel] += 1
        elif number in self.undecided:
            self.undecided.remove(number)
            notes.again[channel] += 1
        else:
            insist(number == fresh, f"{what} came, not {fresh}")
            insist(state == NONE, f"{what} was redelivered although no killed consumer had it")
            insist(not self.owed, f"{what} came, but {self.owed} were not redelivered")
        if number >= fresh:
            self.settle()
        notes.put(channel, number, RECEIVED, self.worker.number)
        notes.fresh[channel] = max(fresh, number + 1)
        insist(bytes(record) == content_of(source, number), f"{what} is not what was sent")
        self.held.append((number, record))

    def decide(self, gone: Callable[[int], bool]) -> None:
        """Say of what a killed consumer was releasing whether it is gone or must be redelivered."""
        for number in self.undecided:
            if gone(number):
                self.notes.put(self.channel, number, GONE, self.worker.number)
            else:
                self.owed.append(number)
        self.undecided.clear()

    def settle(self) -> None:
        """Note as gone what might have been redelivered and was not."""
        for number in self.undecided:
            self.notes.put(self.channel, number, GONE, self.worker.number)
        self.undecided.clear()

    def release(self, at: int, act: Callable[[ipcheap.Record], object]) -> None:
        """Release a held record by an act, writing it down before and after."""
        self.release_many(at, 1, lambda held: act(held[0][1]))

    def release_many(
        self, at: int, count: int, act: Callable[[list[tuple[int, ipcheap.Record]]], object]
    ) -> None:
        """Release several held records by one act, all or none of them."""
        held = self.held[at : at + count]
        for number, _ in held:
            self.notes.put(self.channel, number, LEAVING, self.worker.number)
        act(held)
        for number, _ in held:
            self.notes.put(self.channel, number, GONE, self.worker.number)
        del self.held[at : at + count]

    def finish(self) -> bool:
        """Return whether this is the end; if it is, check that all that had to come has come."""
        if self.ended:
            insist(not self.owed, f"channel {self.channel}: {self.owed} were not redelivered")
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
                intake.release(dice.randrange(len(intake.held)), act)
        while intake.held:
            intake.release(0, ipcheap.Record.free)
        return intake.finish()


def free_kept(record: ipcheap.Record) -> None:
    """Take a record out of its channel before freeing it."""
    record.keep()
    record.free()


def forward(worker: Worker, channel: int, onward: int) -> bool:
    """Forward what comes, in order."""
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

    intake.release(0, act)


def idle(worker: Worker) -> bool:
    """Allocate, look around, add and remove channels, use locks; send nothing."""
    acts = (
        hold_memory,
        look_around,
        make_channels,
        make_stores,
        use_lock,
        initialise,
        fork_a_user,
        start_by_forkserver,
        use_pool_of_threads,
    )
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
                insist(bytes(record) == content, "another participant wrote into this record")
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


def make_stores(worker: Worker) -> None:
    """Add a store, put and hold something, and remove the store while it is held."""
    heap, own = worker.heap, f"store of {worker.number}"
    held = []
    with contextlib.suppress(ipcheap.HeapFull):
        store = heap.add_store(own, ttl=worker.dice.choice((None, 0.001)), garbage=0)
        with store.writer() as writer, store.reader() as reader:
            for n in range(worker.dice.randrange(1, 100)):
                writer.put(n, content_of(9, n))
                chunk = reader.get(n)
                if chunk is not None and worker.dice.random() < 0.1:
                    held.append((chunk, n))
    with contextlib.suppress(ipcheap.ChannelNotFound):
        heap.remove_channel(own, force=True)
    worker.nap()
    for chunk, n in held:
        insist(bytes(chunk) == content_of(9, n), "a chunk of a removed store has changed")
        chunk.release()


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
    if worker.dice.random() > 0.1 or not worker.forks:
        return
    record = None
    with contextlib.suppress(ipcheap.HeapFull):
        record = worker.heap.allocate_record(1000)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            with contextlib.suppress(ipcheap.HeapFull):
                worker.heap.allocate_record(2000)  # and dies holding it
            worker.heap.statistics()
            code = 0
        finally:
            os._exit(code)
    insist(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "a forked user failed")
    if record is not None:
        record.free()


def start_by_forkserver(worker: Worker) -> None:
    """Have a child of a forkserver use the heap; it is killed with this process, or by it."""
    if worker.dice.random() > 0.03 or worker.heap.name is None or not worker.serves:
        return
    context = multiprocessing.get_context("forkserver")
    child = context.Process(target=use_by_name, args=(worker.heap.name,))
    child.start()
    if worker.dice.random() < 0.5:
        time.sleep(worker.dice.random() * 0.3)
        child.kill()
    child.join(PATIENCE)
    insist(child.exitcode in (0, -9), f"a child of the forkserver ended with {child.exitcode}")


def use_by_name(name: str) -> None:
    """Attach, allocate and end with the endpoints and records open."""
    heap = ipcheap.Heap.attach(name)
    own = f"own of child {os.getpid()}"
    with contextlib.suppress(ipcheap.HeapFull):
        heap.add_record_channel(own, 4)
        producer = heap.producer(own)
        producer.send(b"left behind", timeout=0)
        heap.remove_channel(own, force=True)
        heap.allocate_record(5000)


def use_pool_of_threads(worker: Worker) -> None:
    """Use the heap in threads that come and go."""

    def use(seed: int) -> None:
        guest = Worker(worker.heap, worker.notes, worker.number, str(seed))
        guest.killer = worker.killer
        hold_memory(guest)

    with ThreadPoolExecutor(worker.dice.randrange(1, 6)) as pool:
        list(pool.map(use, [worker.dice.randrange(1 << 32) for _ in range(8)]))


def clean(worker: Worker) -> bool:
    """Do what an administrator's cleaner does, again and again, to a heap that is in use."""
    heap = worker.heap
    while not worker.stopping and not worker.resigns():
        heap.trim()
        heap.recover()
        remove_what_is_left(worker)
        faults = heap.check()
        insist(not faults, f"check() says: {faults}")
        for info in ipcheap.heaps():
            # As `ipcheap rm --stale` finds out which heaps to remove.
            insist(info.name != heap.name or not info.stale, "a heap in use is said to be stale")
        time.sleep(worker.dice.random() * 0.1)
    return worker.stopping


def remove_what_is_left(worker: Worker) -> None:
    """Remove channels and stores of children that were killed."""
    for channel in worker.heap.channels:
        maker = re.fullmatch(r"(?:own|store) of (\d+)", str(channel))
        if maker and worker.notes.buses.reaped[int(maker[1])]:
            with contextlib.suppress(ipcheap.ChannelNotFound):
                worker.heap.remove_channel(channel, force=True)


# What a child may do to itself before it works ----------------------------------------------

CONTENT = b"precious" * 512


class Guise(Protocol):
    """What a child has done before it works, given a descriptor to keep."""

    forks: bool
    serves: bool

    def __init__(self, keep: int, /) -> None: ...

    def verify(self) -> None:
        """Check that the library kept to it."""


class Daemon:
    """Closes all descriptors, as a daemon does, and opens files of its own, which must stay."""

    forks = True
    serves = False  # the forkserver's descriptors are gone, too

    def __init__(self, keep: int) -> None:
        os.closerange(3, keep)
        os.closerange(keep + 1, 256)
        self.files = [os.memfd_create("the program's") for _ in range(24)]
        for file in self.files:
            os.write(file, CONTENT)

    def verify(self) -> None:
        """Check that nobody else has touched the files."""
        for file in self.files:
            insist(
                os.pread(file, len(CONTENT) + 1, 0) == CONTENT
                and os.lseek(file, 0, os.SEEK_CUR) == len(CONTENT),
                f"file {file} of a daemon was touched",
            )


class Nobody:
    """Gives up its privileges, if it has any."""

    forks = False
    serves = False

    def __init__(self, _: int) -> None:
        if os.geteuid() == 0:
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)

    def verify(self) -> None:
        """Check nothing."""


class Plain:
    """Stays as it is."""

    forks = True
    serves = True

    def __init__(self, _: int) -> None:
        pass

    def verify(self) -> None:
        """Check nothing."""


GUISES: tuple[type[Guise], ...] = (Plain, Plain, Plain, Daemon, Nobody)

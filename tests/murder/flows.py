"""The children that write and read streams, and what they must find there."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import ipcheap

from .victims import PATIENCE, Worker
from .words import insist

if TYPE_CHECKING:
    from collections.abc import Callable

ENDED = (ipcheap.PeerDied, ipcheap.ChannelClosed)


class Flow(NamedTuple):
    """A stream; its item k is the number k three times: 24 bytes, so that the ring wraps in one."""

    id: int
    capacity: int
    backlog: int
    overwrite: bool
    resets: bool  # whether both sides drop what is there, now and then

    def add(self, heap: ipcheap.Heap) -> ipcheap.Stream:
        dtype = np.dtype(("u8", (3,)))
        return heap.add_stream(
            self.id, self.capacity, dtype=dtype, backlog=self.backlog, overwrite=self.overwrite
        )


FLOWS = (
    Flow(10, 1000, 24, overwrite=False, resets=False),
    Flow(11, 160, 10, overwrite=True, resets=False),  # 170 items, and no room to spare in the page
    Flow(12, 333, 8, overwrite=False, resets=True),
)


def numbers(first: int, count: int) -> Any:
    return np.repeat(np.arange(first, first + count, dtype="u8"), 3).reshape(count, 3)


# Writing ------------------------------------------------------------------------------------


class Outflow:
    """A writer, and where it must be."""

    def __init__(self, worker: Worker, writer: ipcheap.StreamWriter, flow: int) -> None:
        self.dice = worker.dice
        self.worker = worker
        self.notes = worker.notes.flows[flow]
        self.flow = FLOWS[flow]
        self.writer = writer
        self.at = at = writer.position
        insist(
            self.notes.written <= at <= self.notes.writing,
            f"stream {self.flow.id} has {at} items written, which should be from "
            f"{self.notes.written} to {self.notes.writing}",
        )
        self.settle()

    def settle(self) -> None:
        """Write down where the writer is."""
        at = self.writer.position
        insist(at >= self.at, f"stream {self.flow.id} went back from {self.at} to {at}")
        self.at = self.notes.written = at

    def turn(self) -> None:
        """Write some items, in one of the ways."""
        count = self.dice.randrange(1, self.flow.capacity // 2)
        self.notes.writing = self.at + count
        way = self.dice.choice((self.write, self.write, self.fill, self.fill, self.fill_bytes))
        try:
            way(count)
        except (TimeoutError, *ENDED) as error:
            done = getattr(error, "done", 0)
            insist(
                self.writer.position == self.at + done,
                f"stream {self.flow.id}: {done} items were done, from {self.at} to "
                f"{self.writer.position}",
            )
            self.worker.nap()
        self.settle()
        if self.flow.resets and self.dice.random() < 0.05:
            self.writer.reset()
            self.notes.cut = self.at
        if self.dice.random() < 0.05:
            self.writer.watermark = self.dice.randrange(1, self.flow.capacity // 2)
            select.select([self.writer], [], [], self.worker.patience())

    def write(self, count: int) -> None:
        items = numbers(self.at, count)
        if self.dice.random() < 0.3:
            self.writer.try_write(items)
        else:
            self.writer.write(items, self.worker.patience())

    def fill(self, count: int) -> None:
        with self.writer.window(count, self.worker.patience()) as window:
            window[:] = numbers(self.at, count)
            if self.dice.random() < 0.3:
                self.writer.commit(self.dice.randrange(count))

    def fill_bytes(self, count: int) -> None:
        with self.writer.window(count, self.worker.patience(), at_least=1, raw=True) as window:
            window[:] = numbers(self.at, len(window) // 24).tobytes()


def write(worker: Worker, flow: int) -> bool:
    """Write consecutive numbers, starting after the last one that was written."""
    with worker.heap.stream_writer(FLOWS[flow].id, PATIENCE) as writer:
        outflow = Outflow(worker, writer, flow)
        while not worker.stopping and not worker.resigns():
            outflow.turn()
            if worker.dice.random() < 0.3:
                worker.nap()
        worker.notes.flows[flow].done = worker.stopping
        return worker.stopping


# Reading ------------------------------------------------------------------------------------


class Inflow:
    """A reader, and what it must get."""

    def __init__(self, worker: Worker, reader: ipcheap.StreamReader, flow: int) -> None:
        self.dice = worker.dice
        self.worker = worker
        self.notes = worker.notes.flows[flow]
        self.flow = FLOWS[flow]
        self.reader = reader
        self.begin = self.at = at = reader.position
        self.delivered = 0
        insist(
            self.notes.released <= at <= self.notes.releasing,
            f"stream {self.flow.id} is read up to {at}, which should be from "
            f"{self.notes.released} to {self.notes.releasing}",
        )
        self.cut = 0
        self.settle()

    def settle(self) -> None:
        """Write down where the reader is, and check that everything up to there is counted."""
        reader, notes = self.reader, self.notes
        at, lost = reader.position, reader.lost
        insist(at >= self.at, f"stream {self.flow.id} went back from {self.at} to {at}")
        gone, known = at - self.begin, self.delivered + lost
        insist(
            gone == known or (self.flow.resets and gone > known),
            f"stream {self.flow.id}: {self.delivered} of {gone} items came, {lost} are lost",
        )
        insist(lost == 0 or self.flow.overwrite, f"stream {self.flow.id} lost {lost} items")
        self.at = notes.released = at
        # Until this is called again at most so many are released, but any number lost or dropped.
        limited = not self.flow.overwrite and not self.flow.resets
        notes.releasing = at + self.flow.capacity if limited else 1 << 62

    def judge(self, items: Any, before: int = 0) -> None:
        """Check items that came, `before` of which had come before."""
        first = int(items[0][0])
        what = f"stream {self.flow.id}: items from {first} on"
        insist(
            bool((items == numbers(first, len(items))).all()), f"{what} are torn or not in order"
        )
        first += before
        insist(first >= self.at, f"{what} came, but all up to {self.at} were released")
        insist(first >= self.cut, f"{what} came, but all up to {self.cut} were dropped")
        if not self.flow.overwrite and not self.flow.resets:
            insist(first == self.at, f"{what} came, not {self.at}")

    def turn(self) -> bool:
        """Take some items in one of the ways; return whether the stream is at its end."""
        ways = (self.read, self.read, self.fill, self.skip, self.look, self.look, self.loop)
        way: Callable[[int], None] = self.dice.choice(ways)
        count = self.dice.randrange(1, self.flow.capacity // 2)
        done, self.cut = self.notes.done, self.notes.cut
        ended = False
        try:
            way(count)
        except (TimeoutError, ipcheap.PeerDied):
            self.worker.nap()
        except ipcheap.ChannelClosed:
            ended = bool(done)
            self.worker.nap()
        self.settle()
        if self.flow.resets and self.dice.random() < 0.05:
            self.reader.reset()
            self.settle()
        if self.dice.random() < 0.05:
            self.reader.watermark = count
            select.select([self.reader], [], [], self.worker.patience())
        return ended

    def read(self, count: int) -> None:
        least = self.dice.choice((None, 1))
        items = self.reader.read(count, self.worker.patience(), at_least=least)
        self.judge(items)
        self.delivered += len(items)
        kept = self.reader.history()
        if len(kept):
            first, end = int(kept[0][0]), self.reader.position
            insist(
                bool((kept == numbers(first, len(kept))).all()) and first + len(kept) == end,
                f"stream {self.flow.id}: the backlog from {first} on is not what was read",
            )

    def fill(self, count: int) -> None:
        buffer = np.empty((count, 3), "u8")
        came = self.reader.readinto(buffer, self.worker.patience(), at_least=1)
        self.judge(buffer[:came])
        self.delivered += came

    def skip(self, count: int) -> None:
        self.judge(self.reader.peek(count, self.worker.patience(), at_least=1))
        self.delivered += self.reader.skip(min(count, 5))

    def look(self, count: int) -> None:
        overlap, least = self.dice.randrange(self.flow.backlog + 1), self.dice.choice((None, 1))
        window = self.reader.window(count, self.worker.patience(), at_least=least, overlap=overlap)
        with window as items:
            before = self.reader.position - int(items[0][0])
            self.judge(items, before)
            taken = self.dice.choice((len(items) - before, (len(items) - before) // 2))
            self.reader.release(taken)
            self.delivered += taken

    def loop(self, count: int) -> None:
        """Take a few blocks; the last one is left, and redelivered."""
        blocks = self.reader.blocks(max(1, count // 4), timeout=self.worker.patience())
        while True:
            block = next(blocks, None)
            if block is None:
                return
            self.settle()
            self.judge(block)
            if self.dice.random() < 0.4:
                blocks.close()
                return
            self.delivered += len(block)  # by the request for the next one


def read(worker: Worker, flow: int) -> bool:
    """Read numbers in all ways, and check that none is missing, torn or delivered twice."""
    with worker.heap.stream_reader(FLOWS[flow].id, PATIENCE) as reader:
        inflow = Inflow(worker, reader, flow)
        while not worker.resigns():
            if inflow.turn():
                written = worker.notes.flows[flow].written
                insist(
                    reader.position == written,
                    f"stream {FLOWS[flow].id} ended at {reader.position}, not at {written}",
                )
                return True
            if worker.dice.random() < 0.1:
                worker.nap()
        return False

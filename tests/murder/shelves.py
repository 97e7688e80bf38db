"""The children that use stores: a ledger and its readers, and a shelf for records."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import store_ledger

import ipcheap

from .notes import RINGS, content_of
from .victims import PATIENCE, Intake, Worker
from .words import insist

if TYPE_CHECKING:
    from .notes import Notes

SHELF = "shelf"
SHELF_BYTES = 8 << 20
MANY = 4  # records that are put by one transaction
KEPT = 32  # chunks that a reader of the shelf holds


def add(heap: ipcheap.Heap) -> None:
    heap.add_store(store_ledger.NAME, depth=store_ledger.DEPTH, garbage="64KiB")
    heap.add_store(SHELF, max_chunks=200, max_bytes=SHELF_BYTES, evict=True, hold=2 * KEPT)


# The ledger ----------------------------------------------------------------------------------


def keep(worker: Worker) -> bool:
    """Change the ledger, starting from what the last writer left."""
    ledger = worker.notes.ledger
    scribe = store_ledger.Scribe(worker.heap, ledger, worker.dice.randrange(1 << 32))
    while not worker.stopping and not worker.resigns():
        before = scribe.writer.version
        try:
            scribe.turn()
        except ipcheap.HeapFull:
            insist(scribe.writer.version == before, "a put that found no room was committed")
            worker.nap()
        if worker.dice.random() < 0.3:
            worker.nap()
    scribe.writer.close()
    return worker.stopping


def audit(worker: Worker, number: int) -> bool:
    """Read the ledger in all ways."""
    ledger = worker.notes.ledger
    auditor = store_ledger.Auditor(worker.heap, ledger, number, worker.dice.randrange(1 << 32))
    while not worker.stopping and not worker.resigns():
        auditor.turn()
    auditor.close()
    return worker.stopping


# The shelf -----------------------------------------------------------------------------------


def shelve(worker: Worker, channel: int) -> bool:
    """Put what comes into a store, in order: each record is on its channel or on the shelf."""
    heap, dice = worker.heap, worker.dice
    with (
        heap.store_writer(SHELF, PATIENCE) as writer,
        heap.store_reader(SHELF) as reader,
        heap.consumer(channel, timeout=PATIENCE) as consumer,
    ):
        intake = Intake(worker, consumer, channel)
        intake.decide(lambda number: number in reader)
        most = dice.randrange(1, RINGS[channel])  # with fewer than slots, none is ever detached
        while not intake.ended and not worker.resigns():
            intake.receive()
            while intake.held and (len(intake.held) >= most or dice.random() < 0.5):
                _put_some(worker, writer, intake)
        while intake.held:
            _put_some(worker, writer, intake)
        return intake.finish()


def _put_some(worker: Worker, writer: ipcheap.StoreWriter, intake: Intake) -> None:
    def act(held: list[tuple[int, ipcheap.Record]]) -> None:
        before = writer.version
        while True:
            worker.obey()
            try:
                with writer.transaction() if len(held) > 1 else contextlib.nullcontext():
                    for number, record in held:
                        writer.put_record(number, record)
            except ipcheap.HeapFull:
                insist(writer.version == before, "a put that found no room was committed")
                worker.nap()
            else:
                insist(writer.version == before + len(held), "a put took no version")
                return

    count = worker.dice.randrange(1, MANY + 1)
    if sum(record.nbytes for _, record in intake.held[:count]) > SHELF_BYTES:
        count = 1
    intake.release_many(0, count, act)


def browse(worker: Worker) -> bool:
    """Follow what is put on the shelf, and hold some of it."""
    notes, dice = worker.notes, worker.dice
    held: list[tuple[ipcheap.Chunk, int]] = []
    with worker.heap.store_reader(SHELF, PATIENCE) as reader:
        last = -1
        while not worker.stopping and not worker.resigns():
            try:
                chunk = reader.next(timeout=worker.patience())
            except store_ledger.ABSENT:
                worker.nap()
                continue
            number = _check(notes, chunk)
            insist(number > last, f"record {number} was shelved after {last}")
            last = number
            held.append((chunk, number))
            again = reader.get(dice.choice(held)[1])
            if again is not None:
                _check(notes, again)
            while len(held) > KEPT or (held and dice.random() < 0.5):
                kept, number = held.pop(dice.randrange(len(held)))
                insist(_check(notes, kept) == number, "a held chunk has changed")
                kept.release()
    for kept, number in held:
        insist(_check(notes, kept) == number, "a chunk has changed after the end of its reader")
    return worker.stopping


def _check(notes: Notes, chunk: ipcheap.Chunk) -> int:
    """Check a chunk of the shelf, and that its record was put once only; return its number."""
    number = chunk.key
    assert isinstance(number, int)
    what = f"record {number}, version {chunk.version} of the shelf"
    insist(bytes(chunk) == content_of(6, number), f"{what} is not what was sent")
    known = notes.shelved[number]
    insist(known in (0, chunk.version), f"{what} was version {known} before")
    notes.shelved[number] = chunk.version
    notes.found[0] += 1
    return number


# The end -------------------------------------------------------------------------------------


def account(heap: ipcheap.Heap, notes: Notes) -> None:
    """Check what is left in both stores."""
    with heap.store_writer(store_ledger.NAME) as writer, heap.store_reader(SHELF) as shelf:
        store_ledger.Scribe.verify(heap, notes.ledger, writer)
        last, sent = shelf.keys()[-1:], notes.sent[6]
        insist(last == [sent - 1], f"the newest record on the shelf is {last}, {sent} were sent")
        for chunk in shelf.values():
            _check(notes, chunk)
        infos = [*heap.add_store(SHELF).readers(), *heap.add_store(store_ledger.NAME).readers()]
        insist(len(infos) == 1, f"readers are left: {infos}")

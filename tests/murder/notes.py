"""The promises to check, and the notes to check them by."""

from __future__ import annotations

import mmap
import random

import store_ledger

from .bus_notes import BusNotes
from .words import Word, words_of

RINGS = (8, 16, 4, 32, 8, 16, 16)  # slots of each channel
SOURCES = {0: 0, 1: 1, 2: 1, 3: 3, 4: 3, 5: 3, 6: 6}  # where the records of a channel come from
AUDITORS = 3  # readers of the ledger
LARGEST = 4 << 20
RECORDS_PER_SECOND = 100_000  # on one channel: more than is possible

NONE, RECEIVED, LEAVING, GONE = range(4)


# Records ------------------------------------------------------------------------------------


def size_of(source: int, number: int) -> int:
    """Return the size of a record, the same in every process; most are small."""
    return size_for(source << 48 | number, LARGEST)


def size_for(name: int, largest: int) -> int:
    """Return a size from 8 bytes on that follows from a name; most are small."""
    dice = random.Random(name).random()
    return int(8 * (largest / 8) ** (dice * dice))


def content_of(source: int, number: int) -> bytes:
    """Return a record's content: its name, repeated."""
    nbytes = size_of(source, number)
    name = (source << 48 | number).to_bytes(8, "little")
    return (name * (nbytes // 8 + 1))[:nbytes]


# Notes -----------------------------------------------------------------------------------------


class FlowNotes:
    """What is known of a stream."""

    writing = Word(0)  # the writer has committed no more than this
    written = Word(1)  # and no less than this
    releasing = Word(2)  # the reader has released, lost or dropped no more than this
    released = Word(3)  # and no less than this
    cut = Word(4)  # what is below was dropped by the writer
    done = Word(5)  # nothing more will be written

    def __init__(self, words: memoryview[int]) -> None:
        self.words = words


class Notes:
    """Memory shared by fork, apart from the heap: what each child has done, by one store each."""

    def __init__(self, seconds: float) -> None:
        self.room = int((seconds + 10) * RECORDS_PER_SECOND)
        self.records = [memoryview(mmap.mmap(-1, 4 * self.room)).cast("B").cast("I") for _ in RINGS]
        words = words_of(512)
        self.stop = words[0:1]
        self.sending = words[8:16]  # by channel: a producer has begun to send all below
        self.sent = words[16:24]  # and has sent all below
        self.fresh = words[24:32]  # all below have been received at least once
        self.again = words[32:40]  # records that were redelivered
        self.undecided = words[40:48]  # killed while freeing or forwarding one
        self.done = words[48:56]  # nothing more will be sent on that channel
        self.flows = [FlowNotes(words[at : at + 8]) for at in range(64, 128, 8)]
        self.found = words[128:129]  # chunks that were found on the shelf
        self.ledger = store_ledger.Notes(AUDITORS)
        self.buses = BusNotes(seconds)
        # The version of each record on the shelf, as a reader found it.
        self.shelved = words_of(self.room)

    def state(self, channel: int, number: int) -> int:
        return self.records[channel][number] & 3

    def put(self, channel: int, number: int, state: int, who: int) -> None:
        self.records[channel][number] = who << 2 | state

    def unsettled(self, channel: int) -> tuple[list[int], list[int]]:
        """Return the records that a killed consumer had, and those that it was releasing."""
        fresh = self.fresh[channel]
        window = range(max(0, fresh - 2 * max(RINGS)), fresh + 1)
        states = [(number, self.state(channel, number)) for number in window]
        return (
            [number for number, state in states if state == RECEIVED],
            [number for number, state in states if state == LEAVING],
        )

"""A writer of a store that may be killed at any moment, and readers that check what it leaves.

Every chunk begins with its checksum and its own version. The fields are put and deleted by
transactions, each of which also puts all anchors: a checksum of all fields as they are after it. So
one look at all of them shows a value that is torn, and a transaction of which only a part is there.

Writing that takes Python long, so a kill rarely hits the commit itself. Therefore many quick chunks
are put as well, of which each contains only its version: a hundred by one commit, and others one
after the other.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import random
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import peers

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

NAME = "ledger"
ANCHORS = ("anchor", b"anchor", 2**64 - 1)
FIELDS = tuple(range(12))
SOLOS = ("solo 0", "solo 1", "solo 2")  # put one by one
QUICK = tuple(range(1000, 1100))  # put by one commit
RUSH = "rush"  # put again and again
DEPTH = 3
SHORT = 0.02  # seconds that a chunk without a key lives
HELD = 16  # chunks that a reader keeps for a while
MOST_VERSIONS = 1 << 24
ABSENT = (TimeoutError, ipcheap.PeerDied, ipcheap.ChannelClosed)
_MARK = 16  # bytes of a checksum


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_MARK).digest()


def made(version: int, state: bytes, body: bytes) -> bytes:
    """Return what a chunk of that version contains."""
    content = version.to_bytes(8, "little") + state + body
    return _checksum(content) + content


def quick(version: int) -> bytes:
    """Return what a quick chunk of that version contains."""
    return version.to_bytes(8, "little") * 2


class Entry(NamedTuple):
    """What is known of a chunk that was checked."""

    version: int
    checksum: bytes
    state: bytes


def judged(chunk: ipcheap.Chunk) -> Entry:
    """Check that a chunk is whole and has its own version."""
    data = bytes(chunk)
    if chunk.key == RUSH or chunk.key in QUICK:
        assert data == quick(chunk.version), f"version {chunk.version} is {data!r}"
        return Entry(chunk.version, data, b"")
    mark, content = data[:_MARK], data[_MARK:]
    assert mark == _checksum(content), f"version {chunk.version} is torn"
    version = int.from_bytes(content[:8], "little")
    assert version == chunk.version, f"version {chunk.version} was put as {version}"
    return Entry(version, mark, content[8 : 8 + _MARK])


def state_of(fields: Mapping[int, Entry]) -> bytes:
    """Return the checksum of all fields."""
    return _checksum(repr([(key, *fields[key][:2]) for key in sorted(fields)]).encode())


def whole(chunks: Mapping[Any, ipcheap.Chunk]) -> tuple[int, dict[int, Entry]]:
    """Check anchors and fields of one moment; return the last anchor's version, and the fields."""
    entries = {key: judged(chunk) for key, chunk in chunks.items()}
    anchors = [entries[key] for key in ANCHORS if key in entries]
    fields = {key: entries[key] for key in FIELDS if key in entries}
    if not anchors:
        assert not fields, f"fields {list(fields)} without an anchor"
        return 0, fields
    assert len(anchors) == len(ANCHORS), f"only {len(anchors)} anchors are there"
    state = state_of(fields)
    for anchor in anchors:
        assert anchor.state == state, f"half a transaction: {sorted(entries.values())}"
    newest = max(anchor.version for anchor in anchors)
    assert newest - min(anchor.version for anchor in anchors) == len(ANCHORS) - 1
    return newest, fields


def expect_one_commit(chunks: Mapping[Any, ipcheap.Chunk]) -> None:
    """Check the quick chunks of one moment."""
    assert len(chunks) in (0, len(QUICK)), f"{len(chunks)} of {len(QUICK)} quick chunks"
    first = {judged(chunk).version - QUICK.index(key) for key, chunk in chunks.items()}
    assert len(first) <= 1, f"quick chunks of several commits: {first}"


class Notes:
    """Memory shared by fork, apart from the heap."""

    def __init__(self, readers: int) -> None:
        words = memoryview(mmap.mmap(-1, 4096)).cast("B").cast("Q")
        self.stop = words[0:1]
        self.anchored = words[1:2]  # the version of the newest anchor whose commit has returned
        self.commits = words[2:3]
        self.looks = words[8 : 8 + readers]  # of each reader, at all anchors and fields
        self.followed = words[64 : 64 + readers]
        # The first bytes of the checksum of each version that a reader saw.
        self.seen = [
            memoryview(mmap.mmap(-1, 8 * MOST_VERSIONS)).cast("B").cast("Q") for _ in range(readers)
        ]


# The writer --------------------------------------------------------------------------------


class _Undone(Exception):
    """Leaves a transaction, which must then have had no effect."""


class Scribe:
    """A writer of the ledger, which goes on where the last one was killed."""

    def __init__(self, heap: ipcheap.Heap, notes: Notes, seed: int) -> None:
        self.dice = random.Random(seed)
        self.notes = notes
        self.writer = heap.store_writer(NAME, peers.PATIENCE)
        notes.anchored[0], self.fields = self.verify(heap, notes, self.writer)

    @staticmethod
    def verify(
        heap: ipcheap.Heap, notes: Notes, writer: ipcheap.StoreWriter
    ) -> tuple[int, dict[int, Entry]]:
        """Check what another writer has left; return the last anchor's version, and the fields."""
        with heap.store_reader(NAME) as reader:
            newest, fields = whole(reader.get_many([*ANCHORS, *FIELDS]))
            expect_one_commit(reader.get_many(QUICK))
            for chunk in reader.history(RUSH):
                judged(chunk)
            assert reader.version == writer.version
        assert notes.anchored[0] <= newest <= writer.version
        return newest, fields

    def body(self) -> bytes:
        nbytes = self.dice.randrange(200)
        if self.dice.random() < 0.05:
            nbytes = self.dice.choice((5000, 32_700, 33_000, 70_000))
        return self.dice.randbytes(8) * (nbytes // 8)

    def turn(self) -> None:
        ways = (
            *(self.transact, self.transact, self.transact),
            *(self.solo, self.append, self.forget, self.many, self.rush),
        )
        self.dice.choice(ways)()
        self.notes.commits[0] += 1

    def transact(self) -> None:
        """Put and delete some fields, and put all anchors, as one commit; or leave it undone."""
        dice, base = self.dice, self.writer.version
        touched = dice.sample(FIELDS, dice.randrange(len(FIELDS) // 2))
        gone = [key for key in touched if key in self.fields and dice.random() < 0.3]
        put = [key for key in touched if key not in gone]
        put += dice.sample(put, len(put) // 3)  # some of them twice
        first = dice.random() < 0.5  # the anchors
        at = base + (len(ANCHORS) if first else 0)
        after = {key: entry for key, entry in self.fields.items() if key not in gone}
        fields: list[tuple[int, bytes]] = []
        for key in put:
            at += 1
            data = made(at, b"", self.body())
            after[key] = Entry(at, data[:_MARK], b"")
            fields.append((key, data))
        at = base + (0 if first else len(fields) + len(gone))
        state = state_of(after)
        anchors = [(key, made(at + n + 1, state, b"")) for n, key in enumerate(ANCHORS)]
        undone = dice.random() < 0.1
        with contextlib.suppress(_Undone), self.writer.transaction():
            if first:
                self.put_all(anchors)
            self.put_all(fields)
            for key in gone:
                assert self.writer.delete(key)
            if not first:
                self.put_all(anchors)
            if undone:
                raise _Undone
        assert self.writer.version == base + (
            0 if undone else len(anchors) + len(fields) + len(gone)
        )
        if not undone:
            self.fields = after
            self.notes.anchored[0] = at + len(ANCHORS)

    def put_all(self, pairs: Iterable[tuple[Any, bytes]]) -> None:
        """Put pairs in one of the ways; each chunk gets the version that it contains."""
        pairs = list(pairs)
        if pairs and self.dice.random() < 0.5:
            version = self.writer.put_many(pairs)
            assert int.from_bytes(pairs[-1][1][_MARK : _MARK + 8], "little") == version
            return
        for key, data in pairs:
            version = self.writer.put(key, data)
            assert int.from_bytes(data[_MARK : _MARK + 8], "little") == version

    def many(self) -> None:
        base = self.writer.version + 1
        pairs = [(key, quick(base + n)) for n, key in enumerate(QUICK)]
        for _ in range(self.dice.randrange(5)):
            self.writer.put_many(pairs)
            base += len(QUICK)
            pairs = [(key, quick(base + n)) for n, key in enumerate(QUICK)]

    def rush(self) -> None:
        version, put = self.writer.version, self.writer.put
        for n in range(version + 1, version + self.dice.randrange(300)):
            put(RUSH, quick(n))

    def solo(self) -> None:
        data = made(self.writer.version + 1, b"", self.body())
        key = self.dice.choice(SOLOS)
        if self.dice.random() < 0.5:
            self.writer.put(key, data)
            return
        record = self.writer.allocate_record(len(data))
        record.view[:] = data
        self.writer.put_record(key, record)

    def append(self) -> None:
        self.writer.append(made(self.writer.version + 1, b"", self.body()), ttl=SHORT)

    def forget(self) -> None:
        if self.dice.random() < 0.5:
            self.writer.delete(self.dice.choice(SOLOS))
        else:
            self.writer.collect()


def write(heap: ipcheap.Heap, notes: Notes, seed: int) -> None:
    """Change the ledger until killed."""
    scribe = Scribe(heap, notes, seed)
    while True:
        scribe.turn()


# A reader ----------------------------------------------------------------------------------


class Auditor:
    """A reader that looks at everything, in every way, and keeps some of it for a while."""

    def __init__(self, heap: ipcheap.Heap, notes: Notes, number: int, seed: int) -> None:
        self.heap = heap
        self.notes = notes
        self.number = number
        self.dice = random.Random(seed)
        self.reader = heap.store_reader(NAME)
        self.held: list[tuple[ipcheap.Chunk, bytes]] = []
        self.last = 0  # version that was followed

    def know(self, chunk: ipcheap.Chunk, keeps: float = 0.1) -> Entry:
        """Check a chunk, and that its version had the same bytes before; keep it now and then."""
        entry = judged(chunk)
        seen, word = self.notes.seen[self.number], int.from_bytes(entry.checksum[:8], "little")
        assert seen[entry.version] in (0, word), f"version {entry.version} has had other bytes"
        seen[entry.version] = word
        if self.dice.random() < keeps:
            self.held.append((chunk, bytes(chunk)))
        while len(self.held) > HELD:
            kept, data = self.held.pop(self.dice.randrange(len(self.held)))
            assert bytes(kept) == data, f"version {kept.version} changed while it was held"
            kept.release()
        return entry

    def close(self) -> None:
        """Check what is held, after the end of the reader, and release it."""
        self.reader.close()
        for kept, data in self.held:
            assert bytes(kept) == data, f"version {kept.version} changed while it was held"
        self.held.clear()

    def turn(self) -> None:
        ways: tuple[Callable[[], None], ...]
        ways = (
            *(self.look, self.look, self.look_at_many, self.follow, self.look_up),
            *(self.go_back, self.wait, self.list),
        )
        self.dice.choice(ways)()
        if self.dice.random() < 0.02:
            self.reader.close()
            self.reader, self.last = self.heap.store_reader(NAME), 0
        if self.dice.random() < 0.8:  # otherwise eight of them would leave no time for a writer
            time.sleep(self.dice.random() * 0.02)

    def look(self) -> None:
        anchored = self.notes.anchored[0]
        chunks = self.reader.get_many([*ANCHORS, *FIELDS])
        newest, _ = whole(chunks)
        assert newest >= anchored, f"{newest} was read after {anchored} had been committed"
        for chunk in chunks.values():
            self.know(chunk)
        self.notes.looks[self.number] += 1

    def look_at_many(self) -> None:
        expect_one_commit(self.reader.get_many(QUICK))

    def follow(self) -> None:
        for _ in range(self.dice.randrange(20)):
            try:
                chunk = self.reader.next(timeout=0.001)
            except ABSENT:
                return
            assert chunk.version > self.last, f"{chunk.version} came after {self.last}"
            assert self.reader.position == chunk.version
            self.last = self.know(chunk).version
            self.notes.followed[self.number] += 1
            if chunk.key in ANCHORS:
                newest, _ = whole(self.reader.get_many([*ANCHORS, *FIELDS]))
                assert newest >= self.last, "a part of a transaction was seen before the rest"

    def look_up(self) -> None:
        key: Any = self.dice.choice((RUSH, *SOLOS, *FIELDS))
        chunk = self.reader.get(key)
        if chunk is not None:
            self.know(chunk)

    def go_back(self) -> None:
        key: Any = self.dice.choice((RUSH, *SOLOS, *ANCHORS))
        chunks = self.reader.history(key)
        versions = [self.know(chunk).version for chunk in chunks]
        assert versions == sorted(set(versions))
        assert len(versions) <= DEPTH

    def wait(self) -> None:
        anchored = self.notes.anchored[0]
        with contextlib.suppress(*ABSENT):
            chunk = self.reader.wait_for(ANCHORS[0], newer_than=anchored, timeout=0.005)
            assert self.know(chunk).version > anchored

    def list(self) -> None:
        versions = [self.know(chunk, keeps=0).version for _, chunk in self.reader.items()]
        assert len(versions) <= len(ANCHORS) + len(FIELDS) + len(SOLOS) + len(QUICK) + 1


def read(heap: ipcheap.Heap, notes: Notes, seed: int, number: int) -> None:
    """Check the ledger until told to stop."""
    auditor, parent = Auditor(heap, notes, number, seed), os.getppid()
    while not notes.stop[0] and os.getppid() == parent:
        auditor.turn()
    auditor.close()

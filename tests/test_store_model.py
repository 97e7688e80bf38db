"""A store against a plain Python model, by Hypothesis: dictionaries, lists and version numbers."""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, reject, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

SETTINGS = settings(
    max_examples=20,
    stateful_step_count=50,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

KEYS: list[Any] = [0, 1, "0", b"0", 2**64 - 1, "ä" * 32]
HOLD = 12
SHORT = 0.1  # seconds to live of a chunk that expires in the middle of a rule
EXPIRED = 1e-9  # of one that has expired before anybody can look

keys = st.sampled_from(KEYS)
sizes = st.one_of(st.integers(0, 100), st.integers(0, 100), st.integers(32_000, 34_000))
changes = st.lists(st.tuples(keys, st.one_of(st.none(), sizes)), max_size=8)
picks = st.integers(0, 1_000_000)
WAYS = ("put", "put_many", "put_record", "forward", "loan")


def boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@contextlib.contextmanager
def in_time() -> Iterator[None]:
    """Give this example up if the block took so long that what was put in it may have expired."""
    began = boot_time()
    try:
        yield
    finally:
        if boot_time() - began >= SHORT:
            reject()


class Full(Exception):
    """The model's HeapFull."""


class Undone(Exception):
    """Leaves a transaction."""


@dataclass
class Value:
    version: int
    data: bytes
    expired: bool = False


class Model:
    """What a store has, and what its calls do to it. A change of None is a deletion."""

    def __init__(self, depth: int, max_chunks: int | None, max_bytes: int | None, evict: bool):
        self.depth, self.evict = depth, evict
        self.max_chunks = max_chunks or math.inf
        self.max_bytes = max_bytes or math.inf
        self.head = 0
        self.chains: dict[Any, list[Value]] = {}  # oldest first
        self.loose: list[Value] = []  # without a key
        self.counts = dict.fromkeys(("replaced", "expired", "evicted", "deleted"), 0)

    def chunks(self) -> list[Value]:
        """Return all chunks that followers may get."""
        found = [*self.loose, *(value for chain in self.chains.values() for value in chain)]
        return sorted((value for value in found if not value.expired), key=lambda v: v.version)

    def newest(self, key: Any) -> Value | None:
        chain = self.chains.get(key)
        return None if not chain or chain[-1].expired else chain[-1]

    def keys(self) -> list[Any]:
        there = {key: value for key in self.chains if (value := self.newest(key))}
        return sorted(there, key=lambda key: there[key].version)

    def history(self, key: Any) -> list[Value]:
        return [v for v in self.chains[key] if not v.expired] if self.newest(key) else []

    def expire(self) -> None:
        """Remove what has expired, as each commit and each collection does."""
        before = sum(map(len, self.chains.values())) + len(self.loose)
        self.chains = {k: self.history(k) for k in self.chains if self.newest(k)}
        self.loose = [value for value in self.loose if not value.expired]
        after = sum(map(len, self.chains.values())) + len(self.loose)
        self.counts["expired"] += before - after

    def after(self, changes: list[tuple[Any, Value | None]]) -> list[Value]:
        """Return what would be there after changes."""
        chains = {key: list(chain) for key, chain in self.chains.items()}
        loose = list(self.loose)
        for key, value in changes:
            if value is None:
                chains.pop(key, None)
            elif key is None:
                loose.append(value)
            else:
                chains[key] = [*chains.get(key, []), value][-self.depth :]
        return loose + [value for chain in chains.values() for value in chain]

    def fits(self, values: list[Value]) -> bool:
        nbytes = sum(len(value.data) for value in values)
        return len(values) <= self.max_chunks and nbytes <= self.max_bytes

    def evict_oldest(self) -> None:
        oldest = self.chunks()[0]
        self.counts["evicted"] += 1
        self.loose = [value for value in self.loose if value is not oldest]
        self.chains = {
            key: left
            for key, chain in self.chains.items()
            if (left := [value for value in chain if value is not oldest])
        }

    def commit(self, versions: int, changes: list[tuple[Any, Value | None]]) -> None:
        """Make changes, of which each is the last of its key, or raise Full."""
        self.expire()
        while not self.fits(self.after(changes)):
            new = [value for _, value in changes if value is not None]
            if not self.evict or not self.fits(new):
                raise Full
            self.evict_oldest()
        for key, value in changes:
            if value is None:
                self.counts["deleted"] += len(self.chains.pop(key, []))
            elif key is None:
                self.loose.append(value)
            else:
                chain = self.chains.setdefault(key, [])
                chain.append(value)
                self.counts["replaced"] += len(chain) - len(chain[-self.depth :])
                del chain[: -self.depth]
        self.head += versions


class StoreMachine(RuleBasedStateMachine):
    """A writer, a reader that follows and holds, and a record channel to forward from."""

    @initialize(
        depth=st.integers(1, 3),
        most=st.sampled_from([(None, None), (None, None), (7, None), (None, 40_000), (7, 40_000)]),
        evict=st.booleans(),
        garbage=st.sampled_from([0, 5000, 1 << 20]),
    )
    def create(
        self, depth: int, most: tuple[int | None, int | None], evict: bool, garbage: int
    ) -> None:
        self.heap = ipcheap.Heap.create(None, "16MiB", shm="memfd")
        self.store = self.heap.add_store(
            "values",
            depth=depth,
            max_chunks=most[0],
            max_bytes=most[1],
            evict=evict,
            garbage=garbage,
            hold=HOLD,
        )
        self.heap.add_record_channel("records", 4)
        self.producer, self.consumer = self.heap.producer("records"), self.heap.consumer("records")
        self.writer, self.reader = self.store.writer(), self.store.reader()
        self.model = Model(depth, *most, evict)
        self.position = 0
        self.held: list[tuple[ipcheap.Chunk, Value]] = []
        self.count = 0

    def data(self, nbytes: int) -> bytes:
        self.count += 1
        return (self.count.to_bytes(4, "little") * (nbytes // 4 + 1))[:nbytes]

    # Writing --------------------------------------------------------------------------

    def put_alike(self, key: Any, data: bytes, ttl: float | None, way: str) -> int:
        """Put bytes in one of the ways."""
        if way == "put":
            return self.writer.put(key, data, ttl)
        if way == "append":
            return self.writer.append(data, ttl)
        if way == "put_many":
            return self.writer.put_many([(key, data)], ttl)
        if way == "loan":
            with self.writer.loan(key, len(data), "u1", ttl) as array:
                array[:] = bytearray(data)
            return self.writer.version
        if way == "put_record":
            record = self.writer.allocate_record(len(data))
            record.view[:] = data
        else:
            self.producer.send(data)
            record = self.consumer.recv_record(timeout=0)
        try:
            return self.writer.put_record(key, record, ttl)
        except ipcheap.HeapFull:
            assert bytes(record) == data
            record.free()
            raise

    def put_one(self, key: Any, nbytes: int, ttl: float | None, way: str) -> Value | None:
        """Put a chunk, and return it; None if there was no room."""
        value = Value(self.model.head + 1, self.data(nbytes))
        fits = nbytes <= self.model.max_bytes
        try:
            if not fits:  # and the writer has not looked at the store
                raise Full
            self.model.commit(1, [(key, value)])
        except Full:
            with pytest.raises(ipcheap.HeapFull, match=r"can never fit|max_"):
                self.put_alike(key, value.data, ttl, way)
            return None
        assert self.put_alike(key, value.data, ttl, way) == value.version
        return value

    @rule(key=st.one_of(keys, st.none()), nbytes=sizes, way=st.sampled_from(WAYS))
    def put(self, key: Any, nbytes: int, way: str) -> None:
        self.put_one(key, nbytes, None, way)

    @rule(nbytes=sizes)
    def append(self, nbytes: int) -> None:
        self.put_one(None, nbytes, math.inf, "append")

    @rule(key=st.one_of(keys, st.none()), nbytes=st.integers(0, 50))
    def put_what_expires_immediately(self, key: Any, nbytes: int) -> None:
        collections = self.store.statistics().collections
        value = self.put_one(key, nbytes, EXPIRED, "put")
        if value is not None:
            value.expired = True
        if self.store.statistics().collections > collections:
            self.model.expire()  # the put has looked at the clock again

    @rule(key=st.one_of(keys, st.none()), over=st.booleans())
    def let_one_expire(self, key: Any, over: bool) -> None:
        """Put a chunk, and another over it or not; then wait until the first one has expired."""
        with in_time():
            value = self.put_one(key, 10, SHORT, "put")
            expires = boot_time() + SHORT
            if value is not None and key is not None:
                assert self.reader.get_bytes(key) == value.data
            if over:
                self.put_one(key, 10, None, "put")
        while boot_time() <= expires:
            time.sleep(SHORT / 8)
        if value is not None:
            value.expired = True

    @rule(changes=changes, ends=st.sampled_from(["commits", "commits", "raises"]))
    def transaction(self, changes: list[tuple[Any, int | None]], ends: str) -> None:
        """Put and delete several keys; a size of None is a deletion."""
        changes = [(k, n) for k, n in changes if n is None or n <= self.model.max_bytes]
        last: dict[Any, Value | None] = {}
        version, before = self.model.head, self.writer.version
        if any(nbytes is None for _, nbytes in changes):
            self.writer.collect()  # so that it is known when the writer has looked at the clock
            self.model.expire()

        def change_all() -> None:
            nonlocal version
            with self.writer.transaction():
                for key, nbytes in changes:
                    if nbytes is not None:
                        version += 1
                        value = Value(version, self.data(nbytes))
                        assert self.writer.put(key, value.data) == version
                        last.pop(key, None)
                        last[key] = value
                        continue
                    there = last[key] is not None if key in last else self.model.newest(key)
                    assert self.writer.delete(key) == bool(there)
                    if there:
                        version += 1
                        last.pop(key, None)
                        last[key] = None
                assert self.writer.version == before
                if ends == "raises":
                    raise Undone
                if version > self.model.head:
                    self.model.commit(version - self.model.head, [*last.items()])

        try:
            change_all()
        except Undone:
            pass
        except Full:
            with pytest.raises(ipcheap.HeapFull):
                self.commit_again(changes)
        assert self.writer.version == self.model.head

    def commit_again(self, changes: list[tuple[Any, int | None]]) -> None:
        """Make the changes that do not fit; the transaction must fail at its end."""
        with self.writer.transaction():
            for key, nbytes in changes:
                if nbytes is None:
                    self.writer.delete(key)
                else:
                    self.writer.put(key, bytes(nbytes))

    @rule(count=st.integers(0, 150), first=st.integers(1000, 1200))
    def put_many_keys(self, count: int, first: int) -> None:
        """Let the number of keys grow."""
        head = self.model.head
        values = {first + n: Value(head + 1 + n, self.data(4)) for n in range(count)}
        try:
            if count:
                self.model.commit(count, [*values.items()])
        except Full:
            with pytest.raises(ipcheap.HeapFull):
                self.writer.put_many({key: value.data for key, value in values.items()})
            assert self.writer.version == head
            return
        done = self.writer.put_many({key: value.data for key, value in values.items()})
        assert done == self.model.head

    @rule(key=keys)
    def delete(self, key: Any) -> None:
        self.model.expire()
        there = self.model.newest(key) is not None
        assert self.writer.delete(key) is there
        if there:
            self.model.commit(1, [(key, None)])

    @rule()
    def collect(self) -> None:
        self.model.expire()
        self.writer.collect()
        live = {value.version for value in self.model.chunks()}
        dead = {value.version: value for _, value in self.held if value.version not in live}
        statistics = self.store.statistics()
        assert (statistics.dead, statistics.held) == (len(dead), len(dead))
        nbytes = sum(len(value.data) for value in dead.values())
        assert statistics.dead_bytes == statistics.held_bytes == nbytes
        assert self.writer.collect() == 0

    @rule()
    def close_and_claim_the_writer(self) -> None:
        self.model.expire()  # nothing says when it is done while there is no writer
        self.writer.collect()
        self.writer.close()
        # Nor does a reader wait for what it could not hold.
        with pytest.raises(ipcheap.ChannelClosed if self.room else ipcheap.RecordError):
            self.reader.wait_for("never", timeout=0)
        self.writer = self.store.writer()

    @rule()
    def let_others_collect(self) -> None:
        self.model.expire()
        self.writer.collect()
        self.heap.trim()
        self.heap.recover()

    # Reading --------------------------------------------------------------------------

    def take(self, chunk: ipcheap.Chunk, value: Value, pick: int = 0) -> None:
        """Check a chunk that must be there, and hold it, or not."""
        assert (chunk.version, bytes(chunk), chunk.nbytes) == (
            value.version,
            value.data,
            len(value.data),
        )
        if pick % 2 and len(self.held) < HOLD:
            self.held.append((chunk, value))
        else:
            chunk.release()

    @property
    def room(self) -> int:
        return HOLD - len(self.held)

    @rule(key=keys, newer_than=st.integers(0, 40), pick=picks)
    def get(self, key: Any, newer_than: int, pick: int) -> None:
        value = self.model.newest(key)
        assert (key in self.reader) == (value is not None)
        if not self.room:
            with pytest.raises(ipcheap.RecordError):
                self.reader.get(key)
            return
        assert self.reader.get_bytes(key) == (None if value is None else value.data)
        chunk = self.reader.get(key, newer_than=newer_than)
        if value is None or value.version <= newer_than:
            assert chunk is None
            with pytest.raises(TimeoutError):
                self.reader.wait_for(key, newer_than, timeout=0)
            return
        assert chunk is not None
        assert chunk.key == key
        self.take(chunk, value, pick)
        if self.room:
            self.take(self.reader.wait_for(key, newer_than, timeout=0), value)

    @rule(wanted=st.lists(st.one_of(keys, st.integers(1000, 1010)), max_size=8), pick=picks)
    def get_many(self, wanted: list[Any], pick: int) -> None:
        there = {key: value for key in wanted if (value := self.model.newest(key))}
        if len(there) > self.room or not self.room:
            if wanted:
                with pytest.raises(ipcheap.RecordError):
                    self.reader.get_many(wanted)
            return
        found = self.reader.get_many(wanted)
        assert found.keys() == there.keys()
        for key, chunk in found.items():
            self.take(chunk, there[key], pick)

    @rule(key=keys, pick=picks)
    def history(self, key: Any, pick: int) -> None:
        values = self.model.history(key)
        if len(values) >= self.room:
            return
        chunks = self.reader.history(key)
        assert [chunk.version for chunk in chunks] == [value.version for value in values]
        for chunk, value in zip(chunks, values, strict=True):
            self.take(chunk, value, pick)

    @rule(count=st.integers(1, 5), pick=picks)
    def follow(self, count: int, pick: int) -> None:
        for _ in range(count):
            if not self.room:
                with pytest.raises(ipcheap.RecordError):
                    self.reader.try_next()
                break
            left = [value for value in self.model.chunks() if value.version > self.position]
            chunk = self.reader.try_next()
            if not left:
                assert chunk is None
                self.position = self.model.head
                break
            assert chunk is not None
            self.position = left[0].version
            self.take(chunk, left[0], pick)
        assert self.reader.position == self.position

    @rule(version=st.one_of(st.none(), st.integers(0, 300)))
    def seek(self, version: int | None) -> None:
        head = self.model.head
        self.position = head if version is None else min(version, head)
        assert self.reader.seek(version) == self.position

    @precondition(lambda self: self.held)
    @rule(pick=picks)
    def release(self, pick: int) -> None:
        chunk, value = self.held.pop(pick % len(self.held))
        assert bytes(chunk) == value.data
        chunk.release()
        with pytest.raises(ipcheap.RecordError):
            bytes(chunk)

    @rule()
    def close_and_claim_the_reader(self) -> None:
        self.reader.close()
        for chunk, value in self.held:
            assert bytes(chunk) == value.data
            chunk.release()
        self.held.clear()
        assert self.store.readers() == []
        self.reader, self.position = self.store.reader(), 0

    # At any time ----------------------------------------------------------------------

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        if not hasattr(self, "heap"):
            return
        model, live = self.model, self.model.chunks()
        assert self.writer.version == self.reader.version == model.head
        assert self.reader.keys() == model.keys()
        assert len(self.reader) == len(model.keys())
        statistics = self.store.statistics()
        assert (statistics.version, statistics.keys, statistics.chunks, statistics.bytes) == (
            model.head,
            len(model.keys()),
            len(live),
            sum(len(value.data) for value in live),
        )
        assert {name: getattr(statistics, name) for name in model.counts} == model.counts
        versions = {value.version for value in live}
        for chunk, value in self.held:
            assert bytes(chunk) == value.data
            assert chunk.live == (value.version in versions)
        assert self.reader.statistics().held == len(self.held)
        assert self.heap.check() == []

    def teardown(self) -> None:
        if not hasattr(self, "heap"):
            return
        held = [(bytes(chunk), value.data) for chunk, value in self.held]
        self.writer.close()
        self.reader.close()
        self.heap.remove_channel("values")
        assert all(left == right for left, right in held)
        assert [bytes(chunk) for chunk, _ in self.held] == [value.data for _, value in self.held]
        for chunk, _ in self.held:
            chunk.release()
        self.producer.close()
        self.consumer.close()
        self.heap.remove_channel("records")
        assert (self.heap.statistics().in_use, self.heap.check()) == (0, [])
        self.heap.close()


TestStore = StoreMachine.TestCase
TestStore.settings = SETTINGS

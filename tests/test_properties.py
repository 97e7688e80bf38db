"""The allocator and the record channel against plain Python models, by Hypothesis."""

from __future__ import annotations

from collections import deque

import pytest
import threads
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

import ipcheap

EXAMPLES = settings(
    max_examples=50,
    stateful_step_count=60,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

sizes = st.one_of(
    st.integers(0, 130),
    st.integers(0, 5000),
    st.integers(30_000, 70_000),
    st.integers(0, 400_000),
)
picks = st.integers(0, 1_000_000)


def pattern(number: int, nbytes: int) -> bytes:
    """Return the content of the record with that number."""
    word = (number * 2_654_435_761 & 0xFFFF_FFFF).to_bytes(4, "little")
    return (word * (nbytes // 4 + 1))[:nbytes]


class Allocator(RuleBasedStateMachine):
    """The allocator, modelled as a list of records and what was written into each."""

    @initialize(capacity=st.sampled_from([64 << 10, 256 << 10, 1 << 20]))
    def create(self, capacity: int) -> None:
        self.heap = ipcheap.Heap.create(None, capacity, shm="memfd")
        self.start = self.heap.statistics()
        self.live: list[tuple[ipcheap.Record, int]] = []
        self.count = 0

    def write(self, record: ipcheap.Record) -> None:
        self.count += 1
        record.view[:] = pattern(self.count, record.nbytes)
        self.live.append((record, self.count))

    def take(self, pick: int) -> ipcheap.Record:
        record, number = self.live.pop(pick % len(self.live))
        assert bytes(record) == pattern(number, record.nbytes)
        return record

    @rule(nbytes=sizes)
    def allocate(self, nbytes: int) -> None:
        try:
            record = self.heap.allocate_record(nbytes)
        except ipcheap.HeapFull:
            assert self.heap.statistics().largest_free < max(nbytes, 1)
            assert self.live or nbytes > 0.95 * self.heap.capacity
            return
        assert record.nbytes == nbytes
        self.write(record)

    @rule(nbytes=sizes, count=st.integers(2, 30))
    def allocate_elsewhere(self, nbytes: int, count: int) -> None:
        made: list[ipcheap.Record] = []

        def work() -> None:
            try:
                for _ in range(count):
                    made.append(self.heap.allocate_record(nbytes))
            except ipcheap.HeapFull:
                pass

        threads.call(work)
        for record in made:
            self.write(record)

    @precondition(lambda self: self.live)
    @rule(pick=picks)
    def free(self, pick: int) -> None:
        record = self.take(pick)
        record.free()
        with pytest.raises(ipcheap.RecordError):
            record.free()

    @precondition(lambda self: self.live)
    @rule(pick=picks)
    def drop(self, pick: int) -> None:
        self.take(pick)

    @precondition(lambda self: self.live)
    @rule(pick=picks, count=st.integers(1, 40))
    def free_elsewhere(self, pick: int, count: int) -> None:
        records = [self.take(pick) for _ in range(min(count, len(self.live)))]
        threads.call(lambda: deque(map(ipcheap.Record.free, records)))

    @rule(keep=st.sampled_from([0, 100_000]))
    def trim(self, keep: int) -> None:
        self.heap.trim(keep)

    @invariant()
    def nothing_overlaps_and_all_is_aligned(self) -> None:
        if not hasattr(self, "heap"):
            return
        spans = sorted((int(record.array().ctypes.data), record.nbytes) for record, _ in self.live)
        end = 0
        for address, nbytes in spans:
            assert address % 64 == 0
            assert address >= end
            end = address + max(nbytes, 1)  # even empty ones have a place of their own
        statistics = self.heap.statistics()
        assert statistics.records == len(self.live)
        assert sum(nbytes for _, nbytes in spans) <= statistics.in_use
        assert statistics.in_use <= statistics.committed <= statistics.capacity
        assert self.heap.check() == []

    def teardown(self) -> None:
        if not hasattr(self, "heap"):
            return
        while self.live:
            self.take(0).free()
        self.heap.allocate_record(int(0.95 * self.heap.capacity)).free()
        self.heap.trim()
        statistics = self.heap.statistics()
        for name in ("in_use", "records", "extents", "slabs", "largest_free"):
            assert getattr(statistics, name) == getattr(self.start, name), name
        assert statistics.committed == 0
        assert self.heap.check() == []
        self.heap.close()


class Channel(RuleBasedStateMachine):
    """A record channel, modelled as a deque of what is pending and the slots that are taken."""

    @initialize(slots=st.sampled_from([1, 2, 4, 8]))
    def create(self, slots: int) -> None:
        self.heap = ipcheap.Heap.create(None, "1MiB", shm="memfd")
        self.slots = self.heap.add_record_channel("c", slots).capacity
        self.producer = self.heap.producer("c")
        self.consumer = self.heap.consumer("c")
        self.count = 0  # of messages made so far
        self.sent = 0  # position of the next one to be sent
        self.pending: deque[tuple[int, int, int]] = deque()  # number, size, position
        self.taken: set[int] = set()  # positions whose slots hold something
        self.held: list[tuple[ipcheap.Record, int, int]] = []  # with number and position
        self.own: list[tuple[ipcheap.Record, int]] = []

    # What must happen -----------------------------------------------------------------

    def has_room(self) -> bool:
        return self.sent - self.slots not in self.taken

    def note_sent(self, number: int, nbytes: int) -> None:
        self.pending.append((number, nbytes, self.sent))
        self.taken.add(self.sent)
        self.sent += 1

    def no_room(self) -> type[Exception]:
        return ipcheap.ChannelClosed if self.consumer.closed else TimeoutError

    def nothing_there(self) -> type[Exception]:
        """Return what a call raises that asks for a record; it detaches one that is in the way."""
        if self.producer.closed:
            return ipcheap.ChannelClosed
        self.taken.discard(self.sent - self.slots)
        return TimeoutError

    def new_message(self, nbytes: int) -> bytes:
        self.count += 1
        return pattern(self.count, nbytes)

    # Sending --------------------------------------------------------------------------

    @rule(nbytes=sizes)
    def allocate(self, nbytes: int) -> None:
        if len(self.own) < 10 and nbytes < 60_000:
            record = self.heap.allocate_record(nbytes)
            record.view[:] = self.new_message(nbytes)
            self.own.append((record, self.count))

    @precondition(lambda self: not self.producer.closed)
    @rule(nbytes=st.integers(0, 50_000))
    def send(self, nbytes: int) -> None:
        data = self.new_message(nbytes)
        if self.has_room():
            self.producer.send(data, timeout=0)
            self.note_sent(self.count, nbytes)
        else:
            with pytest.raises(self.no_room()):
                self.producer.send(data, timeout=0)

    @precondition(lambda self: not self.producer.closed)
    @rule(lengths=st.lists(st.integers(0, 2000), min_size=1, max_size=12))
    def send_many(self, lengths: list[int]) -> None:
        first = self.count + 1
        batch = [self.new_message(nbytes) for nbytes in lengths]
        in_the_way = (n for n in range(self.slots) if self.sent + n - self.slots in self.taken)
        room = next(in_the_way, self.slots)
        if room >= len(batch):
            assert self.producer.send_many(batch, timeout=0) == len(batch)
            went = len(batch)
        else:
            with pytest.raises(self.no_room()) as caught:
                self.producer.send_many(batch, timeout=0)
            went = caught.value.done  # type: ignore[attr-defined]
        for number, nbytes in enumerate(lengths[:went], first):
            assert self.has_room()
            self.note_sent(number, nbytes)
        assert went == len(batch) or not self.has_room()

    @precondition(lambda self: self.own and not self.producer.closed)
    @rule(pick=picks)
    def send_own(self, pick: int) -> None:
        record, number = self.own[pick % len(self.own)]
        nbytes = record.nbytes
        if not self.has_room() and self.consumer.closed:
            with pytest.raises(ipcheap.ChannelClosed):
                self.producer.try_send_record(record)
            return
        went = self.producer.try_send_record(record)
        assert went == self.has_room()
        if went:
            self.own.remove((record, number))
            self.note_sent(number, nbytes)

    @precondition(lambda self: self.held and not self.producer.closed)
    @rule(pick=picks)
    def send_on_what_is_held(self, pick: int) -> None:
        record, number, position = self.held[pick % len(self.held)]
        nbytes = record.nbytes
        if not self.has_room():
            with pytest.raises(self.no_room()):
                self.producer.send_record(record, timeout=0)
            return
        self.producer.send_record(record, timeout=0)
        self.held.remove((record, number, position))
        self.note_sent(number, nbytes)
        self.taken.discard(position)

    # Receiving ------------------------------------------------------------------------

    @precondition(lambda self: not self.consumer.closed)
    @rule()
    def receive_and_hold(self) -> None:
        if not self.pending:
            error = self.nothing_there()
            if error is TimeoutError:
                assert self.consumer.try_recv_record() is None
            else:
                with pytest.raises(error):
                    self.consumer.try_recv_record()
            return
        number, nbytes, position = self.pending.popleft()
        record = self.consumer.recv_record(timeout=0)
        assert bytes(record) == pattern(number, nbytes)
        self.held.append((record, number, position))

    @precondition(lambda self: not self.consumer.closed)
    @rule(limit=st.integers(1, 12))
    def receive_copies(self, limit: int) -> None:
        if not self.pending:
            with pytest.raises(self.nothing_there()):
                self.consumer.recv_many(limit, timeout=0)
            return
        found = self.consumer.recv_many(limit, timeout=0)
        assert len(found) == min(limit, len(self.pending))
        for data in found:
            number, nbytes, position = self.pending.popleft()
            assert data == pattern(number, nbytes)
            self.taken.remove(position)
        if limit > len(found):
            self.nothing_there()  # it has asked for one more

    @precondition(lambda self: self.held)
    @rule(pick=picks)
    def free_what_is_held(self, pick: int) -> None:
        record, number, position = self.held.pop(pick % len(self.held))
        assert bytes(record) == pattern(number, record.nbytes)
        record.free()
        self.taken.discard(position)

    @precondition(lambda self: self.held)
    @rule(pick=picks)
    def keep_what_is_held(self, pick: int) -> None:
        record, number, position = self.held.pop(pick % len(self.held))
        record.keep()
        self.taken.discard(position)
        self.own.append((record, number))

    @precondition(lambda self: self.own)
    @rule(pick=picks)
    def free_own(self, pick: int) -> None:
        record, number = self.own.pop(pick % len(self.own))
        assert bytes(record) == pattern(number, record.nbytes)
        record.free()

    # Ends -----------------------------------------------------------------------------

    @rule()
    def close_or_claim_the_producer(self) -> None:
        if self.producer.closed:
            self.producer = self.heap.producer("c")
        else:
            self.producer.close()

    @rule()
    def close_or_claim_the_consumer(self) -> None:
        if self.consumer.closed:
            self.consumer = self.heap.consumer("c")
            return
        self.consumer.close()  # and keeps what it held
        for record, number, position in self.held:
            self.taken.discard(position)
            self.own.append((record, number))
        self.held.clear()

    @invariant()
    def all_is_accounted_for(self) -> None:
        if not hasattr(self, "heap"):
            return
        if not self.consumer.closed:
            assert self.consumer.pending == len(self.pending)
            in_slots = sum(position in self.taken for *_, position in self.held)
            assert self.consumer.statistics().held == in_slots
        live = len(self.pending) + len(self.held) + len(self.own)
        assert self.heap.statistics().records == live
        assert self.heap.check() == []

    def teardown(self) -> None:
        if not hasattr(self, "heap"):
            return
        self.producer.close()
        if not self.consumer.closed:
            self.close_or_claim_the_consumer()
        with self.heap.consumer("c") as consumer:
            found = [bytes(record) for record in consumer]
        assert found == [pattern(number, nbytes) for number, nbytes, _ in self.pending]
        for record, number in self.own:
            assert bytes(record) == pattern(number, record.nbytes)
            record.free()
        self.heap.remove_channel("c")
        self.heap.trim()
        statistics = self.heap.statistics()
        assert (statistics.records, statistics.in_use) == (0, 0)
        assert self.heap.check() == []
        self.heap.close()


TestAllocator = Allocator.TestCase
TestAllocator.settings = EXAMPLES
TestChannel = Channel.TestCase
TestChannel.settings = EXAMPLES

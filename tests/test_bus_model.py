"""A bus against a plain Python model, by Hypothesis: one list, and a position for each listener."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
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

SETTINGS = settings(
    max_examples=25,
    stateful_step_count=60,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)

MOST_LISTENERS = 6
sizes = st.one_of(st.integers(0, 100), st.sampled_from([4000, 5000, 33_000, 70_000]))
picks = st.integers(0, 1_000_000)
POSTS = (
    "post",
    "post_many",
    "post_record",
    "post_object",
    "forward",
    "loan",
    "broadcast",
    "thread",
)
RECEIVES = ("recv", "recv_many", "recv_record", "recv_records", "try_recv_record", "iterate")
RELEASES = ("free", "keep", "with", "thread", "drop")


@dataclass
class Hearer:
    """A listener, and what the model knows of it."""

    listener: ipcheap.Listener
    lossy: bool
    cursor: int
    joined: int
    received: int = 0
    lost: int = 0
    held: list[ipcheap.Message] = field(default_factory=list)
    kept: list[ipcheap.Message] = field(default_factory=list)


class BusMachine(RuleBasedStateMachine):
    """Posts, receives, holds and closes in any order, against a list of all messages."""

    @initialize(
        log=st.integers(0, 4),
        history=st.integers(0, 16),
        patience=st.sampled_from([None, None, 0]),
    )
    def create(self, log: int, history: int, patience: float | None) -> None:
        self.heap = ipcheap.Heap.create(None, "16MiB", shm="memfd")
        self.capacity = 1 << log
        self.history = min(history, self.capacity)
        self.patience = patience
        self.bus = self.heap.add_bus("news", self.capacity, history=self.history, patience=patience)
        self.heap.add_record_channel("records", 4)
        self.producer, self.consumer = self.heap.producer("records"), self.heap.consumer("records")
        self.log: list[bytes] = []
        self.there: list[Hearer] = []
        self.orphans: list[tuple[ipcheap.Message, int]] = []  # of listeners that have closed
        self.count = 0

    # The model

    def data(self, nbytes: int) -> bytes:
        self.count += 1
        return (self.count.to_bytes(4, "little") * (nbytes // 4 + 1))[:nbytes]

    @property
    def end(self) -> int:
        return len(self.log)

    def room(self) -> bool:
        return all(h.lossy or self.end - h.cursor < self.capacity for h in self.there)

    def pick(self, number: int) -> Hearer:
        return self.there[number % len(self.there)]

    def catch_up(self, hearer: Hearer) -> None:
        """Count what a lossy listener has lost, by what it says itself."""
        if not hearer.lossy:
            return
        pending = hearer.listener.pending
        assert pending <= min(self.capacity, self.end - hearer.cursor)
        oldest = self.end - pending
        # A history that went before the first receive is no loss: it gets what there is.
        first = hearer.cursor if hearer.received else max(hearer.cursor, hearer.joined)
        hearer.lost += max(oldest - first, 0)
        hearer.cursor = oldest
        # No more than making room takes.
        least = min(self.capacity, self.end)
        if all(each.lossy for each in self.there) and not self.history:
            assert pending >= min(least - 1, self.end - hearer.cursor)

    # Posting

    def post_alike(self, data: bytes, way: str) -> int:
        """Post bytes in one of the ways; return the position."""
        if way == "post":
            return self.bus.post(data, timeout=0)
        if way == "thread":
            return threads.call(lambda: self.bus.post(data, timeout=0))
        if way == "post_many":
            assert self.bus.post_many([data], timeout=0) == 1
            return self.end
        if way == "broadcast":
            report = self.bus.broadcast(data, timeout=0)
            assert (report.listeners, report.slow) == (0, ())  # all listeners are this thread's
            return report.position
        if way == "loan":
            with self.bus.loan(len(data), "u1", timeout=0) as array:
                array[:] = bytearray(data)
            return self.end
        if way == "post_object":
            return self.bus.post_object(np.frombuffer(data, "u1"), timeout=0)
        if way == "post_record":
            record = self.bus.allocate_record(len(data))
            record.view[:] = data
        else:
            self.producer.send(data)
            record = self.consumer.recv_record(timeout=0)
        try:
            return self.bus.post_record(record, timeout=0)
        except TimeoutError:
            assert bytes(record) == data
            record.free()
            raise

    @rule(nbytes=sizes, way=st.sampled_from(POSTS))
    def post(self, nbytes: int, way: str) -> None:
        data = self.data(nbytes)
        if not self.room():
            with pytest.raises(TimeoutError, match="messages behind"):
                self.post_alike(data, way)
            if self.patience is None:
                with pytest.raises(ipcheap.RecordError, match="listener of this thread"):
                    self.bus.post(data)
            return
        position = self.post_alike(data, way)
        assert position == self.end
        if way == "post_object":
            data = b"object" + data
        self.log.append(data)

    @rule(count=st.integers(0, 40))
    def post_many(self, count: int) -> None:
        """Post more than there may be room for."""
        datas = [self.data(20) for _ in range(count)]
        behind = max((self.end - h.cursor for h in self.there if not h.lossy), default=None)
        fits = count if behind is None else min(count, self.capacity - behind)
        self.log += datas[:fits]
        if fits == count:
            assert self.bus.post_many(datas, timeout=0) == count
            return
        with pytest.raises(TimeoutError) as raised:
            self.bus.post_many(datas, timeout=0)
        assert raised.value.done == fits  # type: ignore[attr-defined]

    # Listening

    @precondition(lambda self: len(self.there) < MOST_LISTENERS)
    @rule(lossy=st.booleans(), history=st.integers(0, 16))
    def listen(self, lossy: bool, history: int) -> None:
        if history > self.history:
            with pytest.raises(ValueError, match="history"):
                self.bus.listen(history=history, lossy=lossy)
            return
        listener = self.bus.listen(history=history, lossy=lossy)
        cursor = self.end - min(history, self.end)
        self.there.append(Hearer(listener, lossy or self.patience == 0, cursor, self.end))
        assert listener.pending == self.end - cursor

    @precondition(lambda self: self.there)
    @rule(pick=picks, way=st.sampled_from(RECEIVES), limit=st.integers(1, 5))
    def receive(self, pick: int, way: str, limit: int) -> None:
        hearer = self.pick(pick)
        self.catch_up(hearer)
        listener = hearer.listener
        if hearer.cursor == self.end:
            assert listener.try_recv_record() is None
            for call in (listener.recv, listener.recv_record, listener.recv_array):
                with pytest.raises(TimeoutError):
                    call(timeout=0)
            return
        first = hearer.cursor
        if self.log[first].startswith(b"object"):
            with pytest.raises(ipcheap.RecordError):
                listener.recv_array(timeout=0)
            data = self.log[first].removeprefix(b"object")
            assert listener.recv_object(timeout=0).tobytes() == data
            self.moved(hearer, 1)
            return
        row = next(
            (at for at in range(first, self.end) if self.log[at].startswith(b"object")), self.end
        )
        limit = min(limit, row - first)
        if way == "recv":
            assert listener.recv(timeout=0) == self.log[first]
            self.moved(hearer, 1)
        elif way == "recv_many":
            found = listener.recv_many(limit, timeout=0)
            assert found == self.log[first : first + limit]
            self.moved(hearer, limit)
        elif way == "iterate":
            for message in listener:
                self.check(message, hearer.cursor)
                self.moved(hearer, 1)
                if hearer.cursor == first + limit:
                    break
            message.free()
        else:
            if way == "recv_record":
                messages = [listener.recv_record(timeout=0)]
            elif way == "recv_records":
                messages = listener.recv_records(limit, timeout=0)
            else:
                tried = listener.try_recv_record()
                assert tried is not None
                messages = [tried]
            assert len(messages) == (limit if way == "recv_records" else 1)
            for message in messages:
                self.check(message, hearer.cursor)
                self.moved(hearer, 1)
                hearer.held.append(message)

    def moved(self, hearer: Hearer, count: int) -> None:
        hearer.cursor += count
        hearer.received += count

    def check(self, message: ipcheap.Message, position: int) -> None:
        assert message.position == position
        if not self.log[position].startswith(b"object"):
            assert bytes(message) == self.log[position]
            assert message.nbytes == len(self.log[position])

    @precondition(lambda self: any(each.held for each in self.there))
    @rule(pick=picks, how=st.sampled_from(RELEASES))
    def release(self, pick: int, how: str) -> None:
        holders = [each for each in self.there if each.held]
        hearer = holders[pick % len(holders)]
        message = hearer.held.pop(pick % len(hearer.held))
        self.check(message, message.position)
        if how == "free":
            message.free()
        elif how == "thread":
            threads.call(message.free)
        elif how == "with":
            with message:
                pass
        elif how == "keep":
            message.keep()
            hearer.kept.append(message)
            return
        else:
            del message
            return
        with pytest.raises(ipcheap.RecordError):
            bytes(message)

    @precondition(lambda self: any(each.kept for each in self.there))
    @rule(pick=picks)
    def free_a_kept_one(self, pick: int) -> None:
        holders = [each for each in self.there if each.kept]
        hearer = holders[pick % len(holders)]
        message = hearer.kept.pop(pick % len(hearer.kept))
        self.check(message, message.position)
        message.free()

    @precondition(lambda self: any(each.held for each in self.there))
    @rule(pick=picks)
    def forward(self, pick: int) -> None:
        """Post a message on the bus that it came from."""
        holders = [each for each in self.there if each.held]
        hearer = holders[pick % len(holders)]
        message = hearer.held[pick % len(hearer.held)]
        position = message.position
        if not self.room():
            with pytest.raises(TimeoutError):
                self.bus.post_record(message, timeout=0)
            self.check(message, position)
            return
        assert self.bus.post_record(message, timeout=0) == self.end
        self.log.append(self.log[position])
        hearer.held.remove(message)

    @precondition(lambda self: self.there)
    @rule(pick=picks)
    def close(self, pick: int) -> None:
        hearer = self.pick(pick)
        self.catch_up(hearer)
        self.there.remove(hearer)
        hearer.listener.close()
        for message in hearer.held + hearer.kept:
            self.orphans.append((message, message.position))
        numbers = hearer.listener.statistics()
        assert (numbers.received, numbers.lost) == (hearer.received, hearer.lost)

    @precondition(lambda self: self.orphans)
    @rule(pick=picks)
    def free_an_orphan(self, pick: int) -> None:
        message, position = self.orphans.pop(pick % len(self.orphans))
        self.check(message, position)
        message.free()

    @rule()
    def drain(self) -> None:
        owing = [h for h in self.there if not h.lossy and h.joined < self.end]
        slow = [
            h for h in owing if h.cursor < self.end or any(m.position >= h.joined for m in h.held)
        ]
        report = threads.call(lambda: self.bus.drain(0))
        assert report.position == self.end - 1
        assert (report.listeners, len(report.slow)) == (len(owing), len(slow))
        assert (report.released, report.gone) == (len(owing) - len(slow), 0)

    @rule()
    def recover(self) -> None:
        report = self.heap.recover()
        assert report.participants == 0

    # At any time

    @invariant()
    def all_is_as_it_should_be(self) -> None:
        if not hasattr(self, "heap"):
            return
        statistics = self.bus.statistics()
        assert (statistics.posted, statistics.listeners) == (self.end, len(self.there))
        assert statistics.passed == 0
        for hearer in self.there:
            self.catch_up(hearer)
            numbers = hearer.listener.statistics()
            assert numbers.pending == self.end - hearer.cursor
            assert numbers.held == len(hearer.held) + len(hearer.kept)
            assert (numbers.received, numbers.lost) == (hearer.received, hearer.lost)
            for message in hearer.held + hearer.kept:
                self.check(message, message.position)
        for message, position in self.orphans:
            self.check(message, position)
        waiting = max((self.end - each.cursor for each in self.there), default=0)
        assert statistics.waiting == waiting
        assert self.heap.check() == []

    def teardown(self) -> None:
        if not hasattr(self, "heap"):
            return
        for hearer in self.there:
            hearer.listener.close()
            self.orphans += [(message, message.position) for message in hearer.held + hearer.kept]
        self.heap.remove_channel("news")
        for message, position in self.orphans:
            self.check(message, position)
            message.free()
        self.there.clear()
        self.orphans.clear()
        self.producer.close()
        self.consumer.close()
        self.heap.remove_channel("records")
        assert (self.heap.statistics().in_use, self.heap.check()) == (0, [])
        self.heap.close()


TestBus = BusMachine.TestCase
TestBus.settings = SETTINGS

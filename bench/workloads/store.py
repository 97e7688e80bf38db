"""Stores: the newest value of a key, by what its writer does meanwhile; several keys at a time."""

from __future__ import annotations

import ctypes
import itertools
import time
from multiprocessing.sharedctypes import RawArray

from peers import STORES
from stage import Stage

from workloads.throughput import PAGE, look, patterns
from workloads.workload import Figure, Workload, check

KEYS = 8
MOST = 64  # calls between two looks at the clock,
SHORT = 500_000  # or fewer if they take more than these ns
REHEARSAL = 0.1  # of the time
REST, BUSY = None, 0  # the paces of a writer; others are ns from one put to the next


class Phase:
    """What a writer and its readers do for a while, and which figures that gives."""

    def __init__(self, pace, reads=None, writes=None):
        self.pace = pace
        self.reads = reads  # the figure of the readers, None if they rest
        self.writes = writes  # the figure of the writer, None if it is not of interest


class Shared(Workload):
    """A writer and some readers of one store, in phases of equal length, each after a rehearsal.

    A figure of several readers is the time divided by the calls of all of them.
    """

    carries = STORES
    nbytes = 64
    readers = 1
    grain = 64  # different values
    phases = ()

    def run(self, key, peer, seconds):
        self.length = seconds * 1e9 / len(self.phases)
        store = peer(KEYS, self.nbytes, self.readers)
        try:
            stage = Stage(store, self.readers, threads=False)
            self.calls, self.ns = (RawArray(ctypes.c_int64, 1 + self.readers) for _ in range(2))
            return stage.play(self._write, self._read)
        finally:
            store.close()

    # For the variants ---------------------------------------------------------------------

    def putting(self, writer, keys):
        """Return a function that puts values a number of times; it has put one of each key."""
        raise NotImplementedError

    def getting(self, reader, keys):
        """Return a function that gets values a number of times, and checks the last ones."""
        raise NotImplementedError

    # Inside -------------------------------------------------------------------------------

    def _write(self, stage):
        writer = stage.peer.writer()
        work = self.putting(writer, [stage.peer.key(number) for number in range(KEYS)])
        stage.meet()  # the readers open their ends
        stage.meet()
        figures = {}
        for number in range(2 * len(self.phases)):
            phase, length = self._phase(number)
            stage.count.value = 1 + number
            stage.phase(0, lambda _, phase=phase, length=length: self._put(work, phase, length))
            if phase.reads:
                figures[phase.reads] = self._us(slice(1, None))
            if phase.writes:
                figures[phase.writes] = self._us(slice(1))
        stage.count.value = 0
        stage.phase(0, None)
        writer.close()
        stage.meet()
        return figures

    def _read(self, stage, part):
        stage.meet()
        reader = stage.peer.reader()
        work = self.getting(reader, [stage.peer.key(number) for number in range(KEYS)])
        stage.meet()

        def share(number):
            phase, length = self._phase(number - 1)
            if phase.reads:
                self.calls[part], self.ns[part] = repeat(work, length)

        while stage.phase(part, share):
            pass
        reader.close()
        stage.meet()

    def _phase(self, number):
        """Return a phase and its length in ns; first all of them are rehearsed."""
        again, number = divmod(number, len(self.phases))
        return self.phases[number], self.length * (1 if again else REHEARSAL)

    def _put(self, work, phase, length):
        if phase.pace is REST:
            return
        if phase.pace is BUSY:
            self.calls[0], self.ns[0] = repeat(work, length)
        else:
            at_pace(work, length, phase.pace)

    def _us(self, parts):
        """Return the time per call of some parts together."""
        each = zip(self.calls[parts], self.ns[parts], strict=True)
        return 1e-3 / sum(calls / ns for calls, ns in each)


def repeat(work, length):
    """Work for `length` ns; return the number of calls and the ns that they took."""
    calls, times = 0, 1
    begin = now = time.perf_counter_ns()
    while now - begin < length:
        work(times)
        calls += times
        before, now = now, time.perf_counter_ns()
        if now - before < SHORT and times < MOST:
            times *= 2
    return calls, now - begin


def at_pace(work, length, pause):
    """Work once every `pause` ns, or without rest if it takes longer, for `length` ns."""
    begin = due = time.perf_counter_ns()
    while (now := time.perf_counter_ns()) - begin < length:
        if now >= due:
            work(1)
            due = now + pause


class Values(Shared):
    """One key is put and got; the readers check what they found, once in up to 64 gets."""

    def __init__(self, key, title, readers, pace, how_often):
        self.key, self.title, self.readers = key, title, readers
        self.figures = (
            Figure("get_us", "get, writer at rest", "µs", more=False),
            Figure("get_paced_us", f"get, a put every {how_often}", "µs", more=False),
            Figure("get_busy_us", "get, puts without rest", "µs", more=False),
            Figure("put_us", "put, readers at rest", "µs", more=False),
            Figure("put_busy_us", "put, gets without rest", "µs", more=False),
        )
        self.phases = (
            Phase(REST, "get_us"),
            Phase(pace, "get_paced_us"),
            Phase(BUSY, "get_busy_us", "put_busy_us"),
            Phase(BUSY, None, "put_us"),
        )


class Small(Values):
    """`bytes` objects of 64 B, which are copied in and out."""

    def putting(self, writer, keys):
        values, put, changed = (
            itertools.cycle(patterns(self.nbytes, self.grain)),
            writer.put,
            keys[0],
        )
        for key in keys:
            put(key, next(values))

        def work(times):
            for value in itertools.islice(values, times):
                put(changed, value)

        return work

    def getting(self, reader, keys):
        values, get, key = set(patterns(self.nbytes, self.grain)), reader.get, keys[0]

        def work(times):
            for _ in range(times):
                found = get(key)
            check(found in values, True)

        return work


class Large(Values):
    """Arrays of 1 MiB, which are filled in place or copied, as the peer does it."""

    nbytes = 1 << 20
    grain = 4

    def putting(self, writer, keys):
        import numpy as np

        arrays = [np.frombuffer(each, "u1") for each in patterns(self.nbytes, self.grain)]
        values, put, changed = itertools.cycle(arrays), writer.put_array, keys[0]
        for key in keys:
            put(key, next(values))

        def work(times):
            for value in itertools.islice(values, times):
                put(changed, value)

        return work

    def getting(self, reader, keys):
        values = {look(each) for each in patterns(self.nbytes, self.grain)}
        take, done, key = reader.take_array, reader.done_array, keys[0]

        def work(times):
            for _ in range(times - 1):
                take(key)
                done()
            found = look(take(key))
            done()
            check(found in values, True)

        return work


class Marked(Large):
    """Arrays of 1 MiB; a put writes one byte of each page, in place or before it copies.

    It is what a put costs by itself, if a user fills the array anyway.
    """

    def putting(self, writer, keys):
        marks = itertools.cycle(range(1, 1 + self.grain))
        mark_array, changed = writer.mark_array, keys[0]
        for key in keys:
            mark_array(key, self.nbytes, next(marks), PAGE)

        def work(times):
            for mark in itertools.islice(marks, times):
                mark_array(changed, self.nbytes, mark, PAGE)

        return work


class Together(Shared):
    """All keys are put and got at a time, with values that differ if they are not of one moment."""

    key = "store-transactions"
    title = f"transactions of a store, {KEYS} keys of 64 B"
    needs = "together"
    figures = (
        Figure("get_many_us", "get_many, writer at rest", "µs", more=False),
        Figure("get_many_busy_us", "get_many, puts without rest", "µs", more=False),
        Figure("put_many_us", "put_many, reader at rest", "µs", more=False),
        Figure("put_many_busy_us", "put_many, gets without rest", "µs", more=False),
    )
    phases = (
        Phase(REST, "get_many_us"),
        Phase(BUSY, "get_many_busy_us", "put_many_busy_us"),
        Phase(BUSY, None, "put_many_us"),
    )

    def putting(self, writer, keys):
        changes = [dict.fromkeys(keys, value) for value in patterns(self.nbytes, self.grain)]
        changes, put_many = itertools.cycle(changes), writer.put_many
        put_many(next(changes))

        def work(times):
            for change in itertools.islice(changes, times):
                put_many(change)

        return work

    def getting(self, reader, keys):
        values, get_many = set(patterns(self.nbytes, self.grain)), reader.get_many

        def work(times):
            for _ in range(times):
                found = get_many(keys)
                if found.count(found[0]) != len(keys):
                    raise RuntimeError("values of different moments")
            check(found[0] in values, True)

        return work


WORKLOADS = (
    Small("store-64", "a store's values of 64 B, one reader", 1, 1_000, "µs"),
    Small("store-64-8", "a store's values of 64 B, eight readers", 8, 1_000, "µs"),
    Large("store-1m", "a store's arrays of 1 MiB, one reader", 1, 1_000_000, "ms"),
    Large("store-1m-8", "a store's arrays of 1 MiB, eight readers", 8, 1_000_000, "ms"),
    Marked("store-1m-marked", "a store's arrays of 1 MiB, marked only", 1, 1_000_000, "ms"),
    Together(),
)

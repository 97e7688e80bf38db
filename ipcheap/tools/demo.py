"""The demonstration: two threads count words in place while another process reads the files.

    producer process                          consumer process
    files -> records  -- channel words-0 -->  thread 0 --+
                      -- channel words-1 -->  thread 1 --+-- counts-0, counts-1 --> parent

A record is filled by `readinto` in the producer and searched where it lies by the consumer.
The static segment `board` holds what they share: two barriers and a few counters. The parent counts
the same files in another way, and checks that the heap is as empty as before.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import pickle
import queue
import re
import signal
import stat
import sys
import sysconfig
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from multiprocessing.context import SpawnProcess
    from typing import Self

T = TypeVar("T")

THREADS = 2
WORKERS = 1 + THREADS  # the producer and the consumer's threads
PARTIES = WORKERS + 1  # and the parent
MAX_SLOTS = 64
PATIENCE = 30.0  # seconds to wait for a process that has one more step to take
PART = 512  # words of a count that travel in one record

WORD = re.compile(rb"[A-Za-z0-9_]+")
WORD_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_")
# For the check, which shares only this alphabet with the count.
TO_BLANKS = bytes(byte if byte in WORD_BYTES else ord(" ") for byte in range(256))


class DemoError(Exception):
    """The reason why the demonstration failed."""


# What to read ---------------------------------------------------------------------------


class Source(NamedTuple):
    """A file of the input, and its size at the survey."""

    path: Path
    nbytes: int


class Survey(NamedTuple):
    """The files to read, and how many were skipped as binary or unreadable."""

    sources: list[Source]
    skipped: int


def standard_library() -> Iterator[Path]:
    """Yield the Python sources of the standard library."""
    for directory, subdirectories, names in os.walk(sysconfig.get_path("stdlib")):
        subdirectories[:] = sorted({*subdirectories} - {"site-packages", "dist-packages"})
        for name in sorted(names):
            if name.endswith(".py"):
                yield Path(directory, name)


def files_below(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield the given files, and all files of the given directories."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for directory, subdirectories, names in os.walk(path):
            subdirectories.sort()
            for name in sorted(names):
                yield Path(directory, name)


def survey(paths: Iterable[Path]) -> Survey:
    """Return the files that are regular, readable, text and not empty."""
    sources: list[Source] = []
    skipped = 0
    for path in paths:
        try:
            # Without O_NONBLOCK, opening a FIFO without a writer would wait.
            with open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK)) as f:
                status = os.fstat(f.fileno())
                if not stat.S_ISREG(status.st_mode) or b"\0" in f.read(8192):
                    skipped += 1
                elif status.st_size:
                    sources.append(Source(path, status.st_size))
        except OSError:
            skipped += 1
    return Survey(sources, skipped)


# Shared by all --------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """All that the processes need to know besides the heap."""

    sources: Sequence[Source]
    chunk: int
    records: int | None = None  # to send; None: each source once

    @property
    def nbytes(self) -> int:
        """The bytes of all sources."""
        return sum(source.nbytes for source in self.sources)


class Place(NamedTuple):
    """How much of the input was sent: whole laps, then whole files, then bytes of one file."""

    laps: int
    files: int
    nbytes: int


class Board:
    """The static segment where all processes meet and count."""

    start: ipcheap.Barrier
    end: ipcheap.Barrier
    ready: ipcheap.Atomic
    finished: ipcheap.Atomic
    records: ipcheap.Atomic
    nbytes: ipcheap.Atomic

    def __init__(self, heap: ipcheap.Heap) -> None:
        size = ipcheap.Barrier.SIZE
        segment = heap.add_static_segment("board", 2 * size + 64)
        self.start = ipcheap.Barrier(segment, 0, PARTIES)
        self.end = ipcheap.Barrier(segment, size, PARTIES)
        cells = [segment.atomic(2 * size + 8 * n) for n in range(7)]
        self.ready, self.finished, self.records, self.nbytes, *self._place = cells

    def arrive(self, cell: ipcheap.Atomic) -> None:
        """Tell the parent, which watches the cell, that one more worker has arrived."""
        cell.fetch_add(1)
        cell.notify()

    @property
    def place(self) -> Place:
        """Where the producer stopped."""
        return Place(*(cell.load() for cell in self._place))

    @place.setter
    def place(self, place: Place) -> None:
        for cell, value in zip(self._place, place, strict=True):
            cell.store(value)


def slots_for(capacity: int, chunk: int) -> int:
    """Return the capacity of a channel with which full rings take half of the heap."""
    room = capacity // 2 // (THREADS * chunk)
    if room < 1:
        raise DemoError(
            f"a heap of {capacity:,} bytes is too small for chunks of {chunk:,}: "
            f"it needs {2 * THREADS * chunk:,}"
        )
    return int(min(MAX_SLOTS, 1 << (room.bit_length() - 1)))


# The producer ---------------------------------------------------------------------------


def patiently(allocate: Callable[[], T]) -> T:
    """Allocate; if the heap is full, try again while others free their records."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return allocate()
        except ipcheap.HeapFull:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.001)


def records_of(
    heap: ipcheap.Heap, source: Source, chunk: int
) -> Iterator[tuple[ipcheap.Record, int]]:
    """Yield a file as records, each with the position in the file where it ends.

    No word is cut: a word that may continue after the record is blanked out, and read again at the
    beginning of the next record.
    """
    start, want = 0, chunk
    with source.path.open("rb", buffering=0) as file:
        while start < source.nbytes:
            nbytes = min(want, source.nbytes - start)
            record = patiently(functools.partial(heap.allocate_record, nbytes))
            view = record.view
            file.seek(start)
            end = file.readinto(view) or 0
            if end == 0:
                raise DemoError(f"{source.path} has become shorter meanwhile")
            if start + end < source.nbytes:
                while end and view[end - 1] in WORD_BYTES:
                    end -= 1
            if end == 0:  # a word that is longer than the record
                record.free()
                want *= 2
                continue
            view[end:] = bytes(nbytes - end)
            start, want = start + end, chunk
            yield record, start


def all_records(heap: ipcheap.Heap, plan: Plan) -> Iterator[tuple[ipcheap.Record, Place]]:
    """Yield the whole input, repeatedly if a number of records was requested."""
    for lap in itertools.count() if plan.records else range(1):
        for index, source in enumerate(plan.sources):
            for record, end in records_of(heap, source, plan.chunk):
                yield record, Place(lap, index, end)


def produce(heap: ipcheap.Heap, plan: Plan) -> None:
    """Send the records, alternately to the two threads of the consumer."""
    with role("producer"), contextlib.ExitStack() as stack:
        board = Board(heap)
        producers = [
            stack.enter_context(heap.producer(f"words-{n}", timeout=PATIENCE))
            for n in range(THREADS)
        ]
        board.arrive(board.ready)
        board.start.wait(PATIENCE)
        turns = itertools.cycle(producers)
        for record, place in itertools.islice(all_records(heap, plan), plan.records):
            next(turns).send_record(record)
            board.place = place
        stack.close()  # ends both channels
        board.arrive(board.finished)
        board.end.wait(PATIENCE)


# The consumer ---------------------------------------------------------------------------


def count_words(heap: ipcheap.Heap, number: int) -> None:
    """Count the words of the records of one channel, and send the counts to the parent."""
    board = Board(heap)
    counts: Counter[bytes] = Counter()
    with (
        heap.consumer(f"words-{number}", timeout=PATIENCE) as consumer,
        heap.producer(f"counts-{number}", timeout=PATIENCE) as result,
    ):
        board.arrive(board.ready)
        board.start.wait(PATIENCE)
        for record in consumer:
            counts.update(WORD.findall(record.view))  # reads the shared bytes in place
            board.records.fetch_add(1)
            board.nbytes.fetch_add(record.nbytes)
        board.arrive(board.finished)
        items = list(counts.items())
        for first in range(0, len(items), PART):
            part = pickle.dumps(dict(items[first : first + PART]))
            patiently(functools.partial(result.send, part))
    board.end.wait(PATIENCE)


def consume(heap: ipcheap.Heap) -> None:
    """Run the counting threads; the first failure ends the process."""
    outcomes: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def count(number: int) -> None:
        try:
            count_words(heap, number)
        except BaseException as error:
            outcomes.put(error)
        else:
            outcomes.put(None)

    with role("consumer"):
        threads = [threading.Thread(target=count, args=(n,), daemon=True) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        for _ in threads:
            if error := outcomes.get():
                raise error
        for thread in threads:
            thread.join()


# The parent -----------------------------------------------------------------------------


@contextlib.contextmanager
def role(name: str) -> Iterator[None]:
    """End this process if the parent dies; print one line about a failure."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        yield
    except (ipcheap.ChannelClosed, ipcheap.PeerDied):
        raise SystemExit(1) from None  # the other side has printed the reason
    except (DemoError, ipcheap.Error, OSError, threading.BrokenBarrierError) as error:
        sys.stderr.write(f"ipcheap: {name}: {str(error) or type(error).__name__}\n")
        raise SystemExit(1) from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Crew:
    """The child processes, which end at the latest when the block ends."""

    def __init__(self, heap: ipcheap.Heap, plan: Plan) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes: list[SpawnProcess] = [
            context.Process(target=produce, args=(heap, plan), name="producer", daemon=True),
            context.Process(target=consume, args=(heap,), name="consumer", daemon=True),
        ]

    def __enter__(self) -> Self:
        # Ctrl-C reaches every process of the terminal, but only the parent handles it. Python's
        # resource tracker is started first, because starting it would reset the signal mask.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            for process in self.processes:
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            if process.pid is not None and process.is_alive():
                process.terminate()
                process.join(1)
                process.kill()
                process.join()

    def check(self) -> None:
        """Raise DemoError if one of the processes has failed."""
        if all(process.exitcode in (None, 0) for process in self.processes):
            return
        for process in self.processes:
            process.join(0.5)  # one may have failed because the other did
        first = min(self.processes, key=lambda process: process.exitcode or 0)
        code = first.exitcode or 1
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else "failed"
        raise DemoError(f"the {first.name} {how}")

    def wait_for(self, cell: ipcheap.Atomic, tick: Callable[[], None]) -> None:
        """Wait until every worker has arrived; call `tick` about ten times a second."""
        while (arrived := cell.load()) < WORKERS:
            cell.wait(arrived, 0.1)
            self.check()
            tick()

    def join(self) -> None:
        """Wait for the processes to end; DemoError if one has failed."""
        for process in self.processes:
            process.join(PATIENCE)
        self.check()


def receive_counts(consumers: Sequence[ipcheap.Consumer]) -> Counter[bytes]:
    """Return the sum of the threads' counts."""
    counts: Counter[bytes] = Counter()
    for consumer in consumers:
        with contextlib.suppress(ipcheap.ChannelClosed):
            while True:
                counts.update(pickle.loads(consumer.recv(PATIENCE)))
    return counts


def expected_counts(plan: Plan, place: Place) -> Counter[bytes]:
    """Return the words up to `place`, counted in whole files, without a heap or a regexp."""
    counts: Counter[bytes] = Counter()

    def add(source: Source, nbytes: int, times: int) -> None:
        if times:
            words = source.path.read_bytes()[:nbytes].translate(TO_BLANKS).split()
            for word, number in Counter(words).items():
                counts[word] += number * times

    for index, source in enumerate(plan.sources):
        add(source, source.nbytes, place.laps + (index < place.files))
    if place.nbytes:
        add(plan.sources[place.files], place.nbytes, 1)
    return counts


def bytes_up_to(plan: Plan, place: Place) -> int:
    """Return the number of bytes of input up to `place`."""
    before = sum(source.nbytes for source in plan.sources[: place.files])
    return place.laps * plan.nbytes + before + place.nbytes


@dataclass(frozen=True)
class Result:
    """The result of the demonstration."""

    records: int
    nbytes: int
    seconds: float
    counts: Counter[bytes]
    in_use_before: int
    in_use_after: int
    agree: bool

    @property
    def empty(self) -> bool:
        """Whether as much memory is in use as before."""
        return self.in_use_before == self.in_use_after


@contextlib.contextmanager
def temporary_heap(name: str | None, capacity: int, shm: str, sem: str) -> Iterator[ipcheap.Heap]:
    """Create the heap, and remove it at the end."""
    with contextlib.ExitStack() as stack:
        if shm == "memfd":
            name = None
        elif shm == "file" and name is None:
            name = str(Path(stack.enter_context(tempfile.TemporaryDirectory()), "heap"))
        elif name is None:
            name = f"demo-{os.getpid()}"
        heap = ipcheap.Heap.create(name, capacity, shm=shm, sem=sem)
        stack.callback(heap.unlink)
        yield stack.enter_context(heap)


def run(heap: ipcheap.Heap, plan: Plan, progress: Callable[[int, int], None]) -> Result:
    """Run the demonstration in a new heap; `progress` is called with records and bytes so far."""
    slots = slots_for(heap.capacity, plan.chunk)
    board = Board(heap)
    for number in range(THREADS):
        heap.add_record_channel(f"words-{number}", slots)
        heap.add_record_channel(f"counts-{number}", 4)
    before = heap.statistics().in_use

    def tick() -> None:
        progress(board.records.load(), board.nbytes.load())

    with Crew(heap, plan) as crew, contextlib.ExitStack() as stack:
        results = [stack.enter_context(heap.consumer(f"counts-{n}")) for n in range(THREADS)]
        try:
            crew.wait_for(board.ready, lambda: None)
            board.start.wait(PATIENCE)
            started = time.perf_counter()
            crew.wait_for(board.finished, tick)
            seconds = time.perf_counter() - started
            tick()
            counts = receive_counts(results)
            board.end.wait(PATIENCE)
            crew.join()
        except (ipcheap.Error, threading.BrokenBarrierError) as error:
            crew.check()
            raise DemoError(str(error) or "the processes did not meet at the barrier") from error
    place = board.place
    return Result(
        records=board.records.load(),
        nbytes=bytes_up_to(plan, place),
        seconds=seconds,
        counts=counts,
        in_use_before=before,
        in_use_after=heap.statistics().in_use,
        agree=counts == expected_counts(plan, place),
    )

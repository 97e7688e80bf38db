"""What survives a store's writer, or a reader, that is killed or stopped at any moment."""

from __future__ import annotations

import mmap
import os
import random
import signal
import time
import traceback
from typing import TYPE_CHECKING

import kinds
import numpy as np
import peers
import pytest
import store_ledger
from store_ledger import Notes

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import ipcheap

KILLS = int(os.environ.get("IPCHEAP_STORE_KILLS", "12"))
READERS = 8

each_kind = pytest.mark.parametrize("kind", kinds.ALL[::3], ids=str)


def forked(work: Callable[..., None], *args: object) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work(*args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def disagreements(notes: Notes, newest: int) -> int:
    """Return how many versions had different bytes for different readers."""
    known, wrong = np.zeros(newest, "u8"), np.zeros(newest, bool)
    for table in notes.seen:
        seen = np.frombuffer(table, "u8")[1 : newest + 1]
        wrong |= (seen != 0) & (known != 0) & (seen != known)
        np.maximum(known, seen, out=known)
    return int(wrong.sum())


@pytest.mark.timeout(120 + KILLS)
@each_kind
def test_a_writer_killed_at_random_leaves_whole_transactions(
    kind: kinds.Kind, heap_name: str, tmp_path: Path
) -> None:
    """IPCHEAP_STORE_KILLS says how many writers are killed."""
    dice, notes = random.Random(7), Notes(READERS)
    with kinds.made(kind, heap_name, tmp_path) as heap:
        store = heap.add_store(store_ledger.NAME, depth=store_ledger.DEPTH, garbage="64KiB")
        before = heap.statistics()
        readers = [forked(store_ledger.read, heap, notes, n, n) for n in range(READERS)]
        try:
            for kill in range(KILLS):
                commits = notes.commits[0]
                writer = forked(store_ledger.write, heap, notes, kill)
                if kill % 8 == 0:  # and whatever moment it is, some of them get far
                    peers.until(lambda: notes.commits[0] > commits + 100)  # noqa: B023
                if kill == KILLS - 1:  # on a slow machine, too, each reader has seen some of it
                    peers.until(lambda: min(notes.looks) > 0 and min(notes.followed) > 0)
                time.sleep(dice.random() * 0.03)
                os.kill(writer, signal.SIGKILL)
                assert ended(writer) == -signal.SIGKILL
            notes.stop[0] = 1
            assert [ended(reader) for reader in readers] == [0] * READERS
            readers.clear()
        finally:
            for child in readers:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        print(
            f"{kind}: {KILLS} writers killed, {notes.commits[0]} commits, {sum(notes.looks)} looks "
            f"at {len(store_ledger.ANCHORS) + len(store_ledger.FIELDS)} keys, "
            f"{sum(notes.followed)} chunks followed"
        )
        assert min(notes.looks) > 0
        assert min(notes.followed) > 0
        with store.writer(peers.PATIENCE) as last, store.reader() as reader:
            assert disagreements(notes, reader.version) == 0
            assert heap.check() == []
            for key in reader:
                last.delete(key)
            time.sleep(store_ledger.SHORT)
            last.collect()
            left = store.statistics()
            assert (left.chunks, left.dead) == (0, 0), f"{left}, {store.readers()}"
        after = heap.statistics()
        assert (after.in_use, after.records) == (before.in_use, before.records)
        heap.remove_channel(store_ledger.NAME)
        assert heap.check() == []


def hold_all(heap: ipcheap.Heap, keys: range, ready: memoryview[int]) -> None:
    """Hold the chunks of all keys, once by next() and once by get(), until killed."""
    with heap.store_reader("values") as reader:
        held = [reader[key] for key in keys]
        held += [reader.next() for _ in keys]
        ready[0] = len(held)
        while True:
            time.sleep(1)


@each_kind
@pytest.mark.parametrize("how", ["noticed", "recovered"])
def test_all_that_a_killed_reader_held_goes_back(
    kind: kinds.Kind, heap_name: str, tmp_path: Path, how: str
) -> None:
    keys, ready = range(1000), memoryview(mmap.mmap(-1, 8)).cast("B").cast("Q")
    with kinds.made(kind, heap_name, tmp_path) as heap:
        store = heap.add_store("values", garbage=0, hold=2 * len(keys))
        with store.writer() as writer:
            before = heap.statistics().in_use
            writer.put_many({key: bytes(key % 100) for key in keys})
            child = forked(hold_all, heap, keys, ready)
            try:
                peers.until(lambda: ready[0] == 2 * len(keys))
                os.kill(child, signal.SIGSTOP)
                for key in keys:
                    writer.delete(key)
                writer.put("a", b"goes on")
                numbers = store.statistics()
                assert (numbers.held, numbers.dead) == (len(keys), len(keys))
                (info,) = store.readers()
                assert (info.pid, info.held, len(info.holds)) == (child, 2000, 2000)
                assert info.dead_bytes == 2 * sum(key % 100 for key in keys)
                assert not any(hold.live for hold in info.holds)
            finally:
                os.kill(child, signal.SIGKILL)
                assert ended(child) == -signal.SIGKILL
            if how == "recovered":
                heap.recover()
            # Otherwise a collector looks whether the reader lives, after a second or two.
            peers.until(lambda: writer.collect() > 0 or store.statistics().dead == 0)
            assert store.readers() == []
            writer.delete("a")
            writer.collect()
            assert (store.statistics().dead, heap.statistics().in_use) == (0, before)
        assert heap.check() == []

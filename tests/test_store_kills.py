"""What survives a store's writer, or a reader, that is killed or stopped at any moment."""

from __future__ import annotations

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
            assert (store.statistics().chunks, store.statistics().dead) == (0, 0)
        after = heap.statistics()
        assert (after.in_use, after.records) == (before.in_use, before.records)
        heap.remove_channel(store_ledger.NAME)
        assert heap.check() == []

"""Other processes for tests: what `ipcheap.testing` offers, and a peer that answers."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import ipcheap
from ipcheap.testing import (
    PATIENCE,
    Peer,
    call,
    die,
    listen,
    run,
    run_by,
    say,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["PATIENCE", "Peer", "answers", "call", "die", "listen", "run", "run_by", "say", "until"]


@contextlib.contextmanager
def answers(
    function: Callable[[ipcheap.Heap], object], name: str
) -> Iterator[tuple[ipcheap.Producer, ipcheap.Consumer]]:
    """Run a function that consumes from "there" and produces to "back"; it must end.

    Yields the other sides of the two channels, of a new heap; nothing must be left in it.
    """
    with ipcheap.Heap.create(name, "16MiB") as heap:
        heap.add_record_channel("there", 4)
        heap.add_record_channel("back", 4)
        with (
            run(function, heap) as peer,
            heap.producer("there") as outbox,
            heap.consumer("back") as inbox,
        ):
            yield outbox, inbox
            peer.result()
        assert heap.statistics().in_use == 0

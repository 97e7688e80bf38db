"""Snapshots: the states of an object, from which its next worker goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .channels import record_channel

if TYPE_CHECKING:
    from ipcheap import Heap, Record


STATE_SLOTS = 4  # of a channel for two: the last state, and the one that replaces it


def state_channel(name: str, worker: int) -> str:
    """Return the ID of the channel of a worker's snapshots."""
    return f"{name}:{worker}"


class Snapshots:
    """The states of an object, on a channel of its own; the last one there is valid."""

    def __init__(self, heap: Heap, channel: str) -> None:
        self._producer = record_channel(heap, channel).producer(None)
        self._consumer = record_channel(heap, channel).consumer(None)
        self._last: Record | None = None

    def get(self) -> bytes | None:
        """Return the last state; None if there is none."""
        while self._consumer.pending:
            self._take()
        return None if self._last is None else bytes(self._last)

    def put(self, state: bytes) -> None:
        """Make another state the last one."""
        self._producer.send(state)
        self._take()

    def _take(self) -> None:
        record = self._consumer.recv_record(0)
        if self._last is not None:
            self._last.free()
        self._last = record

    def close(self) -> None:
        """Free the last state, and give the channel back."""
        if self._last is not None:
            self._last.free()
        self._producer.close()
        self._consumer.close()

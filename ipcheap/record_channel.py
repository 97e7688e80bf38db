"""Record channels: one producer, one consumer, first in, first out."""

from __future__ import annotations

from . import _arguments
from ._core import ffi, lib
from ._directory import key_of
from ._failures import error
from .channel import Channel, HeapMethods
from .consumer import Consumer
from .producer import Producer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import ClassVar

    from ._arguments import ChannelId
    from ._core import CData
    from .results import ChannelCounts

DEFAULT_SLOTS = 1024
_STATES = ("never", "open", "closed", "died")
_BLOCKED = (None, "full", "empty")


class RecordChannel(Channel, kind=lib.IPCHEAP_RECORD_CHANNEL):
    """A channel of records: one producer, one consumer, first in, first out."""

    _noun: ClassVar[str] = "a record channel"
    _sides: ClassVar[Mapping[int, str]] = {
        lib.IPCHEAP_PRODUCER: "producer",
        lib.IPCHEAP_CONSUMER: "consumer",
    }

    @property
    def capacity(self) -> int:
        """The number of slots, a power of two: how many records may be sent and not yet freed."""
        return int(self._entry.shape)

    def producer(self, timeout: float | None = 0.0) -> Producer:
        """Claim the sending side for this thread, within `timeout` s; see `Heap.producer`.

        ChannelNotFound as soon as this very channel has been removed.
        """
        return Producer(*self._claim(lib.IPCHEAP_PRODUCER, timeout))

    def consumer(self, timeout: float | None = 0.0) -> Consumer:
        """Claim the receiving side for this thread, within `timeout` s; see `Heap.consumer`.

        ChannelNotFound as soon as this very channel has been removed.
        """
        return Consumer(*self._claim(lib.IPCHEAP_CONSUMER, timeout))

    def counts(self) -> ChannelCounts:
        """Count what was sent, received and freed, without claiming a side and without a lock.

        Takes time proportional to the capacity. ChannelNotFound if the channel has been removed.
        """
        from .results import ChannelCounts

        handle, found = self._heap._directory.handle, ffi.new("ipcheap_counts *")
        code = lib.py_channel_counts(handle.pointer, self._entry, found)
        if code:
            raise error(code, handle, self._id)
        return ChannelCounts(
            capacity=found.capacity,
            sent=found.sent,
            received=found.received,
            freed=found.freed,
            pending=found.pending,
            held=found.held,
            producer=_STATES[int(found.producer)],
            consumer=_STATES[int(found.consumer)],
            blocked=_BLOCKED[int(found.blocked)],
        )

    def __repr__(self) -> str:
        return f"<RecordChannel {self._id!r} of {self._heap.label}, {self.capacity} slots>"

    @classmethod
    def _describe(cls, entry: CData) -> str:
        return f"a record channel of {entry.shape} slots"


class RecordMethods(HeapMethods):
    """The methods of `Heap` for record channels."""

    def add_record_channel(self, id: ChannelId, capacity: int | None = None) -> RecordChannel:
        """Add a record channel, or return the existing one.

        `capacity`, rounded up to a power of two, bounds the number of records sent and not yet
        freed. Without it, an existing channel is returned whatever its capacity, and a new one has
        1024 slots. ChannelTypeError if the existing channel has another capacity or is of another
        kind; HeapFull if there is no room for another channel.
        """
        channel_id = _arguments.channel_id(id)
        directory, key = self._directory, key_of(channel_id)
        handle, entry = directory.handle, ffi.new("ipcheap_channel *")
        # Without a capacity up to twice more, because another process may add it meanwhile.
        slots = 0 if capacity is None else _arguments.count(capacity, "capacity", least=1)
        code = lib.py_add_record_channel(handle.pointer, key, min(slots, 2**63), entry)
        for other in (DEFAULT_SLOTS, 0) if capacity is None else ():
            if code in (lib.IPCHEAP_CHANNEL_NOT_FOUND, lib.IPCHEAP_CHANNEL_TYPE):
                code = lib.py_add_record_channel(handle.pointer, key, other, entry)
        if code == lib.IPCHEAP_BAD_VALUE:
            raise ValueError(
                f"capacity must be less than {capacity} slots: no ring can be so large"
            )
        if code < 0:
            of = "" if capacity is None else f" of {capacity} slots"
            wanted = f"not a record channel{of}"
            directory.check(code, channel_id, asked=16 * slots, wanted=wanted)
        return RecordChannel(self._this_heap(), channel_id, entry)

    def producer(self, id: ChannelId, timeout: float | None = 0.0) -> Producer:
        """Claim the sending side of a record channel for this thread, and return its Producer.

        Waits `timeout` seconds for the channel and the side. Then it raises ChannelNotFound, or
        ChannelBusy, whose text names the holder. The side of a holder that closed or died is free,
        and the new producer continues where the old one stopped. ChannelTypeError for a channel
        of another kind.
        """
        return Producer(
            *self._directory.claim(id, lib.IPCHEAP_RECORD_CHANNEL, lib.IPCHEAP_PRODUCER, timeout)
        )

    def consumer(self, id: ChannelId, timeout: float | None = 0.0) -> Consumer:
        """Claim the receiving side of a record channel for this thread, and return its Consumer.

        Waits `timeout` seconds and raises as `producer` does. Records that a dead consumer had
        received and not freed are redelivered.
        """
        return Consumer(
            *self._directory.claim(id, lib.IPCHEAP_RECORD_CHANNEL, lib.IPCHEAP_CONSUMER, timeout)
        )

"""A shared-memory heap with record channels between processes.

    import ipcheap

    with ipcheap.Heap.open("camera", "256MiB") as heap:
        heap.add_record_channel("frames")
        with heap.producer("frames") as producer:
            record = producer.allocate_record(1920 * 1080 * 3)
            record.array("u1", (1080, 1920, 3))[:] = 0
            producer.send_record(record)

and in another process

    with ipcheap.Heap.attach("camera") as heap, heap.consumer("frames") as consumer:
        for record in consumer:
            print(record.array("u1", (1080, 1920, 3)).mean())

Sizes are in bytes, or strings like "64MiB". Timeouts are in seconds: None waits indefinitely,
0 does not wait. An endpoint belongs to the thread that claimed it.
"""

from . import _fork  # noqa: F401  # before all others: it looks after what they import

try:
    from ._core import lib as _lib  # noqa: F401
except ModuleNotFoundError as _error:
    raise ImportError(
        f"{__path__[0]} has no compiled core: it is the source folder, which Python found before "
        "the installed package. Start Python in another folder, or build it: pip install -e ."
    ) from _error

from ._native import __version__
from .bus import Bus
from .channel import Channel
from .chunk import Chunk
from .consumer import Consumer
from .errors import (
    ChannelBusy,
    ChannelClosed,
    ChannelExists,
    ChannelNotFound,
    ChannelTypeError,
    CorruptHeap,
    EndpointClosed,
    Error,
    FormatMismatch,
    HeapBusy,
    HeapClosed,
    HeapExists,
    HeapFull,
    HeapNotFound,
    MessagesLost,
    PeerDied,
    RecordError,
    WindowError,
    WrongProcess,
    WrongThread,
)
from .heap import Heap, unlink
from .producer import Producer
from .record import Record
from .record_channel import RecordChannel
from .static import Atomic, StaticSegment
from .store import Store
from .store_reader import StoreReader
from .store_writer import StoreWriter
from .stream import Stream, StreamReader, StreamWriter

TYPE_CHECKING = False  # type checkers know this name; importing typing takes longer than all this
if TYPE_CHECKING:
    from ._outside import heaps
    from ._permissions import chmod, chown
    from ._sealed import Sealed, sealed
    from .codec import Codec
    from .listener import Listener
    from .message import Message
    from .observer import Observer, observe
    from .results import (
        Blocker,
        BroadcastReport,
        BusStatistics,
        BusView,
        ChannelCounts,
        ChannelRate,
        ChannelView,
        EndpointStatistics,
        HeapInfo,
        HeapStatistics,
        Hold,
        Holding,
        ListenerInfo,
        ListenerStatistics,
        ListenerView,
        LockView,
        Participant,
        ParticipantView,
        RecoveryReport,
        SegmentView,
        SideView,
        Snapshot,
        StoreReaderInfo,
        StoreReaderStatistics,
        StoreReaderView,
        StoreStatistics,
        StoreView,
        StoreWriterStatistics,
        StreamStatistics,
        StreamView,
        Usage,
        Wait,
    )
    from .sync import Barrier, BarrierTimeout, Event, Lock
    from .waiting import wait

__all__ = [
    "Atomic",
    "Barrier",
    "BarrierTimeout",
    "Blocker",
    "BroadcastReport",
    "Bus",
    "BusStatistics",
    "BusView",
    "Channel",
    "ChannelBusy",
    "ChannelClosed",
    "ChannelCounts",
    "ChannelExists",
    "ChannelNotFound",
    "ChannelRate",
    "ChannelTypeError",
    "ChannelView",
    "Chunk",
    "Codec",
    "Consumer",
    "CorruptHeap",
    "EndpointClosed",
    "EndpointStatistics",
    "Error",
    "Event",
    "FormatMismatch",
    "Heap",
    "HeapBusy",
    "HeapClosed",
    "HeapExists",
    "HeapFull",
    "HeapInfo",
    "HeapNotFound",
    "HeapStatistics",
    "Hold",
    "Holding",
    "Listener",
    "ListenerInfo",
    "ListenerStatistics",
    "ListenerView",
    "Lock",
    "LockView",
    "Message",
    "MessagesLost",
    "Observer",
    "Participant",
    "ParticipantView",
    "PeerDied",
    "Producer",
    "Record",
    "RecordChannel",
    "RecordError",
    "RecoveryReport",
    "Sealed",
    "SegmentView",
    "SideView",
    "Snapshot",
    "StaticSegment",
    "Store",
    "StoreReader",
    "StoreReaderInfo",
    "StoreReaderStatistics",
    "StoreReaderView",
    "StoreStatistics",
    "StoreView",
    "StoreWriter",
    "StoreWriterStatistics",
    "Stream",
    "StreamReader",
    "StreamStatistics",
    "StreamView",
    "StreamWriter",
    "Usage",
    "Wait",
    "WindowError",
    "WrongProcess",
    "WrongThread",
    "__version__",
    "chmod",
    "chown",
    "heaps",
    "observe",
    "sealed",
    "unlink",
    "wait",
]

# The module of each name that a first message does not need. It is imported on first use.
_LATER = {
    "Barrier": "sync",
    "BarrierTimeout": "sync",
    "Blocker": "results",
    "BroadcastReport": "results",
    "BusStatistics": "results",
    "BusView": "results",
    "ChannelCounts": "results",
    "ChannelRate": "results",
    "ChannelView": "results",
    "Codec": "codec",
    "EndpointStatistics": "results",
    "Event": "sync",
    "HeapInfo": "results",
    "HeapStatistics": "results",
    "Hold": "results",
    "Holding": "results",
    "Listener": "listener",
    "ListenerInfo": "results",
    "ListenerStatistics": "results",
    "ListenerView": "results",
    "Lock": "sync",
    "LockView": "results",
    "Message": "message",
    "Observer": "observer",
    "Participant": "results",
    "ParticipantView": "results",
    "RecoveryReport": "results",
    "Sealed": "_sealed",
    "SegmentView": "results",
    "SideView": "results",
    "Snapshot": "results",
    "StoreReaderInfo": "results",
    "StoreReaderStatistics": "results",
    "StoreReaderView": "results",
    "StoreStatistics": "results",
    "StoreView": "results",
    "StoreWriterStatistics": "results",
    "StreamStatistics": "results",
    "StreamView": "results",
    "Usage": "results",
    "Wait": "results",
    "chmod": "_permissions",
    "chown": "_permissions",
    "cli": "tools.cli",  # a module itself, which was here before
    "heaps": "_outside",
    "observe": "observer",
    "sealed": "_sealed",
    "wait": "waiting",
}

if not TYPE_CHECKING:  # a type checker would conclude that every name exists

    def __getattr__(name):
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        home = _LATER[name]
        module = import_module(f".{home}", __name__)
        value = module if home.endswith(f".{name}") else getattr(module, name)
        globals()[name] = value
        return value

    def __dir__():
        return sorted({*globals(), *__all__})

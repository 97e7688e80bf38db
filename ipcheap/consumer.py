"""The receiving side of a record channel."""

from __future__ import annotations

from ._endpoint import RecordEndpoint
from ._receiver import Receiver

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class Consumer(RecordEndpoint, Receiver):
    """The receiving side of a record channel; see `Heap.consumer`.

    Records arrive in the order sent, each once. The caller must `free()` a record it received.
    Until then the record keeps its slot of the ring. If this consumer has to wait for a record and
    holds the one in the next slot, that one is detached, as by `keep()`. Receiving waits `timeout`
    seconds, None indefinitely. It raises `TimeoutError` if nothing came in time, `ChannelClosed` or
    `PeerDied` if everything has been received and the producer has closed or died.

    Iterating, by `for` or `async for`, yields one record after another and frees each when the next
    one is requested. The iteration ends when the producer has closed.
    """

    _side: ClassVar[str] = "consumer"
    _stalled: ClassVar[str] = "nothing came"

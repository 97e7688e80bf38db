"""Listeners: endpoints that hear every message of a bus."""

from __future__ import annotations

from _thread import get_ident

from ._core import ffi, lib
from ._failures import error
from ._receiver import Receiver
from .errors import ChannelClosed
from .message import Message  # noqa: TC001  # the core makes instances of it

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import ClassVar

    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle
    from .results import ListenerStatistics


class Listener(Receiver):
    """An endpoint that gets every message of a bus from its registration on; see `Bus.listen`.

    Receiving and releasing are two things: a message that was received keeps its memory, and a
    broadcast waits for it, until it is freed. A listener may hold as many messages as the heap has
    room for. Receiving waits `timeout` seconds, None indefinitely. It raises `TimeoutError` if
    nothing was posted in time, `MessagesLost` once after the listener was passed, and
    `ChannelClosed` if the bus was removed.

    Iterating, by `for` or `async for`, yields one message after another and frees each when the
    next one is requested. The iteration ends when the bus is removed. A listener that closes
    acknowledges all its messages; those that it holds stay valid.
    """

    _side: ClassVar[str] = "listener"
    _stalled: ClassVar[str] = "nothing was posted"
    _sends_objects: ClassVar[str] = "post_object"

    if TYPE_CHECKING:  # what it receives are messages

        def recv_record(self, timeout: float | None = None) -> Message:
            """Return the next message."""
            ...

        def try_recv_record(self) -> Message | None:
            """Return the next message, or None."""
            ...

        def recv_records(  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
            self, limit: int, timeout: float | None = None
        ) -> list[Message]:
            """Return up to `limit` messages."""
            ...

        def __iter__(self) -> Iterator[Message]: ...
        def __aiter__(self) -> AsyncIterator[Message]: ...
        async def arecv_record(self) -> Message:
            """Return the next message."""
            ...

    def __init__(self, handle: Handle, channel: ChannelId, pointer: CData) -> None:
        super().__init__(handle, channel, pointer)
        self._hears = 1

    @property
    def lost(self) -> int:
        """The number of messages that it did not get, because it is lossy or was passed."""
        return int(self._numbers().lost)

    def statistics(self) -> ListenerStatistics:
        """Return what it has heard, holds and lost."""
        from .results import ListenerStatistics

        numbers = self._numbers()
        return ListenerStatistics(
            received=int(numbers.received),
            lost=int(numbers.lost),
            held=int(numbers.held),
            pending=int(numbers.pending) + self._left_over,
            parks=int(numbers.parks),
        )

    # Inside -------------------------------------------------------------------------------

    def _numbers(self) -> CData:
        numbers = ffi.new("ipcheap_listener_statistics *")
        code = lib.ipcheap_listener_describe(self._pointer, numbers)
        if code:
            raise self._error(code)
        return numbers

    def _error(self, code: int, doing: str = "not done", asked: int | None = None) -> Exception:
        if code == lib.IPCHEAP_MESSAGES_LOST:
            count = int(lib.ipcheap_listener_lost(self._pointer))
            noun = "message" if count == 1 else "messages"
            doing = f"this listener was in the way for too long, and lost {count} {noun}"
            lost = error(code, self._handle, self._channel, doing=doing)
            lost.count = count  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
            return lost
        ended = self._thread != get_ident()  # and has closed what it had
        if code == lib.IPCHEAP_ENDPOINT_CLOSED and not self.closed and not ended:
            return ChannelClosed(f"channel {self._channel!r} of {self._handle}: it was removed")
        return super()._error(code, doing, asked)

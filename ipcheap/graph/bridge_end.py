"""What the two ends of a bridge have in common."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from ipcheap import ChannelBusy, ChannelNotFound, EndpointClosed, HeapClosed, RecordChannel

from .link import Bell, BridgeLost, Broken, Interrupted

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias, TypeVar

    from ipcheap import Consumer, Heap, Producer

    from .link import Link

    Lost: TypeAlias = Callable[[str, BaseException], object]
    Side = TypeVar("Side", Producer, Consumer)

PAUSE = 0.05  # seconds, before the next look at a side whose holder has died
_GONE = (ChannelNotFound, EndpointClosed, HeapClosed)  # the channel was removed: an abort


class End:
    """One end of a bridge: a thread that holds a side of a channel."""

    def __init__(self, heap: Heap, channel_id: str, lost: Lost, patience: float) -> None:
        channel = heap.channel(channel_id)
        if not isinstance(channel, RecordChannel):
            raise TypeError(f"a bridge carries a record channel, not {channel!r}")
        self._heap = heap
        self._id = channel_id
        self._channel = channel
        self._lost = lost
        self._patience = patience
        self._bell = Bell()
        self._closing = False
        self._side: Producer | Consumer | None = None
        self._heard = 0.0  # when there was last a sign of the other host
        self._reason = "nobody has called"  # why there is no connection
        self._thread = threading.Thread(target=self._run, name=f"bridge {channel_id}", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._heard = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """Abort the bridge: if it has not ended by itself, its channel is removed.

        Closing a side would tell the other side that all records have passed.
        """
        self._closing = True
        self._bell.ring()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread; return whether it has ended."""
        self._thread.join(timeout)
        return not self.is_alive()

    def is_alive(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            try:
                self._carry()
            except Interrupted:
                self._remove()
            except _GONE:
                pass
            except BaseException as error:
                self._fail(error)
                self._remove()
        except BaseException as error:
            self._fail(error)
        finally:
            if self._side is not None:
                self._side.close()

    def _carry(self) -> None:
        raise NotImplementedError

    def _fail(self, error: BaseException) -> None:
        self._lost(self._id, error.with_traceback(None))  # a traceback would keep records

    def _claim(self, claim: Callable[[float], Side]) -> Side:
        """Claim a side as soon as its former holder has left it."""
        while True:
            if self._closing:
                raise Interrupted
            try:
                self._side = side = claim(0.1)
            except ChannelBusy:
                if time.monotonic() > self._heard + self._patience:
                    raise
            else:
                return side

    def _look(self) -> None:
        """Raise ChannelNotFound if the channel has been removed."""
        if self._heap.channel(self._id) != self._channel:
            raise ChannelNotFound(self._id)

    def _remove(self) -> None:
        try:
            self._look()
            self._heap.remove_channel(self._id, force=True)
        except _GONE:
            pass

    def _broke(self, error: Broken, link: Link | None) -> None:
        """Note that a connection is gone, and when the other host was last heard."""
        self._reason = str(error)
        if link is not None:
            with contextlib.suppress(Broken):
                self._heard = max(self._heard, time.monotonic() - link.silence())

    def _left(self, other: str) -> float:
        """Return for how many seconds a connection may still be missing; BridgeLost if for none."""
        left = self._heard + self._patience - time.monotonic()
        if left <= 0:
            raise BridgeLost(
                f"channel {self._id!r} has had no connection {other} for {self._patience:g} s: "
                f"{self._reason}"
            )
        return left

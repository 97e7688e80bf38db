"""Every way an operation can fail.

All classes derive from `Error`, and most also from the built-in exception that a caller would
expect. Sends and receives that time out raise the built-in `TimeoutError` itself. Those that are
OSErrors have its `errno`.
"""

from __future__ import annotations

import errno as _errno


class Error(Exception):
    """The root of this package's errors.

    Those that `send_many` and `send_records` raise, and the built-in exceptions that come out of
    them, have an attribute `done`: how many things had been sent, in order.
    """

    done: int


class HeapExists(Error, FileExistsError):
    """A heap of that name exists already."""

    errno: int | None = _errno.EEXIST


class HeapNotFound(Error, FileNotFoundError):
    """There is no heap of that name, or none appeared before the timeout."""

    errno: int | None = _errno.ENOENT


class HeapFull(Error, MemoryError):
    """The heap, or the file system under it, has no room; nothing was allocated.

    Also raised where a thread joins a heap that has 4096 participants already.
    """


class HeapClosed(Error, ValueError):
    """The heap object has been closed."""


class HeapBusy(Error, TimeoutError):
    """The heap lock was not released in time; nothing has changed."""

    errno: int | None = _errno.ETIMEDOUT


class EndpointClosed(Error, ValueError):
    """The producer or consumer has been closed."""


class ChannelNotFound(Error, KeyError):
    """The heap has no such channel, or none was added before the timeout."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # KeyError's would quote the text


class ChannelExists(Error, FileExistsError):
    """There is a channel of that ID already."""

    errno: int | None = _errno.EEXIST


class ChannelTypeError(Error, TypeError):
    """The channel exists, but has another kind or shape."""


class ChannelBusy(Error, BlockingIOError):
    """A living participant holds that side of the channel."""

    errno: int | None = _errno.EAGAIN


class ChannelClosed(Error, EOFError):
    """The other side has closed, and there is nothing left to receive."""


class PeerDied(Error, ConnectionResetError):
    """The other side died without closing, and there is nothing left to receive."""

    errno: int | None = _errno.ECONNRESET


class MessagesLost(Error, BufferError):
    """A listener of a bus was in the way for too long, and was passed.

    `count` is how many messages it did not get. The next receive goes on with the oldest message
    that is there.
    """

    count: int

    def __init__(self, text: str, count: int = 0) -> None:
        super().__init__(text)
        self.count = count

    def __reduce__(self) -> tuple[type[MessagesLost], tuple[str, int]]:
        return type(self), (str(self), self.count)


class RecordError(Error, ValueError):
    """The record cannot be used: it was freed or sent, or belongs to another heap or kind."""


class WindowError(Error, ValueError):
    """A window of a stream is open where none may be, or none is open where one must be."""


class WrongThread(Error, RuntimeError):
    """The endpoint belongs to another thread, the one that claimed it."""


class WrongProcess(Error, RuntimeError):
    """The endpoint or record belongs to the process that this one was forked from."""


class CorruptHeap(Error):
    """The segment contains what no participant would have written."""


class FormatMismatch(Error):
    """The file of that name is no heap, or a heap of another format."""

"""Every way an operation can fail.

All derive from `Error`, and each also from the built-in that a caller would catch anyway.
Timeouts of sends and receives raise the plain built-in `TimeoutError`.
"""

from __future__ import annotations


class Error(Exception):
    """The root of this package's errors.

    Those that `send_many` and `send_records` raise, and the built-in exceptions that come out of
    them, have an attribute `done`: how many things had been sent, in order.
    """

    done: int


class HeapExists(Error, FileExistsError):
    """There is a heap of that name already."""


class HeapNotFound(Error, FileNotFoundError):
    """There is no heap of that name, or it did not appear in time."""


class HeapFull(Error, MemoryError):
    """The heap, or the file system under it, has no room; nothing was allocated."""


class HeapClosed(Error, ValueError):
    """The heap object has been closed."""


class HeapBusy(Error, TimeoutError):
    """The heap lock could not be had in time; nothing has changed."""


class EndpointClosed(Error, ValueError):
    """The producer or consumer has been closed."""


class ChannelNotFound(Error, KeyError):
    """The heap has no such channel, or it was not added in time."""

    def __str__(self) -> str:
        return Exception.__str__(self)  # not KeyError's, which quotes


class ChannelTypeError(Error, TypeError):
    """The channel is there, but of another kind or shape."""


class ChannelBusy(Error, BlockingIOError):
    """A living participant holds that side of the channel."""


class ChannelClosed(Error, EOFError):
    """The other side has closed, and there is nothing left to receive."""


class PeerDied(Error, ConnectionResetError):
    """The other side died without closing, and there is nothing left to receive."""


class RecordError(Error, ValueError):
    """The record is not the caller's to use: freed, sent, or of another heap."""


class WrongThread(Error, RuntimeError):
    """An endpoint belongs to the thread that claimed it."""


class WrongProcess(Error, RuntimeError):
    """The endpoint or record belongs to the process that this one was forked from."""


class CorruptHeap(Error):
    """The segment holds what no participant would have written."""


class FormatMismatch(Error):
    """What is under that name is not a heap, or one of another format."""

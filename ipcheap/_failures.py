"""Exceptions for the core's error codes: the one place where these become those."""

from __future__ import annotations

import os

from . import errors
from ._arguments import show_size
from ._core import ffi, lib
from ._native import text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._arguments import ChannelId
    from ._core import CData
    from ._handle import Handle


def bad_variable() -> ValueError | None:
    """Make the exception for an environment variable with a bad value, if there is one."""
    words = ffi.new("const char **")
    name = lib.ipcheap_bad_variable(words)
    if not name:
        return None
    among = ", ".join(map(repr, text_of(words[0]).split("|")))
    variable = text_of(name)
    return ValueError(
        f"the environment variable {variable} must be one of {among}, "
        f"not {os.environ.get(variable)!r}"
    )


def holder_text(holder: CData) -> str:
    """Name a participant: process, thread, and whether it lives."""
    if not holder.pid:
        return "an unknown participant"
    state = "" if holder.alive else ", dead"
    where = ", this process" if holder.ours else ""
    if holder.elsewhere:
        where = " of another PID namespace"
    return f"{text_of(holder.name)!r} (pid {holder.pid}, thread {holder.tid}{where}{state})"


def holder_state(holder: CData) -> str:
    """Say how a participant is: "dead", "stopped", "stopped by a debugger" or "alive"."""
    if not holder.alive:
        return "dead"
    if holder.elsewhere:  # its pid is somebody else's here
        return "alive"
    try:
        with open(f"/proc/{holder.pid}/stat", "rb") as file:
            letter = file.read().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return "alive"
    return {"T": "stopped", "t": "stopped by a debugger"}.get(letter, "alive")


def _lock_holder_text(heap: Handle) -> str:
    holder = ffi.new("ipcheap_holder *")
    if lib.ipcheap_lock_holder(heap.pointer, holder) != 1:
        return "nobody just now"
    state = holder_state(holder)
    return holder_text(holder) + (f", {state}" if state.startswith("stopped") else "")


def _heap_full(heap: Handle, asked: int | None) -> str:
    wanted = "memory" if asked is None else show_size(asked)
    statistics = ffi.new("ipcheap_statistics *")
    if lib.py_heap_statistics(heap.pointer, statistics):
        return f"{heap} is full: {wanted} asked for"
    return (
        f"{heap} is full: {wanted} asked for, largest free {show_size(statistics.largest_free)} "
        f"of {show_size(statistics.capacity)} ({show_size(statistics.in_use)} in use in "
        f"{statistics.records} records); free records, or create it larger"
    )


def _memory_full(heap: Handle | str, asked: int | None) -> str:
    wanted = "no memory" if asked is None else f"no memory for {show_size(asked)}"
    path = None if isinstance(heap, str) else heap.path
    where = os.path.dirname(path) if path else "/dev/shm"
    limit = ""
    try:
        status = os.statvfs(where)
        total, left = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
        limit = f" ({show_size(left)} of {show_size(total)} left)"
    except OSError:
        pass
    return (
        f"{heap}: {wanted}, for the file system {where} is full{limit}; "
        "free records and trim(), remove other files there, or give it more"
    )


_PLAIN: dict[int, tuple[type[Exception], str]] = {
    lib.IPCHEAP_WOULD_BLOCK: (TimeoutError, "{it} would have to wait"),
    lib.IPCHEAP_TIMED_OUT: (TimeoutError, "{it}: {doing} within the time given"),
    lib.IPCHEAP_HEAP_EXISTS: (
        errors.HeapExists,
        "{it} exists already; Heap.open() takes it as it is, ipcheap.unlink() removes it",
    ),
    lib.IPCHEAP_NOT_FORMATTED: (
        errors.HeapNotFound,
        "{it} has not been formatted: whoever creates it is not done, or died",
    ),
    lib.IPCHEAP_FORMAT_MISMATCH: (
        errors.FormatMismatch,
        "{it}: what is under that name is not a heap, or one of another format; left untouched",
    ),
    lib.IPCHEAP_HEAP_CLOSED: (errors.HeapClosed, "{it} is closed"),
    lib.IPCHEAP_TOO_MANY_PARTICIPANTS: (
        errors.HeapFull,
        "{it} is full: every participant slot is taken; a thread that uses a heap takes one",
    ),
    lib.IPCHEAP_CHANNEL_NOT_FOUND: (
        errors.ChannelNotFound,
        "there is no {it}; its `channels` has all there are",
    ),
    lib.IPCHEAP_CHANNEL_TYPE: (errors.ChannelTypeError, "{it} is {holder}"),
    lib.IPCHEAP_CHANNEL_BUSY: (errors.ChannelBusy, "{it}: {holder}"),
    lib.IPCHEAP_CHANNEL_CLOSED: (errors.ChannelClosed, "{it}: the {peer} has closed"),
    lib.IPCHEAP_PEER_DIED: (
        errors.PeerDied,
        "{it}: the {peer} has died; wait_peer() waits for the next one",
    ),
    lib.IPCHEAP_ENDPOINT_CLOSED: (errors.EndpointClosed, "{it}: this {side} is closed"),
    lib.IPCHEAP_RECORD: (
        errors.RecordError,
        "{it}: the record is not to be used here: freed, sent, or of another heap",
    ),
    lib.IPCHEAP_WRONG_THREAD: (
        errors.WrongThread,
        "{it}: this {side} belongs to {doing}, which claimed it; claim in the thread that uses it",
    ),
    lib.IPCHEAP_WRONG_PROCESS: (
        errors.WrongProcess,
        "{it}: this {side} belongs to the process that this one was forked from; make one here",
    ),
    lib.IPCHEAP_CORRUPT: (
        errors.CorruptHeap,
        "{it} holds what no participant would have written; check() may tell more",
    ),
    lib.IPCHEAP_BAD_VALUE: (ValueError, "{it}: an argument is out of range"),
    lib.IPCHEAP_NO_MEMORY: (MemoryError, "{it}: this process is out of memory"),
}


def error(
    code: int,
    heap: Handle | str,
    channel: ChannelId | None = None,
    *,
    side: str = "record",
    asked: int | None = None,
    holder: str = "of another kind",
    doing: str = "not done",
) -> Exception:
    """Make the exception for a code: which heap and channel, who, how much, what to do."""
    saved_errno = ffi.errno
    it = str(heap) if channel is None else f"channel {channel!r} of {heap}"
    if code == lib.IPCHEAP_SYSTEM:
        path = None if isinstance(heap, str) else heap.path
        return OSError(saved_errno, f"{os.strerror(saved_errno)} ({it})", path)
    if code == lib.IPCHEAP_MEMORY_FULL:
        return errors.HeapFull(_memory_full(heap, asked))
    if not isinstance(heap, str):
        if code == lib.IPCHEAP_HEAP_FULL:
            return errors.HeapFull(_heap_full(heap, asked))
        if code == lib.IPCHEAP_HEAP_BUSY:
            owner = _lock_holder_text(heap)
            return errors.HeapBusy(f"{it}: the heap lock is held by {owner}; nothing has changed")
    if code == lib.IPCHEAP_CORRUPT and channel is not None:
        return errors.CorruptHeap(
            f"{it} holds what no participant would have written; the others go on, and this one "
            "can be used again after remove_channel(id, force=True) and adding it anew"
        )
    if code in _PLAIN:
        kind, text = _PLAIN[code]
        peer = {"producer": "consumer", "consumer": "producer"}.get(side, "peer")
        return kind(text.format(it=it, side=side, peer=peer, holder=holder, doing=doing))
    return errors.Error(f"{it}: {text_of(lib.ipcheap_error_text(code))} ({code})")

"""The one place where the core's error codes become exceptions."""

from __future__ import annotations

import errno
import os
import sys

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
    """Return the exception for an environment variable of unknown value; None if all are valid."""
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
    """Return the name of a participant: its process and thread, and whether it is dead."""
    if not holder.pid:
        return "an unknown participant"
    state = "" if holder.alive else ", dead"
    where = ", this process" if holder.ours else ""
    if holder.elsewhere:
        where = " in another PID namespace"
    return f"{text_of(holder.name)!r} (pid {holder.pid}, thread {holder.tid}{where}{state})"


def holder_state(holder: CData) -> str:
    """Return the state of a participant: "dead", "stopped", "stopped by a debugger" or "alive"."""
    if not holder.alive:
        return "dead"
    if holder.elsewhere:  # in this namespace its pid is another process's
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
        return "no participant any more"
    state = holder_state(holder)
    return holder_text(holder) + (f", {state}" if state.startswith("stopped") else "")


def _heap_full(heap: Handle, asked: int | None) -> str:
    wanted = "memory" if asked is None else show_size(asked)
    statistics = ffi.new("ipcheap_statistics *")
    if lib.py_heap_statistics(heap.pointer, statistics):
        return f"{heap} is full: {wanted} asked for"
    return (
        f"{heap} is full: {wanted} asked for, largest free block "
        f"{show_size(statistics.largest_free)} of {show_size(statistics.capacity)} "
        f"({show_size(statistics.in_use)} in use by {statistics.records} records); "
        "free some records, or create a larger heap"
    )


def _memory_full(heap: Handle | str, asked: int | None, path: str | None, code: int) -> str:
    from . import _limits  # only here, because most programs never need it

    wanted = "no memory" if asked is None else f"no memory for {show_size(asked)}"
    where = os.path.dirname(path) if path else None
    return f"{heap}: {wanted}, because {_limits.of_memory(where, asked, code)}"


def _cannot_map(it: str) -> MemoryError:
    from . import _limits

    return MemoryError(f"{it}: {_limits.of_addresses()}")


def explained(reason: OSError, it: str, path: str | None) -> OSError:
    """Return an OSError of the same kind and errno whose text names the limit that was met."""
    number = reason.errno or errno.EIO
    where = reason.filename if isinstance(reason.filename, str) else path
    if number == errno.EMFILE:  # no module can be imported
        sentence: str | None = (
            f"this process may have {os.sysconf('SC_OPEN_MAX')} descriptors open (ulimit -n, "
            "RLIMIT_NOFILE), and has all of them in use; close some, or raise that limit"
        )
    else:
        from . import _limits

        sentence = _limits.of_call(number, where)
    text = f"{os.strerror(number)} ({it})" if sentence is None else f"{it}: {sentence}"
    return OSError(number, text, where)


_PLAIN: dict[int, tuple[type[Exception], str]] = {
    lib.IPCHEAP_WOULD_BLOCK: (TimeoutError, "{it} would have to wait"),
    lib.IPCHEAP_TIMED_OUT: (TimeoutError, "{it}: {doing} within the timeout"),
    lib.IPCHEAP_HEAP_EXISTS: (
        errors.HeapExists,
        "{it} already exists; Heap.open() attaches to it, ipcheap.unlink() removes it",
    ),
    lib.IPCHEAP_NOT_FORMATTED: (
        errors.HeapNotFound,
        "{it} is not ready: the process that creates it has not finished, or died",
    ),
    lib.IPCHEAP_FORMAT_MISMATCH: (
        errors.FormatMismatch,
        "{it}: the file of that name is no heap, or one of another format; it was left untouched",
    ),
    lib.IPCHEAP_HEAP_CLOSED: (errors.HeapClosed, "{it} is closed; open it again to use it"),
    lib.IPCHEAP_TOO_MANY_PARTICIPANTS: (
        errors.HeapFull,
        (
            f"{{it}} is full: all {lib.IPCHEAP_PARTICIPANTS} participant slots are taken. A thread "
            "that uses the heap takes one until it ends; its process keeps it for a later thread "
            "while records of the thread exist: end threads, close the heap or free such records"
        ),
    ),
    lib.IPCHEAP_CHANNEL_NOT_FOUND: (
        errors.ChannelNotFound,
        "there is no {it}; `heap.channels` lists those that exist",
    ),
    lib.IPCHEAP_CHANNEL_TYPE: (errors.ChannelTypeError, "{it} is {holder}"),
    lib.IPCHEAP_CHANNEL_EXISTS: (
        errors.ChannelExists,
        "{it} already exists; without exclusive=True it is taken as it is",
    ),
    lib.IPCHEAP_CHANNEL_BUSY: (errors.ChannelBusy, "{it}: {holder}"),
    lib.IPCHEAP_CHANNEL_CLOSED: (errors.ChannelClosed, "{it}: the {peer} has closed"),
    lib.IPCHEAP_PEER_DIED: (
        errors.PeerDied,
        "{it}: the {peer} has died; wait_peer() waits for its successor",
    ),
    lib.IPCHEAP_ENDPOINT_CLOSED: (errors.EndpointClosed, "{it}: this {side} is closed"),
    lib.IPCHEAP_RECORD: (
        errors.RecordError,
        "{it}: this record cannot be used: it was freed or sent, or belongs to another heap",
    ),
    lib.IPCHEAP_WINDOW: (
        errors.WindowError,
        "{it}: this {side} has a window open; leave its block first",
    ),
    lib.IPCHEAP_STORE_FULL: (
        errors.HeapFull,
        "{it} has as many live chunks or bytes as it may; delete some, or add it with evict=True",
    ),
    lib.IPCHEAP_HOLDS: (
        errors.RecordError,
        (
            "{it}: this {side} holds as many chunks as it may ({doing}); release some, or add the "
            "store with a larger hold"
        ),
    ),
    lib.IPCHEAP_MESSAGES_LOST: (errors.MessagesLost, "{it}: {doing}"),
    lib.IPCHEAP_OWN_LISTENER: (
        errors.RecordError,
        (
            "{it} has no room, because a listener of this thread is a whole log behind, and the "
            "call would wait for it indefinitely; receive first, or give a timeout"
        ),
    ),
    lib.IPCHEAP_TRANSACTION: (
        ValueError,
        "{it}: a transaction is open already, or none is",
    ),
    lib.IPCHEAP_WRONG_THREAD: (
        errors.WrongThread,
        "{it}: this {side} belongs to {doing}, which claimed it; claim one in each thread",
    ),
    lib.IPCHEAP_WRONG_PROCESS: (
        errors.WrongProcess,
        "{it}: this {side} belongs to the process that this one was forked from; make one here",
    ),
    lib.IPCHEAP_CORRUPT: (
        errors.CorruptHeap,
        "{it} is corrupt: it contains what no participant would have written; check() may say more",
    ),
    lib.IPCHEAP_BAD_VALUE: (ValueError, "{it}: an argument is out of range"),
    lib.IPCHEAP_DESCRIPTOR_LOST: (
        errors.HeapClosed,
        "{it}: this program has closed its descriptors, and its file cannot be opened again",
    ),
}


_PEERS = {
    "producer": "consumer",
    "consumer": "producer",
    "writer": "reader",
    "reader": "writer",
}


_CLOSED = (lib.IPCHEAP_HEAP_CLOSED, lib.IPCHEAP_ENDPOINT_CLOSED)


def _in_daemon_thread() -> bool:
    threading = sys.modules.get("threading")
    return threading is not None and bool(threading.current_thread().daemon)


def error(
    code: int,
    heap: Handle | str,
    channel: ChannelId | None = None,
    *,
    side: str = "record",
    asked: int | None = None,
    holder: str = "of another kind",
    doing: str = "not done",
    path: str | None = None,
) -> Exception:
    """Return the exception for a code. Its text names the heap and channel, and the way out.

    `path` is that of the heap's file, for a heap that is given by the words that name it. Raises
    SystemExit in a daemon thread that meets the end of the process: it ends without a traceback.
    """
    saved_errno = ffi.errno
    if not isinstance(heap, str):
        path = heap.path
        if heap.ended and code in _CLOSED and _in_daemon_thread():
            raise SystemExit
    it = str(heap) if channel is None else f"channel {channel!r} of {heap}"
    if code == lib.IPCHEAP_SYSTEM:
        if saved_errno == errno.EAGAIN:
            from ._kernel import locked_memory  # which most processes never need here

            return locked_memory(it)
        return explained(OSError(saved_errno, "", path), it, path)
    if code == lib.IPCHEAP_NO_PROC:
        return FileNotFoundError(
            errno.ENOENT, f"/proc is not mounted here, and {it} is opened through it", "/proc"
        )
    if code == lib.IPCHEAP_MEMORY_FULL:
        # What allocates does not come through cffi, and errno is not that of its failure.
        known = saved_errno if isinstance(heap, str) else 0
        return errors.HeapFull(_memory_full(heap, asked, path, known))
    if code == lib.IPCHEAP_NO_MEMORY:
        return _cannot_map(it)
    if not isinstance(heap, str):
        if code == lib.IPCHEAP_HEAP_FULL:
            return errors.HeapFull(_heap_full(heap, asked))
        if code == lib.IPCHEAP_HEAP_BUSY:
            owner = _lock_holder_text(heap)
            return errors.HeapBusy(
                f"{it}: the heap lock is held by {owner}; nothing has changed, so try again"
            )
    if code == lib.IPCHEAP_CORRUPT and channel is not None:
        return errors.CorruptHeap(
            f"{it} is corrupt: it contains what no participant would have written. Other channels "
            "work; remove_channel(id, force=True) and add this one again"
        )
    if code in _PLAIN:
        kind, text = _PLAIN[code]
        peer = _PEERS.get(side, "peer")
        return kind(text.format(it=it, side=side, peer=peer, holder=holder, doing=doing))
    return errors.Error(f"{it}: {text_of(lib.ipcheap_error_text(code))} ({code})")

"""Heaps seen from outside: what is under their names, complete or not, and whether it is used.

Nothing here becomes a participant. `names` and `heaps` list the heaps, `state_of` and `describe`
look at one, and `clear_away` removes one that is half-made or half-removed.
"""

from __future__ import annotations

import contextlib
import os
import stat

from . import _arguments, _kernel, _segments, errors
from ._core import ffi, lib
from ._failures import error
from ._native import SEM_KINDS, SHM_KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .results import HeapInfo


def path_of(name: str) -> str:
    """Return the path of a heap's file; ValueError for a name that no heap can have."""
    return _kernel.path_of(_arguments.heap_name(name))


def names() -> tuple[list[str], list[str]]:
    """Return the plain names of heaps, complete or not, sorted.

    The second list has the names of those whose files the caller may not open.
    """
    ours: set[str] = set()
    others: set[str] = set()
    for entry in os.listdir(_kernel.SHM_FOLDER):
        name = _segments.name_of_note(entry) or entry.removeprefix(_kernel.PREFIX)
        if name != entry:
            with contextlib.suppress(ValueError, OSError):
                path = path_of(name)
                readable = not os.path.lexists(path) or os.access(path, os.R_OK | os.W_OK)
                (ours if readable else others).add(name)
    return sorted(ours), sorted(others)


def state_of(name: str) -> str:
    """Return the state of what is under a heap's name; HeapNotFound if there is nothing.

    - "ready"
    - "being made": a living process is creating or removing it
    - "half-made": the process that created it died
    - "half-removed": the process that removed it died, or its System V memory is gone
    - "note": a creator's note without a file
    - "copy": a copy of a heap's file
    - "foreign": no heap
    """
    try:
        fd = _kernel.open_file(name)
    except FileNotFoundError:
        if _segments.has_note(name):
            return "note"
        raise _segments.not_found(name) from None
    except errors.FormatMismatch:
        return "foreign"
    try:
        state = _state_of_open(fd, name)
        if state in ("ready", "copy"):
            return state  # anything else may be a moment of what another process does
        code = lib.py_lock_creation(fd, 0)
        if code == lib.IPCHEAP_TIMED_OUT:
            return "being made"
        if code:
            raise error(code, _segments.label_of(name))
        try:  # look again, as no other process changes it now
            if _segments.is_moved(fd, name):
                raise _segments.not_found(name)
            state = _state_of_open(fd, name)
        finally:
            lib.ipcheap_unlock_creation(fd)
    finally:
        os.close(fd)
    if isinstance(state, Exception):
        raise state
    return state


def _state_of_open(fd: int, name: str) -> str | Exception:
    """Return the state, or the exception for what looking has met."""
    state = _segments.State(fd, name, os.fstat(fd))
    if state.code == lib.IPCHEAP_FORMAT_MISMATCH:
        return "copy" if _segments.is_copy(fd, state.shmid) else "foreign"
    if state.code < 0:
        return error(state.code, _segments.label_of(name))
    if _segments.is_half_removed(fd, state):
        return "half-removed"
    return "ready" if state.code else "half-made"


def describe(name: str) -> HeapInfo | None:
    """Return what can be seen of a heap from outside; None if that is nothing."""
    with contextlib.suppress(OSError, IndexError, errors.FormatMismatch):
        return _describe(name, copies=True)
    return None


def open_copy(name: str) -> _segments.Segment:
    """Open a copy of a heap's file, to look at it."""
    fd = _kernel.open_file(name)
    try:
        if _kernel.Objects.read(fd) is not None:
            raise errors.FormatMismatch(
                f"{_segments.label_of(name)} was in System V memory, of which there is no copy"
            )
        _segments.lock_creation(fd, name, shared=True)
    except BaseException:
        os.close(fd)
        raise
    return _segments.Segment(fd, -1, name)


def remove_unused(name: str) -> None:
    """Remove a heap as `ipcheap.unlink` does; HeapBusy if a process has it open."""
    _segments.remove(_arguments.heap_name(name), unused=True)


def clear_away(name: str) -> bool:
    """Remove what is left of a half-made or half-removed heap; leave any other, and return False.

    Left, too, is what a living process has open: its other half may be in another IPC namespace.
    """
    fd, _ = _kernel.open_or_make_file(name)  # its lock keeps creators out meanwhile
    try:
        with _segments.AloneWith(fd, name):
            if _segments.is_moved(fd, name) or lib.ipcheap_has_users(fd):
                return False
            state = _segments.State(fd, name, os.fstat(fd))
            if state.code != 0 and not _segments.is_half_removed(fd, state):
                return False
            _segments.remove_open(fd, name)
            return True
    finally:
        os.close(fd)


def heaps() -> list[HeapInfo]:
    """Return all heaps of this system that have a plain name and that the caller may open."""
    found: list[HeapInfo] = []
    for entry in sorted(os.listdir(_kernel.SHM_FOLDER)):
        if entry.startswith(_kernel.PREFIX) and "~" not in entry:
            with contextlib.suppress(OSError, IndexError, errors.FormatMismatch):
                info = _describe(entry.removeprefix(_kernel.PREFIX), copies=False)
                if info is not None:
                    found.append(info)
    return found


def _describe(name: str, *, copies: bool) -> HeapInfo | None:
    path = _kernel.path_of(name)
    fd = _kernel.open_file(name)
    try:
        status = os.fstat(fd)
        state = _segments.State(fd, name, status)
        code, shmid = state.code, state.shmid
        info = ffi.new("ipcheap_heap_info *")
        if code == lib.IPCHEAP_FORMAT_MISMATCH and copies and _segments.is_copy(fd, shmid):
            code = 1
        if code == 0:
            abandoned = lib.py_lock_creation(fd, 0) == 0
            if abandoned:
                lib.ipcheap_unlock_creation(fd)
                abandoned = not lib.ipcheap_has_users(fd)
            info.shm_kind = lib.IPCHEAP_SHM_SYSV if state.objects else lib.IPCHEAP_SHM_POSIX
        elif code < 0 or lib.ipcheap_inspect(fd, shmid, info):
            return None
        else:
            abandoned = info.participants == 0 and not info.open
    finally:
        os.close(fd)
    from .results import HeapInfo

    return HeapInfo(
        name=name,
        path=path,
        shm=SHM_KINDS[int(info.shm_kind)],
        sem=SEM_KINDS[int(info.sem_kind)],
        capacity=info.capacity,
        committed=info.committed,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        participants=info.participants,
        open=bool(info.open),
        stale=abandoned,
        created=info.created_ns / 1e9,
    )

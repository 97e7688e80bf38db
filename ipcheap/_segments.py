"""Making, finding and removing the segment of a heap, without races.

Whoever holds the creation lock of the file under a heap's name may format or remove what
belongs to it; the lock ends with its holder. A creator first writes down what it is about
to make: into the file itself for shm="sysv", else into a note beside it,
`.ipcheap.NAME.making`, which goes when the heap is ready. The file is the last thing that a
removal removes, so that one cut short can be done again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time

from . import _kernel, _native, errors
from ._core import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._core import CData
    from .results import HeapInfo

PATIENCE = 10.0  # seconds for somebody else's creation or removal
_SHORTEST_NAP = 0.0005
_LONGEST_NAP = 0.01
_FULL = (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT)


class Segment:
    """A formatted segment, open: to be attached and then closed."""

    def __init__(self, fd: int, shmid: int, name: str | None, is_new: bool = False) -> None:
        self.fd = fd
        self.shmid = shmid
        self.name = name
        self.is_new = is_new

    @property
    def path(self) -> str | None:
        """Where its file lies."""
        return None if self.name is None else _kernel.path_of(self.name)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def _label(name: str) -> str:
    return f"heap {name!r}"


def not_found(name: str) -> errors.HeapNotFound:
    """Make the error for a heap that is not there."""
    where = "a name with a slash is a path" if "/" in name else _kernel.path_of(name)
    return errors.HeapNotFound(
        f"there is no heap {name!r} ({where}); `ipcheap ls` has all there are"
    )


def _is_moved(fd: int, name: str) -> bool:
    """Tell whether the name leads elsewhere by now, or nowhere."""
    here = os.fstat(fd)
    try:
        there = os.stat(_kernel.path_of(name))
    except FileNotFoundError:
        return True
    return here.st_nlink == 0 or not os.path.samestat(here, there)


@contextlib.contextmanager
def _alone_with(fd: int, name: str) -> Iterator[None]:
    """Hold the creation lock of a heap's file."""
    code = lib.py_lock_creation(fd, int(PATIENCE * 1e9))
    if code == lib.IPCHEAP_TIMED_OUT:
        raise errors.HeapBusy(
            f"{_label(name)} is being created or removed by another process, "
            f"which has not got done with it in {PATIENCE:.0f} s"
        )
    if code:
        raise _native.error(code, _label(name))
    try:
        yield
    finally:
        lib.ipcheap_unlock_creation(fd)


def _state(fd: int, name: str) -> tuple[int, int, _kernel.Objects | None]:
    """Look at an open file: 1 if formatted, 0, or an error; the System V id; what it says."""
    objects = _kernel.Objects.read(fd)
    if objects is None:
        code = lib.ipcheap_formatted(fd, -1)
        if code == 0 and "/" in name and os.fstat(fd).st_size and not _has_note(name):
            code = lib.IPCHEAP_FORMAT_MISMATCH  # somebody's file, that begins with zeros
        return code, -1, None
    if not objects.is_complete():
        return 0, -1, objects
    return lib.ipcheap_formatted(fd, objects.shm_id), objects.shm_id, objects


def _is_half_removed(fd: int, code: int, shmid: int, objects: _kernel.Objects | None) -> bool:
    """Tell whether a heap has lost what belongs to it: somebody was killed removing it.

    Or it went by other ways, as all System V objects do with a reboot. Who has it open may
    still use what there is, so the file is not to be used for another heap.
    """
    if code == 0:
        return objects is not None and objects.shm_id >= 0
    info = _inspect(fd, shmid) if code == 1 else None
    if info is None or info.sem_kind != lib.IPCHEAP_SEM_POSIX:
        return False
    semaphore = _native.text_of(info.sem_name)
    return bool(semaphore) and not _kernel.has_posix_semaphore(semaphore)


# The note that a creator leaves -------------------------------------------------------------


def _note_path(name: str) -> str:
    folder, file = os.path.split(_kernel.path_of(name))
    return os.path.join(folder, f".{file}.making")


def _has_note(name: str) -> bool:
    return os.path.exists(_note_path(name))


def _open_note(name: str) -> int:
    return os.open(_note_path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _remove_note(name: str, *, with_objects: bool) -> None:
    path = _note_path(name)
    with contextlib.suppress(FileNotFoundError):
        if with_objects:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                objects = _kernel.Objects.read(fd)
            finally:
                os.close(fd)
            if objects is not None:
                objects.remove(path)
        os.unlink(path)


# Making -----------------------------------------------------------------------------------


def create(
    name: str, capacity: int, shm: str, sem: str, mode: int, *, take_existing: bool
) -> Segment:
    """Make a heap's segment, or take the one that is there."""
    while True:
        fd = _kernel.open_file(name, create=True)
        try:
            with _alone_with(fd, name):
                if not _is_moved(fd, name):
                    code, shmid, objects = _state(fd, name)
                    if not _is_half_removed(fd, code, shmid, objects):
                        if code == 1 and not take_existing:
                            code = lib.IPCHEAP_HEAP_EXISTS
                        if code < 0:
                            raise _native.error(code, _label(name))
                        if code == 0:
                            _remove_leftovers(name, objects)
                            shmid = _make(fd, name, capacity, shm, sem, mode)
                        return Segment(fd, shmid, name, is_new=code == 0)
                    _remove_open(fd, name)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _remove_leftovers(name: str, objects: _kernel.Objects | None) -> None:
    """Remove what somebody who died had made of a heap, all but its file."""
    if objects is not None:
        objects.remove(_kernel.path_of(name))
    _remove_note(name, with_objects=True)
    _kernel.remove_pipes(name)


def _make(fd: int, name: str, capacity: int, shm: str, sem: str, mode: int) -> int:
    """Make and format all that belongs to a heap; return its System V id, or -1."""
    path = _kernel.path_of(name)
    objects: _kernel.Objects | None = None
    try:
        os.fchmod(fd, mode)
        os.ftruncate(fd, 0)
        if shm == "sysv":
            nbytes = lib.ipcheap_segment_bytes(capacity)
            objects = _kernel.made(shm, sem, nbytes, mode, path, fd)
        elif shm == "file" or sem != "futex":
            note = _open_note(name)
            try:
                objects = _kernel.made(shm, sem, 0, mode, path, note)
            finally:
                os.close(note)
        else:
            objects = _kernel.Objects()
        _format(fd, objects, capacity, shm, sem, _label(name))
    except BaseException as error:
        _remove_leftovers(name, objects)
        _kernel.remove_file(name)
        full = isinstance(error, OSError) and error.errno in _FULL
        if full or (isinstance(error, MemoryError) and not isinstance(error, errors.HeapFull)):
            raise _native.error(lib.IPCHEAP_MEMORY_FULL, _label(name), asked=capacity) from None
        raise
    _remove_note(name, with_objects=False)
    return objects.shm_id


def _format(
    fd: int, objects: _kernel.Objects, capacity: int, shm: str, sem: str, label: str
) -> None:
    options = ffi.new("ipcheap_options *")
    options.capacity = capacity
    options.shm_kind = _native.SHM_KINDS.index(shm)
    options.sem_kind = _native.SEM_KINDS.index(sem)
    options.sem_id = objects.sem_id
    options.sem_name = objects.sem_name.encode()
    code = lib.py_format(fd, objects.shm_id, options)
    if code:
        raise _native.error(code, label, asked=capacity)


def create_nameless(label: str, capacity: int, sem: str) -> Segment:
    """Make a segment that only its descriptor leads to.

    A POSIX semaphore lies in the segment itself. A System V one is removed by whoever
    leaves the heap last.
    """
    fd = os.memfd_create(label, os.MFD_CLOEXEC)
    objects = _kernel.Objects()
    try:
        if sem == "sysv":
            objects.sem_id = _kernel.make_sysv_semaphore(label)
        _format(fd, objects, capacity, "memfd", sem, _label(label))
    except BaseException:
        os.close(fd)
        if objects.sem_id >= 0:
            _kernel.remove_sysv_semaphore(objects.sem_id, label)
        raise
    return Segment(fd, -1, None)


def leave_nameless(fd: int) -> None:
    """Close a nameless segment's descriptor; the last to leave removes its semaphore."""
    info = ffi.new("ipcheap_heap_info *")
    code = lib.ipcheap_inspect(fd, -1, info)
    os.close(fd)
    if code == 0 and _native.SEM_KINDS[info.sem_kind] == "sysv" and not info.participants:
        _kernel.remove_sysv_semaphore(int(info.sem_id), "a heap without a name")


# Finding ----------------------------------------------------------------------------------


def find(name: str, timeout: float) -> Segment:
    """Open a heap's segment; wait as long for it to be there and formatted."""
    deadline = time.monotonic() + timeout
    nap = _SHORTEST_NAP
    while True:
        segment = _try_find(name)
        if segment is not None:
            return segment
        left = deadline - time.monotonic()
        if left <= 0:
            raise not_found(name)
        time.sleep(min(nap, left))
        nap = min(2 * nap, _LONGEST_NAP)


def _try_find(name: str) -> Segment | None:
    try:
        fd = _kernel.open_file(name)
    except FileNotFoundError:
        return None
    try:
        code, shmid, objects = _state(fd, name)
        if code < 0:
            raise _native.error(code, _label(name))
        half_removed = _is_half_removed(fd, code, shmid, objects)
    except BaseException:
        os.close(fd)
        raise
    if code == 1 and not half_removed:
        return Segment(fd, shmid, name)
    os.close(fd)
    return None


# Removing ---------------------------------------------------------------------------------


def remove(name: str, *, only: os.stat_result | None = None) -> None:
    """Remove a heap's name and every kernel object of it; it lives on for who has it open.

    With `only`, do so if it is that file that lies under the name.
    """
    while True:
        try:
            fd = _kernel.open_file(name)
        except FileNotFoundError:
            raise not_found(name) from None
        try:
            with _alone_with(fd, name):
                if _is_moved(fd, name):
                    continue
                if only is not None and not os.path.samestat(os.fstat(fd), only):
                    raise not_found(name)
                _remove_open(fd, name)
                return
        finally:
            os.close(fd)


def _remove_open(fd: int, name: str) -> None:
    code, shmid, objects = _state(fd, name)
    if code < 0:
        raise _native.error(code, _label(name))
    path = _kernel.path_of(name)
    if code == 1 and objects is None:
        info = _inspect(fd, shmid)
        if info is not None and info.sem_kind == lib.IPCHEAP_SEM_POSIX:
            _kernel.remove_posix_semaphore(_native.text_of(info.sem_name), path)
        elif info is not None and info.sem_kind == lib.IPCHEAP_SEM_SYSV:
            _kernel.remove_sysv_semaphore(info.sem_id, path)
    _remove_leftovers(name, objects)
    _kernel.remove_file(name)
    _kernel.remove_pipes(name)  # made meanwhile; from now on its users make none with a name


# Looking ----------------------------------------------------------------------------------


def _inspect(fd: int, shmid: int) -> CData | None:
    info = ffi.new("ipcheap_heap_info *")
    return None if lib.ipcheap_inspect(fd, shmid, info) else info


def look(name: str) -> str:
    """Say what is under a heap's name, without becoming a participant.

    "ready", "being made" (or removed, just now, by somebody alive), "half-made" (by somebody
    who died), "half-removed" (likewise, or its System V memory is gone), "note" (a creator's,
    and no file), "foreign" (not a heap) or "absent".
    """
    try:
        fd = _kernel.open_file(name)
    except FileNotFoundError:
        return "note" if _has_note(name) else "absent"
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return "foreign"
        state = _look_at_open(fd, name)
        if state in ("ready", "foreign"):
            return state
        code = lib.py_lock_creation(fd, 0)
        if code == lib.IPCHEAP_TIMED_OUT:
            return "being made"
        if code:
            raise _native.error(code, _label(name))
        try:  # once more, for now nobody changes it
            return "absent" if _is_moved(fd, name) else _look_at_open(fd, name)
        finally:
            lib.ipcheap_unlock_creation(fd)
    finally:
        os.close(fd)


def _look_at_open(fd: int, name: str) -> str:
    code, shmid, objects = _state(fd, name)
    if code == lib.IPCHEAP_FORMAT_MISMATCH:
        return "foreign"
    if code < 0:
        raise _native.error(code, _label(name))
    if _is_half_removed(fd, code, shmid, objects):
        return "half-removed"
    return "ready" if code else "half-made"


def describe(name: str) -> HeapInfo | None:
    """Return what can be seen of a heap from outside; None when that is nothing."""
    with contextlib.suppress(OSError, IndexError):
        return _look_at(name)
    return None


def clear_away(name: str) -> None:
    """Remove what is left of a heap that was not completed, or half removed."""
    fd = _kernel.open_file(name, create=True)  # to keep creators out meanwhile
    try:
        with _alone_with(fd, name):
            if not _is_moved(fd, name):
                code, shmid, objects = _state(fd, name)
                if code == 0 or _is_half_removed(fd, code, shmid, objects):
                    _remove_open(fd, name)
    finally:
        os.close(fd)


def heaps() -> list[HeapInfo]:
    """List the heaps of this system that have a plain name and that the caller may open."""
    found: list[HeapInfo] = []
    for entry in sorted(os.listdir(_kernel.SHM_FOLDER)):
        if entry.startswith(_kernel.PREFIX) and "~" not in entry:
            with contextlib.suppress(OSError, IndexError):
                info = _look_at(entry.removeprefix(_kernel.PREFIX))
                if info is not None:
                    found.append(info)
    return found


def _look_at(name: str) -> HeapInfo | None:
    path = _kernel.path_of(name)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return None
        code, shmid, objects = _state(fd, name)
        info = ffi.new("ipcheap_heap_info *")
        if code == 0:
            abandoned = lib.py_lock_creation(fd, 0) == 0
            if abandoned:
                lib.ipcheap_unlock_creation(fd)
            info.shm_kind = lib.IPCHEAP_SHM_SYSV if objects else lib.IPCHEAP_SHM_POSIX
        elif code < 0 or lib.ipcheap_inspect(fd, shmid, info):
            return None
        else:
            abandoned = info.participants == 0
    finally:
        os.close(fd)
    from .results import HeapInfo

    return HeapInfo(
        name=name,
        path=path,
        shm=_native.SHM_KINDS[int(info.shm_kind)],
        sem=_native.SEM_KINDS[int(info.sem_kind)],
        capacity=info.capacity,
        committed=info.committed,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        participants=info.participants,
        stale=abandoned,
        created=info.created_ns / 1e9,
    )

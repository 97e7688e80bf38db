"""Create, find and remove the segment of a heap, without races.

Only the holder of the creation lock of a heap's file may format or remove what belongs to the
heap. The kernel releases the lock when its holder dies. A creator first writes down what it is
about to create: into the file itself for shm="sysv", otherwise into a note beside it,
`.ipcheap.NAME.making`, which it removes when the heap is ready. A removal removes the file last, so
that another process can complete it.
"""

from __future__ import annotations

import errno
import os
import time

from . import _kernel, errors
from ._core import ffi, lib
from ._failures import error
from ._native import SEM_KINDS, SHM_KINDS, text_of
from ._timing import LONGEST_NAP, PATIENCE, SHORTEST_NAP, time_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._core import CData

_FULL = (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT)


class Segment:
    """A formatted segment, open: attach to it, then close it."""

    def __init__(self, fd: int, shmid: int, name: str | None, is_new: bool = False) -> None:
        self.fd = fd
        self.shmid = shmid
        self.name = name
        self.is_new = is_new

    @property
    def path(self) -> str | None:
        """The path of its file; None without a name."""
        return None if self.name is None else _kernel.path_of(self.name)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.fd)


def label_of(name: str) -> str:
    """Return the words by which messages name a heap."""
    return f"heap {name!r}"


def not_found(name: str) -> errors.HeapNotFound:
    """Return the exception for a heap that does not exist."""
    where = "a name with a slash is a path" if "/" in name else _kernel.path_of(name)
    return errors.HeapNotFound(
        f"there is no heap {name!r} ({where}); `ipcheap ls` lists those that exist"
    )


def refusal(code: int, fd: int, shmid: int, name: str) -> Exception:
    """Return the exception for a file that cannot be used; of another format, with both numbers."""
    found = lib.ipcheap_found_format(fd, shmid) if code == lib.IPCHEAP_FORMAT_MISMATCH else 0
    if found > 0 and found != lib.IPCHEAP_FORMAT:
        return errors.FormatMismatch(
            f"{label_of(name)} has format {found}, and this version of ipcheap uses format "
            f"{lib.IPCHEAP_FORMAT}; use the version that created it. It was left untouched"
        )
    return error(code, label_of(name), path=_kernel.path_of(name))


def is_moved(fd: int, name: str) -> bool:
    """Whether the name leads to another file by now, or to none."""
    here = os.fstat(fd)
    try:
        there = os.stat(_kernel.path_of(name))
    except FileNotFoundError:
        return True
    return here.st_nlink == 0 or not os.path.samestat(here, there)


class AloneWith:
    """The creation lock of a heap's file, held; HeapBusy if another process keeps it."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name

    def __enter__(self) -> None:
        code = lib.py_lock_creation(self._fd, int(PATIENCE * 1e9))
        if code == lib.IPCHEAP_TIMED_OUT:
            raise errors.HeapBusy(
                f"{label_of(self._name)} is being created or removed by another process, "
                f"which has not finished in {PATIENCE:.0f} s; try again"
            )
        if code:
            raise error(code, label_of(self._name))

    def __exit__(self, *_: object) -> None:
        lib.ipcheap_unlock_creation(self._fd)


def read_state(fd: int, name: str) -> tuple[int, int, _kernel.Objects | None]:
    """Return 1 if an open file is formatted, 0 or an error; its System V id; the list in it."""
    objects = _kernel.Objects.read(fd)
    if objects is None:
        code = lib.ipcheap_formatted(fd, -1)
        if code == 0 and "/" in name and os.fstat(fd).st_size and not has_note(name):
            code = lib.IPCHEAP_FORMAT_MISMATCH  # no heap: a file that begins with zeros
        return code, -1, None
    if not objects.is_complete():
        return 0, -1, objects
    return lib.ipcheap_formatted(fd, objects.shm_id), objects.shm_id, objects


def inspect_open(fd: int, shmid: int) -> CData | None:
    """Return what the header of an open file says; None if it is no heap's."""
    info = ffi.new("ipcheap_heap_info *")
    return None if lib.ipcheap_inspect(fd, shmid, info) else info


def is_half_removed(fd: int, code: int, shmid: int, objects: _kernel.Objects | None) -> bool:
    """Whether a heap has lost kernel objects, because a process was killed while removing it.

    Or they were removed by other means, as all System V objects are by a reboot. Processes that
    have the heap open may still use the rest, so the file must not be reused for another heap.
    """
    if code == 0:
        return objects is not None and objects.shm_id >= 0
    info = inspect_open(fd, shmid) if code == 1 else None
    if info is None or info.sem_kind != lib.IPCHEAP_SEM_POSIX:
        return False
    semaphore = text_of(info.sem_name)
    return bool(semaphore) and not _kernel.has_posix_semaphore(semaphore)


# The note that a creator leaves -------------------------------------------------------------


def _note_path(name: str) -> str:
    folder, file = os.path.split(_kernel.path_of(name))
    return os.path.join(folder, f".{file}.making")


def name_of_note(file: str) -> str | None:
    """Return the name of the heap that a note in SHM_FOLDER is about; None if it is no note."""
    name = file.removeprefix(f".{_kernel.PREFIX}").removesuffix(".making")
    return name if file == f".{_kernel.PREFIX}{name}.making" else None


def has_note(name: str) -> bool:
    """Whether there is a creator's note of what it was about to create."""
    return os.path.exists(_note_path(name))


def _open_note(name: str) -> int:
    return os.open(_note_path(name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _remove_note(name: str, *, with_objects: bool) -> None:
    path = _note_path(name)
    objects = _objects_in(path) if with_objects else None
    if objects is not None:
        objects.remove(path)
    _kernel.unlink(path)


def _objects_in(path: str) -> _kernel.Objects | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _kernel.Objects.read(fd)
    finally:
        os.close(fd)


# Making -----------------------------------------------------------------------------------


def create(
    name: str, capacity: int, shm: str, sem: str, mode: int, *, take_existing: bool
) -> Segment:
    """Create a heap's segment, or open the existing one."""
    while True:
        fd = _kernel.open_file(name, create=True)
        try:
            with AloneWith(fd, name):
                if not is_moved(fd, name):
                    code, shmid, objects = read_state(fd, name)
                    if not is_half_removed(fd, code, shmid, objects):
                        if code == 1 and not take_existing:
                            code = lib.IPCHEAP_HEAP_EXISTS
                        if code < 0:
                            raise refusal(code, fd, shmid, name)
                        if code == 0:
                            _remove_leftovers(name, objects)
                            shmid = _make(fd, name, capacity, shm, sem, mode)
                        return Segment(fd, shmid, name, is_new=code == 0)
                    remove_open(fd, name)
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _remove_leftovers(name: str, objects: _kernel.Objects | None) -> None:
    """Remove what a creator that died had made of a heap, except the file."""
    if objects is not None:
        objects.remove(_kernel.path_of(name))
    _remove_note(name, with_objects=True)
    _kernel.remove_pipes(name)


def _make(fd: int, name: str, capacity: int, shm: str, sem: str, mode: int) -> int:
    """Create and format all that belongs to a heap; return its System V id, or -1."""
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
        _format(fd, objects, capacity, shm, sem, label_of(name), path)
    except BaseException as reason:
        _remove_leftovers(name, objects)
        _kernel.remove_file(name)
        full = isinstance(reason, OSError) and reason.errno in _FULL
        if full or (isinstance(reason, MemoryError) and not isinstance(reason, errors.HeapFull)):
            raise error(
                lib.IPCHEAP_MEMORY_FULL, label_of(name), asked=capacity, path=path
            ) from None
        raise
    _remove_note(name, with_objects=False)
    return objects.shm_id


def _format(
    fd: int,
    objects: _kernel.Objects,
    capacity: int,
    shm: str,
    sem: str,
    label: str,
    path: str | None = None,
) -> None:
    options = ffi.new("ipcheap_options *")
    options.capacity = capacity
    options.shm_kind = SHM_KINDS.index(shm)
    options.sem_kind = SEM_KINDS.index(sem)
    options.sem_id = objects.sem_id
    options.sem_name = objects.sem_name.encode()
    code = lib.py_format(fd, objects.shm_id, options)
    if code:
        raise error(code, label, asked=capacity, path=path)


def create_nameless(label: str, capacity: int, sem: str) -> Segment:
    """Create a segment that only its descriptor leads to.

    A POSIX semaphore lies in the segment itself. A System V semaphore is removed by the last
    process that leaves the heap.
    """
    fd = os.memfd_create(label, os.MFD_CLOEXEC)
    objects = _kernel.Objects()
    try:
        if sem == "sysv":
            objects.sem_id = _kernel.make_sysv_semaphore(label)
        _format(fd, objects, capacity, "memfd", sem, label_of(label))
    except BaseException:
        os.close(fd)
        if objects.sem_id >= 0:
            _kernel.remove_sysv_semaphore(objects.sem_id, label)
        raise
    return Segment(fd, -1, None)


def leave_nameless(fd: int) -> None:
    """Close the descriptor of a nameless segment; the last process removes its semaphore."""
    info = ffi.new("ipcheap_heap_info *")
    code = lib.ipcheap_inspect(fd, -1, info)
    os.close(fd)
    if code == 0 and SEM_KINDS[info.sem_kind] == "sysv" and not info.participants:
        _kernel.remove_sysv_semaphore(int(info.sem_id), "a heap without a name")


# Finding ----------------------------------------------------------------------------------


def find(name: str, deadline: float) -> Segment:
    """Open a heap's segment when it is ready; HeapNotFound at the deadline."""
    nap = SHORTEST_NAP
    while True:
        segment = _try_find(name)
        if segment is not None:
            return segment
        left = time_left(deadline)
        if left <= 0:
            raise not_found(name)
        time.sleep(min(nap, left))
        nap = min(2 * nap, LONGEST_NAP)


def _try_find(name: str) -> Segment | None:
    try:
        fd = _kernel.open_file(name)
    except FileNotFoundError:
        return None
    try:
        code, shmid, objects = read_state(fd, name)
        if code < 0:
            raise refusal(code, fd, shmid, name)
        half_removed = is_half_removed(fd, code, shmid, objects)
    except BaseException:
        os.close(fd)
        raise
    if code == 1 and not half_removed:
        return Segment(fd, shmid, name)
    os.close(fd)
    return None


# Removing ---------------------------------------------------------------------------------


def remove(name: str, *, only: os.stat_result | None = None) -> None:
    """Remove a heap's name and all its kernel objects; processes that have it open keep it.

    With `only`, remove it if that is the file under the name. HeapNotFound otherwise.
    """
    while True:
        try:
            fd = _kernel.open_file(name)
        except FileNotFoundError:
            raise not_found(name) from None
        try:
            with AloneWith(fd, name):
                if is_moved(fd, name):
                    continue
                if only is not None and not os.path.samestat(os.fstat(fd), only):
                    raise not_found(name)
                remove_open(fd, name)
                return
        finally:
            os.close(fd)


def remove_open(fd: int, name: str) -> None:
    """Remove all that belongs to a heap, whose creation lock the caller holds."""
    code, shmid, objects = read_state(fd, name)
    if code < 0:
        raise refusal(code, fd, shmid, name)
    path = _kernel.path_of(name)
    if code == 1 and objects is None:
        info = inspect_open(fd, shmid)
        if info is not None and info.sem_kind == lib.IPCHEAP_SEM_POSIX:
            _kernel.remove_posix_semaphore(text_of(info.sem_name), path)
        elif info is not None and info.sem_kind == lib.IPCHEAP_SEM_SYSV:
            _kernel.remove_sysv_semaphore(info.sem_id, path)
    _remove_leftovers(name, objects)
    _kernel.remove_file(name)
    _kernel.remove_pipes(name)  # created meanwhile; from now on its users create none with a name

"""Create, find and remove the segment of a heap, without races.

Only the holder of the creation lock of a heap's file may format or remove what belongs to the
heap. The kernel releases the lock when its holder dies. A process that attaches shares the lock
until it is a participant, so that a heap without participants can be removed without a race. A
creator first writes down what it is about to create: into the file itself for shm="sysv", otherwise
into a note beside it, `.ipcheap.NAME.making`, which it removes when the heap is ready. A removal
removes the file last, so that another process can complete it.
"""

from __future__ import annotations

import errno
import os
import time

from . import _kernel, errors
from ._core import ffi, lib
from ._failures import error, explained
from ._native import SEM_KINDS, SHM_KINDS, text_of
from ._timing import LONGEST_NAP, PATIENCE, SHORTEST_NAP, time_left

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._core import CData

_FULL = (errno.ENOSPC, errno.ENOMEM, errno.EDQUOT, errno.EFBIG)
_LONGEST_LABEL = 200


class Segment:
    """A formatted segment, open: attach to it, then close it.

    One that has a name is locked until then, so that it is not removed as unused. `file` is what
    fstat() has said of the descriptor.
    """

    def __init__(
        self,
        fd: int,
        shmid: int,
        name: str | None,
        is_new: bool = False,
        file: os.stat_result | None = None,
    ) -> None:
        self.fd = fd
        self.shmid = shmid
        self.name = name
        self.is_new = is_new
        self.file: os.stat_result = os.fstat(fd) if file is None else file

    @property
    def path(self) -> str | None:
        """The path of its file; None without a name."""
        return None if self.name is None else _kernel.path_of(self.name)

    def close(self) -> None:
        """Release the creation lock, and close the descriptor."""
        if self.name is not None:
            lib.ipcheap_unlock_creation(self.fd)  # a forked child may have the descriptor, too
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
    if code != lib.IPCHEAP_FORMAT_MISMATCH:
        return error(code, label_of(name), path=_kernel.path_of(name))
    if is_copy(fd, shmid):
        path = _kernel.path_of(name)
        return errors.FormatMismatch(
            f"{label_of(name)}: {path} is a copy of a heap's file, or restored from one, and not "
            f"the heap: `ipcheap doctor {name}` looks at it, `rm {path}` removes it. It was left "
            "untouched"
        )
    found = lib.ipcheap_found_format(fd, shmid)
    if found > 0 and found != lib.IPCHEAP_FORMAT:
        return errors.FormatMismatch(
            f"{label_of(name)} has format {found}, and this version of ipcheap uses format "
            f"{lib.IPCHEAP_FORMAT}; use the version that created it. It was left untouched"
        )
    return error(code, label_of(name), path=_kernel.path_of(name))


def is_moved(fd: int, name: str) -> bool:
    """Whether the name leads to another file by now, or to none."""
    return _leads_elsewhere(name, os.fstat(fd))


def _leads_elsewhere(name: str, file: os.stat_result) -> bool:
    """Do the same for the file that fstat() has just said that of."""
    try:
        there = os.lstat(_kernel.path_of(name))
    except FileNotFoundError:
        return True
    return file.st_nlink == 0 or not os.path.samestat(file, there)


class AloneWith:
    """The creation lock of a heap's file, held; HeapBusy if another process keeps it."""

    def __init__(self, fd: int, name: str) -> None:
        self._fd = fd
        self._name = name

    def __enter__(self) -> None:
        lock_creation(self._fd, self._name)

    def __exit__(self, *_: object) -> None:
        lib.ipcheap_unlock_creation(self._fd)


def lock_creation(fd: int, name: str, *, shared: bool = False) -> None:
    """Take the creation lock of a heap's file; HeapBusy if another process keeps it."""
    lock = lib.py_share_creation if shared else lib.py_lock_creation
    code = lock(fd, int(PATIENCE * 1e9))
    if code == lib.IPCHEAP_TIMED_OUT:
        raise errors.HeapBusy(
            f"{label_of(name)} is being created or removed by another process, "
            f"which has not finished in {PATIENCE:.0f} s; try again"
        )
    if code:
        raise error(code, label_of(name), path=_kernel.path_of(name))


class State:
    """What an open file is: `code` is 1 for a heap, 0 for a half-made one, otherwise an error.

    A copy of a heap's file is an error, FORMAT_MISMATCH. `shmid` is the System V id or -1,
    `objects` the list that the file contains, and `info` what the header says if `code` is 1.
    `file` is what fstat() has just said of the file.
    """

    __slots__ = ("code", "info", "objects", "shmid")

    def __init__(self, fd: int, name: str, file: os.stat_result) -> None:
        self.shmid = -1
        self.objects: _kernel.Objects | None = None
        self.info = ffi.new("ipcheap_heap_info *")
        code = self._read(fd, file.st_ino)
        if code == lib.IPCHEAP_FORMAT_MISMATCH:
            self.objects = _kernel.Objects.read(fd)
            if self.objects is not None:
                code = self._read_system_v(fd, file.st_ino, self.objects)
        elif code == 0 and "/" in name and file.st_size and not has_note(name):
            code = lib.IPCHEAP_FORMAT_MISMATCH  # no heap: a file that begins with zeros
        self.code = code

    def _read(self, fd: int, inode: int) -> int:
        code = lib.ipcheap_read_header(fd, self.shmid, self.info)
        if code == lib.IPCHEAP_NOT_FORMATTED:
            return 0
        if code == 0:
            return 1 if self.info.inode == inode else lib.IPCHEAP_FORMAT_MISMATCH
        return int(code)

    def _read_system_v(self, fd: int, inode: int, objects: _kernel.Objects) -> int:
        if objects.inode != inode:
            return lib.IPCHEAP_FORMAT_MISMATCH
        if not objects.is_complete():
            return 0
        self.shmid = objects.shm_id
        return self._read(fd, inode)


def is_copy(fd: int, shmid: int) -> bool:
    """Whether what an open file contains was made in another file: it is not that heap."""
    inode = os.fstat(fd).st_ino
    objects = _kernel.Objects.read(fd)
    if objects is not None and objects.inode != inode:
        return True
    info = inspect_open(fd, shmid)
    return info is not None and info.inode != inode


def inspect_open(fd: int, shmid: int) -> CData | None:
    """Return what the header of an open file says; None if it is no heap's."""
    info = ffi.new("ipcheap_heap_info *")
    return None if lib.ipcheap_inspect(fd, shmid, info) else info


def is_half_removed(fd: int, state: State) -> bool:
    """Whether a heap has lost kernel objects, because a process was killed while removing it.

    Or they were removed by other means, as all System V objects are by a reboot. Processes that
    have the heap open may still use the rest, so the file must not be reused for another heap. A
    heap in use that lacks a System V semaphore is whole: its users may see the semaphore in another
    IPC namespace, and waiters for the heap lock do without it.
    """
    if state.code == 0:
        return state.objects is not None and state.objects.shm_id >= 0
    if state.code != 1 or state.info.sem_kind == lib.IPCHEAP_SEM_FUTEX:
        return False
    info = state.info
    if info.sem_kind == lib.IPCHEAP_SEM_SYSV:
        if _kernel.has_sysv_semaphore(int(info.sem_id), os.fstat(fd).st_ino):
            return False
        info = inspect_open(fd, state.shmid)
        return info is not None and not info.participants and not info.open
    semaphore = text_of(info.sem_name) if info.sem_kind == lib.IPCHEAP_SEM_POSIX else ""
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
    return os.path.lexists(_note_path(name))


def _remove_note(name: str, *, with_objects: bool) -> None:
    """Remove a creator's note; FormatMismatch for anything else under its name."""
    path = _note_path(name)
    try:
        fd = _kernel.open_regular(path, os.O_RDONLY, name)
    except FileNotFoundError:
        return
    try:
        status = os.fstat(fd)
        objects = _kernel.Objects.read(fd)
    finally:
        os.close(fd)
    if objects is None and status.st_size:
        raise errors.FormatMismatch(
            f"{label_of(name)}: {path}, where its creator would make a note, is something else; "
            "it was left untouched"
        )
    if objects is not None and with_objects:
        if status.st_mode & 0o022 or status.st_nlink > 1:
            _kernel.leave(f"what {path} names", "another user may have written that")
        else:
            objects.remove(path, status.st_uid)
    _kernel.unlink(path)


# Making -----------------------------------------------------------------------------------


def create(
    name: str, capacity: int, shm: str, sem: str, mode: int, *, take_existing: bool
) -> Segment:
    """Create a heap's segment, or open the existing one."""
    try:
        while True:
            segment = _try_create(name, capacity, shm, sem, mode, take_existing=take_existing)
            if segment is not None:
                return segment
    except _kernel.SystemVRefused as reason:
        from . import _limits

        raise errors.HeapFull(
            f"{label_of(name)}: {_limits.of_system_v(reason.what, reason.nbytes)}"
        ) from None
    except OSError as reason:
        raise _refused(reason, name, capacity) from None


def _refused(reason: OSError, name: str, capacity: int) -> Exception:
    """Return the exception for what the kernel has refused to a creator."""
    path = _kernel.path_of(name)
    if isinstance(reason, errors.Error):
        return reason
    if reason.errno == errno.ENAMETOOLONG:
        from . import _limits

        return ValueError(_limits.of_name(path))
    if reason.errno in _FULL:
        ffi.errno = reason.errno
        return error(lib.IPCHEAP_MEMORY_FULL, label_of(name), asked=capacity, path=path)
    if reason.errno == errno.ENOENT:
        folder = os.path.dirname(path)
        text = f"{label_of(name)}: there is no folder {folder}"
        return FileNotFoundError(errno.ENOENT, text, path)
    return explained(reason, label_of(name), path)


def _try_create(
    name: str, capacity: int, shm: str, sem: str, mode: int, *, take_existing: bool
) -> Segment | None:
    """Do what `create` does; None if the file was moved or removed meanwhile."""
    fd, is_new = _kernel.open_or_make_file(name)
    making = False
    try:
        _lock_or_remove(fd, name, is_new)
        file = os.fstat(fd)
        if _leads_elsewhere(name, file):
            os.close(fd)
            return None
        state = State(fd, name, file)
        code, shmid, objects = state.code, state.shmid, state.objects
        making = is_new and code == 0  # a process that locked it first has made a heap of it
        if is_half_removed(fd, state) or (code == 0 and not making and is_foreign(fd)):
            # A heap is made in a file of its maker, never in one that another user could change.
            remove_open(fd, name)
            os.close(fd)
            return None
        if code == 1 and not take_existing:
            code = lib.IPCHEAP_HEAP_EXISTS
        if code < 0:
            raise refusal(code, fd, shmid, name)
        if code == 0:
            _empty(fd, objects)
            _remove_leftovers(fd, name, objects)
            making = True
            shmid = _make(fd, name, capacity, shm, sem, mode)
        return Segment(fd, shmid, name, is_new=code == 0)
    except BaseException:
        if making and not is_moved(fd, name):
            _kernel.remove_file(name)
        os.close(fd)
        raise


def _lock_or_remove(fd: int, name: str, is_new: bool) -> None:
    """Take the creation lock. If the kernel refuses locks, remove the file if it was made here."""
    try:
        lock_creation(fd, name)
    except errors.HeapBusy:
        raise
    except OSError:
        if is_new and os.fstat(fd).st_size == 0 and not is_moved(fd, name):
            _kernel.remove_file(name)
        raise


def is_foreign(fd: int) -> bool:
    """Whether an open file belongs to another user."""
    return os.fstat(fd).st_uid != os.geteuid()


def _empty(fd: int, objects: _kernel.Objects | None) -> None:
    """Empty a half-made file, so that it is known as one without its note; keep a list in it."""
    if objects is None:
        os.ftruncate(fd, 0)


def _remove_leftovers(fd: int, name: str, objects: _kernel.Objects | None) -> None:
    """Remove what a creator that died had made of a heap, except the file."""
    if objects is not None:
        objects.remove(_kernel.path_of(name), os.fstat(fd).st_uid)
    _remove_note(name, with_objects=True)
    _kernel.remove_pipes(name)


def _make(fd: int, name: str, capacity: int, shm: str, sem: str, mode: int) -> int:
    """Create and format all that belongs to a heap; return its System V id, or -1.

    Whatever fails, only the file stays. To remove the rest takes no descriptor.
    """
    path, note_path = _kernel.path_of(name), _note_path(name)
    inode = os.fstat(fd).st_ino
    objects = _kernel.Objects()
    has_note = shm != "sysv" and (shm == "file" or sem != "futex")
    try:
        os.fchmod(fd, mode)
        os.ftruncate(fd, 0)
        if shm == "sysv":
            nbytes = lib.ipcheap_segment_bytes(capacity)
            objects = _kernel.made(shm, sem, nbytes, mode, path, fd, inode)
        elif has_note:
            note = _kernel.make_file(note_path, name)
            try:
                objects = _kernel.made(shm, sem, 0, mode, note_path, note, inode)
            finally:
                os.close(note)
        _format(fd, objects, capacity, shm, sem, label_of(name), path)
    except BaseException:
        objects.remove(path, os.fstat(fd).st_uid)
        if has_note:
            _kernel.unlink(note_path)
        raise
    if has_note:
        _kernel.unlink(note_path)
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
    try:
        return _create_nameless(label, capacity, sem)
    except _kernel.SystemVRefused as reason:
        from . import _limits

        raise errors.HeapFull(
            f"{label_of(label)}: {_limits.of_system_v(reason.what, reason.nbytes)}"
        ) from None
    except OSError as reason:
        if isinstance(reason, errors.Error):
            raise
        raise explained(reason, label_of(label), None) from None


def _create_nameless(label: str, capacity: int, sem: str) -> Segment:
    fd = _kernel.high(os.memfd_create(label[:_LONGEST_LABEL], os.MFD_CLOEXEC))
    objects = _kernel.Objects()
    try:
        if sem == "sysv":
            objects.sem_id = _kernel.make_sysv_semaphore(fd, label)
        _format(fd, objects, capacity, "memfd", sem, label_of(label))
    except BaseException:
        if objects.sem_id >= 0:
            _kernel.remove_sysv_semaphore(objects.sem_id, os.fstat(fd), label)
        os.close(fd)
        raise
    return Segment(fd, -1, None, is_new=True)


def leave_nameless(heap: CData, file: os.stat_result) -> None:
    """Remove the semaphore of a nameless heap, closed here, if no process has the heap open."""
    info = inspect_open(lib.ipcheap_heap_file(heap), -1)
    if info is not None and not info.participants and not info.open:
        _kernel.remove_sysv_semaphore(int(info.sem_id), file, "a heap without a name")


# Finding ----------------------------------------------------------------------------------


def find(name: str, deadline: float) -> Segment:
    """Open a heap's segment when it is ready; HeapNotFound at the deadline."""
    nap = SHORTEST_NAP
    while True:
        try:
            segment = _try_find(name)
        except OSError as reason:
            if isinstance(reason, errors.Error):
                raise
            raise explained(reason, label_of(name), _kernel.path_of(name)) from None
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
        segment = _ready(fd, name)
    except BaseException:
        os.close(fd)
        raise
    if segment is None:
        os.close(fd)
    return segment


def _ready(fd: int, name: str) -> Segment | None:
    """Return the segment of an open file, locked; None if there is no heap, or not yet."""
    if lib.ipcheap_formatted(fd, -1) != 1 and State(fd, name, os.fstat(fd)).code == 0:
        return None  # without waiting for its creator
    lock_creation(fd, name, shared=True)
    file = os.fstat(fd)
    if _leads_elsewhere(name, file):
        return None
    state = State(fd, name, file)
    if state.code < 0:
        raise refusal(state.code, fd, state.shmid, name)
    if state.code == 0 or is_half_removed(fd, state):
        return None
    return Segment(fd, state.shmid, name, file=file)


# Removing ---------------------------------------------------------------------------------


def remove(name: str, *, only: os.stat_result | None = None, unused: bool = False) -> None:
    """Remove a heap's name and all its kernel objects; processes that have it open keep it.

    With `only`, remove it if that is the file under the name. HeapNotFound otherwise. With
    `unused`, raise HeapBusy if a process has it open.
    """
    try:
        while True:
            fd = _kernel.open_file(name)
            try:
                with AloneWith(fd, name):
                    if not is_moved(fd, name):
                        _remove_locked(fd, name, only=only, unused=unused)
                        return
            finally:
                os.close(fd)
    except FileNotFoundError as reason:
        if isinstance(reason, errors.Error):
            raise
        raise not_found(name) from None
    except OSError as reason:
        if isinstance(reason, errors.Error):
            raise
        raise explained(reason, label_of(name), _kernel.path_of(name)) from None


def _remove_locked(fd: int, name: str, *, only: os.stat_result | None, unused: bool) -> None:
    if only is not None and not os.path.samestat(os.fstat(fd), only):
        raise not_found(name)
    users = users_of(fd) if unused else ""
    if users:
        raise errors.HeapBusy(
            f"{label_of(name)} is in use by {users}; `ipcheap rm --force` removes it anyway"
        )
    remove_open(fd, name)


def users_of(fd: int) -> str:
    """Return the words for those who have the heap of an open file open; none if nobody has."""
    objects = _kernel.Objects.read(fd)
    shmid = objects.shm_id if objects is not None and objects.is_complete() else -1
    info = inspect_open(fd, shmid)
    if info is None:
        return "a process that has it open" if lib.ipcheap_has_users(fd) else ""
    if info.participants:
        return f"{info.participants} participant{'s' * (info.participants != 1)}"
    return "a process that inherited it by fork" if info.open else ""


def remove_rest(path: str, file: os.stat_result, shmid: int, info: CData) -> None:
    """Remove what is left of a heap whose file has gone by other means, as far as it is known."""
    _remove_named(info, file, path)
    if shmid >= 0:
        _kernel.remove_sysv_segment(shmid, file, path)


def abandon(segment: Segment) -> None:
    """Remove a segment that was just created, and that is still locked."""
    fd, name = segment.fd, segment.name
    if name is None:
        _remove_semaphore(fd, -1, "a heap without a name")
    elif not is_moved(fd, name):
        file, path = os.fstat(fd), _kernel.path_of(name)
        state = State(fd, name, file)
        if state.objects is None:
            _remove_semaphore(fd, state.shmid, path)
        else:
            state.objects.remove(path, file.st_uid)
        _kernel.remove_file(name)


def remove_open(fd: int, name: str) -> None:
    """Remove all that belongs to a heap, whose creation lock the caller holds."""
    file = os.fstat(fd)
    state = State(fd, name, file)
    if state.code < 0:
        raise refusal(state.code, fd, state.shmid, name)
    if state.code == 0:
        _empty(fd, state.objects)
    elif state.objects is None:
        _remove_named(state.info, file, _kernel.path_of(name))
    _remove_leftovers(fd, name, state.objects)
    _kernel.remove_file(name)
    _kernel.remove_pipes(name)  # created meanwhile; from now on its users create none with a name


def _remove_semaphore(fd: int, shmid: int, path: str) -> None:
    """Remove the semaphore that the header of a heap names, unless it is in the heap."""
    info = inspect_open(fd, shmid)
    if info is not None:
        _remove_named(info, os.fstat(fd), path)


def _remove_named(info: CData, file: os.stat_result, path: str) -> None:
    name = text_of(info.sem_name)
    if info.sem_kind == lib.IPCHEAP_SEM_POSIX and name:
        _kernel.remove_posix_semaphore(name, file, path)
    elif info.sem_kind == lib.IPCHEAP_SEM_SYSV:
        _kernel.remove_sysv_semaphore(info.sem_id, file, path)

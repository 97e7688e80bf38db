"""Kernel objects: files, POSIX and System V shared memory and semaphores, and the notes about them.

Everything is looked at before it is opened, changed or removed: only regular files are ever a
heap's. An object is removed only if it is bound to the file that names it, and only if the owner of
that file could have removed it as well. `posix_ipc` and `sysv_ipc` are imported where they are
needed, because neither declares support for free-threaded Python.
"""

from __future__ import annotations

import errno
import os
import stat

from . import errors
from ._core import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from ._core import CData

SHM_FOLDER = "/dev/shm"
PREFIX = "ipcheap."

_MAGIC = b"ipcheap objects 1\n"
_ROOM = 512
_TRIES = 100
_HEX = frozenset("0123456789abcdef")
_SEMAPHORE_ROOM = 256
_ODD = 0x9E3779B97F4A7C15  # spreads inode numbers over keys
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}


class SystemVRefused(OSError):
    """The kernel has made no System V object; which limit was met has to be found out."""

    def __init__(self, what: str, nbytes: int, path: str) -> None:
        super().__init__(errno.ENOSPC, f"no System V {what}", path)
        self.what = what
        self.nbytes = nbytes


class _OSErrors:
    """A context that turns the errors of one of the two packages into OSErrors."""

    def __init__(self, package: ModuleType, path: str) -> None:
        self._package = package
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, self._package.PermissionsError):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), self._path) from None
        if isinstance(error, self._package.ExistentialError):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._path) from None


class _IfThere:
    """Like `_OSErrors`, but an object that does not exist ends the block without an error."""

    def __init__(self, package: ModuleType, path: str) -> None:
        self._errors = _OSErrors(package, path)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        try:
            self._errors.__exit__(kind, error, trace)
        except FileNotFoundError:
            return True
        return False


def locked_memory(it: str) -> MemoryError:
    """Return the exception for a mapping that mlockall() and the limit of locked memory forbid."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return MemoryError(
        f"{it} cannot be mapped: this process locks all its memory (mlockall), and it may lock "
        f"no more than {limit:,} bytes (RLIMIT_MEMLOCK, ulimit -l); raise that limit, or attach "
        "before mlockall()"
    )


class _Unpopulated:
    """A context in which sysv_ipc can attach to a segment without giving all of it memory.

    It does that in a process that has called mlockall(MCL_FUTURE).
    """

    def __init__(self, it: str) -> None:
        self._it = it

    def __enter__(self) -> None:
        self._paused = lib.ipcheap_pause_populating()

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if self._paused:
            lib.ipcheap_resume_populating()
        if isinstance(error, OSError) and error.errno == errno.EAGAIN:
            raise locked_memory(self._it) from None


def unlink(path: str) -> None:
    """Remove a file, if it is there."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def leave(what: str, why: str) -> None:
    """Warn of an object that is left alone because it is not ours to remove."""
    import warnings

    warnings.warn(f"{what} was left alone: {why}", RuntimeWarning, stacklevel=2)


# Files and descriptors ----------------------------------------------------------------------


def high(fd: int) -> int:
    """Return a descriptor of at least 3 in place of that one.

    Programs that close the standard ones, or replace them later, would take ours for them.
    """
    if fd > 2:
        return fd
    import fcntl

    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def open_regular(path: str, flags: int, name: str) -> int:
    """Open a regular file; FormatMismatch for anything else, which is not even opened."""
    _expect_regular(os.lstat(path).st_mode, path, name)
    return _open_still_regular(path, flags, name)


def _open_still_regular(path: str, flags: int, name: str) -> int:
    # Another process may have put something else there meanwhile: nothing that blocks, no link.
    fd = high(os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600))
    try:
        _expect_regular(os.fstat(fd).st_mode, path, name)
    except errors.FormatMismatch:
        os.close(fd)
        raise
    if "/" in name:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # os_touch() in native/src/base/os.c
    return fd


def _expect_regular(mode: int, path: str, name: str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise errors.FormatMismatch(
            f"heap {name!r}: {path} is {kind}, and only regular files are heaps; it was left "
            "untouched"
        )


def path_of(name: str) -> str:
    """Return the path of the file of a heap, given its name or path."""
    return name if "/" in name else f"{SHM_FOLDER}/{PREFIX}{name}"


def open_file(name: str) -> int:
    """Open the file of a heap and return its descriptor; FileNotFoundError if there is none.

    FormatMismatch for anything but a regular file.
    """
    return open_regular(path_of(name), os.O_RDWR, name)


def open_or_make_file(name: str) -> tuple[int, bool]:
    """Open the file of a heap, or make an empty one; the second value is whether it is new."""
    path = path_of(name)
    while True:
        try:
            return open_file(name), False
        except FileNotFoundError:
            pass
        try:
            return make_file(path, name), True
        except FileExistsError:
            pass


def remove_file(name: str) -> None:
    """Remove the file of a heap, if it is there."""
    unlink(path_of(name))


def make_file(path: str, name: str) -> int:
    """Make a file that was not there, and return its descriptor."""
    return _open_still_regular(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, name)


def remove_pipes(name: str) -> None:
    """Remove the pipes beside the file of a heap: native/src/base/pipe.h."""
    for path, _ in pipes(name):
        _remove_pipe(path)


def pipes(name: str) -> list[tuple[str, int]]:
    """Return what may be pipes beside the file of a heap: their paths and the suffixes of these."""
    folder, file = os.path.split(path_of(name))
    try:
        files = os.listdir(folder or ".")
    except FileNotFoundError:
        return []
    found: list[tuple[str, int]] = []
    for entry in files:
        stem, _, suffix = entry.rpartition("~")
        if stem == file and suffix and _HEX.issuperset(suffix):
            found.append((os.path.join(folder, entry), int(suffix, 16)))
    return found


def _remove_pipe(path: str) -> None:
    try:
        if stat.S_ISFIFO(os.lstat(path).st_mode):
            os.unlink(path)
    except (FileNotFoundError, PermissionError):
        pass


# Shared memory and semaphores ---------------------------------------------------------------


def _bound_key(inode: int) -> int:
    """Return a random System V key that belongs to the file of that inode; it may be taken."""
    return _hash_of(inode) << 16 | int.from_bytes(os.urandom(2)) or 1 << 16  # not IPC_PRIVATE


def _hash_of(inode: int) -> int:
    return (inode * _ODD % 2**64) >> 49  # 15 bits


def _bound_name(inode: int) -> str:
    return f"/{PREFIX}{inode:x}-{os.urandom(8).hex()}"


def _is_bound_name(name: str, inode: int) -> bool:
    rest = name.removeprefix(f"/{PREFIX}{inode:x}-")
    return rest != name and len(rest) == 16 and _HEX.issuperset(rest)


def find_sysv(what: str, *, key: int | None = None, id: int = -1) -> CData | None:
    """Return the System V "segment" or "semaphore" of a key or an id; None if there is none."""
    found = ffi.new("ipcheap_sysv *")
    number = id if key is None else key
    if lib.ipcheap_find_sysv(what == "semaphore", key is not None, number, found) == 0:
        return found
    code = ffi.errno
    if code in (errno.ENOENT, errno.EINVAL, errno.EIDRM):
        return None
    raise OSError(code, os.strerror(code), f"System V {what} {number}")


def _remove_sysv(what: str, path: str, inode: int, owner: int, **number: int) -> None:
    """Remove a System V object, if it is there and bound to a file that its owner owns."""
    try:
        found = find_sysv(what, **number)
    except PermissionError:
        leave(f"a System V {what}", f"you may not look at it; {path} names it")
        return
    if found is None or found.key == 0:
        return  # removed: it has lost its key, and is there only for those who are attached
    why = why_not_sysv(what, found, path, inode, owner)
    if why:
        leave(label_of_sysv(what, found), why)
    else:
        _remove_sysv_by_id(what, int(found.id), path)


def label_of_sysv(what: str, found: CData) -> str:
    """Return the words by which messages name a System V object."""
    return f"the System V {what} with key {found.key:#x} and id {found.id}"


def why_not_sysv(what: str, found: CData, path: str, inode: int, *owners: int) -> str:
    """Return why a System V object is not that of the heap whose file has that inode; "" if it is.

    `owners` are the users that it may belong to: the first is the owner of the file.
    """
    if not {found.uid, found.creator}.intersection(owners):
        return _not_owned(found.uid, path, owners[0])
    if found.key >> 16 != _hash_of(inode):
        return f"it was not made for {path}, which names it"
    if what == "segment" and not _is_segment_of(found.id, inode):
        return f"it contains something else than the heap of {path}, which names it"
    return ""


def _not_owned(uid: int, path: str, owner: int) -> str:
    return f"it belongs to user {uid}, and {path}, which names it, to user {owner}"


def _is_segment_of(shmid: int, inode: int) -> bool:
    """Whether a segment has no format yet, or is the heap whose file has that inode.

    Also true if it cannot be looked at, for want of addresses: its key must do.
    """
    info = ffi.new("ipcheap_heap_info *")
    code = lib.ipcheap_inspect(-1, shmid, info)
    if code == 0:
        return bool(info.inode == inode)
    return code in (lib.IPCHEAP_NOT_FORMATTED, lib.IPCHEAP_NO_MEMORY)


def _remove_sysv_by_id(what: str, id: int, path: str) -> None:
    import sysv_ipc

    with _IfThere(sysv_ipc, path), _Unpopulated(f"System V {what} {id}"):
        if what == "segment":
            sysv_ipc.remove_shared_memory(id)
        else:
            sysv_ipc.remove_semaphore(id)


def _make_sysv_segment(key: int, nbytes: int, mode: int, path: str) -> int | None:
    """Create a System V segment; return its id, or None if the key is taken."""
    import sysv_ipc

    # With IPC_CREX the package would write to every byte of it, and so commit all of it.
    if find_sysv("segment", key=key) is not None:
        return None
    with _Unpopulated(f"System V key {key}"):
        try:
            with _OSErrors(sysv_ipc, path):
                segment = sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREAT, mode=mode, size=nbytes)
        except (ValueError, MemoryError, OSError, sysv_ipc.Error) as reason:
            if isinstance(reason, OSError) and reason.errno == errno.EAGAIN:
                raise
            raise SystemVRefused("segment", nbytes, path) from reason
    ours = segment.creator_pid == os.getpid()
    segment.detach()
    return int(segment.id) if ours else None


def _make_sysv_semaphore(key: int, mode: int, path: str) -> int | None:
    """Create a System V semaphore; return its id, or None if the key is taken."""
    import sysv_ipc

    try:
        return int(sysv_ipc.Semaphore(key, sysv_ipc.IPC_CREX, mode=mode).id)
    except sysv_ipc.ExistentialError:
        return None
    except (ValueError, MemoryError, OSError, sysv_ipc.Error) as reason:
        raise SystemVRefused("semaphore", 0, path) from reason


def make_sysv_semaphore(fd: int, label: str) -> int:
    """Create a System V semaphore that is bound to a file; return its id."""
    inode = os.fstat(fd).st_ino
    for _ in range(_TRIES):
        made = _make_sysv_semaphore(_bound_key(inode), 0o600, label)
        if made is not None:
            return made
    raise OSError(errno.EEXIST, "no free System V key found", label)


def remove_sysv_semaphore(semaphore: int, status: os.stat_result, path: str) -> None:
    """Remove a System V semaphore that the header of a heap names, if it is there.

    `status` is that of the heap's file.
    """
    _remove_sysv("semaphore", path, status.st_ino, status.st_uid, id=semaphore)


def remove_sysv_segment(shmid: int, status: os.stat_result, path: str) -> None:
    """Remove the System V segment of a heap, if it is there; `status` is that of its file."""
    _remove_sysv("segment", path, status.st_ino, status.st_uid, id=shmid)


def has_sysv_semaphore(semaphore: int, inode: int) -> bool:
    """Whether there is a System V semaphore of that id, made for the file of that inode."""
    try:
        found = find_sysv("semaphore", id=semaphore)
    except PermissionError:
        return True
    return found is not None and found.key >> 16 == _hash_of(inode)


def semaphore_path(name: str) -> str:
    """Return the path of the file of a POSIX semaphore."""
    return f"{SHM_FOLDER}/sem.{name[1:]}"


def has_posix_semaphore(name: str) -> bool:
    """Whether there is a POSIX semaphore of that name."""
    return os.path.lexists(semaphore_path(name))


def _make_posix_semaphore(name: str, mode: int) -> None:
    """Create a POSIX semaphore.

    sem_open() would first make a file of a random name, which stays behind if the process is
    killed in that moment: nobody could tell whose it was.
    """
    import posix_ipc  # noqa: F401  # now: later there may be no descriptor left to import it with

    content = ffi.new("char[]", _SEMAPHORE_ROOM)
    length = lib.ipcheap_semaphore_bytes(content, _SEMAPHORE_ROOM)
    path = semaphore_path(name)
    fd = make_file(path, name)
    try:
        _write_all(fd, bytes(ffi.buffer(content, length)), path)
        os.fchmod(fd, mode)
    finally:
        os.close(fd)


def remove_posix_semaphore(name: str, status: os.stat_result, path: str) -> None:
    """Remove a POSIX semaphore that the header of a heap names, if it is there."""
    _remove_posix_semaphore(name, path, status.st_ino, status.st_uid)


def _remove_posix_semaphore(name: str, path: str, inode: int, owner: int) -> None:
    try:
        why = why_not_posix_semaphore(name, path, inode, owner)
    except FileNotFoundError:
        return
    if why:
        leave(f"the POSIX semaphore {name!r}", why)
        return
    import posix_ipc

    with _IfThere(posix_ipc, path):
        posix_ipc.unlink_semaphore(name)


def why_not_posix_semaphore(name: str, path: str, inode: int, *owners: int) -> str:
    """Return why a POSIX semaphore is not that of the heap whose file has that inode; "" if it is.

    `owners` are the users that it may belong to: the first is the owner of the file.
    """
    if not _is_bound_name(name, inode):
        return f"it was not made for {path}, which names it"
    found = os.lstat(semaphore_path(name))
    if not stat.S_ISREG(found.st_mode) or found.st_uid not in owners:
        return _not_owned(found.st_uid, path, owners[0])
    return ""


def _write_all(fd: int, content: bytes, path: str) -> None:
    done = 0
    while done < len(content):  # what follows a short write says why it was short
        try:
            written = os.pwrite(fd, content[done:], done)
        except OSError as error:
            if error.errno != errno.EINVAL or done:
                raise
            _write_mapped(fd, content)  # hugetlbfs has no write()
            return
        if written == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        done += written


def _write_mapped(fd: int, text: bytes) -> None:
    import mmap

    nbytes = os.statvfs(fd).f_bsize
    os.ftruncate(fd, nbytes)
    with mmap.mmap(fd, nbytes) as room:
        room[: len(text)] = text


class Objects:
    """The kernel objects of a heap besides its file, written down before they are created.

    So a process that finds a half-made heap can remove what its creator had made before it died.
    The file of a System V heap contains this, and other processes find the heap by the ids in it.
    Keys and names are made from the inode of the heap's file, so that no other file can name them.
    """

    def __init__(
        self,
        inode: int = 0,
        shm_key: int = 0,
        shm_id: int = -1,
        sem_key: int = 0,
        sem_id: int = -1,
        sem_name: str = "",
    ) -> None:
        self.inode = inode
        self.shm_key = shm_key
        self.shm_id = shm_id
        self.sem_key = sem_key
        self.sem_id = sem_id
        self.sem_name = sem_name

    @classmethod
    def chosen(cls, shm: str, sem: str, inode: int) -> Objects:
        """Choose keys and names for a heap in the file of that inode; they may be taken."""
        return cls(
            inode,
            shm_key=_bound_key(inode) if shm == "sysv" else 0,
            sem_key=_bound_key(inode) if sem == "sysv" else 0,
            sem_name=_bound_name(inode) if sem == "posix" else "",
        )

    @classmethod
    def read(cls, fd: int) -> Objects | None:
        """Return the objects that a file lists; None if the file is something else."""
        text = os.pread(fd, _ROOM, 0)
        if not text.startswith(_MAGIC):
            return None
        import json  # most heaps never need it

        try:
            fields: dict[str, Any] = json.loads(text[len(_MAGIC) :])
            objects = cls(**fields)
        except (ValueError, TypeError):
            return None
        return objects if objects._is_valid() else None

    def _is_valid(self) -> bool:
        keys = (self.inode, self.shm_key, self.sem_key)
        numbers = (*keys, self.shm_id, self.sem_id)
        return (
            all(type(number) is int for number in numbers)
            and 0 < self.inode < 2**64
            and all(0 <= key < 2**31 for key in keys[1:])
            and all(-1 <= id < 2**31 for id in numbers[3:])
            and isinstance(self.sem_name, str)
        )

    def write(self, fd: int, path: str) -> None:
        """Write the list in one call, over the previous one."""
        import json

        text = _MAGIC + json.dumps(vars(self)).encode()
        _write_all(fd, text.ljust(_ROOM), path)

    def make(self, nbytes: int, mode: int, path: str) -> bool:
        """Create the objects; return False, with nothing created, if a key is taken."""
        if self.sem_name:
            _make_posix_semaphore(self.sem_name, mode)
        if self.sem_key:
            semaphore = _make_sysv_semaphore(self.sem_key, mode, path)
            if semaphore is None:
                return False  # and its key is the only thing that was chosen, besides a segment's
            self.sem_id = semaphore
        if self.shm_key:
            made_id = _make_sysv_segment(self.shm_key, nbytes, mode, path)
            if made_id is None:
                self.shm_key = 0
                self.remove(path, os.geteuid())
                return False
            self.shm_id = made_id
        return True

    def is_complete(self) -> bool:
        """Whether the System V segment is still there, and still the same one."""
        if self.shm_id < 0:
            return False
        found = find_sysv("segment", key=self.shm_key)
        return found is not None and found.id == self.shm_id

    def remove(self, path: str, owner: int) -> None:
        """Remove those of the objects that exist and belong to `owner`, who owns the list `path`.

        A warning names what is left alone: what has another owner, or was not made for this heap.
        """
        if self.sem_name:
            _remove_posix_semaphore(self.sem_name, path, self.inode, owner)
        if self.sem_key:
            _remove_sysv("semaphore", path, self.inode, owner, key=self.sem_key)
        if self.shm_key:
            _remove_sysv("segment", path, self.inode, owner, key=self.shm_key)


def made(shm: str, sem: str, nbytes: int, mode: int, path: str, fd: int, inode: int) -> Objects:
    """Choose the objects of a heap, write them to the file `fd`, and create them."""
    for _ in range(_TRIES):
        objects = Objects.chosen(shm, sem, inode)
        if not (objects.shm_key or objects.sem_key or objects.sem_name):
            return objects  # the file says by its existence all that there is to say
        objects.write(fd, path)
        try:
            if objects.make(nbytes, mode, path):
                objects.write(fd, path)
                return objects
        except BaseException:
            objects.remove(path, os.fstat(fd).st_uid)
            raise
    raise OSError(errno.EEXIST, "no free System V key found", path)

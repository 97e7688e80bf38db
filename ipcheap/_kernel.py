"""Kernel objects: POSIX and System V shared memory and semaphores, and the notes about them.

`posix_ipc` and `sysv_ipc` create, find and remove them. They are imported where they are needed,
because neither declares support for free-threaded Python.
"""

from __future__ import annotations

import errno
import os
import stat

from ._core import lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

SHM_FOLDER = "/dev/shm"
PREFIX = "ipcheap."

_MAGIC = b"ipcheap objects 1\n"
_ROOM = 512
_TRIES = 100
_HEX = frozenset("0123456789abcdef")


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


# The file under a heap's name ---------------------------------------------------------------


def path_of(name: str) -> str:
    """Return the path of the file of a heap, given its name or path."""
    return name if "/" in name else f"{SHM_FOLDER}/{PREFIX}{name}"


def open_file(name: str, *, create: bool = False) -> int:
    """Open the file of a heap and return its descriptor; FileNotFoundError if there is none."""
    path = path_of(name)
    if "/" in name:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        fd = os.open(path, flags, 0o600)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # os_touch() in native/src/base/os.c
        return fd
    import posix_ipc

    with _OSErrors(posix_ipc, path):
        flags = posix_ipc.O_CREAT if create else 0
        return int(posix_ipc.SharedMemory(f"/{PREFIX}{name}", flags, mode=0o600).fd)


def remove_file(name: str) -> None:
    """Remove the file of a heap, if it is there."""
    if "/" in name:
        unlink(name)
        return
    import posix_ipc

    with _IfThere(posix_ipc, path_of(name)):
        posix_ipc.unlink_shared_memory(f"/{PREFIX}{name}")


def remove_pipes(name: str) -> None:
    """Remove the pipes beside the file of a heap: native/src/base/pipe.h."""
    folder, file = os.path.split(path_of(name))
    try:
        files = os.listdir(folder or ".")
    except FileNotFoundError:
        return
    for entry in files:
        stem, _, suffix = entry.rpartition("~")
        if stem == file and suffix and _HEX.issuperset(suffix):
            _remove_pipe(os.path.join(folder, entry))


def _remove_pipe(path: str) -> None:
    try:
        if stat.S_ISFIFO(os.lstat(path).st_mode):
            os.unlink(path)
    except (FileNotFoundError, PermissionError):
        pass


# Shared memory and semaphores ---------------------------------------------------------------


def _random_key() -> int:
    return int.from_bytes(os.urandom(8)) % (2**31 - 2) + 1  # not IPC_PRIVATE


def find_sysv_segment(key: int) -> int | None:
    """Return the id of the System V segment with a key; None if there is none."""
    import sysv_ipc

    it = f"System V key {key}"
    try:
        with _OSErrors(sysv_ipc, it), _Unpopulated(it):
            segment = sysv_ipc.SharedMemory(key)
    except FileNotFoundError:
        return None
    segment.detach()
    return int(segment.id)


def _make_sysv_segment(key: int, nbytes: int, mode: int, path: str) -> int | None:
    """Create a System V segment; return its id, or None if the key is taken."""
    import sysv_ipc

    # With IPC_CREX the package would write to every byte of it, and so commit all of it.
    with _OSErrors(sysv_ipc, path):
        if find_sysv_segment(key) is not None:
            return None
        with _Unpopulated(path):
            segment = sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREAT, mode=mode, size=nbytes)
    ours = segment.creator_pid == os.getpid()
    segment.detach()
    return int(segment.id) if ours else None


def make_sysv_semaphore(path: str) -> int:
    """Create a System V semaphore with a key of its own; return its id."""
    import sysv_ipc

    with _OSErrors(sysv_ipc, path):
        return int(sysv_ipc.Semaphore(None, sysv_ipc.IPC_CREX, mode=0o600).id)


def remove_sysv_semaphore(semaphore: int, path: str) -> None:
    """Remove a System V semaphore, if it is there."""
    import sysv_ipc

    with _IfThere(sysv_ipc, path):
        sysv_ipc.remove_semaphore(semaphore)


def has_posix_semaphore(name: str) -> bool:
    """Whether there is a POSIX semaphore of that name."""
    return os.path.exists(f"{SHM_FOLDER}/sem.{name[1:]}")


def remove_posix_semaphore(name: str, path: str) -> None:
    """Remove a POSIX semaphore, if it is there."""
    import posix_ipc

    with _IfThere(posix_ipc, path):
        posix_ipc.unlink_semaphore(name)


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
    """

    def __init__(
        self,
        shm_key: int = 0,
        shm_id: int = -1,
        sem_key: int = 0,
        sem_id: int = -1,
        sem_name: str = "",
    ) -> None:
        self.shm_key = shm_key
        self.shm_id = shm_id
        self.sem_key = sem_key
        self.sem_id = sem_id
        self.sem_name = sem_name

    @classmethod
    def chosen(cls, shm: str, sem: str) -> Objects:
        """Choose random keys and names, which are unlikely to be taken."""
        return cls(
            shm_key=_random_key() if shm == "sysv" else 0,
            sem_key=_random_key() if sem == "sysv" else 0,
            sem_name=f"/{PREFIX}{os.urandom(16).hex()}" if sem == "posix" else "",
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
            return cls(**fields)
        except (ValueError, TypeError):
            return None

    def write(self, fd: int) -> None:
        """Write the list in one call, over the previous one."""
        import json

        text = (_MAGIC + json.dumps(vars(self)).encode()).ljust(_ROOM)
        try:
            os.pwrite(fd, text, 0)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            _write_mapped(fd, text)  # hugetlbfs has no write()

    def make(self, nbytes: int, mode: int, path: str) -> bool:
        """Create the objects; return False, with nothing created, if a key is taken."""
        if self.sem_name:
            import posix_ipc

            with _OSErrors(posix_ipc, path):
                made = posix_ipc.Semaphore(self.sem_name, posix_ipc.O_CREX, mode=mode)
                made.close()
            os.chmod(f"{SHM_FOLDER}/sem.{self.sem_name[1:]}", mode)
        if self.sem_key:
            import sysv_ipc

            try:
                semaphore = sysv_ipc.Semaphore(self.sem_key, sysv_ipc.IPC_CREX, mode=mode)
            except sysv_ipc.ExistentialError:
                return False  # it exists
            self.sem_id = int(semaphore.id)
        if self.shm_key:
            made_id = _make_sysv_segment(self.shm_key, nbytes, mode, path)
            if made_id is None:
                self.shm_key = 0
                self.remove(path)
                return False
            self.shm_id = made_id
        return True

    def is_complete(self) -> bool:
        """Whether the System V segment is still there, and still the same one."""
        return self.shm_id >= 0 and find_sysv_segment(self.shm_key) == self.shm_id

    def remove(self, path: str) -> None:
        """Remove those of the objects that exist."""
        if self.sem_name:
            remove_posix_semaphore(self.sem_name, path)
        if self.sem_key:
            import sysv_ipc

            with _IfThere(sysv_ipc, path):
                sysv_ipc.Semaphore(self.sem_key).remove()
        if self.shm_key:
            import sysv_ipc

            with _IfThere(sysv_ipc, path), _Unpopulated(path):
                segment = sysv_ipc.SharedMemory(self.shm_key)
                segment.detach()
                segment.remove()


def made(shm: str, sem: str, nbytes: int, mode: int, path: str, fd: int) -> Objects:
    """Choose the objects of a heap, write them to the file `fd`, and create them."""
    for _ in range(_TRIES):
        objects = Objects.chosen(shm, sem)
        if not (objects.shm_key or objects.sem_key or objects.sem_name):
            return objects  # the file says by its existence all that there is to say
        objects.write(fd)
        if objects.make(nbytes, mode, path):
            objects.write(fd)
            return objects
    raise OSError(errno.EEXIST, "no free System V key found", path)

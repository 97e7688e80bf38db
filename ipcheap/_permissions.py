"""Permissions: the mode, owner and group of everything in the kernel that a heap consists of.

Nothing is changed before all of it has been found, and found to be the heap's. What must not be
reached too early is changed in the order that keeps it closed: memory loses rights first and gets
rights last. If the kernel refuses a step, what was done before is undone.
"""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace

from . import _arguments, _kernel, _segments, errors
from ._core import ffi, lib
from ._failures import explained
from ._native import text_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ._core import CData

_LARGEST_ID = 2**32 - 2  # of a user or a group: the next number means "unchanged"
_NAMELESS = "a heap without a name"


def chmod(name: str, mode: int) -> None:
    """Give all kernel objects of a heap that mode; a process that has the heap open keeps it.

    `mode` is what `Heap.create` takes. PermissionError for all except the owner of the heap and
    root. HeapNotFound if there is no heap of that name, and FormatMismatch if its file, or an
    object that its file names, is not the heap's. Whatever is raised, nothing has changed, unless
    the text says so. HeapBusy if another process is creating or removing the heap.
    """
    mode = _arguments.file_mode(mode)
    with _named(_arguments.heap_name(name)) as things:
        things.chmod(mode)


def chown(name: str, user: int | str | None = None, group: int | str | None = None) -> None:
    """Give all kernel objects of a heap to a user, a group or both; None leaves one as it is.

    Both are names or numbers; LookupError if there is none of that name. Only root may change the
    user. The owner may change the group to one that it belongs to. A process that has the heap open
    keeps it. Errors are those of `chmod`.
    """
    uid, gid = _accounts(user, group)
    with _named(_arguments.heap_name(name)) as things:
        things.chown(uid, gid)


def chmod_open(name: str | None, file: os.stat_result, fd: int, info: CData, mode: int) -> None:
    """Do the same for a heap that this process has open: by name or, if it has none, by `fd`."""
    mode = _arguments.file_mode(mode)
    with _named(name, file) if name is not None else _nameless(fd, info) as things:
        things.chmod(mode)


def chown_open(
    name: str | None,
    file: os.stat_result,
    fd: int,
    info: CData,
    user: int | str | None,
    group: int | str | None,
) -> os.stat_result:
    """Do the same, and return what fstat() says of the file afterwards."""
    uid, gid = _accounts(user, group)
    with _named(name, file) if name is not None else _nameless(fd, info) as things:
        things.chown(uid, gid)
    return os.fstat(fd)


# Users and groups ---------------------------------------------------------------------------


def _accounts(user: int | str | None, group: int | str | None) -> tuple[int | None, int | None]:
    if user is None and group is None:
        raise ValueError("user, group or both must be given")
    return (
        None if user is None else _account(user, "user"),
        None if group is None else _account(group, "group"),
    )


def _account(value: int | str, what: str) -> int:
    """Return the number of a user or a group; a string of digits is a number if it is no name."""
    if not isinstance(value, str):
        number = _arguments.whole_number(value, what)
    else:
        found = _number_of_user(value) if what == "user" else _number_of_group(value)
        if found is None and not (value.isascii() and value.isdigit()):
            raise LookupError(f"there is no {what} {value!r} on this system")
        number = int(value) if found is None else found
    if not 0 <= number <= _LARGEST_ID:
        raise ValueError(f"{what} must be a number from 0 to {_LARGEST_ID}, not {number}")
    return number


def _number_of_user(name: str) -> int | None:
    import pwd

    with suppress(KeyError, ValueError):  # a name that contains a NUL is a ValueError
        return pwd.getpwnam(name).pw_uid
    return None


def _number_of_group(name: str) -> int | None:
    import grp

    with suppress(KeyError, ValueError):
        return grp.getgrnam(name).gr_gid
    return None


# Objects ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rights:
    """The owner, the group and the permission bits of a kernel object."""

    uid: int
    gid: int
    mode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Rights:
        """Return those of a file."""
        return cls(status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


class _File:
    """A file that is open."""

    def __init__(self, label: str, fd: int) -> None:
        self.label = label
        self._fd = fd
        self.rights = Rights.of(os.fstat(fd))

    def give(self, rights: Rights) -> None:
        now = self.rights
        try:
            if (now.uid, now.gid) != (rights.uid, rights.gid):
                os.fchown(self._fd, rights.uid, rights.gid)
            if now.mode != rights.mode:
                os.fchmod(self._fd, rights.mode)
        finally:  # half of it may be done
            self.rights = Rights.of(os.fstat(self._fd))


class _SystemV:
    """A System V segment or semaphore."""

    def __init__(self, what: str, found: CData) -> None:
        self.label = _kernel.label_of_sysv(what, found)
        self._is_semaphore = what == "semaphore"
        self._id = int(found.id)
        self.rights = Rights(int(found.uid), int(found.gid), int(found.mode))

    def give(self, rights: Rights) -> None:
        wanted = ffi.new("ipcheap_sysv *")
        wanted.id, wanted.uid, wanted.gid = self._id, rights.uid, rights.gid
        wanted.mode = rights.mode & 0o777
        if lib.ipcheap_permit_sysv(self._is_semaphore, wanted):
            raise OSError(ffi.errno, os.strerror(ffi.errno), self.label)
        self.rights = rights


class _Changes:
    """What was changed, so that it can be undone."""

    def __init__(self) -> None:
        self._done: list[tuple[_File | _SystemV, Rights]] = []

    def give(self, it: _File | _SystemV, rights: Rights) -> None:
        if rights != it.rights:
            self._done.append((it, it.rights))
            it.give(rights)

    def undo(self) -> list[str]:
        """Undo all of it, the last step first; return what could not be undone."""
        left: list[str] = []
        while self._done:
            it, before = self._done.pop()
            try:
                if it.rights != before:
                    it.give(before)
            except OSError:
                left.append(it.label)
        return left


class _Things:
    """The kernel objects of one heap: file, System V segment, semaphore and pipes."""

    def __init__(self, label: str, path: str, fd: int, info: CData, name: str | None) -> None:
        self._label = label
        self._path = path
        self._fd = fd
        self._info = info
        self._name = name
        self._file = _File(path, fd)
        self._inode = os.fstat(fd).st_ino
        self._open = ExitStack()
        self._segment: _SystemV | None = None
        self._semaphore: _File | _SystemV | None = None

    def close(self) -> None:
        """Close what was opened to be changed."""
        self._open.close()

    def chmod(self, mode: int) -> None:
        """Give all of them that mode."""
        self._change(lambda changes: self._chmod(changes, mode), self._file.rights.uid)

    def chown(self, uid: int | None, gid: int | None) -> None:
        """Give all of them to that user and that group."""
        wanted = self._file.rights
        if uid is not None:
            wanted = replace(wanted, uid=uid)
        if gid is not None:
            wanted = replace(wanted, gid=gid)
        self._change(lambda changes: self._chown(changes, wanted), wanted.uid)

    def _change(self, act: Callable[[_Changes], None], new_owner: int) -> None:
        before, changes = self._file.rights, _Changes()
        try:
            os.fchmod(self._fd, before.mode)  # may we at all?
            self._find(before.uid, new_owner, int(self._info.shm_kind), int(self._info.sem_kind))
            act(changes)
        except BaseException as reason:
            left = changes.undo()
            if isinstance(reason, OSError) and not isinstance(reason, errors.Error):
                raise self._refused(reason, before.uid, left) from None
            raise
        self._change_pipes(before.uid)

    def _chmod(self, changes: _Changes, mode: int) -> None:
        memory: list[_File | _SystemV] = [self._file]
        if self._segment is not None:
            memory.append(self._segment)
        for it in reversed(memory):
            changes.give(it, replace(it.rights, mode=it.rights.mode & mode))
        if self._semaphore is not None:
            changes.give(self._semaphore, replace(self._semaphore.rights, mode=mode))
        for it in memory:
            changes.give(it, replace(it.rights, mode=mode))

    def _chown(self, changes: _Changes, wanted: Rights) -> None:
        _try_to_give(self._file.rights, wanted)
        # The file last: until then the owner of the others is known by it, and it can be repeated.
        everything: list[_File | _SystemV | None] = [self._semaphore, self._segment, self._file]
        for it in everything:
            if it is not None:
                changes.give(it, replace(it.rights, uid=wanted.uid, gid=wanted.gid))

    # Finding them -------------------------------------------------------------------------

    def _find(self, owner: int, new_owner: int, shm_kind: int, sem_kind: int) -> None:
        """Find all objects except pipes; FormatMismatch if one of them is not this heap's.

        They may belong to the new owner already: a process was killed while it did the same.
        """
        if shm_kind == lib.IPCHEAP_SHM_SYSV:
            objects = _kernel.Objects.read(self._fd)
            if objects is not None:
                self._segment = self._find_sysv("segment", objects.shm_id, owner, new_owner)
        if sem_kind == lib.IPCHEAP_SEM_SYSV:
            number = int(self._info.sem_id)
            self._semaphore = self._find_sysv("semaphore", number, owner, new_owner)
        elif sem_kind == lib.IPCHEAP_SEM_POSIX:
            name = text_of(self._info.sem_name)
            if name:  # otherwise it lies in the memory
                self._semaphore = self._find_posix_semaphore(name, owner, new_owner)

    def _find_sysv(self, what: str, number: int, *owners: int) -> _SystemV | None:
        found = _kernel.find_sysv(what, id=number)
        if found is None or found.key == 0:
            return None  # removed by other means, or in another IPC namespace
        it = _SystemV(what, found)
        self._expect_ours(
            it.label, _kernel.why_not_sysv(what, found, self._path, self._inode, *owners)
        )
        return it

    def _find_posix_semaphore(self, name: str, *owners: int) -> _File:
        label = f"the POSIX semaphore {name!r}"
        why = _kernel.why_not_posix_semaphore(name, self._path, self._inode, *owners)
        self._expect_ours(label, why)
        fd = _kernel.open_regular(_kernel.semaphore_path(name), os.O_RDONLY, name)
        self._open.callback(os.close, fd)
        it = _File(label, fd)
        if it.rights.uid not in owners or os.fstat(fd).st_nlink > 1:
            self._expect_ours(label, "it has been replaced, or has a second name")
        return it

    def _expect_ours(self, label: str, why: str) -> None:
        if why:
            raise errors.FormatMismatch(
                f"{self._label}: {label} was left untouched, as was all else: {why}"
            )

    def _refused(self, reason: OSError, owner: int, left: list[str]) -> OSError:
        if isinstance(reason, PermissionError):
            text = (
                f"{self._label} belongs to user {owner}, and only that user and root may change "
                "its permissions; only root may give it to another user, or to a group that its "
                f"owner is not in ({os.strerror(reason.errno or 0)})"
            )
        else:
            text = explained(reason, self._label, self._path).strerror or str(reason)
        if left:
            text += f"; changed, and not to be set back: {', '.join(left)}"
        else:
            text += "; nothing has changed"
        return OSError(reason.errno, text, self._path)

    # Pipes --------------------------------------------------------------------------------

    def _change_pipes(self, old_owner: int) -> None:
        """Let those ring who may open the heap now; a warning names the pipes that are left alone.

        After the file: a process that makes a pipe meanwhile looks at the file once more.
        """
        if self._name is None:
            return
        nbytes = int(lib.ipcheap_segment_bytes(self._info.capacity))
        for path, suffix in _kernel.pipes(self._name):
            # native/src/channel/wake.h: the suffix says which part of this heap it belongs to
            if (suffix - int(self._info.identity)) % 2**64 < nbytes:
                self._change_pipe(path, old_owner)

    def _change_pipe(self, path: str, old_owner: int) -> None:
        try:
            fd = _kernel.high(os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC))
        except FileNotFoundError:
            return
        try:
            status = os.fstat(fd)
            if not stat.S_ISFIFO(status.st_mode) or status.st_nlink > 1:
                return
            # A participant that is not the owner keeps its pipes, so that it can remove them.
            if lib.ipcheap_permit_pipe(fd, self._fd, old_owner):
                _kernel.leave(
                    f"the pipe {path}",
                    f"it belongs to user {status.st_uid} ({os.strerror(ffi.errno)}); processes "
                    "that the new permissions let in cannot notify its descriptor",
                )
        finally:
            os.close(fd)


def _try_to_give(now: Rights, wanted: Rights) -> None:
    """Raise PermissionError if this process may not give its own files to that user and group."""
    if now == wanted:
        return
    fd = os.memfd_create("ipcheap-permissions", os.MFD_CLOEXEC)
    try:
        uid = -1 if wanted.uid == now.uid else wanted.uid
        gid = -1 if wanted.gid == now.gid else wanted.gid
        os.fchown(fd, uid, gid)
    finally:
        os.close(fd)


# Heaps --------------------------------------------------------------------------------------


@contextmanager
def _named(name: str, only: os.stat_result | None = None) -> Iterator[_Things]:
    """Find a heap, and keep its creation lock; with `only`, if that is the file under the name."""
    fd = _open_locked(name)
    try:
        with closing(_things_of(fd, name, only)) as things:
            yield things
    finally:
        lib.ipcheap_unlock_creation(fd)  # a forked child may have the descriptor, too
        os.close(fd)


def _open_locked(name: str) -> int:
    """Open the file under that name, and take its creation lock."""
    while True:
        try:
            fd = _kernel.open_file(name)
        except FileNotFoundError:
            raise _segments.not_found(name) from None
        except OSError as reason:
            raise explained(reason, _segments.label_of(name), _kernel.path_of(name)) from None
        try:
            _segments.lock_creation(fd, name)
            if not _segments.is_moved(fd, name):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _things_of(fd: int, name: str, only: os.stat_result | None) -> _Things:
    file, path = os.fstat(fd), _kernel.path_of(name)
    state = _segments.State(fd, name, file)
    if state.code < 0:
        raise _segments.refusal(state.code, fd, state.shmid, name)
    is_another = only is not None and not os.path.samestat(file, only)
    if is_another or state.code == 0 or _segments.is_half_removed(fd, state):
        raise _segments.not_found(name)
    if file.st_nlink > 1:
        raise errors.FormatMismatch(
            f"{_segments.label_of(name)}: {path} has {file.st_nlink} names (hard links), and may "
            "be meant by another one; it was left untouched"
        )
    return _Things(_segments.label_of(name), path, fd, state.info, name)


@contextmanager
def _nameless(fd: int, info: CData) -> Iterator[_Things]:
    with closing(_Things(_NAMELESS, _NAMELESS, fd, info, None)) as things:
        yield things

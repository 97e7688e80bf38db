"""chmod and chown change all kernel objects of a heap, for its owner and root only, or nothing."""

from __future__ import annotations

import contextlib
import errno
import grp
import importlib
import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kinds
import peers
import pytest

import ipcheap
from ipcheap import _kernel, _permissions, _segments
from ipcheap.tools import doctor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")
EVERY = pytest.mark.parametrize("kind", kinds.ALL, ids=str)
NAMED = pytest.mark.parametrize("kind", kinds.NAMED, ids=str)

ALICE, BOB, CAROL = 61001, 61002, 61003
CREW = 61010

Rights = tuple[int, int, int]


def rights_of(status: os.stat_result) -> Rights:
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def objects(heap: ipcheap.Heap) -> dict[str, Rights]:
    """Return mode, owner and group of each kernel object of a heap, as the system says them."""
    found: dict[str, Rights] = {}
    if heap.name is None:
        file = os.fstat(heap._handle.file())
        found["file"] = rights_of(file)
    else:
        path = Path(_kernel.path_of(heap.name))
        file = path.stat()
        for entry in path.parent.iterdir():
            if entry == path or entry.name.startswith(f"{path.name}~"):
                found["file" if entry == path else entry.name] = rights_of(entry.stat())
    semaphore = Path(f"/dev/shm/sem.ipcheap.{file.st_ino:x}")
    for entry in semaphore.parent.glob(f"{semaphore.name}-*"):
        found["semaphore"] = rights_of(entry.stat())
    for what, number in (("shm", heap._shmid), ("sem", heap._info.sem_id)):
        heads, *lines = (
            line.split() for line in Path("/proc/sysvipc", what).read_text().splitlines()
        )
        for line in lines:
            row = dict(zip(heads, line, strict=True))
            if int(row[f"{what}id"]) == number and _kernel._hash_of(file.st_ino) == (
                int(row["key"]) >> 16
            ):
                found[what] = int(row["perms"], 8) & 0o777, int(row["uid"]), int(row["gid"])
    return found


def expected(kind: kinds.Kind, *, pipes: bool = False) -> int:
    """Return how many kernel objects a heap of that kind has."""
    beside = kind.sem == "sysv" or (kind.sem == "posix" and kind.shm != "memfd")
    return 1 + (kind.shm == "sysv") + beside + (pipes and kind.shm != "memfd")


def as_user(
    uid: int, act: Callable[..., Any], *args: object, gid: int | None = None, groups: Any = ()
) -> Any:
    """Call a function in a forked child of that user; return its result, or the error's name."""
    with peers.run_by("fork", _act_as, uid, uid if gid is None else gid, groups, act, args) as peer:
        return peer.result()


def become(uid: int, gid: int, groups: Any = ()) -> None:
    """Be that user from now on, to whom the interpreter's own modules may be out of reach."""
    for module in ("ipcheap._limits", "json", "posix_ipc", "resource", "sysv_ipc"):
        importlib.import_module(module)
    os.setgroups(groups)
    os.setgid(gid)
    os.setuid(uid)


def _act_as(uid: int, gid: int, groups: Any, act: Callable[..., Any], args: Any) -> Any:
    become(uid, gid, groups)
    try:
        return act(*args)
    except Exception as error:
        return type(error).__name__, str(error)


def attaches(name: str) -> bool:
    """Whether this process may attach; it must work if it does."""
    try:
        with ipcheap.Heap.attach(name) as heap:
            heap.allocate_record(300_000).free()
        return True
    except PermissionError:
        return False


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Return a folder into which every user may go."""
    folder = Path(f"/tmp/ipcheap-{os.getpid()}-{tmp_path.name}")
    folder.mkdir()
    folder.chmod(0o1777)
    yield folder
    shutil.rmtree(folder)


# What is changed ------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("way", ["name", "heap"])
def test_chmod_changes_every_object(
    kind: kinds.Kind, way: str, heap_name: str, place: Path
) -> None:
    with kinds.made(kind, heap_name, place, "1MiB") as heap:
        heap.add_record_channel("c", 4)
        with heap.consumer("c") as consumer:
            consumer.fileno()
            for mode in (0o660, 0o606, 0o600, 0o777, 0o640):
                if way == "heap" or heap.name is None:
                    heap.chmod(mode)
                else:
                    ipcheap.chmod(heap.name, mode)
                seen = objects(heap)
                assert len(seen) == expected(kind, pipes=True)
                for name, (now, *_) in seen.items():
                    assert now == (mode & 0o666 if "~" in name else mode), name
        assert heap.check() == []


@ROOT
@EVERY
@pytest.mark.parametrize("way", ["name", "heap"])
def test_chown_changes_every_object(
    kind: kinds.Kind, way: str, heap_name: str, place: Path
) -> None:
    with kinds.made(kind, heap_name, place, "1MiB", mode=0o640) as heap:
        heap.add_record_channel("c", 4)
        with heap.consumer("c") as consumer:
            consumer.fileno()
            before = objects(heap)
            owners = before["file"][1:]
            for user, group in ((ALICE, None), (None, CREW), (BOB, CAROL), (0, 0)):
                if way == "heap" or heap.name is None:
                    heap.chown(user, group)
                else:
                    ipcheap.chown(heap.name, user, group)
                owners = (
                    owners[0] if user is None else user,
                    owners[1] if group is None else group,
                )
                seen = objects(heap)
                assert seen.keys() == before.keys()
                for name, (mode, *now) in seen.items():
                    assert tuple(now) == owners, name
                    assert mode == before[name][0]
        assert heap.check() == []


@ROOT
@NAMED
def test_what_belongs_to_another_user_is_removed_whole(
    kind: kinds.Kind, heap_name: str, place: Path
) -> None:
    with kinds.made(kind, heap_name, place, "1MiB") as heap:
        heap.chown(ALICE, CREW)
        heap.chown(BOB)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            heap.unlink()
        inode = heap._file.st_ino
        key = _kernel._hash_of(inode)
        assert not list(Path("/dev/shm").glob(f"sem.ipcheap.{inode:x}-*"))
        for what in ("shm", "sem"):
            for line in Path("/proc/sysvipc", what).read_text().splitlines()[1:]:
                nattch = line.split()[6] if what == "shm" else "0"
                assert int(line.split()[0]) >> 16 != key or nattch != "0"


@ROOT
@pytest.mark.parametrize("sem", ["posix", "sysv"])
def test_the_semaphore_is_removed_although_the_file_is_gone(sem: str, heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB", sem=sem) as heap:
        heap.chown(ALICE, CREW)
        os.unlink(_kernel.path_of(heap_name))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ipcheap.HeapNotFound):
                heap.unlink()
        assert not list(Path("/dev/shm").glob(f"sem.ipcheap.{heap._file.st_ino:x}-*"))
        assert sem == "posix" or _kernel.find_sysv("semaphore", id=heap._info.sem_id) is None


@ROOT
def test_names_and_numbers_are_understood(heap_name: str) -> None:
    user = next(entry for entry in pwd.getpwall() if entry.pw_uid not in (0, os.getuid()))
    group = next(entry for entry in grp.getgrall() if entry.gr_gid != 0)
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        for way in (str, int):
            heap.chown(0, 0)
            heap.chown(
                user.pw_name if way is str else user.pw_uid,
                group.gr_name if way is str else group.gr_gid,
            )
            assert objects(heap)["file"][1:] == (user.pw_uid, group.gr_gid)
        heap.chown("61001", group="61010")  # digits that are no name
        assert objects(heap)["file"][1:] == (ALICE, CREW)
        (info,) = [info for info in ipcheap.heaps() if info.name == heap_name]
        assert (info.mode & 0o777, info.uid, info.gid) == (0o600, ALICE, CREW)
        heap.unlink()


def test_what_cannot_be_meant_is_refused(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        before = objects(heap)
        for mode in (0o400, 0o066, 0o1600, -1, 0):
            with pytest.raises(ValueError, match="mode must"):
                heap.chmod(mode)
            with pytest.raises(ValueError, match="mode must"):
                ipcheap.chmod(heap_name, mode)
        for wrong in ("600", 6.0, None, True):
            with pytest.raises(TypeError, match="mode must be an integer"):
                heap.chmod(wrong)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="user, group or both"):
            heap.chown()
        with pytest.raises(LookupError, match="no user 'nobody-here'"):
            heap.chown("nobody-here")
        with pytest.raises(LookupError, match="no group 'no\\\\x00where'"):
            heap.chown(group="no\0where")
        for number in (-1, 2**32 - 1, str(2**32)):
            with pytest.raises(ValueError, match="user must be a number"):
                heap.chown(number)
        with pytest.raises(TypeError, match="group must be an integer"):
            heap.chown(group=1.5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        assert objects(heap) == before
        heap.unlink()


def test_the_listing_shows_mode_and_owner(heap_name: str) -> None:
    owner = pwd.getpwuid(os.getuid()).pw_name
    group = grp.getgrgid(os.getgid()).gr_name
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.chmod(0o660)
        command = Path(sys.executable).with_name("ipcheap")
        listed = subprocess.run([command, "ls"], capture_output=True, text=True, check=True).stdout
        (line,) = [line for line in listed.splitlines() if line.startswith(f"{heap_name} ")]
        assert f"0660  {owner}:{group}" in line
        seen = doctor.as_json(doctor.examine(heap_name))
        assert (seen["mode"], seen["owner"]) == ("0660", f"{owner}:{group}")
        heap.unlink()


# Those that may do it --------------------------------------------------------------------------


@ROOT
@NAMED
def test_only_the_owner_and_root_may(kind: kinds.Kind, heap_name: str, place: Path) -> None:
    with kinds.made(kind, heap_name, place, "1MiB", mode=0o666) as heap:
        heap.chown(ALICE, CREW)
        before = objects(heap)
        name = heap.name
        for act, *args in (
            (ipcheap.chmod, name, 0o600),
            (ipcheap.chown, name, BOB),
            (ipcheap.chown, name, None, BOB),
            (heap.chmod, 0o600),
            (heap.chown, BOB),
        ):
            kind_of_error, text = as_user(BOB, act, *args)
            assert kind_of_error == "PermissionError"
            assert f"belongs to user {ALICE}" in text
            assert "nothing has changed" in text
            assert objects(heap) == before
        for user in (BOB, 0):  # the owner may not give it away
            assert as_user(ALICE, ipcheap.chown, name, user)[0] == "PermissionError"
            assert objects(heap) == before
        assert as_user(ALICE, ipcheap.chown, name, None, BOB)[0] == "PermissionError"
        assert objects(heap) == before
        assert as_user(ALICE, ipcheap.chown, name, ALICE, BOB, groups=(BOB,)) is None
        assert as_user(ALICE, ipcheap.chmod, name, 0o660) is None
        seen = set(objects(heap).values())
        assert seen == {(0o660, ALICE, BOB)}


@ROOT
@pytest.mark.parametrize("sem", ["futex", "sysv"])
def test_its_creator_has_no_say_after_it_was_given_away(sem: str, heap_name: str) -> None:
    """The kernel would let the creator of a System V object change it."""
    as_user(CAROL, _create_sysv, heap_name, sem)
    try:
        with ipcheap.Heap.attach(heap_name) as heap:
            heap.chown(ALICE)
            heap.chmod(0o600)
            before = objects(heap)
            assert as_user(CAROL, ipcheap.chmod, heap_name, 0o660)[0] == "PermissionError"
            assert objects(heap) == before
            assert not as_user(CAROL, attaches, heap_name)
            assert as_user(ALICE, attaches, heap_name)
    finally:
        ipcheap.unlink(heap_name)


def _create_sysv(name: str, sem: str) -> None:
    ipcheap.Heap.create(name, "1MiB", shm="sysv", sem=sem, mode=0o666).close()


@ROOT
@NAMED
def test_whom_the_mode_lets_in_gets_in_and_nobody_else(
    kind: kinds.Kind, heap_name: str, place: Path
) -> None:
    with kinds.made(kind, heap_name, place, "1MiB") as heap:
        assert heap.name is not None

        def users() -> list[bool]:
            return [
                as_user(ALICE, attaches, heap.name),
                as_user(BOB, attaches, heap.name, groups=(CREW,)),
                as_user(CAROL, attaches, heap.name),
            ]

        assert users() == [False, False, False]
        heap.chown(ALICE, CREW)
        assert users() == [True, False, False]
        heap.chmod(0o660)
        assert users() == [True, True, False]
        heap.chmod(0o666)
        assert users() == [True, True, True]
        heap.chmod(0o600)
        assert users() == [True, False, False]


@ROOT
@EVERY
def test_a_process_that_has_it_open_keeps_it(kind: kinds.Kind, heap_name: str, place: Path) -> None:
    with kinds.made(kind, heap_name, place, "64MiB", mode=0o666) as heap:
        heap.add_record_channel("there", 4)
        heap.add_record_channel("back", 4)
        with (
            peers.run_by("fork", _serve_as, CAROL, heap) as peer,
            heap.producer("there") as producer,
            heap.consumer("back") as consumer,
        ):
            assert consumer.recv(timeout=peers.PATIENCE) == b"ready"
            heap.chown(ALICE, CREW)
            heap.chmod(0o600)
            for number in range(20):
                producer.send(b"%d" % number)
                heap.allocate_record(
                    3_000_000
                ).free()  # which takes the heap lock, as the peer does
                assert consumer.recv(timeout=peers.PATIENCE) == b"%d" % number
            producer.send(b"")
            assert peer.result() == []
        assert heap.check() == []


def _contend(heap: ipcheap.Heap) -> None:
    for _ in range(5):
        heap.allocate_record(2_000_000).free()


def _serve_as(uid: int, heap: ipcheap.Heap) -> list[str]:
    become(uid, uid)
    with heap.consumer("there") as inbox, heap.producer("back") as outbox:
        outbox.send(b"ready")
        while message := inbox.recv(timeout=peers.PATIENCE):
            thread = threading.Thread(target=_contend, args=(heap,))  # another participant
            thread.start()
            _contend(heap)
            thread.join()
            outbox.send(message)
    return heap.check()


# Descriptors ----------------------------------------------------------------------------------


@ROOT
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("way", ["owner", "group", "others"])
@pytest.mark.parametrize("shm", ["posix", "file", "sysv"])
def test_a_new_user_notifies_the_descriptors_of_the_old(
    shm: str, way: str, when: str, heap_name: str, place: Path
) -> None:
    """The pipe is that of a process of another user, which is not in the heap's group."""
    kind = kinds.Kind(shm, "futex")
    with kinds.made(kind, heap_name, place, "1MiB", mode=0o600) as heap:
        heap.add_record_channel("c", 4)
        hear, tell = os.pipe()
        with peers.run_by("fork", _poll_as, CAROL, heap, hear) as poller:
            if when == "before":
                os.write(tell, b"!")
                assert poller.hear() == "polling"
            if way == "owner":
                heap.chown(BOB)
            else:
                heap.chown(ALICE, CREW)
                heap.chmod(0o660 if way == "group" else 0o606)
            if when == "after":
                os.write(tell, b"!")
                assert poller.hear() == "polling"
            groups = (CREW,) if way == "group" else ()
            assert as_user(BOB, _send, heap.name, groups=groups) is None
            assert poller.result() == b"hello"
        os.close(hear)
        os.close(tell)
        assert not [name for name in objects(heap) if "~" in name], "it could not remove its pipe"


def _poll_as(uid: int, heap: ipcheap.Heap, go: int) -> bytes:
    become(uid, uid)
    with heap.consumer("c") as consumer:
        os.read(go, 1)
        watched = consumer.fileno()
        peers.say("polling")
        while True:  # it is also readable when a producer comes
            assert select.select([watched], [], [], peers.PATIENCE)[0]
            with contextlib.suppress(TimeoutError):
                return consumer.recv(timeout=0)


def _send(name: str) -> None:
    with ipcheap.Heap.attach(name) as heap, heap.producer("c") as producer:
        producer.send(b"hello")


@ROOT
def test_a_pipe_of_roots_process_belongs_to_the_owner_of_the_heap(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB", mode=0o640) as heap:
        heap.add_record_channel("c", 4)
        heap.chown(ALICE, CREW)
        with heap.consumer("c") as consumer:
            watched = consumer.fileno()
            (pipe,) = [rights for name, rights in objects(heap).items() if "~" in name]
            assert pipe == (0o640, ALICE, CREW)
            assert as_user(ALICE, _send, heap_name) is None
            assert select.select([watched], [], [], peers.PATIENCE)[0]
        heap.unlink()


@ROOT
def test_the_pipe_of_a_participant_that_the_owner_may_not_change_is_named(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB", mode=0o666) as heap:
        heap.add_record_channel("c", 4)
        heap.chown(ALICE, ALICE)
        with (
            open("/dev/zero", "rb") as go,
            peers.run_by("fork", _poll_as, CAROL, heap, go.fileno()) as poller,
        ):
            assert poller.hear() == "polling"
            (text,) = as_user(ALICE, _warnings_of, ipcheap.chmod, heap_name, 0o600)
            assert f"belongs to user {CAROL}" in text
            assert objects(heap)["file"] == (0o600, ALICE, ALICE)
            with heap.producer("c") as producer:
                producer.send(b"hello")
            assert poller.result() == b"hello"
        heap.unlink()


def _warnings_of(act: Callable[..., object], *args: object) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        act(*args)
    return [str(warning.message) for warning in caught]


def test_what_else_lies_beside_the_file_stays_as_it_is(place: Path) -> None:
    path = place / "heap"
    with ipcheap.Heap.create(str(path), "1MiB", shm="file") as heap:
        seats = [f"{path}~{(heap.identity + 64 * n) % 2**64:x}" for n in range(3)]
        os.mkfifo(f"{path}~{(heap.identity - 64) % 2**64:x}", 0o600)  # of another heap
        os.mkfifo(place / "other", 0o600)
        os.link(place / "other", seats[0])
        os.symlink(place / "other", seats[1])
        Path(seats[2]).touch(0o600)
        heap.chmod(0o666)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        for entry in place.iterdir():
            if entry != path and not entry.is_symlink():
                assert stat.S_IMODE(entry.stat().st_mode) == 0o600, entry
        heap.unlink()


# What is not the heap's -----------------------------------------------------------------------


def test_what_is_no_heap_is_left_untouched(place: Path) -> None:
    path = place / "thing"
    makers: tuple[Callable[[], object], ...] = (
        lambda: path.write_text("a letter"),
        path.mkdir,
        lambda: os.mkfifo(path, 0o600),
        lambda: path.symlink_to(place / "target"),
        lambda: path.write_bytes(bytes(8192)),
    )
    calls: tuple[Callable[[], object], ...] = (
        lambda: ipcheap.chmod(str(path), 0o666),
        lambda: ipcheap.chown(str(path), os.getuid()),
    )
    for make in makers:
        target = ipcheap.Heap.create(str(place / "target"), "1MiB", shm="file")
        make()
        before = path.lstat(), (place / "target").stat()
        for act in calls:
            with pytest.raises(ipcheap.FormatMismatch):
                act()
        assert (path.lstat(), (place / "target").stat()) == before
        target.close()
        target.unlink()
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_file_with_a_second_name_is_left_untouched(heap_name: str) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        other = Path(f"/dev/shm/ipcheap.{heap_name}.link")
        os.link(_kernel.path_of(heap_name), other)
        try:
            for name in (heap_name, f"{heap_name}.link"):
                with pytest.raises(ipcheap.FormatMismatch, match="2 names"):
                    ipcheap.chmod(name, 0o666)
        finally:
            other.unlink()
        assert objects(heap)["file"][0] == 0o600
        heap.chmod(0o660)
        heap.unlink()


def test_a_heap_that_is_not_there_is_not_found(heap_name: str) -> None:
    with pytest.raises(ipcheap.HeapNotFound):
        ipcheap.chmod(heap_name, 0o600)
    Path(_kernel.path_of(heap_name)).write_bytes(b"")  # as a creator that was killed leaves it
    with pytest.raises(ipcheap.HeapNotFound):
        ipcheap.chown(heap_name, 0)
    with ipcheap.Heap.open(heap_name, "1MiB") as heap:
        heap.unlink()
        with pytest.raises(ipcheap.HeapNotFound):
            heap.chmod(0o660)
        with ipcheap.Heap.create(heap_name, "1MiB") as successor:
            with pytest.raises(ipcheap.HeapNotFound):
                heap.chmod(0o660)
            assert objects(successor)["file"][0] == 0o600
            successor.unlink()
    with pytest.raises(ipcheap.HeapClosed):
        heap.chmod(0o660)
    with pytest.raises(ipcheap.HeapClosed):
        heap.chown(group=0)


@ROOT
@pytest.mark.parametrize("sem", ["posix", "sysv"])
def test_a_semaphore_of_another_heap_is_left_untouched(sem: str, heap_name: str) -> None:
    """A participant writes into the header what is not the heap's; root must not change that."""
    other_name = f"{heap_name}.other"
    with (
        ipcheap.Heap.create(other_name, "1MiB", sem=sem) as victim,
        ipcheap.Heap.create(heap_name, "1MiB", sem=sem) as heap,
    ):
        path, other = _kernel.path_of(heap_name), _kernel.path_of(other_name)
        own = Path(path).read_bytes()[:4096]
        forged = Path(other).read_bytes()[:4096]
        if sem == "posix":
            at, length = own.index(b"/ipcheap."), 64
        else:
            (at,) = (
                at
                for at in range(0, 4096, 4)
                if own[at : at + 4] == heap._info.sem_id.to_bytes(4, "little")
                and forged[at : at + 4] == victim._info.sem_id.to_bytes(4, "little")
            )
            length = 4
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(forged[at : at + length])
        before = objects(heap), objects(victim)
        calls: tuple[Callable[[], object], ...] = (
            lambda: ipcheap.chmod(heap_name, 0o666),
            lambda: ipcheap.chown(heap_name, ALICE),
        )
        for act in calls:
            with pytest.raises(ipcheap.FormatMismatch, match="was not made for"):
                act()
            assert (objects(heap), objects(victim)) == before
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(own[at : at + length])
        ipcheap.chmod(heap_name, 0o660)
        heap.unlink()
        victim.unlink()


# Half of it -----------------------------------------------------------------------------------


class _Interrupted:
    """Makes the n-th change of an object fail, before it or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> None:
        self.count = 0
        for kind in (_permissions._File, _permissions._SystemV):
            monkeypatch.setattr(kind, "give", self._instead(kind.give, at, act))

    def _instead(self, give: Any, at: int, act: Callable[[], None]) -> Any:
        def give_or_fail(it: Any, rights: Any) -> None:
            self.count += 1
            if self.count == at:
                act()
            give(it, rights)

        return give_or_fail


def _refuse(*_: object) -> None:
    raise PermissionError(errno.EPERM, "refused")


@ROOT
@NAMED
def test_if_a_step_fails_nothing_has_changed(
    kind: kinds.Kind, heap_name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with kinds.made(kind, heap_name, place, "1MiB", mode=0o640) as heap:
        before = objects(heap)
        for act, *args in ((heap.chmod, 0o604), (heap.chown, ALICE, CREW)):
            at, done = 0, False
            while not done:
                at += 1
                said = ""
                with monkeypatch.context() as patch:
                    _Interrupted(patch, at, _refuse)
                    try:
                        act(*args)
                    except PermissionError as error:
                        said = str(error)
                    else:
                        done = True
                if not done:
                    assert "nothing has changed" in said
                    assert objects(heap) == before
            assert at - 1 >= expected(kind)
            assert objects(heap) != before
            heap.chown(0, 0)
            heap.chmod(0o640)


@ROOT
def test_what_cannot_be_undone_is_named(heap_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB", sem="sysv") as heap:
        give = _permissions._SystemV.give

        def give_once(it: _permissions._SystemV, rights: _permissions.Rights) -> None:
            monkeypatch.setattr(_permissions._SystemV, "give", _refuse)
            give(it, rights)

        monkeypatch.setattr(_permissions._SystemV, "give", give_once)
        monkeypatch.setattr(_permissions._File, "give", _refuse)
        with pytest.raises(PermissionError, match="not to be set back: the System V semaphore"):
            heap.chmod(0o660)
        monkeypatch.undo()
        heap.chmod(0o660)
        heap.unlink()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@ROOT
@NAMED
@pytest.mark.parametrize("what", ["wider", "narrower", "chown", "chown again"])
def test_one_that_is_killed_leaves_nothing_half_open(
    kind: kinds.Kind, what: str, heap_name: str, place: Path
) -> None:
    old = 0o666 if what == "narrower" else 0o600
    with kinds.made(kind, heap_name, place, "1MiB", mode=old) as heap:
        assert heap.name is not None
        owner = 0
        for at in range(1, 9):
            heap.chmod(old)
            if what == "chown again":
                owner = BOB
            if what.startswith("chown"):
                heap.chown(owner, owner)
            before = objects(heap)
            with peers.run_by("fork", _change_and_die, heap.name, what, at) as peer:
                code = peer.wait()
            seen = objects(heap)
            if code == 0:
                break
            assert code == -signal.SIGKILL
            if at == 1:
                assert seen == before
            if what == "narrower" and at > 1:  # the memory first
                assert not as_user(CAROL, attaches, heap.name)
                if "shm" in seen:
                    assert seen["shm"][0] == 0o600
            if what == "wider":  # the memory last
                assert not as_user(CAROL, attaches, heap.name)
                assert "shm" not in seen or seen["shm"][0] == 0o600
            _change(heap.name, what)  # completes it
            final = {"chown": (old, ALICE, ALICE), "chown again": (old, ALICE, ALICE)}.get(
                what, (0o600 if what == "narrower" else 0o666, 0, 0)
            )
            assert set(objects(heap).values()) == {final}
        else:
            raise AssertionError("it never came to its end")


def _change(name: str, what: str) -> None:
    if what.startswith("chown"):
        ipcheap.chown(name, ALICE, ALICE)
    else:
        ipcheap.chmod(name, 0o666 if what == "wider" else 0o600)


def _change_and_die(name: str, what: str, at: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _Interrupted(patch, at, _die)
        _change(name, what)


def test_while_another_process_creates_it_the_heap_is_busy(
    heap_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_segments, "PATIENCE", 0.05)
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        fd = _kernel.open_file(heap_name)
        with _segments.AloneWith(fd, heap_name), pytest.raises(ipcheap.HeapBusy):
            heap.chmod(0o660)
        os.close(fd)
        with contextlib.suppress(ipcheap.HeapNotFound):
            heap.unlink()

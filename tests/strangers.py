"""Functions about objects that are not ours; `kinds.call_apart` runs them in namespaces."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pickle
import shutil
import socket
import stat
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kinds
import seccomp
import sysv_ipc

import ipcheap
from ipcheap import _kernel
from ipcheap.tools import doctor

if TYPE_CHECKING:
    from collections.abc import Callable

USER = 65534
COMMAND = Path(sys.executable).with_name("ipcheap")


def command(*arguments: str) -> tuple[int, str]:
    """Run `ipcheap` and return its exit code and all that it says."""
    done = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout + done.stderr


# Something else under a heap's name ---------------------------------------------------------


def put(what: str, path: str) -> None:
    """Put something at a path that is no heap, or leads to one."""
    if what == "folder":
        os.mkdir(path)
    elif what == "device":
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    elif what == "pipe":
        os.mkfifo(path, 0o644)
    elif what == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
    elif what == "link to a device":
        os.mknod(f"{path}.null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        os.symlink(f"{path}.null", path)
    elif what == "link to a heap":
        target = f"{os.path.dirname(path)}/target"
        with ipcheap.Heap.create(target, "1MiB", shm="file", sem="posix"):
            os.symlink(target, path)
    elif what == "link to nothing":
        os.symlink(f"{path}.none", path)
    else:
        Path(path).write_text(what)


def _looks(folder: str) -> dict[str, tuple[Any, ...]]:
    """Return what is in a folder, to compare it."""
    seen = {}
    for name in sorted(os.listdir(folder)):
        path = Path(folder, name)
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        seen[name] = (status.st_ino, status.st_mode, status.st_uid, content.rstrip(b"\0")[:64])
    return seen


def call_everything(what: str, plain: bool, folder: str) -> dict[str, str]:
    """Try each call and command on it; return what each said. All of it must stay as it was."""
    name = "strange" if plain else f"{folder}/strange"
    path = _kernel.path_of(name)
    shm = "posix" if plain else "file"
    with ipcheap.Heap.create(name, "1MiB", shm=shm) as heap:
        pickled = pickle.dumps(heap)
        heap.unlink()
    put(what, path)
    place = os.path.dirname(path)
    before = _looks(place)
    said = {}
    calls: dict[str, Callable[[], object]] = {
        "create": lambda: ipcheap.Heap.create(name, "1MiB", shm=shm),
        "open": lambda: ipcheap.Heap.open(name, "1MiB", shm=shm),
        "attach": lambda: ipcheap.Heap.attach(name),
        "attach later": lambda: ipcheap.Heap.attach(name, timeout=0.05),
        "unlink": lambda: ipcheap.unlink(name),
        "unpickle": lambda: pickle.loads(pickled),
    }
    for call, act in calls.items():
        try:
            act()
        except Exception as error:
            said[call] = type(error).__name__
        else:
            said[call] = "nothing"
        assert _looks(place) == before, call
    assert [heap.name for heap in ipcheap.heaps() if heap.name == name] == []
    for arguments in (
        ("ls",),
        ("rm", name),
        ("rm", "--force", name),
        ("rm", "--stale"),
        ("doctor", name),
        ("doctor", "--repair", name),
        ("doctor", "--repair"),
        ("demo", "--records", "1", "--shm", shm, "--name", name),
    ):
        code, text = command(*arguments)
        said[" ".join(arguments[:2]).replace(name, "it")] = f"{code}"
        assert "Traceback" not in text, text
        assert _looks(place) == before, arguments
    return said


# Objects of other users -----------------------------------------------------------------------


def as_user(act: Callable[[], object]) -> None:
    """Do something as an ordinary user."""
    child = os.fork()
    if child == 0:
        os.setgid(USER)
        os.setuid(USER)
        act()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def _forged(path: str, **fields: object) -> None:
    """Write a list of objects, bound to the file's own inode as far as that can be."""
    with open(path, "wb") as file:
        inode = os.fstat(file.fileno()).st_ino
        text = json.dumps({"inode": inode, **fields})
        file.write(b"ipcheap objects 1\n" + text.encode().ljust(400))
    os.chmod(path, 0o600)


def _bound(inode: int, salt: int = 7) -> int:
    return _kernel._hash_of(inode) << 16 | salt


def _segment_id(key: int) -> int:
    found = _kernel.find_sysv("segment", key=key)
    return -1 if found is None else int(found.id)


def forge_lists(place: str) -> list[str]:
    """As a user, name objects of root in a list; let root clean up in each way; return warnings.

    `place` is "file" or "note": where the list is. The objects must stay, even those whose keys and
    names are as if they had been made for that file.
    """
    said: list[str] = []
    path = "/dev/shm/.ipcheap.left.making" if place == "note" else "/dev/shm/ipcheap.left"
    for way in ("rm --stale", "unlink", "open", "repair"):
        as_user(lambda: Path(path).write_bytes(b""))
        inode = os.stat(path).st_ino
        key, name = _bound(inode), _kernel._bound_name(inode)
        segment = sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, mode=0o600, size=100_000)
        semaphore = sysv_ipc.Semaphore(key, sysv_ipc.IPC_CREX, mode=0o600)
        Path(f"/dev/shm/sem.{name[1:]}").write_bytes(bytes(32))
        as_user(functools.partial(_forged, path, shm_key=key, sem_key=key, sem_name=name))
        if place == "note" and way != "repair":
            as_user(lambda: Path("/dev/shm/ipcheap.left").write_bytes(b""))
        if way in ("rm --stale", "repair"):
            arguments = ("rm", "--stale") if way == "rm --stale" else ("doctor", "--repair")
            said.append(command(*arguments)[1])
        else:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                with contextlib.suppress(ipcheap.Error):
                    if way == "open":
                        ipcheap.Heap.open("left", "1MiB").close()
                    else:
                        ipcheap.unlink("left")
            said.append("\n".join(str(warning.message) for warning in caught))
        assert _segment_id(key) == segment.id, way
        assert sysv_ipc.Semaphore(key).id == semaphore.id, way
        assert os.path.exists(f"/dev/shm/sem.{name[1:]}"), way
        segment.detach()
        sysv_ipc.remove_shared_memory(segment.id)
        sysv_ipc.remove_semaphore(semaphore.id)
        os.unlink(f"/dev/shm/sem.{name[1:]}")
        for left in ("/dev/shm/ipcheap.left", "/dev/shm/.ipcheap.left.making"):
            _kernel.unlink(left)
    return said


def forge_by_the_same_user() -> list[str]:
    """Name objects of the same user that were not made for the heap: a segment of another program.

    Returns the warnings.
    """
    said = []
    key = 0x0052E2C1
    segment = sysv_ipc.SharedMemory(key, sysv_ipc.IPC_CREX, mode=0o600, size=100_000)
    with ipcheap.Heap.create("other", "1MiB", shm="sysv", sem="sysv") as other:
        other_key = json.loads(Path("/dev/shm/ipcheap.other").read_bytes()[18:512])["shm_key"]
        for wanted in (key, other_key):
            for shm_id in (-1, _segment_id(wanted)):
                _forged("/dev/shm/ipcheap.left", shm_key=wanted, shm_id=shm_id)
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    try:
                        ipcheap.unlink("left")
                    except ipcheap.FormatMismatch:
                        said.append("FormatMismatch")
                        os.unlink("/dev/shm/ipcheap.left")
                said.extend(str(warning.message) for warning in caught)
                assert _segment_id(wanted) >= 0
                ipcheap.Heap.attach("other").close()
        other.unlink()
    del other  # and so the mapping
    segment.detach()
    sysv_ipc.remove_shared_memory(segment.id)
    assert kinds.kernel_objects() == []
    return said


def forge_a_header() -> list[str]:
    """In the header of a heap that all may write to, name the semaphore of another heap."""
    with (
        ipcheap.Heap.create("victim", "1MiB", sem="posix") as victim,
        ipcheap.Heap.create("open", "1MiB", sem="posix", mode=0o666),
    ):
        with (
            open("/dev/shm/ipcheap.victim", "rb") as file,
            open("/dev/shm/ipcheap.open", "r+b") as to,
        ):
            content = file.read(4096)
            at = content.index(b"/ipcheap.")
            to.seek(at)
            to.write(content[at : at + 64])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            ipcheap.unlink("open")
        ipcheap.Heap.attach("victim").close()
        victim.unlink()
    for name in os.listdir("/dev/shm"):
        if name.startswith("sem.ipcheap."):
            os.unlink(f"/dev/shm/{name}")  # the one that nobody names any more
    assert kinds.kernel_objects() == []
    return [str(warning.message) for warning in caught]


def make_over_an_empty_file_of_a_user() -> tuple[int, int]:
    """Let a user be first with an empty file; return owner and mode of root's heap of that name."""
    as_user(lambda: os.close(os.open("/dev/shm/ipcheap.mine", os.O_CREAT | os.O_RDWR, 0o666)))
    os.chmod("/dev/shm/ipcheap.mine", 0o666)
    with ipcheap.Heap.open("mine", "1MiB") as heap:
        status = os.stat("/dev/shm/ipcheap.mine")
        heap.unlink()
    return status.st_uid, stat.S_IMODE(status.st_mode)


# Copies ---------------------------------------------------------------------------------------


def copy_and_rename(shm: str, sem: str, folder: str) -> dict[str, Any]:
    """Copy a heap's file, and see what each call says of the copy, and that the heap goes on."""
    kind = kinds.Kind(shm, sem)
    name, copy = kind.place("heap", folder), kind.place("copy", folder)
    assert name is not None
    assert copy is not None
    path, copied = _kernel.path_of(name), _kernel.path_of(copy)
    said: dict[str, Any] = {}
    with ipcheap.Heap.create(name, "1MiB", shm=shm, sem=sem) as heap:
        heap.add_record_channel("c", 4)
        shutil.copyfile(path, copied)
        content = Path(copied).read_bytes()
        for call, act in (
            ("create", lambda: ipcheap.Heap.create(copy, "1MiB", shm=shm)),
            ("open", lambda: ipcheap.Heap.open(copy, "1MiB", shm=shm)),
            ("attach", lambda: ipcheap.Heap.attach(copy)),
            ("unlink", lambda: ipcheap.unlink(copy)),
        ):
            try:
                act()
            except ipcheap.FormatMismatch as error:
                said[call] = "is a copy of a heap's file" in str(error)
        said["listed"] = copy in [info.name for info in ipcheap.heaps()]
        seen = doctor.examine(copy)
        said["doctor"] = [seen.code, [finding.what for finding in seen.findings]]
        said["repair"] = doctor.examine(copy, repair=True).code
        assert shm == "sysv" or Path(copied).read_bytes()[:4096] == content[:4096] or sem
        os.unlink(copied)
        heap.add_record_channel("d", 4)
        with ipcheap.Heap.attach(name) as other:
            assert set(other.channels) == {"c", "d"}
        os.link(path, copied)  # the same file
        ipcheap.Heap.attach(copy).close()
        os.rename(path, f"{path}.away")
        os.rename(copied, path)
        ipcheap.Heap.attach(name).close()
        os.unlink(f"{path}.away")
        heap.unlink()
    assert kinds.kernel_objects() + os.listdir(folder) == []
    return said


# Removed by other means -----------------------------------------------------------------------


def clean_under_a_living_heap(shm: str, sem: str, folder: str) -> list[str]:
    """Remove a heap's file as cleaners do; return what the calls say, and go on."""
    kind = kinds.Kind(shm, sem)
    name = kind.place("heap", folder)
    assert name is not None
    said = []
    with ipcheap.Heap.create(name, "1MiB", shm=shm, sem=sem) as heap:
        heap.add_record_channel("c", 4)
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            os.unlink(_kernel.path_of(name))
            for act in (lambda: ipcheap.Heap.attach(name), lambda: ipcheap.unlink(name)):
                try:
                    act()
                except ipcheap.HeapNotFound as error:
                    said.append(type(error).__name__)
            assert name not in [info.name for info in ipcheap.heaps()]
            producer.send(b"on")
            assert consumer.recv(timeout=1) == b"on"
            consumer.fileno()
            with ipcheap.Heap.open(name, "1MiB", shm=shm, sem=sem) as successor:
                assert successor.identity != heap.identity
                try:
                    heap.unlink()
                except ipcheap.HeapNotFound as error:
                    said.append(type(error).__name__)
                ipcheap.Heap.attach(name).close()  # the successor's
                successor.unlink()
            producer.send(b"and on")
            assert consumer.recv(timeout=1) == b"and on"
            heap.allocate_record(100_000).free()
            assert heap.check() == []
    del heap, successor, producer, consumer
    left = kinds.kernel_objects() + os.listdir(folder)
    assert left == [], left
    return said


def remove_ipc_under_a_living_heap(sem: str) -> list[str]:
    """Remove the System V and POSIX objects, as systemd's RemoveIPC does, and go on."""
    said = []
    with ipcheap.Heap.create("heap", "1MiB", shm="sysv", sem=sem) as heap:
        heap.add_record_channel("c", 4)
        for what, option in (("shm", "-m"), ("sem", "-s")):
            for line in Path(f"/proc/sysvipc/{what}").read_text().splitlines()[1:]:
                subprocess.run(["ipcrm", option, line.split()[1]], check=True)
        for entry in os.listdir("/dev/shm"):
            if entry.startswith("sem."):
                os.unlink(f"/dev/shm/{entry}")
        try:
            ipcheap.Heap.attach("heap")
        except ipcheap.HeapNotFound as error:
            said.append(type(error).__name__)
        (info,) = ipcheap.heaps()
        said.append("stale" if info.stale else "in use")
        said.append(f"repair {command('doctor', '--repair')[0]}")
        said.append(command("rm", "heap")[1].partition(";")[0])
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            producer.send(b"on")
            assert consumer.recv(timeout=1) == b"on"
        heap.allocate_record(100_000).free()
        with ipcheap.Heap.open("heap", "1MiB") as successor:
            assert successor.identity != heap.identity
            successor.unlink()
    del heap, producer, consumer
    assert kinds.kernel_objects() == []
    return said


def lose_the_memory_of_a_child() -> list[str]:
    """Remove the System V memory of a heap that only a forked child has, then try to clear up."""
    heap = ipcheap.Heap.create("heap", "1MiB", shm="sysv")
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(hear, 1)
        os._exit(0)
    heap.close()
    subprocess.run(["ipcrm", "-m", str(heap._shmid)], check=True)
    (info,) = ipcheap.heaps()
    said = ["stale" if info.stale else "in use"]
    try:
        doctor.remove_unused("heap")
    except ipcheap.HeapBusy as error:
        said.append(type(error).__name__)
    said.append(f"repair {command('doctor', '--repair')[0]}")
    os.write(tell, b"!")
    os.waitpid(child, 0)
    said.append(f"repair {command('doctor', '--repair')[0]}")
    assert not ipcheap.heaps()
    return said


def refuse_locks() -> list[str]:
    """Create heaps where the kernel grants no locks."""
    seccomp.refuse("fcntl")
    said = []
    for place in ("heap", "/dev/shm/file"):
        try:
            ipcheap.Heap.create(place, "1MiB", shm="file" if "/" in place else "posix")
        except PermissionError as error:
            said.append(type(error).__name__)
    assert kinds.kernel_objects() == []
    return said

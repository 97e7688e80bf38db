"""Programs that close all descriptors, as daemons do, or that start without the standard ones."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kinds
import peers
import pytest

import ipcheap
import ipcheap._limits  # what is imported later may be out of reach for another user
import ipcheap.results  # what is imported later is not there after chroot()

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FAR = 200  # the descriptor that is left
NOBODY = 65534
CONTENT = b"precious" * 10_000
COMMAND = Path(sys.executable).with_name("ipcheap")

# Later Pythons warn of fork in a process with threads, which test runners have.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can do that")


class Files:
    """Files of the program itself, which have the numbers of the descriptors that it closed."""

    def __init__(self, folder: Path, count: int = 30) -> None:
        names = [folder / f"{os.getpid()}.{n}" for n in range(count)]
        self.files = [open(name, "w+b") for name in names]  # noqa: SIM115
        for file in self.files:
            file.write(CONTENT)
            file.flush()
        self.wakes = [os.pipe() for _ in range(3)]

    def damage(self) -> list[str]:
        """Return what somebody else has done to them."""
        found: list[str] = []
        for file in self.files:
            try:
                fd = file.fileno()
                if os.pread(fd, len(CONTENT) + 1, 0) != CONTENT:
                    found.append(f"{fd} was changed")
                if os.lseek(fd, 0, os.SEEK_CUR) != len(CONTENT):
                    found.append(f"{fd} was positioned")
                with open(file.name, "r+b") as again:
                    fcntl.lockf(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                found.append(f"{file.name}: {error}")
        for reading, writing in self.wakes:
            os.set_blocking(reading, False)
            try:
                os.write(writing, b"x")
                if os.read(reading, 10) != b"x":
                    found.append("a pipe was written to")
            except OSError as error:
                found.append(f"pipe {reading}: {error}")
        return found


class Child:
    """A forked child that talks through a socket, and has no other descriptor above 2."""

    def __init__(
        self, function: Callable[[Child], object], *, closes: bool = True, daemon: bool = False
    ) -> None:
        ours, theirs = socket.socketpair()
        self.pid = os.fork()
        if self.pid == 0:
            if daemon:
                os.setsid()
                if os.fork():
                    os._exit(0)
            os.dup2(theirs.fileno(), FAR)
            if closes:
                os.closerange(3, FAR)
            self.socket = socket.socket(fileno=FAR)
            try:
                outcome: object = function(self)
            except BaseException as error:
                outcome = f"{type(error).__name__}: {error}"
            self.say(outcome)
            os._exit(0)
        theirs.close()
        self.socket = ours
        self.socket.settimeout(peers.PATIENCE)

    def say(self, message: object) -> None:
        self.socket.sendall(pickle.dumps(message).ljust(4096, b"\0"))

    def hear(self) -> Any:
        message = b""
        while len(message) < 4096:
            part = self.socket.recv(4096 - len(message))
            assert part, "the child has ended"
            message += part
        return pickle.loads(message)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.socket.close()


@pytest.fixture
def child() -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def make(function: Callable[[Child], object], **how: bool) -> Child:
        children.append(Child(function, **how))
        return children[-1]

    yield make
    for each in children:
        each.end()


def may_open_what_is_mapped() -> bool:
    """Whether this process has the privilege to open a file through a mapping of it."""
    some = os.listdir("/proc/self/map_files")[0]
    try:
        os.close(os.open(f"/proc/self/map_files/{some}", os.O_RDONLY))
    except PermissionError:
        return False
    return True


def states(heap: ipcheap.Heap, pid: int) -> set[str]:
    return {who.state for who in heap.participants() if who.pid == pid}


def work(heap: ipcheap.Heap) -> None:
    heap.allocate_record(800_000).free()
    heap.trim()
    thread = threading.Thread(target=lambda: heap.allocate_record(100).free())
    thread.start()
    thread.join()
    heap.check()
    heap.recover()


# Daemons ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds.ALL, ids=str)
def test_a_daemon_uses_the_heap_that_its_parent_opened(
    kind: kinds.Kind, heap_name: str, tmp_path: Path, child: Callable[..., Child]
) -> None:
    with kinds.made(kind, heap_name, tmp_path, "16MiB") as heap:
        heap.add_record_channel("c", 8)

        def use(parent: Child) -> list[str]:
            files = Files(tmp_path)
            producer = heap.producer("c")
            producer.send(b"hello")
            assert producer.fileno() > 2
            work(heap)
            parent.say(os.getpid())
            parent.hear()
            producer.close()
            heap.close()
            return files.damage()

        daemon = child(use, daemon=True)
        pid = daemon.hear()
        if kind.shm == "memfd" and not may_open_what_is_mapped():
            assert str(pid).startswith("HeapClosed")
            return
        assert states(heap, pid) == {"alive"}
        with pytest.raises(ipcheap.ChannelBusy):
            heap.producer("c")
        with heap.consumer("c") as consumer:
            assert consumer.recv(timeout=peers.PATIENCE) == b"hello"
        daemon.say("go on")
        assert daemon.hear() == []
        assert states(heap, pid) == set()
        assert heap.check() == []


@pytest.mark.parametrize("kind", kinds.ALL, ids=str)
def test_a_process_that_closes_its_descriptors_is_not_dead(
    kind: kinds.Kind, heap_name: str, tmp_path: Path, child: Callable[..., Child]
) -> None:
    with kinds.made(kind, heap_name, tmp_path, "16MiB") as heap:
        heap.add_record_channel("c", 8)

        def use(parent: Child) -> list[str]:
            record = heap.allocate_record(100)
            record[:] = bytes(range(100))
            producer = heap.producer("c")
            assert producer.fileno() > 2
            os.closerange(3, FAR)
            files = Files(tmp_path)
            parent.say("closed")
            parent.hear()
            producer.send_record(record)
            producer.send(b"x" * 3000)
            with contextlib.suppress(ipcheap.HeapClosed):  # a memfd heap, without privileges
                work(heap)
            parent.say("sent")
            parent.hear()
            producer.close()
            heap.close()
            return files.damage()

        user = child(use, closes=False)
        assert user.hear() == "closed"
        assert states(heap, user.pid) == {"alive"}
        with pytest.raises(ipcheap.ChannelBusy):
            heap.producer("c")
        assert heap.recover().participants == 0
        user.say("go on")
        assert user.hear() == "sent"
        with heap.consumer("c") as consumer:
            assert consumer.recv(timeout=peers.PATIENCE) == bytes(range(100))
            assert consumer.recv(timeout=peers.PATIENCE) == b"x" * 3000
            user.say("go on")
            assert user.hear() == []
            with pytest.raises(ipcheap.ChannelClosed):
                consumer.recv(timeout=peers.PATIENCE)
        assert states(heap, user.pid) == set()


@needs_root
def test_what_cannot_be_opened_again_says_so(tmp_path: Path, child: Callable[..., Child]) -> None:
    with ipcheap.Heap.create(shm="memfd", capacity="16MiB") as heap:
        heap.add_record_channel("c", 8)

        def use(_: Child) -> list[str]:
            os.setresuid(NOBODY, NOBODY, NOBODY)
            said: list[str] = []
            for act in (
                lambda: heap.producer("c"),
                lambda: heap.allocate_record(8),
                lambda: pickle.dumps(heap),
                heap.trim,
            ):
                try:
                    act()
                    said.append("no error")
                except ipcheap.HeapClosed as error:
                    said.append(str(error))
            heap.close()
            return said

        os.chmod(tmp_path, 0o777)
        said = child(use).hear()
        text = "heap without a name: this program has closed its descriptors"
        assert all(text in each for each in said), said
        work(heap)


def test_the_end_of_a_daemon_closes_nothing_of_the_programs(heap_name: str, tmp_path: Path) -> None:
    program = f"""
import atexit, gc, os, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_descriptors
files = []
def report():
    print(files[0].damage())
atexit.register(report)  # the last to be called
import ipcheap
heaps = [ipcheap.Heap.create({heap_name!r}, "1MiB"), ipcheap.Heap.create(shm="memfd")]
for heap in heaps:
    heap.add_record_channel("c", 8)
left = [heap.producer("c") for heap in heaps]
left += [heap.consumer("c") for heap in heaps]
left += [each.fileno() for each in left]
left += [heap.allocate_record(100).view for heap in heaps]
os.closerange(3, 100)
files.append(test_descriptors.Files(Path({str(tmp_path)!r})))
if sys.argv[1] == "collect":
    del heaps, heap, left
    gc.collect()
"""
    for how in ("collect", "exit"):
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", program, how],
            capture_output=True,
            text=True,
            timeout=peers.PATIENCE,
        )
        assert (done.stdout, done.stderr) == ("[]\n", "")
        ipcheap.unlink(heap_name)


def test_a_heap_without_a_name_travels_after_its_descriptors_were_closed(
    child: Callable[..., Child],
) -> None:
    if not may_open_what_is_mapped():
        pytest.skip("needs the privilege to open a file through a mapping of it")
    with ipcheap.Heap.create(shm="memfd", capacity="1MiB") as heap:

        def use(_: Child) -> bool:
            os.closerange(3, FAR)
            with pickle.loads(pickle.dumps(heap)) as again:
                return bool(again.identity == heap.identity)

        assert child(use, closes=False).hear() is True


def test_coroutines_of_a_daemon_wait(
    heap_name: str, tmp_path: Path, child: Callable[..., Child]
) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("c", 8)

        def use(parent: Child) -> list[str]:
            consumer = heap.consumer("c")
            before = consumer.fileno()
            os.closerange(3, FAR)
            loop = asyncio.new_event_loop()  # whose poller may have the number of ours
            files = Files(tmp_path)
            parent.say("ready")
            assert loop.run_until_complete(consumer.arecv()) == b"first"
            assert loop.run_until_complete(consumer.arecv()) == b"second"
            assert consumer.fileno() != before
            consumer.close()
            assert loop.run_until_complete(asyncio.sleep(0.01, "awake")) == "awake"
            loop.close()
            return files.damage()

        user = child(use, closes=False)
        assert user.hear() == "ready"
        with heap.producer("c") as producer:
            producer.send(b"first")
            producer.send(b"second")
        assert user.hear() == []


# The standard descriptors ------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds.ALL, ids=str)
def test_no_descriptor_is_a_standard_one(kind: kinds.Kind, heap_name: str, tmp_path: Path) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import kinds, ipcheap
from pathlib import Path
os.closerange(0, 3)
def taken():
    found = []
    for fd in range(3):
        try:
            os.fstat(fd)
            found.append(fd)
        except OSError:
            pass
    return found
kind = kinds.Kind({kind.shm!r}, {kind.sem!r})
found = []
with kinds.made(kind, {heap_name!r}, Path({str(tmp_path)!r}), "1MiB") as heap:
    heap.add_record_channel("c", 4)
    found += taken()
    with heap.producer("c") as producer, heap.consumer("c") as consumer:
        producer.fileno(), consumer.fileno()
        producer.send(b"x")
        found += taken()
    pid = os.fork()
    if pid == 0:
        with heap.producer("c") as producer:
            producer.fileno()
            os._exit(len(taken()))
    found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    if heap.name is not None:
        with ipcheap.Heap.attach(heap.name):
            found += taken()
os._exit(any(found))
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], timeout=peers.PATIENCE)
    assert done.returncode == 0


def test_a_program_that_is_started_leaves_the_dead_dead(heap_name: str) -> None:
    program = f"""
import ipcheap, os, subprocess, sys
heap = ipcheap.Heap.create({heap_name!r}, "1MiB")
record = heap.allocate_record(10)
sleeper = subprocess.Popen(["sleep", "100"], close_fds=False, stdout=subprocess.DEVNULL)
print(sleeper.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], stdout=subprocess.PIPE, timeout=peers.PATIENCE
    )
    sleeper = int(done.stdout)
    try:
        assert os.listdir(f"/proc/{sleeper}/fd") != []
        with ipcheap.Heap.attach(heap_name) as heap:
            assert heap.recover().participants == 1
    finally:
        os.kill(sleeper, signal.SIGKILL)


# Those that only inherit --------------------------------------------------------------------


def seen(name: str) -> ipcheap.HeapInfo:
    (info,) = [info for info in ipcheap.heaps() if info.name == name]
    return info


def remove(name: str) -> str:
    done = subprocess.run([COMMAND, "rm", name], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def remove_stale(name: str) -> str:
    """Run `ipcheap rm --stale` as if there were only this heap: other tests still need theirs."""
    script = f"""
import ipcheap, sys
from ipcheap.tools import cli
heaps = ipcheap.heaps
ipcheap.heaps = lambda: [heap for heap in heaps() if heap.name == {name!r}]
sys.argv = ["ipcheap", "rm", "--stale"]
sys.exit(cli.main())
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("kind", [k for k in kinds.PAIRS if "posix" in k or "sysv" in k], ids=str)
def test_a_child_that_only_reads_what_it_inherited_is_a_user(
    kind: kinds.Kind, heap_name: str, tmp_path: Path, child: Callable[..., Child]
) -> None:
    with kinds.made(kind, heap_name, tmp_path, "1MiB") as heap:
        views = [heap.add_static_segment("s", 64).view]
        reader = child(lambda parent: (parent.hear(), bytes(views[0][:4]))[1], closes=False)
        views[0][:4] = b"data"
        views.clear()  # which this process itself would see, also after heap.close()
        heap.close()
        info = seen(heap_name)
        assert (info.participants, info.open, info.stale) == (0, True, False)
        listed = subprocess.run([COMMAND, "ls"], capture_output=True, text=True, check=True).stdout
        (row,) = [row for row in listed.splitlines() if row.startswith(heap_name)]
        assert "inherited" in row
        assert "stale" not in row
        assert remove_stale(heap_name) == ""
        said = remove(heap_name)
        assert f"{heap_name!r} is in use by a process that inherited it by fork" in said
        reader.say("read")
        assert reader.hear() == b"data"
        peers.until(lambda: seen(heap_name).stale)
        assert not seen(heap_name).open
        assert remove_stale(heap_name) == f"removed {heap_name}\n"


def test_a_child_that_closes_what_it_inherited_is_no_user(
    heap_name: str, child: Callable[..., Child]
) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:

        def use(parent: Child) -> None:
            heap.close()
            parent.say("closed")
            parent.hear()

        user = child(use)
        assert user.hear() == "closed"
        heap.close()
        assert seen(heap_name).stale
        user.say("end")


@pytest.mark.parametrize("kind", kinds.ALL, ids=str)
@needs_root
def test_a_child_uses_the_heap_after_it_gave_up_its_privileges(
    kind: kinds.Kind, heap_name: str, tmp_path: Path, child: Callable[..., Child]
) -> None:
    with kinds.made(kind, heap_name, tmp_path, "16MiB", mode=0o600) as heap:
        heap.add_record_channel("c", 8)

        def use(_: Child) -> str:
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            with heap.producer("c") as producer:
                producer.send(b"hello")
                producer.fileno()
                if kind.sem != "sysv" and kind.shm != "sysv":  # whose calls ask for permission
                    work(heap)
            return "sent"

        with heap.consumer("c") as consumer:
            assert child(use, closes=False).hear() == "sent"
            assert consumer.recv(timeout=peers.PATIENCE) == b"hello"


@needs_root
def test_a_child_of_one_without_privileges_is_refused_by_the_system(
    heap_name: str, child: Callable[..., Child]
) -> None:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:

        def use(_: Child) -> str:
            os.setuid(NOBODY)
            pid = os.fork()
            if pid == 0:
                try:
                    heap.allocate_record(8)
                    os._exit(1)
                except PermissionError as error:
                    os._exit(0 if heap_name in str(error) else 2)
            return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

        assert child(use, closes=False).hear() == "0"


# Without /proc ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", kinds.ALL, ids=str)
@needs_root
def test_without_proc_the_error_says_so(kind: kinds.Kind, heap_name: str, tmp_path: Path) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import kinds, ipcheap
from pathlib import Path
try:
    with kinds.made(
        kinds.Kind({kind.shm!r}, {kind.sem!r}), {heap_name!r}, Path({str(tmp_path)!r}), "1MiB"
    ):
        print("works")
except OSError as error:
    print(error.filename)
print([name for name in os.listdir("/dev/shm") if {heap_name!r} in name])
print(os.listdir({str(tmp_path)!r}))
"""
    command = [
        "sh",
        "-c",
        'mount -t tmpfs tmpfs /proc && exec "$@"',
        "sh",
        sys.executable,
        "-P",
        "-c",
    ]
    done = subprocess.run(
        [*kinds._unshare(), *command, program],
        capture_output=True,
        text=True,
        timeout=peers.PATIENCE,
    )
    assert (done.stdout, done.stderr) == ("/proc\n[]\n[]\n", "")


@needs_root
def test_a_process_that_changes_its_root_goes_on(
    heap_name: str, tmp_path: Path, child: Callable[..., Child]
) -> None:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("c", 8)

        def use(_: Child) -> str:
            os.chroot(tmp_path)
            with heap.producer("c") as producer:
                producer.send(b"hello")
                with pytest.raises(FileNotFoundError, match="/proc is not mounted"):
                    producer.fileno()
            work(heap)
            pid = os.fork()
            if pid == 0:  # too late to open a file
                try:
                    heap.allocate_record(8)
                    os._exit(1)
                except FileNotFoundError as error:
                    os._exit(0 if error.filename == "/proc" else 2)
            return str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

        assert child(use, closes=False).hear() == "0"
        with heap.consumer("c") as consumer:
            assert consumer.recv(timeout=peers.PATIENCE) == b"hello"

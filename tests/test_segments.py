"""Kernel objects: made without races, found again, removed without a trace."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import threading
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import peers
import pytest
import threads

import ipcheap
from ipcheap import _kernel, _segments

if TYPE_CHECKING:
    from collections.abc import Iterator

SHM = ("posix", "sysv", "file")
SEM = ("futex", "posix", "sysv")


@pytest.fixture
def name(heap_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """Give a name suitable for the kind of memory that the test is run with."""
    if request.node.callspec.params.get("shm") != "file":
        yield heap_name
        return
    name = str(tmp_path / "heap")
    yield name
    with contextlib.suppress(ipcheap.HeapNotFound):
        ipcheap.unlink(name)


@pytest.mark.parametrize("sem", SEM)
@pytest.mark.parametrize("shm", SHM)
def test_each_kind_of_heap_is_made_found_and_removed(name: str, shm: str, sem: str) -> None:
    with ipcheap.Heap.create(name, "1MiB", shm=shm, sem=sem, mode=0o640) as heap:
        assert (heap.name, heap.shm, heap.sem, heap.capacity) == (name, shm, sem, 1 << 20)
        assert stat.S_IMODE(os.stat(_kernel.path_of(name)).st_mode) == 0o640
        with ipcheap.Heap.attach(name) as other:
            assert other.identity == heap.identity
            assert (other.shm, other.sem) == (shm, sem)
            other.add_record_channel("a", 4)
        with ipcheap.Heap.open(name, "2MiB", shm="file" if shm == "file" else "posix") as other:
            assert other.capacity == 1 << 20
        assert list(heap.channels) == ["a"]
        heap.unlink()
        with pytest.raises(ipcheap.HeapNotFound):
            heap.unlink()
        with heap.allocate_record(100_000) as record:
            assert record.view.nbytes == 100_000
    with pytest.raises(ipcheap.HeapNotFound):
        ipcheap.Heap.attach(name)


@pytest.mark.parametrize("sem", SEM)
@pytest.mark.parametrize("shm", SHM)
def test_unlink_leaves_nothing(name: str, shm: str, sem: str, monkeypatch: Any) -> None:
    made: list[_kernel.Objects] = []
    choose = _kernel.Objects.chosen

    def chosen(shm: str, sem: str, inode: int) -> _kernel.Objects:
        made.append(choose(shm, sem, inode))
        return made[-1]

    monkeypatch.setattr(_kernel.Objects, "chosen", chosen)
    ipcheap.Heap.create(name, "1MiB", shm=shm, sem=sem).close()
    ipcheap.unlink(name)
    assert not list(Path(_kernel.path_of(name)).parent.glob(f"*{Path(name).name}*"))
    for objects in made:
        assert not os.path.exists(f"/dev/shm/sem.{objects.sem_name[1:]}")
        for kind, key in (("shm", objects.shm_key), ("sem", objects.sem_key)):
            table = Path(f"/proc/sysvipc/{kind}").read_text()
            assert not re.search(rf"^ *{key or -1} ", table, re.MULTILINE)


@pytest.mark.parametrize("shm", ["posix", "sysv"])
def test_heaps_lists_them(heap_name: str, shm: str) -> None:
    def listed() -> ipcheap.HeapInfo | None:
        return next((info for info in ipcheap.heaps() if info.name == heap_name), None)

    before = time.time()
    with ipcheap.Heap.create(heap_name, "1MiB", shm=shm, mode=0o600) as heap:
        heap.allocate_record(10).free()
        info = listed()
        assert info is not None
        assert info.path == f"/dev/shm/ipcheap.{heap_name}"
        assert (info.shm, info.sem, info.capacity, info.mode) == (shm, "futex", 1 << 20, 0o600)
        assert (info.uid, info.participants, info.stale) == (os.getuid(), 1, False)
        assert before - 1 <= info.created <= time.time()
    info = listed()
    assert info is not None
    assert info.stale
    assert info.participants == 0
    ipcheap.unlink(heap_name)
    assert listed() is None


@pytest.mark.parametrize("shm", ["posix", "file"])
def test_a_heap_of_another_format_is_left_alone_and_both_numbers_are_named(
    name: str, shm: str
) -> None:
    heap = ipcheap.Heap.create(name, "1MiB", shm=shm)
    fd = os.open(_kernel.path_of(name), os.O_RDWR)
    try:
        current = os.pread(fd, 4, 8)
        os.pwrite(fd, (2).to_bytes(4, "little"), 8)
        for use in (ipcheap.Heap.attach, ipcheap.unlink, partial(ipcheap.Heap.open, shm=shm)):
            with pytest.raises(ipcheap.FormatMismatch, match=r"has format 2, .* uses format 3;"):
                use(name)
        os.pwrite(fd, current, 8)
        heap.close()
        heap.unlink()
    finally:
        os.close(fd)


def test_something_else_under_the_name_is_left_alone(heap_name: str, tmp_path: Path) -> None:
    for place, name, kind in (
        (Path(f"/dev/shm/ipcheap.{heap_name}"), heap_name, "posix"),
        (tmp_path / "data", str(tmp_path / "data"), "file"),
        (tmp_path / "zeros", str(tmp_path / "zeros"), "file"),
    ):
        content = bytes(10_000) if place.name == "zeros" else b"precious" * 1000
        place.write_bytes(content)
        try:
            with pytest.raises(ipcheap.FormatMismatch, match="untouched"):
                ipcheap.Heap.create(name, "1MiB", shm=kind)
            for use in (ipcheap.Heap.attach, ipcheap.unlink):
                with pytest.raises(ipcheap.FormatMismatch):
                    use(name)
            assert heap_name not in [info.name for info in ipcheap.heaps()]
            assert place.read_bytes() == content
        finally:
            place.unlink()


def test_the_mode_does_not_depend_on_the_umask(heap_name: str) -> None:
    before = os.umask(0o077)
    try:
        with ipcheap.Heap.create(heap_name, "1MiB", mode=0o666, sem="posix"):
            path = f"/dev/shm/ipcheap.{heap_name}"
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o666
    finally:
        os.umask(before)


def make_and_die(name: str, shm: str, sem: str, at: str) -> None:
    owner, attribute = {
        "making": (_kernel.Objects, "make"),
        "formatting": (_segments, "_format"),
        "removing": (_kernel, "remove_file"),
    }[at]
    if at == "removing":
        ipcheap.Heap.create(name, "1MiB", shm=shm, sem=sem).close()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, attribute, lambda *_: peers.die())
        if at == "removing":
            ipcheap.unlink(name)
        else:
            ipcheap.Heap.create(name, "1MiB", shm=shm, sem=sem)


@pytest.mark.parametrize("at", ["making", "formatting", "removing"])
@pytest.mark.parametrize("sem", ["posix", "sysv"])
@pytest.mark.parametrize("shm", SHM)
def test_a_process_that_dies_half_way_leaves_what_can_be_redone(
    name: str, shm: str, sem: str, at: str
) -> None:
    """Conformance tests kill creators at every line; these are the three places that matter."""
    for finish in ("open", "unlink"):
        with peers.run(make_and_die, name, shm, sem, at) as peer:
            assert peer.wait() == -signal.SIGKILL
        if at != "removing":
            with pytest.raises(ipcheap.HeapNotFound):
                ipcheap.Heap.attach(name)
            if finish == "open":
                with ipcheap.Heap.open(name, "1MiB", shm=shm, sem=sem) as heap:
                    heap.allocate_record(100_000).free()
        ipcheap.unlink(name)
        assert not list(Path(_kernel.path_of(name)).parent.glob(f"*{Path(name).name}*"))


def test_attach_waits_for_the_heap_to_appear(heap_name: str) -> None:
    made: list[ipcheap.Heap] = []
    later = threading.Timer(0.1, lambda: made.append(ipcheap.Heap.create(heap_name, "1MiB")))
    later.start()
    start = time.monotonic()
    with ipcheap.Heap.attach(heap_name, timeout=10) as heap:
        assert 0.05 < time.monotonic() - start < 5
        later.join()
        assert made[0].identity == heap.identity
    made[0].close()


def test_attach_gives_up_in_time(heap_name: str) -> None:
    start = time.monotonic()
    with pytest.raises(ipcheap.HeapNotFound):
        ipcheap.Heap.attach(heap_name, timeout=0.1)
    assert 0.1 <= time.monotonic() - start < 2


def open_at_once(name: str, shm: str) -> int:
    peers.say("ready")
    peers.listen()
    with ipcheap.Heap.open(name, "1MiB", shm=shm) as heap:
        peers.say(heap.identity)
        peers.listen()
    return 0


@pytest.mark.parametrize("shm", SHM)
def test_processes_that_open_at_the_same_time_get_the_same_heap(name: str, shm: str) -> None:
    running = [peers.run(open_at_once, name, shm) for _ in range(4)]
    try:
        for peer in running:
            assert peer.hear() == "ready"
        for peer in running:
            peer.tell("go")
        assert len({peer.hear() for peer in running}) == 1
        for peer in running:
            peer.tell("done")
            assert peer.result() == 0
    finally:
        for peer in running:
            peer.__exit__()
    ipcheap.unlink(name)


def test_a_name_that_is_removed_and_created_repeatedly(heap_name: str) -> None:
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            with ipcheap.Heap.open(heap_name, "64KiB") as heap:
                heap.allocate_record(100).free()
            with contextlib.suppress(ipcheap.HeapNotFound):
                ipcheap.unlink(heap_name)

    with threads.run(churn), threads.run(churn), threads.run(churn):
        time.sleep(0.5)
        stop.set()

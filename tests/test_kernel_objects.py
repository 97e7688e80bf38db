"""What is not ours stays: devices, links, copies, objects of others; and what cleaners remove."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import killed
import kinds
import peers
import pytest
import strangers

import ipcheap
from ipcheap.tools import doctor

ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root has objects that users may not touch"
)
NAMED = pytest.mark.parametrize("kind", kinds.NAMED, ids=str)
ROUNDS = int(os.environ.get("IPCHEAP_KILLED_ROUNDS", "400"))  # of up to three killed processes each


@ROOT
@pytest.mark.parametrize("plain", [True, False], ids=["name", "path"])
@pytest.mark.parametrize(
    "what",
    [
        "folder",
        "device",
        "pipe",
        "socket",
        "link to a device",
        "link to a heap",
        "link to nothing",
        "a letter",
    ],
)
def test_what_is_no_heap_stays_as_it_is(what: str, plain: bool, tmp_path: Path) -> None:
    said = kinds.call_apart(strangers.call_everything, what, plain, str(tmp_path), patience=200)
    for call in ("create", "open", "attach", "attach later", "unlink", "unpickle"):
        assert said.pop(call) == "FormatMismatch", call
    codes = {"ls": "0", "rm --stale": "0", "doctor --repair": said["doctor --repair"]}
    assert (
        said == {"rm it": "1", "rm --force": "1", "doctor it": "2", "demo --records": "1"} | codes
    )


@ROOT
@pytest.mark.parametrize("place", ["file", "note"])
def test_a_list_of_another_user_removes_nothing_of_root(place: str) -> None:
    for said in kinds.call_apart(strangers.forge_lists, place):
        assert "was left alone: it belongs to user 0" in said
        assert "to user 65534" in said


@ROOT
def test_a_list_removes_only_what_was_made_for_its_file() -> None:
    said = kinds.call_apart(strangers.forge_by_the_same_user)
    assert len(said) == 4
    for text in said:
        assert text == "FormatMismatch" or "it was not made for /dev/shm/ipcheap.left" in text


@ROOT
def test_a_header_removes_only_the_semaphore_that_was_made_for_its_heap() -> None:
    (text,) = kinds.call_apart(strangers.forge_a_header)
    assert "it was not made for /dev/shm/ipcheap.open, which names it" in text


@ROOT
def test_a_heap_is_never_made_in_the_file_of_another_user() -> None:
    assert kinds.call_apart(strangers.make_over_an_empty_file_of_a_user) == [0, 0o600]


@NAMED
def test_a_copy_is_not_taken_for_the_heap(kind: kinds.Kind, tmp_path: Path) -> None:
    said = kinds.call_apart(strangers.copy_and_rename, *kind, str(tmp_path))
    calls = dict.fromkeys(("create", "open", "attach", "unlink"), True)
    found = ["copy", "dead"] if kind.shm != "sysv" else ["unreadable"]
    code = 1 if kind.shm != "sysv" else 2
    assert said == calls | {"listed": False, "doctor": [code, found], "repair": code}


@NAMED
def test_a_file_that_a_cleaner_removes_under_a_living_heap(
    kind: kinds.Kind, tmp_path: Path
) -> None:
    said = kinds.call_apart(strangers.clean_under_a_living_heap, *kind, str(tmp_path))
    assert said == ["HeapNotFound"] * 3


@pytest.mark.parametrize("sem", ["futex", "posix", "sysv"])
def test_objects_that_systemd_removes_under_a_living_heap(sem: str) -> None:
    said = kinds.call_apart(strangers.remove_ipc_under_a_living_heap, sem)
    busy = "ipcheap: heap 'heap' is in use by a process that has it open"
    assert said == ["HeapNotFound", "in use", "repair 1", busy]


def test_a_child_that_inherited_a_heap_keeps_its_file_without_its_memory() -> None:
    said = kinds.call_apart(strangers.lose_the_memory_of_a_child)
    assert said == ["in use", "HeapBusy", "repair 1", "repair 0"]


def test_a_creator_that_gets_no_lock_leaves_no_file() -> None:
    assert kinds.call_apart(strangers.refuse_locks) == ["PermissionError"] * 2


def test_a_relative_path_stays_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ipcheap.Heap.create("./heap", "1MiB", shm="file") as heap:
        assert heap.name == str(tmp_path / "heap")
        heap.add_record_channel("c", 4)
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir("elsewhere")
        with pickle.loads(pickle.dumps(heap)) as other:
            assert other.identity == heap.identity
        with heap.consumer("c") as consumer:
            assert consumer.fileno() >= 0
        with pytest.raises(ipcheap.HeapNotFound):
            ipcheap.unlink("./heap")
        heap.unlink()
    assert os.listdir(tmp_path) == ["elsewhere"]


LOW = """
import os, sys
import ipcheap
from ipcheap import _segments

place = {"file": sys.argv[1] + "/heap", "memfd": None}.get(sys.argv[3], sys.argv[2])
ipcheap.Heap.create(None, "64KiB", shm="memfd").close()  # imports everything
for fd in range(3):
    os.close(fd)
made = []
for sem in ("futex", "posix", "sysv"):
    if place is None:
        made.append(_segments.create_nameless("low", 1 << 16, sem))
        heap = ipcheap.Heap(made[-1])
        assert heap._handle.file() > 2
        made[-1].close()
        heap.close()
        continue
    made.append(_segments.create(place, 1 << 16, sys.argv[3], sem, 0o600, take_existing=False))
    made[-1].close()
    made.append(_segments.find(place, 0))
    made[-1].close()
    _segments.remove(place)
os._exit(7 if min(segment.fd for segment in made) > 2 else 8)
"""


@pytest.mark.parametrize("shm", ["posix", "sysv", "file", "memfd"])
def test_no_descriptor_is_one_of_the_standard_ones(
    heap_name: str, shm: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-P", "-c", LOW, str(tmp_path), heap_name, shm]
    assert subprocess.run(command, timeout=peers.PATIENCE).returncode == 7


def test_a_descriptor_that_leads_elsewhere_is_not_closed(tmp_path: Path) -> None:
    heap = ipcheap.Heap.create(None, "1MiB", shm="memfd", sem="sysv")
    fd = heap._handle.file()
    kept = os.dup(fd)
    with open(tmp_path / "log", "w") as log:
        os.dup2(log.fileno(), fd)
        heap.close()
        os.write(fd, b"still open")
        os.close(fd)
    assert (tmp_path / "log").read_text() == "still open"
    segment = ipcheap._segments.Segment(kept, -1, None)
    again = ipcheap.Heap(segment)  # and so its semaphore goes
    segment.close()
    again.close()


# Races ------------------------------------------------------------------------------------------


def open_and_close(name: str, seconds: float) -> int:
    """Open a heap repeatedly; it must be the one under its name until it is closed."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        with ipcheap.Heap.open(name, "64KiB") as heap:
            with ipcheap.Heap.attach(name) as other:
                assert other.identity == heap.identity
            count += 1
    return count


def remove_unused(name: str, seconds: float) -> int:
    """Remove a heap when no process has it open, repeatedly."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        with contextlib.suppress(ipcheap.HeapBusy, ipcheap.HeapNotFound):
            doctor.remove_unused(name)
            count += 1
    return count


def attach_what_is_there(name: str, seconds: float) -> int:
    """Attach repeatedly; a heap that is attached to is whole."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        with contextlib.suppress(ipcheap.HeapNotFound), ipcheap.Heap.attach(name) as heap:
            heap.allocate_record(100).free()
            count += 1
    return count


@pytest.fixture
def seconds() -> float:
    return float(os.environ.get("IPCHEAP_RACE_SECONDS", "2"))


def test_a_heap_that_a_service_opens_is_not_removed_as_unused(
    heap_name: str, seconds: float
) -> None:
    with (
        peers.run(open_and_close, heap_name, seconds) as service,
        peers.run(remove_unused, heap_name, seconds) as remover,
        peers.run(attach_what_is_there, heap_name, seconds) as user,
    ):
        patience = seconds + peers.PATIENCE
        assert service.result(patience) > 10
        assert remover.result(patience) > 0
        assert user.result(patience) > 0
    kinds.forget(heap_name)


def open_and_unlink(name: str, shm: str, seconds: float) -> int:
    """Open a heap, use it, and remove it, repeatedly."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        with ipcheap.Heap.open(name, "64KiB", shm=shm) as heap:
            heap.allocate_record(100).free()
            with contextlib.suppress(ipcheap.HeapNotFound):
                heap.unlink()
            count += 1
    return count


@pytest.mark.parametrize("shm", ["posix", "sysv"])
def test_opening_beside_a_process_that_unlinks(heap_name: str, shm: str, seconds: float) -> None:
    with (
        peers.run(open_and_unlink, heap_name, shm, seconds) as one,
        peers.run(open_and_unlink, heap_name, shm, seconds) as another,
    ):
        patience = seconds + peers.PATIENCE
        assert one.result(patience) > 10
        assert another.result(patience) > 10
    assert not list(Path("/dev/shm").glob(f"*{heap_name}*"))


def test_nothing_stays_of_the_killed() -> None:
    died = kinds.call_apart(killed.rounds, 40.0, time.time_ns(), ROUNDS)
    assert min(died.values()) > 0

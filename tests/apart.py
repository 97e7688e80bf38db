"""Functions for a namespace without other kernel objects; `kinds.call_apart` runs them there."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kinds
import workers

import ipcheap
from ipcheap.tools import doctor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType


# Made and unlinked ------------------------------------------------------------------------


def make_use_and_unlink(shm: str, sem: str, folder: str) -> dict[str, list[str]]:
    """Return the kernel's objects before, during and after a heap's life, and its folder."""
    kind = kinds.Kind(shm, sem)
    seen = {"before": kinds.kernel_objects()}
    place = kind.place("here", folder)
    with ipcheap.Heap.create(place, "1MiB", shm=shm, sem=sem) as heap:
        heap.add_record_channel("c", 8)
        with heap.producer("c") as producer:
            producer.send(b"x")
        seen["while"] = kinds.kernel_objects() + os.listdir(folder)
        heap.unlink()
        if place is not None:
            try:
                ipcheap.Heap.attach(place)
            except ipcheap.HeapNotFound:
                pass
            else:
                raise AssertionError("still there")
        with heap.consumer("c") as consumer:
            assert consumer.recv(timeout=1) == b"x"
        heap.allocate_record(100_000).free()
    del heap, producer, consumer  # and so the mapping
    seen["after"] = kinds.kernel_objects()
    seen["folder"] = os.listdir(folder)
    return seen


def make_use_and_remove_a_bus() -> dict[str, list[str]]:
    """Return the kernel's objects before, during and after the life of a bus and its heap."""
    before = kinds.kernel_objects()
    with ipcheap.Heap.create("bus", "1MiB") as heap:
        bus = heap.add_bus("bus", history=2)
        with bus.listen() as listener:
            bus.post_many([b"x"] * 10)
            meanwhile = kinds.kernel_objects()
            listener.recv()
        heap.remove_channel("bus")
        assert heap.statistics().in_use == 0
    ipcheap.unlink("bus")
    return {"before": before, "while": meanwhile, "after": kinds.kernel_objects()}


# Killed before each line ------------------------------------------------------------------


def kill_creators_everywhere(shm: str, sem: str, folder: str) -> int:
    """Kill creators before each line that they run; check what the next creator finds.

    Returns how many were killed.
    """
    killed = 0
    for line, place in _killed_creators(shm, sem, folder):
        killed += 1
        try:
            found = ipcheap.Heap.attach(place)
        except ipcheap.HeapNotFound:
            found = None
        with found or ipcheap.Heap.open(place, "1MiB", shm=shm, sem=sem) as heap:
            assert (heap.shm, heap.sem) == (shm, sem), line
            assert heap.capacity == (1 << 20 if found is None else 64 << 10), line
            record = heap.allocate_record(40_000)
            record.view[:] = b"\1" * 40_000
            record.free()
            assert heap.check() == [], line
        ipcheap.unlink(place)
        del heap, found, record  # and so the mapping
    return killed


def kill_creators_and_unlink(shm: str, sem: str, folder: str) -> int:
    """Kill creators before each line; `unlink` alone must clean up after them."""
    killed = 0
    for _, place in _killed_creators(shm, sem, folder):
        killed += 1
        kinds.forget(place)
    return killed


def kill_creators_and_repair(shm: str, sem: str, folder: str) -> dict[str, int]:
    """Kill creators before each line; `doctor --repair` alone must clean up after them.

    Returns how often each state was found.
    """
    found = dict.fromkeys(("absent", "half-made", "half-removed", "ready"), 0)
    for line, place in _killed_creators(shm, sem, folder):
        state = doctor.examine(place).facts["state"]
        found[state] += 1
        if state in ("half-made", "half-removed"):
            assert doctor.examine(place).code == 1, line
            seen = doctor.examine(place, repair=True)
            assert (seen.code, doctor.verdict(seen)) == (0, "mended"), line
        if state == "ready":
            ipcheap.unlink(place)
    return found


def kill_removers_everywhere(shm: str, sem: str, folder: str) -> int:
    """Kill removers before each line; the next process must be able to go on.

    Returns how many were killed.
    """
    place = _place(shm, sem, folder)
    line, died = -1, True
    while died:
        line += 1
        ipcheap.Heap.open(place, "64KiB", shm=shm, sem=sem).close()
        died = _dies_at_line(line, lambda: ipcheap.unlink(place))
        with contextlib.suppress(ipcheap.HeapNotFound):
            ipcheap.Heap.attach(place).close()
        if line % 3 == 0:
            with ipcheap.Heap.open(place, "64KiB", shm=shm, sem=sem) as heap:
                heap.allocate_record(40_000).free()
                assert heap.check() == [], line
        elif line % 3 == 1:
            state = doctor.examine(place, repair=True).facts["state"]
            assert state == "ready" or not os.path.exists(place), line
        kinds.forget(place)
        _expect_nothing_left(folder, line)
    return line


def _killed_creators(shm: str, sem: str, folder: str) -> Iterator[tuple[int, str]]:
    """Yield each line before which a creator was killed, and the place, until one completes.

    The caller must leave nothing there.
    """
    place = _place(shm, sem, folder)
    ipcheap.Heap.create(place, "64KiB", shm=shm, sem=sem).close()  # so that everything is imported
    ipcheap.unlink(place)
    line = 0
    while _dies_at_line(line, lambda: ipcheap.Heap.create(place, "64KiB", shm=shm, sem=sem)):
        yield line, place
        _expect_nothing_left(folder, line)
        line += 1
    ipcheap.unlink(place)


def _place(shm: str, sem: str, folder: str) -> str:
    place = kinds.Kind(shm, sem).place("half", folder)
    assert place is not None
    return place


def _expect_nothing_left(folder: str, line: int) -> None:
    left = kinds.kernel_objects() + os.listdir(folder)
    assert left == [], f"killed at line {line}: {left} is left over"


def _dies_at_line(line: int, act: Callable[[], object]) -> bool:
    """Fork a child that is killed before it runs that line of the package's own modules."""
    pid = os.fork()
    if pid == 0:
        left = line

        def trace(frame: FrameType, event: str, _: object) -> Any:
            nonlocal left
            if "/ipcheap/_" not in frame.f_code.co_filename:
                return None
            if event == "line":
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
            return trace

        sys.settrace(trace)
        act()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status)


# All kinds of trouble together --------------------------------------------------------------


def examine_everything(folder: str) -> list[Any]:
    """Make one of each kind of trouble; return what `ipcheap doctor --json` says of it, twice."""
    with ipcheap.Heap.create("used", "1MiB"):
        ipcheap.Heap.create("left", "1MiB").close()
        os.close(os.open("/dev/shm/ipcheap.half", os.O_CREAT | os.O_RDWR, 0o600))
        os.close(os.open("/dev/shm/.ipcheap.noted.making", os.O_CREAT | os.O_RDWR, 0o600))
        ipcheap.Heap.create("lost", "1MiB", shm="sysv").close()
        Path("/dev/shm/ipcheap.foreign").write_text("something else")
        for line in Path("/proc/sysvipc/shm").read_text().splitlines()[1:]:
            subprocess.run(["ipcrm", "-m", line.split()[1]], check=True)
        seen = []
        for options in ((), ("--repair",), ()):
            command = [Path(sys.executable).with_name("ipcheap"), "doctor", "--json", *options]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.stderr == "", done.stderr
            seen.append([done.returncode, json.loads(done.stdout)])
    return seen


# A file system that is full ---------------------------------------------------------------


def fill_a_small_file_system() -> dict[str, Any]:
    """Allocate until the file system is full, use all of it, free it, and go on."""
    kept: dict[str, Any] = {}
    with ipcheap.Heap.create("full", "1GiB") as heap:
        heap.add_record_channel("c", 64)
        with heap.producer("c") as producer, heap.consumer("c") as consumer:
            producer.send(b"before")
            records: list[ipcheap.Record] = []
            for nbytes in (1 << 20, 100_000, 5000, 64):
                try:
                    while True:
                        records.append(heap.allocate_record(nbytes))
                except ipcheap.HeapFull as error:
                    kept[f"refused {nbytes}"] = str(error)
            kept["records"] = len(records)
            kept["bytes"] = sum(record.nbytes for record in records)
            for mark, record in enumerate(records):
                record.view[:] = bytes([mark % 251]) * record.nbytes  # no SIGBUS
            for name, add in (
                ("channel", lambda: heap.add_record_channel("large", 1 << 20).producer()),
                ("segment", lambda: heap.add_static_segment("segment", 1 << 20)),
                ("send", lambda: producer.send(bytes(1 << 20), timeout=0)),
                ("send_many", lambda: producer.send_many([bytes(1 << 20)], timeout=0)),
            ):
                try:
                    add()
                except ipcheap.HeapFull as error:
                    kept[f"refused {name}"] = str(error)
            kept["names"] = sorted(map(str, heap.channels))
            kept["check when full"] = heap.check()
            for mark, record in enumerate(records):
                assert bytes(record) == bytes([mark % 251]) * record.nbytes
            assert consumer.recv(timeout=0) == b"before"
            for record in records[::2]:
                record.free()
            for turn in range(2000):
                producer.send(turn.to_bytes(8, "little") * 2000, timeout=0)
                assert consumer.recv(timeout=0) == turn.to_bytes(8, "little") * 2000
            for record in records[1::2]:
                record.free()
            del record, records
            heap.trim()
            kept["left"] = (heap.statistics().records, heap.statistics().committed)
            big = heap.allocate_record(kept["bytes"] // 2)
            big.view[:] = b"\5" * big.nbytes
            big.free()
            kept["check at last"] = heap.check()
    ipcheap.unlink("full")
    kept["objects"] = kinds.kernel_objects()
    return kept


def fill_rings_of_a_small_file_system() -> list[str]:
    """Add channels until there is no room left, then fill the ring of each."""
    names: list[str] = []
    with ipcheap.Heap.create("rings", "1GiB") as heap:
        with contextlib.suppress(ipcheap.HeapFull):
            for turn in range(1000):
                heap.add_record_channel(str(turn), 1 << 15)
                heap.consumer(str(turn)).close()
                names.append(str(turn))
        assert len(names) < 32, "a thousand rings of 512 KiB in 16 MiB"
        heap.remove_channel(names.pop())  # room for the records
        for name in names:
            with heap.producer(name) as producer, heap.consumer(name) as consumer:
                for first in range(0, 1 << 15, workers.BATCH):
                    workers.give_numbers(producer, first, workers.BATCH)
                    workers.take_numbers(consumer, workers.BATCH, first=first)
        check = heap.check()
    assert len(names) >= 8, names
    return check


def fill_while_others_take_the_room(nbytes: int) -> dict[str, Any]:
    """Fill the file system with another file between one record and the next."""
    kept: dict[str, Any] = {}
    with ipcheap.Heap.create("squeezed", "1GiB") as heap:
        first = heap.allocate_record(nbytes)
        first.view[:] = b"a" * nbytes
        with open("/dev/shm/stranger", "wb", buffering=0) as stranger:
            try:
                while True:
                    stranger.write(bytes(4096))
            except OSError:
                pass
        try:
            heap.allocate_record(8 * nbytes)
        except ipcheap.HeapFull as error:
            kept["refused"] = str(error)
        first.view[:] = b"b" * nbytes
        os.unlink("/dev/shm/stranger")
        second = heap.allocate_record(8 * nbytes)
        second.view[:] = b"c" * second.nbytes
        assert bytes(first) == b"b" * nbytes
        kept["check"] = heap.check()
    return kept


def create_where_there_is_little_room(kind: list[str], folder: str) -> list[tuple[int, str]]:
    """Create heaps while /dev/shm grows from one page; return what happened at which size."""
    shm, sem = kind
    place = kinds.Kind(shm, sem).place("small", folder)
    assert place is not None
    happened = []
    for pages in itertools.chain(range(1, 40), range(40, 400, 20)):
        subprocess.run(["mount", "-o", f"remount,size={pages * 4096}", "/dev/shm"], check=True)
        try:
            heap = ipcheap.Heap.create(place, "64MiB", shm=shm, sem=sem)
        except ipcheap.HeapFull as error:
            happened.append((pages, str(error)))
            left = [name for name in kinds.kernel_objects() if name != folder]
            assert left == [], f"{pages} pages: {left} is left over"
            continue
        with heap:
            try:
                heap.allocate_record(64).free()
                assert heap.check() == []
            except ipcheap.HeapFull as error:
                happened.append((pages, str(error)))
            else:
                happened.append((pages, ""))
        ipcheap.unlink(place)
        del heap
    return happened

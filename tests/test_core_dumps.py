"""A crash: the heap stays out of the core dump, and the others do not wait for the dump."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import kinds
import pytest

import ipcheap

SHOW = """
import ipcheap, places, sys
name, shm = sys.argv[1:]
with ipcheap.Heap.create(name or None, "1MiB", shm=shm) as heap:
    if name:
        heap.unlink()
    heaps = places.mapping_flags("ipcheap", "SYSV", "/core")
    print(*("dd" in flags for flags in heaps if "sh" in flags))
"""


def left_out(shm: str, place: str | None, **variables: str) -> set[str]:
    """Return whether the mappings of a new heap are left out of core dumps."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", SHOW, place or "", shm],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)} | variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("shm", ["posix", "sysv", "file", "memfd"])
def test_a_core_dump_contains_a_heap_only_if_that_is_wanted(
    shm: str, heap_name: str, tmp_path: Path
) -> None:
    place = kinds.Kind(shm, "futex").place(heap_name, tmp_path / "core")
    (tmp_path / "core").mkdir()
    assert left_out(shm, place) == {"True"}
    assert left_out(shm, place, IPCHEAP_COREDUMP="include") == {"False"}


def crash_with_much_memory(heap: ipcheap.Heap, folder: Path) -> None:
    """Send a record, allocate another, and crash, with a second thread and a slow core dump."""
    os.chdir(folder)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most, most))
    threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    ballast = bytearray(os.urandom(1 << 20)) * 250
    producer = heap.producer("c")
    producer.send(b"ready")
    record = heap.allocate_record(1_000_000)
    time.sleep(0.1)
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)
    del ballast, record


def test_a_process_is_dead_while_its_core_is_dumped(heap_name: str, tmp_path: Path) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith(("|", "/")) or resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip(f"core dumps do not go to the working directory: {pattern!r}")
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("c", 8)
        with heap.consumer("c") as consumer:
            child = os.fork()
            if child == 0:
                crash_with_much_memory(heap, tmp_path)
            assert consumer.recv(timeout=30) == b"ready"
            began = time.monotonic()
            with pytest.raises(ipcheap.PeerDied):
                consumer.recv(timeout=60)
            told = time.monotonic() - began
            ended = os.waitpid(child, os.WNOHANG)[0] == child
            records, living = heap.statistics().records, heap.statistics().participants
            with heap.producer("c", timeout=5) as successor:  # while the dump is being written
                successor.send(b"on")
                assert consumer.recv(timeout=5) == b"on"
        heap.recover()
        assert heap.check() == []
        if not ended:
            os.waitpid(child, 0)
        dumped = time.monotonic() - began
        for core in tmp_path.iterdir():
            core.unlink()
        assert records == 0
        assert living == 1
        assert heap.check() == []
        heap.unlink()
    if ended:
        pytest.skip("the dump was over too soon to say anything")
    assert told < 1.5 or dumped < 2, (told, dumped)

"""Functions that use a heap where memory is special; `kinds.call_apart` runs them apart."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import kinds

import ipcheap

MIB = 1 << 20
LARGE = 2 * MIB
MCL_CURRENT, MCL_FUTURE = 1, 2
PLACE = "/mnt"

_libc = ctypes.CDLL(None, use_errno=True)


def mapping_flags(*words: str) -> list[set[str]]:
    """Return the flags of this process's mappings whose files are named by one of the words."""
    found: list[set[str]] = []
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if first == "VmFlags:":
            if ours:
                found.append(set(rest))
        elif not first.endswith(":"):
            ours = any(word in line for word in words)
    return found


# Locked memory ----------------------------------------------------------------------------


def _taken(shm: str) -> int:
    """Return the bytes of memory that the only heap has."""
    if shm == "sysv":
        lines = Path("/proc/sysvipc/shm").read_text().splitlines()
        return int(dict(zip(lines[0].split(), lines[1].split(), strict=True))["rss"])
    seen = {}
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            status = os.stat(f"/proc/self/fd/{fd}")
            seen[status.st_dev, status.st_ino] = status.st_blocks * 512, status.st_size
    return next(taken for taken, nbytes in seen.values() if nbytes > 100 * MIB)


def _lock_all() -> bool:
    return bool(_libc.mlockall(MCL_CURRENT | MCL_FUTURE) == 0)


def lock_all_memory(shm: str, when: str) -> dict[str, int] | None:
    """Lock all memory before a heap is opened, afterwards, or in a forked child.

    Returns how many bytes the heap had before and afterwards; None if that is not allowed.
    """
    place = kinds.Kind(shm, "futex").place("locked", "/dev/shm")
    capacity = 128 * MIB if shm == "sysv" else 1024 * MIB
    if when == "before" and not _lock_all():
        return None
    with ipcheap.Heap.create(place, capacity, shm=shm) as heap:
        before = _taken(shm)
        if when == "after" and not _lock_all():
            return None
        if when == "fork":
            child = os.fork()
            if child == 0:
                os._exit(0 if _lock_all() else 77)
            if os.waitpid(child, 0)[1]:
                return None
        seen = {"before": before, "after": _taken(shm)}
        if shm != "sysv":
            with ipcheap.Heap.attach(place) if place else contextlib.nullcontext():
                seen["attached"] = _taken(shm)
        with heap.allocate_record(MIB) as record:
            record[:] = b"x" * MIB
            seen["used"] = _taken(shm)
            seen["committed"] = heap.statistics().committed
        seen["returned"] = heap.trim()
        seen["trimmed"] = _taken(shm)
        seen["idle"] = heap.statistics().committed
        words = ("ipcheap", "SYSV", "/locked")
        locked = [flags for flags in mapping_flags(*words) if {"wr", "sh"} <= flags]
        seen["lazily"] = all("lf" in flags for flags in locked)
        seen["all"] = all("lo" in flags for flags in locked)
        if place:
            heap.unlink()
        return seen


def attach_with_little_to_lock(shm: str, nbytes: int) -> str:
    """Attach in a process that locks all its memory but may lock only so many bytes."""
    place = kinds.Kind(shm, "futex").place("limited", "/dev/shm")
    assert place is not None
    with ipcheap.Heap.create(place, "128MiB", shm=shm, mode=0o666) as heap:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            text = "ok"
            try:
                import posix_ipc  # noqa: F401 - its code needs memory, too
                import sysv_ipc  # noqa: F401

                room = [[bytes(400) for _ in range(500)] for _ in range(16)]
                large = [bytearray(50_000) for _ in range(32)]
                del room[::2], large[::2]  # Python's own memory: what it needs is there already
                resource.setrlimit(resource.RLIMIT_MEMLOCK, (nbytes, nbytes))
                assert _libc.mlockall(MCL_FUTURE) == 0
                if os.getuid() == 0:
                    os.setresuid(65534, 65534, 65534)
                with ipcheap.Heap.attach(place) as attached:
                    attached.allocate_record(100_000).free()
            except BaseException as error:
                text = f"{type(error).__name__}: {error}"
            os.write(writing, text.encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            text = pipe.read()
        os.waitpid(child, 0)
        heap.unlink()
    return text


# File systems -------------------------------------------------------------------------------


def _use_up(
    heap: ipcheap.Heap, byte: bytes, smallest: int = 64
) -> tuple[list[ipcheap.Record], str]:
    records, text = [], ""
    for nbytes in (MIB, 100_000, 5000, 64):
        if nbytes < smallest:
            break
        with contextlib.suppress(ipcheap.HeapFull):
            for _ in range(2000):
                try:
                    record = heap.allocate_record(nbytes)
                except ipcheap.HeapFull as error:
                    text = text or str(error)
                    raise
                records.append(record)
                record.view[:] = byte * nbytes
    return records, text


def _write_again(records: list[ipcheap.Record], byte: bytes) -> None:
    for record in records:
        record.view[:] = byte * len(record.view)
    _write_back()


def _write_back() -> None:
    with open(f"{PLACE}/heap", "rb") as file:
        os.fsync(file.fileno())


def fill_a_disk(image: str, smallest: int = 64) -> dict[str, object]:
    """Fill the file system of an image by a heap's records, three times over.

    Records are smaller and smaller, down to `smallest` bytes.
    """
    subprocess.run(["mount", "-o", "loop", image, PLACE], check=True)
    place = f"{PLACE}/heap"
    seen: dict[str, object] = {}
    status = os.statvfs(PLACE)
    others = status.f_bavail * status.f_frsize - 64 * MIB
    if others > 0:
        with open(f"{PLACE}/others", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, others)
    try:
        heap = ipcheap.Heap.create(place, "1GiB", shm="file")
    except OSError as error:
        return {"refused": str(error), "left": _files_in(PLACE)}
    with heap:
        for byte in (b"a", b"b", b"c"):
            records, text = _use_up(heap, byte, smallest)
            for again in (b"x", byte):
                _write_again(records, again)
            child = os.fork()
            if child == 0:
                with ipcheap.Heap.attach(place) as other, contextlib.suppress(ipcheap.HeapFull):
                    other.allocate_record(64).free()
                os._exit(0)
            seen["child"] = os.waitpid(child, 0)[1]
            seen["as written"] = all(
                bytes(record.view) == byte * len(record.view) for record in records
            )
            seen["bytes"] = sum(len(record.view) for record in records)
            seen["full"] = text
            for record in records:
                record.free()
            heap.trim()
            del records
            _write_back()
        seen["committed"] = heap.statistics().committed
        seen["blocks"] = os.stat(place).st_blocks * 512
        seen["check"] = heap.check()
        heap.unlink()
    seen["left"] = _files_in(PLACE)
    return seen


def _files_in(folder: str) -> list[str]:
    return sorted(set(os.listdir(folder)) - {"lost+found", "others"})


def _large_pages_free() -> int:
    folder = Path(f"/sys/kernel/mm/hugepages/hugepages-{LARGE >> 10}kB")
    return int((folder / "free_hugepages").read_text())


def use_large_pages(sem: str, pages: int) -> dict[str, object]:
    """Use a heap on a hugetlbfs of its own; return what it took, by its own count and the kernel's.

    The mount has its pages to itself, so others on the machine may use some meanwhile.
    """
    size = f"size={pages * LARGE},min_size={pages * LARGE},pagesize={LARGE}"
    subprocess.run(["mount", "-t", "hugetlbfs", "-o", size, "hugetlbfs", PLACE], check=True)
    place = f"{PLACE}/large"

    def taken() -> int:
        status = os.statvfs(PLACE)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    seen: dict[str, object] = {}
    with ipcheap.Heap.create(place, "64MiB", shm="file", sem=sem) as heap:
        seen["new"] = taken(), heap.statistics().committed, _files_in(PLACE)
        heap.add_record_channel("c", 4)
        child = os.fork()
        if child == 0:
            with ipcheap.Heap.attach(place) as other, other.producer("c") as producer:
                for number in range(20):
                    producer.send(str(number).encode() * 100_000)
            os._exit(0)
        with heap.consumer("c") as consumer:
            received = [bytes(consumer.recv(timeout=10)) for _ in range(20)]
        seen["received"] = received == [str(number).encode() * 100_000 for number in range(20)]
        os.waitpid(child, 0)
        heap.trim()
        overhead = taken() - heap.statistics().committed
        records, seen["full"] = _use_up(heap, b"z")
        seen["bytes"] = sum(len(record.view) for record in records)
        counts = [taken() - heap.statistics().committed - overhead]
        for record in records[::2]:
            record.free()
        heap.trim()
        counts.append(taken() - heap.statistics().committed - overhead)
        seen["as written"] = all(
            bytes(record.view) == b"z" * len(record.view) for record in records[1::2]
        )
        for record in records[1::2]:
            record.free()
        heap.trim()
        counts.append(taken() - heap.statistics().committed - overhead)
        seen["uncounted"] = counts
        seen["at last"] = heap.statistics().committed
        seen["check"] = heap.check()
        heap.unlink()
    seen["left"] = _files_in(PLACE), [name for name in kinds.kernel_objects() if "sem" in name]
    return seen


def permit_on_large_pages(sem: str) -> list[list[object]]:
    """Change mode and owner of a heap on hugetlbfs; return those of its file and of its pipe."""
    subprocess.run(["mount", "-t", "hugetlbfs", "hugetlbfs", PLACE], check=True)
    with ipcheap.Heap.create(f"{PLACE}/large", "1MiB", shm="file", sem=sem) as heap:
        heap.add_record_channel("c", 4)
        with heap.consumer("c") as consumer:
            consumer.fileno()
            heap.chmod(0o640)
            heap.chown(61001, 61002)
            ipcheap.chmod(f"{PLACE}/large", 0o660)
            found = [os.stat(f"{PLACE}/{name}") for name in _files_in(PLACE)]
        heap.unlink()
    return [[oct(file.st_mode), file.st_uid, file.st_gid] for file in found]


def kill_a_creator_on_large_pages(sem: str) -> list[list[str]]:
    """Kill the creator of a heap after its note; return the files then, and after the next one."""
    subprocess.run(["mount", "-t", "hugetlbfs", "hugetlbfs", PLACE], check=True)
    place = f"{PLACE}/half"
    code = (
        "import os, sys, ipcheap._segments as s, ipcheap\n"
        "s._format = lambda *a: os.kill(os.getpid(), 9)\n"
        f"ipcheap.Heap.create({place!r}, '4MiB', shm='file', sem={sem!r})\n"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=False)
    files = [_files_in(PLACE)]
    with ipcheap.Heap.open(place, "4MiB", shm="file", sem=sem) as heap:
        assert heap.check() == []
        files.append(_files_in(PLACE))
        heap.unlink()
    objects = [name for name in kinds.kernel_objects() if "sem" in name]
    return [*files, _files_in(PLACE) + objects]

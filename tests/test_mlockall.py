"""Processes that lock their memory: the capacity of a heap stays virtual."""

from __future__ import annotations

import ctypes
import mmap
import os

import kinds
import places
import pytest

MIB = 1 << 20
KINDS = ["posix", "sysv", "file", "memfd"]
MADV_GUARD_INSTALL = 102


def has_guards() -> bool:
    """Whether the kernel can end the population of a file's mapping: Linux 6.15."""
    fd = os.memfd_create("guarded")
    os.ftruncate(fd, mmap.PAGESIZE)
    with mmap.mmap(fd, mmap.PAGESIZE) as room:
        os.close(fd)
        address = ctypes.addressof(ctypes.c_char.from_buffer(room))
        advice = ctypes.CDLL(None).madvise
        return bool(advice(ctypes.c_void_p(address), mmap.PAGESIZE, MADV_GUARD_INSTALL) == 0)


@pytest.mark.parametrize("when", ["before", "after", "fork"])
@pytest.mark.parametrize("shm", KINDS)
def test_a_heap_of_a_process_that_locks_its_memory_takes_what_it_uses(shm: str, when: str) -> None:
    if when != "before" and not has_guards():
        pytest.skip("before Linux 6.15, mlockall(MCL_CURRENT) takes the whole capacity")
    seen = kinds.call_apart(places.lock_all_memory, shm, when, shm_bytes=64 * MIB)
    if seen is None:
        pytest.skip("this process may not lock all its memory")
    assert seen["after"] <= seen["before"] + MIB // 4
    assert seen.get("attached", 0) <= seen["after"] + MIB // 4
    assert seen["used"] <= seen["before"] + 3 * MIB  # a large page may be two
    assert seen["returned"] == seen["committed"] >= MIB
    assert seen["trimmed"] <= seen["used"] - MIB  # trim() means it
    assert seen["idle"] == 0
    if when == "before":
        assert seen["all"], "not locked at all"
        assert seen["lazily"]


@pytest.mark.parametrize("shm", ["posix", "file"])
def test_a_small_limit_of_locked_memory_does_not_keep_a_process_out(shm: str) -> None:
    text = kinds.call_apart(places.attach_with_little_to_lock, shm, 8 * MIB, shm_bytes=64 * MIB)
    assert text == "ok"


@pytest.mark.parametrize("shm", ["posix", "file", "sysv"])
def test_a_limit_of_locked_memory_that_is_used_up_is_named(shm: str) -> None:
    limit = 4 * MIB if shm == "sysv" else 0
    text = kinds.call_apart(places.attach_with_little_to_lock, shm, limit, shm_bytes=256 * MIB)
    assert text.startswith("MemoryError: "), text
    assert "RLIMIT_MEMLOCK" in text
    assert f"{limit:,} bytes" in text
    assert "before mlockall()" in text

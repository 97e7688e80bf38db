"""File systems other than tmpfs: full ones raise HeapFull, unsuitable ones are refused."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import kinds
import places
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 1 << 20

DISKS = {
    "ext4": (64, ["mkfs.ext4", "-q"]),
    "ext4 without a journal": (64, ["mkfs.ext4", "-q", "-O", "^has_journal"]),
    "ext4 with large blocks": (64, ["mkfs.ext4", "-q", "-b", "4096"]),
    "xfs": (320, ["mkfs.xfs", "-q"]),
    "btrfs": (128, ["mkfs.btrfs", "-q"]),
}


def made_image(folder: Path, mebibytes: int, command: list[str]) -> str:
    """Make the image of a file system; skip the test if that is not possible."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount the image of a file system")
    tool = shutil.which(command[0], path=f"{os.environ.get('PATH', '')}:/sbin:/usr/sbin")
    if tool is None:
        pytest.skip(f"there is no {command[0]}")
    kind = command[0].partition(".")[2]
    if kind not in Path("/proc/filesystems").read_text().split():
        pytest.skip(f"the kernel has no {kind}")
    image = folder / "image"
    with image.open("wb") as file:
        file.truncate(mebibytes * MIB)
    subprocess.run([tool, *command[1:], str(image)], check=True, stdout=subprocess.DEVNULL)
    return str(image)


@pytest.mark.parametrize("name", DISKS)
def test_a_full_disk_is_an_error_and_never_a_bus_error(name: str, tmp_path: Path) -> None:
    image = made_image(tmp_path, *DISKS[name])
    smallest = MIB if name == "btrfs" else 64  # which is very slow with its last bytes
    seen = kinds.call_apart(places.fill_a_disk, image, smallest)
    assert seen["bytes"] > 20 * MIB
    assert "'/mnt/heap'" in seen["full"]
    assert "file system /mnt is full" in seen["full"]
    assert seen["as written"]
    assert seen["child"] == 0
    assert seen["committed"] == 0
    assert seen["blocks"] < 4 * MIB  # trim() has given the rest back
    assert seen["check"] == []
    assert seen["left"] == []


def test_a_file_system_that_cannot_reserve_memory_is_refused(tmp_path: Path) -> None:
    seen = kinds.call_apart(places.fill_a_disk, made_image(tmp_path, 64, ["mkfs.ext2", "-q"]))
    assert "'/mnt/heap'" in seen["refused"]
    assert "fallocate" in seen["refused"]
    assert "use tmpfs" in seen["refused"]
    assert seen["left"] == []


# hugetlbfs ----------------------------------------------------------------------------------

POOL = Path("/proc/sys/vm/nr_hugepages")


@contextlib.contextmanager
def large_pages(count: int) -> Iterator[None]:
    """Give the machine so many more large pages meanwhile; one test at a time."""
    if os.geteuid() != 0:
        pytest.skip("only root can reserve large pages")
    with POOL.open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = int(POOL.read_text())
        try:
            POOL.write_text(str(before + count))
            if int(POOL.read_text()) < before + count:
                pytest.skip("the machine has not enough memory in one piece")
            yield
        finally:
            POOL.write_text(str(before))


@pytest.mark.parametrize("sem", ["futex", "posix", "sysv"])
def test_a_heap_on_hugetlbfs_counts_large_pages(sem: str) -> None:
    with large_pages(48):
        seen = kinds.call_apart(places.use_large_pages, sem, 45)
    taken, committed, files = seen["new"]
    assert taken <= 8 * places.LARGE
    assert committed == 0
    assert files == ["large"]
    assert seen["received"]
    assert seen["bytes"] > 50 * MIB
    assert seen["as written"]
    assert all(abs(count) <= 4 * places.LARGE for count in seen["uncounted"]), seen["uncounted"]
    assert seen["at last"] == 0
    assert seen["check"] == []
    assert seen["left"] == [[], []]


def test_too_few_large_pages_are_an_error_that_says_so() -> None:
    with large_pages(20):
        seen = kinds.call_apart(places.use_large_pages, "futex", 18)
    assert "no large pages of 2.0 MiB left" in seen["full"]
    assert "vm.nr_hugepages" in seen["full"]
    assert seen["bytes"] > 10 * MIB
    assert seen["as written"]
    assert seen["check"] == []


@pytest.mark.parametrize("sem", ["futex", "posix", "sysv"])
def test_mode_and_owner_of_a_heap_on_hugetlbfs_can_be_changed(sem: str) -> None:
    with large_pages(16):
        found = kinds.call_apart(places.permit_on_large_pages, sem)
    assert sorted(found) == [["0o100660", 61001, 61002], ["0o10660", 61001, 61002]]


@pytest.mark.parametrize("sem", ["futex", "posix"])
def test_a_creator_killed_on_hugetlbfs_leaves_what_the_next_one_removes(sem: str) -> None:
    with large_pages(16):
        files = kinds.call_apart(places.kill_a_creator_on_large_pages, sem)
    assert files == [[".half.making", "half"], ["half"], []]

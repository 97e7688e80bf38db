"""A limit of the kernel is named with its number and the way out, and nothing half-made stays."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import kinds
import pytest
import refused

import ipcheap

if TYPE_CHECKING:
    from pathlib import Path

KINDS = pytest.mark.parametrize("kind", kinds.ALL, ids=str)
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root may change limits of the kernel")


@KINDS
def test_descriptors(kind: kinds.Kind, tmp_path: Path) -> None:
    said = kinds.call_apart(refused.make_with_few_descriptors, *kind, str(tmp_path))
    assert len(said) >= 3
    for name, number, text in said:
        assert (name, number) == ("OSError", 24), text
        assert "ulimit -n" in text


@KINDS
def test_file_size(kind: kinds.Kind, tmp_path: Path) -> None:
    numbers = [0, 100, 1 << 20]
    said = kinds.call_apart(refused.make_within, "RLIMIT_FSIZE", numbers, *kind, str(tmp_path))
    for number, outcome in zip(numbers, said, strict=True):
        if kind.shm == "sysv" and number == 1 << 20:
            assert outcome == []  # its file is short
            continue
        assert outcome[0] == "HeapFull"
        assert f"larger than {'1.0 MiB' if number == 1 << 20 else f'{number} bytes'}" in outcome[2]
        assert "ulimit -f" in outcome[2]


@KINDS
def test_addresses(kind: kinds.Kind, tmp_path: Path) -> None:
    ((name, _, text),) = kinds.call_apart(
        refused.make_within, "RLIMIT_AS", [80 << 20], *kind, str(tmp_path)
    )
    assert name == ("HeapFull" if kind.shm == "sysv" else "MemoryError")
    assert "may use 80.0 MiB of addresses (ulimit -v, RLIMIT_AS)" in text


@ROOT
def test_system_v(tmp_path: Path) -> None:
    said = kinds.call_apart(refused.make_within_system_v_limits, str(tmp_path))
    for what, words in {
        "shmmax sysv": "may have 9.5 MiB (kernel.shmmax)",
        "shmmni sysv": "may have 0 (kernel.shmmni)",
        "shmall sysv": "may have 400.0 KiB together (kernel.shmall)",
        "sem posix": "may have 0 (the fourth number of kernel.sem)",
        "sem memfd": "may have 0 (the fourth number of kernel.sem)",
        "memory": "does not grant so much memory",
    }.items():
        name, _, text = said.pop(what)
        assert name == "HeapFull"
        assert words in text
        assert "/dev/shm" not in text
    assert said == {}


@ROOT
@pytest.mark.parametrize(
    ("kind", "options", "name", "words"),
    [
        ("ramfs", "mode=755", "OSError", "cannot reserve memory (fallocate) or give it back"),
        ("tmpfs", "ro", "OSError", "is mounted read-only; choose another folder"),
        ("tmpfs", "nr_inodes=1", "HeapFull", "holds as many files as it may (1); remove files"),
        ("tmpfs", "nr_inodes=2", "HeapFull", "holds as many files as it may (2); remove files"),
        ("tmpfs", "size=4k", "HeapFull", " of 4.0 KiB left); free records"),
    ],
)
def test_file_systems(kind: str, options: str, name: str, words: str, tmp_path: Path) -> None:
    said = kinds.call_apart(refused.make_on, kind, options, str(tmp_path))
    assert said[0] == name
    assert words in said[2]
    assert str(tmp_path) in said[2]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no folder {tmp_path}/none") as caught:
        ipcheap.Heap.create(f"{tmp_path}/none/heap", "1MiB", shm="file")
    assert not isinstance(caught.value, ipcheap.Error)
    with pytest.raises(ipcheap.HeapNotFound):
        ipcheap.Heap.attach(f"{tmp_path}/none/heap")


@pytest.mark.parametrize("length", [230, 238, 239, 250, 255, 256, 300])
def test_a_name_that_is_too_long(length: int, tmp_path: Path) -> None:
    path = f"{tmp_path}/{'x' * length}"
    if length <= 238:
        with ipcheap.Heap.create(path, "1MiB", shm="file", sem="posix") as heap:
            heap.add_record_channel(1)
            with heap.consumer(1) as consumer:
                assert consumer.fileno() >= 0
            heap.unlink()
    else:
        for use in (ipcheap.Heap.attach, ipcheap.unlink):
            with pytest.raises(ValueError, match="file name may have 238 bytes"):
                use(path)
        with pytest.raises(ValueError, match="file name may have 238 bytes"):
            ipcheap.Heap.create(path, "1MiB", shm="file")
    assert os.listdir(tmp_path) == []


def test_a_path_that_is_too_long(tmp_path: Path) -> None:
    path = f"{tmp_path}/" + "x/" * 2100 + "heap"
    with pytest.raises(ValueError, match="all of it 4071"):
        ipcheap.Heap.attach(path)


@pytest.mark.parametrize("mode", [0o444, 0o400, 0o200, 0o077, 0])
@pytest.mark.parametrize("shm", ["posix", "sysv", "file", "memfd"])
def test_a_mode_without_the_owner_is_refused(
    shm: str, mode: int, heap_name: str, tmp_path: Path
) -> None:
    place = kinds.Kind(shm, "futex").place(heap_name, tmp_path)
    with pytest.raises(ValueError, match="mode must let the owner read and write"):
        ipcheap.Heap.create(place, "1MiB", shm=shm, mode=mode)
    assert os.listdir(tmp_path) == []
    assert not os.path.exists(f"/dev/shm/ipcheap.{heap_name}")

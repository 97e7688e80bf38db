"""What callers may pass, and which error anything else raises."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest

import ipcheap
from ipcheap import _arguments, sizes

KIND: dict[str, Any] = {"shm": "memfd", "capacity": "1MiB"}


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("65536", 65536),
        ("64KiB", 65536),
        ("64 KiB", 65536),
        ("1.5MiB", 3 << 19),
        ("1GiB", 1 << 30),
        ("100kB", 100_000),
        ("1MB", 1_000_000),
        (70000, 70000),
    ],
)
def test_a_size_may_be_written_with_a_unit(text: int | str, nbytes: int) -> None:
    assert _arguments.size(text) == nbytes
    assert sizes.parse(text) == nbytes


@pytest.mark.parametrize("text", ["", "MiB", "64M", "-1MiB", "1 2MiB", "64mib", "٣MiB", "1e6", -1])
def test_a_size_that_is_none_is_a_value_error(text: int | str) -> None:
    with pytest.raises(ValueError, match="size"):
        _arguments.size(text)


@pytest.mark.parametrize("size", [1.5, None, True, b"64KiB"])
def test_a_size_of_another_type_is_a_type_error(size: Any) -> None:
    with pytest.raises(TypeError):
        _arguments.size(size)


@pytest.mark.parametrize("name", ["", "a b", ".hidden", "a" * 201, "ä", "a\n", "a\0", "../x", "a/"])
def test_a_bad_heap_name_is_a_value_error(name: str) -> None:
    for make in (ipcheap.Heap.create, ipcheap.Heap.open, ipcheap.Heap.attach, ipcheap.unlink):
        with pytest.raises(ValueError, match="heap"):
            make(name)


def test_a_path_is_for_files_only(heap_name: str) -> None:
    with pytest.raises(ValueError, match="path"):
        ipcheap.Heap.create(f"/dev/shm/{heap_name}")
    with pytest.raises(ValueError, match="path"):
        ipcheap.Heap.create(heap_name, shm="file")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"shm": "shmem"}, ValueError),
        ({"sem": "pthread"}, ValueError),
        ({"shm": None}, TypeError),
        ({"mode": 0o1777}, ValueError),
        ({"mode": "600"}, TypeError),
        ({"capacity": 65535}, ValueError),
        ({"capacity": 2**70}, ValueError),
        ({"capacity": 1e6}, TypeError),
        ({"name": 7}, TypeError),
    ],
)
def test_a_heap_is_not_made_of_bad_arguments(
    heap_name: str, change: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        ipcheap.Heap.create(**{"name": heap_name, **change})
    assert not os.path.exists(f"/dev/shm/ipcheap.{heap_name}")


@pytest.mark.parametrize("channel", [0, 1, 2**63 - 1, "a", "ä" * 24, "7", "a\0b"])
def test_ids_are_numbers_or_texts(channel: int | str) -> None:
    with ipcheap.Heap.create(**KIND) as heap:
        heap.add_record_channel(channel, 8)
        assert list(heap.channels) == [channel]
        assert heap.channel(channel).id == channel


def test_a_number_and_its_text_are_two_channels() -> None:
    with ipcheap.Heap.create(**KIND) as heap:
        heap.add_record_channel(7, 8)
        assert 7 in heap.channels
        assert "7" not in heap.channels


@pytest.mark.parametrize("channel", [-1, 2**63, "", "a" * 49, "ä" * 25, "\ud800"])
def test_an_id_out_of_range_is_a_value_error(channel: int | str) -> None:
    with ipcheap.Heap.create(**KIND) as heap:
        for use in (heap.add_record_channel, heap.channel, heap.producer, heap.remove_channel):
            with pytest.raises(ValueError):  # noqa: PT011
                use(channel)


@pytest.mark.parametrize("channel", [True, 1.0, b"a", None])
def test_an_id_of_another_type_is_a_type_error(channel: Any) -> None:
    with ipcheap.Heap.create(**KIND) as heap:
        for use in (heap.add_record_channel, heap.channel, heap.consumer, heap.remove_channel):
            with pytest.raises(TypeError):
                use(channel)


def test_a_timeout_is_seconds_or_none() -> None:
    assert _arguments.timeout(None) == math.inf
    assert _arguments.timeout(2) == 2.0
    for bad in (-1, -0.001, math.nan):
        with pytest.raises(ValueError, match="timeout"):
            _arguments.timeout(bad)
    text: Any = "1"
    with pytest.raises(TypeError):
        _arguments.timeout(text)

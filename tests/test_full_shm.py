"""A file system without room: an error, not a signal; and the heap goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import apart
import kinds
import pytest

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def test_a_full_file_system_is_an_error_and_the_heap_goes_on() -> None:
    seen = kinds.call_apart(apart.fill_a_small_file_system, shm_bytes=16 * MIB)
    assert seen["bytes"] >= 12 * MIB  # most of what there was
    for nbytes in (1 << 20, 100_000, 5000, 64):
        text = seen[f"refused {nbytes}"]
        assert "'full'" in text, text  # the heap
        assert "/dev/shm" in text, text  # the limit
        assert "free" in text, text  # the way out
    for what in ("channel", "segment", "send", "send_many"):
        assert "/dev/shm" in seen[f"refused {what}"], what
    assert seen["names"] == ["c", "large"]  # whose ring is made for its first endpoint
    assert seen["check when full"] == seen["check at last"] == []
    assert seen["left"][0] == 0
    assert seen["left"][1] < MIB
    assert seen["objects"] == []


def test_a_ring_has_its_memory_before_it_is_used() -> None:
    assert kinds.call_apart(apart.fill_rings_of_a_small_file_system, shm_bytes=16 * MIB) == []


@pytest.mark.parametrize("nbytes", [100, 30_000, 200_000])
def test_room_that_others_take_is_an_error_until_it_is_back(nbytes: int) -> None:
    seen = kinds.call_apart(apart.fill_while_others_take_the_room, nbytes, shm_bytes=4 * MIB)
    assert nbytes < 1000 or "/dev/shm" in seen["refused"]
    assert seen["check"] == []


@pytest.mark.parametrize("kind", [k for k in kinds.NAMED if k.shm == "posix"], ids=str)
def test_a_heap_that_cannot_be_made_leaves_nothing(kind: kinds.Kind, tmp_path: Path) -> None:
    happened = kinds.call_apart(apart.create_where_there_is_little_room, kind, str(tmp_path))
    assert happened[0][1], "a heap in one page?"
    assert "/dev/shm" in happened[0][1]
    assert "'small'" in happened[0][1]
    assert happened[-1][1] == ""

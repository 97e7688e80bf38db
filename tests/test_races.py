"""Races about the name of a heap, a system call at a time: races.py says which."""

from __future__ import annotations

import os
import time

import kinds
import pytest
import races
import stepped

pytestmark = pytest.mark.skipif(not stepped.is_possible(), reason="no process can be traced here")
ROUNDS = int(os.environ.get("IPCHEAP_RACE_ROUNDS", "200"))
SOME = pytest.mark.parametrize(
    "kind", [kinds.Kind("posix", "futex"), kinds.Kind("sysv", "sysv")], ids=str
)


@pytest.mark.parametrize("race", list(races.RACES))
def test_a_heap_works_or_is_not_there_and_nothing_stays_behind(race: str) -> None:
    seed = time.time_ns() % 2**32
    rounds, seen, _ = kinds.call_apart(
        races.at_random, race, ROUNDS, seed, patience=kinds.PATIENCE + ROUNDS
    )
    assert sum(rounds.values()) == ROUNDS
    assert len(seen) > len(races.RACES[race])  # they end in more than one way


@SOME
def test_a_creator_that_comes_second_leaves_the_heap_alone(kind: kinds.Kind) -> None:
    kinds.call_apart(races.each_stop, "opening", *kind, False, "create_it", "open_it")


@SOME
def test_a_descriptor_is_made_while_another_process_unlinks(kind: kinds.Kind) -> None:
    kinds.call_apart(races.each_stop, "opening", *kind, True, "open_and_unlink", "unlink_it")


@SOME
def test_a_pipe_is_not_taken_for_that_of_a_later_heap(kind: kinds.Kind) -> None:
    assert kinds.call_apart(races.renew_at_each_stop, *kind) > 10


@SOME
def test_what_opens_at_any_moment_of_a_removal_is_not_removed(kind: kinds.Kind) -> None:
    kinds.call_apart(races.each_stop, "stale", *kind, True, "remove_stale", "serve")


@SOME
def test_a_removal_that_was_killed_is_completed_by_opening(kind: kinds.Kind) -> None:
    kinds.call_apart(races.each_stop, "killed", *kind, True, "remove_stale", "serve")


def test_a_heap_that_lacks_its_system_v_semaphore_is_half_removed(heap_name: str) -> None:
    said = kinds.call_apart(races.lose_the_semaphore, heap_name)
    assert said == ["same", "half-removed", "HeapNotFound", "new"]

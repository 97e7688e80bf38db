"""What the library finds out by trying: how it is shown, and how the environment pins it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

MAKE = """
import ipcheap
with ipcheap.Heap.create({name!r}, "256MiB") as heap:
    heap.unlink()
    data = bytes(1 << 20)
    for _ in range({count}):
        with heap.allocate_record(len(data)) as record:
            record[:] = data
    (me,) = heap.participants()
    print(me.extents, *me.copies_past)
"""


def run(
    name: str, count: int, program: str = MAKE, **variables: str
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", program.format(name=name, count=count)],
        env=environment | variables,
        cwd="/",  # where no folder of sources hides the installed package
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


VARIABLES = {
    "IPCHEAP_COPY": "'learn', 'through', 'past'",
    "IPCHEAP_EXTENTS": "'learn', 'lowest', 'in-turn'",
    "IPCHEAP_SPIN": "'learn', 'never', 'longest'",
    "IPCHEAP_DOZE": "'learn', 'never'",
    "IPCHEAP_COREDUMP": "'exclude', 'include'",
}
SIZES = [str(16384 << n) for n in range(24)]


@pytest.mark.parametrize("extents", ["lowest", "in-turn"])
@pytest.mark.parametrize(("copy", "past"), [("through", []), ("past", SIZES)])
def test_a_pinned_way_is_shown_and_stays(
    heap_name: str, extents: str, copy: str, past: list[str]
) -> None:
    done = run(heap_name, 200, IPCHEAP_EXTENTS=extents, IPCHEAP_COPY=copy)
    assert done.stdout.split() == [extents, *past], done.stderr


def test_what_is_not_pinned_begins_with_the_lowest_place_and_the_caches(heap_name: str) -> None:
    assert run(heap_name, 0).stdout.split() == ["lowest"]
    assert run(heap_name, 0, IPCHEAP_COPY="", IPCHEAP_EXTENTS="learn").stdout.split() == ["lowest"]


WAIT = """
import contextlib, ipcheap
with ipcheap.Heap.create({name!r}, "1MiB") as heap:
    heap.add_record_channel(1, 4)
    with heap.consumer(1) as consumer:
        for _ in range(3):
            with contextlib.suppress(TimeoutError):
                consumer.recv(timeout=0.01)
        learnt = consumer.statistics()
    heap.unlink()
print(learnt.spins > 0, learnt.parks)
"""


@pytest.mark.parametrize(
    ("spin", "learns"), [("learn", "True"), ("never", "False"), ("longest", "False")]
)
def test_a_pinned_spin_is_not_learnt(heap_name: str, spin: str, learns: str) -> None:
    done = run(heap_name, 0, program=WAIT, IPCHEAP_SPIN=spin, IPCHEAP_DOZE="never")
    assert done.stdout.split() == [learns, "3"], done.stderr


@pytest.mark.parametrize("name", VARIABLES)
def test_a_wrong_word_is_a_value_error_that_names_variable_and_words(
    heap_name: str, name: str
) -> None:
    done = run(heap_name, 0, **{name: "fast"})
    error = done.stderr.strip().splitlines()[-1]
    assert error == (
        f"ValueError: the environment variable {name} must be one of {VARIABLES[name]}, not 'fast'"
    )
    assert not os.path.exists(f"/dev/shm/ipcheap.{heap_name}")

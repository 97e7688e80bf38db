"""A fork at any moment leaves a child that works: also inside an import or a lock of the core."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ipcheap
from ipcheap import testing

if TYPE_CHECKING:
    from collections.abc import Iterator

# What a program calls first, each of which imports something.
PROGRAM = """
import os, random, signal, sys, threading, traceback

def first_calls(order):
    import ipcheap
    heap = ipcheap.Heap.create(None, "4MiB", shm="memfd")
    channel = f"c{threading.get_native_id()}"
    heap.add_record_channel(channel)

    def sent(send):
        with heap.producer(channel) as producer, heap.consumer(channel) as consumer:
            send(producer)
            consumer.recv_record(timeout=5).free()

    async def awaited():
        with heap.producer(channel) as producer, heap.consumer(channel) as consumer:
            received = asyncio.create_task(consumer.arecv())
            await asyncio.sleep(0)
            producer.send(b"1")
            await received

    def asynchronous():
        global asyncio
        import asyncio
        asyncio.run(awaited())

    def heard():
        bus = heap.add_bus(f"{channel} bus")
        with bus.listen() as listener:
            bus.broadcast(b"1")
            listener.recv_record(timeout=5).free()

    calls = [
        heard,
        heap.statistics, heap.participants, heap.recover, ipcheap.heaps, lambda: heap.channels,
        lambda: ipcheap.Lock, lambda: ipcheap.wait([]), lambda: ipcheap.Codec, asynchronous,
        lambda: sent(lambda producer: producer.send_object({"a": 1})),
        lambda: ipcheap.Heap.create(f"{NAME}.{channel}", "1MiB", sem="sysv").unlink(),
    ]
    if ARRAYS:
        calls.append(lambda: sent(lambda producer: producer.send_record(
            producer.allocate_array(2, [("a", "u4"), ("b", "f8")]))))
    random.Random(order).shuffle(calls)
    for call in calls:
        call()

def fork_and_call():
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        code = 1
        try:
            first_calls(1)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
"""

LISTED = """
found = []

def note(event, arguments):
    if event == "exec" and arguments[0].co_filename.endswith(".py"):
        found.append(arguments[0].co_filename)

sys.addaudithook(note)
first_calls(0)
# Nothing can be done about a fork before the package has begun.
begun = [name.endswith("ipcheap/_fork.py") for name in found].index(True)
print(*found[begun + 1:], sep="\\n")
"""

IN_THE_MIDDLE = """
reached, parent = threading.Event(), os.getpid()

def stop(event, arguments):
    if event == "exec" and arguments[0].co_filename == STOP_AT and os.getpid() == parent:
        reached.set()
        threading.Event().wait()

sys.addaudithook(stop)
threading.Thread(target=first_calls, args=(0,), daemon=True).start()
if not reached.wait(20):
    sys.exit("it is not imported")
code = fork_and_call()
os._exit(code if code >= 0 else 100 - code)
"""

AT_RANDOM = """
import time
import ipcheap
dice = random.Random(SEED)
for order in range(2):
    threading.Thread(target=first_calls, args=(order,), daemon=True).start()
codes = []
for _ in range(3):
    time.sleep(dice.random() * 0.15)
    codes.append(fork_and_call())
os._exit(max(abs(code) for code in codes))
"""


def run(more: str, **values: object) -> str:
    given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
    done = subprocess.run(
        [sys.executable, "-P", "-W", "ignore::DeprecationWarning", "-c", given + PROGRAM + more],
        capture_output=True,
        text=True,
        timeout=testing.PATIENCE,
    )
    assert done.returncode == 0, f"{values}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def name(heap_name: str) -> Iterator[str]:
    """Return a name for a program that may end while a thread of it creates a heap."""
    yield heap_name
    folder = Path("/dev/shm")
    for made in (*folder.glob(f"ipcheap.{heap_name}.c*"), *folder.glob(f".ipcheap.{heap_name}.c*")):
        with contextlib.suppress(ipcheap.HeapNotFound):
            ipcheap.unlink(
                made.name.removeprefix(".").removeprefix("ipcheap.").removesuffix(".making")
            )


@pytest.fixture(scope="module")
def imported() -> list[str]:
    """Return the files of the modules that a program's first calls import."""
    return run(LISTED, NAME=f"fork.{os.getpid()}", ARRAYS=False).split("\n")[:-1]


@pytest.mark.parametrize("turn", range(20))
def test_a_child_forked_in_the_middle_of_an_import_can_import(
    turn: int, name: str, imported: list[str]
) -> None:
    always = [
        next(file for file in imported if file.endswith(end))
        for end in (
            "ipcheap/heap.py",
            "ipcheap/results.py",
            "/json/decoder.py",
            "ipcheap/sync.py",
            "/asyncio/base_tasks.py",  # imported by an extension, which some Pythons have built in
        )
    ]
    # Which `traceback` has imported from Python 3.14 on.
    always += [file for file in imported if file.endswith("/dataclasses.py")]
    chosen = [*always, *random.Random(0).sample(imported, 16)][turn]
    run(IN_THE_MIDDLE, STOP_AT=chosen, NAME=name, ARRAYS=False)


@pytest.mark.parametrize("seed", range(8))
def test_a_child_forked_at_a_random_moment_of_first_calls_works(seed: int, name: str) -> None:
    run(AT_RANDOM, SEED=seed, NAME=name, ARRAYS=False)

"""A normal end of a process is an end to its peers, and no death, however it was started."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import billiard
import end_workers
import peers
import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

METHODS = ("fork", "spawn", "forkserver")


@pytest.fixture(autouse=True)
def _forks_beside_threads() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "1MiB") as heap:
        heap.add_record_channel("c", 4)
        heap.add_record_channel("d", 4)
        yield heap
        assert heap.check() == []


def insist_on_end(heap: ipcheap.Heap, end: type[Exception] = ipcheap.ChannelClosed) -> None:
    with heap.consumer("c") as consumer:
        assert consumer.recv(timeout=peers.PATIENCE) == b"done"
        with pytest.raises(end):
            consumer.recv(timeout=peers.PATIENCE)


def in_process(context: Any, heap: ipcheap.Heap, work: Callable[[str], None]) -> None:
    assert heap.name is not None
    process = context.Process(target=work, args=(heap.name,))
    process.start()
    insist_on_end(heap)
    process.join(peers.PATIENCE)
    assert process.exitcode == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "work",
    [
        end_workers.send,
        end_workers.send_from_grandchild,
        end_workers.send_from_forked_grandchild,
        end_workers.send_from_thread,
        end_workers.wait_in_daemon,
    ],
)
def test_a_process_of_multiprocessing_ends(
    heap: ipcheap.Heap, method: str, work: Callable[[str], None]
) -> None:
    in_process(multiprocessing.get_context(method), heap, work)


@pytest.mark.parametrize("method", METHODS)
def test_a_process_of_billiard_ends(heap: ipcheap.Heap, method: str) -> None:
    in_process(billiard.get_context(method), heap, end_workers.send)


@pytest.mark.parametrize("package", [multiprocessing, billiard])
def test_a_process_that_uses_what_it_inherited_ends(heap: ipcheap.Heap, package: Any) -> None:
    process = package.get_context("fork").Process(
        target=end_workers.send_by_inherited, args=(heap,)
    )
    process.start()
    insist_on_end(heap)
    process.join(peers.PATIENCE)


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_of_an_executor_ends(heap: ipcheap.Heap, method: str) -> None:
    context = multiprocessing.get_context(method)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        pool.submit(end_workers.send, heap.name or "").result(peers.PATIENCE)
    insist_on_end(heap)


@pytest.mark.parametrize("method", METHODS)
def test_a_worker_of_a_pool_ends(heap: ipcheap.Heap, method: str) -> None:
    pool = multiprocessing.get_context(method).Pool(1)
    pool.apply(end_workers.send, (heap.name or "",))
    pool.close()
    pool.join()
    insist_on_end(heap)


def test_a_worker_of_a_pool_that_is_terminated_dies(heap: ipcheap.Heap) -> None:
    with multiprocessing.get_context("fork").Pool(1) as pool, heap.consumer("c") as consumer:
        pool.apply_async(end_workers.send_and_stay, (heap.name or "",))
        assert consumer.recv(timeout=peers.PATIENCE) == b"done"
        pool.terminate()
        with pytest.raises(ipcheap.PeerDied):
            consumer.recv(timeout=peers.PATIENCE)


BY_FORK = """
import os, sys, ipcheap
heap = ipcheap.Heap.attach(sys.argv[1])
kept = []
if LATE: import multiprocessing
child = os.fork()
if child == 0:
    if LATE: import multiprocessing.pool
    kept.append(heap.producer("c"))
    kept[0].send(b"done")
    LEAVE
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

LATE_MULTIPROCESSING = """
import sys, ipcheap
heap = ipcheap.Heap.attach(sys.argv[1])
heap.allocate_record(8).free()
import multiprocessing  # the heap is open already
kept = []

def work():
    kept.append(heap.producer("c"))
    kept[0].send(b"done")

child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
sys.exit(child.exitcode)
"""

TWO_FIRST_THREADS = """
import multiprocessing.util, sys, threading, ipcheap
from ipcheap import _handle
finalize, kept, failed = multiprocessing.util.Finalize, [], []

def send():
    kept.append(ipcheap.Heap.attach(sys.argv[1]).producer("c"))
    kept[0].send(b"done")

def beside(*arguments, **options):  # another thread comes while this one registers
    multiprocessing.util.Finalize = finalize
    threading.excepthook = lambda given: failed.append(given.exc_value)
    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    return finalize(*arguments, **options)

def work():
    # As in a child that has imported the package before multiprocessing.util.
    multiprocessing.util._finalizer_registry.clear()
    _handle._finalizer, _handle._hooked_at = None, -1
    multiprocessing.util.Finalize = beside
    ipcheap.Heap.attach(sys.argv[1]).allocate_record(8).free()
    assert multiprocessing.util.Finalize is finalize
    assert failed == []

child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join()
sys.exit(child.exitcode)
"""

DAEMON_THREAD = """
import sys, threading, time, ipcheap
heap = ipcheap.Heap.attach(sys.argv[1])
kept = []

def work():
    kept.append(heap.producer("c"))
    kept[0].send(b"done")
    kept.append(heap.consumer("d"))
    kept[1].recv()

threading.Thread(target=work, daemon=True).start()
while len(kept) < 2:
    time.sleep(0.001)
time.sleep(0.05)
"""

DAEMON_THREAD_THAT_GOES_ON = """
import atexit, sys, threading, time

def last():  # runs after the heap has been closed
    thread.join(20)
    assert not thread.is_alive()
    assert kept[-1] == "cleaned up"
    try:
        heap.statistics()
    except ipcheap.HeapClosed:
        pass

atexit.register(last)
import ipcheap
heap = ipcheap.Heap.attach(sys.argv[1])
kept = []

def work():
    try:
        with heap.producer("c") as producer, heap.consumer("d") as consumer:
            kept.append(producer)
            producer.send(b"done")
            CALL
    finally:
        kept.append("cleaned up")

thread = threading.Thread(target=work, daemon=True)
thread.start()
while not kept:
    time.sleep(0.001)
time.sleep(0.05)
"""


def run(program: str, heap: ipcheap.Heap) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, heap.name or ""],
        capture_output=True,
        text=True,
        timeout=peers.PATIENCE,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("leave", "end"),
    [
        ("sys.exit(0)", ipcheap.ChannelClosed),
        ("heap.close(); os._exit(0)", ipcheap.ChannelClosed),
        ("os._exit(0)", ipcheap.PeerDied),
    ],
)
def test_a_child_of_a_plain_fork_ends_if_python_ends_it_or_it_closes(
    heap: ipcheap.Heap, leave: str, end: type[Exception], late: bool
) -> None:
    run(BY_FORK.replace("LEAVE", leave).replace("LATE", str(late)), heap)
    insist_on_end(heap, end)


def test_multiprocessing_may_be_imported_after_the_heap_was_opened(heap: ipcheap.Heap) -> None:
    run(LATE_MULTIPROCESSING, heap)
    insist_on_end(heap)


def test_two_threads_of_a_child_may_make_its_first_calls(heap: ipcheap.Heap) -> None:
    run(TWO_FIRST_THREADS, heap)
    insist_on_end(heap)


@pytest.mark.parametrize("turn", range(3))
def test_a_process_ends_while_its_daemon_threads_wait(heap: ipcheap.Heap, turn: int) -> None:
    run(DAEMON_THREAD, heap)
    insist_on_end(heap)
    with heap.producer("d") as producer:
        for _ in range(4):
            producer.send(b"x")
        with pytest.raises(ipcheap.ChannelClosed):
            producer.send(b"x", timeout=peers.PATIENCE)


@pytest.mark.parametrize(
    "call",
    [
        "consumer.recv()",
        "while True: consumer.try_recv_record()",
        "while True: heap.statistics()",
        "ipcheap.wait([consumer])",
    ],
)
def test_a_daemon_thread_that_meets_the_end_of_the_process_ends_quietly(
    heap: ipcheap.Heap, call: str
) -> None:
    run(DAEMON_THREAD_THAT_GOES_ON.replace("CALL", call), heap)
    insist_on_end(heap)


def test_a_process_that_is_terminated_dies(heap: ipcheap.Heap) -> None:
    process = multiprocessing.get_context("fork").Process(
        target=end_workers.send_and_stay, args=(heap.name,)
    )
    process.start()
    with heap.consumer("c") as consumer:
        assert consumer.recv(timeout=peers.PATIENCE) == b"done"
        os.kill(process.pid or 0, signal.SIGTERM)
        with pytest.raises(ipcheap.PeerDied):
            consumer.recv(timeout=peers.PATIENCE)
    process.join(peers.PATIENCE)

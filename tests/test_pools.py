"""Heaps in pools of workers: every way to start a process, and many epochs of batches."""

from __future__ import annotations

import concurrent.futures
import importlib
import multiprocessing
import os
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import peers
import pool_workers
import psutil
import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

METHODS = ["spawn", "fork", "forkserver"]


@pytest.fixture(params=METHODS)
def context(request: pytest.FixtureRequest) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        yield multiprocessing.get_context(request.param)


@pytest.fixture(params=["named", "memfd"])
def heap(request: pytest.FixtureRequest, heap_name: str) -> Iterator[ipcheap.Heap]:
    shm = {"named": "posix", "memfd": "memfd"}[request.param]
    with ipcheap.Heap.create(heap_name, "16MiB", shm=shm) as heap:
        yield heap
        assert heap.check() == []
        assert heap.statistics().in_use == 0


def run_jobs(heap: ipcheap.Heap, count: int) -> None:
    """Give a serving process its jobs, and check its answers."""
    with heap.consumer("answers") as inbox, heap.producer("jobs") as outbox:
        inbox.wait_peer(30)  # the worker of the epoch before has closed
        for n in range(count):
            with outbox.loan((n + 1, 2), "i4") as job:
                job[:] = n
            assert (inbox.recv_array(timeout=30) == 2 * n).all()


def test_channels_are_arguments_of_processes(heap: ipcheap.Heap, context: Any) -> None:
    jobs, answers = heap.add_record_channel("jobs", 4), heap.add_record_channel("answers", 4)
    process = context.Process(target=pool_workers.serve, args=(jobs, answers))
    process.start()
    run_jobs(heap, 20)
    process.join(30)
    assert process.exitcode == 0


def test_channels_are_arguments_of_futures(heap: ipcheap.Heap, context: Any) -> None:
    jobs, answers = heap.add_record_channel("jobs", 4), heap.add_record_channel("answers", 4)
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        for _ in range(3):  # epochs
            future = pool.submit(pool_workers.serve, jobs, answers)
            run_jobs(heap, 10)
            future.result(30)


def test_a_heap_goes_through_a_pipe_to_a_running_process(heap: ipcheap.Heap, context: Any) -> None:
    heap.add_record_channel("answers", 4)
    ours, theirs = context.Pipe()
    process = context.Process(target=pool_workers.take_heap, args=(theirs,))
    process.start()
    ours.send(heap)
    with heap.consumer("answers") as consumer:
        assert consumer.recv_object(timeout=30) == {"pid": process.pid}
    process.join(30)
    assert process.exitcode == 0
    ours.close()
    theirs.close()


def test_a_subprocess_attaches_by_name(heap_name: str) -> None:
    program = (
        "import sys, ipcheap\n"
        "with ipcheap.Heap.attach(sys.argv[1]) as heap, heap.producer('answers') as producer:\n"
        "    with producer.loan((2, 2), 'f4') as lent:\n"
        "        lent[:] = 1.5\n"
    )
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("answers", 4)
        subprocess.run([sys.executable, "-P", "-c", program, heap_name], check=True, timeout=60)
        with heap.consumer("answers") as consumer:
            assert consumer.recv_array(timeout=5).tolist() == [[1.5, 1.5]] * 2


# Opened when a module is imported -----------------------------------------------------------


def test_workers_open_the_heap_when_they_import(heap_name: str, context: Any) -> None:
    with concurrent.futures.ProcessPoolExecutor(
        4, context, pool_workers.use_heap, (heap_name,)
    ) as pool:
        assert len(list(pool.map(pool_workers.import_and_work, range(40)))) == 40
        with ipcheap.Heap.attach(heap_name) as heap, heap.consumer("answers") as consumer:
            futures = [pool.submit(pool_workers.import_and_answer, n) for n in range(40)]
            for future in futures:
                future.result(30)
            assert {consumer.recv_object(timeout=0) for _ in futures} == set(range(40))
    with ipcheap.Heap.attach(heap_name) as heap:
        peers.until(lambda: heap.statistics().participants == 1)
        assert heap.statistics().in_use == 0
        assert heap.check() == []


def fork_after_import(count: int) -> int:
    """Import the module, and so its heap, in the parent before it forks."""
    opening = importlib.import_module("opening")
    opening.work(1)
    children = []
    for number in range(count):
        children.append(os.fork())
        if children[-1] == 0:
            try:
                opening.work(number)
                opening.answer(number)
            except BaseException:
                os._exit(1)
            os._exit(0)
    opening.work(count)
    return sum(os.waitpid(child, 0)[1] for child in children)


def test_children_forked_after_the_import_use_it_too(
    heap_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPCHEAP_TEST_HEAP", heap_name)
    with ipcheap.Heap.open(heap_name, "16MiB") as heap:
        with peers.run(fork_after_import, 20) as peer:
            assert peer.result() == 0
        with heap.consumer("answers") as consumer:
            assert {consumer.recv_object(timeout=0) for _ in range(20)} == set(range(20))
        heap.recover()
        peers.until(lambda: heap.statistics().participants == 1)
        assert heap.statistics().in_use == 0
        assert heap.check() == []


# A pool that loads batches --------------------------------------------------------------------

WORKERS, EPOCHS, BATCHES = 3, 25, 100_000


def load(heap: ipcheap.Heap, worker: int) -> None:
    """Send batches, one kind an epoch, as long as they are requested."""
    with (
        heap.consumer(f"wanted {worker}", timeout=30) as inbox,
        heap.producer(f"batches {worker}", timeout=30) as outbox,
    ):
        while True:
            try:
                epoch, first, count = inbox.recv_object(timeout=60)
            except ipcheap.ChannelClosed:
                return
            for number in range(first, first + count):
                if epoch % 5 == 0:
                    frame = np.full((4, 16), number, "f4")
                    outbox.send_object({"x": frame, "number": number}, timeout=60)
                else:
                    with outbox.loan((4, 16), "f4", timeout=60) as batch:
                        batch[:] = number


def private_bytes(pid: int) -> int:
    memory = psutil.Process(pid).memory_info()
    return int(memory.rss - memory.shared)


def run_epoch(consumers: list[ipcheap.Consumer], epoch: int, count: int) -> None:
    """Take batches from all workers in turn; keep a few for a while."""
    kept: list[Any] = []
    for n in range(count):
        for consumer in consumers:
            if epoch % 5 == 0:
                got = consumer.recv_object(timeout=60)
                batch = got["x"]
                assert got["number"] == n
            else:
                batch = consumer.recv_array(timeout=60)
            assert batch[0, 0] == n
            if n % 10 == 0:  # fewer than the ring has slots: they keep theirs
                kept = [*kept[-5:], batch[1:]]


def test_a_pool_of_loaders_stays_flat_over_many_epochs(heap_name: str) -> None:
    per_worker = BATCHES // EPOCHS // WORKERS + 1
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        for worker in range(WORKERS):
            heap.add_record_channel(f"wanted {worker}", 4)
            heap.add_record_channel(f"batches {worker}", 64)
        pool = [peers.run(load, heap, worker) for worker in range(WORKERS)]
        producers = [heap.producer(f"wanted {worker}") for worker in range(WORKERS)]
        consumers = [heap.consumer(f"batches {worker}") for worker in range(WORKERS)]
        pids = [os.getpid(), *(peer.pid for peer in pool)]
        seen = []
        for epoch in range(EPOCHS):
            for producer in producers:
                producer.send_object((epoch, 0, per_worker))
            run_epoch(consumers, epoch, per_worker)
            statistics = heap.statistics()
            seen.append((statistics.committed, *map(private_bytes, pids)))
        for producer in producers:
            producer.close()
        for peer in pool:
            peer.result()
            peer.__exit__()
        for consumer in consumers:
            consumer.close()
        peers.until(lambda: heap.statistics().in_use == 0)
        assert heap.check() == []
    # Both kinds of epoch have occurred by the fifth.
    for before, after in zip(np.max(seen[5:10], 0), np.max(seen[-5:], 0), strict=True):
        assert after - before < 1 << 20, seen

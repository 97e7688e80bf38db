"""What only graphs do: start several kernels, replace killed workers, and show what happens."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import time

from peers import GRAPHS

from workloads.workload import Figure, Workload

EDGES = 1000
PATIENCE = 30.0


def numbers(count, resume=0):
    yield from range(resume, count)


def plus(number):
    return number + 1


def whose(_number):
    """Return the process that was called."""
    return os.getpid()


def idle():
    """Yield nothing until the graph is stopped."""
    from ipcheap import graph

    while not graph.here().stopping:
        time.sleep(0.01)
    yield from ()


def ignore(_item):
    return None


def send_numbers(heap, count):
    with heap, heap.producer("0", PATIENCE) as out:
        for number in range(count):
            out.send_object(number)


def send_plus(heap, number):
    with (
        heap,
        heap.consumer(str(number), PATIENCE) as source,
        heap.producer(str(number + 1), PATIENCE) as out,
    ):
        for record in source:
            out.send_object(plus(record.object()))


def say_begun(connection):
    connection.send(None)


def repeated(work, seconds):
    """Return the median of what `work` returns, from one or more calls after a first one."""
    work()
    found, end = [], time.monotonic() + seconds
    while not found or time.monotonic() < end:
        found.append(work())
    return statistics.median(found)


def started_process(context):
    """Return the milliseconds until a new process runs its function."""
    ours, theirs = context.Pipe()
    begin = time.perf_counter_ns()
    process = context.Process(target=say_begun, args=(theirs,))
    process.start()
    ours.recv()
    ms = (time.perf_counter_ns() - begin) / 1e6
    process.join()
    ours.close()
    theirs.close()
    return ms


class Start(Workload):
    """A source and three kernels, until the first result; the fork server runs already."""

    key = "graph-start"
    title = "start of four kernels, to the first result"
    peers = ("ipcheap",)
    carries = GRAPHS
    figures = (
        Figure("graph_ms", "graph", "ms", more=False),
        Figure("hand_ms", "the same processes and channels by hand", "ms", more=False),
    )

    def run(self, key, peer, seconds):
        return {
            "graph_ms": repeated(self._graph, seconds / 2),
            "hand_ms": repeated(self._hand, seconds / 2),
        }

    def _graph(self):
        from ipcheap import graph

        begin = time.perf_counter_ns()
        made = graph.Graph()
        node = made.add(numbers, count=3)
        for _ in range(3):
            node = made.add(plus, node)
        results = made.results(node)
        next(results)
        ms = (time.perf_counter_ns() - begin) / 1e6
        list(results)
        return ms

    def _hand(self):
        import ipcheap

        context = multiprocessing.get_context("forkserver")
        begin = time.perf_counter_ns()
        with ipcheap.Heap.create(None, "1GiB", shm="memfd") as heap:
            for number in range(4):
                heap.add_record_channel(str(number), 16)
            parts = [(send_numbers, (heap, 3)), *((send_plus, (heap, n)) for n in range(3))]
            processes = [context.Process(target=part, args=args) for part, args in parts]
            for process in processes:
                process.start()
            with heap.consumer("3", PATIENCE) as results:
                results.recv_object()
                ms = (time.perf_counter_ns() - begin) / 1e6
                for record in results:
                    record.object()
            for process in processes:
                process.join()
        return ms


class Replace(Workload):
    """From the kill of a worker to the first result of the one in its place."""

    key = "graph-replace"
    title = "a killed worker, until its replacement gives a result"
    peers = ("ipcheap",)
    carries = GRAPHS
    figures = (
        Figure("replace_ms", "until the next result", "ms", more=False),
        Figure("process_ms", "start of a process", "ms", more=False),
        Figure("over_ms", "over the start of a process", "ms", more=False),
    )

    def run(self, key, peer, seconds):
        replace = repeated(self._replace, seconds / 2)
        context = multiprocessing.get_context("forkserver")
        process = repeated(lambda: started_process(context), seconds / 4)
        return {"replace_ms": replace, "process_ms": process, "over_ms": replace - process}

    def _replace(self):
        from ipcheap import graph

        made = graph.Graph()
        port = made.output(made.add(whose, made.add(numbers, count=1 << 40)))
        with made.start() as run:
            results = run.results(port)
            killed = next(results)
            os.kill(killed, signal.SIGKILL)
            begin = time.perf_counter_ns()
            while next(results) == killed:
                pass
            ms = (time.perf_counter_ns() - begin) / 1e6
            run.stop()
            for _ in results:
                pass
        return ms


class Look(Workload):
    """Statistics and an SVG of a graph with 1,000 edges, once a second, as CPU of the caller."""

    key = "graph-look"
    title = "statistics and picture of 1,000 edges, once a second"
    peers = ("ipcheap",)
    carries = GRAPHS
    figures = (
        Figure("core", "CPU", "% of a core", more=False),
        Figure("statistics_ms", "statistics", "ms", more=False),
        Figure("picture_ms", "statistics and picture", "ms", more=False),
    )

    def run(self, key, peer, seconds):
        from ipcheap import graph

        made = graph.Graph()
        source = made.add(idle)
        for _ in range(EDGES):
            made.add(ignore, source, slots=1)
        with made.start(runner="threads") as run:
            time.sleep(0.5)
            statistics_s = repeated(lambda: self._cpu(run.statistics), seconds / 2)
            picture_s = repeated(lambda: self._cpu(lambda: run.picture("svg")), seconds / 2)
            run.stop()
        return {
            "core": 100 * picture_s,
            "statistics_ms": 1e3 * statistics_s,
            "picture_ms": 1e3 * picture_s,
        }

    def _cpu(self, work):
        begin = time.thread_time()
        work()
        return time.thread_time() - begin


WORKLOADS = (Start(), Replace(), Look())

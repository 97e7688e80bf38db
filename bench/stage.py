"""Runs a workload: forked processes, a barrier, and a few shared numbers.

Each process is new: it is forked from an interpreter that has only imported the peer. The
producing process is pinned to the first available core. Consuming processes and all their
threads are pinned to the second. This is the same for all peers. On one core, all processes have a
real-time priority where that is allowed, so that each runs until it waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import threading
import time
import traceback
from multiprocessing import connection

PATIENCE = 60.0  # seconds; compare.py ends the run earlier


class Stage:
    """What the processes of one run share. Part 0 produces, the other parts consume."""

    def __init__(self, peer, consumers, threads, *, one_core=False):
        self.context = multiprocessing.get_context("fork")
        self.peer = peer
        self.consumers = consumers
        self.threads = threads  # whether the consumers are threads of one process
        self.one_core = one_core
        self.barrier = self.context.Barrier(1 + consumers)
        self.count = self.context.RawValue(ctypes.c_int64, 0)
        self.ended = self.context.RawArray(ctypes.c_int64, 1 + consumers)
        self.cpu = self.context.RawArray(ctypes.c_int64, 1 + consumers)

    def meet(self):
        """Wait until all parts have arrived."""
        self.barrier.wait(PATIENCE)

    def play(self, produce, consume):
        """Run produce() and each consume(part) in their processes; return what produce() did."""
        cores = sorted(os.sched_getaffinity(0))
        parts = [(cores[0], [lambda: produce(self)])]
        others = [lambda part=part: consume(self, part) for part in range(1, 1 + self.consumers)]
        groups = [others] if self.threads else [[each] for each in others]
        other = cores[0 if self.one_core else min(1, len(cores) - 1)]
        parts += [(other, group) for group in groups]
        processes, pipes = [], []
        try:
            for core, group in parts:
                mine, theirs = self.context.Pipe(duplex=False)
                process = self.context.Process(
                    target=_act, args=(theirs, core, group, self.one_core)
                )
                process.start()
                theirs.close()
                processes.append(process)
                pipes.append(mine)
            result = self._outcome(pipes)
        except BaseException:
            for process in processes:
                process.terminate()
            raise
        finally:
            for process in processes:
                process.join(5)
        return result

    def _outcome(self, pipes):
        waiting = dict(enumerate(pipes))
        result = None
        while waiting:
            for pipe in connection.wait(list(waiting.values())):
                index = pipes.index(pipe)
                del waiting[index]
                try:
                    error, value = pipe.recv()
                except EOFError:
                    raise RuntimeError("a process of the run died") from None
                if error:
                    self.barrier.abort()
                    raise RuntimeError(error)
                result = value if index == 0 else result
        return result

    def phase(self, part, work):
        """Do the share of a part in a phase; record when it ended and its CPU time."""
        self.meet()
        count = self.count.value
        if count:
            cpu = time.process_time_ns()
            begin = time.monotonic_ns()
            work(count)
            self.ended[part] = time.monotonic_ns()
            # The clock is that of the process, so the first of several threads records it for all.
            if part <= 1 or not self.threads:
                self.cpu[part] = time.process_time_ns() - cpu
            self.meet()
            return begin
        return 0


def realtime():
    """Let the calling process run until it waits; PermissionError if it may not ask for that."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


def _act(pipe, core, group, one_core):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # ends the process wherever it is
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, {core})
        if one_core:
            realtime()
    outcome = []

    def one(work):
        try:
            outcome.append((None, work()))
        except BaseException as error:  # reported, whatever it is
            text = "".join(traceback.format_exception(error)[-3:])
            outcome.insert(0, (f"{type(error).__name__}: {error}\n{text}", None))

    if len(group) == 1:
        one(group[0])
    else:
        threads = [threading.Thread(target=one, args=(work,), daemon=True) for work in group]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    pipe.send(outcome[0])
    pipe.close()

"""What only ipcheap's bus does, and what a post costs by the number of listeners."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import sysconfig
import threading
import time
from multiprocessing.sharedctypes import RawValue

from instructions import Instructions
from peers import BUSES

from workloads.bus import counted
from workloads.workload import Figure, Workload, check

MIB = 1 << 20
MESSAGE = bytes(64)
CHUNKS = 7
MANY = 1000
SCALE = {  # the key of a figure: how many listeners, and whether they are lossy
    "0": (0, False),
    "1": (1, False),
    "64": (64, False),
    "4096": (4096, False),
    "lossy_1": (1, True),
    "lossy_64": (64, True),
    "lossy_4096": (4096, True),
}


def beside(listeners, lossy):
    """Return which listeners are registered."""
    text = counted(listeners)
    return text.replace(" ", " idle lossy ") if lossy else text


@contextlib.contextmanager
def heap_of(size):
    """Return a heap of this size, which is removed afterwards."""
    import ipcheap

    with ipcheap.Heap.create(f"bench.{os.getpid()}", size) as heap:
        try:
            yield heap
        finally:
            heap.unlink()


class OwnBus(Workload):
    """Work of a bus of ipcheap."""

    peers = ("ipcheap",)
    carries = BUSES


class Memory(OwnBus):
    """A message of 1 MiB that all listeners hold at a time, and the time of a post."""

    key = "bus-memory"
    title = "memory of a message of 1 MiB, by its listeners"
    scale = (1, 8, MANY)
    figures = (
        *(Figure(f"mib_{n}", f"in use, {counted(n)}", "MiB", more=False) for n in scale),
        *(Figure(f"post_us_{n}", f"post, {counted(n)}", "µs", more=False) for n in scale[:2]),
        Figure("copy_us", "a copy in private memory", "µs", more=False),
    )

    def run(self, key, peer, seconds):
        data = bytes(MIB)
        each = seconds / len(self.figures)
        figures = {}
        for listeners in self.scale:
            with heap_of("256MiB") as heap, contextlib.ExitStack() as stack:
                bus = heap.add_bus("bus", 8)
                ends = [stack.enter_context(bus.listen()) for _ in range(listeners)]
                figures[f"mib_{listeners}"] = self._held(heap, bus, ends, data)
                if listeners <= self.scale[1]:
                    figures[f"post_us_{listeners}"] = self._post(bus, ends, data, each)
        own = bytearray(MIB)
        copies = [self._timed(own.__setitem__, slice(None), data) for _ in range(100)]
        return {**figures, "copy_us": statistics.median(copies) / 1e3}

    def _held(self, heap, bus, ends, data):
        """Return how much more is in use while all hold the message."""
        before = heap.statistics().in_use
        bus.post(data)
        messages = [end.recv_record() for end in ends]
        found = heap.statistics().in_use - before
        check(all(message.nbytes == MIB for message in messages), True)
        for message in messages:
            message.free()
        return found / MIB

    def _post(self, bus, ends, data, seconds):
        """Return the time of a post, if all listeners release the message before the next one."""
        samples = []
        end = time.monotonic() + seconds
        while not samples or time.monotonic() < end:
            samples.append(self._timed(bus.post, data))
            for listener in ends:
                listener.recv_record().free()
        return statistics.median(samples) / 1e3

    def _timed(self, call, *arguments):
        begin = time.perf_counter_ns()
        call(*arguments)
        return time.perf_counter_ns() - begin


class Cost(OwnBus):
    """Posts of 64 B beside registered listeners, none of which sleeps.

    Reliable listeners receive everything between the posts that are timed. Idle lossy listeners
    receive nothing, and are overtaken. Instructions are those of the whole call, from Python.
    """

    key = "bus-cost"
    title = "a post, by the number of registered listeners"
    figures = (
        *(
            Figure(f"ns_{key}", f"time, {beside(*of)}", "ns", more=False)
            for key, of in SCALE.items()
        ),
        *(
            Figure(f"instructions_{key}", f"instructions, {beside(*of)}", "", more=False)
            for key, of in SCALE.items()
        ),
    )
    capacity = 1024

    def run(self, key, peer, seconds):
        figures = {}
        counter = Instructions()
        for name, (count, lossy) in SCALE.items():
            with heap_of("256MiB") as heap, contextlib.ExitStack() as stack:
                bus = heap.add_bus("bus", self.capacity)
                ends = [stack.enter_context(bus.listen(lossy=lossy)) for _ in range(count)]
                receivers = () if lossy else ends
                ns, instructions = self._posts(bus, receivers, counter, seconds)
            figures[f"ns_{name}"] = ns
            if instructions is not None:
                figures[f"instructions_{name}"] = instructions
        counter.close()
        return figures

    def _posts(self, bus, receivers, counter, seconds):
        """Return the ns and the instructions of a post, medians of a few stretches."""
        end = time.monotonic() + seconds / len(SCALE)
        few = self.capacity // 2
        self._stretch(bus, few, counter)
        found = []
        while len(found) < CHUNKS or time.monotonic() < end:
            for receiver in receivers:
                got = 0
                while got < few:
                    got += len(receiver.recv_many(few))
            found.append(self._stretch(bus, few, counter))
        times, counts = zip(*found, strict=True)
        return statistics.median(times), None if None in counts else statistics.median(counts)

    def _stretch(self, bus, count, counter):
        post, clock = bus.post, time.perf_counter_ns
        before, begin = counter(), clock()
        for _ in itertools.repeat(None, count):
            post(MESSAGE)
        ns, after = clock() - begin, counter()
        return ns / count, None if after is None else (after - before) / count


class Killed(OwnBus):
    """A listener is killed while a broadcast waits for it; how long the broadcast goes on."""

    key = "bus-killed"
    title = "a listener that is killed is passed"
    figures = (
        Figure("p50_ms", "p50", "ms", more=False),
        Figure("p99_ms", "p99", "ms", more=False),
    )
    longer = 5  # than other workloads, because each sample takes a process

    def run(self, key, peer, seconds):
        context = multiprocessing.get_context("fork")
        died = RawValue(ctypes.c_int64, 0)
        registered = context.Barrier(2)
        samples = []
        with heap_of("16MiB") as heap:
            bus = heap.add_bus("bus")
            end = time.monotonic() + self.longer * seconds
            while not samples or time.monotonic() < end:
                victim = context.Process(target=self._die, args=(bus, registered, died))
                victim.start()
                registered.wait(30)
                report = bus.broadcast(MESSAGE, timeout=30)
                samples.append(time.monotonic_ns() - died.value)
                check((report.gone > 0, report.slow), (True, ()))
                victim.join(30)
        samples.sort()
        return {
            "p50_ms": statistics.median(samples) / 1e6,
            "p99_ms": samples[len(samples) * 99 // 100] / 1e6,
        }

    def _die(self, bus, registered, died):
        listener = bus.listen()
        registered.wait(30)
        message = listener.recv_record(timeout=30)
        time.sleep(0.002)  # until the writer waits
        died.value = time.monotonic_ns()
        os.kill(os.getpid(), signal.SIGKILL)
        message.free()


class Idle(OwnBus):
    """A thousand threads wait for messages, and none arrives."""

    key = "bus-idle"
    title = "idle: a thousand listeners of a bus"
    figures = (Figure("core", "CPU", "% of a core", more=False),)
    longer = 5  # than other workloads, because waiting threads look twice a second

    def run(self, key, peer, seconds):
        with heap_of("256MiB") as heap:
            bus = heap.add_bus("bus")
            met, woken = threading.Barrier(1 + MANY), []

            def wait():
                with bus.listen() as listener:
                    met.wait(60)
                    woken.append(listener.recv())

            usual = threading.stack_size(256 << 10)
            threads = [threading.Thread(target=wait) for _ in range(MANY)]
            for thread in threads:
                thread.start()
            threading.stack_size(usual)
            met.wait(60)
            time.sleep(0.1)  # until all of them sleep
            begin, before = time.monotonic(), time.process_time()
            time.sleep(self.longer * seconds)
            used, took = time.process_time() - before, time.monotonic() - begin
            bus.post(MESSAGE)
            for thread in threads:
                thread.join(30)
            check(len(woken), MANY)
            return {"core": 100 * used / took}


def lasted(command):
    """Return the milliseconds from the start of a command to its end."""
    begin = time.monotonic_ns()
    subprocess.run(command, capture_output=True, timeout=30, check=True)
    return (time.monotonic_ns() - begin) / 1e6


class ColdStart(OwnBus):
    """A broadcast without listeners, from the start of the command to its end."""

    key = "bus-cold-start"
    title = "cold start: ipcheap bus broadcast"
    figures = (
        Figure("over_ms", "over a bare interpreter", "ms", more=False),
        Figure("bare_ms", "bare interpreter", "ms", more=False),
    )

    def run(self, key, peer, seconds):
        bare = (sys.executable, "-c", "")
        ipcheap = f"{sysconfig.get_path('scripts')}/ipcheap"
        times = {"bare": [], "whole": []}
        with heap_of("16MiB") as heap:
            heap.add_bus("bus")
            whole = (ipcheap, "bus", "broadcast", heap.name, "message")
            lasted(whole)  # compiles the modules and warms up the page cache
            end = time.monotonic() + seconds
            while not times["whole"] or time.monotonic() < end:
                times["bare"].append(lasted(bare))
                times["whole"].append(lasted(whole))
        bare_ms, whole_ms = (statistics.median(each) for each in times.values())
        return {"over_ms": whole_ms - bare_ms, "bare_ms": bare_ms}


WORKLOADS = (Memory(), Cost(), Killed(), Idle(), ColdStart())

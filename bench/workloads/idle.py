"""An idle process: many threads wait on many channels, and nothing arrives."""

from __future__ import annotations

import contextlib
import os
import threading
import time

from workloads.workload import Figure, Workload

TOGETHER = 200  # channels that one thread waits on
ALONE = 20  # channels with a blocked thread each
LONGER = 5  # than other workloads, because waiting threads check twice a second


class Idle(Workload):
    """One thread waits on 200 channels, and 20 threads wait on one more each."""

    key = "idle"
    title = "idle: waiting on 220 channels"
    peers = ("ipcheap",)
    figures = (Figure("core", "CPU", "% of a core", more=False),)

    def run(self, key, peer, seconds):
        import ipcheap

        with ipcheap.Heap.create(f"bench.{os.getpid()}", "16MiB") as heap:
            try:
                return {"core": self._wait(ipcheap, heap, LONGER * seconds)}
            finally:
                heap.unlink()

    def _wait(self, ipcheap, heap, seconds):
        together, alone = range(TOGETHER), range(TOGETHER, TOGETHER + ALONE)
        met = threading.Barrier(1 + ALONE + 1)
        woken = []

        def wait_for_one(number):
            with heap.consumer(number) as consumer:
                met.wait(30)
                woken.append(consumer.recv())

        def wait_for_many():
            with contextlib.ExitStack() as stack:
                many = [stack.enter_context(heap.consumer(number)) for number in together]
                met.wait(30)
                woken.extend(consumer.recv() for consumer in ipcheap.wait(many))

        for number in (*together, *alone):
            heap.add_record_channel(number, 8)
        threads = [threading.Thread(target=wait_for_one, args=(number,)) for number in alone]
        threads.append(threading.Thread(target=wait_for_many))
        for thread in threads:
            thread.start()
        met.wait(30)
        time.sleep(0.01)  # until all of them sleep
        begin, before = time.monotonic(), time.process_time()
        time.sleep(seconds)
        used, took = time.process_time() - before, time.monotonic() - begin
        for number in (together[0], *alone):
            with heap.producer(number) as producer:
                producer.send(b"")
        for thread in threads:
            thread.join(30)
        if len(woken) != ALONE + 1:
            raise RuntimeError(f"{len(woken)} of {ALONE + 1} threads were woken")
        return 100 * used / took


WORKLOADS = (Idle(),)

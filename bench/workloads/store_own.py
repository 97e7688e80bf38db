"""What only ipcheap's stores do: wake a sleeper; and what their growth costs."""

from __future__ import annotations

import array
import contextlib
import itertools
import os
import random
import statistics
import time

from peers import STORES
from stage import Stage

from workloads.growth import Growth, cost
from workloads.workload import Figure, Workload

REST = 0.002  # seconds, after which the other side sleeps
VALUE = bytes(64)


class Wake(Workload):
    """The time from the begin of a put or send until the sleeper that it wakes has the value."""

    key = "store-wake"
    title = "waking a sleeper, after 2 ms of rest: a store and a record channel"
    peers = ("ipcheap",)
    carries = STORES
    figures = (
        Figure("wait_for_us", "wait_for, p50", "µs", more=False),
        Figure("recv_us", "recv of a record channel, p50", "µs", more=False),
        Figure("wait_for_p99_us", "wait_for, p99", "µs", more=False),
        Figure("recv_p99_us", "recv of a record channel, p99", "µs", more=False),
    )

    def run(self, key, peer, seconds):
        import ipcheap

        rounds = max(4, int(seconds / REST / 2))
        with ipcheap.Heap.create(f"bench.{os.getpid()}", "16MiB") as heap:
            heap.add_store("store")
            heap.add_record_channel("records", 8)
            heap.add_record_channel("found", 8)
            try:
                stage = Stage(heap, 1, threads=False)
                return stage.play(
                    lambda stage: self._wake(stage, rounds),
                    lambda stage, _: self._sleep(stage, rounds),
                )
            finally:
                heap.unlink()

    def _wake(self, stage, rounds):
        heap, clock = stage.peer, time.perf_counter_ns
        with (
            heap.store_writer("store") as writer,
            heap.producer("records") as producer,
            heap.consumer("found") as found,
        ):
            writer.put("key", VALUE)
            stage.meet()
            stage.meet()
            samples = []
            for _ in range(rounds):
                time.sleep(REST)
                writer.put("key", clock().to_bytes(8, "little"))
                samples.append(int.from_bytes(found.recv(10), "little"))
                time.sleep(REST)
                producer.send(clock().to_bytes(8, "little"))
                samples.append(int.from_bytes(found.recv(10), "little"))
            stage.meet()
        figures = {}
        for name, each in (("wait_for", samples[::2]), ("recv", samples[1::2])):
            each.sort()
            figures[f"{name}_us"] = statistics.median(each) / 1e3
            figures[f"{name}_p99_us"] = each[len(each) * 99 // 100] / 1e3
        return figures

    def _sleep(self, stage, rounds):
        heap, clock = stage.peer, time.perf_counter_ns
        stage.meet()
        with (
            heap.store_reader("store") as reader,
            heap.consumer("records") as consumer,
            heap.producer("found") as found,
        ):
            version = reader.version
            stage.meet()
            for _ in range(rounds):
                with reader.wait_for("key", newer_than=version) as chunk:
                    ns = clock() - int.from_bytes(chunk[:], "little")
                    version = chunk.version
                found.send(ns.to_bytes(8, "little"))
                data = consumer.recv()
                ns = clock() - int.from_bytes(data, "little")
                found.send(ns.to_bytes(8, "little"))
            stage.meet()


def keys(ipcheap, name, count, seconds):
    """Measure in a store with `count` keys: one of them, and all of them in random order."""
    with ipcheap.Heap.create(name, "2GiB") as heap:
        try:
            store = heap.add_store("store")
            with store.writer() as writer, store.reader() as reader:
                for number in range(count):
                    writer.put(number, VALUE)
                numbers = list(array.array("q", random.Random(count).sample(range(count), count)))
                one, each = numbers[0], itertools.cycle(numbers)
                return (
                    cost(lambda: writer.put(one, VALUE), seconds),
                    cost(lambda: reader.get_bytes(one), seconds),
                    cost(lambda: writer.put(next(each), VALUE), seconds),
                    cost(lambda: reader.get_bytes(next(each)), seconds),
                )
        finally:
            heap.unlink()


def readers(ipcheap, name, count, seconds):
    """Measure beside `count - 1` other readers, each of which holds a chunk."""
    with ipcheap.Heap.create(name, "64MiB") as heap, contextlib.ExitStack() as stack:
        try:
            store = heap.add_store("store")
            writer = stack.enter_context(store.writer())
            writer.put("held", VALUE)
            all_readers = [stack.enter_context(store.reader()) for _ in range(count)]
            others = [stack.enter_context(each.get("held")) for each in all_readers[1:]]
            del others
            reader = all_readers[0]
            return (
                cost(lambda: writer.put("key", VALUE), seconds),
                cost(lambda: reader.get_bytes("key"), seconds),
            )
        finally:
            heap.unlink()


def held(ipcheap, name, count, seconds):
    """Measure while a reader holds `count` chunks, all of them dead."""
    with ipcheap.Heap.create(name, "64MiB") as heap, contextlib.ExitStack() as stack:
        try:
            store = heap.add_store("store", hold=count + 1)
            writer = stack.enter_context(store.writer())
            reader = stack.enter_context(store.reader())
            for _ in range(count):
                writer.put("key", VALUE)
                stack.enter_context(reader.get("key"))
            return (
                cost(lambda: writer.put("key", VALUE), seconds),
                cost(lambda: reader.get_bytes("key"), seconds),
            )
        finally:
            heap.unlink()


WORKLOADS = (
    Wake(),
    Growth(
        "store-growth-keys",
        "10 to 1,000,000 keys of a store",
        {"10": 10, "1,000,000": 1_000_000},
        ("put one", "get one", "put any", "get any"),
        keys,
    ),
    Growth(
        "store-growth-readers",
        "1 to 64 readers of a store",
        {"1": 1, "64": 64},
        ("put", "get"),
        readers,
    ),
    Growth(
        "store-growth-held",
        "0 to 10,000 held chunks of a store",
        {"0": 0, "10,000": 10_000},
        ("put", "get"),
        held,
    ),
)

"""ipcheap.graph, and the same record channels wired by hand."""

import itertools
import multiprocessing

import ipcheap
from ipcheap import graph
from peers.graphs import FUNCTIONS, ITEMS, SIZES, SLOTS, TEXT, WORKERS, Graphs, fill, reverse, total


def texts(count):
    return itertools.repeat(TEXT, count)


def arrays(count, nbytes):
    for number in range(count):
        array = graph.empty(nbytes, "u1")
        fill(array, number)
        yield array


class IpcheapGraphs(Graphs):
    """A graph, and `graph.map`."""

    title = "ipcheap.graph"
    package = "ipcheap"

    def chain(self, size, count):
        made = graph.Graph()
        if size == "64":
            results = made.add(reverse, made.add(texts, count=count))
        else:
            results = made.add(total, made.add(arrays, count=count, nbytes=SIZES[size]))
        return made.results(results)

    def mapped(self, kind, count):
        items = itertools.repeat(ITEMS[kind], count)
        return graph.map(FUNCTIONS[kind], items, processes=WORKERS, slots=SLOTS)


def send_texts(heap, count):
    with heap, heap.producer("items") as items:
        for _ in range(count):
            items.send(TEXT)


def send_arrays(heap, count, nbytes):
    with heap, heap.producer("items") as items:
        for number in range(count):
            with items.loan(nbytes, "u1") as array:
                fill(array, number)


def reverse_texts(heap):
    with heap, heap.consumer("items", 10) as items, heap.producer("results") as results:
        for record in items:
            results.send(reverse(bytes(record)))


def add_up_arrays(heap):
    with heap, heap.consumer("items", 10) as items, heap.producer("results") as results:
        for record in items:
            results.send_object(total(record.array()))


class ByHand(Graphs):
    """The processes and channels of the chain, without the layer."""

    title = "the same channels by hand"
    package = "ipcheap"
    only = ("graph-chain-64", "graph-chain-64k", "graph-chain-frames")

    def chain(self, size, count):
        context = multiprocessing.get_context("forkserver")
        with ipcheap.Heap.create(None, "1GiB", shm="memfd") as heap:
            for channel in ("items", "results"):
                heap.add_record_channel(channel, SLOTS)
            if size == "64":
                parts = ((send_texts, (heap, count)), (reverse_texts, (heap,)))
            else:
                parts = ((send_arrays, (heap, count, SIZES[size])), (add_up_arrays, (heap,)))
            processes = [context.Process(target=part, args=args) for part, args in parts]
            for process in processes:
                process.start()
            with heap.consumer("results", 10) as results:
                if size == "64":
                    yield from (bytes(record) for record in results)
                else:
                    yield from (record.object() for record in results)
            for process in processes:
                process.join()

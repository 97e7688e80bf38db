"""Counts words: one process reads, two threads of another count in shared memory."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import pickle
import re
import sys
import threading
from collections import Counter
from pathlib import Path

import ipcheap

CHANNELS = ("even", "odd")
CHUNK = 16 * 1024


def produce(heap: ipcheap.Heap, paths: list[str]) -> None:
    """Send the files in records, alternating between the two channels."""
    with heap.producer("even") as even, heap.producer("odd") as odd:
        turns = itertools.cycle((even, odd))
        for path in paths:
            with Path(path).open("rb") as file:
                while size := min(CHUNK, os.fstat(file.fileno()).st_size - file.tell()):
                    record = heap.allocate_record(size)
                    view = record.view
                    file.readinto(view)
                    # A word may continue beyond this record: leave it to the next one.
                    word = re.search(rb"\w+\Z", view[-100:])
                    if word and size == CHUNK:
                        n = len(word[0])
                        view[-n:] = bytes(n)
                        file.seek(-n, os.SEEK_CUR)
                    del word, view  # once sent, the record belongs to the receiver
                    next(turns).send_record(record)


def count(heap: ipcheap.Heap, channel: str) -> None:
    """Count the words from one channel and send the result to the parent."""
    counts: Counter[bytes] = Counter()
    with heap.consumer(channel) as consumer:
        for record in consumer:
            counts.update(re.findall(rb"\w+", record.view))
    with heap.producer(f"{channel} counts") as result:
        result.send(pickle.dumps(counts))


def consume(heap: ipcheap.Heap) -> None:
    """Count in two threads, each with its own channel."""
    threads = [threading.Thread(target=count, args=(heap, channel)) for channel in CHANNELS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Start both processes, add up their counts and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="FILE")
    paths = parser.parse_args().paths
    for path in paths:
        try:
            Path(path).open("rb").close()
        except OSError as error:
            parser.error(str(error))

    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(f"word-count-{os.getpid()}", "16MiB") as heap:
        try:
            for channel in CHANNELS:
                heap.add_record_channel(channel, capacity=32)
                heap.add_record_channel(f"{channel} counts", capacity=1)
            workers = [
                context.Process(target=produce, args=(heap, paths)),
                context.Process(target=consume, args=(heap,)),
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            if any(worker.exitcode for worker in workers):
                sys.exit("word_count: one of the processes has failed")
            total: Counter[bytes] = Counter()
            for channel in CHANNELS:  # sent records stay, even after their sender has ended
                with heap.consumer(f"{channel} counts") as result:
                    total.update(pickle.loads(result.recv(timeout=0)))
        finally:
            heap.unlink()
    for word, number in total.most_common(20):
        print(f"{word.decode():20} {number:10,}")


if __name__ == "__main__":
    main()

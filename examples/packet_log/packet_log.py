"""A log of packets that live for a while; followers read all of them, late ones what is left."""

import argparse
import multiprocessing
import time
from collections import Counter

import ipcheap

ALARM_EVERY = 50
ALARM_LIVES = 60.0  # seconds


def log_packets(heap: ipcheap.Heap, count: int, followers: int) -> None:
    """Append packets of 100 bytes; alarms live for longer than the store says."""
    with heap, heap.store_writer("packets", 10) as log:
        while len(heap.add_store("packets").readers()) < followers:
            time.sleep(0.01)
        for number in range(count):
            if number % ALARM_EVERY == 0:
                log.append(b"alarm %94d" % number, ttl=ALARM_LIVES)
            else:
                log.append(b"level %94d" % number)


def follow(heap: ipcheap.Heap, stops: tuple[int, ...] = ()) -> tuple[Counter[str], int]:
    """Follow the log to its end; at each of `stops` begin anew, as after a restart.

    Returns how many packets there were of each sort, and how many were missed.
    """
    seen: Counter[str] = Counter()
    version = missed = 0
    for stop in (*stops, None):
        with heap.store_reader("packets", 10) as reader:
            reader.seek(version)  # continue after the last packet that was processed
            for packet in reader.follow():
                seen[str(packet[:5], "ascii")] += 1  # packet[:5] is a view, not a copy
                version = packet.version
                if version == stop:
                    break
            missed += reader.statistics().skipped
    return seen, missed


def report(name: str, seen: Counter[str], missed: int) -> None:
    print(f"{name}: {seen['level']} levels, {seen['alarm']} alarms, {missed} missed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packets", type=int, default=10_000)
    parser.add_argument("--ttl", type=float, default=2.0, help="seconds that a packet lives")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(None, "64MiB", shm="memfd") as heap:
        heap.add_store("packets", ttl=options.ttl)
        log = context.Process(target=log_packets, args=(heap, options.packets, 2))
        log.start()
        with context.Pool(2) as pool:
            half = options.packets // 2
            results = pool.starmap(follow, [(heap, ()), (heap, (half,))], chunksize=1)
        log.join()
        report("steady", *results[0])
        report("restarted", *results[1])
        time.sleep(options.ttl)
        report("late", *follow(heap))  # the writer has gone; its alarms are still alive


if __name__ == "__main__":
    main()

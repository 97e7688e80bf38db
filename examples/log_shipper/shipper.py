"""Lines of a service's log go to another process, which keeps them in a file."""

import argparse
import logging
import multiprocessing
import pathlib

import ipcheap


def serve(heap: ipcheap.Heap, requests: int) -> None:
    """Log as usual: the handler's file is the stream."""
    with heap, heap.stream_writer("log", 10).makefile("w", encoding="utf-8") as file:
        log = logging.getLogger("service")
        log.setLevel(logging.INFO)
        log.addHandler(logging.StreamHandler(file))
        for n in range(requests):
            log.info("request %d served", n)
            if n % 1000 == 999:
                log.warning("request %d was slow: äöü", n)
        logging.shutdown()


def ship(heap: ipcheap.Heap, path: pathlib.Path) -> tuple[int, int]:
    """Write the lines to a file; return how many there were, and how many were warnings."""
    lines = warnings = 0
    with (
        path.open("w", encoding="utf-8") as out,
        heap.stream_reader("log", 10).makefile("r", encoding="utf-8") as log,
    ):
        for line in log:
            out.write(line)
            lines += 1
            warnings += "slow" in line
    return lines, warnings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=pathlib.Path, help="where the lines go")
    parser.add_argument("--requests", type=int, default=10_000)
    options = parser.parse_args()
    with ipcheap.Heap.create(None, "1MiB", shm="memfd") as heap:
        heap.add_stream("log", "64KiB")
        service = multiprocessing.get_context("spawn").Process(
            target=serve, args=(heap, options.requests)
        )
        service.start()
        lines, warnings = ship(heap, options.file)
        service.join()
    print(f"{lines} lines shipped, {warnings} of them warnings")


if __name__ == "__main__":
    main()

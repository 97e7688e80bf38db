"""A service on one event loop: client processes ask, coroutines answer, nothing is copied.

python service.py [--clients N] [--requests N] [--uvloop]
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
from typing import Any

import ipcheap

PICTURE = (120, 160)


def ask(heap: ipcheap.Heap, client: int, requests: int) -> None:
    """Run a client with blocking calls: send pictures, receive each with its mean in front."""
    with heap.producer(f"ask {client}") as out, heap.consumer(f"answer {client}") as into:
        for number in range(requests):
            record = out.allocate_record(8 + PICTURE[0] * PICTURE[1])
            record.array("u1")[8:] = (client * 31 + number) % 256
            out.send_record(record)
            with into.recv_record(timeout=30) as answer:
                mean = answer.array("u1")[:8].view("f8")[0]
                assert mean == (client * 31 + number) % 256


async def serve(heap: ipcheap.Heap, client: int) -> int:
    """Answer one client until it closes."""
    served = 0
    with heap.consumer(f"ask {client}") as into, heap.producer(f"answer {client}") as out:
        async for record in into:
            array = record.array("u1")
            array[:8].view("f8")[0] = array[8:].mean()
            del array  # sending passes the record to the client
            await out.asend_record(record)  # forwards the same record, without a copy
            served += 1
    return served


async def report(counts: list[asyncio.Task[int]]) -> None:
    """Stand for other work on the same loop."""
    while not all(task.done() for task in counts):
        await asyncio.sleep(0.05)


async def service(heap: ipcheap.Heap, clients: int) -> int:
    async with asyncio.TaskGroup() as group:
        counts = [group.create_task(serve(heap, client)) for client in range(clients)]
        group.create_task(report(counts))
    return sum(task.result() for task in counts)


def main() -> None:
    parser = argparse.ArgumentParser(description="A service on one event loop.")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop")
    options = parser.parse_args()
    run: Any = asyncio.run
    if options.uvloop:
        import uvloop

        run = uvloop.run

    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(f"asyncio-service-{os.getpid()}", "64MiB") as heap:
        try:
            for client in range(options.clients):
                heap.add_record_channel(f"ask {client}", capacity=8)
                heap.add_record_channel(f"answer {client}", capacity=8)
            clients = [
                context.Process(target=ask, args=(heap, client, options.requests))
                for client in range(options.clients)
            ]
            for process in clients:
                process.start()
            served = run(service(heap, options.clients))
            for process in clients:
                process.join()
            failed = sum(process.exitcode != 0 for process in clients)
            print(f"served {served} requests of {len(clients)} clients, {failed} failed")
        finally:
            heap.unlink()


if __name__ == "__main__":
    main()

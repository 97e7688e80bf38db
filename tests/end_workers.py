"""Children that end normally with an endpoint open, however they were started."""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time

import ipcheap

_kept: list[ipcheap.Producer | ipcheap.Consumer] = []  # nothing here is closed or dropped


def send(name: str) -> None:
    """Send one record and keep the producer."""
    _kept.append(ipcheap.Heap.attach(name).producer("c"))
    _kept[-1].send(b"done")  # type: ignore[union-attr]


def send_and_stay(name: str) -> None:
    """Send one record, and do not end."""
    send(name)
    time.sleep(60)


def send_by_inherited(heap: ipcheap.Heap) -> None:
    """Send one record through a heap that was opened before the fork."""
    _kept.append(heap.producer("c"))
    _kept[-1].send(b"done")  # type: ignore[union-attr]


def send_from_grandchild(name: str) -> None:
    """Have a child of this child do it, after using the heap as well."""
    with ipcheap.Heap.attach(name) as heap:
        heap.allocate_record(8).free()
        child = multiprocessing.get_context("fork").Process(target=send_by_inherited, args=(heap,))
        child.start()
        child.join()


def send_from_forked_grandchild(name: str) -> None:
    """Fork without multiprocessing inside a child of multiprocessing, and exit."""
    heap = ipcheap.Heap.attach(name)
    heap.allocate_record(8).free()
    child = os.fork()
    if child == 0:
        send_by_inherited(heap)
        sys.exit(0)
    os.waitpid(child, 0)


def send_from_thread(name: str) -> None:
    """Leave the sending to a thread that outlives the function."""

    def work() -> None:
        time.sleep(0.1)  # attaches only after the function has returned
        producer = ipcheap.Heap.attach(name).producer("c")
        _kept.append(producer)
        time.sleep(0.3)
        producer.send(b"done")
        time.sleep(10 if threading.current_thread().daemon else 0)

    threading.Thread(target=work).start()


def wait_in_daemon(name: str) -> None:
    """Send, and end while a daemon thread waits for records."""
    heap = ipcheap.Heap.attach(name)

    def wait() -> None:
        consumer = heap.consumer("d")
        _kept.append(consumer)
        consumer.recv()

    threading.Thread(target=wait, daemon=True).start()
    with heap.producer("d") as producer:
        producer.wait_peer(30)
        time.sleep(0.05)
        send_by_inherited(heap)
        _kept.append(producer)
        time.sleep(0.05)

"""Work of the workers of pools, importable under every start method."""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np

import ipcheap


def use_heap(name: str) -> None:
    """Make `opening` open that heap, in a new worker."""
    os.environ["IPCHEAP_TEST_HEAP"] = name


def serve(jobs: ipcheap.RecordChannel, answers: ipcheap.RecordChannel) -> None:
    """Double arrays until there are no more."""
    with jobs.consumer(timeout=30) as inbox, answers.producer(timeout=30) as outbox:
        inbox.wait_peer(30)
        while True:
            try:
                job = inbox.recv_array(timeout=30)
            except ipcheap.ChannelClosed:
                return
            with outbox.loan(job.shape, job.dtype) as result:
                np.add(job, job, out=result)


def take_heap(connection: Any) -> None:
    """Use a heap that comes through a pipe, long after the start."""
    heap = connection.recv()
    with heap.producer("answers") as producer:
        producer.send_object({"pid": os.getpid()})
    heap.close()


def import_and_work(number: int) -> int:
    return int(importlib.import_module("opening").work(number))


def import_and_answer(number: int) -> None:
    importlib.import_module("opening").answer(number)

"""PID namespaces: two participants that are both pid 1 are never taken for each other."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import peers
import pytest

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMESPACE = ("--pid", "--fork", "--kill-child")
SLOW = 4.0  # seconds within which a survivor learns of a death also on a busy machine


def unshare() -> list[str]:
    """Return the command that makes a PID namespace, as root or in a user namespace."""
    for user in ((), ("--user", "--map-root-user")):
        command = ["unshare", *user, *NAMESPACE]
        if subprocess.run([*command, "true"], capture_output=True, timeout=30).returncode == 0:
            return command
    pytest.fail("no PID namespace can be made here, with or without a user namespace")


class Stranger:
    """A Python program that is pid 1 in its namespace; it communicates by lines."""

    def __init__(self, text: str, *arguments: str) -> None:
        preamble = "import os, sys, ipcheap\nassert os.getpid() == 1\nname = sys.argv[1]\n"
        self._process = subprocess.Popen(
            [*unshare(), sys.executable, "-P", "-c", preamble + text, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        """Its pid outside; `unshare` is its parent."""
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return int(children[0])

    @property
    def speaks(self) -> bool:
        """Whether it has printed a first line."""
        assert self._process.stdout
        return bool(select.select([self._process.stdout], [], [], 0)[0])

    def hear(self) -> str:
        """Return the next line that it prints."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line, f"it has ended with {self._process.wait()}"
        return line.strip()

    def tell(self, line: str) -> None:
        """Give it a line to read."""
        assert self._process.stdin
        print(line, file=self._process.stdin, flush=True)

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send a signal to it, not to `unshare`."""
        os.kill(self.pid, signum)

    def end(self) -> int:
        """Wait for its end."""
        return self._process.wait(timeout=peers.PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError):
            self.kill()
        self._process.kill()
        self._process.communicate(timeout=peers.PATIENCE)


@pytest.fixture
def heap(heap_name: str) -> Iterator[ipcheap.Heap]:
    with ipcheap.Heap.create(heap_name, "16MiB") as heap:
        heap.add_record_channel("numbers", 16)
        yield heap


PRODUCE = """
with ipcheap.Heap.attach(name) as heap, heap.producer("numbers") as producer:
    record = heap.allocate_record(100_000)
    for number in range(5):
        producer.send(bytes([number]))
    print("sent", flush=True)
    sys.stdin.readline()
    producer.send(b"alive")
    print("sent again", flush=True)
    sys.stdin.readline()
"""

CONSUME = """
import time
with ipcheap.Heap.attach(name) as heap, heap.consumer("numbers") as consumer:
    print([consumer.recv(timeout=30)[0] for _ in range(5)], flush=True)
    try:
        heap.producer("numbers")
    except ipcheap.ChannelBusy as error:
        print(error, flush=True)
    (other,) = [p for p in heap.participants() if p.elsewhere and p.pid == 1]
    print(other.pid, other.state, flush=True)
    print("waiting", flush=True)
    try:
        consumer.recv(timeout=30)
    except ipcheap.PeerDied:
        print(time.monotonic(), flush=True)
    print(heap.check(), len(heap.participants()), flush=True)
    sys.stdin.readline()
"""


def test_of_two_that_are_pid_1_the_survivor_learns_of_the_others_death(
    heap: ipcheap.Heap, heap_name: str
) -> None:
    del heap
    with Stranger(PRODUCE, heap_name) as producer, Stranger(CONSUME, heap_name) as consumer:
        assert producer.hear() == "sent"
        assert consumer.hear() == "[0, 1, 2, 3, 4]"
        busy = consumer.hear()
        assert "pid 1, thread 1 in another PID namespace" in busy
        assert "this process" not in busy
        assert consumer.hear() == "1 alive"
        assert consumer.hear() == "waiting"
        killed = time.monotonic()
        producer.kill()
        learned = float(consumer.hear()) - killed  # the clock is the same in all namespaces
        assert learned < SLOW
        faults, participants = consumer.hear().rsplit(" ", 1)
        assert faults == "[]"
        assert participants == "2"  # itself, and this process
        consumer.tell("done")
        assert consumer.end() == 0


def test_one_that_is_pid_1_elsewhere_is_seen_and_recovered_from_here(
    heap: ipcheap.Heap, heap_name: str
) -> None:
    before = heap.statistics()
    with Stranger(PRODUCE, heap_name) as producer:
        assert producer.hear() == "sent"
        (it,) = [p for p in heap.participants() if p.elsewhere]
        assert (it.pid, it.thread, it.state) == (1, 1, "alive")
        assert heap.recover().participants == 0
        with pytest.raises(ipcheap.ChannelBusy, match="in another PID namespace"):
            heap.producer("numbers")
        producer.kill()
        producer.end()
        (it,) = [p for p in heap.participants() if p.elsewhere]
        assert it.state == "dead"
        report = heap.recover()
        assert [(who.pid, who.elsewhere, who.state) for who in report.dead] == [(1, True, "dead")]
        assert report.bytes >= 100_000
    with heap.consumer("numbers") as consumer:
        assert [data[0] for data in consumer.recv_many()] == [0, 1, 2, 3, 4]
    assert heap.statistics().in_use == before.in_use


def test_one_that_is_stopped_elsewhere_is_not_dead(heap: ipcheap.Heap, heap_name: str) -> None:
    with Stranger(PRODUCE, heap_name) as producer, heap.consumer("numbers") as consumer:
        assert producer.hear() == "sent"
        assert len(consumer.recv_many()) == 5
        producer.kill(signal.SIGSTOP)
        producer.tell("go on")
        with pytest.raises(TimeoutError):
            consumer.recv(timeout=1.2)
        assert heap.recover().participants == 0
        producer.kill(signal.SIGCONT)
        assert consumer.recv(timeout=peers.PATIENCE) == b"alive"
        assert producer.hear() == "sent again"
        producer.tell("end")
        assert producer.end() == 0


LOCK = """
import time
with ipcheap.Heap.attach(name) as heap:
    lock = ipcheap.Lock(heap.channel("cells"), 0)
    lock.acquire()
    print("owner died" if lock.owner_died else "locked", flush=True)
    sys.stdin.readline()
    lock.release()
"""


def test_a_lock_held_by_one_pid_1_is_not_the_others(heap: ipcheap.Heap, heap_name: str) -> None:
    lock = ipcheap.Lock(heap.add_static_segment("cells", 64), 0)
    with Stranger(LOCK, heap_name) as first, Stranger(LOCK, heap_name) as second:
        peers.until(lambda: first.speaks or second.speaks)
        owner, waiter = (first, second) if first.speaks else (second, first)
        assert owner.hear() == "locked"
        assert not lock.acquire(timeout=0.3)
        assert not waiter.speaks
        owner.kill()
        assert waiter.hear() == "owner died"
        waiter.tell("done")
        assert waiter.end() == 0
    assert lock.acquire(timeout=peers.PATIENCE)
    assert not lock.owner_died
    lock.release()

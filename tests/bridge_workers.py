"""Processes at both ends of a bridge, for tests."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

import peers

import ipcheap
from ipcheap.graph.bridge import Listener, Sender
from ipcheap.graph.bridge_end import End

if TYPE_CHECKING:
    from collections.abc import Callable

TOKEN = bytes(range(32))


class Losses:
    """Collects what bridges report."""

    def __init__(self) -> None:
        self.all: list[tuple[str, BaseException]] = []
        self.any = threading.Event()

    def __call__(self, channel_id: str, error: BaseException) -> None:
        self.all.append((channel_id, error))
        self.any.set()


def enter(namespace: str | None) -> None:
    """Enter a network namespace that `ip netns` made."""
    if namespace is not None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY)
        if libc.setns(fd, 0x40000000):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(fd)


def receive(
    heap: ipcheap.Heap,
    channels: list[str],
    address: str = "127.0.0.1",
    patience: float = 20.0,
    namespace: str | None = None,
) -> list[tuple[str, str]]:
    """Be the receiving host of some channels, say the port, and return what was lost."""
    enter(namespace)
    losses = Losses()
    listener = Listener(address, TOKEN, losses, patience)
    with heap:
        for channel_id in channels:
            listener.receive(heap, channel_id)
        peers.say(listener.port)
        assert listener.join(4 * peers.PATIENCE)
        peers.listen(4 * peers.PATIENCE)
        listener.close()
        assert listener.join(peers.PATIENCE)
    return [(channel_id, str(error)) for channel_id, error in losses.all]


def send(
    heap: ipcheap.Heap,
    channels: list[str],
    port: int,
    address: str = "127.0.0.1",
    patience: float = 20.0,
    namespace: str | None = None,
) -> list[tuple[str, str]]:
    """Be the sending host of some channels; return what was lost."""
    enter(namespace)
    losses = Losses()
    with heap:
        senders = [
            Sender(heap, channel_id, address, port, TOKEN, losses, patience)
            for channel_id in channels
        ]
        for sender in senders:
            sender.start()
        peers.say("started")
        assert all(sender.join(4 * peers.PATIENCE) for sender in senders)
    return [(channel_id, str(error)) for channel_id, error in losses.all]


def size_of(number: int) -> int:
    """Return how long the record of a number is: most are short, some are long."""
    if number % 257 == 0:
        return 100_000
    return 8 + (number * 7919) % 200 if number % 31 else 0


def item(number: int) -> bytes:
    """Return a record that says its number, or is empty."""
    size = size_of(number)
    return (number.to_bytes(8, "little") + bytes(size))[:size]


def produce(heap: ipcheap.Heap, channel_id: str, count: int) -> None:
    """Send that many items."""
    with heap.producer(channel_id) as producer:
        for number in range(count):
            producer.send(item(number), timeout=4 * peers.PATIENCE)


def in_thread(work: Callable[..., Any], *args: Any) -> threading.Thread:
    """Run something in a thread."""
    thread = threading.Thread(target=work, args=args)
    thread.start()
    return thread


# Killed at every call -----------------------------------------------------------------------


def die_at(call: int | None) -> None:
    """Have the thread of a bridge killed, with its process, before its call of that number."""
    run = End._run

    def counted(self: Any) -> None:
        left = call

        def count(frame: object, event: str, _: object) -> None:
            nonlocal left
            if left is not None and event in ("call", "c_call"):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        run(self)
        sys.setprofile(None)

    End._run = counted  # type: ignore[method-assign]


def forked(name: str, channel_id: str, call: int | None, port: int | None) -> None:
    """Be an end of a bridge in a process of its own: of the sending host if there is a port."""
    die_at(call)
    losses = Losses()
    with ipcheap.Heap.attach(name) as heap:
        if port is None:
            listener = Listener("127.0.0.1", TOKEN, losses)
            peers.say(listener.port)
            listener.receive(heap, channel_id)
            assert listener.join(peers.PATIENCE)
            peers.say("ended")
            peers.listen()  # the sending host may ask once more
            listener.close()
            assert listener.join(peers.PATIENCE)
        else:
            sender = Sender(heap, channel_id, "127.0.0.1", port, TOKEN, losses)
            sender.start()
            assert sender.join(peers.PATIENCE)
    assert not losses.all, losses.all


def fork_ends() -> None:
    """Fork an end for each request, and say how it ended; until None comes."""
    while (request := peers.listen(4 * peers.PATIENCE)) is not None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                forked(*request)
                code = 0
            finally:
                os._exit(code)
        peers.say(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

"""POSIX message queues through posix_ipc."""

import os
from pathlib import Path

import posix_ipc

from peers.peer import Peer, Receiver, Sender

LIMITS = Path("/proc/sys/fs/mqueue")


def limit(name, otherwise):
    """Return a limit of the system for ordinary users."""
    try:
        return int((LIMITS / name).read_text())
    except OSError:
        return otherwise


class QueueSender(Sender):
    """`send`."""

    def __init__(self, queue):
        self.send = queue.send
        self.close = queue.close

    def commit(self, memory):
        self.send(bytes(memory))


class QueueReceiver(Receiver):
    """`receive`, without the priority."""

    def __init__(self, queue):
        self.queue = queue
        self.close = queue.close

    def recv(self):
        return self.queue.receive()[0]

    def try_recv(self):
        try:
            return self.queue.receive(0)[0]
        except posix_ipc.BusyError:
            return None


class PosixIpcQueue(Peer):
    """One message queue per link, as deep as the system allows."""

    title = "posix_ipc queue"
    package = "posix_ipc"
    largest = limit("msgsize_max", 8192)

    def __init__(self, links, nbytes, depth):
        self.names = [f"/bench.{os.getpid()}.{link}" for link in range(links)]
        for name in self.names:
            posix_ipc.MessageQueue(
                name,
                posix_ipc.O_CREX,
                max_messages=min(depth, limit("msg_max", 10)),
                max_message_size=nbytes,
            ).close()

    def sender(self, link):
        return QueueSender(posix_ipc.MessageQueue(self.names[link]))

    def receiver(self, link):
        return QueueReceiver(posix_ipc.MessageQueue(self.names[link]))

    def close(self):
        for name in self.names:
            posix_ipc.unlink_message_queue(name)

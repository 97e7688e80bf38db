"""multiprocessing.Queue."""

import multiprocessing
import queue

from peers.peer import Peer, Receiver, Sender


class QueueSender(Sender):
    """`put`; a thread pickles the message later, so memory cannot be reused."""

    def __init__(self, queue):
        self.queue = queue
        self.send = self.send_object = queue.put

    def commit(self, memory):
        self.queue.put(bytes(memory))

    def loan_array(self, shape, dtype):
        import numpy as np

        self._array = np.empty(shape, dtype)
        return self._array

    def commit_array(self):
        self.queue.put(self._array)

    def close(self):
        self.queue.close()
        self.queue.join_thread()


class QueueReceiver(Receiver):
    """`get`, and `get_nowait` for calls that must not sleep."""

    def __init__(self, queue):
        self.queue = queue
        self.recv = self.recv_object = queue.get

    def try_recv(self):
        try:
            return self.queue.get_nowait()
        except queue.Empty:
            return None

    def take_array(self, shape, dtype):
        return self.queue.get()


class MpQueue(Peer):
    """One queue per link, with room for `depth` messages."""

    title = "multiprocessing.Queue"

    def __init__(self, links, nbytes, depth):
        context = multiprocessing.get_context("fork")
        self.queues = [context.Queue(depth) for _ in range(links)]

    def sender(self, link):
        return QueueSender(self.queues[link])

    def receiver(self, link):
        return QueueReceiver(self.queues[link])

"""faster-fifo: a queue of pickled messages in one ring of bytes."""

import faster_fifo

from peers.peer import Peer, Receiver, Sender

FOREVER = 3600.0
Empty, Full = faster_fifo.Empty, faster_fifo.Full


def plain(data):
    """Return bytes as they are: the documented way to avoid pickle."""
    return data


class FifoSender(Sender):
    """`put` and `put_many`, which wait for room."""

    def __init__(self, queue):
        self.queue = queue

    def send(self, data):
        self.queue.put(data, timeout=FOREVER)

    def send_many(self, batch):
        self.queue.put_many(batch, timeout=FOREVER)

    def loan(self, nbytes):
        if self._own is None or len(self._own) != nbytes:
            self._own = bytearray(nbytes)
        return self._own

    def commit(self, memory):
        self.queue.put(bytes(memory), timeout=FOREVER)

    def commit_many(self, memories):
        self.queue.put_many([bytes(each) for each in memories], timeout=FOREVER)


class FifoReceiver(Receiver):
    """`get` and `get_many`."""

    def __init__(self, queue):
        self.queue = queue

    def recv(self):
        return self.queue.get(timeout=FOREVER)

    def try_recv(self):
        try:
            return self.queue.get_nowait()
        except Empty:
            return None

    def recv_many(self, limit):
        return self.queue.get_many(timeout=FOREVER, max_messages_to_get=limit)


class FasterFifoQueue(Peer):
    """One queue per link, with room for `depth` messages and their headers."""

    title = "faster-fifo"
    package = "faster-fifo"
    batches = True

    def __init__(self, links, nbytes, depth):
        room = depth * (nbytes + 64) + 4096
        self.queues = [
            faster_fifo.Queue(max_size_bytes=room, loads=bytes, dumps=plain) for _ in range(links)
        ]

    def sender(self, link):
        return FifoSender(self.queues[link])

    def receiver(self, link):
        queue = self.queues[link]
        queue.reallocate_msg_buffer(1 << 20)
        return FifoReceiver(queue)

"""zenoh between two peers on one machine, with shared memory."""

import os
import socket

import zenoh

from peers.peer import Peer, Receiver, Sender

IN_LINE = 4096  # up to this many bytes, a message in the packet is faster than shared memory


def free_port():
    """Return a loopback port that no process listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def session(listen=None, connect=None):
    """Open a session that connects to a known session only, without scouting."""
    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("transport/shared_memory/enabled", "true")
    config.insert_json5("listen/endpoints", f'["tcp/127.0.0.1:{listen}"]' if listen else "[]")
    if connect:
        config.insert_json5("connect/endpoints", f'["tcp/127.0.0.1:{connect}"]')
    return zenoh.open(config)


class ZenohSender(Sender):
    """`put`, with a buffer of the provider for messages that are too large for the packet."""

    def __init__(self, own, key, nbytes, depth):
        self.session = own
        self.publisher = own.declare_publisher(
            key, congestion_control=zenoh.CongestionControl.BLOCK, express=True
        )
        self.send = self.publisher.put
        self.large = nbytes > IN_LINE
        if self.large:
            room = (depth + 4) * (nbytes + 4096)
            self.provider = zenoh.shm.ShmProvider.default_backend(room)
            self.policy = zenoh.shm.BlockOn(zenoh.shm.GarbageCollect())

    def loan(self, nbytes):
        if self.large:
            # It supports slice assignment, but not the buffer protocol.
            return self.provider.alloc(nbytes, policy=self.policy)
        return super().loan(nbytes)

    def commit(self, memory):
        self.publisher.put(memory if self.large else bytes(memory))

    def loan_array(self, shape, dtype):
        import numpy as np

        self._array = np.empty(shape, dtype)
        return self._array

    def commit_array(self):
        lent = self.provider.alloc(self._array.nbytes, policy=self.policy)
        lent[:] = self._array.tobytes()
        self.publisher.put(lent)

    def send_object(self, obj):
        import pickle

        data = pickle.dumps(obj, 5)
        lent = self.provider.alloc(len(data), policy=self.policy)
        lent[:] = data
        self.publisher.put(lent)

    def ready(self):
        return self.publisher.matching_status.matching

    def close(self):
        self.publisher.undeclare()
        self.session.close()


class ZenohReceiver(Receiver):
    """A subscriber with a bounded FIFO; Python can obtain a payload only as a copy."""

    def __init__(self, own, key, depth):
        self.session = own
        self.subscriber = own.declare_subscriber(key, zenoh.handlers.FifoChannel(depth))

    def recv(self):
        return bytes(self.subscriber.recv().payload)

    def try_recv(self):
        sample = self.subscriber.try_recv()
        return None if sample is None else bytes(sample.payload)

    def recv_object(self):
        import pickle

        return pickle.loads(self.recv())

    def close(self):
        self.subscriber.undeclare()
        self.session.close()


class ZenohShm(Peer):
    """One key and two sessions per link: the receiver listens, the sender connects to it."""

    title = "zenoh, shared memory"
    package = "eclipse-zenoh"

    def __init__(self, links, nbytes, depth):
        self.nbytes, self.depth = nbytes, depth
        self.ports = [free_port() for _ in range(links)]
        self.prefix = f"bench/{os.getpid()}"

    def sender(self, link):
        own = session(connect=self.ports[link])
        return ZenohSender(own, f"{self.prefix}/{link}", self.nbytes, self.depth)

    def receiver(self, link):
        own = session(listen=self.ports[link])
        return ZenohReceiver(own, f"{self.prefix}/{link}", self.depth)

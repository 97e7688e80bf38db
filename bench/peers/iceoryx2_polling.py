"""iceoryx2, publish and subscribe; the subscriber polls."""

import ctypes
import os

import iceoryx2 as iox2

from peers.peer import Peer, Receiver, Sender


class PollingSender(Sender):
    """Loans a slice, writes it in place, and sends it; retries until there is room."""

    def __init__(self, service, nbytes):
        self.publisher = (
            service.publisher_builder()
            .initial_max_slice_len(nbytes)
            .max_loaned_samples(2)
            .backpressure_strategy(iox2.BackpressureStrategy.RetryUntilDelivered)
            .create()
        )

    def send(self, data):
        size = len(data)
        sample = self.publisher.loan_slice_uninit(size)
        ctypes.memmove(sample.payload_ptr, data, size)
        sample.assume_init().send()

    def loan(self, nbytes):
        self.sample = self.publisher.loan_slice_uninit(nbytes)
        return self.sample.payload().as_memory_view().cast("B")

    def commit(self, memory):
        self.sample.assume_init().send()
        self.sample = None

    def close(self):
        self.publisher.delete()


class PollingReceiver(Receiver):
    """Polls until there is a sample."""

    def __init__(self, service, depth):
        self.subscriber = service.subscriber_builder().buffer_size(depth).create()
        self.sample = None

    def try_recv(self):
        sample = self.subscriber.receive()
        if sample is None:
            return None
        payload = sample.payload()
        return ctypes.string_at(payload.data_ptr, payload.number_of_elements)

    def recv(self):
        return self.spin()

    def take(self):
        receive = self.subscriber.receive
        while True:
            self.sample = receive()
            if self.sample is not None:
                return self.sample.payload().as_memory_view().cast("B")

    def done(self, memory):
        self.sample.delete()
        self.sample = None

    def close(self):
        self.subscriber.delete()


class Iceoryx2Polling(Peer):
    """One service per link, without overflow; one node per thread."""

    title = "iceoryx2, polling"
    package = "iceoryx2"
    blocks = False

    def __init__(self, links, nbytes, depth):
        self.nbytes, self.depth = nbytes, depth
        self.prefix = f"bench/{os.getpid()}"
        iox2.set_log_level(iox2.LogLevel.Error)

    def _node(self):
        return iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)

    def _service(self, node, link):
        return (
            node.service_builder(iox2.ServiceName.new(f"{self.prefix}/{link}"))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .max_publishers(1)
            .max_subscribers(1)
            .max_nodes(20)
            .history_size(0)
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(self.depth)
            .subscriber_max_borrowed_samples(2)
            .open_or_create()
        )

    def sender(self, link):
        return PollingSender(self._service(self._node(), link), self.nbytes)

    def receiver(self, link):
        return PollingReceiver(self._service(self._node(), link), self.depth)

"""iceoryx2, publish and subscribe, with events that wake the subscribers and events back."""

import ctypes
import os

import iceoryx2 as iox2

from peers.buses import Buses, Listener, Writer
from peers.iceoryx2_polling import PollingReceiver, PollingSender


class Iceoryx2Writer(Writer):
    """Notifies all after each sample; retries until every subscriber has room."""

    def __init__(self, service, nbytes, event, back, listeners):
        self.sender = PollingSender(service, nbytes)
        self.notify = event.notifier_builder().create().notify
        self.back = back.listener_builder().create()
        self.listeners = listeners

    def round(self, data):
        self.send(data)
        wait, acknowledged = self.back.blocking_wait, set()
        while len(acknowledged) < self.listeners:
            acknowledged.update(activation.id.as_value for activation in wait())

    def send(self, data):
        self.sender.send(data)
        self.notify()

    def loan_array(self, shape, dtype):
        return self.sender.loan_array(shape, dtype)

    def commit_array(self):
        self.sender.commit_array()
        self.notify()

    def close(self):
        self.sender.close()


class Iceoryx2Listener(Listener):
    """Takes what is there; sleeps on the event only if nothing is there."""

    def __init__(self, service, depth, event, back, number):
        self.receiver = PollingReceiver(service, depth)
        self.event = event.listener_builder().create()
        self.acknowledge = back.notifier_builder().create().notify_with_custom_event_id
        self.own = iox2.EventId.new(number)
        self.done_array = self.receiver.done_array
        self.close = self.receiver.close

    def recv(self):
        while True:
            data = self.receiver.try_recv()
            if data is not None:
                return data
            self.event.blocking_wait()

    def answer(self):
        data = self.recv()
        self.acknowledge(self.own)
        return data

    def take_array(self, shape, dtype):
        subscriber = self.receiver.subscriber
        while not subscriber.has_samples():
            self.event.blocking_wait()
        return self.receiver.take_array(shape, dtype)


class Iceoryx2Pub(Buses):
    """One service of samples and two of events; each listener has an event ID of its own."""

    title = "iceoryx2, events"
    package = "iceoryx2"
    lends = True

    def __init__(self, listeners, nbytes, depth):
        self.listeners, self.nbytes, self.depth = listeners, nbytes, depth
        self.prefix = f"bench/{os.getpid()}/{listeners}"
        iox2.set_log_level(iox2.LogLevel.Error)

    def _samples(self, node):
        return (
            node.service_builder(iox2.ServiceName.new(f"{self.prefix}/samples"))
            .publish_subscribe(iox2.Slice[ctypes.c_uint8])
            .max_publishers(1)
            .max_subscribers(self.listeners)
            .max_nodes(2 * self.listeners + 2)
            .history_size(0)
            .enable_safe_overflow(False)
            .subscriber_max_buffer_size(self.depth)
            .subscriber_max_borrowed_samples(2)
            .open_or_create()
        )

    def _events(self, node, name):
        return (
            node.service_builder(iox2.ServiceName.new(f"{self.prefix}/{name}"))
            .event()
            .max_listeners(self.listeners)
            .max_notifiers(self.listeners)
            .max_nodes(2 * self.listeners + 2)
            .open_or_create()
        )

    def _services(self):
        node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        return self._samples(node), self._events(node, "there"), self._events(node, "back")

    def writer(self):
        samples, there, back = self._services()
        return Iceoryx2Writer(samples, self.nbytes, there, back, self.listeners)

    def listener(self, number):
        samples, there, back = self._services()
        return Iceoryx2Listener(samples, self.depth, there, back, number)

    def close(self):
        pass

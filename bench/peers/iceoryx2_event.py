"""iceoryx2, publish and subscribe, with an event that wakes the subscriber."""

import iceoryx2 as iox2

from peers.iceoryx2_polling import Iceoryx2Polling, PollingReceiver, PollingSender


class EventSender(PollingSender):
    """Notifies after each sample."""

    def __init__(self, service, nbytes, event):
        super().__init__(service, nbytes)
        self.notifier = event.notifier_builder().create()
        self.notify = self.notifier.notify

    def send(self, data):
        super().send(data)
        self.notify()

    def commit(self, memory):
        super().commit(memory)
        self.notify()


class EventReceiver(PollingReceiver):
    """Takes what is there; sleeps on the listener only if nothing is there."""

    def __init__(self, service, depth, event):
        super().__init__(service, depth)
        self.listener = event.listener_builder().create()

    def recv(self):
        while True:
            data = self.try_recv()
            if data is not None:
                return data
            self.listener.blocking_wait()

    def take(self):
        while True:
            self.sample = self.subscriber.receive()
            if self.sample is not None:
                return self.sample.payload().as_memory_view().cast("B")
            self.listener.blocking_wait()


class Iceoryx2Event(Iceoryx2Polling):
    """One service of samples and one of events per link."""

    title = "iceoryx2, event"
    blocks = True
    spins = False

    def _event(self, node, link):
        name = iox2.ServiceName.new(f"{self.prefix}/{link}")
        return node.service_builder(name).event().open_or_create()

    def sender(self, link):
        node = self._node()
        return EventSender(self._service(node, link), self.nbytes, self._event(node, link))

    def receiver(self, link):
        node = self._node()
        return EventReceiver(self._service(node, link), self.depth, self._event(node, link))

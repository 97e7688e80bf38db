"""What a peer has to implement to send each message to several listeners.

A bus has one writer and some listeners, each in a process of its own, and all of them get the same
messages. In a *round*, the writer sends a message and returns when every listener has
acknowledged it: `Writer.round` and `Listener.answer`. In a *flow*, messages follow each other, and
none is lost: `Writer.send` and `Listener.recv`. A peer whose messages get lost if a listener is
slow counts them by `Credit` and `Debt`. Peers with batches implement `send_many` and `recv_many`,
and peers that lend memory implement the calls about arrays.
"""

from peers.peer import Peer


class Writer:
    """The writing end, opened in the process that uses it."""

    def ready(self):
        """Return when all listeners are known to it; they have been opened."""

    def round(self, data):
        """Send a copy of `data` to all listeners; return when all have acknowledged it."""
        raise NotImplementedError

    def rounds(self, data, count, pause):
        """Make so many rounds, each after a pause in seconds; return the ns that each took."""
        import time

        clock, samples = time.perf_counter_ns, []
        for _ in range(count):
            if pause:
                time.sleep(pause)
            begin = clock()
            self.round(data)
            samples.append(clock() - begin)
        return samples

    def send(self, data):
        """Send a copy of `data` to all listeners; wait for room."""
        raise NotImplementedError

    def send_many(self, batch):
        """Send a list of `bytes` in one call; implemented by peers that have batches."""
        raise NotImplementedError

    def loan_array(self, shape, dtype):
        """Return an array for the next message; the caller fills it and drops it."""
        raise NotImplementedError

    def commit_array(self):
        """Send the array that `loan_array` returned to all listeners."""
        raise NotImplementedError

    def close(self):
        """Close this end."""


class Listener:
    """The end of a listener, opened in the process that uses it."""

    def enter(self):
        """Register, if that ends with `leave`; called before each phase."""

    def answer(self):
        """Return a copy of the message of a round, acknowledged."""
        raise NotImplementedError

    def answers(self, count):
        """Answer so many rounds; return the last message."""
        for _ in range(count):
            data = self.answer()
        return data

    def recv(self):
        """Return a copy of the next message as `bytes`; sleep until it arrives."""
        raise NotImplementedError

    def recv_many(self, limit):
        """Return a list of 1 to `limit` messages."""
        raise NotImplementedError

    def take_array(self, shape, dtype):
        """Return the next message as an array, valid until `done_array`."""
        raise NotImplementedError

    def done_array(self):
        """Release the array that `take_array` returned."""

    def close(self):
        """Close this end."""


class Buses(Peer):
    """A way to send each message to several listeners of one machine."""

    lends = False  # whether there are loan_array() and take_array()

    def __init__(self, listeners, nbytes, depth):
        """Create a bus for messages of up to `nbytes`, `depth` of which can be in flight."""
        raise NotImplementedError

    def writer(self):
        """Open the writing end, before any listener is opened."""
        raise NotImplementedError

    def listener(self, number):
        """Open the end of a listener; they are numbered from 0."""
        raise NotImplementedError

    def close(self):
        """Remove the bus, in the parent."""


class Credit:
    """Keeps a writer from sending more than `depth` messages that not all have acknowledged.

    The listeners acknowledge after each half of them, which costs less than one after each message.
    """

    def __init__(self, listeners, depth, collect):
        self.listeners, self.half = listeners, max(1, depth // 2)
        self.collect = collect  # returns the numbers of listeners that have acknowledged
        self.halves = [0] * listeners  # that each has acknowledged
        self.sent = 0

    def use(self):
        """Return when one more message can be sent."""
        full, rest = divmod(self.sent, self.half)
        if rest == 0 and full >= 2:
            while min(self.halves) < full - 1:
                for number in self.collect():
                    self.halves[number] += 1
        self.sent += 1


class Debt:
    """Says when a listener has to acknowledge."""

    def __init__(self, depth):
        self.half = max(1, depth // 2)
        self.received = 0

    def due(self):
        """Return whether the message that was received is the last one of a half."""
        self.received += 1
        return self.received % self.half == 0

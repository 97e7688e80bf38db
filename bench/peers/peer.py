"""What a peer has to implement, and the defaults on top of it.

A *link* goes one way, from one sender to one receiver. A workload says how many links it needs,
how large its messages are and how many can be in flight. The peer creates the links in the
parent (`__init__`), each process or thread opens its end (`sender`, `receiver`), and the parent
cleans up (`close`). A peer must implement at least `Sender.send` and `Receiver.recv`:

    class Mine(Peer):
        title = "mine"
        package = "mine-on-pypi"

        def __init__(self, links, nbytes, depth):
            self.queues = [mine.Queue(depth) for _ in range(links)]

        def sender(self, link):
            return MineSender(self.queues[link])
        ...

Everything else has a default on top of these two, with the copies that a user of the library
would have to make. Override what the library does better. This module imports only what a bare
message needs, because the cold start of every peer includes it.
"""


class Sender:
    """The sending end of a link, opened in the process and thread that uses it."""

    _own = None

    def send(self, data):
        """Send a copy of `data`; wait for room."""
        raise NotImplementedError

    def send_many(self, batch):
        """Send a list of `bytes` in one call; implemented by peers that have batches."""
        raise NotImplementedError

    def loan(self, nbytes):
        """Return memory for the next message, to be filled by `memory[:] = bytes`.

        By default this is private memory, which is reused and copied by `commit`.
        """
        if self._own is None or len(self._own) != nbytes:
            self._own = bytearray(nbytes)
        return self._own

    def commit(self, memory):
        """Send the memory that `loan` returned."""
        self.send(memory)

    def loan_many(self, nbytes, count):
        """Return memory for `count` messages, for `commit_many`."""
        if not isinstance(self._own, list):
            self._own = [bytearray(nbytes) for _ in range(count)]
        return self._own

    def commit_many(self, memories):
        """Send all the memory that `loan_many` returned."""
        self.send_many(memories)

    def loan_array(self, shape, dtype):
        """Return a NumPy array for the next message; the caller fills it and drops it."""
        import math

        import numpy as np

        dtype = np.dtype(dtype)
        self._memory = self.loan(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(self._memory, dtype).reshape(shape)

    def commit_array(self):
        """Send the array that `loan_array` returned."""
        self.commit(self._memory)

    def send_object(self, obj):
        """Send an object: pickle 5 with out-of-band buffers, copied once into a loan."""
        import pickle

        buffers = []
        head = pickle.dumps(obj, 5, buffer_callback=buffers.append)
        parts = [head, *(buffer.raw() for buffer in buffers)]
        sizes = [len(part) for part in parts]
        lent = self.loan(8 * (1 + len(sizes)) + sum(sizes))
        memory = memoryview(lent)
        table = memory[: 8 * (1 + len(sizes))].cast("Q")
        table[0] = len(sizes)
        at = len(table) * 8
        for i, part in enumerate(parts, 1):
            table[i] = sizes[i - 1]
            memory[at : at + len(part)] = part
            at += len(part)
        self.commit(lent)

    def ready(self):
        """Return whether the other end is open; called until it is."""
        return True

    def close(self):
        """Flush, and close this end."""


class Receiver:
    """The receiving end of a link."""

    _memory = None

    def recv(self):
        """Return a copy of the next message as `bytes`; sleep until it arrives."""
        raise NotImplementedError

    def try_recv(self):
        """Return a copy of the next message, None if there is none yet."""
        raise NotImplementedError

    def spin(self):
        """Return a copy of the next message; spin until it arrives."""
        while True:
            data = self.try_recv()
            if data is not None:
                return data

    def recv_many(self, limit):
        """Return a list of 1 to `limit` messages."""
        raise NotImplementedError

    def take(self):
        """Return the next message in place, valid until `done`."""
        return self.recv()

    def done(self, memory):
        """Release the message that `take` returned."""

    def take_many(self, limit):
        """Return a list of 1 to `limit` messages in place, valid until `done_many`."""
        return self.recv_many(limit)

    def done_many(self, memories):
        """Release the messages that `take_many` returned."""

    def take_array(self, shape, dtype):
        """Return the next message as a NumPy array, valid until `done_array`."""
        import math

        import numpy as np

        self._memory = self.take()
        return np.frombuffer(self._memory, dtype, math.prod(shape)).reshape(shape)

    def done_array(self):
        """Release the memory of the last array, or of the arrays of the last object."""
        self.done(self._memory)

    def recv_object(self):
        """Return the next object; its arrays alias the message and are valid until `done_array`."""
        import pickle

        self._memory = self.take()
        memory = memoryview(self._memory)
        (count,) = memory[:8].cast("Q")
        sizes = memory[8 : 8 * (1 + count)].cast("Q")
        at = 8 * (1 + count)
        parts = []
        for size in sizes:
            parts.append(memory[at : at + size])
            at += size
        return pickle.loads(parts[0], buffers=parts[1:])

    def close(self):
        """Close this end."""


class Peer:
    """A way to pass messages between processes of one machine."""

    title = ""  # in tables and plots
    package = None  # the distribution whose version is reported; None for the standard library
    version = None  # what is reported instead, if it is no distribution
    largest = None  # bytes of the largest possible message, None without a limit
    blocks = True  # whether recv() sleeps; peers that can only poll are omitted from such workloads
    spins = True  # whether there is a try_recv() or spin()
    batches = False  # whether there are send_many() and recv_many()
    only = ()  # the workloads it is for, empty for all

    def __init__(self, links, nbytes, depth):
        """Create links for messages of up to `nbytes`, `depth` of which can be in flight."""
        raise NotImplementedError

    def sender(self, link):
        """Open the sending end of a link, in the process and thread that uses it."""
        raise NotImplementedError

    def receiver(self, link):
        """Open the receiving end of a link, in the process and thread that uses it."""
        raise NotImplementedError

    def close(self):
        """Remove the links, in the parent."""

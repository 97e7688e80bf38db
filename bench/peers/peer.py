"""What a peer has to do, and what is done for it.

A *link* goes one way, from one sender to one receiver. A workload says how many it needs,
how large its messages are and how many may be under way; the peer makes the links in the
parent (`__init__`), each process or thread then opens its end (`sender`, `receiver`), and the
parent clears up (`close`). Least of all a peer needs `Sender.send` and `Receiver.recv`:

    class Mine(Peer):
        title = "mine"
        package = "mine-on-pypi"

        def __init__(self, links, nbytes, depth):
            self.queues = [mine.Queue(depth) for _ in range(links)]

        def sender(self, link):
            return MineSender(self.queues[link])
        ...

All else has a default on top of these two, with the copies that a user without anything
better would make as well; override what the library does better. Nothing is imported here
that a bare message does not need: the cold start of every peer goes through this module.
"""


class Sender:
    """The sending end of a link, opened in the process and thread that uses it."""

    _own = None

    def send(self, data):
        """Send a copy of some bytes; wait for room."""
        raise NotImplementedError

    def send_many(self, batch):
        """Send a list of bytes in one go; not overridden, there are no batches here."""
        raise NotImplementedError

    def loan(self, nbytes):
        """Return memory for the next message, to be filled by `memory[:] = bytes`.

        Where messages travel by copying this is memory of our own, used again and again.
        """
        if self._own is None or len(self._own) != nbytes:
            self._own = bytearray(nbytes)
        return self._own

    def commit(self, memory):
        """Send what was lent."""
        self.send(memory)

    def loan_many(self, nbytes, count):
        """Return memory for so many messages, for `commit_many`."""
        if not isinstance(self._own, list):
            self._own = [bytearray(nbytes) for _ in range(count)]
        return self._own

    def commit_many(self, memories):
        """Send all of what was lent."""
        self.send_many(memories)

    def loan_array(self, shape, dtype):
        """Return a NumPy array for the next message, to be filled and let go of."""
        import math

        import numpy as np

        dtype = np.dtype(dtype)
        self._memory = self.loan(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(self._memory, dtype).reshape(shape)

    def commit_array(self):
        """Send the array that was lent."""
        self.commit(self._memory)

    def send_object(self, obj):
        """Send an object: pickle 5 with the buffers beside it, written once into the loan."""
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
        """Whether the other end is there; called until it is."""
        return True

    def close(self):
        """Flush, and close this end."""


class Receiver:
    """The receiving end of a link."""

    _memory = None

    def recv(self):
        """Return a copy of the next message as bytes; sleep until there is one."""
        raise NotImplementedError

    def try_recv(self):
        """Return a copy of the next message, None when there is none yet."""
        raise NotImplementedError

    def spin(self):
        """Return a copy of the next message; stay awake until there is one."""
        while True:
            data = self.try_recv()
            if data is not None:
                return data

    def recv_many(self, limit):
        """Return a list of up to so many messages, at least one."""
        raise NotImplementedError

    def take(self):
        """Return the next message where it lies, good until `done`."""
        return self.recv()

    def done(self, memory):
        """Give back what was taken."""

    def take_many(self, limit):
        """Return a list of up to so many messages where they lie, good until `done_many`."""
        return self.recv_many(limit)

    def done_many(self, memories):
        """Give back what was taken."""

    def take_array(self, shape, dtype):
        """Return the next message as a NumPy array, to be let go of before `done_array`."""
        import math

        import numpy as np

        self._memory = self.take()
        return np.frombuffer(self._memory, dtype, math.prod(shape)).reshape(shape)

    def done_array(self):
        """Give back what the last array, or the arrays of the last object, lay in."""
        self.done(self._memory)

    def recv_object(self):
        """Return the next object; its arrays alias the message, until `done_array`."""
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
    """A way of passing messages between processes of one machine."""

    title = ""  # as it stands in tables
    package = None  # the distribution whose version is reported; None for the standard library
    largest = None  # bytes that a message can have, None without a limit
    blocks = True  # whether recv() sleeps; a peer that can only look again is not in those rows
    spins = True  # whether there is a try_recv() or its like
    batches = False  # whether send_many() and recv_many() are there
    only = ()  # the only workloads it is for, if not all

    def __init__(self, links, nbytes, depth):
        """Make so many links for messages of up to `nbytes`, `depth` of them under way."""
        raise NotImplementedError

    def sender(self, link):
        """Open the sending end of a link, in the process and thread that will use it."""
        raise NotImplementedError

    def receiver(self, link):
        """Open the receiving end of a link, in the process and thread that will use it."""
        raise NotImplementedError

    def close(self):
        """Remove what was made, in the parent."""

"""What a peer has to implement to carry a stream of bytes or items.

A stream's link goes one way, like a link of messages. A writer has `write`, which writes all of a
buffer, and a reader `readinto`, which fills one. A peer that lends memory of its ring has in
addition either `window`, a context manager, or `loan` and `commit`, and `take` and `done`.
"""

from peers.peer import Peer, Receiver, Sender


class Writer(Sender):
    """The writing end of a link, opened in the process and thread that uses it."""

    window = None  # window(items) returns a context manager of an array in the ring
    form = "u1"  # the dtype of the arrays that write() takes

    def write(self, data):
        """Write all of a buffer; wait for room."""
        raise NotImplementedError


class Reader(Receiver):
    """The reading end of a link."""

    window = None
    form = "u1"  # the dtype of the arrays that readinto() takes

    def readinto(self, buffer):
        """Fill a buffer; wait until it is full."""
        raise NotImplementedError

    def fileno(self):
        """Return a descriptor that is readable if there is something to read."""
        raise NotImplementedError

    def read_some(self):
        """Return what is there as bytes, at least 64 KiB if there are as many."""
        raise NotImplementedError


class Streams(Peer):
    """A way to carry streams between processes of one machine."""

    spins = False
    lends = False  # whether there are windows
    polls = False  # whether readers have fileno() and read_some()

    def __init__(self, links, itemsize, capacity, dtype="u1", portion=1):
        """Create links for `capacity` items; each call moves `portion` items of `dtype`."""
        raise NotImplementedError

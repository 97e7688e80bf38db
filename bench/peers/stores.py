"""What a peer has to implement to keep the newest value of each key.

A store has one writer and some readers, each in a process of its own. All values have the same
size. A peer says what its keys look like (`key`), and it must implement at least `Writer.put` and
`Reader.get`. The array calls have a default on top of these two, with the copies that a user of
the library would have to make, of an array that is filled or of one that a user keeps and marks.
`put_many` and `get_many` are for peers that change and read several keys as of one moment.
"""

from peers.peer import Peer


class Writer:
    """The writing end, opened in the process that uses it."""

    own = None  # the array that a user keeps

    def put(self, key, data):
        """Make a copy of `data`, which is `bytes`, the newest value of a key."""
        raise NotImplementedError

    def put_array(self, key, array):
        """Make a copy of an array of bytes the newest value of a key."""
        self.put(key, array.tobytes())

    def mark_array(self, key, nbytes, mark, every):
        """Make an array of so many bytes the newest value, with a mark at regular distances."""
        if self.own is None:
            import numpy as np

            self.own = np.zeros(nbytes, "u1")
        self.own[::every] = mark
        self.put_array(key, self.own)

    def put_many(self, pairs):
        """Make copies of `bytes`, a dict, the newest values of their keys, all at one moment."""
        raise NotImplementedError

    def close(self):
        """Close this end."""


class Reader:
    """A reading end, opened in the process that uses it."""

    def get(self, key):
        """Return a copy of the newest value of a key, as `bytes`."""
        raise NotImplementedError

    def take_array(self, key):
        """Return the newest value of a key as an array of bytes, valid until `done_array`."""
        import numpy as np

        return np.frombuffer(self.get(key), "u1")

    def done_array(self):
        """Release the array that `take_array` returned."""

    def get_many(self, keys):
        """Return the newest values of some keys as of one moment, a list of `bytes`."""
        raise NotImplementedError

    def close(self):
        """Close this end."""


class Stores(Peer):
    """A way to keep values for other processes of one machine."""

    together = False  # whether there are put_many() and get_many()

    def __init__(self, keys, nbytes, readers):
        """Create a store for so many keys, with values of `nbytes`."""
        raise NotImplementedError

    def key(self, number):
        """Return the key of a number."""
        return f"key {number}"

    def writer(self):
        """Open the writing end; it puts a value of every key before a reader is opened."""
        raise NotImplementedError

    def reader(self):
        """Open a reading end."""
        raise NotImplementedError

    def close(self):
        """Remove the store, in the parent."""

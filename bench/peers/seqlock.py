"""A seqlock by hand in shared memory, with two buffers for each key.

    | count | .. | buffer 0 | buffer 1 | count | .. | buffer 0 | ...

A count is odd while its key is being changed. The writer fills the buffer that is not the newest,
so readers retry only if it has begun with theirs before they had copied it. This is what an expert
would write in Python for speed alone: one writer, keys and sizes that are known beforehand, no
reader that sleeps, nothing held. Plain stores are enough on processors that keep the order of
stores, as x86 does.
"""

from multiprocessing import shared_memory

from peers import ring
from peers.stores import Reader, Stores, Writer


class Cells:
    """The keys as one process sees them: {key: (count, buffers)}, sliced once."""

    def __init__(self, memory, keys, nbytes):
        size, self.cells = step(nbytes), {}
        for number, key in enumerate(keys):
            at = number * size
            first, second = at + ring.LINE, at + ring.LINE + ring.step(nbytes)
            self.cells[key] = (
                memory.buf[at : at + 8].cast("Q"),
                (memory.buf[first : first + nbytes], memory.buf[second : second + nbytes]),
            )


class SeqlockWriter(Writer, Cells):
    """Fills the buffer that is not the newest."""

    def put(self, key, data):
        count, buffers = self.cells[key]
        number = count[0] + 1
        count[0] = number
        buffers[(number >> 1) + 1 & 1][:] = data
        count[0] = number + 1

    def put_array(self, key, array):
        self.put(key, array.data)


class SeqlockReader(Reader, Cells):
    """Copies the newest buffer, and again if it was changed meanwhile."""

    def get(self, key):
        count, buffers = self.cells[key]
        while True:
            number = count[0] & ~1
            data = buffers[number >> 1 & 1].tobytes()
            if count[0] - number <= 2:
                return data


def step(nbytes):
    """Return the distance between keys."""
    return ring.LINE + 2 * ring.step(nbytes)


class Seqlock(Stores):
    """One segment of shared memory."""

    title = "seqlock by hand"

    def __init__(self, keys, nbytes, readers):
        self.keys, self.nbytes = [self.key(number) for number in range(keys)], nbytes
        self.memory = shared_memory.SharedMemory(create=True, size=keys * step(nbytes))

    def writer(self):
        return SeqlockWriter(self.memory, self.keys, self.nbytes)

    def reader(self):
        return SeqlockReader(self.memory, self.keys, self.nbytes)

    def close(self):
        ring.remove(self.memory)

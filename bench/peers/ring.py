"""The shared memory of a ring written by hand: equal slots, two counters that only grow.

    | head | .. | tail | .. | slot 0 | slot 1 | ... |

The head is the sender's and the tail the receiver's, in cache lines of their own; each side
keeps what it last saw of the other's and looks again only when that does not do. Plain
stores are enough where processors keep the order of stores, as x86 does.
"""

from multiprocessing import shared_memory

LINE = 128
FIRST = 4096


class Ring:
    """One ring, attached: counters as memoryviews of one item, slots sliced once."""

    def __init__(self, memory, slots, nbytes):
        self.slots = slots
        self.nbytes = nbytes
        self.buffer = memory.buf
        self.head = memory.buf[:8].cast("Q")
        self.tail = memory.buf[LINE : LINE + 8].cast("Q")
        self.step = step(nbytes)

    def views(self):
        """Return the slots, each a memoryview of `nbytes`."""
        starts = range(FIRST, FIRST + self.slots * self.step, self.step)
        return [self.buffer[at : at + self.nbytes] for at in starts]


def step(nbytes):
    """Return how far slots lie apart: whole cache lines."""
    return (nbytes + 63) // 64 * 64


def power(least):
    """Return the power of two that is not less."""
    return 1 << (least - 1).bit_length()


def make(slots, nbytes):
    """Return new shared memory for a ring."""
    return shared_memory.SharedMemory(create=True, size=FIRST + slots * step(nbytes))


def remove(memory):
    """Take its name away; the views on it go with the process."""
    memory.unlink()
    memory.close = lambda: None  # what __del__ would call, and fail while there are views

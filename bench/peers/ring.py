"""The shared memory of a hand-written ring: slots of equal size, two counters that only grow.

    | head | .. | tail | .. | slot 0 | slot 1 | ... |

The sender owns the head and the receiver owns the tail, each in a cache line of its own. Each
side caches the other's counter and reads it again only if the cached value does not suffice.
Plain stores are enough on processors that keep the order of stores, as x86 does.
"""

from multiprocessing import shared_memory

LINE = 128
FIRST = 4096


class Ring:
    """One attached ring: counters as memoryviews of one item, slots sliced once."""

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
    """Return the distance between slots, in whole cache lines."""
    return (nbytes + 63) // 64 * 64


def power(least):
    """Return the smallest power of two that is at least `least`."""
    return 1 << (least - 1).bit_length()


def make(slots, nbytes):
    """Return new shared memory for a ring."""
    return shared_memory.SharedMemory(create=True, size=FIRST + slots * step(nbytes))


def remove(memory):
    """Unlink the memory; its views end with the process."""
    memory.unlink()
    memory.close = lambda: None  # __del__ would call it, which fails while there are views

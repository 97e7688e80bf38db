"""Hand-written rings in shared memory that carry streams; both sides spin.

The bytes of the ring, and two counters that only grow: what was written and what was read. This is
what an expert would write in Python for speed alone: closures with local counters, and the other
side's counter read again only if the cached value does not suffice.
"""

import ctypes
import mmap
import os

from peers import ring
from peers.ring_struct import RingStruct
from peers.streams import Reader, Streams, Writer


class BytesWriter(Writer):
    """Copies in one piece, or in two at the end of a ring that is mapped once."""

    def __init__(self, own):
        head_word, tail_word, buffer, room, twice = own.parts()
        head, limit = 0, room

        def write(data):
            nonlocal head, limit
            size = len(data)
            while limit - head < size:
                limit = tail_word[0] + room
            at = head % room
            end = at + size
            if end <= room or twice:
                buffer[at:end] = data
            else:
                buffer[at:room] = data[: room - at]
                buffer[: end - room] = data[room - at :]
            head += size
            head_word[0] = head

        self.write = write


class BytesReader(Reader):
    """The same, out of the ring."""

    def __init__(self, own):
        head_word, tail_word, buffer, room, twice = own.parts()
        tail = limit = 0

        def readinto(data):
            nonlocal tail, limit
            size = len(data)
            while limit - tail < size:
                limit = head_word[0]
            at = tail % room
            end = at + size
            if end <= room or twice:
                data[:] = buffer[at:end]
            else:
                data[: room - at] = buffer[at:room]
                data[room - at :] = buffer[: end - room]
            tail += size
            tail_word[0] = tail

        self.readinto = readinto


class Mapped:
    """The memory of a ring, as one process sees it."""

    def __init__(self, buffer, words, room, twice):
        self.buffer, self.words, self.room, self.twice = buffer, words, room, twice

    def parts(self):
        """Return head, tail, ring, its size, and whether it follows once more."""
        head = self.words[:8].cast("Q")
        tail = self.words[ring.LINE : ring.LINE + 8].cast("Q")
        return head, tail, self.buffer, self.room, self.twice


class RingBytes(Streams):
    """One ring per link, mapped once."""

    title = "ring by hand, bytes"
    blocks = False
    spins = True

    def __init__(self, links, itemsize, capacity, dtype="u1", portion=1):
        self.room = itemsize * capacity
        self.memories = [ring.make(1, self.room) for _ in range(links)]

    def mapped(self, link):
        """Return the ring of a link."""
        buffer = self.memories[link].buf
        return Mapped(buffer[ring.FIRST : ring.FIRST + self.room], buffer, self.room, False)

    def sender(self, link):
        return BytesWriter(self.mapped(link))

    def receiver(self, link):
        return BytesReader(self.mapped(link))

    def close(self):
        for memory in self.memories:
            ring.remove(memory)


class RingBytesTwice(RingBytes):
    """One ring per link, mapped twice in a row, so that every portion is one piece."""

    title = "ring by hand, bytes, mapped twice"

    def __init__(self, links, itemsize, capacity, dtype="u1", portion=1):
        super().__init__(links, 1, 1)  # the counters
        self.room = itemsize * capacity
        if self.room % mmap.PAGESIZE:
            raise ValueError("this ring needs whole pages")
        self.files = [os.memfd_create("ring") for _ in range(links)]
        for file in self.files:
            os.ftruncate(file, self.room)

    def mapped(self, link):
        system = ctypes.CDLL(None, use_errno=True)
        system.mmap.restype = ctypes.c_void_p
        system.mmap.argtypes = (
            ctypes.c_void_p,
            ctypes.c_size_t,
            *[ctypes.c_int] * 3,
            ctypes.c_long,
        )
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        start = system.mmap(None, 2 * self.room, 0, flags, -1, 0)
        access, flags = mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | 0x10  # MAP_FIXED
        for half in (start, start + self.room):
            if system.mmap(half, self.room, access, flags, self.files[link], 0) != half:
                raise OSError(ctypes.get_errno(), "the ring cannot be mapped twice")
        memory = (ctypes.c_char * (2 * self.room)).from_address(start)
        return Mapped(memoryview(memory).cast("B"), self.memories[link].buf, self.room, True)


class ViewsWriter(Writer):
    """Lends the next of the views."""

    def __init__(self, own, views):
        head_word, tail_word, _, _, _ = own.parts()
        slots = len(views)
        head, limit = 0, slots

        def loan():
            nonlocal limit
            while head == limit:
                limit = tail_word[0] + slots
            return views[head % slots]

        def commit():
            nonlocal head
            head += 1
            head_word[0] = head

        self.loan, self.commit = loan, commit


class ViewsReader(Reader):
    """The same, to be read."""

    def __init__(self, own, views):
        head_word, tail_word, _, _, _ = own.parts()
        slots = len(views)
        tail = limit = 0

        def take():
            nonlocal limit
            while tail == limit:
                limit = head_word[0]
            return views[tail % slots]

        def done():
            nonlocal tail
            tail += 1
            tail_word[0] = tail

        self.take, self.done = take, done


class RingViews(RingBytes):
    """One ring per link, cut beforehand into arrays of one portion each."""

    title = "ring by hand, ready-made views"
    lends = True
    only = ("stream-window-64k", "stream-blocks", "stream-blocks-frames")

    def __init__(self, links, itemsize, capacity, dtype="u1", portion=1):
        super().__init__(links, itemsize, capacity)
        self.dtype, self.portion, self.step = dtype, portion, portion * itemsize

    def views(self, own):
        """Return the ring's portions as arrays."""
        import numpy as np

        starts = range(0, self.room, self.step)
        return [np.frombuffer(own.buffer, self.dtype, self.portion, start) for start in starts]

    def sender(self, link):
        own = self.mapped(link)
        return ViewsWriter(own, self.views(own))

    def receiver(self, link):
        own = self.mapped(link)
        return ViewsReader(own, self.views(own))


class StructItems(RingStruct):
    """The spinning ring of batches that `struct` cuts into items; it has no arrays."""

    spins = True
    only = ("stream-items",)

    def __init__(self, links, itemsize, capacity, dtype="u1", portion=64):
        super().__init__(links, itemsize, capacity)

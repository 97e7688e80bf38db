"""ipcheap's streams, as docs/streams.md shows them."""

import os

import ipcheap
from peers.ipcheap_heap import IpcheapHeap
from peers.streams import Reader, Streams, Writer


class StreamWriter(Writer):
    """Copies in, and windows."""

    def __init__(self, writer):
        self.writer = writer
        self.form = writer.dtype
        self.write, self.window, self.close = writer.write, writer.window, writer.close


class StreamReader(Reader):
    """Copies out, windows, and polling."""

    def __init__(self, reader):
        self.reader = reader
        self.form = reader.dtype
        self.readinto, self.window, self.close = reader.readinto, reader.window, reader.close
        self.fileno, self.read_some = reader.fileno, reader.try_read


class IpcheapStreams(Streams):
    """One heap, one stream per link."""

    title = "ipcheap"
    package = "ipcheap"
    spins = True  # a blocking call spins briefly before it sleeps
    lends = True
    polls = True
    overwrite = False

    def __init__(self, links, itemsize, capacity, dtype="u1", portion=1):
        nbytes = max(64 << 20, 2 * links * itemsize * capacity)
        self.heap = ipcheap.Heap.create(f"bench.{os.getpid()}", nbytes)
        for link in range(links):
            self.heap.add_stream(link, capacity, dtype=dtype, overwrite=self.overwrite)

    def sender(self, link):
        return StreamWriter(self.heap.stream_writer(link))

    def receiver(self, link):
        return StreamReader(self.heap.stream_reader(link))

    def close(self):
        self.heap.unlink()
        self.heap.close()


class Overwriting(IpcheapStreams):
    """The writer never waits; what was not read in time is lost."""

    overwrite = True


class BesideRecords(IpcheapHeap):
    """A record channel that does what a stream does, for round trips."""

    title = "ipcheap, record channel"
    only = ("stream-trip-spin", "stream-trip-idle")

    def __init__(self, links, itemsize, capacity, dtype="u1", portion=64):
        super().__init__(links, portion, capacity // portion)

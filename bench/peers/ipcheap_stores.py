"""ipcheap's stores, as docs/store.md shows them."""

import os

import ipcheap
from peers.stores import Reader, Stores, Writer


class StoreWriter(Writer):
    """Copies of bytes, and arrays that are filled in place."""

    def __init__(self, writer):
        self.put, self.put_many, self.close = writer.put, writer.put_many, writer.close
        self.loan = writer.loan

    def put_array(self, key, array):
        with self.loan(key, array.shape, array.dtype) as memory:
            memory[:] = array

    def mark_array(self, key, nbytes, mark, every):
        with self.loan(key, nbytes, "u1") as memory:
            memory[::every] = mark


class StoreReader(Reader):
    """Copies of bytes, and arrays in place, whose holds end when they are dropped."""

    def __init__(self, reader):
        self.get, self.take_array, self.close = reader.get_bytes, reader.get_array, reader.close
        self.chunks = reader.get_many

    def get_many(self, keys):
        found = self.chunks(keys)
        return [bytes(found[key]) for key in keys]


class IpcheapStores(Stores):
    """One heap with one store."""

    title = "ipcheap"
    package = "ipcheap"
    together = True

    def __init__(self, keys, nbytes, readers):
        self.heap = ipcheap.Heap.create(f"bench.{os.getpid()}", "1GiB")
        self.heap.add_store("values")

    def writer(self):
        return StoreWriter(self.heap.store_writer("values"))

    def reader(self):
        return StoreReader(self.heap.store_reader("values"))

    def close(self):
        self.heap.unlink()
        self.heap.close()

"""LMDB in /dev/shm, without any synchronisation to a disk.

A value is read in a transaction of its own, because a transaction does not see later changes. The
library keeps the last reading transaction of an environment and renews it.
"""

import os
import shutil
import tempfile

import lmdb

from peers.stores import Reader, Stores, Writer


class LmdbWriter(Writer):
    """One transaction per call."""

    def __init__(self, environment):
        self.begin, self.close = environment.begin, environment.close

    def put(self, key, data):
        with self.begin(write=True) as transaction:
            transaction.put(key, data)

    put_array = put

    def put_many(self, pairs):
        with self.begin(write=True) as transaction:
            for key, data in pairs.items():
                transaction.put(key, data)


class LmdbReader(Reader):
    """One transaction per call; the value is copied into `bytes`."""

    def __init__(self, environment):
        self.begin, self.close = environment.begin, environment.close

    def get(self, key):
        with self.begin() as transaction:
            return transaction.get(key)

    def get_many(self, keys):
        with self.begin() as transaction:
            return [transaction.get(key) for key in keys]


class BuffersReader(LmdbReader):
    """The value is read in the map, and the transaction ends afterwards."""

    def take_array(self, key):
        import numpy as np

        self.transaction = self.begin(buffers=True)
        return np.frombuffer(self.transaction.get(key), "u1")

    def done_array(self):
        self.transaction.abort()


class Lmdb(Stores):
    """One environment, opened in each process; its map is read-only, as by default."""

    title = "LMDB"
    package = "lmdb"
    together = True
    ends = LmdbReader
    writable = False

    def __init__(self, keys, nbytes, readers):
        self.folder = tempfile.mkdtemp(prefix=f"bench.{os.getpid()}.", dir="/dev/shm")
        self._open().close()

    def _open(self):
        return lmdb.open(
            self.folder,
            map_size=1 << 30,
            writemap=self.writable,
            map_async=self.writable,
            sync=False,
            metasync=False,
            readahead=False,
            meminit=False,
        )

    def key(self, number):
        return b"key %d" % number

    def writer(self):
        return LmdbWriter(self._open())

    def reader(self):
        return self.ends(self._open())

    def close(self):
        shutil.rmtree(self.folder)


class LmdbWritable(Lmdb):
    """The writer writes into the map: faster, but a stray store of its process spoils the file."""

    title = "LMDB, writable map"
    writable = True


class LmdbBuffers(Lmdb):
    """Arrays are read in place."""

    title = "LMDB, buffers"
    ends = BuffersReader
    only = ("store-1m", "store-1m-8")

"""A dict of multiprocessing's Manager: a server process, and a proxy in each other one."""

import multiprocessing

from peers.stores import Reader, Stores, Writer


class Proxy(Writer, Reader):
    """Items of the proxy."""

    def __init__(self, items):
        self.put, self.get = items.__setitem__, items.__getitem__


class ManagerDict(Stores):
    """One manager with one dict."""

    title = "Manager().dict()"

    def __init__(self, keys, nbytes, readers):
        self.manager = multiprocessing.Manager()
        self.items = self.manager.dict()

    def writer(self):
        return Proxy(self.items)

    def reader(self):
        return Proxy(self.items)

    def close(self):
        self.manager.shutdown()

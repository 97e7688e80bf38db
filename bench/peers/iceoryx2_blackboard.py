"""iceoryx2's blackboard: one entry per key, whose type and size are fixed."""

import ctypes
import os

import iceoryx2 as iox2

from peers.stores import Reader, Stores, Writer

KEY = ctypes.c_uint64


class End:
    """A port with a handle per key, and its service and node, which end with it."""

    def __init__(self, keys, value, port, service, node):
        self.entries = [port.entry(KEY(key), value) for key in range(keys)]
        self.port, self.service, self.node = port, service, node

    def close(self):
        self.entries.clear()
        self.port.delete()
        self.service.delete()
        self.node = None


class EntryWriter(End, Writer):
    """Each value is written in place."""

    def __init__(self, keys, value, *owned):
        super().__init__(keys, value, *owned)
        self.nbytes = ctypes.sizeof(value)

    def put(self, key, data):
        lent = self.entries[key].loan_uninit()
        ctypes.memmove(lent.value_mut(), data, self.nbytes)
        self.entries[key] = lent.assume_init_and_update()

    def put_array(self, key, array):
        self.put(key, array.ctypes.data)


class EntryReader(End, Reader):
    """Python can obtain a value only as a copy."""

    def get(self, key):
        return self.entries[key].get().data


class Iceoryx2Blackboard(Stores):
    """One service, which the writer creates, and one node per process."""

    title = "iceoryx2, blackboard"
    package = "iceoryx2"

    def __init__(self, keys, nbytes, readers):
        self.keys, self.readers = keys, readers
        fields = [("bytes", ctypes.c_uint8 * nbytes)]
        self.value = type("Value", (ctypes.Structure,), {"_fields_": fields})
        self.name = f"bench/{os.getpid()}"
        iox2.set_log_level(iox2.LogLevel.Error)

    def _service(self):
        node = iox2.NodeBuilder.new().create(iox2.ServiceType.Ipc)
        return node, node.service_builder(iox2.ServiceName.new(self.name))

    def key(self, number):
        return number

    def writer(self):
        node, service = self._service()
        creator = service.blackboard_creator(KEY)
        creator = creator.max_readers(self.readers).max_nodes(self.readers + 1)
        for key in range(self.keys):
            creator = creator.add(KEY(key), self.value())
        service = creator.create()
        return EntryWriter(self.keys, self.value, service.writer_builder().create(), service, node)

    def reader(self):
        node, service = self._service()
        service = service.blackboard_opener(KEY).open()
        return EntryReader(self.keys, self.value, service.reader_builder().create(), service, node)

"""The peers: one module per library, one class per way of using it.

To add a peer, write a module here with a class derived from `peer.Peer`, `streams.Streams`,
`stores.Stores`, `buses.Buses` or `graphs.Graphs`. Add a line to `MESSAGES`, `STREAMS`, `STORES`,
`BUSES` or `GRAPHS`, and a line to the table of docs/benchmarks.md that says how the peer is driven
and why.
"""

from __future__ import annotations

import importlib

# Key on the command line -> module and class. A peer is imported only in the process that
# measures it, so that a cold start does not include the other peers.
MESSAGES = {
    "ipcheap": "peers.ipcheap_heap:IpcheapHeap",
    "mp-pipe": "peers.mp_pipe:MpPipe",
    "mp-queue": "peers.mp_queue:MpQueue",
    "os-pipe": "peers.os_pipe:OsPipe",
    "ring-sem": "peers.ring_semaphores:RingSemaphores",
    "ring-spin": "peers.ring_spinning:RingSpinning",
    "ring-struct": "peers.ring_struct:RingStruct",
    "pyzmq": "peers.pyzmq_ipc:PyzmqIpc",
    "iceoryx2-event": "peers.iceoryx2_event:Iceoryx2Event",
    "iceoryx2-polling": "peers.iceoryx2_polling:Iceoryx2Polling",
    "faster-fifo": "peers.faster_fifo_queue:FasterFifoQueue",
    "posix-ipc": "peers.posix_ipc_queue:PosixIpcQueue",
    "zenoh-shm": "peers.zenoh_shm:ZenohShm",
}
STREAMS = {
    "ipcheap": "peers.ipcheap_streams:IpcheapStreams",
    "ipcheap-records": "peers.ipcheap_streams:BesideRecords",
    "pipe": "peers.pipe_streams:Pipe",
    "socketpair": "peers.pipe_streams:SocketPair",
    "ring-bytes": "peers.ring_streams:RingBytes",
    "ring-bytes-twice": "peers.ring_streams:RingBytesTwice",
    "ring-struct": "peers.ring_streams:StructItems",
    "ring-views": "peers.ring_streams:RingViews",
}
STORES = {
    "ipcheap": "peers.ipcheap_stores:IpcheapStores",
    "seqlock": "peers.seqlock:Seqlock",
    "lmdb": "peers.lmdb_store:Lmdb",
    "lmdb-writable": "peers.lmdb_store:LmdbWritable",
    "lmdb-buffers": "peers.lmdb_store:LmdbBuffers",
    "iceoryx2-blackboard": "peers.iceoryx2_blackboard:Iceoryx2Blackboard",
    "redis": "peers.redis_store:Redis",
    "manager-dict": "peers.manager_dict:ManagerDict",
}
BUSES = {
    "ipcheap": "peers.ipcheap_buses:IpcheapBuses",
    "ipcheap-channels": "peers.ipcheap_buses:IpcheapChannels",
    "maandree-bus": "peers.maandree_bus:MaandreeBus",
    "n-pipes": "peers.pipe_buses:Pipes",
    "mp-barrier": "peers.mp_barrier:MpBarrier",
    "iceoryx2-pub": "peers.iceoryx2_buses:Iceoryx2Pub",
    "pyzmq-pub": "peers.pyzmq_buses:PyzmqPub",
    "pynng-pub": "peers.pynng_buses:PynngPub",
    "redis-publish": "peers.redis_buses:RedisPublish",
    "dbus": "peers.dbus_buses:Dbus",
}
GRAPHS = {
    "ipcheap": "peers.ipcheap_graphs:IpcheapGraphs",
    "ipcheap-by-hand": "peers.ipcheap_graphs:ByHand",
    "mp-pool": "peers.mp_pool:MpPool",
    "ray-actors": "peers.ray_graphs:RayActors",
    "ray-compiled": "peers.ray_graphs:RayCompiled",
}
KINDS = (MESSAGES, STREAMS, STORES, BUSES, GRAPHS)
KNOWN = tuple(MESSAGES | STREAMS | STORES | BUSES | GRAPHS)


def load(key, carries=None):
    """Return the class of a peer, of the first kind that has it unless `carries` says which.

    ImportError if its library is not installed.
    """
    if carries is None:
        carries = next(kind for kind in KINDS if key in kind)
    module, _, name = carries[key].partition(":")
    return getattr(importlib.import_module(module), name)

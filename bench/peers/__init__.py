"""What is compared: one module a library, one class a way of using it.

A peer is added in three steps: a module here with a class derived from `peer.Peer`, a line
in `KNOWN`, and a line in the table of docs/benchmarks.md that says how it is driven and why.
"""

from __future__ import annotations

import importlib

# Key on the command line -> where its class is. Imported only in the process that measures
# it, so that nobody pays for the others when a cold start is measured.
KNOWN = {
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


def load(key):
    """Return the class of a peer; ImportError if what it stands for is not installed."""
    module, _, name = KNOWN[key].partition(":")
    return getattr(importlib.import_module(module), name)

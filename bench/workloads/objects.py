"""Objects: a dictionary with a picture and its description."""

from __future__ import annotations

from workloads.frames import NBYTES, SHAPE, SPARSE, sparse_sum
from workloads.workload import Figure, Flow, check

ROOM = 4096  # for the pickle around the picture


class Objects(Flow):
    """The peer sends the object with its own call, or with pickle 5 and one copy of the buffers."""

    key = "objects"
    title = 'objects, {"frame": 1080p array, "meta": small dict}'
    figures = (
        Figure("per_second", "objects/s", "/s"),
        Figure("cpu_ms", "CPU per object, both processes", "ms", more=False),
    )
    nbytes = NBYTES + ROOM
    depth = 4
    grain = 8  # as many pictures as are in use at a time

    def transmit(self, senders, receivers, count):
        import numpy as np

        send_object = senders[0].send_object
        pictures = [np.empty(SHAPE, "u1") for _ in range(self.grain)]
        for i in range(count):
            picture = pictures[i % self.grain]  # some peers read the picture later
            picture[:] = i & 127
            send_object({"frame": picture, "meta": {"number": i, "camera": "front", "at": i / 25}})

    def absorb(self, receivers, senders, count):
        receiver = receivers[0]
        for i in range(count):
            found = receiver.recv_object()
            seen = sparse_sum(found["frame"]), found["meta"]["number"]
            del found
            receiver.done_array()
            check(seen, ((i & 127) * SPARSE, i))

    def report(self, count, ns, cpu_ns):
        return {"per_second": count / ns * 1e9, "cpu_ms": cpu_ns / count / 1e6}


WORKLOADS = (Objects(),)

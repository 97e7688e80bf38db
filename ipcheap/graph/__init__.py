"""Dataflow graphs: kernels are functions, edges are channels, here and on a cluster.

    import numpy as np
    from ipcheap.graph import Graph

    def camera(count):
        for n in range(count):
            yield np.full((1080, 1920, 3), n % 256, "u1")

    def brightness(picture):
        return float(picture.mean())

    if __name__ == "__main__":
        graph = Graph()
        pictures = graph.add(camera, count=100)
        means = graph.add(brightness, pictures, processes=2)
        for mean in graph.results(means):
            print(mean)

Kernels run in processes that the graph starts, watches and starts again. What a killed one had in
work is worked on again, and what it had already sent is not sent twice.
"""

from .errors import GraphError, GraphStopped, HostLost, KernelDied, PoisonRecord
from .graph import Graph, Node, Port
from .here import Here, here
from .items import empty
from .kernels import Flow
from .mapping import map
from .runner import Run
from .statistics import EdgeStatistics, GraphStatistics, KernelStatistics

__all__ = [
    "EdgeStatistics",
    "Flow",
    "Graph",
    "GraphError",
    "GraphStatistics",
    "GraphStopped",
    "Here",
    "HostLost",
    "KernelDied",
    "KernelStatistics",
    "Node",
    "PoisonRecord",
    "Port",
    "Run",
    "empty",
    "here",
    "map",
]

"""multiprocessing.Pool."""

import itertools
import multiprocessing

from peers.graphs import FUNCTIONS, ITEMS, WORKERS, Graphs


class MpPool(Graphs):
    """`imap`, one item at a time."""

    title = "multiprocessing.Pool.imap"
    only = ("graph-map-64", "graph-map-1m", "graph-map-frames")

    def mapped(self, kind, count):
        with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
            yield from pool.imap(FUNCTIONS[kind], itertools.repeat(ITEMS[kind], count))

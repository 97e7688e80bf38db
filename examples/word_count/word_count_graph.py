"""Counts words as a graph: a source reads, two threads of a process count in shared memory."""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ipcheap.graph import Graph

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK = 16 * 1024


def read(paths: list[str]) -> Iterator[bytes]:
    """Yield the files in pieces that do not end within a word."""
    for path in paths:
        with Path(path).open("rb") as file:
            while piece := file.read(CHUNK):
                word = re.search(rb"\w+\Z", piece[-100:])
                if word and len(piece) == CHUNK:
                    file.seek(-len(word[0]), os.SEEK_CUR)
                    piece = piece[: -len(word[0])]
                yield piece


class Count:
    """Counts the words of the pieces that one worker receives."""

    def __init__(self) -> None:
        self.counts: Counter[bytes] = Counter()

    def process(self, piece: memoryview) -> None:
        """Count the words of a piece, in place."""
        self.counts.update(re.findall(rb"\w+", piece))

    def finish(self) -> Counter[bytes]:
        """Return the counts, when all pieces have been counted."""
        return self.counts


def main() -> None:
    """Add up the counts of both workers and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="+", metavar="FILE")
    paths = parser.parse_args().paths

    graph = Graph(capacity="16MiB")
    counts = graph.add(Count, graph.add(read, paths=paths), threads=2)
    total: Counter[bytes] = sum(graph.collect(counts), Counter())
    for word, number in total.most_common(20):
        print(f"{word.decode():20} {number:10,}")


if __name__ == "__main__":
    main()

"""maandree/bus, in C: its library is compiled from a source tree that MAANDREE_BUS names.

Two listeners deadlock if one is preempted between two of its semaphore operations, and a listener
misses a message that follows too soon. Therefore its processes have a real-time priority, and
it takes part only where the writer rests between two messages, or where all share one core.
"""

import ctypes
import os
import re
import tempfile
from pathlib import Path

import machine
import stage

from peers.buses import Buses, Listener, Writer

SOURCE = os.environ.get("MAANDREE_BUS")
if SOURCE is None:
    raise ImportError("the variable MAANDREE_BUS does not name its source tree")
SOURCE = Path(SOURCE).resolve()
if not (SOURCE / "libbus.c").exists():
    raise ImportError(f"there is no libbus.c in {SOURCE}, which MAANDREE_BUS names")

LOOPS = Path(__file__).with_suffix(".c")
# With what its own config.mk compiles it, besides what makes it a library for ctypes.
OPTIONS = ("-std=c99", "-O2", "-D_GNU_SOURCE", "-D_DEFAULT_SOURCE", "-fPIC", "-shared")


def library():
    """Return its library and the loops, compiled once."""
    sources = (LOOPS, SOURCE / "libbus.c", SOURCE / "bus.h")
    path, why = machine.build("maandree_bus", sources, (*OPTIONS, f"-I{SOURCE}"))
    if path is None:
        raise ImportError(why)
    return ctypes.CDLL(str(path), use_errno=True)


def version():
    """Return the version that its Makefile says."""
    found = re.search(r"^VERSION\s*=\s*(\S+)", (SOURCE / "Makefile").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


LIBRARY = library()


def must(result):
    """Raise OSError if a call of the library failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


class MaandreeWriter(Writer):
    """All rounds in one call."""

    def __init__(self, path):
        stage.realtime()
        must(LIBRARY.bench_open(path))

    def rounds(self, data, count, pause):
        samples = (ctypes.c_int64 * count)()
        must(LIBRARY.bench_rounds(data, ctypes.c_long(count), int(pause * 1e9), samples))
        return list(samples)

    def close(self):
        must(LIBRARY.bench_close())


class MaandreeListener(Listener):
    """All answers in one call."""

    def __init__(self, path, nbytes):
        stage.realtime()
        must(LIBRARY.bench_open(path))
        self.copied = ctypes.create_string_buffer(nbytes + 1)

    def enter(self):
        must(LIBRARY.bench_enter())

    def answers(self, count):
        must(LIBRARY.bench_answers(ctypes.c_long(count), self.copied))
        return self.copied.value

    def close(self):
        must(LIBRARY.bench_close())


class MaandreeBus(Buses):
    """One bus; its messages are texts of up to 2047 bytes that end with a NUL."""

    title = "maandree/bus, in C"
    version = version()
    only = ("bus-round-idle", "bus-round-core")

    def __init__(self, listeners, nbytes, depth):
        self.nbytes = nbytes
        self.folder = tempfile.TemporaryDirectory(prefix="bench.")
        self.path = os.fsencode(f"{self.folder.name}/bus")
        must(LIBRARY.bench_create(self.path))

    def writer(self):
        return MaandreeWriter(self.path)

    def listener(self, number):
        return MaandreeListener(self.path, self.nbytes)

    def close(self):
        must(LIBRARY.bus_unlink(self.path))
        self.folder.cleanup()

"""multiprocessing.Barrier: one wait when the message is there, and one when all have read it."""

import ctypes
import multiprocessing

from peers.buses import Buses, Listener, Writer


class BarrierEnd(Writer, Listener):
    """Both ends wait for each other twice."""

    def __init__(self, memory, barrier):
        self.memory, self.wait = memory, barrier.wait

    def round(self, data):
        self.memory[:] = data
        self.wait()
        self.wait()

    def answer(self):
        self.wait()
        data = bytes(self.memory)
        self.wait()
        return data


class MpBarrier(Buses):
    """One barrier and one message in shared memory."""

    title = "multiprocessing.Barrier"
    only = ("bus-round", "bus-round-idle", "bus-round-core")

    def __init__(self, listeners, nbytes, depth):
        context = multiprocessing.get_context("fork")
        self.array = context.RawArray(ctypes.c_char, nbytes)
        self.barrier = context.Barrier(1 + listeners)

    def writer(self):
        return BarrierEnd(memoryview(self.array).cast("B"), self.barrier)

    def listener(self, number):
        return self.writer()

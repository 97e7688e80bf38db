"""A hand-written ring in shared memory, with two semaphores to sleep on."""

import multiprocessing

from peers import ring
from peers.peer import Peer, Receiver, Sender


class SemaphoreSender(Sender):
    """Takes a free slot, fills it, and posts it."""

    def __init__(self, own, room, filled):
        views, mask = own.views(), own.slots - 1
        acquire, release = room.acquire, filled.release
        head = 0

        def send(data):
            nonlocal head
            acquire()
            views[head & mask][:] = data
            head += 1
            release()

        def loan(nbytes):
            acquire()
            return views[head & mask][:nbytes]

        def commit(_memory):
            nonlocal head
            head += 1
            release()

        self.send, self.loan, self.commit = send, loan, commit


class SemaphoreReceiver(Receiver):
    """Takes a filled slot, reads it, and returns it."""

    def __init__(self, own, room, filled):
        views, mask = own.views(), own.slots - 1
        copies = [view.tobytes for view in views]
        acquire, release = filled.acquire, room.release
        tail = 0

        def recv():
            nonlocal tail
            acquire()
            data = copies[tail & mask]()
            tail += 1
            release()
            return data

        def spin():
            nonlocal tail
            while not acquire(False):
                pass
            data = copies[tail & mask]()
            tail += 1
            release()
            return data

        def take():
            acquire()
            return views[tail & mask]

        def done(_memory):
            nonlocal tail
            tail += 1
            release()

        self.recv, self.spin, self.take, self.done = recv, spin, take, done


class RingSemaphores(Peer):
    """One ring and two multiprocessing semaphores per link."""

    title = "ring by hand, semaphores"

    def __init__(self, links, nbytes, depth):
        context = multiprocessing.get_context("fork")
        self.slots, self.nbytes = ring.power(depth), nbytes
        self.memories = [ring.make(self.slots, nbytes) for _ in range(links)]
        self.room = [context.Semaphore(self.slots) for _ in range(links)]
        self.filled = [context.Semaphore(0) for _ in range(links)]

    def sender(self, link):
        own = ring.Ring(self.memories[link], self.slots, self.nbytes)
        return SemaphoreSender(own, self.room[link], self.filled[link])

    def receiver(self, link):
        own = ring.Ring(self.memories[link], self.slots, self.nbytes)
        return SemaphoreReceiver(own, self.room[link], self.filled[link])

    def close(self):
        for memory in self.memories:
            ring.remove(memory)

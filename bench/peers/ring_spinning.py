"""A hand-written ring in shared memory; both sides spin.

This is what an expert would write with the standard library for speed alone: closures with local
counters, pre-sliced slots, and batches that are copied in one piece and then split.
"""

from peers import ring
from peers.peer import Peer, Receiver, Sender


class SpinningSender(Sender):
    """Polls until there is room."""

    def __init__(self, own):
        head_word, tail_word, views = own.head, own.tail, own.views()
        buffer, slots, step, nbytes = own.buffer, own.slots, own.step, own.nbytes
        mask = slots - 1
        head, limit = 0, slots

        def send(data):
            nonlocal head, limit
            while head == limit:
                limit = tail_word[0] + slots
            views[head & mask][:] = data
            head += 1
            head_word[0] = head

        def send_many(batch):
            nonlocal head, limit
            count = len(batch)
            while limit - head < count:
                limit = tail_word[0] + slots
            at = head & mask
            if step != nbytes or at + count > slots:
                for data in batch:
                    views[head & mask][:] = data
                    head += 1
            else:
                at = ring.FIRST + at * step
                buffer[at : at + count * step] = b"".join(batch)
                head += count
            head_word[0] = head

        def loan(nbytes):
            nonlocal limit
            while head == limit:
                limit = tail_word[0] + slots
            return views[head & mask][:nbytes]

        def commit(_memory):
            nonlocal head
            head += 1
            head_word[0] = head

        def loan_many(_nbytes, count):
            nonlocal limit
            while limit - head < count:
                limit = tail_word[0] + slots
            return [views[i & mask] for i in range(head, head + count)]

        def commit_many(memories):
            nonlocal head
            head += len(memories)
            head_word[0] = head

        self.send, self.send_many = send, send_many
        self.loan, self.commit = loan, commit
        self.loan_many, self.commit_many = loan_many, commit_many


class SpinningReceiver(Receiver):
    """Polls until there is a message."""

    def __init__(self, own):
        head_word, tail_word, views = own.head, own.tail, own.views()
        copies = [view.tobytes for view in views]
        buffer, slots, step, nbytes = own.buffer, own.slots, own.step, own.nbytes
        mask = slots - 1
        tail = limit = 0

        def recv():
            nonlocal tail, limit
            while tail == limit:
                limit = head_word[0]
            data = copies[tail & mask]()
            tail += 1
            tail_word[0] = tail
            return data

        def recv_many(most):
            nonlocal tail, limit
            while tail == limit:
                limit = head_word[0]
            at = tail & mask
            count = min(most, limit - tail, slots - at)
            at = ring.FIRST + at * step
            data = buffer[at : at + count * step].tobytes()
            tail += count
            tail_word[0] = tail
            return [data[i : i + nbytes] for i in range(0, count * step, step)]

        def take():
            nonlocal limit
            while tail == limit:
                limit = head_word[0]
            return views[tail & mask]

        def done(_memory):
            nonlocal tail
            tail += 1
            tail_word[0] = tail

        def take_many(most):
            nonlocal limit
            while tail == limit:
                limit = head_word[0]
            return [views[i & mask] for i in range(tail, min(tail + most, limit))]

        def done_many(memories):
            nonlocal tail
            tail += len(memories)
            tail_word[0] = tail

        self.recv = self.spin = recv
        self.recv_many, self.take, self.done = recv_many, take, done
        self.take_many, self.done_many = take_many, done_many


class RingSpinning(Peer):
    """One ring per link."""

    title = "ring by hand, spinning"
    blocks = False
    batches = True

    def __init__(self, links, nbytes, depth):
        self.slots, self.nbytes = ring.power(depth), nbytes
        self.memories = [ring.make(self.slots, nbytes) for _ in range(links)]

    def sender(self, link):
        return SpinningSender(ring.Ring(self.memories[link], self.slots, self.nbytes))

    def receiver(self, link):
        return SpinningReceiver(ring.Ring(self.memories[link], self.slots, self.nbytes))

    def close(self):
        for memory in self.memories:
            ring.remove(memory)

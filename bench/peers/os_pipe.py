"""os.pipe with hand-written frames: four bytes of length, then the message."""

import contextlib
import fcntl
import os
import select

from peers.peer import Peer, Receiver, Sender

ROOM = 1 << 20  # the largest pipe that an unprivileged process can have
CHUNK = 1 << 16  # bytes that one read asks for
LARGE = 1 << 13  # messages of at least this size are read directly to their destination
SMALL = 1 << 12  # up to this size, joining header and message costs less than writev()


class OsPipeSender(Sender):
    """One write() per message or batch."""

    def __init__(self, fd):
        self.fd = fd

    def send(self, data):
        size = len(data)
        head = size.to_bytes(4, "little")
        if size <= SMALL:
            frame = head + data
            wrote = os.write(self.fd, frame)
        else:
            frame = None
            wrote = os.writev(self.fd, (head, data))
        if wrote < size + 4:
            self._rest(memoryview(data)[wrote - 4 :] if frame is None else frame[wrote:])

    def send_many(self, batch):
        frames = b"".join(
            [part for data in batch for part in (len(data).to_bytes(4, "little"), data)]
        )
        self._rest(memoryview(frames))

    def _rest(self, data):
        while len(data):
            data = data[os.write(self.fd, data) :]

    def close(self):
        os.close(self.fd)


class OsPipeReceiver(Receiver):
    """Reads as much as there is and splits it; large messages are read to their destination."""

    def __init__(self, fd):
        self.fd = fd
        self.buffer = b""
        self.at = 0
        self.ask = CHUNK
        self.awake = False

    def recv(self):
        while True:
            buffer, at = self.buffer, self.at
            have = len(buffer) - at - 4
            if have >= 0:
                size = int.from_bytes(buffer[at : at + 4], "little")
                if have >= size:
                    self.at = at + 4 + size
                    return buffer[at + 4 : self.at]
                if size > LARGE:
                    self.buffer, self.at, self.ask = b"", 0, 4  # the next will be large, too
                    return self._large(buffer[at + 4 :], size)
            self._more()

    def recv_many(self, limit):
        found = [self.recv()]
        buffer, at, end = self.buffer, self.at, len(self.buffer)
        while len(found) < limit and at + 4 <= end:
            stop = at + 4 + int.from_bytes(buffer[at : at + 4], "little")
            if stop > end:
                break
            found.append(buffer[at + 4 : stop])
            at = stop
        self.at = at
        return found

    def try_recv(self):
        if self.at == len(self.buffer) and not self.poll(0):
            return None
        return self.recv()

    def spin(self):
        if self.at == len(self.buffer):
            if not self.awake:
                os.set_blocking(self.fd, False)
                self.awake = True
            while True:
                try:
                    self.buffer, self.at = os.read(self.fd, CHUNK), 0
                    break
                except BlockingIOError:
                    pass
        return self.recv()

    def poll(self, seconds):
        return select.select((self.fd,), (), (), seconds)[0]

    def _more(self):
        while True:
            try:
                more = os.read(self.fd, self.ask)
            except BlockingIOError:  # after spin(), in the middle of a frame
                self.poll(None)
                continue
            break
        if not more:
            raise EOFError("the other end has closed")
        self.buffer = self.buffer[self.at :] + more
        self.at = 0

    def _large(self, begin, size):
        data = bytearray(size)
        data[: len(begin)] = begin
        rest = memoryview(data)[len(begin) :]
        while len(rest):
            try:
                got = os.readv(self.fd, (rest,))
            except BlockingIOError:
                self.poll(None)
                continue
            if not got:
                raise EOFError("the other end has closed")
            rest = rest[got:]
        return data

    def close(self):
        os.close(self.fd)


class OsPipe(Peer):
    """One pipe per link, as large as the system allows."""

    title = "os.pipe, framed by hand"
    batches = True

    def __init__(self, links, nbytes, depth):
        self.ends = [os.pipe() for _ in range(links)]
        for _, fd in self.ends:
            with contextlib.suppress(OSError):
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, ROOM)

    def sender(self, link):
        return OsPipeSender(self.ends[link][1])

    def receiver(self, link):
        return OsPipeReceiver(self.ends[link][0])

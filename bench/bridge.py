"""A bridge against a bare TCP socket that sends the same bytes: `python bench/bridge.py`.

All records are in the sending ring before the clock starts, and the receiving ring has room for all
of them. So two processes work in either case: the gain from more processors is not measured.
"""

from __future__ import annotations

import secrets
import socket
import time

import ipcheap
from ipcheap import testing
from ipcheap.graph.bridge import Listener, Sender

SIZES = {64: 1 << 16, 1 << 16: 1 << 11, 1 << 20: 1 << 7}  # bytes of a record: how many
ROUNDS = 5


def fail(channel_id: str, error: BaseException) -> None:
    raise SystemExit(f"{channel_id}: {error}")


def receive(heap: ipcheap.Heap, token: bytes) -> None:
    with heap:
        listener = Listener("127.0.0.1", token, fail)
        listener.receive(heap, "x")
        testing.say(listener.port)
        listener.join()
        testing.listen()
        listener.close()
        listener.join()


def send(heap: ipcheap.Heap, port: int, token: bytes) -> float:
    with heap:
        sender = Sender(heap, "x", "127.0.0.1", port, token, fail)
        begun = time.perf_counter()
        sender.start()
        sender.join()
        return time.perf_counter() - begun


def bridge(size: int, count: int) -> float:
    """Return how many records a second cross."""
    capacity = 2 * size * count + (64 << 20)
    token = secrets.token_bytes(32)
    with (
        ipcheap.Heap.create(None, capacity, shm="memfd") as near,
        ipcheap.Heap.create(None, capacity, shm="memfd") as far,
    ):
        for heap in (near, far):
            heap.add_record_channel("x", count)
        with near.producer("x") as producer:
            producer.send_many([bytes([n % 256]) * size for n in range(count)])
        with testing.run(receive, far, token) as there:
            with testing.run(send, near, there.hear(), token) as here:
                seconds = here.result()
            there.tell("enough")
            there.result()
    return count / seconds


def sink(nbytes: int) -> None:
    room = memoryview(bytearray(nbytes))
    with socket.create_server(("127.0.0.1", 0)) as server:
        testing.say(server.getsockname()[1])
        sock, _ = server.accept()
    with sock:
        at = 0
        while at < nbytes:
            at += sock.recv_into(room[at:])
        sock.sendall(b"!")


def tcp(size: int, count: int) -> float:
    """Return how many records a second a socket sends, by one call each."""
    records = [bytes([n % 256]) * size for n in range(count)]
    with testing.run(sink, size * count) as there:
        with socket.create_connection(("127.0.0.1", there.hear())) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            begun = time.perf_counter()
            for record in records:
                sock.sendall(record)
            sock.recv(1)
            seconds = time.perf_counter() - begun
        there.result()
    return count / seconds


def main() -> None:
    for size, count in SIZES.items():
        here = max(bridge(size, count) for _ in range(ROUNDS))
        bare = max(tcp(size, count) for _ in range(ROUNDS))
        rate = here * size / 1e6
        print(f"{size:8,} B  {here:10,.0f}/s  {rate:7,.0f} MB/s  {here / bare:5.2f} of a socket")


if __name__ == "__main__":
    main()

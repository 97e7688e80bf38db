"""A bridge against a bare TCP socket that sends the same bytes: `python bench/bridge.py`.

Records go from a producer through a ring, the bridge and another ring to a consumer. These are four
processes, and the socket has two: on two processors the ratios are lower than on more.
"""

from __future__ import annotations

import secrets
import socket
import time

import ipcheap
from ipcheap import testing
from ipcheap.graph.bridge import Listener, Sender

SIZES = {64: 200_000, 1 << 16: 8_000, 1 << 20: 1_000}  # bytes of a record: how many
SLOTS = (16, 64)


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


def send(heap: ipcheap.Heap, port: int, token: bytes) -> None:
    with heap:
        sender = Sender(heap, "x", "127.0.0.1", port, token, fail)
        sender.start()
        sender.join()


def produce(heap: ipcheap.Heap, size: int, count: int) -> None:
    with heap, heap.producer("x") as producer:
        for _ in range(count):
            producer.send_record(producer.allocate_record(size))


def bridge(size: int, count: int, slots: int) -> float:
    """Return how many records arrive in a second."""
    token = secrets.token_bytes(32)
    with (
        ipcheap.Heap.create(None, "512MiB", shm="memfd") as near,
        ipcheap.Heap.create(None, "512MiB", shm="memfd") as far,
    ):
        for heap in (near, far):
            heap.add_record_channel("x", slots)
        with (
            testing.run(receive, far, token) as there,
            testing.run(send, near, there.hear(), token) as here,
            testing.run(produce, near, size, count),
            far.consumer("x") as consumer,
        ):
            consumer.recv_record().free()
            begun = time.perf_counter()
            for record in consumer:
                record.free()
            seconds = time.perf_counter() - begun
            here.result()
            there.tell("enough")
            there.result()
    return (count - 1) / seconds


def sink(nbytes: int) -> None:
    room = bytearray(1 << 20)
    with socket.create_server(("127.0.0.1", 0)) as server:
        testing.say(server.getsockname()[1])
        sock, _ = server.accept()
    with sock:
        while nbytes:
            nbytes -= sock.recv_into(room)
        sock.sendall(b"!")


def tcp(size: int, count: int) -> float:
    """Return how many records a second a socket sends, by one call each."""
    with testing.run(sink, size * count) as there:
        with socket.create_connection(("127.0.0.1", there.hear())) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            record = bytes(size)
            begun = time.perf_counter()
            for _ in range(count):
                sock.sendall(record)
            sock.recv(1)
            seconds = time.perf_counter() - begun
        there.result()
    return count / seconds


def main() -> None:
    for size, count in SIZES.items():
        bare = max(tcp(size, count) for _ in range(3))
        for slots in SLOTS:
            here = max(bridge(size, count, slots) for _ in range(3))
            rate = f"{here:10,.0f}/s  {here * size / 1e6:7,.0f} MB/s"
            print(f"{size:9,} B, {slots} slots  {rate}  {here / bare:5.2f} of a socket", flush=True)


if __name__ == "__main__":
    main()

"""What other processes do with buses; peers.py starts them."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING, Any

import peers

if TYPE_CHECKING:
    import ipcheap


def number_of(message: bytes | ipcheap.Message) -> tuple[int, int]:
    """Return which writer posted a message of `post_numbers`, and which number it has."""
    data = bytes(message)
    return int.from_bytes(data[:8], "little"), int.from_bytes(data[8:16], "little")


def numbered(writer: int, number: int) -> bytes:
    return writer.to_bytes(8, "little") + number.to_bytes(8, "little") + bytes(number % 100)


def post_numbers(bus: ipcheap.Bus, writer: int, count: int) -> list[int]:
    """Post so many numbered messages when told to; return their positions."""
    peers.say("ready")
    peers.listen()
    return [bus.post(numbered(writer, n), peers.PATIENCE) for n in range(count)]


def hear_all(bus: ipcheap.Bus, count: int) -> list[tuple[int, tuple[int, int]]]:
    """Receive so many messages; return their positions and what they say."""
    found = []
    with bus.listen() as listener:
        peers.say("ready")
        for _ in range(count):
            with listener.recv_record(peers.PATIENCE) as message:
                found.append((message.position, number_of(message)))
    return found


def obey(bus: ipcheap.Bus, history: int = 0, lossy: bool = False) -> None:
    """Listen, and do what it is told until it is told to end; say the answer to everything."""
    held: list[ipcheap.Message] = []
    with bus.listen(history=history, lossy=lossy) as listener:
        peers.say("ready")
        while (told := peers.listen()) != "end":
            answer: Any = None
            if told == "receive":
                answer = listener.recv(peers.PATIENCE)
            elif told == "hold":
                held.append(listener.recv_record(peers.PATIENCE))
                answer = bytes(held[-1])
            elif told == "free":
                held.pop(0).free()
            elif told == "keep":
                held[0].keep()
            elif told == "see":
                answer = [bytes(message) for message in held]
            elif told == "close":
                listener.close()
            elif told == "lost":
                answer = listener.lost
            peers.say(answer)
    for message in held:
        message.free()


def receive_all(bus: ipcheap.Bus) -> list[bytes]:
    """Listen until the bus is removed."""
    with bus.listen() as listener:
        peers.say("ready")
        return [bytes(message) for message in listener]


def receive_forever(bus: ipcheap.Bus) -> None:
    """Listen, and acknowledge everything immediately."""
    with bus.listen() as listener:
        peers.say("ready")
        for _ in listener:
            pass


def broadcast_when_told(bus: ipcheap.Bus, timeout: float | None = None) -> None:
    """Broadcast what it is told until that is None; say what came of it."""
    peers.say("ready")
    while (told := peers.listen()) is not None:
        try:
            report = bus.broadcast(told, timeout)
            peers.say((report.position, report.listeners, report.released, report.gone))
        except Exception as error:
            peers.say(error)


def broadcast_over_and_over(bus: ipcheap.Bus) -> None:
    peers.say("ready")
    while True:
        bus.broadcast(b"over")


def post_over_and_over(bus: ipcheap.Bus, count: int = 0) -> None:
    """Post numbered messages until it is killed, or so many."""
    peers.say("ready")
    number = 0
    while not count or number < count:
        bus.post(numbered(1, number))
        number += 1


def post_then_die(bus: ipcheap.Bus, data: bytes) -> None:
    bus.post(data)
    peers.die()


def post_and_linger(bus: ipcheap.Bus, data: bytes) -> int:
    """Post, and end when told to; return the position."""
    position = bus.post(data)
    peers.say(position)
    peers.listen()
    return position


def wait_in_a_broadcast(bus: ipcheap.Bus, data: bytes) -> None:
    """Broadcast, and so wait for a listener that another process has."""
    peers.say("ready")
    bus.broadcast(data)


def interrupt_a_broadcast(bus: ipcheap.Bus, data: bytes) -> str:
    """Broadcast until a SIGINT; return what ended it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    peers.say("ready")
    try:
        bus.broadcast(data)
    except KeyboardInterrupt:
        return "interrupted"
    return "returned"


def use(bus: ipcheap.Bus) -> tuple[Any, ...]:
    """Do a little of everything with a bus that was pickled."""
    with bus.listen() as listener:
        position = bus.post(b"from a peer")
        return bus.id, bus.capacity, bus.history, bus.patience, position, listener.recv(0)


def sleep_with_a_listener(bus: ipcheap.Bus) -> None:
    """Register a listener, and receive nothing."""
    with bus.listen():
        peers.say("ready")
        time.sleep(peers.PATIENCE)

"""A music player that is silent during phone calls, also if a phone is killed in a call."""

from __future__ import annotations

import multiprocessing
import os
import selectors
import signal
from typing import TYPE_CHECKING

import ipcheap

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event


class Player:
    """Plays music while no phone is in a call."""

    def __init__(self, calls: ipcheap.Bus) -> None:
        self._calls = calls
        self._selector = selectors.DefaultSelector()
        self._phones: dict[int, int] = {}  # by pid: a descriptor that says when the process ends

    def run(self) -> None:
        """Listen to calls, and to the ends of phones that are in one, until the call to stop."""
        with self._selector, self._calls.listen() as listener:
            self._selector.register(listener, selectors.EVENT_READ)
            print("music", flush=True)
            while True:
                for key, _ in self._selector.select():
                    if key.fileobj is not listener:
                        self._end(key.data, "was killed")
                    elif message := listener.try_recv_record():
                        with message:  # the phone waits until this block ends
                            if bytes(message) == b"stop":
                                return
                            self._handle(message)

    def _handle(self, message: ipcheap.Message) -> None:
        phone = message.sender.pid
        if bytes(message) == b"call":
            if not self._phones:
                print("silence", flush=True)
            self._phones[phone] = os.pidfd_open(phone)
            self._selector.register(self._phones[phone], selectors.EVENT_READ, phone)
            print("a phone is in a call", flush=True)
        elif bytes(message) == b"hang up" and phone in self._phones:
            self._end(phone, "hangs up")

    def _end(self, phone: int, how: str) -> None:
        descriptor = self._phones.pop(phone)
        self._selector.unregister(descriptor)
        os.close(descriptor)
        print(f"a phone {how}", flush=True)
        if not self._phones:
            print("music", flush=True)
            self._calls.post(b"music")


def play(calls: ipcheap.Bus) -> None:
    """Be the player's process."""
    Player(calls).run()


def phone(calls: ipcheap.Bus, in_call: Event, enough: Event) -> None:
    """Be in a call until it is enough."""
    calls.broadcast(b"call")  # when it returns, the music has stopped
    in_call.set()
    enough.wait()
    calls.broadcast(b"hang up")


def main() -> None:
    """Make two calls at the same time: one ends as usual, the other by a kill."""
    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        calls = heap.add_bus("calls")
        player = context.Process(target=play, args=(calls,))
        player.start()
        calls.wait_listeners(1, timeout=60)

        phones = []
        for _ in range(2):
            in_call, enough = context.Event(), context.Event()
            process = context.Process(target=phone, args=(calls, in_call, enough))
            process.start()
            in_call.wait()
            phones.append((process, enough))

        (polite, enough), (killed, _) = phones
        enough.set()
        polite.join()
        assert killed.pid is not None
        with calls.listen() as listener:
            os.kill(killed.pid, signal.SIGKILL)
            while listener.recv(timeout=60) != b"music":
                pass
        killed.join()
        calls.broadcast(b"stop")
        player.join()


if __name__ == "__main__":
    main()

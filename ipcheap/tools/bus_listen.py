"""`ipcheap bus listen` and `wait`: messages printed, or handed to commands."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import ipcheap
from ipcheap.tools import notify
from ipcheap.tools.bus import say, write

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ipcheap.tools.bus_arguments import Arguments

LONGEST_VARIABLE = 64 << 10  # bytes of a message that `$msg` can have
FAILED = 1


def listen(arguments: Arguments) -> int:
    """Handle every message, or only as many as are wanted; return the exit code."""
    with ipcheap.Heap.attach(arguments.heap) as heap:
        bus = heap.bus(arguments.id)
        with bus.listen(history=arguments.history or 0, lossy=arguments.lossy) as listener:
            handler = _handler(arguments)
            _announce(arguments)
            code = _handle_all(arguments, listener, handler)
        handler.finish()
    return code


def _handler(arguments: Arguments) -> Commands | Printer:
    if arguments.command is not None:
        return Commands(arguments)
    return Printer(as_json=arguments.json, end=b"\0" if arguments.null else b"\n")


def _announce(arguments: Arguments) -> None:
    """Tell systemd and run the command of --ready: the listener is registered."""
    try:
        notify.ready()
    except OSError as error:
        say(f"$NOTIFY_SOCKET: {error}")
    if arguments.ready is not None:
        environment = {**os.environb, b"IPCHEAP_BUS": os.fsencode(arguments.bus)}
        nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
        _spawn(["sh", "-c", arguments.ready], environment, nothing)


def _handle_all(
    arguments: Arguments, listener: ipcheap.Listener, handler: Commands | Printer
) -> int:
    wanted = 1 if arguments.verb == "wait" else arguments.count
    matches = _matcher(arguments.match)
    lost = handled = code = 0
    end = _deadline(arguments.timeout)
    while handled != wanted:
        message = None
        try:
            message = listener.recv_record(None if end is None else max(0, end - time.monotonic()))
        except ipcheap.MessagesLost:
            pass  # the count is in `listener.lost`
        except ipcheap.ChannelClosed:
            if wanted is None:
                return code
            say(f"bus {arguments.bus} was removed")
            return FAILED
        except TimeoutError:
            say(f"no message for {arguments.timeout:g} s on bus {arguments.bus}")
            return FAILED
        if listener.lost != lost:
            say(f"lost messages: {listener.lost - lost}; this listener was too slow")
            lost = listener.lost
        if message is None:
            continue
        if not matches(message):
            message.free()
            continue
        failed = handler.handle(message)
        if arguments.verb == "wait":
            code = failed
        handled += 1
        end = _deadline(arguments.timeout)
    return code


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _matcher(pattern: str | None) -> Callable[[ipcheap.Message], bool]:
    if pattern is None:
        return lambda _: True
    from fnmatch import fnmatchcase

    return lambda message: fnmatchcase(os.fsdecode(bytes(message)), pattern)


# Printing ---------------------------------------------------------------------------------


class Printer:
    """Prints each message and then releases it."""

    def __init__(self, *, as_json: bool, end: bytes) -> None:
        self._as_json = as_json
        self._end = end

    def handle(self, message: ipcheap.Message) -> int:
        """Print a message and release it."""
        with message:
            text = _json(message) if self._as_json else message.view
            write(b"".join((text, self._end)))
        return 0

    def finish(self) -> None:
        """Do nothing: all is printed."""


def _json(message: ipcheap.Message) -> bytes:
    import json

    data, sender = bytes(message), message.sender
    facts: dict[str, object] = {
        "position": message.position,
        "sender": {"pid": sender.pid, "name": sender.name},
        "bytes": len(data),
    }
    try:
        facts["text"] = data.decode()
    except UnicodeDecodeError:
        from base64 import b64encode

        facts["base64"] = b64encode(data).decode()
    return json.dumps(facts).encode()


# Commands ---------------------------------------------------------------------------------


class Commands:
    """Runs a command for each message: several at a time, or each to its end.

    No text of a message becomes part of a command. The message is the command's standard input,
    and also in `$msg` if an environment variable can contain it.
    """

    def __init__(self, arguments: Arguments) -> None:
        assert arguments.command is not None
        self._command = arguments.command
        self._bus = os.fsencode(arguments.bus)
        self._hold = arguments.hold
        self._jobs = arguments.jobs
        self._running: set[int] = set()
        signal.signal(signal.SIGCHLD, self._collect)

    def handle(self, message: ipcheap.Message) -> int:
        """Start the command, or run it to its end; then release the message."""
        with message:
            # While this is blocked, no command ends unnoticed between a look and a wait.
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            try:
                while len(self._running) >= (1 if self._hold else self._jobs):
                    self._collect_one(0)
                child = self._start(message, mask)
                status = 0
                while self._hold and child in self._running:
                    ended, status = self._collect_one(0)
                    if ended != child:
                        status = 0
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return FAILED if status else 0

    def finish(self) -> None:
        """Wait until all commands have ended."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        while self._running:
            self._collect_one(0)

    def _collect(self, _number: int, _frame: object) -> None:
        """Collect all children that have ended."""
        try:
            while self._collect_one(os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

    def _collect_one(self, options: int) -> tuple[int, int]:
        ended, status = os.waitpid(-1, options)
        self._running.discard(ended)
        return ended, status

    def _start(self, message: ipcheap.Message, mask: Iterable[int]) -> int:
        data = os.memfd_create("message")
        try:
            rest = message.view
            while rest:
                rest = rest[os.write(data, rest) :]
            os.lseek(data, 0, os.SEEK_SET)
            environment = self._environment(message)
            child = _spawn(self._command, environment, (os.POSIX_SPAWN_DUP2, data, 0), mask)
        finally:
            os.close(data)
        self._running.add(child)
        return child

    def _environment(self, message: ipcheap.Message) -> dict[bytes, bytes]:
        environment = dict(os.environb)
        environment.pop(b"msg", None)
        if message.nbytes <= LONGEST_VARIABLE:
            text = bytes(message)
            if b"\0" not in text:
                environment[b"msg"] = text
        environment[b"IPCHEAP_BUS"] = self._bus
        environment[b"IPCHEAP_POSITION"] = b"%d" % message.position
        environment[b"IPCHEAP_SENDER"] = b"%d" % message.sender.pid
        return environment


def _spawn(
    command: list[str],
    environment: dict[bytes, bytes],
    stdin: tuple[Any, ...],
    mask: Iterable[int] | None = None,
) -> int:
    """Start a program; return its pid. OSError, which names the program, if it cannot be."""
    try:
        return os.posix_spawnp(
            command[0],
            command,
            environment,
            file_actions=[stdin],
            setsigmask=signal.pthread_sigmask(signal.SIG_BLOCK, ()) if mask is None else mask,
            setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores both
        )
    except OSError as error:
        raise OSError(error.errno, f"{command[0]}: {error.strerror}") from None

"""`ipcheap bus`: buses from a shell. Start-up counts here: a broadcast takes less than it."""

from __future__ import annotations

import os
import sys
import time

import ipcheap
from ipcheap.tools import bus_arguments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ipcheap.tools.bus_arguments import Arguments

NOT_UNDERSTOOD = 2
NOT_RELEASED = 3
INTERRUPTED = 130


def say(text: object) -> None:
    """Print a message to standard error, if there is one."""
    if sys.stderr is not None:
        print(f"ipcheap: {text}", file=sys.stderr, flush=True)


def write(data: bytes) -> None:
    """Write to standard output. Nothing is buffered, so nothing can fail later."""
    if sys.stdout is None:
        raise OSError("standard output is closed")
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(1, rest) :]


# create and remove ------------------------------------------------------------------------


def create(arguments: Arguments) -> int:
    """Add a bus to a heap, which is created if there is none; print the name if it is random."""
    name, kind = arguments.heap, "file" if "/" in arguments.heap else "posix"
    name = name or f"bus-{os.urandom(8).hex()}"
    try:
        heap = ipcheap.Heap.create(name, arguments.size, shm=kind, mode=arguments.mode)
        is_new = True
    except ipcheap.HeapExists:
        heap = ipcheap.Heap.open(name, arguments.size, shm=kind, mode=arguments.mode)
        is_new = False
    with heap:
        try:
            heap.add_bus(
                arguments.id,
                arguments.capacity,
                history=arguments.history,
                patience=arguments.patience,
                exclusive=arguments.exclusive,
            )
        except BaseException:
            if is_new:
                heap.unlink()
            raise
    if not arguments.heap:
        write(f"{name}\n".encode())
    return 0


def remove(arguments: Arguments) -> int:
    """Remove a bus; also its heap if no ID was given and no other channel is left."""
    with ipcheap.Heap.attach(arguments.heap) as heap:
        heap.bus(arguments.id)  # another kind of channel is not removed
        heap.remove_channel(arguments.id, force=True)
        if not arguments.with_id and not heap.channels:
            heap.unlink()
    return 0


# listen and wait --------------------------------------------------------------------------


def listen(arguments: Arguments) -> int:
    """Handle messages until the end."""
    from ipcheap.tools import bus_listen

    return bus_listen.listen(arguments)


# broadcast --------------------------------------------------------------------------------


def broadcast(arguments: Arguments) -> int:
    """Send the message, all of standard input, or each of its lines."""
    code = 0
    with ipcheap.Heap.attach(arguments.heap) as heap:
        bus = heap.bus(arguments.id)
        awaited = arguments.await_
        for message in _messages(arguments):
            end = None if arguments.timeout is None else time.monotonic() + arguments.timeout
            if awaited is not None:
                bus.wait_listeners(awaited, _left(end))
                awaited = None
            if arguments.post:
                position = bus.post(message, 0.0 if arguments.nowait else _left(end))
                _tell(arguments, {"position": position})
                continue
            report = bus.broadcast(message, _left(end), nowait=arguments.nowait)
            _tell(arguments, _report(report))
            for slow in report.slow:
                code = NOT_RELEASED
                say(f"message {report.position} was not released in time by {_who(slow)}")
    return code


def _messages(arguments: Arguments) -> Iterator[bytes]:
    if arguments.message is not None and arguments.message != "-":
        message = os.fsencode(arguments.message)
        if arguments.lines:
            yield from message.removesuffix(b"\n").split(b"\n")
        else:
            yield message
        return
    if sys.stdin is None:
        raise OSError("standard input is closed, and there is no MESSAGE")
    if arguments.lines:
        for line in sys.stdin.buffer:
            yield line.removesuffix(b"\n")
    else:
        yield sys.stdin.buffer.read()


def _left(end: float | None) -> float | None:
    return None if end is None else max(0.0, end - time.monotonic())


def _report(report: ipcheap.BroadcastReport) -> dict[str, Any]:
    return {
        "position": report.position,
        "listeners": report.listeners,
        "released": report.released,
        "gone": report.gone,
        "slow": [{"pid": slow.pid, "name": slow.name} for slow in report.slow],
    }


def _tell(arguments: Arguments, facts: dict[str, Any]) -> None:
    if arguments.json:
        import json

        write(json.dumps(facts).encode() + b"\n")


def _who(participant: ipcheap.Participant) -> str:
    return f"{participant.name} (pid {participant.pid}, {participant.state})"


# chmod, chown, chgrp ----------------------------------------------------------------------


def change_mode(arguments: Arguments) -> int:
    """Change the permissions of the heap."""
    name = _existing(arguments)
    path = name if "/" in name else f"/dev/shm/ipcheap.{name}"
    assert arguments.change is not None
    ipcheap.chmod(name, arguments.change.applied(os.stat(path).st_mode))
    return 0


def change_owner(arguments: Arguments) -> int:
    """Change the owner of the heap, its group, or both."""
    ipcheap.chown(_existing(arguments), arguments.owner, arguments.group)
    return 0


def _existing(arguments: Arguments) -> str:
    """Return the heap's name; raise an error if it, or the bus in it, does not exist."""
    try:
        with ipcheap.Heap.attach(arguments.heap) as heap:
            heap.bus(arguments.id)
    except PermissionError:
        pass  # an owner whose own permission was taken away can give it back
    return arguments.heap


# listeners --------------------------------------------------------------------------------


def show_listeners(arguments: Arguments) -> int:
    """Print the listeners of a bus."""
    with ipcheap.Heap.attach(arguments.heap) as heap:
        listeners = heap.bus(arguments.id).listeners()
    from ipcheap.tools.screen import print_table

    if arguments.json:
        import json

        print(json.dumps([_listener_facts(listener) for listener in listeners], indent=2))
    elif listeners:
        heads = ("listener", "pid", "state", "joined", "pending", "held", "lost", "")
        rows = [
            (
                listener.participant.name,
                str(listener.participant.pid),
                listener.participant.state,
                str(listener.joined),
                str(listener.pending),
                str(listener.held),
                str(listener.lost),
                "lossy" if listener.lossy else "",
            )
            for listener in listeners
        ]
        print_table(heads, rows, "lrlrrrrl")
    elif sys.stdout.isatty():
        print("no listeners")
    return 0


def _listener_facts(listener: ipcheap.ListenerInfo) -> dict[str, Any]:
    participant = listener.participant
    return {
        "pid": participant.pid,
        "name": participant.name,
        "thread": participant.thread,
        "state": participant.state,
        "joined": listener.joined,
        "pending": listener.pending,
        "held": listener.held,
        "lossy": listener.lossy,
        "lost": listener.lost,
    }


# The whole --------------------------------------------------------------------------------

RUN = {
    "create": create,
    "remove": remove,
    "listen": listen,
    "wait": listen,
    "broadcast": broadcast,
    "chmod": change_mode,
    "chown": change_owner,
    "chgrp": change_owner,
    "listeners": show_listeners,
}


def main(words: list[str]) -> int:
    """Run one verb; return the exit code."""
    try:
        arguments = bus_arguments.parse(words)
    except bus_arguments.Usage as error:
        say(f"bus: {error}\nTry: ipcheap bus --help")
        return NOT_UNDERSTOOD
    try:
        if arguments.help:
            write(bus_arguments.help_text(arguments.verb).encode() + b"\n")
            code = 0
        else:
            code = RUN[arguments.verb](arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return _end_by_sigpipe()
    except (ipcheap.Error, OSError, LookupError, ValueError) as error:
        say(error)
        return 1
    return code


def _end_by_sigpipe() -> int:
    """End as a process does that writes to a closed pipe. Python itself ignores the signal."""
    import signal

    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGPIPE)
    return 1  # the signal is blocked

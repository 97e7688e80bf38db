"""Other processes, for tests: start one, talk with it, kill it, and collect what it returned.

A function that runs in a peer may stand in the test file itself, at module level: it is
found there again by file and name.

    def produce(heap_name: str, count: int) -> None:
        ...
        peers.say("ready")      # the parent's peer.hear() returns "ready"
        peers.listen()          # returns what the parent gave to peer.tell()

    with peers.run(produce, heap_name, count=3) as peer:
        assert peer.hear() == "ready"
        peer.kill()
        assert peer.wait() == -signal.SIGKILL
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import multiprocessing
import os
import pickle
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

PATIENCE = 30.0  # seconds after which a test gives up on a peer

_parent: Connection[Any, Any] | None = None  # in a peer: the way to who started it


class Peer:
    """A function running in a process of its own."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        method: str = "spawn",
    ) -> None:
        context: Any = multiprocessing.get_context(method)
        self._connection, theirs = multiprocessing.Pipe()
        self._outcome: tuple[str, Any] | None = None
        self._process = context.Process(
            target=_peer_main,
            args=(theirs, inspect.getfile(function), function.__qualname__, args, kwargs),
            daemon=True,
        )
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The peer's process id."""
        return int(self._process.pid)

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return bool(self._process.is_alive())

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send it a signal; it may have ended already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def tell(self, message: object) -> None:
        """Give it something that its `listen()` returns."""
        self._connection.send(message)

    def hear(self, timeout: float = PATIENCE) -> Any:
        """Return what it gave to `say()`; raise what it raised instead."""
        if self._outcome is None:
            if not self._connection.poll(timeout):
                raise TimeoutError(f"peer {self.pid} has said nothing for {timeout} s")
            kind, value = self._connection.recv()
            if kind == "said":
                return value
            self._outcome = kind, value
        if self._outcome[0] == "raised":
            raise self._outcome[1]
        raise EOFError(f"peer {self.pid} has returned and says no more")

    def result(self, timeout: float = PATIENCE) -> Any:
        """Return what the function returned, or raise what it raised."""
        deadline = time.monotonic() + timeout
        while self._outcome is None:
            if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"peer {self.pid} has not returned for {timeout} s")
            try:
                kind, value = self._connection.recv()
            except EOFError:
                raise RuntimeError(f"peer {self.pid} ended with {self.wait()}") from None
            if kind != "said":
                self._outcome = kind, value
        kind, value = self._outcome
        if kind == "raised":
            raise value
        return value

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; return its exit code, -signal when killed."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"peer {self.pid} has not ended for {timeout} s")
        return int(self._process.exitcode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing running."""
        if self._outcome is None or self._outcome[0] == "raised":
            self.kill()
        self._process.join(2.0)
        if self._process.is_alive():
            self.kill()
            self._process.join(PATIENCE)
        self._process.close()
        self._connection.close()


def run(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Peer:
    """Run a module-level function in a spawned process."""
    return Peer(function, args, kwargs)


def run_by(method: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Peer:
    """Run it in a process made by "spawn", "fork" or "forkserver"."""
    return Peer(function, args, kwargs, method)


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run it in a spawned process and return what it returned."""
    with run(function, *args, **kwargs) as peer:
        return peer.result()


def until(condition: Callable[[], Any], timeout: float = PATIENCE) -> Any:
    """Wait until a condition holds; return what it returned."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not come true within {timeout} s")
        time.sleep(0.002)


# In the peer --------------------------------------------------------------------------


def say(message: object) -> None:
    """In a peer: give the parent something to `hear()`."""
    assert _parent is not None, "not in a peer"
    _parent.send(("said", message))


def listen(timeout: float = PATIENCE) -> Any:
    """In a peer: wait for what the parent `tell()`s."""
    assert _parent is not None, "not in a peer"
    if not _parent.poll(timeout):
        raise TimeoutError(f"nothing to hear for {timeout} s")
    return _parent.recv()


def die(signum: int = signal.SIGKILL) -> NoReturn:
    """In a peer: end at once, as if killed."""
    os.kill(os.getpid(), signum)
    signal.pause()
    raise AssertionError("still alive")


def _find(file: str, name: str) -> Any:
    """Find a function by the file that it stands in."""
    path = Path(file)
    module = sys.modules.get(path.stem)
    if module is None or getattr(module, "__file__", None) != file:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module
        spec.loader.exec_module(module)
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _peer_main(
    connection: Connection[Any, Any],
    file: str,
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    global _parent  # noqa: PLW0603
    _parent = connection
    try:
        outcome = ("returned", _find(file, name)(*args, **kwargs))
    except Exception as error:
        error.add_note("in a peer:\n" + traceback.format_exc())
        outcome = ("raised", error)
    try:
        pickled = pickle.dumps(outcome)
        pickle.loads(pickled)
    except Exception:
        pickled = pickle.dumps(("raised", RuntimeError(f"cannot pickle {outcome!r}")))
    with contextlib.suppress(BrokenPipeError):
        connection.send_bytes(pickled)

"""For tests of programs that use this package: names, heaps, leaks, and other processes.

Nothing here needs pytest; `ipcheap.pytest_plugin` has fixtures for it.

    from ipcheap import testing


    def produce(heap, count):  # at module level: it is found again by file and name
        with heap, heap.producer("numbers") as numbers:
            for n in range(count):
                numbers.send(n.to_bytes(8, "little"))
            testing.say("sent")  # what the parent's peer.hear() returns
            testing.listen()  # returns what the parent gives to peer.tell()


    def test_a_killed_producer_loses_nothing():
        with testing.temporary_heap() as heap:
            heap.add_record_channel("numbers", capacity=16)
            with testing.run(produce, heap, count=10) as peer:
                assert peer.hear() == "sent"
                peer.kill()
                assert peer.wait() == -signal.SIGKILL
            with heap.consumer("numbers") as numbers:
                assert len(numbers.recv_many()) == 10

Timeouts are seconds; `PATIENCE` of them unless said otherwise, so that no test hangs.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import inspect
import multiprocessing
import os
import pickle
import secrets
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, Self, TypeVar

import ipcheap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection
    from types import ModuleType

__all__ = [
    "PATIENCE",
    "Leak",
    "Peer",
    "call",
    "die",
    "heaps_left",
    "listen",
    "no_leaks",
    "run",
    "run_by",
    "say",
    "temporary_heap",
    "unique_name",
    "until",
]

PATIENCE: float = 30.0

_P = ParamSpec("_P")
_R = TypeVar("_R")


# Heaps ----------------------------------------------------------------------------------


class Leak(AssertionError):
    """More is in use, or left over, than should be."""


def unique_name(prefix: str = "test") -> str:
    """Return a heap name that nobody else uses: the prefix, this process's id, a random part."""
    return f"{prefix}.{os.getpid()}.{secrets.token_hex(4)}"


def heaps_left(prefix: str) -> list[str]:
    """Return the names of this machine's heaps that begin so, sorted."""
    return [info.name for info in ipcheap.heaps() if info.name.startswith(prefix)]


@contextlib.contextmanager
def temporary_heap(
    capacity: int | str = "64MiB", *, shm: str = "posix", sem: str = "futex"
) -> Iterator[ipcheap.Heap]:
    """Make a heap with a unique name; close it and take it away at the end.

    `capacity` is bytes or a string like "64MiB"; `shm` and `sem` as for `Heap.create`, but
    not "file", which takes a path. If the block ends without an exception, raises `Leak` if
    a record in it is still in use then, or `check()` finds a broken invariant.
    """
    heap = ipcheap.Heap.create(unique_name(), capacity, shm=shm, sem=sem)
    try:
        with heap:
            with no_leaks(heap):
                yield heap
            if broken := heap.check():
                raise Leak(f"heap {heap.name!r} is broken: " + "; ".join(broken))
    finally:
        with contextlib.suppress(ipcheap.HeapNotFound):
            heap.unlink()


@contextlib.contextmanager
def no_leaks(heap: ipcheap.Heap) -> Iterator[None]:
    """Raise `Leak` if more records are in use in a heap after the block than before it.

    A record is in use from its allocation until it has been freed and its last view is gone:
    also one that waits in a channel, also one of another process. The dead do not count:
    they are recovered first. Nothing is looked at when the block ends in an exception.
    """
    heap.recover()
    before = heap.statistics()
    yield
    heap.recover()
    after = heap.statistics()
    if after.records > before.records:
        gc.collect()  # what only a reference cycle keeps is no leak
        after = heap.statistics()
    if after.records > before.records:
        raise Leak(
            f"heap {heap.name!r}: {after.records} records are in use, {before.records} were "
            f"before; {after.in_use - before.in_use:+} bytes"
        )


# Other processes ------------------------------------------------------------------------


class Peer(Generic[_R]):
    """A function running in a process of its own; see `run`.

    A context manager: leaving it kills the process if it has not returned.
    """

    def __init__(
        self,
        function: Callable[..., _R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        method: str = "spawn",
    ) -> None:
        if "<" in function.__qualname__:
            raise ValueError(f"{function.__qualname__} must stand at module level to run in a peer")
        place = function.__module__, inspect.getfile(function), function.__qualname__
        context: Any = multiprocessing.get_context(method)
        self._connection: Connection[Any, Any]
        self._connection, theirs = multiprocessing.Pipe()
        self._outcome: tuple[str, Any] | None = None
        self._process = context.Process(
            target=_peer_main, args=(theirs, place, args, kwargs), daemon=True
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
        """Send it a signal, SIGKILL or another; it may have ended already."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def tell(self, message: object) -> None:
        """Give it something that can be pickled, for its `listen()` to return."""
        self._connection.send(message)

    def hear(self, timeout: float = PATIENCE) -> Any:
        """Return what it gave to `say()`, or raise what its function raised instead.

        Raises TimeoutError when it says nothing for `timeout` seconds, and EOFError when it
        has ended, or returned, without.
        """
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

    def result(self, timeout: float = PATIENCE) -> _R:
        """Return what the function returned, or raise what it raised.

        What it says meanwhile is passed over. Raises TimeoutError when it has not returned
        after `timeout` seconds, and RuntimeError when it ended without, as by a signal.
        """
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
        result: _R = value
        return result

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; return its exit code, -signal when killed.

        Raises TimeoutError when it has not ended after `timeout` seconds.
        """
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


def run(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> Peer[_R]:
    """Run a module-level function in a process that multiprocessing spawns.

    Arguments and result travel by pickle: a heap, a channel and a static segment may be
    among the arguments. Raises ValueError for a function that is not at module level.
    """
    return Peer(function, args, kwargs)


def run_by(
    method: str, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
) -> Peer[_R]:
    """Run it in a process made by "spawn", "fork" or "forkserver"."""
    return Peer(function, args, kwargs, method)


def call(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run it in a spawned process and return what it returned, or raise what it raised."""
    with run(function, *args, **kwargs) as peer:
        return peer.result()


def until(condition: Callable[[], _R], timeout: float = PATIENCE) -> _R:
    """Call until it returns something true, and return that; TimeoutError after `timeout` s."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not come true within {timeout} s")
        time.sleep(0.002)


# In the peer ----------------------------------------------------------------------------

_parent: Connection[Any, Any] | None = None  # the way to who started this process


def _the_parent() -> Connection[Any, Any]:
    if _parent is None:
        raise RuntimeError("this process is not a peer: it was not started by run()")
    return _parent


def say(message: object) -> None:
    """In a peer: give the parent something that can be pickled, for `Peer.hear()` to return.

    Raises RuntimeError outside of a peer.
    """
    _the_parent().send(("said", message))


def listen(timeout: float = PATIENCE) -> Any:
    """In a peer: wait for what the parent gives to `Peer.tell()`.

    Raises TimeoutError after `timeout` seconds, RuntimeError outside of a peer.
    """
    parent = _the_parent()
    if not parent.poll(timeout):
        raise TimeoutError(f"nothing to hear for {timeout} s")
    return parent.recv()


def die(signum: int = signal.SIGKILL) -> NoReturn:
    """In a peer, or anywhere: end at once, as if killed."""
    os.kill(os.getpid(), signum)
    signal.pause()
    raise AssertionError("still alive")


def _is_of(module: ModuleType | None, file: str) -> bool:
    return module is not None and getattr(module, "__file__", None) == file


def _module(name: str, file: str) -> ModuleType:
    """Return a module of the parent's: the one of that name if it is of that file here, too."""
    for known in (name, "__mp_main__", Path(file).stem):
        module = sys.modules.get(known)
        if module is not None and _is_of(module, file):
            return module
    # pytest gives names to test files by which nobody else can import them.
    with contextlib.suppress(ImportError, ValueError):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin == file:
            return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a module", path=file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _peer_main(
    connection: Connection[Any, Any],
    place: tuple[str, str, str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    global _parent  # noqa: PLW0603
    _parent = connection
    module, file, name = place
    try:
        function: Any = _module(module, file)
        for part in name.split("."):
            function = getattr(function, part)
        outcome = ("returned", function(*args, **kwargs))
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

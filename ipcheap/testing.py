"""Tools to test programs that use this package: names, heaps, leaks, and other processes.

Nothing here needs pytest; `ipcheap.pytest_plugin` has fixtures for it.

    from ipcheap import testing


    def produce(heap, count):  # at module level, where the other process finds it
        with heap, heap.producer("numbers") as numbers:
            for n in range(count):
                numbers.send(n.to_bytes(8, "little"))
            testing.say("sent")  # the parent's peer.hear() returns this
            testing.listen()  # returns what the parent passes to peer.tell()


    def test_a_killed_producer_loses_nothing():
        with testing.temporary_heap() as heap:
            heap.add_record_channel("numbers", capacity=16)
            with testing.run(produce, heap, count=10) as peer:
                assert peer.hear() == "sent"
                peer.kill()
                assert peer.wait() == -signal.SIGKILL
            with heap.consumer("numbers") as numbers:
                assert len(numbers.recv_many()) == 10

Timeouts are in seconds, by default `PATIENCE`, so that no test hangs.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import multiprocessing
import os
import pickle
import secrets
import signal
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, Self, TypeVar

import ipcheap

from .places import found_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection

    from ipcheap.graph import Node, Run
    from ipcheap.graph.murder import Murder

__all__ = [
    "PATIENCE",
    "Leak",
    "Peer",
    "call",
    "die",
    "feed",
    "heaps_left",
    "listen",
    "murder",
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
    """More records are in use than should be, or a heap is broken."""


def unique_name(prefix: str = "test") -> str:
    """Return a unique heap name: the prefix, this process's id and a random part."""
    return f"{prefix}.{os.getpid()}.{secrets.token_hex(4)}"


def heaps_left(prefix: str) -> list[str]:
    """Return the names of this machine's heaps that begin with `prefix`, sorted."""
    return [info.name for info in ipcheap.heaps() if info.name.startswith(prefix)]


@contextlib.contextmanager
def temporary_heap(
    capacity: int | str = "64MiB", *, shm: str = "posix", sem: str = "futex"
) -> Iterator[ipcheap.Heap]:
    """Create a heap with a unique name; close and remove it at the end.

    `capacity` is in bytes or a string like "64MiB". `shm` and `sem` are those of `Heap.create`,
    except "file", which takes a path. If the block ends without an exception, `Leak` is raised if a
    record of the heap is still in use or `check()` finds a broken invariant.
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

    A record is in use from its allocation until it has been freed and its last view is gone. So
    records that wait in a channel and records of other processes count. Records of dead
    participants do not, because these are recovered first. Nothing is checked if the block raises.
    """
    heap.recover()
    before = heap.statistics()
    yield
    heap.recover()
    after = heap.statistics()
    if after.records > before.records:
        gc.collect()  # a record that only a reference cycle keeps is no leak
        after = heap.statistics()
    if after.records > before.records:
        raise Leak(
            f"heap {heap.name!r}: {after.records} records are in use, {before.records} were "
            f"before; {after.in_use - before.in_use:+} bytes"
        )


# Other processes ------------------------------------------------------------------------


def _is_stopped(pid: int) -> bool:
    """Whether all threads of a process are stopped, or it has ended."""
    for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if stat.read_text().rpartition(")")[2].split()[0] not in "TtZX":
                return False
    return True


class Peer(Generic[_R]):
    """A function that runs in a process of its own; see `run`.

    It is a context manager: leaving the block kills the process if the function has not returned.
    """

    def __init__(
        self,
        function: Callable[..., _R],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        method: str = "spawn",
    ) -> None:
        if "<" in function.__qualname__:
            raise ValueError(
                f"{function.__qualname__} must be defined at module level to run in a peer"
            )
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
        """Whether the peer is still running."""
        return bool(self._process.is_alive())

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Send the peer a signal, by default SIGKILL. Does nothing if the peer has ended.

        After SIGSTOP it returns when all threads of the peer are stopped.
        """
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)
        if signum == signal.SIGSTOP:
            deadline = time.monotonic() + PATIENCE
            while not _is_stopped(self.pid) and time.monotonic() < deadline:
                time.sleep(0.001)

    def tell(self, message: object) -> None:
        """Send the peer an object that pickles; its `listen()` returns it."""
        self._connection.send(message)

    def hear(self, timeout: float = PATIENCE) -> Any:
        """Return what the peer passed to `say()`, or raise what its function raised instead.

        TimeoutError if the peer says nothing for `timeout` seconds; EOFError if it has returned or
        ended without saying anything.
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

        Anything the peer says meanwhile is ignored. TimeoutError if the function has not returned
        after `timeout` seconds; RuntimeError if the process ended before that, as by a signal.
        """
        deadline = time.monotonic() + timeout
        while self._outcome is None:
            if not self._connection.poll(max(0.0, deadline - time.monotonic())):
                raise TimeoutError(f"peer {self.pid} has not returned within {timeout} s")
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
        """Wait for the peer to end; return its exit code, -signal if it was killed.

        TimeoutError if it has not ended after `timeout` seconds.
        """
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"peer {self.pid} has not ended within {timeout} s")
        return int(self._process.exitcode)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        if self._outcome is None or self._outcome[0] == "raised":
            self.kill()
        self._process.join(2.0)
        if self._process.is_alive():
            self.kill()
            self._process.join(PATIENCE)
        self._process.close()
        self._connection.close()


def run(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> Peer[_R]:
    """Run a module-level function in a process that multiprocessing spawns; return its Peer.

    Arguments and result are pickled; the arguments may include heaps, channels and static segments.
    ValueError for a function that is not at module level.
    """
    return Peer(function, args, kwargs)


def run_by(
    method: str, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
) -> Peer[_R]:
    """Do what `run` does, with the start method "spawn", "fork" or "forkserver"."""
    return Peer(function, args, kwargs, method)


def call(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run a function in a spawned process; return what it returned, or raise what it raised."""
    with run(function, *args, **kwargs) as peer:
        return peer.result()


def until(condition: Callable[[], _R], timeout: float = PATIENCE) -> _R:
    """Call `condition` until it returns a true value, and return that value.

    TimeoutError after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TimeoutError(f"{condition} did not come true within {timeout} s")
        time.sleep(0.002)


# Graphs ---------------------------------------------------------------------------------


def feed(
    kernel: Any,
    *inputs: Iterable[Any],
    batch: int = 0,
    inplace: bool = False,
    params: Mapping[str, Any] | None = None,
    **parameters: Any,
) -> list[Any]:
    """Return what a kernel of a graph gives for some items, without a heap and without processes.

    The kernel has any form that `Graph.add` takes, and `batch`, `inplace` and the parameters are
    those of `Graph.add`. Each of `inputs` has the items of one input, a source has none; the
    shortest ends them all. An output of None is left out, and several outputs are the dicts that
    the kernel gives. An object is set up, finished and torn down; an instance is used itself.
    Arrays that it receives are read-only, as in a graph. `graph.here()` is None.

        assert testing.feed(brightness, [black, white]) == [0.0, 255.0]

    GraphError if the kernel cannot be called like that, or takes records.
    """
    from .graph.feeding import fed

    return fed(kernel, inputs, batch, inplace, {**(params or {}), **parameters})


def murder(
    run: Run,
    seed: int = 0,
    every: tuple[float, float] = (0.1, 0.4),
    kernels: Sequence[Node | str] | None = None,
) -> Murder:
    """Return a context manager that kills processes of a graph's run at random, and counts them.

    A thread kills one after a pause, whose least and greatest number of seconds is `every`, until
    the block or the run ends. `kills` counts them. `kernels` are nodes or names; None is all of
    them. A process is killed when it has begun, and only once until it has worked on, so that no
    record is taken for the cause. Pauses and order are those of `seed`. ValueError for
    runner="threads".

        with graph.start() as run, testing.murder(run) as killer:
            assert list(run.results(port)) == expected
        assert killer.kills
    """
    from .graph.murder import Murder

    return Murder(run, seed, every, kernels)


# In the peer ----------------------------------------------------------------------------

_parent: Connection[Any, Any] | None = None  # the connection to the process that started this one


def _the_parent() -> Connection[Any, Any]:
    if _parent is None:
        raise RuntimeError("this process is not a peer: it was not started by run()")
    return _parent


def say(message: object) -> None:
    """In a peer: send the parent an object that pickles; `Peer.hear()` returns it.

    RuntimeError outside of a peer.
    """
    _the_parent().send(("said", message))


def listen(timeout: float = PATIENCE) -> Any:
    """In a peer: return the next object that the parent passes to `Peer.tell()`.

    TimeoutError after `timeout` seconds, RuntimeError outside of a peer.
    """
    parent = _the_parent()
    if not parent.poll(timeout):
        raise TimeoutError(f"nothing to hear for {timeout} s")
    return parent.recv()


def die(signum: int = signal.SIGKILL) -> NoReturn:
    """In a peer or any other process: end immediately, as if killed."""
    os.kill(os.getpid(), signum)
    signal.pause()
    raise AssertionError("still alive")


def _peer_main(
    connection: Connection[Any, Any],
    place: tuple[str, str, str],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> None:
    global _parent  # noqa: PLW0603
    _parent = connection
    try:
        function = found_at(*place)
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

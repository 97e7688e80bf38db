"""What the programs of test_graph_cluster do: graphs on several hosts, and their kernels.

The hosts are called "here", where the program runs, "left" and "right".
"""

from __future__ import annotations

import importlib
import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ipcheap import graph
from ipcheap.graph.errors import GraphError, GraphStopped, HostLost

if TYPE_CHECKING:
    from collections.abc import Iterator


class Odd(Exception):
    """Raised by a kernel."""


# Kernels ------------------------------------------------------------------------------------


def numbers(count: int, resume: int = 0) -> Iterator[int]:
    yield from range(resume, count)


def mixture(count: int) -> Iterator[Any]:
    """Give objects, bytes and arrays."""
    for n in range(count):
        yield {"n": n, "a": np.arange(n)}
        yield bytes([n]) * n
        yield np.full((n, 2), n, "f4" if n % 2 else "u2")


def large(count: int, nbytes: int) -> Iterator[Any]:
    for n in range(count):
        yield np.full(nbytes, n % 256, "u1")


def first(item: Any) -> int:
    return int(item[0])


def same(item: Any) -> Any:
    return item


def copied(item: Any) -> Any:
    return item.copy() if isinstance(item, np.ndarray) else item


def where(item: Any) -> tuple[Any, str]:
    now = graph.here()
    assert now is not None
    return item, now.host


def slowly(item: Any, seconds: float = 0.002) -> Any:
    time.sleep(seconds)
    return item


def held_up(item: int, door: str) -> int:
    while item == 5 and not Path(door).exists():
        time.sleep(0.02)
    return item


def odd(item: int) -> int:
    if item == 700:
        raise Odd(item)
    return item


def variable(item: str) -> str:
    return os.environ.get(item, "unset")


def ends_itself(item: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return item


# Graphs that end -----------------------------------------------------------------------------


def collect(g: graph.Graph, port: graph.Port, **how: Any) -> list[Any]:
    return g.collect(port, runner="ray", **how)


def new() -> graph.Graph:
    return graph.Graph(capacity="64MiB")


def there_and_back(count: int, hosts: list[str]) -> list[Any]:
    """Send numbers over several hosts."""
    g = new()
    node = g.add(numbers, count=count)
    for host in hosts:
        node = g.add(same, node, on=host)
    return collect(g, g.add(where, node))


def all_kinds(count: int) -> list[Any]:
    g = new()
    node = g.add(same, g.add(mixture, count=count, on="left"), on="right")
    return collect(g, g.add(copied, node, on="here"))


def expected_kinds(count: int) -> list[Any]:
    return list(mixture(count))


def dealt(count: int, on: list[str]) -> list[Any]:
    g = new()
    return collect(g, g.add(where, g.add(numbers, count=count), on=on, processes=len(on)))


def fanned_out(count: int) -> tuple[list[int], list[int]]:
    """Read a source elsewhere here and on a third host."""
    g = new()
    source = g.add(numbers, count=count, on="left")
    near, far = g.add(same, source, on="here"), g.add(same, source, on="right")
    g.output(near)
    g.output(far)
    got: list[int] = []
    with g.start(runner="ray") as run:
        thread = threading.Thread(target=lambda: got.extend(run.results(near)))
        thread.start()
        others = list(run.results(far))
        thread.join()
    return got, others


def merged(count: int) -> list[int]:
    g = new()
    sources = [g.add(numbers, count=count, on=host) for host in ("here", "left", "right")]
    return sorted(collect(g, g.add(same, sources, on="left")))


def sent(count: int, how: str) -> list[int]:
    """Send numbers to a kernel elsewhere, and end the input in one of several ways."""
    g = new()
    fed = g.input("fed")
    port = g.output(g.add(same, fed, on="left", slots=64), slots=64)
    with g.start(runner="ray") as run:
        if how == "fed":
            run.feed(fed, range(count))
        else:
            for n in range(count):
                run.send(fed, n)
        if how == "closed by another thread":
            thread = threading.Thread(target=run.close_input, args=[fed])
            thread.start()
            thread.join()
        elif how == "stopped":
            run.stop()
        return list(run.results(port))


def never_sent() -> list[int]:
    g = new()
    fed = g.input("fed")
    port = g.output(g.add(same, fed, on="left"))
    with g.start(runner="ray") as run:
        run.close_input(fed)
        return list(run.results(port))


def mapped(count: int) -> list[int]:
    base = 5

    def plus(n: int) -> int:  # a closure is pickled by value
        return n + base

    return list(graph.map(plus, range(count), runner="ray", on="left", processes=2))


def held_back(door: str) -> tuple[int, int, int, str | None, list[int]]:
    """Return what a source had sent to a kernel that does not go on, twice, and its results."""
    g = new()
    source = g.add(numbers, count=500)
    port = g.output(g.add(held_up, source, on="left", slots=8, door=door))
    with g.start(runner="ray") as run:
        results = run.results(port)
        got = [next(results) for _ in range(5)]
        edges: list[graph.EdgeStatistics] = []
        for _ in range(2):
            time.sleep(1.0)
            edges += run.statistics().edges[:1]
        Path(door).touch()
        got += results
    before, after = edges
    return before.sent, after.sent, after.pending + after.held, after.blocked, got


def raised(on: str) -> None:
    g = new()
    collect(g, g.add(odd, g.add(numbers, count=10_000), on=on))


def found_variable(names: list[str], **resources: float) -> list[str]:
    g = new()
    fed = g.input()
    port = g.output(g.add(variable, fed, on="left", resources=resources))
    found = []
    with g.start(runner="ray") as run:
        results = run.results(port)
        for name in names:
            run.send(fed, name)
            found.append(next(results))
    return found


def memory_is_bounded(count: int, nbytes: int) -> list[int]:
    """Send more through small heaps than they could hold."""
    g = graph.Graph(capacity="8MiB")
    node = g.add(same, g.add(large, count=count, nbytes=nbytes, slots=2), on="left", slots=2)
    return list(g.results(g.add(first, node, on="right", slots=2), runner="ray"))


def lasts(seconds: float) -> tuple[float, str]:
    g = new()
    g.add(slowly, g.add(numbers, count=10**9, on="left"), on="right")
    statistics = g.run(runner="ray", duration=seconds, timeout=60)
    return statistics.seconds, statistics.state


def counted(count: int) -> graph.GraphStatistics:
    g = new()
    g.add(same, g.add(same, g.add(numbers, count=count), on="left", processes=2), on="right")
    return g.run(runner="ray", timeout=60)


def poisoned() -> None:
    g = new()
    g.add(ends_itself, g.add(numbers, count=3), on="left")
    g.run(runner="ray", timeout=60)


def checked(on: str) -> list[str]:
    g = new()
    g.add(same, g.add(numbers, count=1), on=on)
    return g.check()


def wanted(**resources: float) -> None:
    g = new()
    g.add(same, g.add(numbers, count=1), on="left", resources=resources)
    g.run(runner="ray")


def twice(count: int) -> list[list[int]]:
    """Run two graphs at the same time."""
    graphs = [new(), new()]
    ports = [
        g.output(g.add(same, g.add(numbers, count=count, on="left"), on="right")) for g in graphs
    ]
    runs = [g.start(runner="ray") for g in graphs]
    found = [list(run.results(port)) for run, port in zip(runs, ports, strict=True)]
    for run in runs:
        run.wait(30)
    return found


# A graph that goes on -------------------------------------------------------------------------

_run: graph.Run
_results: Iterator[Any]
_got: list[Any]
_middle = "middle"


def begin(count: int, seconds: float = 0.002) -> None:
    """Start a graph from here to left, right and back, and take the first results."""
    global _run, _results, _got  # noqa: PLW0603
    g = new()
    middle = g.add(slowly, g.add(numbers, count=count), on="left", name=_middle, seconds=seconds)
    port = g.output(g.add(same, middle, on="right"))
    _run = g.start(runner="ray")
    _results = _run.results(port)
    _got = [next(_results) for _ in range(10)]


def pids() -> list[int]:
    return list(_run.statistics().kernels[_middle].pids)


def finish() -> list[Any]:
    """Return all results of the graph."""
    _got.extend(_results)
    _run.wait(60)
    return _got


def kill_worker(times: int, pause: float) -> tuple[list[Any], int]:
    """Kill the worker on another host, again and again."""
    killed: list[int] = []
    over = threading.Event()

    def work() -> None:
        while len(killed) < times and not over.wait(pause):
            for pid in pids():
                if pid not in killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)

    thread = threading.Thread(target=work)
    thread.start()
    got = finish()
    over.set()
    thread.join()
    assert len(killed) == times
    return got, _run.statistics().kernels[_middle].restarts


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def agent_of(pid: int) -> int:
    """Return the process that has started the fork server of a worker."""
    return parent_of(parent_of(pid))


def lose() -> tuple[str, str, float]:
    """Return which host is lost, how that is said, and after how many seconds."""
    begun = time.monotonic()
    try:
        finish()
    except HostLost as error:
        return error.host, str(error), time.monotonic() - begun
    raise AssertionError("no host was lost")


def stop() -> list[Any]:
    _run.stop()
    return finish()


def abort() -> float:
    begun = time.monotonic()
    _run.abort()
    try:
        _run.wait(30)
    except GraphStopped:
        return time.monotonic() - begun
    raise AssertionError("not aborted")


def wait_for_interrupt() -> float:
    begun = time.monotonic()
    try:
        _run.wait(60)
    except KeyboardInterrupt:
        return time.monotonic() - begun
    raise AssertionError("not interrupted")


# Around them ---------------------------------------------------------------------------------


def wait_for_hosts(count: int) -> None:
    deadline = time.monotonic() + 90
    while len(alive()) < count:
        assert time.monotonic() < deadline, "the hosts do not come up"
        time.sleep(0.1)


def alive() -> list[str]:
    ray: Any = importlib.import_module("ray")
    return [node["Labels"].get("ipcheap.host", "") for node in ray.nodes() if node["Alive"]]


def refused(name: str, *args: Any, **how: Any) -> str:
    """Return the text of the GraphError that another case raises."""
    try:
        globals()[name](*args, **how)
    except GraphError as error:
        return str(error)
    raise AssertionError("no error")

"""An edge between two hosts, beside Ray and a bare socket with the same bytes.

    sudo python bench/graph_hosts.py [graph] [tcp] [calls] [compiled]

The hosts are two network namespaces of this machine, each with its own node of Ray. All ways carry
records from a program on one host to a kernel, an actor or a loop on the other, which counts them.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from hosts import Host, Network, start_ray

from ipcheap import graph

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

THERE = "there"
ROUNDS = 3
WINDOW = 64  # calls under way
WAYS = ("graph", "tcp", "calls", "compiled")


# The ways ------------------------------------------------------------------------------------


def payload(nbytes: int) -> Any:
    return bytes(nbytes) if nbytes < 4096 else np.zeros(nbytes, "u1")


def source(nbytes: int, count: int) -> Iterator[Any]:
    item = payload(nbytes)
    for _ in range(count):
        yield item


class Counter:
    """Counts, and gives how many items a second there were."""

    def __init__(self) -> None:
        self._count = 0
        self._begun = 0.0

    def process(self, item: Any) -> None:
        if not self._count:
            self._begun = time.perf_counter()
        self._count += 1

    def finish(self) -> float:
        return (self._count - 1) / (time.perf_counter() - self._begun)


def by_graph(nbytes: int) -> float:
    """Return the records a second of an edge."""
    g = graph.Graph(capacity="512MiB")
    items = g.add(source, nbytes=nbytes, count=200_000 if nbytes < 4096 else 1_500)
    rate = g.add(Counter, items, on=THERE, slots=64)
    return float(g.collect(rate, runner="ray")[0])


class Taker:
    """An actor that takes records."""

    def take(self, item: Any) -> int:
        return len(item)


def _taker(ray: Any) -> Any:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    (node,) = [node for node in ray.nodes() if node["NodeManagerHostname"] == THERE]
    place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    return ray.remote(Taker).options(scheduling_strategy=place, num_cpus=0).remote()


def by_calls(nbytes: int) -> float:
    """Return the calls a second of an actor, whose argument is a Ray object."""
    import ray

    taker = _taker(ray)
    count = 10_000 if nbytes < 4096 else 300
    ray.get(taker.take.remote(payload(nbytes)))
    begun = time.perf_counter()
    under_way: list[Any] = []
    for _ in range(count):
        if len(under_way) >= WINDOW:
            ray.get(under_way.pop(0))
        under_way.append(taker.take.remote(payload(nbytes)))
    ray.get(under_way)
    seconds = time.perf_counter() - begun
    ray.kill(taker)
    return count / seconds


def by_compiled(nbytes: int) -> float:
    """Return the executions a second of a compiled graph with one actor."""
    import ray
    from ray.dag import InputNode

    taker = _taker(ray)
    count = 5_000 if nbytes < 4096 else 300
    with InputNode() as item:
        wired = taker.take.bind(item)
    compiled = wired.experimental_compile(
        _buffer_size_bytes=nbytes + 100_000, _max_inflight_executions=WINDOW
    )
    ray.get(compiled.execute(payload(nbytes)))
    begun = time.perf_counter()
    under_way: list[Any] = []
    for _ in range(count):
        if len(under_way) >= WINDOW // 2:
            ray.get(under_way.pop(0))
        under_way.append(compiled.execute(payload(nbytes)))
    for one in under_way:
        ray.get(one)
    seconds = time.perf_counter() - begun
    compiled.teardown()
    ray.kill(taker)
    return count / seconds


def sink(nbytes: int) -> None:
    room = bytearray(1 << 20)
    with socket.create_server(("0.0.0.0", 9999)) as server:
        sock, _ = server.accept()
    with sock:
        while nbytes:
            nbytes -= sock.recv_into(room)
        sock.sendall(b"!")


def by_tcp(nbytes: int, there: Host) -> float:
    """Return the records a second of a socket, by one call each; runs on the other host."""
    count = 300_000 if nbytes < 4096 else 5_000
    script = f"import graph_hosts; graph_hosts.sink({nbytes * count})"
    with there.popen([sys.executable, "-c", script]) as other:
        program = f"import graph_hosts; graph_hosts.feed({there.address!r}, {nbytes}, {count})"
        found = _HERE[0].run([sys.executable, "-c", program])
        other.wait()
    return float(found)


def feed(address: str, nbytes: int, count: int) -> None:
    while True:
        try:
            sock = socket.create_connection((address, 9999))
            break
        except OSError:
            time.sleep(0.05)
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        item = bytes(nbytes)
        begun = time.perf_counter()
        for _ in range(count):
            sock.sendall(item)
        sock.recv(1)
        print(count / (time.perf_counter() - begun))


# Around them ---------------------------------------------------------------------------------

_HERE: list[Host] = []


def _report(way: str, nbytes: int, rates: list[float]) -> None:
    rate = max(rates)
    print(
        f"{way:9} {nbytes:9,} B  {rate:10,.0f}/s  {rate * nbytes / 1e6:8,.1f} MB/s"
        f"   of {', '.join(f'{one:,.0f}' for one in rates)}",
        flush=True,
    )


def inside(address: str, ways: list[str]) -> None:
    """Measure, as a program on the first host."""
    import ray

    ray.init(address=address, logging_level=30)
    while sum(node["Alive"] for node in ray.nodes()) < 2:
        time.sleep(0.1)
    found: dict[str, Callable[[int], float]] = {
        "graph": by_graph,
        "calls": by_calls,
        "compiled": by_compiled,
    }
    for way in ways:
        for nbytes in (64, 1 << 20):
            rounds = 1 if way == "compiled" else ROUNDS
            _report(way, nbytes, [found[way](nbytes) for _ in range(rounds)])


def main() -> None:
    ways = sys.argv[1:] or list(WAYS)
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # of the programs on the hosts
    with Network(["here", THERE]) as network, tempfile.TemporaryDirectory() as logs:
        here, there = network.hosts["here"], network.hosts[THERE]
        _HERE.append(here)
        if "tcp" in ways:
            for nbytes in (64, 1 << 20):
                _report("tcp", nbytes, [by_tcp(nbytes, there) for _ in range(ROUNDS)])
            ways.remove("tcp")
        if not ways:
            return
        store = "--object-store-memory=300000000"
        for host in (here, there):
            start_ray(host, here, Path(logs) / host.name, store)
            probe = f"import socket; socket.create_connection(({here.address!r}, 6379))"
            while here.popen([sys.executable, "-c", probe], stderr=subprocess.DEVNULL).wait():
                time.sleep(0.2)
        program = f"import graph_hosts; graph_hosts.inside('{here.address}:6379', {ways!r})"
        with here.popen([sys.executable, "-c", program]) as measuring:
            measuring.wait()


if __name__ == "__main__":
    main()

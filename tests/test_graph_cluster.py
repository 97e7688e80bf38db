"""Graphs on several hosts, which Ray has found and whose agents it has started.

The hosts are network namespaces on this machine, with a /dev/shm each. Where they are not allowed,
the hosts are Ray nodes of one machine, and what needs to cut or kill a host is skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cluster_cases
import numpy as np
import pytest
from cluster_caller import LOCAL, Caller
from cluster_cases import parent_of
from hosts import Host, Network, start_ray, why_not

from ipcheap import graph
from ipcheap.graph.errors import GraphError, PoisonRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None,
    reason=f"Ray has no wheel for Python {sys.version_info.major}.{sys.version_info.minor}, or is "
    "not installed",
)
_OTHERS = ("left", "right")


class Cluster:
    """Three hosts, with a node of Ray on each, and a program on the first."""

    def __init__(self, network: Network | None, logs: Path) -> None:
        self.network = network
        self._logs = logs
        self._nodes: dict[str, Any] = {}
        self._callers: list[Caller] = []
        self.caller: Caller

    def begin(self) -> None:
        """Start the nodes and the program."""
        if self.network is None:
            self.caller = self.program()
            return
        here = self.network.hosts["here"]
        self.start("here")
        probe = f"import socket; socket.create_connection(({here.address!r}, 6379), 1)"
        deadline = time.monotonic() + 60
        while here.popen([sys.executable, "-c", probe], stderr=-3).wait():
            assert time.monotonic() < deadline, (self._logs / "here.log").read_text()
            time.sleep(0.2)
        for name in _OTHERS:
            self.start(name)
        self.caller = self.program()
        self.caller.call("wait_for_hosts", 3)

    @property
    def hosts(self) -> dict[str, Host]:
        """The hosts, by name."""
        if self.network is None:
            pytest.skip("there are no namespaces to cut or to kill")
        return self.network.hosts

    def start(self, name: str) -> None:
        """Start the node of a host."""
        assert self.network is not None
        hosts = self.network.hosts
        options = ["--num-gpus=1"] if name == "left" else []
        self._nodes[name] = start_ray(
            hosts[name],
            hosts["here"],
            self._logs / f"{name}.log",
            f"--labels=ipcheap.host={name}",
            *options,
        )

    def program(self) -> Caller:
        """Start another program."""
        log = self._logs / f"program{len(self._callers)}.log"
        if self.network is None:
            caller = Caller(None, LOCAL, log)
        else:
            here = self.network.hosts["here"]
            caller = Caller(here, f"{here.address}:6379", log)
        self._callers.append(caller)
        return caller

    def mend(self) -> None:
        """Have all hosts back."""
        if self.network is None:
            return
        for name in _OTHERS:
            self.network.cut(self.network.hosts[name], down=False)
        time.sleep(1.0)
        alive = self.caller.call("alive")
        for name in _OTHERS:
            node = self._nodes[name]
            if name not in alive or node.poll() is not None:
                self.network.hosts[name].kill()
                node.wait()
                self.start(name)
        self.caller.call("wait_for_hosts", 3)

    def remains(self) -> list[str]:
        """Return what is left of graphs on all hosts: processes of them, and heaps in files."""
        found = []
        known = {caller.process.pid for caller in self._callers}
        for host in self.hosts.values():
            found += [name for name in host.run(["ls", "/dev/shm"]).split() if "ipcheap" in name]
            for pid in host.pids():
                try:
                    command = (
                        Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                    )
                    has_heap = "/memfd:" in Path(f"/proc/{pid}/maps").read_text()
                    is_known = pid in known or parent_of(pid) in known  # it keeps its fork server
                except OSError:
                    continue
                if not is_known and (has_heap or "forkserver" in command):
                    found.append(f"{pid}, heap: {has_heap}: {command}")
        return found

    def end(self) -> None:
        """End the programs and nodes."""
        for caller in self._callers:
            caller.end()
        if self.network is not None:
            for name, node in self._nodes.items():
                self.network.hosts[name].kill()
                node.wait()


takes_long = pytest.mark.skipif(
    "IPCHEAP_CLUSTER_LONG" not in os.environ,
    reason="half a minute and more each: set IPCHEAP_CLUSTER_LONG to run it",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    logs = tmp_path_factory.mktemp("logs")
    with contextlib.nullcontext() if why_not() else Network(["here", *_OTHERS]) as network:
        made = Cluster(network, logs)
        try:
            made.begin()
            yield made
        finally:
            made.end()


@pytest.fixture
def call(cluster: Cluster) -> Callable[..., Any]:
    """Call a function of cluster_cases in a program on the first host."""
    return cluster.caller.call


def gone(cluster: Cluster, seconds: float = 15.0) -> bool:
    """Wait until nothing is left of any graph."""
    deadline = time.monotonic() + seconds
    while left := cluster.remains():
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
    return True


# Without a cluster ---------------------------------------------------------------------------


def test_without_ray_the_text_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    g = graph.Graph()
    g.add(cluster_cases.where, g.add(cluster_cases.numbers, count=3), on="left")
    with pytest.raises(GraphError, match=r"pip install 'ipcheap\[ray\]'"):
        g.start(runner="ray")


# What passes ---------------------------------------------------------------------------------


@needs_ray
@pytest.mark.parametrize("hosts", [["left", "right"], ["left", "right", "here", "left"]])
def test_results_come_in_order_over_several_hosts(
    call: Callable[..., Any], hosts: list[str]
) -> None:
    host = "" if hosts[-1] == "here" else hosts[-1]
    assert call("there_and_back", 300, hosts) == [(n, host) for n in range(300)]


@needs_ray
def test_items_of_all_kinds(call: Callable[..., Any]) -> None:
    got, expected = call("all_kinds", 30), call("expected_kinds", 30)
    assert len(got) == len(expected) == 90
    for item, other in zip(got, expected, strict=True):
        assert type(item) is type(other)
        if isinstance(item, dict):
            assert item["n"] == other["n"]
            item, other = item["a"], other["a"]
        if isinstance(item, np.ndarray):
            assert (item.dtype, item.shape) == (other.dtype, other.shape)
        assert np.array_equal(item, other)


@needs_ray
def test_processes_are_dealt_to_hosts(call: Callable[..., Any]) -> None:
    hosts = ["left", "right", "here"]
    names = ["left", "right", ""]
    assert call("dealt", 60, hosts) == [(n, names[n % 3]) for n in range(60)]


@needs_ray
def test_a_host_is_its_label_its_hostname_or_its_address(
    cluster: Cluster, call: Callable[..., Any]
) -> None:
    address = cluster.hosts["right"].address
    hosts = ["left", address]
    assert call("dealt", 10, hosts) == [(n, hosts[n % 2]) for n in range(10)]
    # Two names of one host are one host.
    assert call("dealt", 10, ["right", address]) == [(n, "right") for n in range(10)]
    assert call("dealt", 4, [cluster.hosts["here"].address] * 2) == [(n, "") for n in range(4)]


@needs_ray
def test_a_source_elsewhere_is_read_on_two_hosts(call: Callable[..., Any]) -> None:
    assert call("fanned_out", 500) == (list(range(500)),) * 2


@needs_ray
def test_sources_of_three_hosts_are_merged(call: Callable[..., Any]) -> None:
    assert call("merged", 100) == sorted(list(range(100)) * 3)


@needs_ray
@pytest.mark.parametrize("how", ["fed", "closed by another thread", "stopped"])
def test_what_the_program_sends_arrives_before_the_end(call: Callable[..., Any], how: str) -> None:
    assert call("sent", 60, how) == list(range(60))


@needs_ray
def test_an_input_that_was_never_used_ends(call: Callable[..., Any]) -> None:
    assert call("never_sent") == []


@needs_ray
def test_map_on_another_host(call: Callable[..., Any]) -> None:
    assert call("mapped", 100) == [n + 5 for n in range(100)]


@needs_ray
def test_two_graphs_at_once(call: Callable[..., Any]) -> None:
    assert call("twice", 300) == [list(range(300))] * 2


@needs_ray
def test_a_slow_reader_elsewhere_slows_the_source(call: Callable[..., Any], tmp_path: Path) -> None:
    before, after, waiting, blocked, got = call("held_back", str(tmp_path / "door"))
    assert before == after <= 5 + 2 * 8 + 1
    assert waiting >= 8
    assert blocked == "full"
    assert got == list(range(500))


@needs_ray
def test_memory_is_bounded_on_each_host(call: Callable[..., Any]) -> None:
    assert call("memory_is_bounded", 50, 1 << 20) == list(range(50))


@needs_ray
def test_statistics_are_those_of_all_hosts(call: Callable[..., Any]) -> None:
    statistics = call("counted", 200)
    assert statistics.state == "ended"
    assert [edge.sent for edge in statistics.edges] == [200, 200]
    assert [edge.pending + edge.held for edge in statistics.edges] == [0, 0]
    hosts = {name: kernel.host for name, kernel in statistics.kernels.items()}
    assert hosts == {"numbers": "", "same": "left", "same2": "right"}


@needs_ray
def test_duration_counts_from_when_all_hosts_work(call: Callable[..., Any]) -> None:
    seconds, state = call("lasts", 1.0)
    assert state == "ended"
    assert seconds >= 1.0


@needs_ray
def test_what_a_program_defines_itself_is_sent_by_value(cluster: Cluster, tmp_path: Path) -> None:
    here = cluster.hosts["here"]
    program = tmp_path / "program.py"
    program.write_text(
        """
import os
from ipcheap.graph import Graph, here

class Adder:
    def process(self, item):
        return plus(item), here().host

def plus(item, by=1):
    return item + by if os.getpid() else None

if __name__ == "__main__":
    graph = Graph(capacity="16MiB")
    numbers = graph.input()
    port = graph.output(graph.add(Adder, graph.add(plus, numbers, by=10, on="left"), on="right"))
    with graph.start(runner="ray", address="ADDRESS:6379") as run:
        run.feed(numbers, range(3))
        print(list(run.results(port)))
""".replace("ADDRESS", here.address)
    )
    said = here.run([sys.executable, str(program)])
    assert said.splitlines()[-1] == "[(11, 'right'), (12, 'right'), (13, 'right')]"


# Resources -----------------------------------------------------------------------------------


@needs_ray
def test_kernels_see_the_devices_of_their_agent(cluster: Cluster, call: Callable[..., Any]) -> None:
    assert cluster.hosts
    assert call("found_variable", ["CUDA_VISIBLE_DEVICES"], GPU=1) == ["0"]


@needs_ray
def test_resources_that_a_host_does_not_have(call: Callable[..., Any]) -> None:
    text = call("refused", "wanted", GPU=7, fuel=1)
    assert "host 'left' has not enough GPU and fuel" in text


@needs_ray
def test_hosts_that_do_not_exist(call: Callable[..., Any]) -> None:
    text = call("refused", "there_and_back", 10, ["left", "nowhere"])
    assert "there is no host 'nowhere'" in text
    for known in ("here", "left", "right"):
        assert known in text
    (problem,) = call("checked", "nowhere")
    assert problem in text
    assert call("checked", "left") == []


# Failures ------------------------------------------------------------------------------------


@needs_ray
@pytest.mark.parametrize("host", ["here", "left"])
def test_an_error_is_raised_unchanged(call: Callable[..., Any], host: str) -> None:
    with pytest.raises(cluster_cases.Odd) as caught:
        call("raised", host)
    assert caught.value.args == (700,)
    notes = "\n".join(caught.value.__notes__)
    assert "In kernel 'odd', worker 0" in notes
    assert ("On host 'left'" in notes) == (host == "left")


@needs_ray
def test_a_poisonous_record_elsewhere(call: Callable[..., Any]) -> None:
    with pytest.raises(PoisonRecord, match="ends_itself"):
        call("poisoned")


@needs_ray
def test_killed_workers_elsewhere_change_nothing(call: Callable[..., Any]) -> None:
    call("begin", 1500)
    got, restarts = call("kill_worker", 4, 0.3)
    assert got == list(range(1500))
    assert restarts == 4


@needs_ray
def test_stop_reaches_all_hosts(call: Callable[..., Any]) -> None:
    call("begin", 10**9)
    got = call("stop")
    assert got == list(range(len(got)))


@needs_ray
def test_abort_reaches_all_hosts(cluster: Cluster, call: Callable[..., Any]) -> None:
    call("begin", 10**9)
    assert call("abort") < 10
    if cluster.network is not None:
        assert gone(cluster)


@needs_ray
def test_ctrl_c_reaches_all_hosts(cluster: Cluster) -> None:
    program = cluster.program()
    program.call("begin", 10**9)
    program.tell("wait_for_interrupt")
    time.sleep(0.5)
    os.kill(program.process.pid, signal.SIGINT)
    assert program.hear() < 15
    program.end()
    if cluster.network is not None:
        assert gone(cluster)


@needs_ray
def test_a_killed_program_leaves_nothing(cluster: Cluster) -> None:
    assert cluster.hosts
    program = cluster.program()
    program.call("begin", 10**9)
    assert cluster.remains()
    program.end()
    assert gone(cluster)


# Lost hosts ----------------------------------------------------------------------------------


@needs_ray
def test_a_killed_agent_is_a_lost_host(cluster: Cluster, call: Callable[..., Any]) -> None:
    assert cluster.hosts
    call("begin", 10**9)
    (worker,) = call("pids")
    agent = cluster_cases.agent_of(worker)
    assert agent in cluster.hosts["left"].pids()
    os.kill(agent, signal.SIGKILL)
    host, text, seconds = call("lose")
    assert host == "left"
    assert "host 'left' is lost" in text
    assert seconds < 15
    assert gone(cluster)


@needs_ray
@takes_long
def test_a_host_without_power_is_lost(cluster: Cluster, call: Callable[..., Any]) -> None:
    call("begin", 10**9)
    cluster.hosts["left"].kill()
    try:
        host, _, seconds = call("lose")
        assert host == "left"
        assert seconds < 45
        assert gone(cluster)
    finally:
        cluster.mend()


@needs_ray
def test_a_cut_of_a_few_seconds_changes_nothing(cluster: Cluster, call: Callable[..., Any]) -> None:
    assert cluster.network is not None or cluster.hosts
    call("begin", 3000)
    assert cluster.network is not None
    for _ in range(2):
        cluster.network.cut(cluster.hosts["left"])
        time.sleep(3.0)
        cluster.network.cut(cluster.hosts["left"], down=False)
        time.sleep(1.0)
    assert call("finish") == list(range(3000))


@needs_ray
@takes_long
def test_a_host_that_stays_cut_off_is_lost(cluster: Cluster, call: Callable[..., Any]) -> None:
    left = cluster.hosts["left"]
    assert cluster.network is not None
    call("begin", 10**9)
    cluster.network.cut(left)
    try:
        host, text, seconds = call("lose")
        assert host == "left"
        assert "no connection" in text
        assert 10 < seconds < 60
        # There everything ends by itself.
        assert gone(cluster, 45.0)
    finally:
        cluster.mend()

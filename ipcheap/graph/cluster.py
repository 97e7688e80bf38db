"""Graphs on several machines: what the layer asks of Ray, and nothing else imports it.

Ray tells which hosts there are, starts an agent on each host that a graph needs, and tells when one
is gone. The items never pass through it. What follows from that: docs/design/graph.md.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import pickle
import secrets
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .agent import Agent
from .errors import GraphError, HostLost
from .link import TOKEN_BYTES
from .part import PATIENCE, Part, crossing, named, version_here
from .place import packed
from .plan import CALLING
from .runner import Run
from .statistics import together

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from .plan import Plan
    from .statistics import Observed

_INSTALL = "runner='ray' needs Ray: pip install 'ipcheap[ray]'"
_LABEL = "ipcheap.host"
_PLACING = 60.0  # seconds for an agent to start; the resources it needs may be in use
_LOADING = 300.0  # seconds for an agent to import what the kernels need
_LOOK = 0.2  # seconds between looks whether the graph is aborted
_SEEING = 2.0  # seconds to wait for what another host sees


@dataclass(frozen=True)
class _Node:
    """A host as Ray knows it."""

    id: str
    label: str
    hostname: str
    address: str
    resources: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.label or self.hostname} ({self.address})"


def _ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise GraphError(_INSTALL) from error


def _connect(ray: Any, address: str | None) -> None:
    """Connect to a cluster, unless the program has."""
    if not ray.is_initialized():
        if address is not None and "://" in address:
            raise GraphError(
                f"the calling program must run on a host of the cluster, not reach it by {address}"
            )
        ray.init(address=address)
    elif ray.util.client.ray.is_connected():
        raise GraphError("the calling program must run on a host of the cluster, not be a client")


def _nodes(ray: Any) -> list[_Node]:
    """Return the hosts of the cluster, the calling one first."""
    here = ray.get_runtime_context().get_node_id()
    found = [
        _Node(
            id=node["NodeID"],
            label=node.get("Labels", {}).get(_LABEL, ""),
            hostname=node["NodeManagerHostname"],
            address=node["NodeManagerAddress"],
            resources=node["Resources"],
        )
        for node in ray.nodes()
        if node["Alive"]
    ]
    return sorted(found, key=lambda node: node.id != here)


def _node_of(name: str, nodes: list[_Node]) -> _Node | None:
    """Return the host of a name: its label, its hostname or its address, in this order."""
    for of in ("label", "hostname", "address"):
        for node in nodes:
            if getattr(node, of) == name:
                return node
    return None


def unknown_hosts(names: Iterable[str]) -> list[str]:
    """Return a sentence for each name that no host of the cluster has; none without a cluster."""
    ray = _ray()
    return _unknown(names, _nodes(ray)) if ray.is_initialized() else []


def _unknown(names: Iterable[str], nodes: list[_Node]) -> list[str]:
    known = ", ".join(map(str, nodes))
    return [
        f"there is no host {name!r} in the cluster; it has {known}"
        for name in dict.fromkeys(names)
        if _node_of(name, nodes) is None
    ]


def _placed(plan: Plan, nodes: list[_Node]) -> tuple[Plan, dict[str, _Node]]:
    """Return the plan with one name for each host, and the hosts of these names."""
    names = [name for kernel in plan.kernels.values() for name in kernel.on]
    if unknown := _unknown(names, nodes):
        raise GraphError("; ".join(unknown))
    hosts = {CALLING: nodes[0]}
    chosen = {nodes[0].id: CALLING}
    for name in names:
        node = _node_of(name, nodes)
        assert node is not None
        hosts[chosen.setdefault(node.id, name)] = node

    def host(name: str) -> str:
        node = _node_of(name, nodes)
        assert node is not None
        return chosen[node.id]

    placed = plan.placed(host)
    return placed, {host: hosts[host] for host in placed.hosts}


def _resources(plan: Plan, host: str) -> dict[str, float]:
    """Return what the kernels of a host need, each for each of its processes."""
    total: dict[str, float] = {}
    for process in plan.processes:
        if process.host == host:
            for name in dict.fromkeys(name for name, _ in process.workers):
                for resource, amount in plan.kernels[name].resources.items():
                    total[resource] = total.get(resource, 0) + amount
    return total


def start_cluster(
    plan: Plan,
    *,
    duration: float | None,
    grace: float,
    init: Callable[[], object] | None,
    address: str | None,
) -> Run:
    """Start a graph on the hosts that its kernels name; GraphError before anything is started."""
    ray = _ray()
    _connect(ray, address)
    plan, hosts = _placed(plan, _nodes(ray))
    if list(hosts) == [CALLING]:
        return Run(plan, duration=duration, grace=grace, init=init)
    for host in hosts:
        for _, edge, *_ in crossing(plan, host):
            if not edge.is_of_records:
                raise GraphError(
                    f"the edge {edge.label} > {edge.target} joins hosts, which have no windows "
                    "and no full='latest': put a kernel in front of it on the same host"
                )
    agents = _Agents(ray, plan, hosts)
    try:
        agents.greet()
        agents.load(packed((plan, init), elsewhere=True))
        return ClusterRun(plan, agents, hosts, duration=duration, grace=grace, init=init)
    except BaseException:
        agents.dismiss()
        raise


class _Agents:
    """The agents of a run, one on each host except for the calling one."""

    def __init__(self, ray: Any, plan: Plan, hosts: Mapping[str, _Node]) -> None:
        self._ray = ray
        self._of: dict[str, Any] = {}
        self._wanted = {host: _resources(plan, host) for host in hosts if host != CALLING}
        for host, wanted in self._wanted.items():
            has = hosts[host].resources
            if lacking := [what for what in wanted if has.get(what, 0) < wanted[what]]:
                raise GraphError(
                    f"{named(host)} has not enough {' and '.join(lacking)}: the graph needs "
                    f"{wanted} there, and it has {dict(has)}"
                )
        for host, wanted in self._wanted.items():
            self._of[host] = self._started(hosts[host], dict(wanted))

    @property
    def hosts(self) -> list[str]:
        """Their hosts."""
        return list(self._of)

    def _started(self, node: _Node, wanted: dict[str, float]) -> Any:
        schedule = importlib.import_module("ray.util.scheduling_strategies")
        return (
            self._ray.remote(Agent)
            .options(
                num_cpus=wanted.pop("CPU", 0),
                num_gpus=wanted.pop("GPU", 0),
                memory=wanted.pop("memory", 0),
                resources=wanted,
                scheduling_strategy=schedule.NodeAffinitySchedulingStrategy(node.id, soft=False),
                max_concurrency=16,
                # While a host cannot be reached, calls are repeated until it is back or given up.
                max_task_retries=-1,
            )
            .remote()
        )

    def greet(self) -> None:
        """Wait until all have started; GraphError if one cannot."""
        versions = {host: agent.version.remote() for host, agent in self._of.items()}
        for host, version in versions.items():
            try:
                found = self._ray.get(version, timeout=_PLACING)
            except self._ray.exceptions.GetTimeoutError:
                raise GraphError(
                    f"{named(host)} has not started an agent within {_PLACING:g} s; what it needs "
                    f"there may be in use: {self._wanted[host] or 'nothing'}"
                ) from None
            except self._ray.exceptions.RayError as error:
                raise GraphError(f"no agent could be started on {named(host)}: {error}") from error
            if found != version_here():
                raise GraphError(f"{named(host)} has ipcheap {found}, not {version_here()}")

    def load(self, load: bytes) -> None:
        """Have all load the graph; GraphError if one cannot."""
        calls = {host: agent.load.remote(load, host) for host, agent in self._of.items()}
        for host, call in calls.items():
            if (failed := self.result(host, call, _LOADING)) is not None:
                error = pickle.loads(failed)
                raise GraphError(f"{named(host)} cannot load the graph: {error}") from error

    def call(self, host: str, name: str, *args: Any) -> Any:
        """Begin a call of an agent; return what `results` and `ready` take."""
        return getattr(self._of[host], name).remote(*args)

    def tell_all(self, name: str) -> None:
        """Call all agents, and do not wait."""
        if self._ray.is_initialized():
            for host in self._of:
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self.call(host, name)

    def result(self, host: str, call: Any, timeout: float) -> Any:
        """Return the result of a call; HostLost if there is none in time, or never."""
        try:
            return self._ray.get(call, timeout=timeout)
        except self._ray.exceptions.GetTimeoutError as error:
            raise HostLost(
                f"{named(host)} is lost: it has not answered for {timeout:g} s", host
            ) from error
        except self._ray.exceptions.RayError as error:
            raise HostLost(f"{named(host)} is lost: its agent has died: {error}", host) from error

    def ready(self, calls: Iterable[Any], timeout: float) -> list[Any]:
        """Return those of several calls whose results have come."""
        return list(self._ray.wait(list(calls), num_returns=1, timeout=timeout)[0])

    def dismiss(self) -> None:
        """End them, and whatever they still run."""
        if self._ray.is_initialized():
            for agent in self._of.values():
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.kill(agent)


class ClusterRun(Part):
    """A graph that runs on several hosts: the part of the calling host, which leads the others.

    `pids()` are those on the calling host; `statistics()` has those of all hosts.
    """

    def __init__(
        self,
        plan: Plan,
        agents: _Agents,
        hosts: Mapping[str, _Node],
        *,
        duration: float | None,
        grace: float,
        init: Callable[[], object] | None,
    ) -> None:
        self._agents = agents
        self._nodes = hosts
        self._lasts_for = math.inf if duration is None else duration
        self._busy = {CALLING, *agents.hosts}  # hosts whose workers have not all begun
        self._left = set(agents.hosts)  # that have neither ended nor been lost
        self._last_seen: dict[str, Observed] = {}
        token = secrets.token_bytes(TOKEN_BYTES)
        super().__init__(
            plan, host=CALLING, address=hosts[CALLING].address, token=token, grace=grace, init=init
        )

    def stop(self) -> None:
        """End the sources and inputs; what is under way is still worked on."""
        super().stop()
        self._agents.tell_all("stop")

    # Inside -----------------------------------------------------------------------------------

    def _run(self) -> None:
        leader = threading.Thread(target=self._lead, name="graph hosts", daemon=True)
        leader.start()
        super()._run()
        leader.join()

    def _begun(self) -> None:
        self._busy.discard(CALLING)

    def _fail(self, error: BaseException) -> None:
        super()._fail(error)
        if error is self._error:
            self._agents.tell_all("abort")

    def _seen(self, ended: bool = False) -> Observed:
        calls = {} if ended else {host: self._agents.call(host, "seen") for host in self._left}
        for host, call in calls.items():
            with contextlib.suppress(HostLost):
                if (seen := self._agents.result(host, call, _SEEING)) is not None:
                    self._last_seen[host] = seen
        return together(self._plan, {CALLING: super()._seen(ended), **self._last_seen})

    def _lead(self) -> None:
        """Lead the agents until all have ended."""
        try:
            self._bring_together()
            self._listen()
        except BaseException as error:
            self._fail(error)
        finally:
            self._agents.dismiss()

    def _bring_together(self) -> None:
        """Have all agents begin, and connect their hosts."""
        addresses = {CALLING: (self._address, self.port)}
        calls: dict[str, Any] = {}
        for host in self._agents.hosts:
            address = self._nodes[host].address
            calls[host] = self._agents.call(host, "begin", host, address, self._token, self._grace)
        for host, call in calls.items():
            kind, data = self._agents.result(host, call, PATIENCE)
            if kind == "failed":
                raise pickle.loads(data)
            addresses[host] = self._nodes[host].address, data
        for host in calls:
            calls[host] = self._agents.call(host, "connect", addresses)
        self.connect(addresses)
        for host, call in calls.items():
            self._agents.result(host, call, PATIENCE)

    def _listen(self) -> None:
        """Act on what the agents tell."""
        heard = dict.fromkeys(self._agents.hosts, 0)
        calls = {self._agents.call(host, "hear", 0): host for host in heard}
        begun: float | None = None
        deadline: float | None = None
        while calls:
            for call in self._agents.ready(calls, _LOOK):
                host = calls.pop(call)
                if self._act(host, call):
                    heard[host] += 1
                    calls[self._agents.call(host, "hear", heard[host])] = host
            now = time.monotonic()
            if self._board.is_aborted:
                deadline = deadline or now + self._grace + 2 * _SEEING
                if now > deadline:
                    return
            elif begun is None and not self._busy:
                begun = now
            elif begun is not None and now >= begun + self._lasts_for:
                self._lasts_for = math.inf
                self.stop()

    def _act(self, host: str, call: Any) -> bool:
        """Act on an event; return whether there will be others."""
        try:
            kind, data = self._agents.result(host, call, PATIENCE)
        except HostLost as error:
            self._left = self._left - {host}
            self._fail(error)
            return False
        if kind == "begun":
            self._busy.discard(host)
        elif kind == "failed":
            self._fail(pickle.loads(data))
        else:
            self._last_seen[host] = data
            self._left = self._left - {host}
        return bool(kind != "ended")

"""The part of a run on one host: its own workers, and bridges to the other hosts."""

from __future__ import annotations

import time
from importlib import metadata
from typing import TYPE_CHECKING, Any

from .bridge import Listener, Sender
from .errors import HostLost
from .link import BridgeLost
from .plan import CALLING
from .runner import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from ipcheap import Heap

    from .board import Board
    from .plan import Edge, Plan

PATIENCE = 20.0  # seconds without a connection, after which a host is lost
_LOOK = 0.1  # seconds between looks whether the graph is aborted


def version_here() -> str:
    """Return the version of ipcheap on this host."""
    return metadata.version("ipcheap")


def named(host: str) -> str:
    """Return how messages name a host."""
    return f"host {host!r}" if host != CALLING else "the host of the calling program"


def crossing(plan: Plan, host: str) -> Iterator[tuple[str, Edge, str, str]]:
    """Yield the channels between a host and others: ID, edge, sending and receiving host."""
    for edge in plan.edges:
        for u in range(edge.senders):
            for v in edge.receivers_of(u):
                ends = plan.host_of(edge.source, u), plan.host_of(edge.target, v)
                if host in ends and ends[0] != ends[1]:
                    yield edge.channel(u, v), edge, *ends


class Bridges:
    """All bridges of one host. `port` is where those to it are accepted, 0 if there are none."""

    def __init__(
        self,
        plan: Plan,
        host: str,
        heap: Heap,
        board: Board,
        address: str,
        token: bytes,
        lost: Callable[[BaseException, str], object],
    ) -> None:
        self._heap = heap
        self._board = board
        self._token = token
        self._others: dict[str, str] = {}  # by channel
        self._out: dict[str, Edge] = {}
        self._senders: list[Sender] = []
        self._listener: Listener | None = None
        self._is_closed = False
        self._tell = lost
        self.port: int = 0
        into: list[str] = []
        for channel, edge, source, target in crossing(plan, host):
            self._others[channel] = target if source == host else source
            if source == host:
                self._out[channel] = edge
            else:
                into.append(channel)
        if into:
            self._listener = Listener(address, token, self._lost, PATIENCE)
            self.port = self._listener.port
            for channel in into:
                self._listener.receive(heap, channel)

    def connect(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """Begin to send; `addresses` has the address and port of each host."""
        for channel, edge in self._out.items():
            if self._is_closed:
                return
            address, port = addresses[self._others[channel]]
            sender = Sender(
                self._heap,
                channel,
                address,
                port,
                self._token,
                self._lost,
                PATIENCE,
                self._end_of(edge),
            )
            self._senders.append(sender)
            sender.start()
        self._out = {}

    def join(self, timeout: float) -> bool:
        """Wait for the ends of all bridges; return whether they have come."""
        deadline = time.monotonic() + timeout
        if self._out and not self._is_closed:
            time.sleep(timeout)
            return False
        ends: list[Sender | Listener] = list(self._senders)
        if self._listener is not None:
            ends.append(self._listener)
        return all(end.join(max(0.0, deadline - time.monotonic())) for end in ends)

    def close(self) -> None:
        """Abort the bridges that have not ended, and accept no more connections."""
        self._is_closed = True
        for sender in self._senders:
            sender.close()
        if self._listener is not None:
            self._listener.close()

    def _end_of(self, edge: Edge) -> Callable[[], bool] | None:
        """Return what tells that an edge has ended although its sender may not have closed it."""
        return (lambda: self._board.is_closed(edge.source)) if edge.is_fed else None

    def _lost(self, channel: str, error: BaseException) -> None:
        self._tell(error, self._others.get(channel, CALLING))


class Part(Run):
    """The run of one host.

    `address` is that of this host in the network of the others, and `token` is known to all parts
    of the run. `connect()` has to follow within the patience of the bridges.
    """

    def __init__(
        self, plan: Plan, *, host: str, address: str, token: bytes, grace: float, init: Any
    ) -> None:
        self._address = address
        self._token = token
        super().__init__(plan, grace=grace, init=init, host=host)

    @property
    def port(self) -> int:
        """Where the bridges to this host are accepted."""
        return self._bridges.port

    def connect(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """Begin to send to other hosts; `addresses` has the address and port of each."""
        self._bridges.connect(addresses)

    def _begin(self) -> None:
        self._bridges = Bridges(
            self._plan, self._host, self.heap, self._board, self._address, self._token, self._lost
        )
        super()._begin()

    def _run(self) -> None:
        if not self._watch.workers:
            self._begun()
        super()._run()
        deadline: float | None = None
        while not self._bridges.join(_LOOK):
            if self._board.is_aborted:
                self._bridges.close()
                deadline = deadline or time.monotonic() + self._grace
                if time.monotonic() > deadline:
                    return

    def _lost(self, error: BaseException, host: str) -> None:
        if isinstance(error, BridgeLost):
            lost = HostLost(f"{named(host)} is lost: {error}", host)
            lost.__cause__ = error
            self._fail(lost)
        else:
            error.add_note(f"In a bridge to {named(host)}.")
            self._fail(error)

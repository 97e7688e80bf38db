"""How a graph can fail. The error of a kernel itself is raised unchanged."""

from __future__ import annotations

import errno as _errno

from ipcheap import Error


class GraphError(Error, ValueError):
    """The graph is not wired as it could run, or cannot be started here."""


class KernelDied(Error, ConnectionResetError):
    """A process of the graph died, and its work may not or cannot be repeated."""

    errno: int | None = _errno.ECONNRESET


class PoisonRecord(KernelDied):
    """The process of a kernel died three times over the same record."""


class HostLost(Error, ConnectionResetError):
    """A host of the graph is gone, and with it what its heap held.

    `host` is its name.
    """

    errno: int | None = _errno.ECONNRESET
    host: str

    def __init__(self, text: str, host: str = "") -> None:
        super().__init__(text)
        self.host = host

    def __reduce__(self) -> tuple[type[HostLost], tuple[str, str]]:
        return type(self), (str(self), self.host)


class GraphStopped(Error, RuntimeError):
    """The graph was aborted, or no longer takes what is sent to it."""

"""The agent of a host: the part of a run there, in a process that the cluster has started."""

from __future__ import annotations

import os
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING, Any

from .part import PATIENCE, Part, named, version_here
from .place import unpacked
from .process import portable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .statistics import Observed

Event = tuple[str, Any]


class Agent:
    """What the calling program asks of another host. Every call may be repeated.

    `hear(n)` returns the n-th event: ("begun", None) when all workers have claimed their channels,
    ("failed", exception) and, always last, ("ended", what was to be seen then).
    """

    def __init__(self) -> None:
        self._loaded: tuple[Any, Any] | None = None
        self._part: Part | None = None
        self._events: list[Event] = []
        self._news = threading.Condition()
        # New processes import the main module of this one, which is the cluster's own.
        sys.modules["__main__"] = ModuleType("__main__")

    def version(self) -> str:
        """Return the version of ipcheap on this host."""
        return version_here()

    def load(self, load: bytes, host: str) -> bytes | None:
        """Load a graph, and with it the modules of its kernels; return the exception, if any."""
        try:
            self._loaded = unpacked(load)
        except BaseException as error:
            return _portable(error, host)
        return None

    def begin(self, host: str, address: str, token: bytes, grace: float) -> Event:
        """Begin to run the graph; return ("port", port of the bridges) or ("failed", exception)."""
        try:
            if self._part is None:
                assert self._loaded is not None
                plan, init = self._loaded
                self._part = _Told(
                    plan,
                    host=host,
                    address=address,
                    token=token,
                    grace=grace,
                    init=init,
                    tell=self._tell,
                )
        except BaseException as error:
            return "failed", _portable(error, host)
        return "port", self._part.port

    def connect(self, addresses: Mapping[str, tuple[str, int]]) -> None:
        """Begin to send to other hosts."""
        assert self._part is not None
        self._part.connect(addresses)

    def hear(self, number: int) -> Event:
        """Return an event as soon as there is one of that number."""
        with self._news:
            self._news.wait_for(lambda: len(self._events) > number)
        return self._events[number]

    def seen(self) -> Observed | None:
        """Return what is to be seen of the graph on this host; None before it has begun."""
        return self._part._seen() if self._part is not None else None

    def stop(self) -> None:
        """End the sources and inputs."""
        if self._part is not None:
            self._part.stop()

    def abort(self) -> None:
        """End immediately."""
        if self._part is not None:
            self._part.abort()

    def _tell(self, kind: str, data: Any) -> None:
        with self._news:
            self._events.append((kind, data))
            self._news.notify_all()


class _Told(Part):
    """A part that tells its agent what happens."""

    def __init__(self, *of: Any, tell: Any, **how: Any) -> None:
        self._tell = tell
        super().__init__(*of, **how)

    def _begun(self) -> None:
        self._tell("begun", None)

    def _fail(self, error: BaseException) -> None:
        super()._fail(error)
        if error is self._error:
            self._tell("failed", _portable(error, self._host))

    def _end(self) -> None:
        seen = self._seen(ended=True)
        super()._end()
        self._tell("ended", seen)
        if self._error is not None:
            # The calling program ends this process, unless this host is cut off.
            exit_ = threading.Timer(PATIENCE, os._exit, [1])
            exit_.daemon = True
            exit_.start()


def _portable(error: BaseException, host: str) -> bytes:
    error.add_note(f"On {named(host)}.")
    return portable(error)

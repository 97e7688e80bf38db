"""A program on a host of a cluster, which does what a test tells it.

It reads pickles of (function, arguments) and answers ("returned", value) or ("raised", exception).
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hosts import Host

LOCAL = "local"  # a cluster of three nodes on this machine, which the program starts itself
_TESTS = str(Path(__file__).parent)


class Caller:
    """The program, seen from the test."""

    def __init__(self, host: Host | None, address: str, log: Path) -> None:
        command = [sys.executable, __file__, address]
        popen: Any = subprocess.Popen if host is None else host.popen
        # A descriptor of its own for the answers: kernels print.
        read, write = os.pipe()
        with log.open("wb") as into:
            self.process: subprocess.Popen[bytes] = popen(
                [*command, str(write)],
                stdin=subprocess.PIPE,
                stdout=into,
                stderr=into,
                pass_fds=[write],
                env={**os.environ, "PYTHONPATH": _TESTS, "RAY_AUTH_MODE": "disabled"},
            )
        os.close(write)
        self._answers: IO[bytes] = os.fdopen(read, "rb")

    def tell(self, name: str, *args: Any, **how: Any) -> None:
        """Have it call a function of cluster_cases."""
        assert self.process.stdin is not None
        pickle.dump((name, args, how), self.process.stdin)
        self.process.stdin.flush()

    def hear(self) -> Any:
        """Return what the function has returned, or raise what it has raised."""
        kind, value = pickle.load(self._answers)
        if kind == "raised":
            raise value
        return value

    def call(self, name: str, *args: Any, **how: Any) -> Any:
        """Call a function of cluster_cases."""
        self.tell(name, *args, **how)
        return self.hear()

    def end(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._answers.close()


def _start_nodes() -> str:
    cluster = importlib.import_module("ray.cluster_utils").Cluster()
    for name in ("here", "left", "right"):
        cluster.add_node(
            num_cpus=1,
            object_store_memory=80_000_000,
            labels={"ipcheap.host": name},
            include_dashboard=False,
        )
    _clusters.append(cluster)
    return str(cluster.address)


_clusters: list[Any] = []


def _main() -> None:
    ray: Any = importlib.import_module("ray")
    address, answers = sys.argv[1], os.fdopen(int(sys.argv[2]), "wb")
    os.set_inheritable(answers.fileno(), False)
    if address == LOCAL:
        address = _start_nodes()
    deadline = time.monotonic() + 60
    while not ray.is_initialized():
        try:
            ray.init(address=address, logging_level="warning")
        except ConnectionError:  # its node is not ready yet
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
    cases = importlib.import_module("cluster_cases")
    assert threading.current_thread() is threading.main_thread()
    while True:
        try:
            name, args, how = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = "returned", getattr(cases, name)(*args, **how)
        except BaseException as error:
            answer = "raised", error
        try:
            data = pickle.dumps(answer)
            pickle.loads(data)
        except Exception as error:
            data = pickle.dumps(("raised", RuntimeError(f"{answer!r} does not pickle: {error}")))
        answers.write(data)
        answers.flush()


if __name__ == "__main__":
    _main()

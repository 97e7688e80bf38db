"""Hosts for tests of several machines: network namespaces, each with its own /dev/shm.

Nothing of them has a name outside of them: when their processes have ended, they are gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

_NETWORK = "10.77.0"
_PORT = 6379
_STORE = 80_000_000


def why_not() -> str | None:
    """Return why there can be no hosts here; None if there can be."""
    try:
        with Network(["probe"]) as network:
            network.hosts["probe"].run(["true"])
    except (OSError, subprocess.SubprocessError, TimeoutError) as error:
        return f"no network namespaces: {error}"
    return None


class Host:
    """A network namespace with its own hostname, /dev/shm and /tmp/ray."""

    def __init__(self, name: str, address: str) -> None:
        self.name = name
        self.address = address
        # It lives as long as its holder, or any other process in it.
        script = (
            "mount -t tmpfs -o size=512m tmpfs /dev/shm; mkdir -p /tmp/ray; "
            f"mount -t tmpfs tmpfs /tmp/ray; hostname {name}; ip link set lo up; echo ready; "
            "exec setpriv --pdeathsig KILL sleep infinity"
        )
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--uts", "sh", "-e", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert self.holder.stdout is not None
        if self.holder.stdout.readline() != b"ready\n":
            said = self.holder.communicate()[1].decode().strip()
            raise OSError(said or "unshare failed")
        self.space = os.stat(f"/proc/{self.holder.pid}/ns/net").st_ino

    def inside(self, command: list[str]) -> list[str]:
        """Return the command that runs a command on this host."""
        spaces = ("--net", "--mount", "--uts", "--wdns=/")
        # A token of Ray in the user's home would be for other clusters than this one.
        environment = ("env", "RAY_AUTH_MODE=disabled")
        return ["nsenter", f"--target={self.holder.pid}", *spaces, *environment, *command]

    def run(self, command: list[str]) -> str:
        """Run a command on this host, and return its output."""
        done = subprocess.run(
            self.inside(command), capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def popen(self, command: list[str], **how: Any) -> subprocess.Popen[Any]:
        """Start a process on this host, which ends with this one."""
        return subprocess.Popen(self.inside(["setpriv", "--pdeathsig", "KILL", *command]), **how)

    def pids(self) -> list[int]:
        """Return the ids of all processes on this host, except for its holder."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.holder.pid:
                try:
                    space = os.stat(entry / "ns/net").st_ino
                    ended = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                except OSError:
                    continue
                if space == self.space and not ended:
                    found.append(int(entry.name))
        return found

    def kill(self) -> None:
        """End the host as if its power had failed: all its processes are killed."""
        deadline = time.monotonic() + 20
        while pids := self.pids():
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {pids} of host {self.name} do not end")
            time.sleep(0.02)

    def end(self) -> None:
        """End all processes, and the holder."""
        self.kill()
        self.holder.kill()
        self.holder.wait()
        for pipe in (self.holder.stdout, self.holder.stderr):
            if pipe is not None:
                pipe.close()


class Network:
    """Hosts that reach each other through a switch; 10.77.0.1 is the first."""

    def __init__(self, names: list[str]) -> None:
        self.hosts: dict[str, Host] = {}
        self._switch: Host | None = None
        self._names = names

    def __enter__(self) -> Self:
        try:
            self._switch = Host("switch", "")
            self._switch.run(["ip", "link", "add", "switch", "type", "bridge"])
            self._switch.run(["ip", "link", "set", "switch", "up"])
            for n, name in enumerate(self._names, 1):
                self.add(name, n)
        except BaseException:
            self.end()
            raise
        return self

    def add(self, name: str, number: int) -> Host:
        """Connect another host."""
        assert self._switch is not None
        host = self.hosts[name] = Host(name, f"{_NETWORK}.{number}")
        port = f"port{number}"
        peer = ["peer", "name", "eth0", "netns", str(host.holder.pid)]
        self._switch.run(["ip", "link", "add", port, "type", "veth", *peer])
        self._switch.run(["ip", "link", "set", port, "master", "switch", "up"])
        host.run(["ip", "addr", "add", f"{host.address}/24", "dev", "eth0"])
        host.run(["ip", "link", "set", "eth0", "up"])
        return host

    def cut(self, host: Host, down: bool = True) -> None:
        """Pull the plug of a host, or put it in again."""
        assert self._switch is not None
        port = f"port{host.address.rpartition('.')[2]}"
        self._switch.run(["ip", "link", "set", port, "down" if down else "up"])

    def end(self) -> None:
        """End all hosts."""
        for host in [*self.hosts.values(), *([self._switch] if self._switch else [])]:
            host.end()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.end()


def start_ray(host: Host, head: Host, log: Path, *options: str) -> subprocess.Popen[Any]:
    """Start the node of a host, without waiting for it."""
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
    if host is head:
        where = ["--head", f"--port={_PORT}", "--include-dashboard=false"]
    else:
        where = [f"--address={head.address}:{_PORT}"]
    common = [
        f"--node-ip-address={host.address}",
        "--num-cpus=1",
        f"--object-store-memory={_STORE}",
        "--disable-usage-stats",
    ]
    with log.open("wb") as into:
        return host.popen([*ray, *where, *common, *options], stdout=into, stderr=into)

"""The machine: what it is, how busy other processes keep it, how far apart its two cores are."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
TICK = os.sysconf("SC_CLK_TCK")

# A run is disturbed if other processes (OTHERS) or the hypervisor (STOLEN) took more than this part
# of one core, or if a cache line took more than FAR times its usual round trip.
OTHERS = 0.10
STOLEN = 0.02
FAR = 2.0
FAR_APART = "cores far apart"


def cores():
    """Return the two cores that runs are pinned to."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[min(1, len(allowed) - 1)]


def describe():
    """Return what a reader of the results needs to know about the machine."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "used_cores": list(cores()),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "virtual": _virtual(),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "unknown",
        "kernel": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "compiler": _compiler(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": version("numpy"),
    }


def version(distribution):
    """Return the version of a distribution, None if it is not installed."""
    if distribution is None:
        return platform.python_version()
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


class Watch:
    """Measures the load from other processes, from its creation to `stop`."""

    def __init__(self):
        self.began = time.monotonic()
        self.own = _children()
        self.before = _ticks()

    @property
    def seconds(self):
        """The seconds since its creation."""
        return time.monotonic() - self.began

    def stop(self):
        """Return what other processes used and what the hypervisor took, as parts of one core."""
        now, wall_seconds = _ticks(), self.seconds
        busy = (now["busy"] - self.before["busy"]) / TICK
        stolen = (now["stolen"] - self.before["stolen"]) / TICK
        # The kernel counts in ticks: up to two of them are rounding.
        others = max(0.0, busy - (_children() - self.own) - 2 / TICK)
        stolen = max(0.0, stolen - 1 / TICK)
        return {
            "others": round(others / wall_seconds, 3),
            "stolen": round(stolen / wall_seconds, 3),
        }


def build(name, sources, options):
    """Compile the C files of the sources, once; return the path and None, or None and why not."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return None, "no C compiler"
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"ipcheap-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    built = folder / f"{name}-{digest}"
    if not built.exists():
        fresh = folder / f"{name}-{os.getpid()}"
        files = [source for source in sources if source.suffix == ".c"]
        done = subprocess.run(
            [compiler, *options, "-o", fresh, *files], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return None, f"the compiler failed: {done.stderr[:200]}"
        fresh.replace(built)
    return built, None


class CacheLine:
    """The cache-line probe, compiled on first use; without a compiler it returns None."""

    def __init__(self):
        self.program = None
        self.why = None
        if len(os.sched_getaffinity(0)) < 2:
            self.why = "only one core"
        else:
            self.program, self.why = build(
                "cache_line", (FOLDER / "cache_line.c",), ("-O2", "-pthread")
            )

    def __call__(self):
        """Return the round trip in nanoseconds, None if it cannot be measured."""
        if self.program is None:
            return None
        try:
            done = subprocess.run(
                [self.program, *map(str, cores())],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None
        return float(done.stdout) if done.returncode == 0 else None


def complaints(load):
    """Return the reasons why a load counts as a disturbance."""
    why = []
    if load["others"] > OTHERS:
        why.append(f"other processes used {load['others']:.0%} of a core")
    if load["stolen"] > STOLEN:
        why.append(f"{load['stolen']:.0%} of a core was stolen by the hypervisor")
    return why


def timestamp():
    """Return the current time, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def mark(runs):
    """Mark each run with why it is disturbed; return the usual round trip of a cache line."""
    lines = sorted(line for run in runs for line in run["line_ns"] if line is not None)
    usual = lines[len(lines) // 10] if lines else None
    for run in runs:
        why = complaints(run["load"])
        far = max((line for line in run["line_ns"] if line is not None), default=0)
        if usual and far > FAR * usual:
            why.append(f"{FAR_APART}: {far:.0f} ns, usually {usual:.0f}")
        run["disturbed"] = why
    return usual


def _children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ticks():
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return {"busy": user + nice + system + irq + softirq, "stolen": steal}


def _text(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _processor():
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        if line.startswith(("model name", "Model", "CPU part")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _virtual():
    flags = _text("/proc/cpuinfo") or ""
    name = _text("/sys/class/dmi/id/sys_vendor") or ""
    return f"yes {name}".strip() if " hypervisor" in flags else "no"


def _compiler():
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        return "none"
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["unknown"])[0]


if __name__ == "__main__":
    probe = CacheLine()
    sys.exit(print(describe(), probe.why or f"{probe()} ns", sep="\n"))

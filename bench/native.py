"""The C library's own benchmarks: finds and runs them, and parses their output."""

from __future__ import annotations

import re
import subprocess

import machine

# "what it is      12.3 ns   1.05 x of what"; a line without a name continues the line before.
LINE = re.compile(
    r"^(?P<what>.*?)\s+(?P<value>[\d.]+) (?P<unit>ns|instructions)"
    r"(?:\s+(?P<ratio>[\d.]+) x (?P<of>.+))?$"
)
PROGRAMS = ("bench_records", "bench_heap", "bench_streams", "bench_store", "bench_bus")


def run(folder, quick):
    """Return the lines {name: {"ns": …, "ratios": {floor: …}}}, what is missing, and the load.

    A line has "instructions" instead of "ns" if these were counted.
    """
    lines, missing = {}, []
    watch = machine.Watch()
    limit = 60 if quick else 600  # seconds
    for name in PROGRAMS:
        program = folder / name
        if not program.exists():
            missing.append(f"{name}: not built")
            continue
        command = [program, "3" if quick else "9"]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=limit, check=False
            )
        except subprocess.TimeoutExpired:
            missing.append(f"{name}: stuck")
            continue
        if done.returncode:
            missing.append(f"{name}: ended with {done.returncode}: {done.stderr[-200:]}")
        lines.update(read(done.stdout))
    load = watch.stop()
    disturbed = machine.complaints(load) if lines else []
    return {
        "created": machine.timestamp(),
        "lines": lines,
        "missing": missing,
        "load": load,
        "disturbed": disturbed,
    }


def read(text):
    """Return the figures of a program's output by name."""
    lines = {}
    last = None
    for line in text.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        if match["what"]:
            figure = {match["unit"]: float(match["value"])}
            last = lines.setdefault(match["what"], figure | {"ratios": {}})
        if match["ratio"] and last is not None:
            last["ratios"][match["of"]] = float(match["ratio"])
    return lines

"""Compare ipcheap with its alternatives: the same work, in one run, in one report.

    python bench/compare.py                        # everything: about an hour
    python bench/compare.py --quick                # one short repetition each: six minutes
    python bench/compare.py --only records-64,frames --peers ipcheap,os-pipe
    python bench/compare.py --only 'stream-*'

The report names the peers that are not installed; `pip install '.[bench]'` installs all of
them. The C library's own benchmarks are included if they have been built (`cmake --preset
release && cmake --build --preset release`). The results are results.json, results.md and plots
(SVG) in --output. docs/benchmarks.md explains how everything is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import claims
import machine
import peers
import report
import workloads
from workloads.workload import NOT_FOR_IT

import native

FOLDER = Path(__file__).resolve().parent
SCHEMA = 1
PATIENCE = 20.0  # seconds that a run may take in addition to what it measures
LONGEST = 15  # the longest workload measures this many times --seconds
AGAIN = 2  # a close call is repeated this many times --repetitions again
PAUSE = 0.5  # seconds between two looks at how far apart the cores are


def main(arguments=None):
    options = parse(arguments)
    if options.native_only:
        return measure_native(options)
    found = {key: look_up(key) for key in options.peers}
    for key, about in found.items():
        if about["missing"]:
            print(f"{key}: not installed: {about['missing']}", file=sys.stderr)
    document = {
        "schema": SCHEMA,
        "created": machine.timestamp(),
        "machine": machine.describe(),
        "settings": {
            "quick": options.quick,
            "repetitions": options.repetitions,
            "seconds": options.seconds,
        },
        "peers": found,
        "workloads": {key: describe(workloads.ALL[key]) for key in options.only},
    }
    begin = time.monotonic()
    here = [key for key, about in found.items() if not about["missing"]]
    runs = document["runs"] = []
    cores = Cores(options.line, options.wait)
    runs += measure(dict.fromkeys(options.only, here), options.repetitions, options.seconds, cores)
    if not options.quick:
        machine.mark(runs)
        close = claims.close_calls(report.Medians(document))
        runs += measure(close, AGAIN * options.repetitions, options.seconds, cores)
    document["machine"]["cache_line_ns"] = machine.mark(runs)
    document["native"] = {} if options.no_native else native.run(options.native, options.quick)
    document["took_seconds"] = round(time.monotonic() - begin)
    conclude(document, options.output)
    failed = [run for run in document["runs"] if run.get("error")]
    return 1 if any(run["peer"] == "ipcheap" for run in failed) else 0


def measure_native(options):
    """Replace the section of the C library in existing results."""
    place = options.output / "results.json"
    try:
        document = json.loads(place.read_text())
    except OSError as error:
        print(f"{place}: {error.strerror}: there are no results yet", file=sys.stderr)
        return 2
    document["native"] = native.run(options.native, options.quick)
    conclude(document, options.output)
    return 0


def conclude(document, folder):
    """Judge the claims and write all results."""
    document["claims"] = claims.judge(report.Medians(document), document["native"])
    folder.mkdir(parents=True, exist_ok=True)
    report.write(document, folder)
    print(f"wrote {folder / 'results.md'}", file=sys.stderr)


def parse(arguments):
    """Return the options; the names of peers and workloads are checked."""
    parser = argparse.ArgumentParser(
        prog="compare.py",
        description=__doc__,
        epilog=f"workloads: {', '.join(workloads.ALL)}\n\npeers: {', '.join(peers.KNOWN)}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def names(known):
        def split(text):
            chosen = []
            for pattern in filter(None, text.split(",")):
                found = fnmatch.filter(known, pattern)
                if not found:
                    raise argparse.ArgumentTypeError(f"no {pattern!r} in {', '.join(known)}")
                chosen += found
            return list(dict.fromkeys(chosen))

        return split

    parser.add_argument("--quick", action="store_true", help="one short, provisional repetition")
    parser.add_argument(
        "--only", metavar="WORKLOAD,...", type=names(workloads.ALL), default=list(workloads.ALL)
    )
    parser.add_argument(
        "--peers", metavar="PEER,...", type=names(peers.KNOWN), default=list(peers.KNOWN)
    )
    parser.add_argument("--repetitions", metavar="N", type=int, help="5 by default, 1 with --quick")
    parser.add_argument("--seconds", metavar="S", type=float, help="how long each run measures")
    parser.add_argument(
        "--line",
        metavar="LOW-HIGH",
        type=span,
        help="keep only runs in which the cores were this far apart: a cache line's round trip, ns",
    )
    parser.add_argument(
        "--wait",
        metavar="S",
        type=float,
        default=1800.0,
        help="how long to wait for such cores in all, 1800 by default",
    )
    parser.add_argument("--output", metavar="DIR", type=Path, default=Path("bench-results"))
    parser.add_argument(
        "--native",
        metavar="DIR",
        type=Path,
        default=FOLDER.parent / "build" / "release" / "native" / "bench",
        help="where the native benchmarks were built",
    )
    parser.add_argument("--no-native", action="store_true", help="omit the native benchmarks")
    parser.add_argument(
        "--native-only",
        action="store_true",
        help="repeat only the native benchmarks, for the results in --output",
    )
    options = parser.parse_args(arguments)
    options.repetitions = options.repetitions or (1 if options.quick else 5)
    options.seconds = options.seconds or (0.1 if options.quick else 0.6)
    return options


def span(text):
    """Return the two numbers of LOW-HIGH."""
    low, _, high = text.partition("-")
    try:
        return float(low), float(high)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW-HIGH, in nanoseconds") from None


def look_up(key):
    """Return the title and version of a peer, or why it is missing."""
    try:
        peer = peers.load(key)
    except ImportError as error:
        return {"title": key, "version": None, "missing": str(error)}
    version = peer.version or machine.version(peer.package)
    return {"title": peer.title, "version": version, "missing": None}


def describe(workload):
    """Return what the report needs to know about a workload."""
    return {
        "title": workload.title,
        "about": " ".join((type(workload).__doc__ or "").split()),
        "figures": [vars(figure) for figure in workload.figures],
        "peers": [key for key in peers.KNOWN if workload.is_for(key)],
    }


class Cores:
    """How far apart the cores are, and which of these distances count.

    The host of a virtual machine moves its cores: now they share a cache, now they do not.
    """

    def __init__(self, wanted, patience):
        self.wanted = wanted
        self.patience = patience  # seconds left
        self.probe = machine.CacheLine()
        if self.probe.why:
            print(f"no cache-line probe: {self.probe.why}", file=sys.stderr)

    def suit(self, line):
        """Return whether a run with this round trip counts."""
        if self.wanted is None or line is None or self.patience <= 0:
            return True
        return self.wanted[0] <= line <= self.wanted[1]

    def wait(self, line):
        """Return the round trip once it is wanted, or once the patience has ended."""
        while not self.suit(line):
            time.sleep(PAUSE)
            self.patience -= PAUSE
            line = self.probe()
        return line


def measure(plan, repetitions, seconds, cores):
    """Yield the runs: a workload with all peers, then the next workload, then repeat."""
    unsuited = {}
    line = cores.probe()
    for repetition in range(repetitions):
        for name, here in plan.items():
            for key in here:
                if (name, key) in unsuited or not workloads.ALL[name].is_for(key):
                    continue
                about = {"workload": name, "peer": key, "repetition": repetition}
                run = about | run_between(key, name, seconds, cores, line)
                line = run["line_ns"][1]
                if "unsuited" in run:
                    unsuited[name, key] = run["unsuited"]
                    if run["unsuited"] == NOT_FOR_IT:
                        continue
                say(run, repetitions)
                yield run


def run_between(key, name, seconds, cores, line):
    """Run once, between two looks at the cores; again if they were not as far apart as wanted."""
    while True:
        line = cores.wait(line)
        run = one(key, name, seconds)
        after = line if "unsuited" in run else cores.probe()
        if cores.suit(after):
            return run | {"line_ns": [line, after]}
        line = after


def one(key, name, seconds):
    """Start one run, wait for it, and return its figures or its error, with the load."""
    order = json.dumps({"peer": key, "workload": name, "seconds": seconds})
    watch = machine.Watch()
    process = subprocess.Popen(
        [sys.executable, FOLDER / "run.py", order],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds * LONGEST + PATIENCE)
        result = outcome(out, err, process.returncode)
    except subprocess.TimeoutExpired as late:
        end(process)
        result = {"error": f"stuck: killed after {late.timeout:.0f} s"}
    except BaseException:  # Ctrl-C does not reach the run, which has a session of its own
        end(process)
        raise
    return {**result, "seconds": round(watch.seconds, 2), "load": watch.stop()}


def outcome(out, err, code):
    """Return what a run printed, or its stderr as the error if it printed nothing."""
    lines = out.strip().splitlines()
    if lines:
        with contextlib.suppress(json.JSONDecodeError):
            return json.loads(lines[-1])
    return {"error": f"ended with {code}: {err.strip()[-500:]}"}


def end(process):
    """Kill a run and the processes that it started: they are a process group of their own."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            if signum == signal.SIGTERM:
                process.terminate()  # it cleans up and ends its processes
            else:
                os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=5)


def say(run, repetitions):
    """Print one line about a run."""
    if "figures" in run:
        first = workloads.ALL[run["workload"]].figures[0]
        text = f"{run['figures'][first.key]:,.4g} {first.unit}"
    else:
        text = run.get("unsuited") or "FAILED: " + run["error"].splitlines()[0]
    count = f"{run['repetition'] + 1}/{repetitions}"
    print(f"{count} {run['workload']:20} {run['peer']:18} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())

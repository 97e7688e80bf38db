"""All commands except `bus` and `run`: a demonstration, and tools for the heaps of this machine."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import importlib.metadata
import json
import os
import signal
import stat
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import ipcheap
from ipcheap import sizes
from ipcheap.tools import completion, demo, doctor, leaks, run, who
from ipcheap.tools.screen import (
    exit_code_of,
    fail,
    human_age,
    natural,
    positive_seconds,
    positive_size,
    print_table,
    printable,
    progress_bar,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# demo -----------------------------------------------------------------------------------


def _terminated(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def run_demo(arguments: argparse.Namespace) -> int:
    """Run the demonstration and print its result."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    for path in arguments.path:
        if not path.exists():
            fail(f"{path}: no such file or directory")
    given = demo.files_below(arguments.path) if arguments.path else demo.standard_library()
    sources, skipped = demo.survey(given)
    if arguments.records and not sources:
        fail("the given files contain no text to send")
    plan = demo.Plan(sources, arguments.chunk, arguments.records)
    by_records = plan.records is not None
    total = plan.nbytes if plan.records is None else plan.records
    with demo.temporary_heap(
        arguments.name, arguments.capacity, arguments.shm, arguments.sem
    ) as heap:
        with progress_bar("counting words", total, by_records=by_records) as progress:
            result = demo.run(heap, plan, progress)
        facts = {
            "heap": heap.name,
            "shm": heap.shm,
            "sem": heap.sem,
            "capacity": heap.capacity,
            "chunk": plan.chunk,
        }
    facts |= {"files": len(sources), "skipped": skipped}
    (_tell_as_json if arguments.json else _tell)(result, facts, arguments.top)
    return 0 if result.agree and result.empty else 1


def _tell(result: demo.Result, facts: dict[str, Any], top: int) -> None:
    if top and result.counts:
        rows = [(printable(w), f"{n:,}") for w, n in result.counts.most_common(top)]
        print_table(("word", "count"), rows, "lr")
        print()
    seconds = max(result.seconds, 1e-9)
    skipped = f" ({facts['skipped']:,} skipped)" if facts["skipped"] else ""
    print(
        f"heap    {facts['heap'] or 'without a name'}: {sizes.show(facts['capacity'])}, "
        f"{facts['shm']} shared memory, {facts['sem']} waits"
    )
    print(
        f"input   {facts['files']:,} files{skipped}, {result.nbytes / 1e6:.1f} MB "
        f"in {result.records:,} records of up to {sizes.show(facts['chunk'])}"
    )
    print(
        f"speed   {result.seconds:.2f} s: {result.records / seconds:,.0f} records/s, "
        f"{result.nbytes / 1e6 / seconds:,.1f} MB/s"
    )
    before, after = result.in_use_before, result.in_use_after
    verdict = "nothing left" if result.empty else f"{after - before:,} LEFT BEHIND"
    print(f"in use  {before:,} bytes before, {after:,} after: {verdict}")
    words = f"{result.counts.total():,} words, {len(result.counts):,} different"
    if result.agree:
        print(f"counts agree: {words}")
    else:
        print(f"counts DO NOT AGREE with those of a single process: {words}")


def _tell_as_json(result: demo.Result, facts: dict[str, Any], top: int) -> None:
    seconds = max(result.seconds, 1e-9)
    facts |= {
        "records": result.records,
        "bytes": result.nbytes,
        "seconds": result.seconds,
        "records_per_second": result.records / seconds,
        "megabytes_per_second": result.nbytes / 1e6 / seconds,
        "words": result.counts.total(),
        "different_words": len(result.counts),
        "top": [[word.decode("ascii"), n] for word, n in result.counts.most_common(top)],
        "in_use_before": result.in_use_before,
        "in_use_after": result.in_use_after,
        "counts_agree": result.agree,
    }
    print(json.dumps(facts, indent=2))


# ls and rm ------------------------------------------------------------------------------


def list_heaps(arguments: argparse.Namespace) -> int:
    """List the heaps of this machine."""
    heaps = sorted(ipcheap.heaps(), key=lambda heap: heap.name)
    if arguments.json:
        print(json.dumps([_facts(heap) for heap in heaps], indent=2))
        return 0
    heads = ("name", "shm", "sem", "capacity", "committed", "used by", "mode", "owner", "age", "")
    rows = [
        (
            heap.name,
            heap.shm,
            heap.sem,
            sizes.show(heap.capacity),
            sizes.show(heap.committed),
            "inherited" if heap.open and not heap.participants else str(heap.participants),
            f"{stat.S_IMODE(heap.mode):04o}",
            doctor.owner_of(heap),
            human_age(time.time() - heap.created) if heap.created else "",
            "stale" if heap.stale else "",
        )
        for heap in heaps
    ]
    if rows:
        print_table(heads, rows, "lllrrrllrl")
    elif sys.stdout.isatty():
        print("no heaps")
    return 0


def _facts(heap: ipcheap.HeapInfo) -> dict[str, Any]:
    return dataclasses.asdict(heap) | {
        "path": os.fspath(heap.path),
        "created": datetime.datetime.fromtimestamp(heap.created, datetime.UTC).isoformat(),
    }


def remove_heaps(arguments: argparse.Namespace) -> int:
    """Remove heaps by name, or all that no process has open."""
    if not arguments.name and not arguments.stale:
        fail("which heap? Give names, or --stale for all heaps that no process has open")
    names = list(dict.fromkeys(arguments.name))
    stale: list[str] = []
    if arguments.stale:
        stale = sorted(heap.name for heap in ipcheap.heaps() if heap.stale)
    code = 0
    for name in dict.fromkeys(names + stale):
        try:
            with _warnings_on_stderr():
                (ipcheap.unlink if arguments.force else doctor.remove_unused)(name)
        except (ipcheap.HeapBusy, ipcheap.HeapNotFound) as error:
            if name not in names:
                continue  # a process has opened or removed it in the meantime
            missing = isinstance(error, ipcheap.HeapNotFound)
            text = f"there is no heap {name!r}" if missing else error
            print(f"ipcheap: {text}", file=sys.stderr)
            code = 1
        except (ipcheap.Error, OSError, ValueError) as error:
            print(f"ipcheap: {error}", file=sys.stderr)
            code = 1
        else:
            print(f"removed {name}")
    return code


@contextlib.contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    """Print warnings as this command's own messages."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                print(f"ipcheap: {warning.message}", file=sys.stderr)


# doctor ---------------------------------------------------------------------------------


def see_doctor(arguments: argparse.Namespace) -> int:
    """Examine heaps, and repair them with --repair."""
    others: list[str] = []
    names = list(dict.fromkeys(arguments.name))
    if not names:
        names, others = doctor.survey()
    with _warnings_on_stderr():
        seen = [doctor.examine(name, repair=arguments.repair) for name in names]
    code = max((heap.code for heap in seen), default=doctor.HEALTHY)
    if arguments.json:
        heaps = [doctor.as_json(heap) for heap in seen]
        print(json.dumps({"code": code, "heaps": heaps, "not ours": others}, indent=2))
        return code
    for heap in seen:
        _tell_findings(heap)
    for name in others:
        print(f"{name}: belongs to another user; you may not open it")
    if not seen and not others and sys.stdout.isatty():
        print("no heaps")
    return code


def _tell_findings(heap: doctor.Examination) -> None:
    print(f"{heap.name}: {doctor.verdict(heap)}")
    for finding in heap.findings:
        print(f"  {finding.what}: {finding.text}")
        if finding.remedy:
            print(f"    {finding.remedy}")
    if heap.recovery is not None:
        print(f"  {doctor.recovery_text(heap.recovery)}")
    if heap.participants:
        rows = [
            (
                f"  {user.name}",
                str(user.pid) + " (in another namespace)" * user.elsewhere,
                str(user.thread),
                user.state,
                human_age(time.time() - user.since),
            )
            for user in heap.participants
        ]
        print_table(("  participant", "pid", "thread", "state", "since"), rows, "lrrlr")


# The arguments --------------------------------------------------------------------------


def _add_names_to_look_at(p: argparse.ArgumentParser) -> None:
    names = p.add_argument(
        "name",
        nargs="*",
        metavar="NAME",
        help="a heap, the path of one or of a copy, /proc/PID/fd/N, or memfd:PID/FD",
    )
    completion.complete_heaps(names)


def parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    top = argparse.ArgumentParser(
        prog="ipcheap",
        description="A demonstration, tools for heaps, dataflow graphs, and buses for the shell.",
    )
    version = importlib.metadata.version("ipcheap")
    top.add_argument("--version", action="version", version=f"ipcheap {version}")
    top.add_argument(
        "--print-completion",
        choices=completion.SHELLS,
        action=completion.Print,
        help="print a script that completes this command in a shell",
    )
    commands = top.add_subparsers(dest="command", metavar="COMMAND", required=True)

    p = commands.add_parser(
        "demo",
        help="count words in shared memory, and check the result",
        description="One process reads files into records. Two threads of another process count "
        "the words in place. Exits with 0 if a plain count agrees and the heap is empty.",
    )
    p.add_argument(
        "path",
        nargs="*",
        type=Path,
        metavar="FILE|DIR",
        help="what to read (default: the sources of Python's standard library)",
    )
    p.add_argument(
        "--records",
        type=natural,
        metavar="N",
        help="send N records: a part of the input, or the input repeatedly",
    )
    p.add_argument("--shm", choices=("posix", "sysv", "file", "memfd"), default="posix")
    p.add_argument("--sem", choices=("futex", "posix", "sysv"), default="futex")
    p.add_argument(
        "--capacity", type=positive_size, default="8MiB", metavar="SIZE", help="of the heap (8MiB)"
    )
    p.add_argument(
        "--chunk", type=positive_size, default="16KiB", metavar="SIZE", help="of a record (16KiB)"
    )
    p.add_argument("--top", type=natural, default=10, metavar="N", help="words to show (10)")
    p.add_argument("--name", help="of the heap; a path for --shm file")
    p.add_argument("--json", action="store_true", help="print the result as JSON")
    p.set_defaults(run=run_demo)

    p = commands.add_parser("ls", help="list heaps", description="List the heaps in /dev/shm.")
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=list_heaps)

    p = commands.add_parser(
        "rm",
        allow_abbrev=False,  # what it removes is gone
        help="remove heaps",
        description="Remove heaps. Processes that have a heap open can still use it.",
    )
    names = p.add_argument(
        "name", nargs="*", metavar="NAME", help="a heap, or the path of a file heap"
    )
    completion.complete_heaps(names)
    p.add_argument("--stale", action="store_true", help="all heaps that no process has open")
    p.add_argument("--force", action="store_true", help="also heaps that are in use")
    p.set_defaults(run=remove_heaps)

    p = commands.add_parser(
        "doctor",
        allow_abbrev=False,
        help="find heaps that are stale, half-made or broken, and repair them",
        description="Examine heaps, by default all in /dev/shm: find dead participants, half-made "
        "and stale heaps, and check every structure.",
        epilog="Exits with 0 if all heaps are healthy now, with 1 if something is left to do, "
        "with 2 if a heap could not be examined or repaired.",
    )
    names = p.add_argument(
        "name", nargs="*", metavar="NAME", help="a heap, or the path of a file heap"
    )
    completion.complete_heaps(names)
    p.add_argument(
        "--repair",
        action="store_true",
        help="recover dead participants, rebuild indices, remove the remains of half-made heaps",
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=see_doctor)

    p = commands.add_parser(
        "who",
        help="which participant has what, and which waits for which",
        description="Look at heaps from outside, by default at all that can be found: which "
        "participant has what, and which one waits for which. Takes no part in any heap.",
        epilog="Exits with 0 if there is nothing to worry about, with 1 if a participant waits for "
        "one that does not move, or is dead, or something is corrupt, with 2 if a heap could not "
        "be looked at.",
    )
    _add_names_to_look_at(p)
    p.add_argument(
        "--watch",
        nargs="?",
        type=positive_seconds,
        const=1.0,
        metavar="S",
        help="repeat every S seconds (1)",
    )
    p.add_argument("--json", action="store_true", help="print JSON, one document a line")
    p.set_defaults(run=who.run)

    p = commands.add_parser(
        "leaks",
        help="what no participant moves",
        description="Look at heaps from outside, by default at all that can be found: records "
        "that nobody receives, and those of participants that are dead or stopped. Takes no part "
        "in any heap.",
        epilog="Exits with 0 if nothing was found, with 1 if something was, with 2 if a heap could "
        "not be looked at.",
    )
    _add_names_to_look_at(p)
    p.add_argument(
        "--for",
        dest="seconds",
        type=positive_seconds,
        metavar="S",
        help="watch for S seconds, and show what grew",
    )
    p.add_argument("--json", action="store_true", help="print JSON")
    p.set_defaults(run=leaks.run)

    p = commands.add_parser("run", help="run a dataflow graph that a file holds")
    run.add_arguments(p)

    p = commands.add_parser("bus", help="messages to all listeners, from a shell")
    completion.add_verbs(p)
    return top


def main() -> int:
    """Run the command line; return the exit code."""
    arguments = parser().parse_args()
    try:
        return exit_code_of(lambda: arguments.run(arguments))
    except (demo.DemoError, ipcheap.Error, OSError, ValueError) as error:
        fail(error)

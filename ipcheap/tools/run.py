"""`ipcheap run`: run a dataflow graph that a file holds."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import json
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ipcheap.tools.screen import exit_code_of, fail

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ipcheap.graph import Graph, GraphStatistics, Run

    Show = Callable[[GraphStatistics], None]

_EVERY = 1.0  # seconds between two tables or two lines of JSON
_FILES = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # those of shtab
_EPILOG = (
    "Exits with 0 if the graph has ended without an error, with 1 if it failed or cannot run, with "
    "130 after Ctrl-C."
)


# The arguments --------------------------------------------------------------------------


def _setting(text: str) -> tuple[str, str, Any]:
    """Return kernel, parameter and value of KERNEL.PARAM=VALUE."""
    where, equals, value = text.partition("=")
    kernel, _, parameter = where.partition(".")
    if not (kernel and parameter.isidentifier() and equals):
        raise argparse.ArgumentTypeError(f"not KERNEL.PARAM=VALUE: {text!r}")
    try:
        return kernel, parameter, ast.literal_eval(value)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return kernel, parameter, value


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"not a number of seconds, 0 or more: {text!r}")
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command to its parser."""
    parser.description = "Run the graph in a file. In a Python file it is at module level."
    parser.epilog = _EPILOG
    file = parser.add_argument(
        "file",
        metavar="FILE[:NAME]",
        help="a .py, .toml or .json file; NAME is a variable of a .py file",
    )
    setattr(file, "complete", _FILES)  # noqa: B010  # what shtab looks at
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_setting,
        metavar="KERNEL.PARAM=VALUE",
        help="give a parameter of a kernel another value: a Python literal, or else a text",
    )
    parser.add_argument("--runner", choices=("processes", "threads", "ray"), default="processes")
    parser.add_argument("--address", metavar="A", help="of the cluster, for --runner ray")
    parser.add_argument("--duration", type=_seconds, metavar="S", help="stop after S seconds")
    parser.add_argument("--check", action="store_true", help="say what keeps it from running")
    parser.add_argument(
        "--picture", choices=("mermaid", "dot", "svg"), help="print a picture, and do not run"
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the statistics once a second and at the end, each as a line of JSON",
    )
    parser.add_argument("--quiet", action="store_true", help="show no table")
    parser.set_defaults(run=run)


def main(arguments: Sequence[str]) -> int:
    """Run the command with arguments from the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="ipcheap run")
    add_arguments(parser)
    parsed = parser.parse_args(arguments)
    if parsed.address is not None and parsed.runner != "ray":
        parser.error("--address is that of a cluster: it needs --runner ray")
    return exit_code_of(lambda: run(parsed))


# The command ----------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> int:
    """Check, draw or run a graph; return the exit code."""
    graph = _read(arguments)
    if arguments.picture:
        print(graph.picture(arguments.picture).rstrip("\n"))
        return 0
    if arguments.check:
        problems = graph.check()
        if arguments.json:
            print(json.dumps(problems))
        else:
            for problem in problems:
                print(f"ipcheap: {problem}", file=sys.stderr)
        return 1 if problems else 0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminated)
    try:
        with (
            _shown(arguments) as show,
            graph.start(
                runner=arguments.runner, address=arguments.address, duration=arguments.duration
            ) as started,
        ):
            show(_waited(started, show))
    except _Unread:
        raise BrokenPipeError from None
    except Exception as error:
        fail(_sentence(error))
    return 0


class _Unread(Exception):
    """Nobody reads what this command prints."""


def _terminated(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _read(arguments: argparse.Namespace) -> Graph:
    """Return the graph in the file, with the parameters that were given."""
    from ipcheap.graph import GraphError, files

    path, name = Path(arguments.file), ""
    if not path.exists():
        before, _, name = arguments.file.rpartition(":")
        if not before or not Path(before).exists():
            fail(f"{before if before.endswith(('.py', '.toml', '.json')) else path}: no such file")
        path = Path(before)
    try:
        graph = files.unattended(files.graph_in(path, name))
        for kernel, parameter, value in arguments.set:
            files.set_parameter(graph, kernel, parameter, value)
    except GraphError as error:
        fail(error)
    except OSError as error:
        fail(f"{path}: {error.strerror or error}")
    except Exception as error:
        fail(f"{path}: {type(error).__name__}: {error}")
    return graph


def _waited(started: Run, show: Show) -> GraphStatistics:
    """Wait for the end, show the statistics once a second, and return the last ones."""
    while True:
        try:
            return started.wait(_EVERY)
        except TimeoutError:
            found = started.statistics()
            if found.state == "ended":  # now, or by the TimeoutError of a kernel
                return started.wait()
            show(found)


def _sentence(error: Exception) -> str:
    """Return what went wrong, and where, in one line."""
    text = " ".join(str(error).split())
    where = next((n for n in getattr(error, "__notes__", ()) if n.startswith("In ")), "")
    if not where:
        return text or type(error).__name__
    first = where.splitlines()[0].rstrip(":")
    lines = re.findall(r'^  File "(.+)", line (\d+)', where, re.MULTILINE)
    first += f" ({Path(lines[-1][0]).name}:{lines[-1][1]})" if lines else ""
    kind = type(error).__name__
    return f"{kind}: {text}, in {first[3:]}" if text else f"{kind} in {first[3:]}"


# What is shown --------------------------------------------------------------------------


@contextlib.contextmanager
def _shown(arguments: argparse.Namespace) -> Iterator[Show]:
    """Yield what shows statistics: JSON on stdout, or a table on a terminal."""
    if arguments.json:
        yield _print_json
    elif arguments.quiet or not sys.stderr.isatty():
        yield lambda _: None
    else:
        try:
            from rich.console import Console
            from rich.live import Live
        except ImportError:
            yield _print_lines
            return
        with Live(console=Console(stderr=True), auto_refresh=False) as live:
            yield lambda statistics: live.update(_table(statistics), refresh=True)


def _print_json(statistics: GraphStatistics) -> None:
    try:
        print(json.dumps(dataclasses.asdict(statistics)), flush=True)
    except BrokenPipeError:
        raise _Unread from None


_HEADS = ("edge", "sent", "records/s", "waiting", "held", "dropped", "")


def _rows(statistics: GraphStatistics) -> list[list[str]]:
    return [
        [
            f"{edge.source}{f'.{edge.port}' if edge.port else ''} > {edge.target}",
            f"{edge.sent:,}",
            f"{edge.rate:,.0f}",
            f"{edge.pending:,} of {edge.capacity:,}",
            f"{edge.held:,}",
            f"{edge.dropped:,}",
            edge.blocked or "",
        ]
        for edge in statistics.edges
    ]


def _state(statistics: GraphStatistics) -> str:
    slowest = f", {statistics.bottleneck} is the slowest" if statistics.bottleneck else ""
    restarts = sum(kernel.restarts for kernel in statistics.kernels.values())
    again = f", {restarts} restarts" if restarts else ""
    return f"{statistics.state} after {statistics.seconds:.0f} s{again}{slowest}"


def _table(statistics: GraphStatistics) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left"
    )
    for head in _HEADS:
        table.add_column(head, justify="left" if head in ("edge", "") else "right", no_wrap=True)
    for row in _rows(statistics):
        table.add_row(*map(Text, row))
    table.caption = Text(_state(statistics))
    return table


def _print_lines(statistics: GraphStatistics) -> None:
    rows = [list(_HEADS), *_rows(statistics)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        print("  ".join(cells).rstrip(), file=sys.stderr)
    print(_state(statistics), file=sys.stderr, flush=True)

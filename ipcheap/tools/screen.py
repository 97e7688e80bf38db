"""Reading of arguments and writing to a terminal, shared by the commands."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from ipcheap import sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    Progress = Callable[[int, int], None]


# Words and numbers ----------------------------------------------------------------------


def positive_size(text: str) -> int:
    """Return the bytes of an argument such as 16384, 16KiB or 8MiB."""
    try:
        value = sizes.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if value < 1:
        raise argparse.ArgumentTypeError("a size must be at least 1")
    return value


def natural(text: str) -> int:
    """Return the number in an argument, 0 or more."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a whole number of 0 or more: {text!r}")
    return int(text)


def positive_seconds(text: str) -> float:
    """Return the seconds in an argument, at least 0.1."""
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"not a number of seconds: {text!r}") from None
    if not 0.1 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError("seconds must be at least 0.1")
    return seconds


def human_age(seconds: float) -> str:
    """Return an age as text: 12 s, 3 min, 5 h, 2 d."""
    for limit, length, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds / length))} {unit}"
    return f"{int(seconds / 86400)} d"


def printable(word: bytes) -> str:
    """Return a word of the input, shortened for a table."""
    text = word.decode("ascii")
    return text if len(text) <= 40 else text[:39] + "…"


def fail(text: object) -> NoReturn:
    """Print a message and exit with code 1."""
    print(f"ipcheap: {text}", file=sys.stderr)
    raise SystemExit(1)


# The screen -----------------------------------------------------------------------------


def print_table(heads: Sequence[str], rows: Iterable[Sequence[str]], right: str) -> None:
    """Print columns; for each one `right` has "r" if it is aligned to the right, otherwise "l".

    On a terminal rich draws the table, if it is installed.
    """
    rows = [list(row) for row in rows]
    aligned = [letter == "r" for letter in right]
    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text

            table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
            for head, to_right in zip(heads, aligned, strict=True):
                table.add_column(head, justify="right" if to_right else "left", no_wrap=True)
            for row in rows:
                table.add_row(*map(Text, row))
            Console().print(table)
            return
    rows.insert(0, list(heads))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, aligned, strict=True)
        )
        print("  ".join(cells).rstrip())


@contextlib.contextmanager
def progress_bar(title: str, total: int, *, by_records: bool) -> Iterator[Progress]:
    """Show the progress on a terminal, and nothing anywhere else."""
    if not sys.stderr.isatty():
        yield lambda _records, _nbytes: None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    except ImportError:
        yield from _plain_progress(title, total, by_records=by_records)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[records]:,} records  {task.fields[megabytes]:.1f} MB"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=total, records=0, megabytes=0.0)

        def show(records: int, nbytes: int) -> None:
            done = min(records if by_records else nbytes, total)
            bar.update(task, completed=done, records=records, megabytes=nbytes / 1e6)

        yield show


def _plain_progress(title: str, total: int, *, by_records: bool) -> Iterator[Progress]:
    def show(records: int, nbytes: int) -> None:
        done = min(records if by_records else nbytes, total)
        line = f"{title} {done / max(total, 1):4.0%}  {records:,} records  {nbytes / 1e6:.1f} MB"
        sys.stderr.write(f"\r{line:<60}")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r" + " " * 60 + "\r")
        sys.stderr.flush()


# The end --------------------------------------------------------------------------------


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command and return its exit code: 130 after Ctrl-C, 1 if nobody reads its output."""
    try:
        code = command()
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("ipcheap: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # `ipcheap ls | head` closes the pipe, and Python must not write to it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code

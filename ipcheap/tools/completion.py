"""Completion of the command line in a shell, by shtab."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ipcheap.tools import bus_arguments
from ipcheap.tools.screen import fail

if TYPE_CHECKING:
    from collections.abc import Sequence

SHELLS = ("bash", "zsh", "tcsh")

# What completes the name of a heap. In tcsh it must not contain a slash.
HEAPS = {
    "bash": "_ipcheap_heaps",
    "zsh": "_ipcheap_heaps",
    "tcsh": '`ls $ipcheap_shm | sed -n "s:^ipcheap[.]::p" | grep -v "~"`',
}
# A file with `~` in its name is a pipe that lies beside a heap.
PREAMBLE = {
    "bash": """\
_ipcheap_heaps() {
  local file
  for file in /dev/shm/ipcheap.*; do
    file=${file#/dev/shm/ipcheap.}
    case $file in
      '*' | *'~'*) ;;
      "$1"*) printf '%s\\n' "$file" ;;
    esac
  done
  case $1 in
    */*) compgen -f -- "$1" ;;
  esac
}""",
    "zsh": """\
_ipcheap_heaps() {
  local -a heaps
  heaps=(/dev/shm/ipcheap.*(N:t))
  heaps=(${${heaps#ipcheap.}:#*\\~*})
  compadd -a heaps
  _files
}""",
    "tcsh": "set ipcheap_shm = /dev/shm",
}


class Print(argparse.Action):
    """Prints the script for a shell and exits."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        _namespace: argparse.Namespace,
        shell: str | Sequence[Any] | None,
        _option: str | None = None,
    ) -> None:
        """Print the script for `shell`; exit with code 1 if shtab is not installed."""
        try:
            import shtab
        except ImportError:
            fail("completion needs shtab: pip install 'ipcheap[cli]'")
        print(shtab.complete(parser, str(shell), preamble=PREAMBLE[str(shell)]))
        parser.exit()


def complete_heaps(argument: argparse.Action) -> None:
    """Complete the names of heaps for an argument."""
    setattr(argument, "complete", HEAPS)  # noqa: B010  # what shtab looks at


def add_verbs(parser: argparse.ArgumentParser) -> None:
    """Describe `ipcheap bus`, which parses its arguments itself, to the help and to shtab."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB")
    for name, verb in bus_arguments.VERBS.items():
        p = verbs.add_parser(name, help=verb.help)
        for flag in verb.options:
            option = bus_arguments.OPTIONS[flag]
            if option.value:
                p.add_argument(flag, metavar=option.value, help=option.help)
            else:
                p.add_argument(flag, action="store_true", help=option.help)
        for operand in verb.operands:
            argument = p.add_argument(operand, nargs=None if operand == "BUS" else "?")
            if operand == "BUS":
                complete_heaps(argument)

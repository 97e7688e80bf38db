"""The program: `python -m murder` in tests/."""

from __future__ import annotations

import argparse
import secrets
import sys

from . import __doc__ as purpose
from .killer import PARTS, Killer
from .words import Wrong


class _AsWritten(argparse.RawDescriptionHelpFormatter):
    pass


def main() -> int:
    parser = argparse.ArgumentParser(description=purpose, formatter_class=_AsWritten)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to kill (10)")
    parser.add_argument("--seed", type=int, default=None, help="of the dice (at random)")
    parser.add_argument("--part", choices=PARTS, help="kill the users of these only (of both)")
    arguments = parser.parse_args()
    seed = secrets.randbelow(1 << 32) if arguments.seed is None else arguments.seed
    parts = (arguments.part,) if arguments.part else PARTS
    killer = Killer(arguments.seconds, seed, parts)
    try:
        killer.run()
    except Wrong as wrong:
        print(f"{killer.figures()}\nFAILED: {wrong}\n{killer.state()}")
        return 1
    print(killer.figures())
    return 0


sys.exit(main())

"""Where the command line starts.

`ipcheap bus` and `ipcheap run` import nothing that only other commands need.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line; return the exit code."""
    if sys.argv[1:2] == ["bus"]:
        from ipcheap.tools import bus

        return bus.main(sys.argv[2:])
    if sys.argv[1:2] == ["run"]:
        from ipcheap.tools import run

        return run.main(sys.argv[2:])
    from ipcheap.tools import commands

    return commands.main()


if __name__ == "__main__":
    sys.exit(main())

"""`python -m ipcheap`: the command line without its script."""

import sys

from ipcheap.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())

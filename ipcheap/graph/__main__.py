"""`python -m ipcheap.graph`: the command `ipcheap run`."""

import sys

from ipcheap.tools.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

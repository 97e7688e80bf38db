"""The command `ipcheap`: one module for each command, using only the package's public names."""

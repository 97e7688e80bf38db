"""What the command `ipcheap` does: one module a command, over the package's public names."""

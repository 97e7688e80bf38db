"""What all tests share."""

pytest_plugins = ["ipcheap.pytest_plugin"]

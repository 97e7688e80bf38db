"""Other processes, for tests: what `ipcheap.testing` gives to everybody."""

from ipcheap.testing import (
    PATIENCE,
    Peer,
    call,
    die,
    listen,
    run,
    run_by,
    say,
    until,
)

__all__ = ["PATIENCE", "Peer", "call", "die", "listen", "run", "run_by", "say", "until"]

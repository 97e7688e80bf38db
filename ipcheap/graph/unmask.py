"""Imported last by the fork server, which the run that starts it keeps from interrupts until then.

A terminal sends Ctrl-C to all processes, and one that comes while the server imports would end it
with a traceback.
"""

import signal

_handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # also drops one that has come
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
signal.signal(signal.SIGINT, _handler)

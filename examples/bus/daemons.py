"""Daemons that start all at the same time, and wait for each other where they must."""

from __future__ import annotations

import argparse
import multiprocessing
import time

import ipcheap

# For each daemon, which others must be ready before it starts to work.
DAEMONS = {
    "network": [],
    "ntp": ["network"],
    "ssh": ["network"],
    "backup": ["ntp", "ssh"],
}


def await_ready(init: ipcheap.Bus, names: list[str]) -> None:
    """Ask for daemons, and wait until they are ready; they may have been for long."""
    missing = set(names)
    with init.listen(history=init.history) as listener:  # what was said before, then what comes
        for name in names:
            init.post_object(("require", name))
        while missing:
            what, name = listener.recv_object(timeout=60)
            if what == "ready":
                missing.discard(name)


def daemon(init: ipcheap.Bus, name: str) -> None:
    """Start, with the daemons that this one requires, and say so when it is ready."""
    await_ready(init, DAEMONS[name])
    time.sleep(0.1)  # reads its configuration
    init.broadcast_object(("ready", name))


def main() -> None:
    """Be the init process: start what is required, once, and print in which order it is ready."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("daemon", nargs="?", choices=DAEMONS, default="backup")
    wanted = parser.parse_args().daemon

    context = multiprocessing.get_context("spawn")
    processes: dict[str, multiprocessing.process.BaseProcess] = {}
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        init = heap.add_bus("init", history=256)
        with init.listen() as listener:
            init.post_object(("require", wanted))
            what = name = ""
            while (what, name) != ("ready", wanted):
                what, name = listener.recv_object(timeout=60)
                if what == "require" and name not in processes:
                    print(f"starting {name}", flush=True)
                    processes[name] = context.Process(target=daemon, args=(init, name))
                    processes[name].start()
                elif what == "ready":
                    print(f"{name} is ready", flush=True)
        for process in processes.values():
            process.join()


if __name__ == "__main__":
    main()

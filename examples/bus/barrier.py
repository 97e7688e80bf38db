"""Steps of a computation: a barrier for processes that come and go, and that may be killed."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal

import ipcheap


def work(steps: ipcheap.Bus, stays: int | None, killed: bool = False) -> None:
    """Take part in as many steps as `stays` says, or in all; then leave, or be killed in one."""
    done = steps.heap.add_static_segment("done", 8).atomic(0)
    taken = 0
    with steps.listen() as listener:
        while taken != stays:
            with listener.recv_record() as message:  # the end of the block ends the step
                if bytes(message) == b"end":
                    return
                done.fetch_add(1)
            taken += 1
        if killed:
            with listener.recv_record():
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Lead through the steps, and see that each is done by all before the next begins."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    last = parser.parse_args().steps

    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        steps = heap.add_bus("steps")
        done = heap.add_static_segment("done", 8).atomic(0)

        def start(*arguments: object) -> multiprocessing.process.BaseProcess:
            process = context.Process(target=work, args=(steps, *arguments))
            process.start()
            return process

        # One stays to the end, one leaves after ten steps, and one is killed in its sixth.
        workers = [start(None), start(10), start(5, True)]
        steps.wait_listeners(3, timeout=60)
        parties, together = 3, True
        for step in range(last):
            if step == 20:
                workers.append(start(None))
                steps.wait_listeners(2, timeout=60)
            before = done.load()
            report = steps.broadcast(b"step %d" % step, timeout=60)
            # One that leaves after its last step may be counted among those that are gone.
            together &= report.released <= done.load() - before <= report.listeners
            together &= report.complete
            if report.listeners != parties:
                parties = report.listeners
                print(f"step {step}: {parties} took part", flush=True)
        steps.broadcast(b"end")
        for worker in workers:
            worker.join()
        print(f"{last} steps, each done by all before the next: {together}")


if __name__ == "__main__":
    main()

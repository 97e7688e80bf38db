"""One run of a workload with a peer; prints its figures as JSON.

    python bench/run.py '{"peer": "os-pipe", "workload": "records-64", "seconds": 0.1}'

`compare.py` starts one of these for each repetition, and kills it if it takes too long.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from multiprocessing import resource_tracker

import peers
import workloads


def main():
    order = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))  # so that it cleans up
    workload = workloads.ALL[order["workload"]]
    try:
        peer = peers.load(order["peer"], workload.carries)
        unsuited = workload.unsuited(order["peer"], peer)
        if unsuited:
            print(json.dumps({"unsuited": unsuited}))
            return 0
        figures = workload.run(order["peer"], peer, order["seconds"])
    except Exception as error:
        print(json.dumps({"error": str(error) or repr(error)}))
        return 1
    stop_tracker()
    print(json.dumps({"figures": figures}))
    return 0


def stop_tracker():
    """End the helper process of shared_memory, so that its CPU time counts as ours."""
    with contextlib.suppress(AttributeError):
        resource_tracker._resource_tracker._stop()


if __name__ == "__main__":
    sys.exit(main())

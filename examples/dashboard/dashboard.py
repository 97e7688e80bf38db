"""A dashboard in asyncio that waits for several keys of a store, and follows a log of alarms."""

import argparse
import asyncio
import math
import multiprocessing
import time

import ipcheap

UNITS = {"temperature": "°C", "pressure": "bar", "speed": "rpm"}
TOO_HOT = 89.0  # °C


def run_machine(heap: ipcheap.Heap, steps: int) -> None:
    """Put each value as often as it changes, and log when it becomes too hot."""
    with heap, heap.store_writer("values", 10) as values, heap.store_writer("alarms", 10) as alarms:
        values.wait_peer(timeout=30)
        hot = False
        for step in range(1, steps + 1):
            temperature = 60 + 30 * math.sin(step / 10)
            values.put_object("temperature", temperature)
            if step % 5 == 0:
                values.put_object("pressure", 1 + step / 100)
            if step % 20 == 0:
                values.put_object("speed", 1500 + step)
            if temperature > TOO_HOT and not hot:
                alarms.append(f"step {step}: {temperature:.1f} °C".encode(), ttl=60)
            hot = temperature > TOO_HOT
            time.sleep(0.005)


class Dashboard:
    """What is shown, and the coroutines that keep it up to date."""

    def __init__(self) -> None:
        self.shown = dict.fromkeys(UNITS, math.nan)
        self.updates = dict.fromkeys(UNITS, 0)
        self.alarms: list[str] = []

    async def watch(self, values: ipcheap.StoreReader, key: str) -> None:
        """Show each new value of a key; values that are replaced meanwhile are passed over."""
        version = 0
        while True:
            try:
                chunk = await values.await_for(key, newer_than=version)
            except ipcheap.ChannelClosed:
                return
            with chunk:
                self.shown[key], version = chunk.object(), chunk.version
            self.updates[key] += 1

    async def list_alarms(self, alarms: ipcheap.StoreReader) -> None:
        """List every alarm, in order."""
        async for chunk in alarms.follow():
            self.alarms.append(bytes(chunk).decode())

    async def repaint(self, seconds: float) -> None:
        """Print the newest values at regular times, however often they change."""
        while True:
            await asyncio.sleep(seconds)
            print(self)

    def __str__(self) -> str:
        values = ", ".join(f"{key} {self.shown[key]:.1f} {unit}" for key, unit in UNITS.items())
        return f"{values}, alarms: {len(self.alarms)}"


async def show(heap: ipcheap.Heap, seconds: float) -> None:
    """Run until the machine has stopped."""
    dashboard = Dashboard()
    with heap.store_reader("values") as values, heap.store_reader("alarms") as alarms:
        painter = asyncio.create_task(dashboard.repaint(seconds))
        async with asyncio.TaskGroup() as tasks:
            for key in UNITS:
                tasks.create_task(dashboard.watch(values, key))
            tasks.create_task(dashboard.list_alarms(alarms))
        painter.cancel()
    print(f"at the end: {dashboard}")
    for key, updates in dashboard.updates.items():
        print(f"{key}: {updates} updates")
    print(*dashboard.alarms, sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repaint", type=float, default=0.25, help="every so many seconds")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with ipcheap.Heap.create(None, "16MiB", shm="memfd") as heap:
        heap.add_store("values")
        heap.add_store("alarms", max_chunks=100, evict=True)
        machine = context.Process(target=run_machine, args=(heap, options.steps))
        machine.start()
        asyncio.run(show(heap, options.repaint))
        machine.join()


if __name__ == "__main__":
    main()

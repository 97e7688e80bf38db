"""What the project claims, and whether a run confirms it.

A claim is a ratio of two medians of the same run, or a figure, with its bound. The verdicts
include the claims that were not measured and the claims that do not hold.
"""

from __future__ import annotations

import operator

from wording import number

OURS = "ipcheap"
MORE, LESS = (operator.ge, "≥"), (operator.le, "≤")
COUNTS = ("instructions", "ns")  # the kinds of figures of what a call costs, the best one first
CLOSE = 0.05  # to its bound: two runs of the same build differ by as much


def against(title, workload, figure, peer, bound, *, times=True):
    """Compare our figure of a workload with that of a peer; "best" is the best other peer."""

    def between(medians):
        if peer == "best":
            return workload, medians.best(workload, figure, but=OURS)[0]
        return workload, peer

    def judge(medians, _native):
        _, other = between(medians)
        ours, theirs = (medians.of(workload, each, figure) for each in (OURS, other))
        if ours is None or theirs is None:
            return None
        doubtful = medians.doubtful(workload, OURS) or medians.doubtful(workload, other)
        return ours / theirs, f"{bound:g} × {medians.title(other)}", "×", doubtful

    judge.between = between
    return title, judge, MORE if times else LESS, bound


def faster(title, workload, time, peer, bound):
    """Hold our speed, from the time of a call, to a multiple of a peer's."""
    _, look, _, _ = against(title, workload, time, peer, bound)

    def judge(medians, native):
        found = look(medians, native)
        return None if found is None else (1 / found[0], *found[1:])

    judge.between = look.between
    return title, judge, MORE, bound


def figure(title, workload, key, unit, bound, *, more=False):
    """Hold one of our figures to an upper bound, with `more` to a lower one."""

    def judge(medians, _native):
        value = medians.of(workload, OURS, key)
        if value is None:
            return None
        return value, f"{number(bound)} {unit}", unit, medians.doubtful(workload, OURS)

    return title, judge, MORE if more else LESS, bound


def beside(title, workload, key, other, bound):
    """Hold one of our figures to a multiple of another one of the same workload."""

    def judge(medians, _native):
        ours, theirs = (medians.of(workload, OURS, each) for each in (key, other))
        if ours is None or theirs is None:
            return None
        doubtful = medians.doubtful(workload, OURS)
        return ours / theirs, f"{bound:g} × {medians.heading(workload, other)}", "×", doubtful

    return title, judge, LESS, bound


def grown(title, workload, many, few, bound):
    """Hold what a call costs at a large number to a multiple of what it costs at a small one.

    What counts are instructions where they can be counted, and time elsewhere.
    """
    looks = [beside(title, workload, kind + many, kind + few, bound)[1] for kind in COUNTS]

    def judge(medians, native):
        found = (look(medians, native) for look in looks)
        return next((each for each in found if each is not None), None)

    return title, judge, LESS, bound


def slope(title, workload, key, peer, bound):
    """Hold what our figure grows by from 1 to 8 listeners to a multiple of what a peer's does."""

    def judge(medians, _native):
        ours, theirs = (
            [medians.of(workload, each, f"{key}_{n}") for n in (1, 8)] for each in (OURS, peer)
        )
        if None in ours or None in theirs:
            return None
        doubtful = medians.doubtful(workload, OURS) or medians.doubtful(workload, peer)
        ratio = (ours[1] - ours[0]) / (theirs[1] - theirs[0])
        return ratio, f"{bound:g} × {medians.title(peer)}", "×", doubtful

    return title, judge, LESS, bound


def fraction_of_native(title, workload, floor, bound):
    """Hold our speed, from nanoseconds for each operation, to a part of that of a native floor."""

    def judge(medians, native):
        ours, line = medians.of(workload, OURS, "ns"), native.get("lines", {}).get(floor)
        if ours is None or line is None:
            return None
        doubtful = medians.doubtful(workload, OURS) or bool(native["disturbed"])
        return line["ns"] / ours, f"{bound:g} × C: {floor.removeprefix('floor: ')}", "×", doubtful

    return title, judge, MORE, bound


def native_ratio(title, what, floor, bound, *, more=False):
    """Compare a line of the native benchmarks with its floor; `more`: compare the speeds."""

    def judge(_medians, native):
        lines = native.get("lines", {})
        if what not in lines or floor not in lines:
            return None
        unit = "ns" if "ns" in lines[what] else "instructions"
        ratio = lines[what][unit] / lines[floor][unit]
        beside = f"{bound:g} × {floor.removeprefix('floor: ')}"
        return 1 / ratio if more else ratio, beside, "×", bool(native["disturbed"])

    return title, judge, MORE if more else LESS, bound


def native_ns(title, what, bound):
    """Hold a line of the native benchmarks to an upper bound in nanoseconds."""

    def judge(_medians, native):
        line = native.get("lines", {}).get(what)
        if line is None:
            return None
        return line["ns"], f"{bound:g} ns", "ns", bool(native["disturbed"])

    return title, judge, LESS, bound


def all_claims():
    """Return (title, judge, comparison, bound) of each claim."""
    one, batch, spin = "records-64", "records-64-batch", "round-trip-spin"
    yield against("64 B, one at a time", one, "per_second", "ring-spin", 1.0)
    yield against("64 B, one at a time", one, "per_second", "os-pipe", 2.5)
    yield against("64 B, one at a time", one, "per_second", "iceoryx2-polling", 7.0)
    yield against("64 B, in batches of 64", batch, "per_second", "ring-spin", 3.0)
    yield against("64 B, in batches of 64", batch, "per_second", "ring-struct", 1.0)
    trip = "round trip, 64 B, spinning, p50"
    yield against(trip, spin, "p50_us", "ring-spin", 1.1, times=False)
    yield against(trip, spin, "p50_us", "iceoryx2-polling", 0.25, times=False)
    rest = "round trip, 64 B, blocking, after 2 ms of rest, p50"
    yield against(rest, "round-trip-idle", "p50_us", "os-pipe", 1.0, times=False)
    titles = {"4k": "4 KiB", "64k": "64 KiB", "1m": "1 MiB", "8m": "8 MiB"}
    for size, title in titles.items():
        yield against(f"{title}, throughput", f"throughput-{size}", "mb_s", "best", 1.0)
    for size in ("64k", "1m"):
        whole = f"throughput-{size}-whole"
        yield against(f"{titles[size]}, throughput, read completely", whole, "mb_s", "best", 1.0)
    two = "one process to two threads of another, 4 KiB"
    yield against(f"{two}, one at a time", "two-threads", "per_second", "best", 1.5)
    yield against(f"{two}, in batches", "two-threads-batch", "per_second", "best", 3.0)
    for peer in ("iceoryx2-event", "iceoryx2-polling"):
        yield against("1080p frames", "frames", "per_second", peer, 1.1)
        yield against("1080p frames, CPU per frame", "frames", "cpu_ms", peer, 0.9, times=False)
    for loop in ("asyncio", "uvloop"):
        title = f"100 channels on one event loop, {loop}"
        yield figure(title, loop, "per_second", "records/s", 200_000, more=True)
    yield figure("idle: waiting on 220 channels", "idle", "core", "% of a core", 1)
    yield figure("import, create, first message", "cold-start", "over_ms", "ms", 25)
    yield against("objects", "objects", "per_second", "mp-queue", 20)
    yield against("objects, CPU per object", "objects", "cpu_ms", "mp-queue", 0.1, times=False)
    record = "64 B record, allocate ... free"
    yield native_ratio(f"C: {record}", record, "floor: bare ring, 64 B copied in and read", 1.8)
    trip = "round trip with allocation"
    yield native_ratio(f"C: {trip}", trip, "floor: cache-line round trip", 1.3)
    yield native_ns("C: allocate + free, 64 B", "allocate + free, 64 B", 10)
    beside = "allocate + free, 64 B, beside 64 participants"
    yield native_ratio(f"C: {beside}", beside, "allocate + free, 64 B, alone", 1.1)
    yield native_ns("C: free in a heap of 10 million", "free of random blocks of 10 million", 60)
    for size in ("64 KiB", "1 MiB"):
        name = f"{size} record, allocate ... free"
        floor = f"floor: memcpy {size} in cache"
        title = f"C: {size} record, fraction of memcpy's speed"
        yield native_ratio(title, name, floor, 0.95, more=True)
    yield from of_streams()
    yield from of_stores()
    yield from of_buses()
    yield from of_graphs()


def of_streams():
    """Return the claims about streams."""
    sizes = {"64": ("64 B", 9), "256": ("256 B", 7), "4k": ("4 KiB", 4), "64k": ("64 KiB", 5)}
    for size, (title, times) in sizes.items():
        name = f"stream, {title}, write and readinto"
        yield against(name, f"stream-{size}", "per_second", "pipe", times)
    for size in ("4k", "64k"):
        title, _ = sizes[size]
        name, floor = f"stream, {title}, speed", f"floor: ring, {title}, mapped once"
        yield fraction_of_native(name, f"stream-{size}", floor, 0.6)
    items = "stream, items of 64 B, 64 at a time, into one array"
    yield against(items, "stream-items", "per_second", "ring-struct", 1.0)
    whole = "stream, windows of 64 KiB, filled and added up"
    yield against(whole, "stream-window-64k", "mb_s", "ring-views", 1.0)
    blocks, frames = "stream-blocks", "stream-blocks-frames"
    touched = "stream, windows of 64 float32, touched"
    yield figure(touched, blocks, "per_second", "windows/s", 1_600_000, more=True)
    yield against(touched, blocks, "per_second", "ring-views", 1.0)
    touched = "stream, windows of 64 frames, touched"
    yield against(touched, frames, "per_second", "ring-views", 1.0)
    for key, how in {"spin": "spinning", "idle": "after 2 ms of rest"}.items():
        trip, way = f"stream, round trip, 64 B, {how}, p50", f"stream-trip-{key}"
        yield against(trip, way, "p50_us", "ipcheap-records", 1.05, times=False)
    for size in ("256", "4k"):
        title, _ = sizes[size]
        for reader in ("fast", "slow", "stopped", "no"):
            name = f"stream, overwriting, {title}, {reader} reader"
            yield beside(name, f"stream-overwrite-{size}", f"{reader}_ns", "blocking_ns", 1.1)
    waits = "stream, waiting for 512 items in portions of 64"
    yield figure(f"{waits}, sleeps", "stream-period", "sleeps", "per wait", 1.05)
    yield figure(f"{waits}, wake-ups", "stream-period", "wakes", "per wait", 1.05)
    yield figure("stream, idle reader", "stream-period", "idle", "% of a core", 1)
    claim = "stream, claim of 1 MiB, over that of a record channel"
    yield figure(claim, "stream-claim", "over_us", "µs", 100)
    for size in ("64 B", "4 KiB"):
        name, ours = f"C: stream, {size}, write + read", f"stream, {size}, write + read"
        yield native_ratio(name, ours, f"floor: ring, {size}, mapped once", 1.3)
        bound = 0.5 if size == "64 B" else 1.1
        yield native_ratio(name, ours, f"floor: ring, {size}, one shared count", bound)
    for title, _ in sizes.values():
        name, ours = f"C: {title}, mapped twice", f"floor: ring, {title}, mapped twice"
        yield native_ratio(name, ours, f"floor: ring, {title}, mapped once", 1.05)
    for title, _ in sizes.values():
        ours = f"stream, {title}, windows filled and summed"
        floor = f"floor: ring, {title}, filled and summed"
        yield native_ratio(f"C: {ours}", ours, floor, 1.1)


def of_stores():
    """Return the claims about stores."""
    for peer, times in {
        "lmdb": 3,
        "iceoryx2-blackboard": 2,
        "redis": 50,
        "manager-dict": 50,
    }.items():
        yield faster("store, get of 64 B, speed", "store-64", "get_us", peer, times)
    for peer in ("lmdb", "lmdb-writable"):
        yield faster("store, put of 64 B, speed", "store-64", "put_us", peer, 20)
    for title, key in {"put": "put_us", "get in place": "get_us"}.items():
        yield faster(f"store, {title} of 1 MiB, speed", "store-1m", key, "lmdb", 10)
    marked = "store, put of 1 MiB, marked only, speed"
    yield faster(marked, "store-1m-marked", "put_us", "lmdb", 10)
    yield faster("store, get in place of 1 MiB, speed", "store-1m", "get_us", "lmdb-buffers", 1)
    wake = "store, waking a sleeper after 2 ms of rest, p50"
    yield beside(wake, "store-wake", "wait_for_us", "recv_us", 1.1)
    for scale, sizes, puts in (
        ("keys", ("10", "1,000,000"), ("put one", "put any")),
        ("readers", ("1", "64"), ("put",)),
        ("held", ("0", "10,000"), ("put",)),
    ):
        few, many = sizes
        for put in puts:
            title = f"store, {few} to {many} {scale}, {put}"
            keys = f"{put}_us_{many}", f"{put}_us_{few}"
            yield beside(title, f"store-growth-{scale}", *keys, 1.5)


def of_buses():
    """Return the claims about buses."""
    core, idle, spin = "bus-round-core", "bus-round-idle", "bus-round"
    for n in ("1", "2", "4", "8"):
        trip = f"bus, round to {n}, one core, p50"
        yield against(trip, core, f"p50_us_{n}", "n-pipes", 1.1, times=False)
        yield against(trip, core, f"p50_us_{n}", "maandree-bus", 0.8, times=False)
    yield slope("bus, round, one core, slope a listener", core, "p50_us", "n-pipes", 1.0)
    for n in ("1", "2", "4", "8", "64"):
        waits = f"bus, round to {n} after 2 ms of rest, waits of the writer"
        yield figure(waits, idle, f"waits_{n}", "per round", 1.2)
    channels = "ipcheap-channels"
    yield against("bus, round to 1, p50", spin, "p50_us_1", channels, 1.2, times=False)
    for way, title in {"bus-flow": "one at a time", "bus-flow-batch": "in batches"}.items():
        yield against(f"bus, 64 B to 1, {title}", way, "per_second_1", channels, 0.6)
    for peer, times in {channels: 3, "iceoryx2-pub": 5}.items():
        yield against("bus, 64 B to 8, one at a time", "bus-flow", "per_second_8", peer, times)
    for peer, times in {"iceoryx2-pub": 3, "pyzmq-pub": 5}.items():
        yield faster("bus, post of 64 B to 4, speed", "bus-post", "post_us_4", peer, times)
        passed = "bus, 64 B to 4 until all have received it, speed"
        yield faster(passed, "bus-post", "received_us_4", peer, times)
    for n in ("1", "2", "4", "8"):
        frames = f"bus, 1080p frames to {n}"
        yield against(frames, "bus-frames", f"per_second_{n}", "iceoryx2-pub", 1.0)
    for few, many, bound in (("1", "64", 1.1), ("1", "4096", 2.0)):
        title = f"bus, post, {few} to {int(many):,} registered listeners"
        yield grown(title, "bus-cost", f"_{many}", f"_{few}", bound)
    for n in ("1", "64", "4096"):
        title = f"bus, post, beside {int(n):,} idle lossy listeners"
        yield grown(title, "bus-cost", f"_lossy_{n}", "_0", 1.1)
    for n in ("8", "1000"):
        title = f"bus, memory of 1 MiB that {int(n):,} listeners hold"
        yield figure(title, "bus-memory", f"mib_{n}", "MiB", 1.01)
    copy = "bus, post of 1 MiB to 8 listeners"
    yield beside(copy, "bus-memory", "post_us_8", "post_us_1", 1.1)
    yield figure("bus, a killed listener is passed, p99", "bus-killed", "p99_ms", "ms", 100)
    yield figure("bus, 1,000 idle listeners", "bus-idle", "core", "% of a core", 1)
    yield figure("ipcheap bus broadcast, whole", "bus-cold-start", "over_ms", "ms", 25)
    what = "bus, 64 B, post ... release"
    yield native_ratio(f"C: {what}", what, "floor: record channel, 64 B, send ... free", 2)
    post = "bus, counted post, {} listeners: {}".format
    for few, many, bound in (("1", "64", 1.1), ("1", "4,096", 2.0)):
        what, floor = post("registered", many), post("registered", few)
        yield native_ratio(f"C: {what}", what, floor, bound)
    for many in ("1", "64", "4,096"):
        what, floor = post("idle lossy", many), post("idle lossy", "0")
        yield native_ratio(f"C: {what}", what, floor, 1.1)


def of_graphs():
    """Return the claims about graphs."""
    for size, title in {"64": "64 B", "64k": "64 KiB", "frames": "1080p frames"}.items():
        name, chain = f"graph, source and kernel, {title}", f"graph-chain-{size}"
        yield against(name, chain, "per_second", "ipcheap-by-hand", 0.9)
        times = 3 if size == "frames" else 20
        yield against(name, chain, "per_second", "ray-compiled", times)
        yield against(name, chain, "per_second", "ray-actors", times)
    for kind, title, times in (
        ("64", "objects of 64 B", 3),
        ("1m", "arrays of 1 MiB", 10),
        ("frames", "1080p frames", 20),
    ):
        name = f"graph.map, {title}"
        yield against(name, f"graph-map-{kind}", "per_second", "mp-pool", times)
    start = "graph, start of four kernels, to the first result"
    yield beside(start, "graph-start", "graph_ms", "hand_ms", 1.3)
    replaced = "graph, a killed worker is replaced, over the start of a process"
    yield figure(replaced, "graph-replace", "over_ms", "ms", 200)
    look = "graph, statistics and picture of 1,000 edges, once a second"
    yield figure(look, "graph-look", "core", "% of a core", 2)


def close_calls(medians):
    """Return the claims that are too close to call: {workload: the peers to compare}."""
    close = {}
    for _title, look, _comparison, bound in all_claims():
        found = look(medians, {}) if hasattr(look, "between") else None
        if found is not None and abs(found[0] / bound - 1) <= CLOSE:
            workload, other = look.between(medians)
            peers = close.setdefault(workload, [OURS])
            if other not in peers:
                peers.append(other)
    return close


def judge(medians, native):
    """Return the verdicts: what was found, its bound, and whether it holds (None: not measured).

    A verdict is doubtful if disturbed runs had to be counted.
    """
    verdicts = []
    for title, look, (holds, sign), bound in all_claims():
        found = look(medians, native)
        verdict = dict.fromkeys(("found", "unit", "bound", "holds", "doubtful"))
        if found is not None:
            value, beside, unit, doubtful = found
            verdict.update(found=value, unit=unit, bound=f"{sign} {beside}", doubtful=doubtful)
            verdict["holds"] = bool(holds(value, bound))
        verdicts.append({"claim": title, **verdict})
    return verdicts

"""The plots: one per workload with one bar per peer, ours in colour.

Streams are drawn by their portions, stores by what the other side does meanwhile, and buses by
their listeners.
"""

from __future__ import annotations

from wording import heading, number

OURS, OTHERS = "#c2410c", "#64748b"
STREAMS = "streams"
PORTIONS = {
    "stream-64": "64 B",
    "stream-256": "256 B",
    "stream-4k": "4 KiB",
    "stream-64k": "64 KiB",
}
STORES = (  # the figures of a store's values, in two plots side by side
    ("get_us", "get_paced_us", "get_busy_us"),
    ("put_us", "put_busy_us"),
)
BUSES = {  # the figure of a workload that is drawn by the number of listeners
    "bus-round": "p50_us",
    "bus-round-idle": "p50_us",
    "bus-round-core": "p50_us",
    "bus-flow": "per_second",
    "bus-flow-batch": "per_second",
    "bus-frames": "per_second",
}
COSTS = {"ns_": ("listeners that receive", OURS), "ns_lossy_": ("idle lossy listeners", OTHERS)}
IN_C = {  # what the native benchmarks call it, and what the report calls it
    "stream, {}, write + read": "ipcheap, from C",
    "floor: ring, {}, mapped once": "bare ring, in C",
}


def draw(medians, folder):
    """Draw SVG files and return {workload: file}, or the reason why this is not possible."""
    try:
        import matplotlib
    except ImportError as error:
        return str(error)
    matplotlib.use("svg")
    from matplotlib import pyplot

    # The same figures give the same file: no date, no random names, text as text.
    style = {"svg.hashsalt": "ipcheap", "svg.fonttype": "none", "font.size": 9}
    drawn = {}
    with matplotlib.rc_context(style):
        for workload, about in medians.document["workloads"].items():
            if workload == "churn":
                drawn[workload] = over_time(pyplot, medians)
            elif workload in BUSES:
                drawn[workload] = over_listeners(pyplot, medians, workload, about)
            elif workload == "bus-cost":
                drawn[workload] = over_registered(pyplot, medians, workload, about)
            elif STORES[0][0] in [each["key"] for each in about["figures"]]:
                drawn[workload] = gets_and_puts(pyplot, medians, workload, about)
            else:
                drawn[workload] = bars(pyplot, medians, workload, about)
        drawn[STREAMS] = over_portions(pyplot, medians)
        drawn = {name: figure for name, figure in drawn.items() if figure is not None}
        for name, figure in drawn.items():
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
            pyplot.close(figure)
    return {name: f"{name}.svg" for name in drawn}


def bars(pyplot, medians, workload, about):
    """Draw the first figure of each peer that has it."""
    first = about["figures"][0]
    found = [
        (peer, value)
        for peer in medians.document["peers"]
        if (value := medians.of(workload, peer, first["key"])) is not None
    ]
    if len(found) < 2:
        return None
    found.sort(key=lambda each: each[1], reverse=not first["more"])
    figure, axes = pyplot.subplots(figsize=(7, 0.6 + 0.28 * len(found)), layout="constrained")
    values = [value for _, value in found]
    colours = [OURS if peer == "ipcheap" else OTHERS for peer, _ in found]
    drawn = axes.barh([medians.title(peer) for peer, _ in found], values, color=colours)
    axes.bar_label(drawn, [number(value) for value in values], padding=3)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(lambda value, _: number(value))
    axes.spines[["top", "right"]].set_visible(False)
    better = "more" if first["more"] else "less"
    axes.set_xlabel(f"{heading(first)}: {better} is better")
    return figure


def gets_and_puts(pyplot, medians, workload, about):
    """Draw the gets and puts of each peer that has them, by what the other side does."""
    first = STORES[0][0]
    costs = {peer: medians.of(workload, peer, first) for peer in medians.document["peers"]}
    peers = sorted((peer for peer in costs if costs[peer] is not None), key=costs.get, reverse=True)
    if len(peers) < 2:
        return None
    titles = {each["key"]: heading(each) for each in about["figures"]}
    figure, sides = pyplot.subplots(
        1, 2, figsize=(9, 0.8 + 0.5 * len(peers)), layout="constrained", sharey=True
    )
    for axes, keys in zip(sides, STORES, strict=True):
        height = 0.8 / len(keys)
        for i, key in enumerate(keys):
            places = [place + 0.4 - (i + 0.5) * height for place in range(len(peers))]
            values = [medians.of(workload, peer, key) for peer in peers]
            colours = [OURS if peer == "ipcheap" else OTHERS for peer in peers]
            drawn = axes.barh(places, values, height, color=colours, alpha=1 - 0.3 * i)
            axes.bar_label(drawn, [number(value) for value in values], padding=3, fontsize=7)
        axes.set_yticks(range(len(peers)), [medians.title(peer) for peer in peers])
        axes.set_xscale("log")
        axes.set_xlim(left=min(medians.of(workload, peer, keys[0]) for peer in peers) / 4)
        axes.margins(x=0.15)
        axes.xaxis.set_major_formatter(lambda value, _: number(value))
        axes.spines[["top", "right"]].set_visible(False)
        downwards = "\n".join(titles[key] for key in keys)
        axes.set_xlabel(f"{downwards}\n(from above: less is better)")
    return figure


def steps(about, prefix):
    """Return the numbers of listeners for which a workload has this figure, and the figures."""
    found = {}
    for each in about["figures"]:
        number_of = each["key"].removeprefix(prefix)
        if each["key"].startswith(prefix) and number_of.isdecimal():
            found[int(number_of)] = each
    return found


def points(medians, workload, peer, figures):
    """Return (number of listeners, median) where it was measured."""
    values = {n: medians.of(workload, peer, each["key"]) for n, each in figures.items()}
    return [(n, value) for n, value in values.items() if value is not None]


def over_listeners(pyplot, medians, workload, about):
    """Draw a figure of each peer by the number of listeners."""
    figures = steps(about, f"{BUSES[workload]}_")
    lines = {peer: points(medians, workload, peer, figures) for peer in medians.document["peers"]}
    lines = {peer: line for peer, line in lines.items() if line}
    if len(lines) < 2:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    ends = []
    for peer, line in lines.items():
        colour = OURS if peer == "ipcheap" else OTHERS
        axes.plot(*zip(*line, strict=True), marker=".", color=colour)
        ends.append((line[-1], medians.title(peer)))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    apart(axes, ends)
    axes.set_xlim(right=max(figures) * max(figures) ** 0.5)  # room for the names
    axes.set_xticks(list(figures), list(map(str, figures)))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: number(value))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("listeners")
    first = next(iter(figures.values()))
    better = "more" if first["more"] else "less"
    axes.set_ylabel(f"{heading(first).replace(', 1 listener', '')}: {better} is better")
    return figure


def apart(axes, ends):
    """Write names beside the ends of lines, moved upwards where they would overlap."""
    low, high = axes.get_ylim()
    step = (high / low) ** 0.045  # the height of a name on a logarithmic axis
    least = 0.0
    for (x, y), title in sorted(ends, key=lambda each: each[0][1]):
        least = max(y, least * step)
        axes.annotate(f"  {title}", (x, least), va="center", fontsize=7)


def over_registered(pyplot, medians, workload, about):
    """Draw what a post costs by the number of registered listeners."""
    figure, axes = pyplot.subplots(figsize=(7, 2.6), layout="constrained")
    every = set()
    for prefix, (title, colour) in COSTS.items():
        line = points(medians, workload, "ipcheap", steps(about, prefix))
        if line:
            axes.plot(*zip(*line, strict=True), marker=".", color=colour, label=title)
            every.update(n for n, _ in line)
    if not every:
        pyplot.close(figure)
        return None
    axes.set_xscale("symlog", base=2)
    axes.set_xticks(sorted(every), list(map(str, sorted(every))))
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("registered listeners")
    axes.set_ylabel("ns per post: less is better")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def over_time(pyplot, medians):
    """Draw what the heap of the churn workload commits over time."""
    runs, _ = medians.counted("churn", "ipcheap")
    if not runs:
        return None
    series = runs[0]["figures"]["series"]
    figure, axes = pyplot.subplots(figsize=(7, 2.6), layout="constrained")
    operations = [point["operations"] for point in series]
    for key, colour in (("committed", OURS), ("in_use", OTHERS)):
        values = [point[key] / 2**20 for point in series]
        axes.plot(operations, values, color=colour, label=key.replace("_", " "))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("allocations and frees")
    axes.set_ylabel("MiB")
    axes.legend(frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def speeds(medians):
    """Return {title: MB/s of a stream by the portions of PORTIONS, None where not measured}."""
    found = {}
    for peer in medians.document["peers"]:
        found[medians.title(peer)] = [medians.of(each, peer, "mb_s") for each in PORTIONS]
    lines = medians.document["native"].get("lines", {})
    for name, title in IN_C.items():
        each = [lines.get(name.format(size)) for size in PORTIONS.values()]
        found[title] = [
            None if line is None else nbytes(size) / line["ns"] * 1e3
            for size, line in zip(PORTIONS.values(), each, strict=True)
        ]
    return {title: values for title, values in found.items() if any(values)}


def nbytes(size):
    """Return the number of bytes that a text such as "4 KiB" means."""
    count, unit = size.split()
    return int(count) << (10 if unit == "KiB" else 0)


def over_portions(pyplot, medians):
    """Draw how many bytes a second pass through a stream, by the size of a portion."""
    lines = speeds(medians)
    if len(lines) < 2:
        return None
    sizes = [nbytes(size) for size in PORTIONS.values()]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for title, values in lines.items():
        ours = title.startswith("ipcheap")
        style = "--" if title.endswith((", in C", ", from C")) else "-"
        points = [each for each in zip(sizes, values, strict=True) if each[1] is not None]
        axes.plot(*zip(*points, strict=True), style, marker=".", color=OURS if ours else OTHERS)
        axes.annotate(f"  {title}", points[-1], va="center")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(right=sizes[-1] * 64)  # room for the names
    axes.set_xticks(sizes, list(PORTIONS.values()))
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: number(value))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("portion")
    axes.set_ylabel("MB/s: more is better")
    return figure

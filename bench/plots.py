"""The plots: one per workload with one bar per peer, ours in colour."""

from __future__ import annotations

from wording import heading, number

OURS, OTHERS = "#c2410c", "#64748b"


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
                figure = over_time(pyplot, medians)
            else:
                figure = bars(pyplot, medians, workload, about)
            if figure is not None:
                drawn[workload] = f"{workload}.svg"
                figure.savefig(folder / drawn[workload], metadata={"Date": None})
                pyplot.close(figure)
    return drawn


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

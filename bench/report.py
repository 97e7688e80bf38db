"""The report: results.json with every run, results.md for the reader, and plots.

python bench/report.py DIR    # rewrites results.md and the plots from DIR/results.json
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import Counter
from pathlib import Path

import plots
from machine import FAR_APART
from wording import heading, number

DISTURBED = "~"  # stands before a figure for which disturbed runs had to be counted
SHORT = {  # the workloads and figures of the short table
    "records-64": "per_second",
    "records-64-batch": "per_second",
    "round-trip-spin": "p50_us",
    "round-trip-idle": "p50_us",
    "throughput-64k": "mb_s",
    "throughput-1m-whole": "mb_s",
    "frames": "per_second",
    "objects": "per_second",
    "cold-start": "over_ms",
}
SHORT_PEERS = ("ipcheap", "ring-spin", "iceoryx2-polling", "pyzmq", "mp-pipe", "mp-queue")
CLEAN = 3  # with this many undisturbed repetitions, disturbed ones do not count


class Medians:
    """The medians of all repetitions."""

    def __init__(self, document):
        self.document = document
        self.runs = {}
        for run in document["runs"]:
            self.runs.setdefault((run["workload"], run["peer"]), []).append(run)

    def counted(self, workload, peer):
        """Return the runs that count, and whether disturbed runs are among them."""
        good = [run for run in self.runs.get((workload, peer), ()) if "figures" in run]
        clean = [run for run in good if not run["disturbed"]]
        if len(clean) >= CLEAN:
            return clean, False
        return good, len(clean) < len(good)

    def values(self, workload, peer, figure):
        """Return the values of a figure, one per run that counts and has it."""
        runs, _ = self.counted(workload, peer)
        return [run["figures"][figure] for run in runs if figure in run["figures"]]

    def of(self, workload, peer, figure):
        """Return the median of a figure, None if it was not measured."""
        values = self.values(workload, peer, figure)
        return statistics.median(values) if values else None

    def doubtful(self, workload, peer):
        """Return whether disturbed runs had to be counted."""
        return self.counted(workload, peer)[1]

    def best(self, workload, figure, but):
        """Return the best peer except `but`, and its median, or (None, None)."""
        about = self.document["workloads"].get(workload)
        if about is None:
            return None, None
        (more,) = [each["more"] for each in about["figures"] if each["key"] == figure]
        found = {
            peer: value
            for peer in self.document["peers"]
            if peer != but and (value := self.of(workload, peer, figure)) is not None
        }
        if not found:
            return None, None
        peer = (max if more else min)(found, key=found.get)
        return peer, found[peer]

    def heading(self, workload, figure):
        """Return the title of a figure of a workload."""
        figures = self.document["workloads"][workload]["figures"]
        (title,) = [each["title"] for each in figures if each["key"] == figure]
        return title

    def title(self, peer):
        """Return the name of a peer."""
        return self.document["peers"][peer]["title"]


def write(document, folder):
    """Write results.json, results.md and the plots."""
    medians = Medians(document)
    (folder / "results.json").write_text(one_run_a_line(document))
    drawn = plots.draw(medians, folder)
    (folder / "results.md").write_text(markdown(medians, drawn))


def one_run_a_line(document):
    """Return the document as JSON with one run per line, so that two results can be compared."""
    runs = ",\n".join("  " + json.dumps(run) for run in document["runs"])
    rest = json.dumps({**document, "runs": []}, indent=1)
    return rest.replace('"runs": []', f'"runs": [\n{runs}\n ]') + "\n"


def markdown(medians, drawn):
    """Return the report as Markdown; `drawn` is {workload: file} or why there are no plots."""
    document = medians.document
    parts = [*head(document), *in_short(medians), *verdicts(document["claims"])]
    if isinstance(drawn, str):
        parts.append(f"No plots: {drawn}.")
        drawn = {}
    for workload, about in document["workloads"].items():
        if workload == next(iter(plots.PORTIONS)):
            parts += streams(medians, drawn)
        parts.append(f"## {capital(about['title'])}")
        parts.append(about["about"])
        parts.append(table(medians, workload, about))
        if workload in drawn:
            parts.append(f"![{about['title']}]({drawn[workload]})")
    parts += native(document["native"])
    return "\n\n".join(parts) + "\n"


def capital(text):
    """Return a text with a capital first letter."""
    return text[:1].upper() + text[1:]


def head(document):
    """Yield what the reader needs to know before the figures."""
    settings, machine = document["settings"], document["machine"]
    line = machine["cache_line_ns"]
    yield "# Results"
    if settings["quick"] or settings["repetitions"] < 5:
        yield (
            "**Provisional**: a short run with fewer than five repetitions. Do not cite these "
            "figures."
        )
    disturbed = [run for run in document["runs"] if run["disturbed"]]
    far = sum(any(FAR_APART in why for why in run["disturbed"]) for run in disturbed)
    if len(disturbed) * 2 > len(document["runs"]):
        yield "**Disturbed**: other processes used this machine during most of these runs."
    each = Counter((run["workload"], run["peer"]) for run in document["runs"])
    most = max(each.values(), default=0)
    close = f" ({most} where a claim was a close call)" if most > settings["repetitions"] else ""
    yield (
        f"{document['created']}; {settings['repetitions']} repetitions{close} of "
        f"{settings['seconds']:g} s in {document['took_seconds']} s. "
        "Medians, ± half the interquartile range. "
        f"{len(disturbed)} of {len(document['runs'])} runs were disturbed by other load or by "
        f"cores far apart ({far}). Disturbed runs count only if fewer than {CLEAN} others are "
        f"left, and the figure then begins with {DISTURBED}."
    )
    rows = [
        ("processor", f"{machine['processor']}, {machine['cores']} cores, of which two are used"),
        ("memory", f"{machine['memory_gib']} GiB"),
        ("virtual machine", machine["virtual"]),
        ("cache line, round trip", f"{line:.0f} ns" if line else "not measured"),
        ("kernel", f"{machine['kernel']}, {machine['libc']}"),
        ("compiler", machine["compiler"]),
        ("Python", f"{machine['python']}, NumPy {machine['numpy']}"),
    ]
    yield grid(("machine", ""), rows)
    yield grid(
        ("peer", "version"),
        [
            (about["title"], about["version"] or f"**not installed**: {about['missing']}")
            for about in document["peers"].values()
        ],
    )


def in_short(medians):
    """Yield the table that the README shows: medians of some workloads and peers."""
    document = medians.document
    peers = [peer for peer in SHORT_PEERS if peer in document["peers"]]
    rows = []
    for workload, key in SHORT.items():
        about = document["workloads"].get(workload)
        if about is None:
            continue
        (figure,) = [each for each in about["figures"] if each["key"] == key]
        cells = [cell(medians, workload, peer, key, spread=False) for peer in peers]
        rows.append((f"{about['title']}: {heading(figure)}", *cells))
    if rows:
        yield "## In short"
        yield grid(("", *(medians.title(peer) for peer in peers)), rows)


def verdicts(claims):
    """Yield the table of claims."""
    words = {True: "holds", False: "**does not hold**", None: "not measured"}
    yield "## Claims"
    yield grid(
        ("claim", "claimed", "found", ""),
        [
            (
                claim["claim"],
                claim["bound"] or "",
                "" if claim["found"] is None else found(claim),
                words[claim["holds"]],
            )
            for claim in claims
        ],
    )


def found(claim):
    """Return the figure that a claim is judged by, with its unit."""
    text = f"{number(claim['found'])} {claim['unit']}"
    return DISTURBED + text if claim["doubtful"] else text


def table(medians, workload, about):
    """Return the table of a workload: a row per peer, a column per figure; one peer: transposed."""
    figures = about["figures"]
    peers = [peer for peer in medians.document["peers"] if (workload, peer) in medians.runs]
    if len(peers) == 1 and len(figures) > 2:
        rows = [
            (
                heading(figure),
                cell(medians, workload, peers[0], figure["key"]),
            )
            for figure in figures
            if medians.counted(workload, peers[0])[0]
        ] or [("", remark(medians, workload, peers[0]))]
        return grid((medians.title(peers[0]), "median"), rows)
    rows = []
    for peer in peers:
        row = [medians.title(peer)]
        row += [cell(medians, workload, peer, figure["key"]) for figure in figures]
        rows.append((*row, remark(medians, workload, peer)))
    heads = [heading(figure) for figure in figures]
    suited = about["peers"]
    missing = [
        (about["title"], *["–"] * len(figures), "not installed")
        for peer, about in medians.document["peers"].items()
        if about["missing"] and peer in suited
    ]
    return grid(("peer", *heads, ""), rows + missing)


def cell(medians, workload, peer, figure, *, spread=True):
    """Return the median with the spread of the values; a dash if there are none."""
    values = medians.values(workload, peer, figure)
    if not values:
        return "–"
    text = number(statistics.median(values))
    if spread and len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        text += f" ± {number((high - low) / 2)}"
    return DISTURBED + text if medians.doubtful(workload, peer) else text


def remark(medians, workload, peer):
    """Return the remark of a row: what failed, or why there are no figures."""
    runs = medians.runs[workload, peer]
    unsuited = [run["unsuited"] for run in runs if "unsuited" in run]
    if unsuited:
        return unsuited[0]
    errors = [run["error"] for run in runs if "error" in run]
    if not errors:
        return ""
    text = errors[0].splitlines()[0].replace("|", "/")[:120]
    return f"failed in {len(errors)} of {len(runs)}: {text}"


def streams(medians, drawn):
    """Yield the section that compares streams of bytes by their portions."""
    yield "## Streams of bytes, by portion"
    yield (
        "MB/s through a ring of 1 MiB between two processes: each portion is copied in by the "
        "writer and copied out by the reader."
    )
    rows = [
        (title, *("–" if value is None else number(value) for value in values))
        for title, values in plots.speeds(medians).items()
    ]
    yield grid(("MB/s", *plots.PORTIONS.values()), rows)
    if plots.STREAMS in drawn:
        yield f"![MB/s of streams of bytes, by portion]({drawn[plots.STREAMS]})"


def native(found):
    """Yield the section about the C library."""
    if not found:
        return
    yield "## From C"
    for missing in found["missing"]:
        yield f"**Missing**: {missing}."
    if found["disturbed"]:
        yield f"**Disturbed**: {', '.join(found['disturbed'])}."
    if found["lines"]:
        yield f"{found['created']}; medians. Figures and their floors alternate."
        yield grid(
            ("what", "ns, or instructions", "ratio"),
            [
                (
                    name,
                    number(line["ns"])
                    if "ns" in line
                    else f"{number(line['instructions'])} instr.",
                    ", ".join(f"{ratio:.2f} × {of}" for of, ratio in line["ratios"].items()),
                )
                for name, line in found["lines"].items()
            ],
        )


def grid(heads, rows):
    """Return a Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    write(json.loads((place / "results.json").read_text()), place)

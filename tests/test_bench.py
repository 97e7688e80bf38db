"""The comparison with other libraries runs, and its report has the promised form.

No figure is checked: that takes a quiet machine.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"
PEERS = ("ipcheap", "mp-pipe", "mp-queue", "os-pipe", "ring-sem", "ring-spin", "pyzmq")
STANDARD = PEERS[:-1]
WORKLOADS = ("records-64", "records-64-batch", "frames", "churn")
BYTES = ("ipcheap", "pipe", "socketpair", "ring-bytes", "ring-bytes-twice")
STREAMS = {  # each workload of streams, one of each kind, and the peers that do it
    "stream-64": BYTES,
    "stream-64k": BYTES,
    "stream-items": (*BYTES, "ring-struct"),
    "stream-window-64k": ("ipcheap", "ring-views"),
    "stream-blocks": ("ipcheap", "ring-views"),
    "stream-blocks-frames": ("ipcheap", "ring-views"),
    "stream-trip-spin": ("ipcheap", "ipcheap-records", "ring-bytes", "ring-bytes-twice"),
    "stream-trip-idle": ("ipcheap", "ipcheap-records", "pipe", "socketpair"),
    "stream-epoll": ("ipcheap", "pipe", "socketpair"),
    "stream-overwrite-256": ("ipcheap",),
    "stream-period": ("ipcheap",),
    "stream-claim": ("ipcheap",),
}
KEEPERS = (
    *("ipcheap", "seqlock", "lmdb", "lmdb-writable"),
    *("iceoryx2-blackboard", "redis", "manager-dict"),
)
STORES = {  # the same for stores; not all of these peers are installed everywhere
    "store-64": KEEPERS,
    "store-64-8": KEEPERS,
    "store-1m": (*KEEPERS, "lmdb-buffers"),
    "store-1m-8": (*KEEPERS, "lmdb-buffers"),
    "store-1m-marked": KEEPERS,
    "store-transactions": ("ipcheap", "lmdb", "lmdb-writable", "redis"),
    "store-wake": ("ipcheap",),
    "store-growth-keys": ("ipcheap",),
    "store-growth-readers": ("ipcheap",),
    "store-growth-held": ("ipcheap",),
}
ROUNDERS = ("ipcheap", "ipcheap-channels", "n-pipes", "mp-barrier", "iceoryx2-pub", "pyzmq-pub")
SENDERS = tuple(peer for peer in ROUNDERS if peer != "mp-barrier")
BUSES = {  # the same for buses
    "bus-round": ROUNDERS,
    "bus-round-core": ROUNDERS,
    "bus-flow": SENDERS,
    "bus-flow-batch": tuple(peer for peer in SENDERS if peer != "iceoryx2-pub"),
    "bus-frames": ("ipcheap", "ipcheap-channels", "iceoryx2-pub"),
    "bus-post": SENDERS,
    "bus-memory": ("ipcheap",),
    "bus-cost": ("ipcheap",),
    "bus-killed": ("ipcheap",),
    "bus-idle": ("ipcheap",),
    "bus-cold-start": ("ipcheap",),
}
GRAPHS = {  # the same for graphs
    "graph-chain-64": ("ipcheap", "ipcheap-by-hand"),
    "graph-chain-frames": ("ipcheap", "ipcheap-by-hand"),
    "graph-map-64": ("ipcheap", "mp-pool"),
    "graph-map-1m": ("ipcheap", "mp-pool"),
    "graph-start": ("ipcheap",),
    "graph-replace": ("ipcheap",),
    "graph-look": ("ipcheap",),
}
COUNTED = "instructions_"  # figures that need a processor and a kernel that count them

MANY_RUNS = 400  # seconds, for one that is about thirty seconds on an idle machine


def compare(
    *arguments: str, seconds: float = 100, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command, for so many seconds at most, in an environment with a few additions."""
    return subprocess.run(
        [sys.executable, str(BENCH / "compare.py"), *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        env={**os.environ, **environment},
    )


def in_bench(script: str, *arguments: str) -> Any:
    """Run a script beside the modules of the comparison and return the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=BENCH,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results: the shortest run there is, with one peer that cannot be imported."""
    hidden = tmp_path_factory.mktemp("hidden")
    (hidden / "zmq.py").write_text("raise ImportError('zmq is hidden')\n")
    output = tmp_path_factory.mktemp("results")
    done = compare(
        f"--peers={','.join(PEERS)}",
        f"--only={','.join(WORKLOADS)}",
        "--seconds=0.005",
        "--quick",
        "--no-native",
        f"--output={output}",
        PYTHONPATH=str(hidden),
    )
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def document(results: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((results / "results.json").read_text())
    return loaded


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results for the workloads of streams."""
    output = tmp_path_factory.mktemp("streams")
    peers = dict.fromkeys(peer for peers in STREAMS.values() for peer in peers)
    done = compare(
        f"--peers={','.join(peers)}",
        f"--only={','.join(STREAMS)}",
        "--seconds=0.005",
        "--quick",
        "--no-native",
        f"--output={output}",
        seconds=MANY_RUNS,
    )
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results for the workloads of stores."""
    output = tmp_path_factory.mktemp("stores")
    done = compare(
        f"--peers={','.join(STORES['store-1m'])}",
        f"--only={','.join(STORES)}",
        "--seconds=0.005",
        "--quick",
        "--no-native",
        f"--output={output}",
        seconds=MANY_RUNS,
    )
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def buses(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results for the workloads of buses."""
    output = tmp_path_factory.mktemp("buses")
    done = compare(
        f"--peers={','.join(ROUNDERS)}",
        f"--only={','.join(BUSES)}",
        "--seconds=0.005",
        "--quick",
        "--no-native",
        f"--output={output}",
        seconds=MANY_RUNS,
    )
    assert done.returncode == 0, done.stderr
    return output


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results for the workloads of graphs."""
    output = tmp_path_factory.mktemp("graphs")
    done = compare(
        "--peers=ipcheap,ipcheap-by-hand,mp-pool",
        f"--only={','.join(GRAPHS)}",
        "--seconds=0.005",
        "--quick",
        "--no-native",
        f"--output={output}",
        seconds=MANY_RUNS,
    )
    assert done.returncode == 0, done.stderr
    return output


def test_the_document_says_on_what_it_was_measured(document: dict[str, Any]) -> None:
    assert document["schema"] == 1
    assert document["settings"] == {"quick": True, "repetitions": 1, "seconds": 0.005}
    machine = document["machine"]
    for about in ("processor", "kernel", "compiler", "python", "numpy"):
        assert machine[about], about
    assert machine["cores"] == os.cpu_count()
    assert machine["cache_line_ns"] is None or machine["cache_line_ns"] > 0


def test_every_run_has_figures_and_the_load_it_ran_under(document: dict[str, Any]) -> None:
    assert {run["workload"] for run in document["runs"]} == set(WORKLOADS)
    for run in document["runs"]:
        assert "error" not in run, run
        assert set(run["load"]) == {"others", "stolen"}
        assert len(run["line_ns"]) == 2
        assert isinstance(run["disturbed"], list)
        if "unsuited" not in run:
            for figure in document["workloads"][run["workload"]]["figures"]:
                assert run["figures"][figure["key"]] >= 0, run


def test_every_peer_that_is_here_does_the_same_work(document: dict[str, Any]) -> None:
    done = {(run["workload"], run["peer"]) for run in document["runs"] if "figures" in run}
    assert {peer for workload, peer in done if workload == "records-64"} == set(STANDARD)
    assert {peer for workload, peer in done if workload == "frames"} == set(STANDARD)
    assert {peer for workload, peer in done if workload == "churn"} == {"ipcheap"}


@pytest.mark.timeout(MANY_RUNS + 60)
def test_every_workload_of_streams_is_done_by_the_peers_that_can(streams: Path) -> None:
    document = json.loads((streams / "results.json").read_text())
    done: dict[str, set[str]] = {}
    for run in document["runs"]:
        assert "error" not in run, run
        if "figures" in run:
            done.setdefault(run["workload"], set()).add(run["peer"])
            for figure in document["workloads"][run["workload"]]["figures"]:
                if figure["key"] != "over_us":  # a difference
                    assert run["figures"][figure["key"]] >= 0, run
    assert done == {workload: set(peers) for workload, peers in STREAMS.items()}


@pytest.mark.timeout(MANY_RUNS + 60)
def test_streams_are_compared_by_their_portions(streams: Path) -> None:
    text = (streams / "results.md").read_text()
    (table,) = re.findall(r"^\| MB/s \| 64 B .*\n(?:\|.*\n)+", text, re.MULTILINE)
    rows = [row.split(" | ")[0] for row in table.splitlines()[2:]]
    assert rows == [
        "| ipcheap",
        "| os.pipe",
        "| socketpair",
        "| ring by hand, bytes",
        "| ring by hand, bytes, mapped twice",
    ]
    assert "(streams.svg)" in text
    assert ElementTree.parse(streams / "streams.svg").getroot().tag.endswith("svg")


@pytest.mark.timeout(MANY_RUNS + 60)
def test_every_claim_about_streams_that_was_measured_has_a_verdict(streams: Path) -> None:
    document = json.loads((streams / "results.json").read_text())
    found = {claim["bound"] for claim in document["claims"] if claim["holds"] is not None}
    assert found >= {
        "≥ 9 × os.pipe",
        "≥ 1 × ring by hand, spinning, struct",
        "≥ 1 × ring by hand, ready-made views",
        "≤ 1.05 × ipcheap, record channel",
        "≤ 1.1 × blocking, a fast reader",
        "≤ 1.05 per wait",
        "≤ 100 µs",
    }


@pytest.mark.timeout(MANY_RUNS + 60)
def test_every_workload_of_stores_is_done_by_the_peers_that_can(stores: Path) -> None:
    document = json.loads((stores / "results.json").read_text())
    here = {peer for peer, about in document["peers"].items() if not about["missing"]}
    assert here >= {"ipcheap", "seqlock", "manager-dict"}
    done: dict[str, set[str]] = {}
    for run in document["runs"]:
        assert "error" not in run, run
        if "figures" in run:
            done.setdefault(run["workload"], set()).add(run["peer"])
            for figure in document["workloads"][run["workload"]]["figures"]:
                assert run["figures"][figure["key"]] > 0, run
    assert done == {workload: here & {*peers} for workload, peers in STORES.items()}


@pytest.mark.timeout(MANY_RUNS + 60)
def test_gets_and_puts_of_stores_are_drawn_beside_what_the_other_side_does(stores: Path) -> None:
    text = (stores / "results.md").read_text()
    for workload in ("store-64", "store-64-8", "store-1m", "store-1m-8"):
        assert f"({workload}.svg)" in text
        drawn = (stores / f"{workload}.svg").read_text()
        for shown in ("get, puts without rest, µs", "put, gets without rest, µs"):
            assert shown in drawn


@pytest.mark.timeout(MANY_RUNS + 60)
def test_every_claim_about_stores_that_was_measured_has_a_verdict(stores: Path) -> None:
    document = json.loads((stores / "results.json").read_text())
    claims = {claim["bound"] for claim in document["claims"] if claim["holds"] is not None}
    assert claims >= {
        "≥ 50 × Manager().dict()",
        "≤ 1.1 × recv of a record channel, p50",
        "≤ 1.5 × put any, 10",
        "≤ 1.5 × put, 1",
        "≤ 1.5 × put, 0",
    }
    if not document["peers"]["lmdb"]["missing"]:
        assert {"≥ 3 × LMDB", "≥ 20 × LMDB", "≥ 10 × LMDB", "≥ 1 × LMDB, buffers"} <= claims


@pytest.mark.timeout(MANY_RUNS + 60)
def test_every_workload_of_buses_is_done_by_the_peers_that_can(buses: Path) -> None:
    document = json.loads((buses / "results.json").read_text())
    here = {peer for peer, about in document["peers"].items() if not about["missing"]}
    assert here >= {"ipcheap", "ipcheap-channels", "n-pipes", "mp-barrier"}
    done: dict[str, set[str]] = {}
    for run in document["runs"]:
        assert "error" not in run, run
        if "figures" in run:
            done.setdefault(run["workload"], set()).add(run["peer"])
            for figure in document["workloads"][run["workload"]]["figures"]:
                if figure["key"] == "over_ms" or figure["key"].startswith(COUNTED):
                    continue
                assert run["figures"][figure["key"]] >= 0, run
    assert done == {workload: here & {*peers} for workload, peers in BUSES.items()}


@pytest.mark.timeout(MANY_RUNS + 60)
def test_buses_are_drawn_by_their_listeners(buses: Path) -> None:
    text = (buses / "results.md").read_text()
    for workload in ("bus-round", "bus-round-core", "bus-flow", "bus-flow-batch", "bus-cost"):
        assert f"({workload}.svg)" in text
        assert "listeners" in (buses / f"{workload}.svg").read_text()
    assert "p50, µs: less is better" in (buses / "bus-round.svg").read_text()
    assert "n os.pipe, one back" in (buses / "bus-round.svg").read_text()
    assert "idle lossy listeners" in (buses / "bus-cost.svg").read_text()


@pytest.mark.timeout(MANY_RUNS + 60)
def test_every_claim_about_buses_that_was_measured_has_a_verdict(buses: Path) -> None:
    document = json.loads((buses / "results.json").read_text())
    found = {claim["bound"] for claim in document["claims"] if claim["holds"] is not None}
    assert found >= {
        "≤ 1.1 × n os.pipe, one back",
        "≤ 1 × n os.pipe, one back",
        "≤ 1.2 × ipcheap, n record channels",
        "≥ 3 × ipcheap, n record channels",
        "≤ 1.01 MiB",
        "≤ 1.1 × post, 1 listener",
        "≤ 100 ms",
        "≤ 25 ms",
    }


@pytest.mark.timeout(MANY_RUNS + 60)
def test_every_workload_of_graphs_is_done_by_the_peers_that_can(graphs: Path) -> None:
    document = json.loads((graphs / "results.json").read_text())
    done: dict[str, set[str]] = {}
    for run in document["runs"]:
        assert "error" not in run, run
        if "figures" in run:
            done.setdefault(run["workload"], set()).add(run["peer"])
            for figure in document["workloads"][run["workload"]]["figures"]:
                if figure["key"] != "over_ms":  # a difference
                    assert run["figures"][figure["key"]] >= 0, run
    assert done == {workload: set(peers) for workload, peers in GRAPHS.items()}
    found = {claim["bound"] for claim in document["claims"] if claim["holds"] is not None}
    assert found >= {
        "≥ 0.9 × the same channels by hand",
        "≥ 10 × multiprocessing.Pool.imap",
        "≤ 1.3 × the same processes and channels by hand",
        "≤ 200 ms",
        "≤ 2 % of a core",
    }


def test_a_writer_that_counts_waits_for_the_slowest_listener() -> None:
    script = """
import json
from peers.buses import Credit, Debt
log, answers = [], iter([[0], [0], [1], [1], [0, 1]])
def collect():
    found = next(answers)
    log.append(found)
    return found
credit, debt = Credit(2, 8, collect), Debt(8)
for _ in range(17):
    before = len(log)
    credit.use()
    log.append(len(log) - before)
print(json.dumps([log, [debt.due() for _ in range(8)]]))
"""
    log, due = in_bench(script)
    assert log == [*[0] * 8, [0], [0], [1], 3, 0, 0, 0, [1], 1, 0, 0, 0, [0, 1], 1]
    assert due == [False, False, False, True] * 2


def test_maandree_bus_is_built_where_its_sources_are(tmp_path: Path) -> None:
    script = """
import json, os, sys
import compare
os.environ.pop("MAANDREE_BUS", None)
found = [compare.look_up("maandree-bus")["missing"]]
os.environ["MAANDREE_BUS"] = sys.argv[1]
found.append(compare.look_up("maandree-bus")["missing"])
print(json.dumps(found))
"""
    assert in_bench(script, str(tmp_path)) == [
        "the variable MAANDREE_BUS does not name its source tree",
        f"there is no libbus.c in {tmp_path}, which MAANDREE_BUS names",
    ]


def test_a_cost_that_grows_is_judged_by_instructions_where_they_are_counted() -> None:
    script = """
import json
import claims, report
workloads = {"bus-cost": {"figures": [
    {"key": f"{kind}_{n}", "title": f"{kind}, {n}", "more": False}
    for kind in ("ns", "instructions") for n in ("1", "64")]}}
def found(**figures):
    runs = [{"workload": "bus-cost", "peer": "ipcheap", "figures": figures, "disturbed": []}]
    medians = report.Medians({"runs": runs, "peers": {}, "workloads": workloads})
    claim, = [each for each in claims.judge(medians, {}) if each["holds"] is not None]
    return [claim["found"], claim["bound"], claim["holds"]]
print(json.dumps([found(ns_1=100, ns_64=150),
                  found(ns_1=100, ns_64=150, instructions_1=1000, instructions_64=1050)]))
"""
    assert in_bench(script) == [
        [1.5, "≤ 1.1 × ns, 1", False],
        [1.05, "≤ 1.1 × instructions, 1", True],
    ]


def test_what_a_further_listener_costs_is_held_to_that_of_a_peer() -> None:
    script = """
import json
import claims, report
costs = {"ipcheap": (10, 45), "n-pipes": (8, 78)}
runs = [{"workload": "bus-round-core", "peer": peer, "disturbed": [],
         "figures": {"p50_us_1": one, "p50_us_8": eight}} for peer, (one, eight) in costs.items()]
peers = {peer: {"title": peer} for peer in costs}
medians = report.Medians({"runs": runs, "peers": peers, "workloads": {}})
found = [each for each in claims.judge(medians, {}) if each["holds"] is not None]
print(json.dumps({each["claim"]: [each["found"], each["holds"]] for each in found}))
"""
    assert in_bench(script) == {
        "bus, round to 1, one core, p50": [1.25, False],
        "bus, round to 8, one core, p50": [45 / 78, True],
        "bus, round, one core, slope a listener": [0.5, True],
    }


def test_our_speed_is_held_to_a_multiple_of_that_of_a_peer() -> None:
    script = """
import json
import claims, report
costs = {"ipcheap": 0.25, "lmdb": 1.0}
runs = [{"workload": "store-64", "peer": peer, "disturbed": [], "figures": {"get_us": us,
         "put_us": us}} for peer, us in costs.items()]
peers = {"lmdb": {"title": "LMDB"}}
medians = report.Medians({"runs": runs, "peers": peers, "workloads": {}})
found = [claim for claim in claims.judge(medians, {}) if claim["holds"] is not None]
print(json.dumps([[each["found"], each["bound"], each["holds"]] for each in found]))
"""
    assert in_bench(script) == [[4, "≥ 3 × LMDB", True], [4, "≥ 20 × LMDB", False]]


def test_a_seqlock_by_hand_gives_whole_values_beside_its_writer() -> None:
    script = """
import json, os
import peers
own = peers.load("seqlock", peers.STORES)(2, 4096, 1)
changed = own.key(1)
child = os.fork()
if child == 0:
    writer = own.writer()
    for i in range(20_000):
        writer.put(changed, bytes([i % 251]) * 4096)
    os._exit(0)
reader, found = own.reader(), set()
while os.waitpid(child, os.WNOHANG) == (0, 0):
    data = reader.get(changed)
    assert data.count(data[0]) == 4096
    found.add(data[0])
assert reader.get(changed) == bytes([19_999 % 251]) * 4096
assert reader.get(own.key(0)) == bytes(4096)
own.close()
print(json.dumps(len(found) > 1))
"""
    assert in_bench(script) is True


def test_a_speed_is_held_to_a_part_of_that_of_a_native_floor() -> None:
    script = """
import json
import claims, report
figures = {"ns": 400.0, "per_second": 1.0}
runs = [{"workload": "stream-4k", "peer": "ipcheap", "figures": figures, "disturbed": []}]
medians = report.Medians({"runs": runs, "peers": {}, "workloads": {}})
native = {"lines": {"floor: ring, 4 KiB, mapped once": {"ns": 200.0}}, "disturbed": []}
print(json.dumps([claim for claim in claims.judge(medians, native) if claim["holds"] is not None]))
"""
    (claim,) = in_bench(script)
    assert claim["found"] == 0.5
    assert claim["bound"] == "≥ 0.6 × C: ring, 4 KiB, mapped once"
    assert claim["holds"] is False


def test_rings_by_hand_carry_portions_across_their_end() -> None:
    script = """
import json
import peers
for key in ("ring-bytes", "ring-bytes-twice"):
    own = peers.load(key, peers.STREAMS)(1, 1, 4096)
    writer, reader = own.sender(0), own.receiver(0)
    buffer = bytearray(700)
    for i in range(100):
        sent = bytes([i]) * 350 + bytes([i + 1]) * 350
        writer.write(sent)
        reader.readinto(buffer)
        assert buffer == sent, i
    own.close()
print(json.dumps("done"))
"""
    assert in_bench(script) == "done"


def test_workloads_are_chosen_by_patterns() -> None:
    script = """
import json
import compare
print(json.dumps(compare.parse(["--only=stream-64*,records-64", "--peers=ring-bytes*"]).only))
"""
    assert in_bench(script) == ["stream-64", "stream-64k", "records-64"]


def test_a_peer_that_is_missing_is_named(document: dict[str, Any], results: Path) -> None:
    assert document["peers"]["pyzmq"]["missing"] == "zmq is hidden"
    assert "**not installed**: zmq is hidden" in (results / "results.md").read_text()


def test_every_claim_has_a_verdict(document: dict[str, Any]) -> None:
    claims = document["claims"]
    assert len(claims) > 20
    for claim in claims:
        assert set(claim) == {"claim", "found", "unit", "bound", "holds", "doubtful"}
        assert (claim["found"] is None) == (claim["holds"] is None)
    found = {claim["bound"] for claim in claims if claim["holds"] is not None}
    assert {"≥ 1 × ring by hand, spinning", "≥ 2.5 × os.pipe, framed by hand"} <= found


def test_the_native_benchmarks_are_measured_again(results: Path, tmp_path: Path) -> None:
    nothing = compare("--native-only", f"--output={tmp_path}")
    assert nothing.returncode == 2
    assert "there are no results yet" in nothing.stderr
    before = (results / "results.json").read_text()
    (tmp_path / "results.json").write_text(before)
    again = compare("--native-only", f"--output={tmp_path}", f"--native={tmp_path}")
    assert again.returncode == 0, again.stderr
    after = json.loads((tmp_path / "results.json").read_text())
    assert after["runs"] == json.loads(before)["runs"]
    programs = ("bench_records", "bench_heap", "bench_streams", "bench_store", "bench_bus")
    assert after["native"]["missing"] == [f"{program}: not built" for program in programs]
    assert "bench_heap: not built" in (tmp_path / "results.md").read_text()


def test_the_tables_are_well_formed(document: dict[str, Any], results: Path) -> None:
    text = (results / "results.md").read_text()
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) == 2 + 2 + len(WORKLOADS)  # machine, peers, in short, claims, workloads
    for table in tables:
        rows = table.splitlines()
        assert re.fullmatch(r"\|( --- \|)+", rows[1])
        assert len({row.count("|") for row in rows}) == 1, table
    for workload in document["workloads"].values():
        assert f"## {workload['title'][:1].upper()}{workload['title'][1:]}" in text
    assert "**Provisional**" in text


def test_the_readme_shows_what_was_measured() -> None:
    shown = (BENCH.parent / "README.md").read_text().partition("## How fast\n")[2]
    rows = re.search(r"(?:^\|.*\|\n)+", shown, re.MULTILINE)
    assert rows is not None
    assert rows[0] in (BENCH.parent / "docs" / "benchmarks" / "results.md").read_text()


def test_every_plot_of_the_report_is_there(results: Path) -> None:
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (results / "results.md").read_text())
    assert sorted(shown) == sorted(f"{workload}.svg" for workload in WORKLOADS)
    for name in shown:
        assert ElementTree.parse(results / name).getroot().tag.endswith("svg")


def test_a_run_that_is_stuck_is_ended_and_reported(tmp_path: Path) -> None:
    (tmp_path / "run.py").write_text("import signal\nsignal.pause()\n")
    script = """
import json, pathlib, sys
import compare
compare.PATIENCE, compare.FOLDER = 0.3, pathlib.Path(sys.argv[1])
print(json.dumps(compare.one("any", "records-64", 0.0)))
"""
    run = in_bench(script, str(tmp_path))
    assert run["error"].startswith("stuck")
    assert run["load"]["others"] >= 0


def test_disturbed_repetitions_count_only_where_there_are_not_enough_others() -> None:
    script = """
import json, sys
import machine, report
def run(value, others=0.0, line=100.0):
    return {"workload": "w", "peer": "p", "repetition": 0, "figures": {"f": value},
            "load": {"others": others, "stolen": 0.0}, "line_ns": [100.0, line]}
def median(*runs):
    usual = machine.mark(runs)
    medians = report.Medians({"runs": list(runs), "peers": {}, "workloads": {}})
    return [usual, medians.of("w", "p", "f"), medians.counted("w", "p")[1]]
quiet = [run(1), run(2), run(3)]
print(json.dumps([median(*quiet, run(90, others=0.5), run(90, line=500.0)),
                  median(*quiet[:2], run(90, others=0.5))]))
"""
    assert in_bench(script) == [[100.0, 2, False], [100.0, 2, True]]


def test_what_is_too_close_to_call_is_measured_again() -> None:
    script = """
import json
import claims, compare, report
def run(workload, peer, **figures):
    return {"workload": workload, "peer": peer, "figures": figures, "disturbed": []}
sizes = {"throughput-1m": (98, 100, 50), "throughput-8m": (150, 100, 50)}
peers = ("ipcheap", "ring-spin", "iceoryx2-polling")
figures = [{"key": "mb_s", "more": True}]
document = {
    "runs": [run(size, peer, mb_s=value) for size, values in sizes.items()
             for peer, value in zip(peers, values)]
            + [run("frames", "ipcheap", per_second=115, cpu_ms=1.8),
               run("frames", "iceoryx2-polling", per_second=100, cpu_ms=2)],
    "peers": {peer: {"title": peer} for peer in peers},
    "workloads": {size: {"figures": figures} for size in sizes},
}
close = claims.close_calls(report.Medians(document))
compare.one = lambda key, name, seconds: {"error": f"{name} {key} {seconds}"}
cores = compare.Cores(None, 0)
again = [run["error"] for run in compare.measure(close, 2, 0.5, cores)]
print(json.dumps([close, again]))
"""
    close, again = in_bench(script)
    assert close == {
        "throughput-1m": ["ipcheap", "ring-spin"],
        "frames": ["ipcheap", "iceoryx2-polling"],
    }
    assert sorted(again) == sorted(
        [f"{work} {peer} 0.5" for work, peers in close.items() for peer in peers] * 2
    )


def test_runs_with_cores_at_another_distance_are_repeated() -> None:
    script = """
import itertools
import compare
compare.PAUSE = 1
compare.time.sleep = lambda seconds: None
compare.one = lambda key, name, seconds: {"error": next(runs)}
def found(looks, patience):
    cores = compare.Cores((100, 200), patience)
    cores.probe = iter(looks).__next__
    measured = compare.measure({"records-64": ["ipcheap"]}, 2, 0.5, cores)
    return [[run["error"], run["line_ns"]] for run in measured]
results = []
for patience in (10, 2):
    runs = (f"run {i}" for i in itertools.count())
    results.append(found([130, 500, 510, 120, 125, 54, 150, 160, 170], patience))
print(json.dumps(results))
"""
    patient, hasty = in_bench("import json" + script)
    # The first run ends with far cores, the third with cores that are too near.
    assert patient == [["run 1", [120, 125]], ["run 3", [150, 160]]]
    assert hasty == [["run 1", [120, 125]], ["run 2", [125, 54]]]  # two looks are all it waits for


def test_a_distance_of_cores_is_two_numbers() -> None:
    done = compare("--line=near")
    assert done.returncode == 2
    assert "'near' is not LOW-HIGH, in nanoseconds" in done.stderr


def test_the_lines_of_the_native_benchmarks_are_read() -> None:
    script = '''
import json, native
print(json.dumps(native.read("""floor: bare ring                  15.9 ns
64 B record, allocate ... free    20.0 ns    1.26 x the bare ring
                                  20.0 ns    0.50 x something else
counted                         1064.1 instructions    1.25 x that of 1
nothing
""")))
'''
    assert in_bench(script) == {
        "floor: bare ring": {"ns": 15.9, "ratios": {}},
        "64 B record, allocate ... free": {
            "ns": 20.0,
            "ratios": {"the bare ring": 1.26, "something else": 0.5},
        },
        "counted": {"instructions": 1064.1, "ratios": {"that of 1": 1.25}},
    }


def test_an_unknown_peer_is_refused() -> None:
    done = compare("--peers=carrier-pigeon")
    assert done.returncode == 2
    assert "carrier-pigeon" in done.stderr

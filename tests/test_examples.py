"""The examples do what their READMEs say."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import peers
import pytest
from test_native import BUILD, build, build_directory, tool

import ipcheap
from ipcheap import testing

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LIMIT = 100.0

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


@pytest.fixture(params=["", "1"], ids=["as it is", "debugging"], autouse=True)
def debug(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test as it is, and with debugging, which reports mistakes."""
    monkeypatch.setenv("IPCHEAP_DEBUG", request.param)


def run(*command: str | Path, **environment: str) -> str:
    result = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        env=os.environ | environment,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.mark.parametrize("program", ["word_count.py", "word_count_graph.py"])
def test_word_count_counts_words(program: str, tmp_path: Path) -> None:
    text = b"".join(b"%d some words and_more " % n for n in range(20_000))
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(text)
    script = EXAMPLES / "word_count" / program
    output = run(sys.executable, script, tmp_path / "a", tmp_path / "b")
    counted = {word: int(n.replace(",", "")) for word, n in map(str.split, output.splitlines())}
    expected = Counter(re.findall(r"\w+", text.decode()))
    assert len(counted) == 20
    assert counted == {word: 2 * expected[word] for word in counted}
    assert {"some", "words", "and_more"} < counted.keys()


def run_example(name: str, *arguments: str) -> list[str]:
    """Run a program of the examples; return its lines, and check that its heap is gone."""
    script = EXAMPLES / name
    with subprocess.Popen(
        [sys.executable, "-W", "error", script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert testing.heaps_left(f"{script.parent.name}-{process.pid}") == []
    return output.splitlines()


def test_frames_are_forwarded() -> None:
    first, second = run_example("frames/frames.py", "60")
    assert first == "60 pictures of 6.2 MB, 20 of them picked"
    found = re.fullmatch(r"\d+ pictures/s; at most (\d+) in memory at a time", second)
    assert found is not None
    assert 1 <= int(found[1]) <= 4 + 4 + 3  # two channels, and one in the hands of each process


def test_frames_are_forwarded_in_a_graph() -> None:
    first, second = run_example("frames/frames_graph.py", "60")
    assert first == "60 pictures of 6.2 MB, 20 of them picked"
    assert re.fullmatch(r"\d+ pictures/s, with the start of all processes", second)


def test_a_graph_in_a_file_runs() -> None:
    graph = EXAMPLES / "frames" / "frames.toml"
    command = (sys.executable, "-W", "error", "-P", "-m", "ipcheap.graph", graph)
    output = run(*command, "--set", "camera.pictures=30", "--json")
    edges = json.loads(output.splitlines()[-1])["edges"]
    assert [(edge["source"], edge["sent"]) for edge in edges] == [("camera", 30), ("pick", 10)]


@pytest.mark.parametrize("program", ["sensors", "sensors_graph"])
def test_sensors_wait_for_some_and_not_for_others(program: str) -> None:
    lines = sorted(run_example(f"sensors/{program}.py", "500"))
    assert lines[:2] == ["alarm: 5 too loud, first 0", "log: 500 readings"]
    found = re.fullmatch(r"plot: (\d+) readings up to the last one seen, (\d+) of .*", lines[2])
    assert found is not None
    assert 0 <= int(found[2]) < int(found[1]) <= 500


def test_a_tone_is_heard() -> None:
    (line,) = run_example("audio/audio.py", "--pitch", "3000", "--seconds", "1")
    assert line == "93 spectra, the loudest frequency is 3000 Hz"


def test_every_line_is_shipped(tmp_path: Path) -> None:
    (line,) = run_example("log_shipper/shipper.py", str(tmp_path / "log"), "--requests", "5000")
    assert line == "5005 lines shipped, 5 of them warnings"
    lines = (tmp_path / "log").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "request 0 served"
    assert lines[-1] == "request 4999 was slow: äöü"


def test_a_slow_viewer_knows_what_it_lost() -> None:
    (line,) = run_example("capture/capture.py", "--seconds", "0.5")
    written, seen, lost, wrong = map(int, re.findall(r"\d+", line))
    assert seen + lost == written
    assert wrong == 0
    assert lost > 0


def test_every_viewer_sees_whole_frames_and_the_last_one() -> None:
    lines = run_example("newest_frame/newest_frame.py", "--frames", "200")
    found = [[*map(int, re.findall(r"\d+", line))] for line in lines]
    assert [(nap, last) for nap, _, last in found] == [(0, 199), (10, 199), (100, 199)]
    assert all(line.endswith("all whole") for line in lines)
    assert found[0][1] > found[2][1] >= 1


def test_workers_never_mix_the_parameters_of_two_steps() -> None:
    lines = run_example("parameters/parameters.py", "--steps", "50")
    found = [[*map(int, re.findall(r"\d+", line))] for line in lines]
    assert [(mixed, step) for _, mixed, step in found] == [(0, 50), (0, 50)]
    assert all(predictions >= 1 for predictions, _, _ in found)


def test_late_followers_get_what_is_still_alive() -> None:
    lines = run_example("packet_log/packet_log.py", "--packets", "5000", "--ttl", "1")
    found = {line.split(":")[0]: [*map(int, re.findall(r"\d+", line))] for line in lines}
    assert found.keys() == {"steady", "restarted", "late"}
    for levels, alarms, missed in found.values():
        assert alarms == 100
        assert levels + missed == 4900
    assert found["late"][0] == 0


def test_a_dashboard_ends_with_the_newest_values_and_all_alarms() -> None:
    lines = run_example("dashboard/dashboard.py", "--steps", "100", "--repaint", "0.05")
    end = lines.index(
        "at the end: temperature 43.7 °C, pressure 2.0 bar, speed 1600.0 rpm, alarms: 2"
    )
    assert end >= 1
    assert all(line.startswith("temperature ") for line in lines[:end])
    most = {"temperature": 100, "pressure": 20, "speed": 5}
    for line, (key, count) in zip(lines[end + 1 : end + 4], most.items(), strict=True):
        found = re.fullmatch(rf"{key}: (\d+) updates", line)
        assert found is not None
        assert 1 <= int(found[1]) <= count
    assert lines[end + 4 :] == ["step 14: 89.6 °C", "step 76: 89.0 °C"]


@pytest.mark.parametrize("program", ["loader", "loader_graph"])
def test_workers_are_used_again_for_every_epoch(program: str) -> None:
    *epochs, last = run_example(f"workers/{program}.py", "--epochs", "3", "--workers", "3")
    assert [line.split(" in ")[0] for line in epochs] == [
        f"epoch {n}: 500 samples" for n in range(3)
    ]
    assert len({line.split(" s, ")[1] for line in epochs}) == 1  # one mean
    assert last == "3 workers did it all"


def test_a_killed_worker_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES / "workers"))
    loader = importlib.import_module("loader")
    with loader.Loader(loader.Dataset(), batch=10) as batches:
        epoch = batches.epoch(seed=1)
        next(epoch)
        os.kill(batches._processes[1].pid, signal.SIGKILL)
        with pytest.raises(ipcheap.PeerDied):
            list(epoch)
        epoch.close()


@pytest.mark.parametrize("loop", [[], ["--uvloop"]], ids=["asyncio", "uvloop"])
def test_an_asyncio_service_answers_all_its_clients(loop: list[str]) -> None:
    service = EXAMPLES / "asyncio_service" / "service.py"
    output = run(sys.executable, service, "--clients", "3", "--requests", "50", *loop)
    assert output == "served 150 requests of 3 clients, 0 failed\n"


def test_writers_that_do_not_wait_find_the_bus_busy() -> None:
    lines = run_example("bus/nonblocking.py", "--pause", "0.3")
    said = sorted(re.sub(r"\d+: ", "", line) for line in lines[:3])
    posted = sum(line.startswith("message 3 released it in ") for line in said)
    assert posted >= 1
    assert said.count("message busy") == 3 - posted
    heard = [re.fullmatch(r"poller: (\d) heard, \d+ looks for nothing", each) for each in lines[3:]]
    assert [found and int(found[1]) for found in heard] == [posted] * 3


def test_a_report_names_the_slow_listener_and_a_text_the_broadcast_before() -> None:
    lines = run_example("bus/timed.py", "--unit", "0.8")
    found = dict(line.split(": ", 1) for line in lines if not line.startswith(("reader", "fast")))
    assert re.fullmatch(
        r"not posted, it is still the turn of a broadcast of 'python\S*' \(pid \d+, thread \d+\)",
        found["second"],
    )
    slow = next(line.partition(":")[0] for line in lines if line.startswith("slow, "))
    assert found["first"] == f"to 3 listeners, slow: {slow.removeprefix('slow, ')}"
    assert re.fullmatch(r"to [23] listeners, slow: none", found["third"])
    assert all(" 2 messages, " in line for line in lines if line.startswith(("slow, ", "fast, ")))


def test_displays_end_with_the_newest_volume() -> None:
    lines = run_example("bus/volume.py", "--steps", "150")
    found = [[*map(int, re.findall(r"\d+", line))] for line in lines]
    assert [(nap, shown) for nap, _, _, shown in found] == [(0, 48), (50, 48)]
    assert all(changes + lost == 150 for _, changes, lost, _ in found)
    assert found[1][2] > 0


def test_the_music_stops_for_calls_and_goes_on_after_a_kill() -> None:
    assert run_example("bus/telephony.py") == [
        "music",
        "silence",
        *["a phone is in a call"] * 2,
        "a phone hangs up",
        "a phone was killed",
        "music",
    ]


def test_daemons_wait_for_what_they_require() -> None:
    lines = run_example("bus/daemons.py", "backup")
    ready = [line.removesuffix(" is ready") for line in lines if line.endswith(" is ready")]
    assert ready[0] == "network"
    assert {*ready[1:3]} == {"ntp", "ssh"}
    assert ready[3:] == ["backup"]
    assert sorted(line for line in lines if line.startswith("starting ")) == [
        f"starting {name}" for name in ("backup", "network", "ntp", "ssh")
    ]


def test_steps_are_done_by_all_although_workers_come_and_go() -> None:
    *changes, last = run_example("bus/barrier.py", "--steps", "60")
    assert [line.split(": ")[1] for line in changes] == [f"{n} took part" for n in (2, 1, 2)]
    assert last == "60 steps, each done by all before the next: True"


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the C library is installed."""
    directory = tmp_path_factory.mktemp("prefix")
    with build_directory():
        build()
        run(tool("cmake"), "--install", BUILD, "--prefix", directory)
    return directory


def with_tools() -> str:
    """Return a PATH on which the build tools come first."""
    return os.pathsep.join([str(Path(tool("cmake")).parent), os.environ["PATH"]])


def insist_on_nothing_left(prefix: str) -> None:
    """Wait until no heap has such a name; another run of the program may have one for a while."""
    peers.until(lambda: testing.heaps_left(prefix) == [])


@needs_compiler
@pytest.mark.timeout(280)
def test_a_c_producer_feeds_a_python_consumer(prefix: Path, tmp_path: Path) -> None:
    output = run(
        *("sh", EXAMPLES / "c_producer" / "run.sh", prefix, tmp_path / "build"),
        PATH=with_tools(),
        PYTHON=sys.executable,
    )
    assert "producer: sent 1000 readings" in output
    assert "consumer: received 1000 readings, mean 499.684" in output
    insist_on_nothing_left("readings-")


@needs_compiler
@pytest.mark.timeout(280)
def test_a_c_writer_feeds_a_python_reader(prefix: Path, tmp_path: Path) -> None:
    output = run(
        *("sh", EXAMPLES / "c_writer" / "run.sh", prefix, tmp_path / "build"),
        PATH=with_tools(),
        PYTHON=sys.executable,
    )
    assert "writer: wrote 10000 samples" in output
    assert (
        "reader: 10000 samples of 1.000 s in 40 blocks, 0.707 V and 1.414 V effective"
    ) in output
    insist_on_nothing_left("samples-")


@needs_compiler
@pytest.mark.timeout(280)
def test_a_c_reader_looks_at_the_frames_of_a_python_writer(prefix: Path, tmp_path: Path) -> None:
    output = run(
        *("sh", EXAMPLES / "c_reader" / "run.sh", prefix, tmp_path / "build"),
        PATH=with_tools(),
        PYTHON=sys.executable,
    )
    assert "writer: put 500 frames" in output
    assert re.search(r"reader: the first frame of version \d+ is as it was: yes\n", output)
    found = re.search(
        r"reader: saw (\d+) frames, the last of version 500 with mean 499\.0\n", output
    )
    assert found is not None
    assert 1 <= int(found[1]) <= 500
    insist_on_nothing_left("newest-")


@needs_compiler
@pytest.mark.timeout(280)
def test_a_c_listener_hears_all_of_a_python_writer(prefix: Path, tmp_path: Path) -> None:
    output = run(
        *("sh", EXAMPLES / "c_listener" / "run.sh", prefix, tmp_path / "build"),
        PATH=with_tools(),
        PYTHON=sys.executable,
    )
    assert "writer: posted 500 frames to 1 listeners, 0 slow" in output
    assert "listener: 500 frames, 500 in order, the last with mean 499.0\n" in output
    assert "listener: the first frame is as it was: yes\n" in output
    insist_on_nothing_left("frames-")


@needs_compiler
@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("example", "given", "other", "says"),
    [
        ("c_producer/producer", ["50"], ["consumer.py"], "consumer: received 50 readings"),
        ("c_writer/writer", ["50"], ["reader.py"], "reader: 50 samples of 0.005 s in 1 blocks"),
        ("c_reader/reader", [], ["writer.py", "--frames=50"], "of version 50 with mean 49.0"),
        ("c_listener/listener", [], ["poster.py", "--frames=50"], "the last with mean 49.0"),
    ],
)
def test_the_one_line_of_the_readme_builds_the_program(
    prefix: Path, tmp_path: Path, example: str, given: list[str], other: list[str], says: str
) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config")
    folder, program = (EXAMPLES / example).parent, Path(example).name
    (line,) = re.findall(r"^(gcc .*)$", (folder / "README.md").read_text(), re.MULTILINE)
    line = line.replace("gcc", "cc", 1)
    shutil.copy(folder / f"{program}.c", tmp_path)
    (pc,) = prefix.rglob("ipcheap.pc")
    libraries = pc.parents[1]
    run("sh", "-c", f"cd '{tmp_path}' && {line}", PKG_CONFIG_PATH=str(pc.parent))
    heap = f"one-line-{os.getpid()}"
    script, *options = other
    with subprocess.Popen(
        [tmp_path / program, heap, *given],
        env=os.environ | {"LD_LIBRARY_PATH": str(libraries)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            output = run(sys.executable, folder / script, heap, *options)
            output += process.communicate(timeout=LIMIT)[0]
            assert process.returncode == 0
        finally:
            process.kill()
    assert says in output

"""The examples do what their READMEs say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from test_native import BUILD, build, build_directory, tool

import ipcheap

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
LIMIT = 100.0

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")


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


def heaps_of(prefix: str) -> list[str]:
    return [heap.name for heap in ipcheap.heaps() if heap.name.startswith(prefix)]


def test_word_count_counts_words(tmp_path: Path) -> None:
    text = b"".join(b"%d some words and_more " % n for n in range(20_000))
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(text)
    output = run(
        sys.executable, EXAMPLES / "word_count" / "word_count.py", tmp_path / "a", tmp_path / "b"
    )
    counted = {word: int(n.replace(",", "")) for word, n in map(str.split, output.splitlines())}
    expected = Counter(re.findall(r"\w+", text.decode()))
    assert len(counted) == 20
    assert counted == {word: 2 * expected[word] for word in counted}
    assert {"some", "words", "and_more"} < counted.keys()


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
    assert heaps_of("readings-") == []


@needs_compiler
@pytest.mark.timeout(280)
def test_the_one_line_of_the_readme_builds_the_producer(prefix: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("no pkg-config")
    readme = (EXAMPLES / "c_producer" / "README.md").read_text()
    (line,) = re.findall(r"^(gcc .*)$", readme, re.MULTILINE)
    line = line.replace("gcc", "cc", 1)
    shutil.copy(EXAMPLES / "c_producer" / "producer.c", tmp_path)
    (pc,) = prefix.rglob("ipcheap.pc")
    libraries = pc.parents[1]
    run("sh", "-c", f"cd '{tmp_path}' && {line}", PKG_CONFIG_PATH=str(pc.parent))
    heap = f"one-line-{os.getpid()}"
    with subprocess.Popen(
        [tmp_path / "producer", heap, "50"],
        env=os.environ | {"LD_LIBRARY_PATH": str(libraries)},
        stdout=subprocess.PIPE,
        text=True,
    ) as producer:
        try:
            output = run(sys.executable, EXAMPLES / "c_producer" / "consumer.py", heap)
            assert producer.wait(LIMIT) == 0
        finally:
            producer.kill()
    assert "consumer: received 50 readings" in output

"""The native test programs, each a test here, the installed C library, and its header.

They are built from the checkout, with the crash steps that the installed wheel lacks, into
build/native-pytest. The first worker builds, the others wait for it. With IPCHEAP_SANITIZED_LATER
set, the long ones are left to a run of the preset `asan` in the same check.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
INCLUDE = ROOT / "native" / "include"
BUILD = ROOT / "build" / "native-pytest"
PROGRAMS = sorted(source.stem for source in (ROOT / "native" / "tests").glob("test_*.c"))
# The areas of test_crash.
CRASHES = (
    *("memory", "directory", "static", "channel"),
    *("stream", "store", "upkeep", "bus", "listeners"),
)
RUNS = [
    run
    for name in PROGRAMS
    for run in ([(name, a) for a in CRASHES] if name == "test_crash" else [(name,)])
]
LONG = ("test_bus_stopped", "test_corrupt", "test_crash", "test_faults")
SKIPPED = 77
LIMIT = 240.0  # seconds for one run

# Below faulthandler_timeout, above LIMIT: the earliest limit gives the best diagnosis.
pytestmark = pytest.mark.timeout(280)


def tool(name: str) -> str:
    """Return the path of a build tool, in this environment or otherwise in the system."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.fail(f"{name} not found: pip install '.[test]' brings cmake, ctest and ninja")
    return found


def run(*command: str | Path) -> tuple[int, str]:
    """Run a command and everything that it forks; return its exit code and output."""
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except BaseException as error:
            # The whole session: a forked child keeps the pipe open.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            pytest.fail(f"{command[0]} did not end within {LIMIT:.0f} s:\n{output}")
    return process.returncode, output


@contextlib.contextmanager
def build_directory() -> Iterator[None]:
    """Lock the build directory."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def build() -> None:
    configure = [
        tool("cmake"),
        *("-S", str(ROOT), "-B", str(BUILD), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        "-DCMAKE_BUILD_TYPE=Debug",
        "-DIPCHEAP_STEPS=ON",
        "-DIPCHEAP_TESTS=ON",
    ]
    code, output = run(*configure)
    if code:
        # The cache may name a checkout or an environment that has moved.
        for stale in (BUILD / "CMakeCache.txt", BUILD / "CMakeFiles"):
            shutil.rmtree(stale) if stale.is_dir() else stale.unlink(missing_ok=True)
        code, output = run(*configure)
    assert code == 0, output
    code, output = run(tool("cmake"), "--build", str(BUILD))
    assert code == 0, output


@pytest.fixture(scope="module")
def built() -> Path:
    """Return the folder of the native test programs, up to date."""
    with build_directory():
        build()
    return BUILD / "native" / "tests"


@pytest.mark.parametrize("command", RUNS, ids="-".join)
def test_program(command: tuple[str, ...], built: Path) -> None:
    name, *arguments = command
    if name in LONG and os.environ.get("IPCHEAP_SANITIZED_LATER"):
        pytest.skip("ctest --preset asan runs it")
    code, output = run(built / name, *arguments)
    if code == SKIPPED:
        pytest.skip(output.strip() or f"{name} skips itself")
    assert code == 0, f"{name} ended with {code}:\n{output}"


def test_all_areas_of_crashes_are_run(built: Path) -> None:
    assert run(built / "test_crash", "areas") == (0, "".join(f"{area}\n" for area in CRASHES))


def test_an_installed_library_is_found_by_cmake_and_pkg_config(built: Path) -> None:
    with build_directory():
        code, output = run(
            tool("ctest"),
            *("--test-dir", str(BUILD), "--tests-regex", "^consumer$"),
            *("--output-on-failure", "--no-tests=error"),
        )
    assert code == 0, output


# The header -------------------------------------------------------------------------------


def declared() -> set[str]:
    """Return the functions that the public header declares."""
    text = (INCLUDE / "ipcheap" / "ipcheap.h").read_text()
    names = re.findall(r"^IPCHEAP_API [^;(]*?(\w+)\(", text, re.MULTILINE)
    assert len(names) == len(re.findall(r"^IPCHEAP_API ", text, re.MULTILINE)) > 0
    return set(names)


def test_the_library_exports_what_the_header_declares_and_nothing_else(built: Path) -> None:
    library = built.parent / "libipcheap.so"
    code, output = run(tool("nm"), "--dynamic", "--defined-only", "--format=posix", library)
    assert code == 0, output
    exported = {line.split()[0] for line in output.splitlines()}
    assert declared() - exported == set()
    # What a compiler or a linker adds of its own begins with an underscore.
    assert {name for name in exported - declared() if not name.startswith("_")} == set()


@pytest.mark.parametrize("header", sorted(path.name for path in (INCLUDE / "ipcheap").glob("*.h")))
@pytest.mark.parametrize(("compiler", "language"), [("cc", "c"), ("c++", "c++")])
def test_a_header_compiles_by_itself(
    compiler: str, language: str, header: str, tmp_path: Path
) -> None:
    if compiler == "c++" and shutil.which(compiler) is None:
        pytest.skip("no C++ compiler here")
    source = tmp_path / "alone"
    source.write_text(f"#include <ipcheap/{header}>\n")
    strict = ("-Wall", "-Wextra", "-pedantic-errors", "-Werror", "-fsyntax-only")
    code, output = run(
        tool(compiler),
        *("-x", language, f"-std={language}11", *strict, "-I", INCLUDE, source),
    )
    assert code == 0, output


def test_there_are_programs() -> None:
    assert PROGRAMS

"""Kill anything, anywhere, at random: short runs of tests/murder/, which says what it checks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("IPCHEAP_MURDER_SECONDS", "10"))


def murder(part: str) -> str:
    """Kill the users of some channels; return the figures."""
    done = subprocess.run(
        [sys.executable, "-m", "murder", "--seconds", str(SECONDS), "--part", part],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=SECONDS + 100,
    )
    print(done.stdout)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def check(figures: re.Match[str] | None) -> None:
    """Check that enough was done and killed."""
    assert figures
    assert all(int(figure.replace(",", "")) > 20 for figure in figures.groups())


@pytest.mark.timeout(SECONDS + 110)
def test_after_random_murder_every_record_is_accounted_for() -> None:
    check(
        re.search(
            r"(\d+) kills .*; ([\d,]+) records sent, ([\d,]+) received.*; ([\d,]+) items",
            murder("channels"),
        )
    )


@pytest.mark.timeout(SECONDS + 110)
def test_after_random_murder_every_message_of_a_bus_is_accounted_for() -> None:
    check(
        re.search(
            r"(\d+) kills .*; ([\d,]+) messages posted, ([\d,]+) received, ([\d,]+) lost.*"
            r" [1-9][\d,]* broadcasts complete, ([\d,]+) with a slow listener",
            murder("buses"),
        )
    )

"""A worker of a graph killed before every call: see graph_crash.py, which does it.

By default a sample of the calls. IPCHEAP_CRASH_KILLS is how many of each form, 0 for all.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from graph_forms import FORMS

HERE = Path(__file__).parent
KILLS = int(os.environ.get("IPCHEAP_CRASH_KILLS", "12"))
PATIENCE = 100 if 0 < KILLS < 100 else 100_000


def crash(name: str, kills: int = KILLS) -> subprocess.CompletedProcess[str]:
    """Kill the victim of a form, so often at most."""
    done = subprocess.run(
        [sys.executable, "-m", "graph_crash", *(["--kills", str(kills)] if kills else []), name],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    print(done.stdout, done.stderr)
    return done


@pytest.mark.timeout(PATIENCE + 10)
@pytest.mark.parametrize("name", FORMS)
def test_a_worker_that_is_killed_before_any_call_loses_and_repeats_nothing(name: str) -> None:
    done = crash(name)
    assert done.returncode == 0
    figures = re.search(r"(\d+) points, (\d+) kills", done.stdout)
    assert figures
    points, kills = map(int, figures.groups())
    assert points > 300
    assert kills > min(points, KILLS or points)


def test_a_wrong_result_is_noticed() -> None:
    done = crash("a source that begins again", 8)
    assert done.returncode == 1
    assert "WRONG" in done.stdout

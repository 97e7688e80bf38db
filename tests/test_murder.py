"""Kill anything, anywhere, at random: a short run of tests/murder/, which says what it checks."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_after_random_murder_every_record_is_accounted_for() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "murder", "--seconds", "10"],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    figures = re.search(
        r"(\d+) kills .*; ([\d,]+) records sent, ([\d,]+) received.*; ([\d,]+) items", done.stdout
    )
    assert figures, done.stdout
    assert all(int(figure.replace(",", "")) > 20 for figure in figures.groups()), done.stdout
    print(done.stdout)

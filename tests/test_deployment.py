"""The page on deployment names tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "deployment.md").read_text()


def test_each_test_that_the_page_names_exists() -> None:
    named = set(re.findall(r"`(\w+\.(?:py|c))`", PAGE))
    assert len(named) > 15
    folders = ROOT / "tests", ROOT / "native" / "tests"
    assert [name for name in named if not any((f / name).is_file() for f in folders)] == []

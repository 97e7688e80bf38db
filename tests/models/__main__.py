"""Explore all models and print what was found: `python -m models` in tests/."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.table import Table

from . import FAMILIES
from .explorer import explore


def main() -> int:
    """Return 1 if a model does not hold or a control does not fail."""
    console = Console()
    table = Table("model")
    for title in ("states", "transitions", "ends", "seconds"):
        table.add_column(title, justify="right")
    table.add_column("")
    wrong = []
    for family in FAMILIES:
        for control, models in ((False, family.MODELS), (True, family.CONTROLS)):
            for name, make in models.items():
                start = time.process_time()
                report = explore(make())
                seconds = f"{time.process_time() - start:.2f}"
                if (report.violation is not None) != control:
                    wrong.append(report)
                verdict = f"fails, {len(report.trace)}" if report.violation else "holds"
                short = family.__name__.rpartition(".")[2]
                title = f"  [dim]control:[/] {name}" if control else f"[bold]{short}: {name}"
                numbers = (report.states, report.transitions, report.ends)
                table.add_row(title, *(f"{n:,}" for n in numbers), seconds, verdict)
    console.print(table)
    for report in wrong:
        console.print(str(report), markup=False)
    return bool(wrong)


sys.exit(main())

"""How figures are written, in tables and in plots."""

from __future__ import annotations


def number(value):
    """Return a figure with as many digits as mean something."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        digits = len(str(int(abs(value))))
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.3g}"


def heading(figure):
    """Return the title of a figure, with its unit where the title does not say it."""
    unit = figure["unit"]
    return figure["title"] if unit in figure["title"] else f"{figure['title']}, {unit}"

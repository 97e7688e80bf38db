"""How figures are written in tables and plots."""

from __future__ import annotations


def number(value):
    """Return a figure with three significant digits."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        digits = len(str(int(abs(value))))
        return f"{round(value, 3 - digits):,.0f}"
    return f"{value:.3g}"


def heading(figure):
    """Return the title of a figure, with its unit unless the title contains it."""
    unit = figure["unit"]
    return figure["title"] if unit in figure["title"] else f"{figure['title']}, {unit}"

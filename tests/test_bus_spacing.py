"""Broadcasts at spacings that lock up maandree/bus: tests/bus_spacing.py says what it checks."""

from __future__ import annotations

import bus_spacing
import pytest

HOUR = 180_000  # messages, at one every 20 ms


@pytest.mark.timeout(400)
def test_an_hour_of_broadcasts_does_not_stall_at_full_speed(heap_name: str) -> None:
    print(bus_spacing.measure(heap_name, HOUR, spacing=0.0, listeners=2))


@pytest.mark.parametrize("spacing", [0.0003, 0.002])
def test_broadcasts_to_listeners_that_fall_asleep_do_not_stall(
    heap_name: str, spacing: float
) -> None:
    print(bus_spacing.measure(heap_name, round(3 / spacing), spacing, listeners=2))

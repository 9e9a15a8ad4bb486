"""A plot of sums per day, as the numbers that an SVG is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

WIDTH: Final = 720
HEIGHT: Final = 200
DAYS: Final = 30
_STEPS: Final = (1, 2, 4, 6, 8, 10)


@dataclass(frozen=True)
class Bar:
    """One day."""

    day: date
    value: Decimal
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Plot:
    """The last days that there are, and the lines behind them with their values."""

    bars: list[Bar]
    lines: list[tuple[float, Decimal]]
    total: Decimal


def bars(values: Mapping[date, Decimal]) -> Plot:
    """Return the plot of ``values``; a day that has none counts as zero."""
    if not values:
        return Plot([], [], Decimal(0))
    last = max(values)
    first = max(min(values), last - timedelta(days=DAYS - 1))
    count = (last - first).days + 1
    values = {day: value for day, value in values.items() if day >= first}
    top = _round_up(max(values.values()))
    slot = WIDTH / count
    made = []
    for number in range(count):
        day = first + timedelta(days=number)
        value = values.get(day, Decimal(0))
        height = round(float(value / top) * HEIGHT, 1)
        x = round(number * slot + slot * 0.15, 1)
        made.append(Bar(day, value, x, HEIGHT - height, round(slot * 0.7, 1), height))
    lines = [(HEIGHT * (1 - part / 4), top * part / 4) for part in range(5)]
    return Plot(made, lines, sum(values.values(), Decimal(0)))


def short(value: Decimal) -> str:
    """Return what stands beside a line, where there is room for few digits."""
    for power, letter in ((12, "T"), (9, "B"), (6, "M"), (3, "k")):
        if value >= 10**power:
            return f"{float(value / 10**power):.3g}{letter}"
    return f"{float(value):.3g}"


def _round_up(value: Decimal) -> Decimal:
    """Return the next of `_STEPS` times a power of ten."""
    power = Decimal(10) ** value.adjusted() if value else Decimal(1)
    return next(step * power for step in _STEPS if step * power >= value)

"""Statistics over seeds: confidence intervals, paired differences, tables. Prompts are averaged, they are no seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any


def interval(values: Iterable[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95% confidence interval (Student's t); infinite for a single value."""
    values = list(values)
    if len(values) < 2:
        return values[0], math.inf
    from scipy.stats import t

    half = float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5
    return statistics.fmean(values), half


def mean_exceeds(values: Iterable[float], limit: float = 0.0) -> bool | None:
    """Whether the mean is above a limit, if the whole interval is on one side of it."""
    mean, half = interval(values)
    return None if abs(mean - limit) <= half else mean > limit


def all_hold(one: bool | None, other: bool | None) -> bool | None:
    """Whether two things hold, where either may be undecided."""
    if False in (one, other):
        return False
    return None if None in (one, other) else True


def values_of(rows: Iterable[dict[str, Any]], key: str, **where: Any) -> list[float]:
    """A figure by seed, in order: means over the rows whose other figures are the given ones. Prompts are no seeds."""
    by_seed: dict[int, list[float]] = {}
    for r in rows:
        if r.get(key) is not None and all(r[k] == v for k, v in where.items()):
            by_seed.setdefault(r["seed"], []).append(float(r[key]))
    return [statistics.fmean(by_seed[seed]) for seed in sorted(by_seed)]


def paired_difference(one: list[float], other: list[float]) -> list[float]:
    """Differences for the same seed."""
    return [a - b for a, b in zip(one, other, strict=True)]


def format_ci(values: Iterable[float], digits: int = 3) -> str:
    """Mean and interval, as text."""
    mean, half = interval(values)
    return f"{mean:.{digits}f}" + (f" ± {half:.{digits}f}" if math.isfinite(half) else "")


def table_of(rows: list[dict[str, Any]], columns: dict[str, str], by: str = "variant") -> list[dict[str, str]]:
    """Means and intervals of those figures that the rows have, a row a variant; `columns` says what they are called."""
    table = []
    for name in dict.fromkeys(r[by] for r in rows):
        figures = {label: values_of(rows, key, **{by: name}) for key, label in columns.items()}
        table.append({by: name} | {k: format_ci(v, _digits(k, v)) for k, v in figures.items() if v})
    return table


def _digits(label: str, values: list[float]) -> int:
    return 2 if "dB" in label else 3 if max(map(abs, values)) < 10 else 0

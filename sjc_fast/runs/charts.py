"""Line charts as inline SVG, which needs no script and follows the page's colors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT = 420, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 20, 26, 28


def line_chart(title: str, steps: Sequence[float], values: Sequence[float], *, logarithmic: bool = False) -> str:
    """One curve over the steps.

    Args:
        title: what is drawn, with its unit.
        steps, values: the points; those that are not finite (or not positive on a logarithmic axis) are left out.
        logarithmic: whether the vertical axis is.
    """
    usable = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v) and (v > 0 or not logarithmic)]
    if len(usable) < 2:
        return ""
    scale = math.log10 if logarithmic else float
    xs, ys = [s for s, _ in usable], [scale(v) for _, v in usable]
    low, high = min(ys), max(ys)
    if high - low < 1e-12:
        low, high = low - 0.5, high + 0.5
    x_of = lambda s: LEFT + (s - xs[0]) / max(xs[-1] - xs[0], 1e-12) * (WIDTH - LEFT - RIGHT)  # noqa: E731
    y_of = lambda y: TOP + (high - y) / (high - low) * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    path = " ".join(f"{x_of(s):.1f},{y_of(y):.1f}" for s, y in zip(xs, ys, strict=True))
    marks = []
    for y in _decades(low, high) if logarithmic else _ticks(low, high):
        label = f"{10**y:.3g}" if logarithmic else f"{y:.4g}"
        marks.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y_of(y):.1f}" y2="{y_of(y):.1f}"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{y_of(y) + 4:.1f}" text-anchor="end">{label}</text>')
    for s in _ticks(xs[0], xs[-1]):
        marks.append(f'<text x="{x_of(s):.1f}" y="{HEIGHT - 8}" text-anchor="middle">{s:.5g}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">'
        f'<text class="title" x="{LEFT}" y="15">{escape(title)}</text>{"".join(marks)}'
        f'<polyline points="{path}"/></svg>'
    )


def _decades(low: float, high: float) -> list[float]:
    """Logarithms of round numbers: 1, 2 and 5 times powers of ten, or the powers alone where they are many."""
    powers = range(math.floor(low), math.ceil(high) + 1)
    leads = (1, 2, 5) if high - low < 2 else (1,)
    return [y for p in powers for y in (p + math.log10(m) for m in leads) if low <= y <= high]


def _ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round numbers between low and high, about as many as wanted."""
    rough = (high - low) / wanted
    power = 10 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs(s - rough))
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]

"""What a profiler saw on the device, as colored bars over time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLORS = {
    "matrix products": (66, 103, 178),
    "convolutions": (222, 125, 44),
    "attention": (150, 80, 160),
    "rendering": (46, 139, 87),
    "optimizer": (200, 60, 60),
    "other": (160, 160, 160),
}
#: Part of a kernel's name, and what it does.
KINDS = {
    "march": "rendering",
    "optimizer": "optimizer",
    "flash": "attention",
    "fmha": "attention",
    "attention": "attention",
    "conv": "convolutions",
    "fprop": "convolutions",
    "cudnn": "convolutions",
    "gemm": "matrix products",
    "mm": "matrix products",
    "nvjet": "matrix products",
    "linear": "matrix products",
}


@dataclass(frozen=True)
class Span:
    """A kernel on the device, in microseconds."""

    kind: str
    start: float
    end: float


def spans(events: Iterable[Any], device: str) -> list[Span]:
    """The kernels among a profiler's events (on a CPU, its outermost operations)."""
    found = []
    for event in events:
        on_device = "cuda" in str(event.device_type).lower()
        if on_device != (device == "cuda") or (device != "cuda" and event.cpu_parent is not None):
            continue
        name = event.name.lower()
        kind = next((k for part, k in KINDS.items() if part in name), "other")
        found.append(Span(kind, event.time_range.start, event.time_range.end))
    return found


def draw(found: list[Span], path: Path, width: int = 1600, height: int = 60) -> None:
    """One bar a kind over the time from the first kernel's start to the last one's end, as PNG."""
    begin, end = min(f.start for f in found), max(f.end for f in found)
    margin, row = 150, height // 2
    picture = Image.new("RGB", (margin + width, row * (len(COLORS) + 1)), "white")
    pen = ImageDraw.Draw(picture)
    for i, (kind, color) in enumerate(COLORS.items()):
        total = sum(f.end - f.start for f in found if f.kind == kind)
        pen.text((4, i * row + row // 4), f"{kind} {100 * total / (end - begin):.1f}%", fill="black")
        for f in found:
            if f.kind == kind:
                x0, x1 = (margin + width * (t - begin) / (end - begin) for t in (f.start, f.end))
                pen.rectangle((x0, i * row + 2, max(x0, x1 - 1), (i + 1) * row - 3), fill=color)
    pen.text((margin, len(COLORS) * row + row // 4), f"{(end - begin) / 1e3:.2f} ms", fill="black")
    picture.save(path)

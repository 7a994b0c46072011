"""How much a voxel's channels cost the march: ``python -m benchmarks.channels`` writes results/channels.json.

Each number of channels is timed against marching its groups of four one after the other, which gives the same
gradients.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from sjc_fast.rendering import render
from sjc_fast.rendering.checks import make_field
from sjc_fast.scene.cameras import Cameras, ring
from sjc_fast.scene.field import VoxelField

from .report import save

CHANNELS = (3, 4, 5, 8, 16, 32)


def both_ways(field: VoxelField, camera: Cameras, size: int, backend: str) -> None:
    """A rendering, and its backward pass."""
    out = render(field, camera, size, backend=backend)
    torch.autograd.backward([out.features.sum() + out.opacity.sum()])
    field.zero_grad(set_to_none=True)


def seconds(call: Callable[[], None], device: torch.device) -> float:
    """Of one call."""
    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def compare(kind: str, channels: int, device: torch.device, size: int, resolution: int, times: int) -> dict[str, Any]:
    """Medians in ms of both arms, taken in turn."""
    backend = "triton" if device.type == "cuda" else "cpu"
    camera = ring(1, 20, 1.5, 55.0).to(device)
    whole, four = (make_field(kind, (resolution,) * 3, c).to(device) for c in (channels, 4))
    groups = -(-channels // 4)

    def separately() -> None:
        for _ in range(groups):
            both_ways(four, camera, size, backend)

    taken: list[tuple[float, float]] = []
    for _ in range(times + 2):
        together = seconds(lambda: both_ways(whole, camera, size, backend), device)
        taken.append((together, seconds(separately, device)))
    ours, theirs = (statistics.median(column) * 1e3 for column in zip(*taken[2:], strict=True))
    return {"scene": kind, "channels": channels, "ms": ours, "groups_one_by_one_ms": theirs, "ratio": theirs / ours}


def main() -> None:
    """Both scenes, every number of channels."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=64, help="pixels a side")
    parser.add_argument("--resolution", type=int, default=100, help="voxels a side")
    parser.add_argument("--times", type=int, default=15)
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [
        compare(kind, channels, device, options.size, options.resolution, options.times)
        for kind in ("solid", "fog")
        for channels in CHANNELS
    ]
    for row in rows:
        print(row)
    settings = {"size": options.size, "resolution": options.resolution, "views": 1, "times": options.times}
    print(save("channels", {"device": str(device), "settings": settings, "rows": rows}))


if __name__ == "__main__":
    main()

"""pytest-benchmark: every renderer, forward and backward, in comparable groups. ``pytest benchmarks``."""

from __future__ import annotations

import pytest
import torch

from sjc_fast.cameras import ring
from sjc_fast.field import VoxelField
from sjc_fast.rendering import BACKENDS, render

SIZES = [(64, 40), (64, 100)]  # pixels a side, voxels a side


def scene(resolution: int, kind: str) -> VoxelField:
    """ "fog" is how training starts, "solid" how it ends."""
    field = VoxelField(resolution, 4, generator=torch.Generator().manual_seed(0))
    if kind == "solid":
        axis = torch.linspace(-1, 1, resolution)
        radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
        field.density.data = torch.where(radius < 0.6, 100.0, -20.0)
    return field


@pytest.mark.parametrize("kind", ["fog", "solid"])
@pytest.mark.parametrize(("size", "resolution"), SIZES)
@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize("way", ["forward", "forward+backward"])
def test_render(benchmark, backend, size, resolution, kind, way):
    benchmark.group = f"render {way}, {size}x{size}, {resolution}^3, {kind}"
    field, camera = scene(resolution, kind), ring(1, 20, 1.5, 55.0)
    upstream = torch.randn(1, 4, size, size, generator=torch.Generator().manual_seed(1))

    def forward():
        with torch.no_grad():
            return render(field, camera, size, backend=backend)

    def both():
        out = render(field, camera, size, backend=backend)
        torch.autograd.backward([out.features, out.emptiness.sum()], [upstream, None])

    benchmark(forward if way == "forward" else both)

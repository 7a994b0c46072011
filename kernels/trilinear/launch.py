"""How Triton samples grids."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from ..options import OPTIONS, launch
from .kernels import BLOCK_SIZE, gradient_kernel, sample_kernel


def sample(grid: Tensor, points: Tensor) -> Tensor:
    """See `sjc_fast.kernels.trilinear.trilinear_sample`."""
    count, channels = len(points), grid.shape[-1]
    out = torch.empty(count, channels, device=grid.device)
    if count:
        with torch.cuda.device_of(grid):
            launch(sample_kernel, triton.cdiv(count, BLOCK_SIZE))(
                grid, points.contiguous(), out, count, *grid.shape[:3], **_constants(channels)
            )
    return out


def add_gradients(
    grad_grid: Tensor,  # [D, H, W, C] added to
    grad_points: Tensor,  # [P, 3] written
    grid: Tensor,
    points: Tensor,
    upstream: Tensor,  # [P, C]
    to_grid: bool,
    to_points: bool,
) -> None:
    """The backward pass; a gradient that is not wanted is not touched."""
    count = len(points)
    if count:
        with torch.cuda.device_of(grid):
            launch(gradient_kernel, triton.cdiv(count, BLOCK_SIZE))(
                grid, points.contiguous(), upstream.contiguous(), grad_grid, grad_points, count, *grid.shape[:3],
                TO_GRID=to_grid, TO_POINTS=to_points, **_constants(grid.shape[-1]),
            )  # fmt: skip


def _constants(channels: int) -> dict[str, Any]:
    return {"C": channels, "WIDE": triton.next_power_of_2(channels), "BLOCK": BLOCK_SIZE} | OPTIONS | {"num_warps": 4}

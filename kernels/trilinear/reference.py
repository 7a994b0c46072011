"""Trilinear sampling by `torch.nn.functional.grid_sample`: the naive twin of the kernels."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import grid_sample


def trilinear_sample(grid: Tensor, points: Tensor) -> Tensor:
    """See `sjc_fast.kernels.trilinear.trilinear_sample`; any float type, with autograd."""
    lookup = grid.permute(3, 0, 1, 2)[None]
    return grid_sample(lookup, points[None, None, None], align_corners=False)[0, :, 0, 0].T

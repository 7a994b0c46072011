"""`trilinear_sample`: values of a channel-last grid at points, with gradients to the grid and to the points.

Equal to `torch.nn.functional.grid_sample` with ``align_corners=False`` and zero padding: along an axis of n voxels, the
coordinate x in [-1, 1] is the position ``((x + 1) n - 1) / 2``, with voxel centers at whole numbers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..contract import implementation


def trilinear_sample(
    grid: Tensor,  # [D, H, W, C], contiguous; float32 or half precision
    points: Tensor,  # [P, 3] float32: x, y, z, each in [-1, 1] inside the grid
) -> Tensor:
    """Trilinear values of a grid at points, [P, C] float32; zero outside.

    Raises:
        ValueError: tensors of other shapes or types.
    """
    if grid.ndim != 4 or points.ndim != 2 or points.shape[1] != 3 or not grid.is_contiguous():
        raise ValueError(
            f"grid must be contiguous [D, H, W, C] and points [P, 3], not {[*grid.shape]}, {[*points.shape]}"
        )
    if points.dtype != torch.float32 or grid.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        raise ValueError("points must be float32, and the grid float32 or half precision")
    if grid.numel() >= 2**31 or points.numel() >= 2**31 or len(points) * grid.shape[-1] >= 2**31:
        raise ValueError("the kernels count in 32 bits")
    return _sample(grid, points)


@torch.library.custom_op("sjc_fast::trilinear_sample", mutates_args=())
def _sample(grid: Tensor, points: Tensor) -> Tensor:
    return implementation("trilinear", "triton").sample(grid, points)


@_sample.register_fake
def _(grid: Tensor, points: Tensor) -> Tensor:
    return torch.empty(points.shape[0], grid.shape[-1], device=grid.device)


@torch.library.custom_op("sjc_fast::trilinear_gradients", mutates_args=())
def _gradients(
    grid: Tensor, points: Tensor, upstream: Tensor, to_grid: bool, to_points: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grad_grid, grad_points = _empty_gradients(grid, points, upstream, to_grid, to_points)
    grad_grid.zero_()
    implementation("trilinear", "triton").add_gradients(
        grad_grid, grad_points, grid, points, upstream, to_grid, to_points
    )
    return grad_grid, grad_points


@_gradients.register_fake
def _empty_gradients(
    grid: Tensor, points: Tensor, _upstream: Tensor, to_grid: bool, to_points: bool
) -> tuple[Tensor, Tensor]:
    grad_grid = torch.empty(grid.shape if to_grid else (0,), device=grid.device)
    return grad_grid, torch.empty(points.shape if to_points else (0,), device=grid.device)


def _chain(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
    to_grid, to_points = ctx.needs_input_grad
    grad_grid, grad_points = _gradients(*ctx.saved_tensors, upstream, to_grid, to_points)
    return grad_grid if to_grid else None, grad_points if to_points else None


_sample.register_autograd(_chain, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))

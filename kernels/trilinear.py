"""`trilinear_sample`: values of a channel-last grid at points, with gradients to the grid and to the points.

Equal to `torch.nn.functional.grid_sample` with ``align_corners=False`` and zero padding: along an axis of n voxels, the
coordinate x in [-1, 1] is the position ``((x + 1) n - 1) / 2``, with voxel centres at whole numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import INTERPRETING, OPTIONS
from .maths import cell, corner

_BLOCK = 4096 if INTERPRETING else 128


@triton.jit
def positions(points, i, mask, depth, height, width):
    """Cells of points, and the positions in them."""
    x, fx = cell(((tl.load(points + i * 3, mask, other=0.0) + 1) * width - 1) * 0.5)
    y, fy = cell(((tl.load(points + i * 3 + 1, mask, other=0.0) + 1) * height - 1) * 0.5)
    z, fz = cell(((tl.load(points + i * 3 + 2, mask, other=0.0) + 1) * depth - 1) * 0.5)
    return x, y, z, fx, fy, fz


@triton.jit
def sample_kernel(
    grid,  # [D, H, W, C]
    points,  # [P, 3]
    out,  # [P, C]
    count,
    depth,
    height,
    width,
    C: tl.constexpr,
    WIDE: tl.constexpr,  # C rounded up to a power of two
    BLOCK: tl.constexpr,
):
    """One block of points."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    channel = tl.arange(0, WIDE)
    wanted = mask[:, None] & (channel < C)
    x, y, z, fx, fy, fz = positions(points, i, mask, depth, height, width)
    value = tl.zeros([BLOCK, WIDE], tl.float32)
    for c in tl.static_range(8):
        index, share = corner(c, x, y, z, fx, fy, fz, width, height, depth)
        value += share[:, None] * tl.load(grid + index[:, None] * C + channel, wanted, other=0.0).to(tl.float32)
    tl.store(out + i[:, None] * C + channel, value, wanted)


@triton.jit
def gradient_kernel(
    grid,  # [D, H, W, C]
    points,  # [P, 3]
    upstream,  # [P, C]
    grad_grid,  # [D, H, W, C] added to
    grad_points,  # [P, 3]
    count,
    depth,
    height,
    width,
    C: tl.constexpr,
    WIDE: tl.constexpr,
    TO_GRID: tl.constexpr,
    TO_POINTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of points."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    channel = tl.arange(0, WIDE)
    wanted = mask[:, None] & (channel < C)
    x, y, z, fx, fy, fz = positions(points, i, mask, depth, height, width)
    v = tl.load(upstream + i[:, None] * C + channel, wanted, other=0.0)
    gx, gy, gz = fx * 0, fx * 0, fx * 0
    for c in tl.static_range(8):
        index, share = corner(c, x, y, z, fx, fy, fz, width, height, depth)
        at = index[:, None] * C + channel
        if TO_GRID:
            tl.atomic_add(grad_grid + at, share[:, None] * v, wanted, sem="relaxed")
        if TO_POINTS:
            pull = tl.sum(v * tl.load(grid + at, wanted, other=0.0).to(tl.float32), 1)
            # Along its own axis a weight is f or 1 - f: at f = 1 (or 0) `corner` gives the product of the other two.
            across_x = corner(c, x, y, z, fx * 0 + c % 2, fy, fz, width, height, depth)[1]
            across_y = corner(c, x, y, z, fx, fy * 0 + c // 2 % 2, fz, width, height, depth)[1]
            across_z = corner(c, x, y, z, fx, fy, fz * 0 + c // 4, width, height, depth)[1]
            gx += (1 if c % 2 else -1) * across_x * pull
            gy += (1 if c // 2 % 2 else -1) * across_y * pull
            gz += (1 if c // 4 else -1) * across_z * pull
    if TO_POINTS:
        tl.store(grad_points + i * 3, gx * width * 0.5, mask)
        tl.store(grad_points + i * 3 + 1, gy * height * 0.5, mask)
        tl.store(grad_points + i * 3 + 2, gz * depth * 0.5, mask)


@torch.library.custom_op("sjc_fast::trilinear_sample", mutates_args=())
def _sample(grid: Tensor, points: Tensor) -> Tensor:
    count, channels = len(points), grid.shape[-1]
    out = torch.empty(count, channels, device=grid.device)
    if not count:
        return out
    with torch.cuda.device_of(grid):
        sample_kernel[(triton.cdiv(count, _BLOCK),)](
            grid, points.contiguous(), out, count, *grid.shape[:3], **_constants(channels)
        )
    return out


@_sample.register_fake
def _(grid: Tensor, points: Tensor) -> Tensor:
    return torch.empty(points.shape[0], grid.shape[-1], device=grid.device)


@torch.library.custom_op("sjc_fast::trilinear_gradients", mutates_args=())
def _gradients(
    grid: Tensor, points: Tensor, upstream: Tensor, to_grid: bool, to_points: bool
) -> tuple[Tensor, Tensor]:  # fmt: skip
    count, channels = len(points), grid.shape[-1]
    grad_grid, grad_points = _empty_gradients(grid, points, to_grid, to_points)
    grad_grid.zero_()
    if not count:
        return grad_grid, grad_points
    with torch.cuda.device_of(grid):
        gradient_kernel[(triton.cdiv(count, _BLOCK),)](
            grid, points.contiguous(), upstream.contiguous(), grad_grid, grad_points, count, *grid.shape[:3],
            TO_GRID=to_grid, TO_POINTS=to_points, **_constants(channels),
        )  # fmt: skip
    return grad_grid, grad_points


@_gradients.register_fake
def _empty_gradients(grid: Tensor, points: Tensor, *wanted: Any) -> tuple[Tensor, Tensor]:
    to_grid, to_points = wanted[-2:]
    shapes = (grid.shape if to_grid else (0,), points.shape if to_points else (0,))
    return tuple(torch.empty(s, device=grid.device) for s in shapes)


def _constants(channels: int) -> dict[str, Any]:
    return {"C": channels, "WIDE": triton.next_power_of_2(channels), "BLOCK": _BLOCK} | OPTIONS | {"num_warps": 4}


def _chain(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None]:
    wanted = ctx.needs_input_grad[:2]
    grads = _gradients(*ctx.saved_tensors, upstream, *wanted)
    return tuple(g if w else None for g, w in zip(grads, wanted, strict=True))


_sample.register_autograd(_chain, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs))


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

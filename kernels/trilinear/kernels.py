"""Trilinear sampling in Triton; mathematics: `sjc_fast.kernels.trilinear`."""

from __future__ import annotations

import triton
import triton.language as tl

from ..maths import cell, corner
from ..options import INTERPRETING

BLOCK_SIZE = 4096 if INTERPRETING else 128


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
        index, tri = corner(c, x, y, z, fx, fy, fz, width, height, depth)
        value += tri[:, None] * tl.load(grid + index[:, None] * C + channel, wanted, other=0.0).to(tl.float32)
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
        index, tri = corner(c, x, y, z, fx, fy, fz, width, height, depth)
        at = index[:, None] * C + channel
        if TO_GRID:
            tl.atomic_add(grad_grid + at, tri[:, None] * v, wanted, sem="relaxed")
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

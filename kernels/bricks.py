"""`brick_maximum`: the largest raw density that can occur in each brick of 8^3 cells, for skipping empty space."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import INTERPRETING, OPTIONS

BRICK: tl.constexpr = tl.constexpr(8)  # cells a side
_PROGRAMS = 64 if INTERPRETING else 1  # bricks a program


@triton.jit
def brick_kernel(grid, out, depth, height, width, bricks, COUNT: tl.constexpr):
    """COUNT bricks; each reads 9^3 voxels, since a cell touches two along each axis."""
    high, wide = (height + BRICK) // BRICK, (width + BRICK) // BRICK
    brick = tl.program_id(0) * COUNT + tl.arange(0, COUNT)[:, None]
    i = tl.arange(0, 1024)[None, :]
    x = brick % wide * BRICK - 1 + i % (BRICK + 1)
    y = brick // wide % high * BRICK - 1 + i // (BRICK + 1) % (BRICK + 1)
    z = brick // (wide * high) * BRICK - 1 + i // ((BRICK + 1) * (BRICK + 1))
    wanted = (i < (BRICK + 1) * (BRICK + 1) * (BRICK + 1)) & (brick < bricks)
    inside = wanted & (x >= 0) & (y >= 0) & (z >= 0) & (x < width) & (y < height) & (z < depth)
    value = tl.load(grid + (z * height + y) * width + x, inside, other=0.0).to(tl.float32)
    value = tl.where(wanted, value, float("-inf"))  # outside the grid, the value is 0
    most = tl.max(value, 1, keep_dims=True)
    tl.store(out + brick, most, brick < bricks)


@torch.library.custom_op("sjc_fast::brick_maximum", mutates_args=())
def brick_maximum(density: Tensor) -> Tensor:
    """Upper bounds of the trilinear raw density in bricks.

    Args:
        density: raw, [D, H, W], contiguous; float32 or half precision. No gradient.

    Returns:
        float32 [floor(D / 8) + 1, floor(H / 8) + 1, floor(W / 8) + 1]. Brick b holds the cells 8 b - 1 to 8 b + 6 of an
        axis; cell i lies between voxels i and i + 1, and cell -1 between the zero padding and voxel 0.
    """
    out = density.new_empty(bricks_shape(density), dtype=torch.float32)
    programs = triton.cdiv(out.numel(), _PROGRAMS)
    options = OPTIONS | {"num_warps": 4}
    with torch.cuda.device_of(density):
        brick_kernel[(programs,)](density.contiguous(), out, *density.shape, out.numel(), COUNT=_PROGRAMS, **options)
    return out


@brick_maximum.register_fake
def _(density: Tensor) -> Tensor:
    return density.new_empty(bricks_shape(density), dtype=torch.float32)


def clear_bricks(bricks: Tensor, shape: torch.Size) -> None:
    """Lower maxima to what they are with no voxel at all: 0 where a brick reaches into the padding, else -infinity."""
    bricks.fill_(float("-inf"))
    for axis, voxels in enumerate(shape):
        bricks.select(axis, 0).fill_(0.0)
        bricks.select(axis, voxels // BRICK.value).fill_(0.0)


def bricks_shape(density: Tensor) -> list[int]:
    """The shape of a density's brick maxima."""
    return [n // BRICK.value + 1 for n in density.shape]

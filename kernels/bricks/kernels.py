"""`brick_maximum` in Triton."""

from __future__ import annotations

import triton
import triton.language as tl

from ..options import INTERPRETING
from . import BRICK as CELLS

BRICK: tl.constexpr = tl.constexpr(CELLS)
BRICKS_A_PROGRAM = 64 if INTERPRETING else 1


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

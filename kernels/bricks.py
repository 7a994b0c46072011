"""`brick_maximum`: the largest raw density that can occur in each brick of 8^3 cells, for skipping empty space."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d, pad

from .native import serves

BRICK = 8  # cells a side


def brick_maximum(density: Tensor, *, native: bool | None = None) -> Tensor:
    """Upper bounds of the trilinear raw density in bricks.

    Args:
        density: raw, [D, H, W], contiguous; float32 or half precision. No gradient.
        native: PyTorch's own operators rather than Triton's kernel; default: for CPU tensors.

    Returns:
        float32 [floor(D / 8) + 1, floor(H / 8) + 1, floor(W / 8) + 1]. Brick b holds the cells 8 b - 1 to 8 b + 6 of an
        axis; cell i lies between voxels i and i + 1, and cell -1 between the zero padding and voxel 0.
    """
    return _brick_maximum(density, serves(density, native))


@torch.library.custom_op("sjc_fast::brick_maximum", mutates_args=())
def _brick_maximum(density: Tensor, native: bool) -> Tensor:
    if native:
        return _pooled(density)
    from .bricks_kernels import BRICKS_A_PROGRAM, brick_kernel
    from .launch import OPTIONS

    out = density.new_empty(bricks_shape(density), dtype=torch.float32)
    programs = -(-out.numel() // BRICKS_A_PROGRAM)
    options = {"COUNT": BRICKS_A_PROGRAM, **OPTIONS, "num_warps": 4}
    with torch.cuda.device_of(density):
        brick_kernel[(programs,)](density.contiguous(), out, *density.shape, out.numel(), **options)
    return out


@_brick_maximum.register_fake
def _(density: Tensor, native: bool) -> Tensor:
    return density.new_empty(bricks_shape(density), dtype=torch.float32)


def _pooled(density: Tensor) -> Tensor:
    """A brick's cells touch nine voxels along an axis; outside the grid, the value is 0."""
    padded = pad(density.float(), (1,) * 6)
    beyond = [side for n in reversed(density.shape) for side in (0, n // BRICK * BRICK + BRICK - 1 - n)]
    return max_pool3d(pad(padded, beyond, value=float("-inf"))[None, None], BRICK + 1, BRICK)[0, 0]


def clear_bricks(bricks: Tensor, shape: torch.Size) -> None:
    """Lower maxima to what they are with no voxel at all: 0 where a brick reaches into the padding, else -infinity."""
    bricks.fill_(float("-inf"))
    for axis, voxels in enumerate(shape):
        bricks.select(axis, 0).fill_(0.0)
        bricks.select(axis, voxels // BRICK).fill_(0.0)


def bricks_shape(density: Tensor) -> list[int]:
    """The shape of a density's brick maxima."""
    return [n // BRICK + 1 for n in density.shape]

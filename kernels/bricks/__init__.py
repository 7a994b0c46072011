"""`brick_maximum`: the largest raw density that can occur in each brick of 8^3 cells, for skipping empty space."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import choose_backend, implementation

BRICK = 8  # cells a side


def brick_maximum(density: Tensor, *, backend: str | None = None) -> Tensor:
    """Upper bounds of the trilinear raw density in bricks.

    Args:
        density: raw, [D, H, W], contiguous; float32 or half precision. No gradient.
        backend: "triton", or "cpu" (PyTorch's own operators); default by the tensor's device.

    Returns:
        float32 [floor(D / 8) + 1, floor(H / 8) + 1, floor(W / 8) + 1]. Brick b holds the cells 8 b - 1 to 8 b + 6 of an
        axis; cell i lies between voxels i and i + 1, and cell -1 between the zero padding and voxel 0.
    """
    return _brick_maximum(density, choose_backend(density, backend))


@torch.library.custom_op("sjc_fast::brick_maximum", mutates_args=())
def _brick_maximum(density: Tensor, backend: str) -> Tensor:
    return implementation("bricks", backend).brick_maximum(density)


@_brick_maximum.register_fake
def _(density: Tensor, backend: str) -> Tensor:
    return density.new_empty(bricks_shape(density), dtype=torch.float32)


def clear_bricks(bricks: Tensor, shape: torch.Size) -> None:
    """Lower maxima to what they are with no voxel at all: 0 where a brick reaches into the padding, else -infinity."""
    bricks.fill_(float("-inf"))
    for axis, voxels in enumerate(shape):
        bricks.select(axis, 0).fill_(0.0)
        bricks.select(axis, voxels // BRICK).fill_(0.0)


def bricks_shape(density: Tensor) -> list[int]:
    """The shape of a density's brick maxima."""
    return [n // BRICK + 1 for n in density.shape]

"""How Triton finds brick maxima."""

from __future__ import annotations

import torch
from torch import Tensor

from ..options import OPTIONS, launch
from . import bricks_shape
from .kernels import BRICKS_A_PROGRAM, brick_kernel


def brick_maximum(density: Tensor) -> Tensor:
    """See `sjc_fast.kernels.bricks.brick_maximum`."""
    out = density.new_empty(bricks_shape(density), dtype=torch.float32)
    programs = -(-out.numel() // BRICKS_A_PROGRAM)
    options = {"COUNT": BRICKS_A_PROGRAM, **OPTIONS, "num_warps": 4}
    with torch.cuda.device_of(density):
        launch(brick_kernel, programs)(density.contiguous(), out, *density.shape, out.numel(), **options)
    return out

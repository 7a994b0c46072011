"""How Triton runs what lies between a UNet's products and convolutions."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from ..options import INTERPRETING, OPTIONS, launch
from .kernels import geglu_kernel, group_norm_kernel, layer_norm_kernel

GROUP_BLOCK = 1 << 14  # numbers that a program of 32 warps holds, 16 a thread
LAYER_BLOCK = 1 << 16 if INTERPRETING else 1  # numbers of the rows of a program; at least one row
GEGLU_BLOCK = 1 << 16 if INTERPRETING else 1024


def group_norm(
    out: Tensor,
    total: Tensor | None,
    x: Tensor,
    norm: tuple[Tensor, Tensor, int, float],
    residual: Tensor | None,
    bias: Tensor | None,
    shift: Tensor | None,
    skip: Tensor | None,
    silu: bool,
) -> None:
    """Normalize into `out`; what is normalized goes into `total`, where that is given."""
    weight, offset, groups, epsilon = norm
    images, channels = len(x), out.shape[-1]
    pixels = x[0, ..., 0].numel()
    numbers = pixels * (channels // groups)
    block = min(triton.next_power_of_2(numbers), GROUP_BLOCK)
    with torch.cuda.device_of(x):
        launch(group_norm_kernel, groups, images)(
            x, x if residual is None else residual, x if skip is None else skip, weight if bias is None else bias,
            weight if shift is None else shift, weight, offset, x if total is None else total, out, pixels, epsilon,
            C=channels, WIDTH=x.shape[-1], GROUP=channels // groups, RESIDUAL=residual is not None,
            BIAS=bias is not None, SHIFT=shift is not None, STORE=total is not None, SILU=silu,
            ONE=numbers <= block, BLOCK=block, **(OPTIONS | {"num_warps": max(1, block // 512)}),
        )  # fmt: skip


def layer_norm(out: Tensor, x: Tensor, weight: Tensor, offset: Tensor, epsilon: float, ahead: Tensor | None) -> None:
    """Normalize rows into `out`, and add `ahead` to them where it is given."""
    channels = x.shape[-1]
    rows, block = x.numel() // channels, triton.next_power_of_2(channels)
    together = max(1, LAYER_BLOCK // block)
    with torch.cuda.device_of(x):
        launch(layer_norm_kernel, triton.cdiv(rows, together))(
            x, weight, offset, weight if ahead is None else ahead, out, rows, epsilon, C=channels,
            AHEAD=ahead is not None, ROWS=together, BLOCK=block,
            **(OPTIONS | {"num_warps": max(1, min(8, block // 512))}),
        )  # fmt: skip


def geglu(out: Tensor, x: Tensor) -> None:
    """Write the gated numbers."""
    with torch.cuda.device_of(x):
        launch(geglu_kernel, triton.cdiv(out.numel(), GEGLU_BLOCK))(
            x, out, out.numel(), C=out.shape[-1], BLOCK=GEGLU_BLOCK, **(OPTIONS | {"num_warps": 4})
        )

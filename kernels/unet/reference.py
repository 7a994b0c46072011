"""The same with PyTorch, line by line: the naive twins of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def group_norm(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    groups: int,
    epsilon: float,
    *,
    residual: Tensor | None = None,
    bias: Tensor | None = None,
    shift: Tensor | None = None,
    skip: Tensor | None = None,
    silu: bool = False,
) -> tuple[Tensor, Tensor]:
    """The normalized sum, and the sum; the formulas stand in `sjc_fast.kernels.unet`."""
    for term in (residual, bias, None if shift is None else shift[:, None, None]):
        if term is not None:
            x = x + term
    if skip is not None:
        x = torch.cat([x, skip], dim=-1)
    y = functional.group_norm(x.movedim(-1, 1), groups, weight, offset, epsilon).movedim(1, -1)
    return (functional.silu(y) if silu else y), x


def layer_norm(
    x: Tensor, weight: Tensor, offset: Tensor, epsilon: float, ahead: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The normalized rows, and the rows with `ahead` added."""
    return functional.layer_norm(x, (x.shape[-1],), weight, offset, epsilon), x if ahead is None else x + ahead


def geglu(x: Tensor) -> Tensor:
    """The first half, gated by the second."""
    value, gate = x.chunk(2, dim=-1)
    return value * functional.gelu(gate)

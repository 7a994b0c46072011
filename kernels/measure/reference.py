"""The same with PyTorch, line by line: the naive twin of the kernel."""

from __future__ import annotations

import torch
from torch import Tensor


def measure(sigma: Tensor, opacity: Tensor, emptiness: Tensor, update: Tensor, sums: Tensor) -> Tensor:
    """See `sjc_fast.kernels.measure`."""
    if sums.ndim == 2:
        parts = (x.chunk(len(sums)) for x in (sigma, opacity, emptiness, update))
        return torch.stack([measure(*own) for own in zip(*parts, sums, strict=True)])
    return torch.stack([sigma.mean(), opacity.mean(), emptiness.mean(), update.square().mean().sqrt(), sums.sum()])

"""Compositing sample by sample with autograd: the naive twin of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor

GATE, EARLY_STOP, FAR_DEPTH = 1e-4, 1e-6, 10.0


def composite(
    density: Tensor, features: Tensor, background: Tensor, entry: Tensor, *, step: float, beta: float = 10.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `sjc_fast.kernels.composite.composite`; any float type."""
    thickness = density * step
    optical_depth = torch.nn.functional.pad(thickness[:, :-1], (1, 0)).cumsum(dim=1)
    transmittance = torch.exp(-optical_depth)
    weights = torch.where(transmittance >= EARLY_STOP, transmittance * -torch.expm1(-thickness), 0)
    opacity = weights.sum(dim=1)
    t = entry[:, None] + torch.arange(density.shape[1], device=density.device) * step
    lit = (torch.where(weights > GATE, weights, 0)[..., None] * features).sum(dim=1)
    return (
        lit + (1 - opacity)[:, None] * background,
        (weights * t).sum(dim=1) + (1 - opacity) * FAR_DEPTH,
        opacity,
        torch.log1p(beta * weights).mean(dim=1),
    )

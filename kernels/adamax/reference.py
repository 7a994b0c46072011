"""Adam and Adamax line by line as the paper has them: the naive twin of the kernel."""

from __future__ import annotations

import torch
from torch import Tensor


def update(
    param: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    rate: float,
    step: int,
    betas: tuple[float, float] = (0.9, 0.999),
    epsilon: float = 1e-8,
    adam: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Parameter and both moments after a step; the formulas stand in `sjc_fast.kernels.adamax`."""
    beta1, beta2 = betas
    first = beta1 * first + (1 - beta1) * grad
    if adam:
        second = beta2 * second + (1 - beta2) * grad**2
        change = first / ((second / (1 - beta2**step)).sqrt() + epsilon)
    else:
        second = torch.maximum(beta2 * second, grad.abs() + epsilon)
        change = first / second
    return param - rate / (1 - beta1**step) * change, first, second

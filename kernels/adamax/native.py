"""How the compiled C++ code takes an optimizer step."""

from __future__ import annotations

from torch import Tensor

from ..bricks import brick_maximum
from ..native import load


def update(
    param: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    copy: Tensor | None,
    bricks: Tensor | None,
    rate: Tensor,
    step: Tensor,
    betas: tuple[float, float],
    epsilon: float,
    adam: bool,
) -> None:
    """See `sjc_fast.kernels.adamax`."""
    load().optimizer_step(param, grad, first, second, rate, step, *betas, epsilon, adam)
    if copy is not None:
        copy[..., : param.shape[-1] if param.ndim else None] = param
    if bricks is not None:
        bricks.copy_(brick_maximum(param, backend="cpu"))

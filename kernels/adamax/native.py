"""How the compiled C++ code takes an optimizer step."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bricks import brick_maximum
from ..native import load
from .layout import gradient_rows


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


def count_sums(params: list[Tensor]) -> int:
    """Partial sums that `update_parts` returns: one a parameter."""
    return len(params)


def update_parts(
    params: list[Tensor],
    grads: list[Tensor],
    firsts: list[Tensor],
    seconds: list[Tensor],
    rates: list[Tensor],
    step: Tensor,
    betas: tuple[float, float],
    epsilon: float,
    adam: bool,
) -> Tensor:
    """See `sjc_fast.kernels.adamax`."""
    if step.ndim:
        lists = (params, grads, firsts, seconds, rates)
        every = ([[part[s] for part in parts] for parts in lists] for s in range(len(step)))
        return torch.stack(
            [update_parts(*own, step[s], betas, epsilon, adam) for s, own in enumerate(every)]  # pyright: ignore
        )
    for param, grad, first, second, rate in zip(params, grads, firsts, seconds, rates, strict=True):
        inner, far, near = gradient_rows(grad)
        if near == 1 and inner == grad.shape[-1]:  # rows with their padding, as the C++ code takes them
            grad = grad.as_strided((*grad.shape[:-1], far), grad.stride())
        plain = grad.contiguous()
        load().optimizer_step(param, plain, first, second, rate, step, *betas, epsilon, adam)
        if plain is not grad:
            grad.zero_()
    return torch.stack([param.sum() for param in params])

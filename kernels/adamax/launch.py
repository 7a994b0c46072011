"""How Triton takes an optimizer step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..bricks import clear_bricks
from ..options import OPTIONS, launch
from .kernels import BLOCK_SIZE, optimizer_kernel, optimizer_parts_kernel
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
    row = param.shape[-1] if param.ndim else 1
    rows = {
        "ROW": row,
        "GRAD_ROW": grad.shape[-1] if grad.ndim else 1,
        "COPY_ROW": row if copy is None or not copy.ndim else copy.shape[-1],
    }
    height, width = param.shape[1:] if bricks is not None else (1, 1)
    if bricks is not None:
        clear_bricks(bricks, param.shape)
    beta1, beta2 = betas
    with torch.cuda.device_of(param):
        launch(optimizer_kernel, -(-param.numel() // BLOCK_SIZE))(
            param, grad, first, second, param if copy is None else copy, param if bricks is None else bricks,
            rate, step, param.numel(), 1 - beta1, beta2, 1 - beta2, -math.log(beta1), -math.log(beta2), epsilon,
            height, width, ADAM=adam, COPY=copy is not None, BRICKS=bricks is not None, **rows, BLOCK=BLOCK_SIZE,
            **(OPTIONS | {"num_warps": 4}),
        )  # fmt: skip


def count_sums(params: list[Tensor]) -> int:
    """Partial sums that `update_parts` returns of an object's parameters: one a program."""
    return sum(-(-param.numel() // BLOCK_SIZE) for param in params)


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
    stacked = step.ndim > 0
    own = [param[0] for param in params] if stacked else params
    counts, programs = tuple(param.numel() for param in own), count_sums(own)
    sums = torch.empty(*step.shape, programs, device=params[0].device)
    beta1, beta2 = betas
    apart = tuple(grad.stride(0) if stacked else 0 for grad in grads)
    rows = tuple(gradient_rows(grad[0] if stacked else grad) for grad in grads)
    with torch.cuda.device_of(params[0]):
        launch(optimizer_parts_kernel, programs, step.numel())(
            tuple(params), tuple(grads), tuple(firsts), tuple(seconds), tuple(rate.contiguous() for rate in rates),
            counts, apart, step.contiguous(), sums,
            1 - beta1, beta2, 1 - beta2, -math.log(beta1), -math.log(beta2), epsilon, ADAM=adam,
            ROWS=rows, BLOCK=BLOCK_SIZE, **(OPTIONS | {"num_warps": 4}),
        )  # fmt: skip
    return sums

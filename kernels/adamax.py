"""`adamax_step` and `adam_step`: update, zeroing of the gradient and refresh of a half-precision copy, in one pass.

Adam and Adamax are those of Kingma & Ba 2014 (arXiv 1412.6980, algorithms 1 and 2) in the form of `torch.optim`.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import INTERPRETING, OPTIONS
from .maths import opacity_of

_BLOCK = 1 << 16 if INTERPRETING else 512  # four numbers a thread: with eight, the copy goes through shared memory


@triton.jit
def update_kernel(
    param,
    grad,
    first,  # running mean of the gradient
    second,  # Adam: running mean of its square; Adamax: its decaying maximum
    copy,
    rate,  # [] learning rate
    step,  # [] number of this step, from 1
    count,
    beta1,
    beta2,
    decay1,  # -log(beta1)
    decay2,
    epsilon,
    ADAM: tl.constexpr,
    COPY: tl.constexpr,
    ROW: tl.constexpr,  # numbers in a row of param, and in rows of grad and copy, which may be padded
    GRAD_ROW: tl.constexpr,
    COPY_ROW: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of elements."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    where = i if GRAD_ROW == ROW else i // ROW * GRAD_ROW + i % ROW
    g = tl.load(grad + where, mask, other=0.0)
    m = tl.load(first + i, mask, other=0.0)
    v = tl.load(second + i, mask, other=0.0)
    taken = tl.load(step).to(tl.float32)
    m += (g - m) * (1 - beta1)
    rate_now = tl.load(rate) / opacity_of(taken * decay1)  # lr / (1 - beta1^step)
    if ADAM:
        v = v * beta2 + g * g * (1 - beta2)
        change = m / (tl.sqrt_rn(v) / tl.sqrt_rn(opacity_of(taken * decay2)) + epsilon)
    else:
        v = tl.maximum(v * beta2, tl.abs(g) + epsilon)
        change = m / v
    value = tl.load(param + i, mask, other=0.0) - rate_now * change
    tl.store(param + i, value, mask)
    tl.store(first + i, m, mask)
    tl.store(second + i, v, mask)
    tl.store(grad + where, tl.zeros([BLOCK], tl.float32), mask)
    if COPY:
        there = i if COPY_ROW == ROW else i // ROW * COPY_ROW + i % ROW
        tl.store(copy + there, value.to(copy.dtype.element_ty), mask)


def adamax_step(
    param: Tensor,  # [..., C] float32, contiguous
    grad: Tensor,  # [..., C or more] float32, contiguous; zeroed
    exp_avg: Tensor,  # like param
    exp_inf: Tensor,  # like param
    lr: Tensor,  # [] float32, on the device
    step: Tensor,  # [] number of this step, from 1, on the device
    *,
    copy: Tensor | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """One step of Adamax, in place, as `torch.optim.Adamax` takes it; the gradient is zero afterwards.

    Args:
        copy: half-precision copy of param to refresh, [..., C or more].

    Raises:
        ValueError: tensors that are not contiguous or whose rows do not fit.
    """
    _check(param, grad, exp_avg, exp_inf, copy)
    _update(param, grad, exp_avg, exp_inf, copy, lr, step, *betas, eps, False)


def adam_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: Tensor,
    step: Tensor,
    *,
    copy: Tensor | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """One step of Adam, in place, as `torch.optim.Adam` takes it; arguments as for `adamax_step`."""
    _check(param, grad, exp_avg, exp_avg_sq, copy)
    _update(param, grad, exp_avg, exp_avg_sq, copy, lr, step, *betas, eps, True)


def _check(param: Tensor, grad: Tensor, first: Tensor, second: Tensor, copy: Tensor | None) -> None:
    like = [first, second]
    padded = [grad] if copy is None else [grad, copy]
    if not all(x.is_contiguous() for x in (param, *like, *padded)):
        raise ValueError("the optimiser's tensors must be contiguous")
    if any(x.dtype != torch.float32 for x in (param, grad, *like)):
        raise ValueError("parameters, gradients and moments must be float32")
    if any(x.shape != param.shape for x in like):
        raise ValueError("the moments must have the parameter's shape")
    if any(x.shape[:-1] != param.shape[:-1] or x.shape[-1:] < param.shape[-1:] for x in padded):
        raise ValueError("gradient and copy must have the parameter's shape, but for padding of its last axis")


@torch.library.custom_op("sjc_fast::optimiser_step", mutates_args=("param", "grad", "first", "second", "copy"))
def _update(
    param: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    copy: Tensor | None,
    rate: Tensor,
    step: Tensor,
    beta1: float,
    beta2: float,
    epsilon: float,
    adam: bool,
) -> None:
    row = param.shape[-1] if param.ndim else 1
    rows = {
        "ROW": row,
        "GRAD_ROW": grad.shape[-1] if grad.ndim else 1,
        "COPY_ROW": row if copy is None or not copy.ndim else copy.shape[-1],
    }
    with torch.cuda.device_of(param):
        update_kernel[(triton.cdiv(param.numel(), _BLOCK),)](
            param, grad, first, second, param if copy is None else copy, rate, step,
            param.numel(), beta1, beta2, -math.log(beta1), -math.log(beta2), epsilon,
            ADAM=adam, COPY=copy is not None, **rows, BLOCK=_BLOCK, **(OPTIONS | {"num_warps": 4}),
        )  # fmt: skip


@_update.register_fake
def _(*_args: object) -> None:
    return None

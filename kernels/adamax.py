"""`adamax_step` and `adam_step`: update, zeroing of the gradient, refresh of what is read from it, in one pass.

Adam and Adamax are those of Kingma & Ba 2014 (arXiv 1412.6980, algorithms 1 and 2) in the form of `torch.optim`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .bricks import brick_maximum, bricks_shape, clear_bricks
from .native import load, serves


def adamax_step(
    param: Tensor,  # [..., C] float32, contiguous
    grad: Tensor,  # [..., C or more] float32, contiguous; zeroed
    exp_avg: Tensor,  # like param
    exp_inf: Tensor,  # like param
    lr: Tensor,  # [] of any float type, on the device
    step: Tensor,  # [] number of this step, from 1, on the device
    *,
    copy: Tensor | None = None,
    bricks: Tensor | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    native: bool | None = None,
) -> None:
    """One step of Adamax, in place, as `torch.optim.Adamax` takes it; the gradient is zero afterwards.

    Args:
        copy: half-precision copy of param to refresh, [..., C or more].
        bricks: maxima of a density [D, H, W] to refresh, as from `brick_maximum`; for the step before a picture.
        native: the compiled C++ code rather than Triton's; default: for CPU tensors.

    Raises:
        ValueError: tensors that are not contiguous or whose shapes do not fit.
    """
    _check(param, grad, exp_avg, exp_inf, copy, bricks)
    _update(param, grad, exp_avg, exp_inf, copy, bricks, lr, step, *betas, eps, False, serves(param, native))


def adam_step(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: Tensor,
    step: Tensor,
    *,
    copy: Tensor | None = None,
    bricks: Tensor | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    native: bool | None = None,
) -> None:
    """One step of Adam, in place, as `torch.optim.Adam` takes it; arguments as for `adamax_step`."""
    _check(param, grad, exp_avg, exp_avg_sq, copy, bricks)
    _update(param, grad, exp_avg, exp_avg_sq, copy, bricks, lr, step, *betas, eps, True, serves(param, native))


def _check(
    param: Tensor, grad: Tensor, first: Tensor, second: Tensor, copy: Tensor | None, bricks: Tensor | None
) -> None:
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
    if bricks is not None and (param.ndim != 3 or list(bricks.shape) != bricks_shape(param)):
        raise ValueError("bricks must be what brick_maximum returns for a density [D, H, W]")


@torch.library.custom_op(
    "sjc_fast::optimiser_step", mutates_args=("param", "grad", "first", "second", "copy", "bricks")
)
def _update(
    param: Tensor,
    grad: Tensor,
    first: Tensor,
    second: Tensor,
    copy: Tensor | None,
    bricks: Tensor | None,
    rate: Tensor,
    step: Tensor,
    beta1: float,
    beta2: float,
    epsilon: float,
    adam: bool,
    native: bool,
) -> None:
    if native:
        load().optimiser_step(param, grad, first, second, rate, step, beta1, beta2, epsilon, adam)
        if copy is not None:
            copy[..., : param.shape[-1] if param.ndim else None] = param
        if bricks is not None:
            bricks.copy_(brick_maximum(param, native=True))
        return
    from .adamax_kernels import BLOCK_SIZE, update_kernel
    from .launch import OPTIONS

    row = param.shape[-1] if param.ndim else 1
    rows = {
        "ROW": row,
        "GRAD_ROW": grad.shape[-1] if grad.ndim else 1,
        "COPY_ROW": row if copy is None or not copy.ndim else copy.shape[-1],
    }
    height, width = param.shape[1:] if bricks is not None else (1, 1)
    if bricks is not None:
        clear_bricks(bricks, param.shape)
    with torch.cuda.device_of(param):
        update_kernel[(-(-param.numel() // BLOCK_SIZE),)](
            param, grad, first, second, param if copy is None else copy, param if bricks is None else bricks,
            rate, step, param.numel(), 1 - beta1, beta2, 1 - beta2, -math.log(beta1), -math.log(beta2), epsilon,
            height, width,
            ADAM=adam, COPY=copy is not None, BRICKS=bricks is not None, **rows, BLOCK=BLOCK_SIZE,
            **(OPTIONS | {"num_warps": 4}),
        )  # fmt: skip


@_update.register_fake
def _(*_args: object) -> None:
    return None

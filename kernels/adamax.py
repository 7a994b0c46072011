"""`adamax_step` and `adam_step`: update, zeroing of the gradient, refresh of what is read from it, in one pass.

Adam and Adamax are those of Kingma & Ba 2014 (arXiv 1412.6980, algorithms 1 and 2) in the form of `torch.optim`.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .bricks import BRICK, bricks_shape, clear_bricks
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
    bricks,  # [D / 8 + 1, ...] maxima of a density [D, H, W]
    rate,  # [] learning rate
    step,  # [] number of this step, from 1
    count,
    beta1,
    beta2,
    decay1,  # -log(beta1)
    decay2,
    epsilon,
    height,  # of a density, if BRICKS
    width,
    ADAM: tl.constexpr,
    COPY: tl.constexpr,
    BRICKS: tl.constexpr,
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
    rate_now = tl.load(rate).to(tl.float32) / opacity_of(taken * decay1)  # lr / (1 - beta1^step)
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
    if BRICKS:
        raise_bricks(bricks, value, i, mask, height, width)


@triton.jit
def raise_bricks(bricks, value, i, mask, height, width):
    """Raise the maxima of the bricks that voxels i belong to: two along an axis at a brick's last voxel, else one."""
    x, y, z = i % width, i // width % height, i // (width * height)
    high, wide = height // BRICK + 1, width // BRICK + 1
    for c in tl.static_range(8):
        on_x, on_y, on_z = (x + c % 2) // BRICK, (y + c // 2 % 2) // BRICK, (z + c // 4) // BRICK
        # The second brick of an axis counts only where it is another one.
        other = (c % 2 == 0) | (x % BRICK == BRICK - 1)
        other &= (c // 2 % 2 == 0) | (y % BRICK == BRICK - 1)
        other &= (c // 4 == 0) | (z % BRICK == BRICK - 1)
        tl.atomic_max(bricks + (on_z * high + on_y) * wide + on_x, value, mask & other, sem="relaxed")


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
) -> None:
    """One step of Adamax, in place, as `torch.optim.Adamax` takes it; the gradient is zero afterwards.

    Args:
        copy: half-precision copy of param to refresh, [..., C or more].
        bricks: maxima of a density [D, H, W] to refresh, as from `brick_maximum`; for the step before a picture.

    Raises:
        ValueError: tensors that are not contiguous or whose shapes do not fit.
    """
    _check(param, grad, exp_avg, exp_inf, copy, bricks)
    _update(param, grad, exp_avg, exp_inf, copy, bricks, lr, step, *betas, eps, False)


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
) -> None:
    """One step of Adam, in place, as `torch.optim.Adam` takes it; arguments as for `adamax_step`."""
    _check(param, grad, exp_avg, exp_avg_sq, copy, bricks)
    _update(param, grad, exp_avg, exp_avg_sq, copy, bricks, lr, step, *betas, eps, True)


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
) -> None:
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
        update_kernel[(triton.cdiv(param.numel(), _BLOCK),)](
            param, grad, first, second, param if copy is None else copy, param if bricks is None else bricks,
            rate, step, param.numel(), beta1, beta2, -math.log(beta1), -math.log(beta2), epsilon, height, width,
            ADAM=adam, COPY=copy is not None, BRICKS=bricks is not None, **rows, BLOCK=_BLOCK,
            **(OPTIONS | {"num_warps": 4}),
        )  # fmt: skip


@_update.register_fake
def _(*_args: object) -> None:
    return None

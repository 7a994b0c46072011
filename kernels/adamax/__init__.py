"""`adamax_step` and `adam_step`: update, zeroing of the gradient, refresh of what is read from it, in one pass.

`adamax_steps` and `adam_steps` take the same step of several parameters in one launch.

Adam and Adamax are those of Kingma & Ba 2014 (arXiv 1412.6980, algorithms 1 and 2) in the form of `torch.optim`. With g
the gradient and t the number of the step, from 1:

    m <- m + (1 - beta1) (g - m)
    Adamax:  u <- max(beta2 u, |g| + eps),            x <- x - lr / (1 - beta1^t) m / u
    Adam:    v <- beta2 v + (1 - beta2) g^2,          x <- x - lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..bricks import bricks_shape
from ..contract import choose_backend, implementation
from .layout import gradient_rows


class Move(NamedTuple):
    """What moves in a step of several parameters; all of it float32, on one device.

    Of S objects at once, each with a rate and a number of its step: [S, …] all of them, `rate` [S].
    """

    param: Tensor  # contiguous
    grad: Tensor  # like param, in rows of any two strides; zeroed
    first: Tensor  # like param, contiguous, as in `adamax_step`
    second: Tensor
    rate: Tensor  # [] learning rate, of any float type


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
    backend: str | None = None,
) -> None:
    """One step of Adamax, in place, as `torch.optim.Adamax` takes it; the gradient is zero afterwards.

    Args:
        copy: half-precision copy of param to refresh, [..., C or more].
        bricks: maxima of a density [D, H, W] to refresh, as from `brick_maximum`; for the step before a picture.
        backend: "triton" or "cpu"; default by the tensors' device.

    Raises:
        ValueError: tensors that are not contiguous or whose shapes do not fit.
    """
    _check(param, grad, exp_avg, exp_inf, copy, bricks)
    backend = choose_backend(param, backend)
    _update(param, grad, exp_avg, exp_inf, copy, bricks, lr, step, *betas, eps, False, backend)


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
    backend: str | None = None,
) -> None:
    """One step of Adam, in place, as `torch.optim.Adam` takes it; arguments as for `adamax_step`."""
    _check(param, grad, exp_avg, exp_avg_sq, copy, bricks)
    backend = choose_backend(param, backend)
    _update(param, grad, exp_avg, exp_avg_sq, copy, bricks, lr, step, *betas, eps, True, backend)


def adamax_steps(
    moves: list[Move],
    step: Tensor,  # [] number of this step, from 1, on the device; or [S]
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    backend: str | None = None,
) -> Tensor:
    """`adamax_step` of several parameters, or with step [S] of those of S objects.

    Returns:
        [n] or [S, n] partial sums of all new values: finite where every one of them is.

    Raises:
        ValueError: no parameter, or tensors whose layouts, types or shapes do not fit.
    """
    return _take(moves, step, betas, eps, False, backend)


def adam_steps(
    moves: list[Move],
    step: Tensor,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    backend: str | None = None,
) -> Tensor:
    """`adam_step` of several parameters, as `adamax_steps`."""
    return _take(moves, step, betas, eps, True, backend)


def _take(
    moves: list[Move], step: Tensor, betas: tuple[float, float], eps: float, adam: bool, backend: str | None
) -> Tensor:
    if not moves:
        raise ValueError("there is nothing to move")
    for move in moves:
        _check(move.param, move.param, move.first, move.second, None, None)
        if move.grad.shape != move.param.shape or move.grad.dtype != torch.float32:
            raise ValueError("a gradient must be float32, and have the parameter's shape")
        if move.rate.shape != step.shape or step.ndim > 1 or (step.ndim and move.param.shape[:1] != step.shape):
            raise ValueError("rates and step are one number each, or one for each of as many objects")
        gradient_rows(move.grad[0] if step.ndim else move.grad)
    lists = [list(parts) for parts in zip(*moves, strict=True)]
    return _update_parts(*lists, step, *betas, eps, adam, choose_backend(moves[0].param, backend))


def _check(
    param: Tensor, grad: Tensor, first: Tensor, second: Tensor, copy: Tensor | None, bricks: Tensor | None
) -> None:
    like = [first, second]
    padded = [grad] if copy is None else [grad, copy]
    if not all(x.is_contiguous() for x in (param, *like, *padded)):
        raise ValueError("the optimizer's tensors must be contiguous")
    if any(x.dtype != torch.float32 for x in (param, grad, *like)):
        raise ValueError("parameters, gradients and moments must be float32")
    if any(x.shape != param.shape for x in like):
        raise ValueError("the moments must have the parameter's shape")
    if any(x.shape[:-1] != param.shape[:-1] or x.shape[-1:] < param.shape[-1:] for x in padded):
        raise ValueError("gradient and copy must have the parameter's shape, but for padding of its last axis")
    if bricks is not None and (param.ndim != 3 or list(bricks.shape) != bricks_shape(param)):
        raise ValueError("bricks must be what brick_maximum returns for a density [D, H, W]")


@torch.library.custom_op(
    "sjc_fast::optimizer_step", mutates_args=("param", "grad", "first", "second", "copy", "bricks")
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
    backend: str,
) -> None:
    update = implementation("adamax", backend).update
    update(param, grad, first, second, copy, bricks, rate, step, (beta1, beta2), epsilon, adam)


@_update.register_fake
def _(*_args: object) -> None:
    return None


@torch.library.custom_op("sjc_fast::optimizer_steps", mutates_args=("params", "grads", "firsts", "seconds"))
def _update_parts(
    params: list[Tensor],
    grads: list[Tensor],
    firsts: list[Tensor],
    seconds: list[Tensor],
    rates: list[Tensor],
    step: Tensor,
    beta1: float,
    beta2: float,
    epsilon: float,
    adam: bool,
    backend: str,
) -> Tensor:
    code = implementation("adamax", backend)
    return code.update_parts(params, grads, firsts, seconds, rates, step, (beta1, beta2), epsilon, adam)


@_update_parts.register_fake
def _(
    params: list[Tensor], grads: list[Tensor], firsts: list[Tensor], seconds: list[Tensor], rates: list[Tensor],
    step: Tensor, beta1: float, beta2: float, epsilon: float, adam: bool, backend: str,
) -> Tensor:  # fmt: skip
    one = [param[0] for param in params] if step.ndim else params
    return params[0].new_empty((*step.shape, implementation("adamax", backend).count_sums(one)))

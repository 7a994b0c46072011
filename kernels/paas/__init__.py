"""`perturb` and `fused_paas_update`: what lies between a clean view and its PAAS update, but for the network.

One pass each. Noise is that of noise.py, made where it is used and never stored: number i of a step comes from word
i % 4 of the Philox counter (i // 4, 0, step, 0). With n the noise, F the network's raw answer, and the numbers of its
family (EDM, arXiv 2206.00364, Table 1):

    input    c_in (x + sigma n)                                        (paper, Eq. 13)
    D - x    (c_skip - 1) x + c_skip sigma n + c_out F
    update   scale (1/N) sum_i (D - x - c sigma n)_i                   (Eq. 15: c = 1; Eq. 16: c = 0)

The plain versions, which specify this, are in `sjc_fast.paas`; reference.py has them line by line.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..contract import implementation

#: All views of an object, and all their draws.
ALL = (0, 0, 0)


class Coefficients(NamedTuple):
    """A family's numbers at the noise level of each view: ``D = c_skip z + c_out F(c_in z; c_noise)``."""

    c_in: Tensor  # [V]
    c_skip: Tensor  # [V]
    c_skip_less_one: Tensor  # [V] c_skip - 1, with all its digits
    c_out: Tensor  # [V]
    c_noise: Tensor  # [V] what the network is told of the noise level


def perturb(
    x: Tensor,  # [V, C, H, W] float32
    sigma: Tensor,  # [V] float32
    c_in: Tensor,  # [V] float32
    seed: Tensor,  # [] int64 on the device; its bits are the seed. Or [S], where V / S views each have their own
    step: Tensor,  # like seed
    *,
    noise_samples: int,
    antithetic: bool = False,
    doubled: bool = False,
    patch: int = 1,
    dtype: torch.dtype = torch.float16,
    channels_last: bool = True,
    share: Sequence[int] = ALL,
) -> Tensor:
    """The network's input: N noised copies of each view, ``c_in (x + sigma n)`` (Eq. 13).

    Args:
        antithetic: the second half of a view's copies mirrors the first (n, -n); N must be even.
        doubled: the whole batch twice, for the conditional and the unconditional half of guidance.
        patch: squares of so many pixels a side become channels (`torch.nn.functional.pixel_unshuffle`).
        share: where x is a part of an object's views, or these copies a part of its draws: the number of the first
            view, of the first draw (a copy, or a pair), and of all draws of a view.

    Returns:
        [V N, C patch^2, H / patch, W / patch] in `dtype` (2 V N with `doubled`), view by view.

    Raises:
        ValueError: N < 1, an odd N of pairs, an image that `patch` does not divide, or other shapes.
    """
    _check(x, (sigma, c_in), (seed, step), noise_samples, antithetic, patch)
    options = (noise_samples, antithetic, doubled, patch, dtype, channels_last, list(share))
    return _perturb(x, sigma, c_in, seed, step, *options)


def fused_paas_update(
    x: Tensor,  # [V, C, H, W] float32
    sigma: Tensor,  # [V] float32
    coefficients: Coefficients,
    scale: Tensor,  # [V] float32: weight(sigma) / sigma^2
    answer: Tensor,  # what the network said to `perturb`'s batch, of its shape
    seed: Tensor,
    step: Tensor,
    guidance: Tensor,  # [V] float32, or [] for all; read if the answer is doubled
    *,
    noise_samples: int,
    antithetic: bool = False,
    coefficient: float | Literal["auto"] = 0.0,
    patch: int = 1,
    share: Sequence[int] = ALL,
) -> Tensor:
    """The weighted PAAS update of each view, from the network's answers; the noise is made again, not stored.

    Guidance ``u + g (c - u)`` is taken in float32, the answer becomes D, and the update is the mean of
    ``D - x - c sigma n`` over the copies, times `scale`: Eq. 15 for coefficient 1, Eq. 16 for 0. "auto" fits one c a
    copy, by regression of ``D - x`` on ``sigma n`` over the view's other copies (over itself for N = 1), in a pass
    before; in antithetic pairs any c cancels, and nothing is fitted. It takes all draws of a view.

    Returns:
        [V, C, H, W] float32.

    Raises:
        ValueError: as `perturb`, or an answer of another shape.
    """
    share = list(share)
    numbers = (coefficients.c_skip, coefficients.c_skip_less_one, coefficients.c_out)
    _check(x, (sigma, scale, *numbers), (seed, step), noise_samples, antithetic, patch)
    guidance = guidance.expand(len(x)).contiguous()
    views, channels, height, width = x.shape
    image = (channels * patch**2, height // patch, width // patch)
    if tuple(answer.shape[1:]) != image or len(answer) not in (views * noise_samples, 2 * views * noise_samples):
        raise ValueError(f"the answer is {list(answer.shape)}; a batch of {views * noise_samples} (or twice) was asked")
    fitted = None
    if coefficient == "auto":
        coefficient = 0.0
        if not antithetic:
            dot, total = _regress(x, sigma, *numbers, answer, seed, step, guidance, noise_samples, patch, share)
            if noise_samples > 1:  # what the other copies say, so that c does not depend on the noise it multiplies
                dot, total = dot.sum(1, keepdim=True) - dot, total.sum(1, keepdim=True) - total
            fitted = dot / total
    options = (noise_samples, antithetic, coefficient, patch, share)
    return _update(x, sigma, *numbers, scale, answer, seed, step, guidance, fitted, *options)


def _check(
    x: Tensor, numbers: tuple[Tensor, ...], noise: tuple[Tensor, Tensor], noise_samples: int, antithetic: bool,
    patch: int,
) -> None:  # fmt: skip
    if x.ndim != 4 or x.dtype != torch.float32:
        raise ValueError("views are [V, C, H, W] float32")
    if any(n.shape != x.shape[:1] or n.dtype != torch.float32 for n in numbers):
        raise ValueError("sigma [V] and the coefficients are one number a view, float32")
    if noise[0].shape != noise[1].shape or noise[0].ndim > 1 or not noise[0].numel() or len(x) % noise[0].numel():
        raise ValueError("seed and step are one number, or one for each of S objects that share the views evenly")
    if noise_samples < 1 or (antithetic and noise_samples % 2):
        raise ValueError(f"{noise_samples} noise samples: at least one, and an even number of antithetic ones")
    if patch < 1 or x.shape[2] % patch or x.shape[3] % patch:
        raise ValueError(f"patches of {patch} do not divide an image of {x.shape[2]} x {x.shape[3]}")
    if 2 * noise_samples * x.numel() >= 2**31:
        raise ValueError("the kernels count in 32 bits")


@torch.library.custom_op("sjc_fast::perturb", mutates_args=())
def _perturb(
    x: Tensor,
    sigma: Tensor,
    c_in: Tensor,
    seed: Tensor,
    step: Tensor,
    noise_samples: int,
    antithetic: bool,
    doubled: bool,
    patch: int,
    dtype: torch.dtype,
    channels_last: bool,
    share: list[int],
) -> Tensor:
    drawing = (noise_samples, antithetic, doubled, patch)
    out = _empty_batch(x, sigma, c_in, seed, step, *drawing, dtype, channels_last, share)
    if x.numel():
        launch = implementation("paas", "triton")
        launch.perturb(out, x, sigma, c_in, seed, step, *drawing, channels_last, share)
    return out


@_perturb.register_fake
def _empty_batch(
    x: Tensor,
    sigma: Tensor,
    c_in: Tensor,
    seed: Tensor,
    step: Tensor,
    noise_samples: int,
    antithetic: bool,
    doubled: bool,
    patch: int,
    dtype: torch.dtype,
    channels_last: bool,
    share: list[int],
) -> Tensor:
    views, channels, height, width = x.shape
    shape = (views * noise_samples * (2 if doubled else 1), channels * patch**2, height // patch, width // patch)
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, device=x.device, dtype=dtype, memory_format=order)


@torch.library.custom_op("sjc_fast::regress", mutates_args=())
def _regress(
    x: Tensor,
    sigma: Tensor,
    c_skip: Tensor,
    c_skip_less_one: Tensor,
    c_out: Tensor,
    answer: Tensor,
    seed: Tensor,
    step: Tensor,
    guidance: Tensor,
    noise_samples: int,
    patch: int,
    share: list[int],
) -> Tensor:
    """``<D - x, sigma n>`` and ``<sigma n, sigma n>`` of every copy, [2, V, N]."""
    out = torch.empty(2, len(x), noise_samples, device=x.device)
    if not x.numel():
        return out.zero_()
    numbers = (sigma, c_skip, c_skip_less_one, c_out)
    implementation("paas", "triton").regress(out, x, numbers, answer, seed, step, guidance, noise_samples, patch, share)
    return out


@_regress.register_fake
def _(x: Tensor, sigma: Tensor, c_skip: Tensor, c_skip_less_one: Tensor, c_out: Tensor, answer: Tensor, seed: Tensor,
      step: Tensor, guidance: Tensor, noise_samples: int, patch: int, share: list[int]) -> Tensor:  # fmt: skip
    return torch.empty(2, len(x), noise_samples, device=x.device)


@torch.library.custom_op("sjc_fast::paas_update", mutates_args=())
def _update(
    x: Tensor,
    sigma: Tensor,
    c_skip: Tensor,
    c_skip_less_one: Tensor,
    c_out: Tensor,
    scale: Tensor,
    answer: Tensor,
    seed: Tensor,
    step: Tensor,
    guidance: Tensor,
    fitted: Tensor | None,
    noise_samples: int,
    antithetic: bool,
    coefficient: float,
    patch: int,
    share: list[int],
) -> Tensor:
    out = torch.empty(x.shape, device=x.device)
    if x.numel():
        numbers = (sigma, c_skip, c_skip_less_one, c_out)
        implementation("paas", "triton").update(
            out, x, numbers, scale, answer, seed, step, guidance, fitted, noise_samples, antithetic, coefficient, patch,
            share,
        )  # fmt: skip
    return out


@_update.register_fake
def _(x: Tensor, *_rest: object) -> Tensor:
    return torch.empty(x.shape, device=x.device)

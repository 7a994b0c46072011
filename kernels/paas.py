"""`perturb` and `combine`: what lies between a clean view and its PAAS update, but for the network; one pass each.

Noise is that of noise.py, made where it is used and never stored: number i of a step comes from word i % 4 of the
Philox counter (i // 4, 0, step, 0). The plain versions, which specify both, are in `sjc_fast.paas`.
"""

from __future__ import annotations

from typing import Literal

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import INTERPRETING, OPTIONS
from .maths import PI

#: What a network's answer is, as diffusers names it.
PREDICTIONS = ("epsilon", "v_prediction", "sample")
_BLOCK = 1 << 14 if INTERPRETING else 128


@triton.jit
def normal_at(i, seed, step):
    """Standard normal number i of a step."""
    block = (i // 4).to(tl.uint32)
    zero = block * 0
    w0, w1, w2, w3 = tl.philox(seed, block, zero, zero + step.to(tl.uint32), zero)
    early = i % 4 < 2
    # 23 bits and a half: exact in float32, never 0 and never 1.
    first = ((tl.where(early, w0, w2) >> 9).to(tl.float32) + 0.5) * (1 / 8388608)
    second = ((tl.where(early, w1, w3) >> 9).to(tl.float32) + 0.5) * (1 / 8388608)
    angle = 2 * PI * second
    return tl.sqrt_rn(-2 * tl.log(first)) * tl.where(i % 2 == 0, tl.cos(angle), tl.sin(angle))


@triton.jit
def place(j, height, width, CHANNELS: tl.constexpr, PATCH: tl.constexpr, LAST: tl.constexpr):
    """Where number j of a view [C, H, W] lies in the network's image [C p p, H / p, W / p], channels last or not."""
    x, y, c = j % width, j // width % height, j // (width * height)
    channel = (c * PATCH + y % PATCH) * PATCH + x % PATCH
    down, across = y // PATCH, x // PATCH
    if LAST:
        return (down * (width // PATCH) + across) * (CHANNELS * PATCH * PATCH) + channel
    return (channel * (height // PATCH) + down) * (width // PATCH) + across


@triton.jit
def perturb_kernel(
    clean,  # [V, C, H, W]
    sigma,  # [V]
    seed,  # []
    step,  # []
    out,  # [V N (x 2), C p p, H / p, W / p]
    count,  # V DRAWN C H W
    copies,  # V N C H W
    height,
    width,
    CHANNELS: tl.constexpr,
    DRAWN: tl.constexpr,  # independent copies of a view: N, or N / 2 of mirrored pairs
    MIRRORED: tl.constexpr,
    DOUBLED: tl.constexpr,
    PATCH: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of the noise."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    size = CHANNELS * height * width
    j, drawn, view = i % size, i // size % DRAWN, i // (size * DRAWN)
    s = tl.load(sigma + view, mask, other=1.0)
    x = tl.load(clean + view * size + j, mask, other=0.0)
    offset = s * normal_at(i, tl.load(seed), tl.load(step))
    scale = tl.sqrt_rn(1 + s * s)
    spot = place(j, height, width, CHANNELS, PATCH, LAST)
    for mirror in tl.static_range(2 if MIRRORED else 1):
        value = tl.div_rn(x - offset if mirror else x + offset, scale).to(out.dtype.element_ty)
        there = (view * (DRAWN * (2 if MIRRORED else 1)) + mirror * DRAWN + drawn) * size + spot
        tl.store(out + there, value, mask)
        if DOUBLED:
            tl.store(out + copies + there, value, mask)


@triton.jit
def difference(x, s, noise, answer, there, copies, guidance, mask, PREDICTION: tl.constexpr, DOUBLED: tl.constexpr):
    """D - x of noised copies from what the network answered, guidance in float32."""
    said = tl.load(answer + there, mask, other=0.0).to(tl.float32)
    if DOUBLED:
        plain = tl.load(answer + copies + there, mask, other=0.0).to(tl.float32)
        said = plain + tl.load(guidance) * (said - plain)
    # Without taking x from something that holds it, where that can be avoided.
    if PREDICTION == 0:
        return s * (noise - said)
    variance = 1 + s * s
    if PREDICTION == 1:
        return (s * noise - s * s * x) / variance - s / tl.sqrt_rn(variance) * said
    return said - x


@triton.jit
def regress_kernel(
    clean,  # [V, C, H, W]
    sigma,  # [V]
    answer,  # [V N (x 2), C p p, H / p, W / p]
    guidance,  # []
    seed,
    step,
    out,  # [2, V, N]
    copies,  # V N C H W
    height,
    width,
    COUNT: tl.constexpr,  # N
    PREDICTION: tl.constexpr,
    CHANNELS: tl.constexpr,
    DOUBLED: tl.constexpr,
    PATCH: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One copy: the products of D - x and sigma n, and of sigma n with itself, summed over C, H, W in a fixed order."""
    copy = tl.program_id(0).to(tl.int64)
    size = CHANNELS * height * width
    s = tl.load(sigma + copy // COUNT)
    dot, power = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    start = 0
    while start < size:
        j = start + tl.arange(0, BLOCK)
        mask = j < size
        x = tl.load(clean + copy // COUNT * size + j, mask, other=0.0)
        noise = normal_at(copy * size + j, tl.load(seed), tl.load(step))
        there = copy * size + place(j, height, width, CHANNELS, PATCH, LAST)
        change = difference(x, s, noise, answer, there, copies, guidance, mask, PREDICTION, DOUBLED)
        dot += tl.where(mask, change * s * noise, 0.0)
        power += tl.where(mask, s * noise * s * noise, 0.0)
        start += BLOCK
    tl.store(out + copy, tl.sum(dot, 0))
    tl.store(out + tl.num_programs(0) + copy, tl.sum(power, 0))


@triton.jit
def combine_kernel(
    clean,  # [V, C, H, W]
    sigma,  # [V]
    answer,  # [V N (x 2), C p p, H / p, W / p]
    guidance,  # []
    seed,
    step,
    fitted,  # [V, N] c of every copy, if FITTED
    out,  # [V, C, H, W]
    count,  # V C H W
    copies,  # V N C H W
    height,
    width,
    coefficient,  # c of all of them, else
    FITTED: tl.constexpr,
    PREDICTION: tl.constexpr,  # index into PREDICTIONS
    POWER: tl.constexpr,  # of sigma: the update is the score times sigma^POWER
    CHANNELS: tl.constexpr,
    DRAWN: tl.constexpr,
    MIRRORED: tl.constexpr,
    DOUBLED: tl.constexpr,
    PATCH: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of the update: the mean over the view's copies of ``D - x - c sigma n``, times a power of sigma."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = i < count
    size = CHANNELS * height * width
    j, view = i % size, i // size
    s = tl.load(sigma + view, mask, other=1.0)
    x = tl.load(clean + i, mask, other=0.0)
    spot = place(j, height, width, CHANNELS, PATCH, LAST)
    total = s * 0
    c = total + coefficient
    for drawn in range(DRAWN):
        drawn_noise = normal_at((view * DRAWN + drawn) * size + j, tl.load(seed), tl.load(step))
        for mirror in tl.static_range(2 if MIRRORED else 1):
            noise = -drawn_noise if mirror else drawn_noise
            copy = view * (DRAWN * (2 if MIRRORED else 1)) + mirror * DRAWN + drawn
            if FITTED:
                c = tl.load(fitted + copy, mask, other=0.0)
            there = copy * size + spot
            change = difference(x, s, noise, answer, there, copies, guidance, mask, PREDICTION, DOUBLED)
            total += change - c * s * noise
    update = total / (DRAWN * (2 if MIRRORED else 1))
    if POWER == 0:
        update = update / (s * s)
    elif POWER == 1:
        update = update / s
    tl.store(out + i, update, mask)


def perturb(
    x: Tensor,  # [V, C, H, W] float32
    sigma: Tensor,  # [V] float32
    seed: Tensor,  # [] int64 on the device; its bits are the seed
    step: Tensor,  # [] int64 on the device
    *,
    noise_samples: int,
    antithetic: bool = False,
    doubled: bool = False,
    patch: int = 1,
    dtype: torch.dtype = torch.float16,
    channels_last: bool = True,
) -> Tensor:
    """The network's input: N noised copies of each view, ``(x + sigma n) / sqrt(1 + sigma^2)`` (Eq. 13).

    Args:
        antithetic: the second half of a view's copies mirrors the first (n, -n); N must be even.
        doubled: the whole batch twice, for the conditional and the unconditional half of guidance.
        patch: squares of so many pixels a side become channels (`torch.nn.functional.pixel_unshuffle`).

    Returns:
        [V N, C patch^2, H / patch, W / patch] in `dtype` (2 V N with `doubled`), view by view.

    Raises:
        ValueError: N < 1, an odd N of pairs, an image that `patch` does not divide, or other shapes.
    """
    _check(x, sigma, noise_samples, antithetic, patch)
    return _perturb(x, sigma, seed, step, noise_samples, antithetic, doubled, patch, dtype, channels_last)


def combine(
    x: Tensor,  # [V, C, H, W] float32
    sigma: Tensor,  # [V] float32
    answer: Tensor,  # what the network said to `perturb`'s batch, of its shape
    seed: Tensor,
    step: Tensor,
    guidance: Tensor,  # [] float32 on the device; read if the answer is doubled
    *,
    noise_samples: int,
    antithetic: bool = False,
    prediction: str = "epsilon",
    coefficient: float | Literal["auto"] = 0.0,
    power: int = 1,
    patch: int = 1,
) -> Tensor:
    """The weighted PAAS update of each view, from the network's answers; the noise is made again, not stored.

    Guidance ``u + g (c - u)`` is taken in float32, the answer becomes D (epsilon, v or sample), and the update is the
    mean of ``D - x - c sigma n`` over the copies, over ``sigma^(2 - power)``: Eq. 15 for coefficient 1, Eq. 16 for 0.
    "auto" fits one c a copy, by regression of ``D - x`` on ``sigma n`` over the view's other copies (over itself for
    N = 1), in a pass before; in antithetic pairs any c cancels, and nothing is fitted.

    Returns:
        [V, C, H, W] float32.

    Raises:
        ValueError: as `perturb`, or an answer of another shape, an unknown prediction, or a power not in 0, 1, 2.
    """
    _check(x, sigma, noise_samples, antithetic, patch)
    views, channels, height, width = x.shape
    image = (channels * patch**2, height // patch, width // patch)
    if tuple(answer.shape[1:]) != image or len(answer) not in (views * noise_samples, 2 * views * noise_samples):
        raise ValueError(f"the answer is {list(answer.shape)}; a batch of {views * noise_samples} (or twice) was asked")
    if prediction not in PREDICTIONS or power not in (0, 1, 2):
        raise ValueError(f"prediction is one of {', '.join(PREDICTIONS)} and power 0, 1 or 2")
    kind, fitted = PREDICTIONS.index(prediction), None
    if coefficient == "auto":
        coefficient = 0.0
        if not antithetic:
            dot, total = _regress(x, sigma, answer, seed, step, guidance, noise_samples, kind, patch)
            if noise_samples > 1:  # what the other copies say, so that c does not depend on the noise it multiplies
                dot, total = dot.sum(1, keepdim=True) - dot, total.sum(1, keepdim=True) - total
            fitted = dot / total
    return _combine(
        x, sigma, answer, seed, step, guidance, fitted, noise_samples, antithetic, kind, coefficient, power, patch
    )


def _check(x: Tensor, sigma: Tensor, noise_samples: int, antithetic: bool, patch: int) -> None:
    if x.ndim != 4 or sigma.shape != x.shape[:1] or x.dtype != torch.float32 or sigma.dtype != torch.float32:
        raise ValueError("views are [V, C, H, W] and sigma [V], both float32")
    if noise_samples < 1 or (antithetic and noise_samples % 2):
        raise ValueError(f"{noise_samples} noise samples: at least one, and an even number of antithetic ones")
    if patch < 1 or x.shape[2] % patch or x.shape[3] % patch:
        raise ValueError(f"patches of {patch} do not divide an image of {x.shape[2]} x {x.shape[3]}")
    if 2 * noise_samples * x.numel() >= 2**31:
        raise ValueError("the kernels count in 32 bits")


def _drawn(noise_samples: int, antithetic: bool) -> int:
    return noise_samples // 2 if antithetic else noise_samples


@torch.library.custom_op("sjc_fast::perturb", mutates_args=())
def _perturb(
    x: Tensor,
    sigma: Tensor,
    seed: Tensor,
    step: Tensor,
    noise_samples: int,
    antithetic: bool,
    doubled: bool,
    patch: int,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    out = _empty_batch(x, sigma, seed, step, noise_samples, antithetic, doubled, patch, dtype, channels_last)
    drawn = _drawn(noise_samples, antithetic)
    if not x.numel():
        return out
    with torch.cuda.device_of(x):
        perturb_kernel[(triton.cdiv(x.numel() * drawn, _BLOCK),)](
            x.contiguous(), sigma.contiguous(), seed, step, out, x.numel() * drawn, x.numel() * noise_samples,
            *x.shape[2:], CHANNELS=x.shape[1], DRAWN=drawn, MIRRORED=antithetic, DOUBLED=doubled, PATCH=patch,
            LAST=channels_last, BLOCK=_BLOCK, **(OPTIONS | {"num_warps": 4}),
        )  # fmt: skip
    return out


@_perturb.register_fake
def _empty_batch(
    x: Tensor,
    sigma: Tensor,
    seed: Tensor,
    step: Tensor,
    noise_samples: int,
    antithetic: bool,
    doubled: bool,
    patch: int,
    dtype: torch.dtype,
    channels_last: bool,
) -> Tensor:
    views, channels, height, width = x.shape
    shape = (views * noise_samples * (2 if doubled else 1), channels * patch**2, height // patch, width // patch)
    order = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(shape, device=x.device, dtype=dtype, memory_format=order)


def _settled(answer: Tensor) -> tuple[Tensor, bool]:
    """The network's answer as the kernels read it, and whether its channels come last."""
    last = answer.is_contiguous(memory_format=torch.channels_last)
    return (answer if last else answer.contiguous()), last


@torch.library.custom_op("sjc_fast::regress", mutates_args=())
def _regress(
    x: Tensor,
    sigma: Tensor,
    answer: Tensor,
    seed: Tensor,
    step: Tensor,
    guidance: Tensor,
    noise_samples: int,
    prediction: int,
    patch: int,
) -> Tensor:
    """``<D - x, sigma n>`` and ``<sigma n, sigma n>`` of every copy, [2, V, N]."""
    out = torch.empty(2, len(x), noise_samples, device=x.device)
    answer, last = _settled(answer)
    if not x.numel():
        return out.zero_()
    with torch.cuda.device_of(x):
        regress_kernel[(len(x) * noise_samples,)](
            x.contiguous(), sigma.contiguous(), answer, guidance, seed, step, out, x.numel() * noise_samples,
            *x.shape[2:], COUNT=noise_samples, PREDICTION=prediction, CHANNELS=x.shape[1],
            DOUBLED=len(answer) == 2 * noise_samples * len(x), PATCH=patch, LAST=last,
            BLOCK=_BLOCK if INTERPRETING else 1024, **(OPTIONS | {"num_warps": 8}),
        )  # fmt: skip
    return out


@_regress.register_fake
def _(x: Tensor, sigma: Tensor, answer: Tensor, seed: Tensor, step: Tensor, guidance: Tensor, noise_samples: int,
      prediction: int, patch: int) -> Tensor:  # fmt: skip
    return torch.empty(2, len(x), noise_samples, device=x.device)


@torch.library.custom_op("sjc_fast::combine", mutates_args=())
def _combine(
    x: Tensor,
    sigma: Tensor,
    answer: Tensor,
    seed: Tensor,
    step: Tensor,
    guidance: Tensor,
    fitted: Tensor | None,
    noise_samples: int,
    antithetic: bool,
    prediction: int,
    coefficient: float,
    power: int,
    patch: int,
) -> Tensor:
    out = torch.empty(x.shape, device=x.device)
    answer, last = _settled(answer)
    if not x.numel():
        return out
    with torch.cuda.device_of(x):
        combine_kernel[(triton.cdiv(x.numel(), _BLOCK),)](
            x.contiguous(), sigma.contiguous(), answer, guidance, seed, step, x if fitted is None else fitted, out,
            x.numel(), x.numel() * noise_samples, *x.shape[2:], coefficient, FITTED=fitted is not None,
            PREDICTION=prediction, POWER=power,
            CHANNELS=x.shape[1], DRAWN=_drawn(noise_samples, antithetic), MIRRORED=antithetic,
            DOUBLED=len(answer) == 2 * noise_samples * len(x), PATCH=patch, LAST=last, BLOCK=_BLOCK,
            **(OPTIONS | {"num_warps": 4}),
        )  # fmt: skip
    return out


@_combine.register_fake
def _(x: Tensor, *_rest: object) -> Tensor:
    return torch.empty(x.shape, device=x.device)

"""`composite`: samples along rays to features, depth, opacity and emptiness, and the gradients, in one pass each.

The mathematics is that of `march` (march.py), for samples that are already in memory: a scan over the samples of a
chunk gives the transmittance forward, and the running sum of g w backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import INTERPRETING, OPTIONS
from .march_kernels import EARLY_STOP, FAR_DEPTH, GATE, OPAQUE, along, before, known_sums
from .maths import log1p, opacity_of

_LANES = 8 if INTERPRETING else 16
_RAYS = 256 if INTERPRETING else 2


class Composite(NamedTuple):
    """What `composite` returns for N rays."""

    features: Tensor  # [N, C]
    depth: Tensor  # [N]
    opacity: Tensor  # [N]
    emptiness: Tensor  # [N] mean of log(1 + beta w) over the ray's samples


@triton.jit
def composite_kernel(
    density,  # [N, K]
    features,  # [N, K, C]
    background,  # [N, C]
    entry,  # [N]
    out_features,  # [N, C]
    out_depth,  # [N]
    out_opacity,  # [N]
    out_emptiness,  # [N]
    out_slope,  # [N] sum of w beta / (1 + beta w)
    rays,
    samples,
    step,
    beta,
    C: tl.constexpr,
    RAYS: tl.constexpr,
    LANES: tl.constexpr,
):
    """RAYS rays, LANES samples of each at a time."""
    lane = tl.arange(0, RAYS * LANES)
    ray = tl.program_id(0) * RAYS + lane // LANES
    valid = ray < rays
    channel = tl.arange(0, 4)
    start = tl.load(entry + ray, valid, other=0.0)
    passed = start * 0
    opacity, depth, slope, penalty = passed, passed, passed, passed
    lit = tl.zeros([RAYS * LANES, 4], tl.float32)
    k = lane % LANES
    live = 1
    while live > 0:
        inside = valid & (k < samples)
        thickness = tl.load(density + ray * samples + k, inside, other=0.0) * step
        scanned = tl.minimum(thickness, OPAQUE)
        through = tl.exp(-passed - before(scanned, RAYS, LANES))
        weight = tl.where(through >= EARLY_STOP, through * opacity_of(thickness), 0.0)
        bright = tl.expand_dims(weight > GATE, 1) & (channel < C)
        where = tl.expand_dims((ray * samples + k) * C, 1) + channel
        lit += tl.expand_dims(weight, 1) * tl.load(features + where, bright, other=0.0)
        opacity += weight
        depth += weight * (start + k * step)
        slope += weight * (beta / (1 + beta * weight))
        penalty += log1p(beta * weight)
        passed += along(scanned, RAYS, LANES)
        k += LANES
        live = tl.max((valid & (k < samples) & (tl.exp(-passed) >= EARLY_STOP)).to(tl.int32))
    first = valid & (lane % LANES == 0)
    opaque = along(opacity, RAYS, LANES)
    known = tl.expand_dims(first, 1) & (channel < C)
    at = tl.expand_dims(ray * C, 1) + channel
    behind = tl.load(background + at, known, other=0.0)
    tl.store(out_features + at, along(lit, RAYS, LANES) + tl.expand_dims(1 - opaque, 1) * behind, known)
    tl.store(out_depth + ray, along(depth, RAYS, LANES) + (1 - opaque) * FAR_DEPTH, first)
    tl.store(out_opacity + ray, opaque, first)
    tl.store(out_emptiness + ray, along(penalty, RAYS, LANES) / samples, first)
    tl.store(out_slope + ray, along(slope, RAYS, LANES), first)


@triton.jit
def composite_gradient_kernel(
    density,
    features,
    background,
    entry,
    out_features,  # what the forward pass wrote
    out_depth,
    out_opacity,
    out_slope,
    v_features,  # [N, C] upstream gradients
    v_depth,  # [N]
    v_opacity,  # [N]
    v_emptiness,  # [N]
    grad_density,  # [N, K]
    grad_features,  # [N, K, C]
    rays,
    samples,
    step,
    beta,
    C: tl.constexpr,
    RAYS: tl.constexpr,
    LANES: tl.constexpr,
):
    """RAYS rays, LANES samples of each at a time; hidden samples get exactly zero."""
    lane = tl.arange(0, RAYS * LANES)
    ray = tl.program_id(0) * RAYS + lane // LANES
    valid = ray < rays
    channel = tl.arange(0, 4)
    known = tl.expand_dims(valid, 1) & (channel < C)
    at = tl.expand_dims(ray * C, 1) + channel
    up = tl.load(v_features + at, known, other=0.0)
    behind = tl.load(background + at, known, other=0.0)
    up_depth = tl.load(v_depth + ray, valid, other=0.0)
    up_opacity = tl.load(v_opacity + ray, valid, other=0.0)
    up_penalty = tl.load(v_emptiness + ray, valid, other=0.0) / samples
    seen = tl.load(out_features + at, known, other=0.0)
    far = tl.load(out_depth + ray, valid, other=0.0)
    opaque = tl.load(out_opacity + ray, valid, other=0.0)
    slope_sum = tl.load(out_slope + ray, valid, other=0.0)
    base, total = known_sums(up, up_depth, up_opacity, up_penalty, behind, seen, far, opaque, slope_sum)
    start = tl.load(entry + ray, valid, other=0.0)
    passed, running = start * 0, start * 0
    k = lane % LANES
    done = 0
    while done < samples:
        inside = valid & (k < samples)
        there = ray * samples + k
        thickness = tl.load(density + there, inside, other=0.0) * step
        scanned = tl.minimum(thickness, OPAQUE)
        through = tl.exp(-passed - before(scanned, RAYS, LANES))
        shown = through >= EARLY_STOP
        weight = tl.where(shown, through * opacity_of(thickness), 0.0)
        bright = weight > GATE
        where = tl.expand_dims(there * C, 1) + channel
        value = tl.load(features + where, tl.expand_dims(bright, 1) & (channel < C), other=0.0)
        gain = base + up_depth * (start + k * step) + up_penalty * (beta / (1 + beta * weight))
        gain += tl.sum(up * value, 1)
        pulled = gain * weight
        upto = running + before(pulled, RAYS, LANES) + pulled
        slope = step * (through * tl.exp(-thickness) * gain - (total - upto))
        tl.store(grad_density + there, tl.where(shown, slope, 0.0), inside)
        light = tl.expand_dims(tl.where(bright, weight, 0.0), 1) * up
        tl.store(grad_features + where, light, tl.expand_dims(inside, 1) & (channel < C))
        running += along(pulled, RAYS, LANES)
        passed += along(scanned, RAYS, LANES)
        k += LANES
        done += LANES


def composite(
    density: Tensor,  # [N, K] float32, at least 0; optical thickness per unit length
    features: Tensor,  # [N, K, C], C at most 4
    background: Tensor,  # [N, C]
    entry: Tensor,  # [N] distance of each ray's first sample
    *,
    step: float,
    beta: float = 10.0,
) -> Composite:
    """Composite K samples, `step` apart, along each of N rays; gradients to density, features, background and entry.

    Raises:
        ValueError: tensors whose shapes do not fit, or that are not float32.
    """
    rays, samples = density.shape
    channels = background.shape[-1]
    if features.shape != (rays, samples, channels) or background.shape != (rays, channels) or entry.shape != (rays,):
        raise ValueError("density [N, K], features [N, K, C], background [N, C] and entry [N] do not fit each other")
    if not 1 <= channels <= 4 or any(x.dtype != torch.float32 for x in (density, features, background, entry)):
        raise ValueError("composite takes float32 tensors of at most 4 channels")
    if features.numel() >= 2**31:
        raise ValueError("the kernels count in 32 bits")
    return Composite(*_composite(density, features, background, entry, step, beta)[:4])


@torch.library.custom_op("sjc_fast::composite", mutates_args=())
def _composite(
    density: Tensor, features: Tensor, background: Tensor, entry: Tensor, step: float, beta: float
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Features, depth, opacity, emptiness, and the slope that the backward pass needs."""
    rays, samples = density.shape
    out = _empty(density, features, background, entry, step, beta)
    if not rays:
        return out
    with torch.cuda.device_of(density):
        composite_kernel[(triton.cdiv(rays, _RAYS),)](
            *(x.contiguous() for x in (density, features, background, entry)), *out, rays, samples, step, beta,
            C=background.shape[-1], RAYS=_RAYS, LANES=_LANES, **OPTIONS,
        )  # fmt: skip
    return out


@_composite.register_fake
def _empty(density: Tensor, _features: Tensor, background: Tensor, *_rest: Any) -> tuple[Tensor, ...]:
    return (background.new_empty(background.shape), *(density.new_empty(density.shape[0]) for _ in range(4)))


@torch.library.custom_op("sjc_fast::composite_gradients", mutates_args=())
def _gradients(
    density: Tensor,
    features: Tensor,
    background: Tensor,
    entry: Tensor,
    out_features: Tensor,
    out_depth: Tensor,
    out_opacity: Tensor,
    out_slope: Tensor,
    v_features: Tensor,
    v_depth: Tensor,
    v_opacity: Tensor,
    v_emptiness: Tensor,
    step: float,
    beta: float,
) -> tuple[Tensor, Tensor]:
    rays, samples = density.shape
    grads = torch.empty(density.shape, device=density.device), torch.empty(features.shape, device=density.device)
    tensors = (density, features, background, entry, out_features, out_depth, out_opacity, out_slope)
    if not rays:
        return grads
    with torch.cuda.device_of(density):
        composite_gradient_kernel[(triton.cdiv(rays, _RAYS),)](
            *(x.contiguous() for x in (*tensors, v_features, v_depth, v_opacity, v_emptiness)), *grads,
            rays, samples, step, beta, C=background.shape[-1], RAYS=_RAYS, LANES=_LANES, **OPTIONS,
        )  # fmt: skip
    return grads


@_gradients.register_fake
def _(density: Tensor, features: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty(density.shape, device=density.device), torch.empty(features.shape, device=density.device)


def _remember(ctx: Any, inputs: tuple, output: tuple) -> None:
    features, depth, opacity, _emptiness, slope = output
    ctx.mark_non_differentiable(slope)
    ctx.save_for_backward(*inputs[:4], features, depth, opacity, slope)
    ctx.numbers = inputs[4:]


def _chain(
    ctx: Any, v_features: Tensor, v_depth: Tensor, v_opacity: Tensor, v_emptiness: Tensor, _slope: Any
) -> tuple:  # fmt: skip
    opacity = ctx.saved_tensors[6]
    upstream = (v_features, v_depth, v_opacity, v_emptiness)
    grads = _gradients(*ctx.saved_tensors, *upstream, *ctx.numbers)
    return *grads, (1 - opacity)[:, None] * v_features, v_depth * opacity, None, None


_composite.register_autograd(_chain, setup_context=_remember)

"""`composite`: samples along rays to features, depth, opacity and emptiness, and the gradients, in one pass each.

The mathematics is that of `march`, for samples that are already in memory: a scan over the samples of a chunk gives the
transmittance forward, and the running sum of g w backward.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..contract import implementation


class Composite(NamedTuple):
    """What `composite` returns for N rays."""

    features: Tensor  # [N, C]
    depth: Tensor  # [N]
    opacity: Tensor  # [N]
    emptiness: Tensor  # [N] mean of log(1 + beta w) over the ray's samples


class Samples(NamedTuple):
    """K samples along each of N rays, and what lies behind them."""

    density: Tensor  # [N, K] float32, at least 0; optical thickness per unit length
    features: Tensor  # [N, K, C], C at most 4
    background: Tensor  # [N, C]
    entry: Tensor  # [N] distance of each ray's first sample


class Saved(NamedTuple):
    """What the forward pass leaves for the backward pass, besides the samples."""

    features: Tensor  # [N, C]
    depth: Tensor  # [N]
    opacity: Tensor  # [N]
    d_emptiness: Tensor  # [N] sum over samples of w beta / (1 + beta w)


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
    """`Composite`, and the d_emptiness that the backward pass needs."""
    out = _empty(density, features, background, entry, step, beta)
    implementation("composite", "triton").forward(out, Samples(density, features, background, entry), step, beta)
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
    d_emptiness: Tensor,
    v_features: Tensor,
    v_depth: Tensor,
    v_opacity: Tensor,
    v_emptiness: Tensor,
    step: float,
    beta: float,
) -> tuple[Tensor, Tensor]:
    """To density and features."""
    grads = _empty_gradients(density, features)
    samples = Samples(density, features, background, entry)
    saved = Saved(out_features, out_depth, out_opacity, d_emptiness)
    upstream = Composite(v_features, v_depth, v_opacity, v_emptiness)
    implementation("composite", "triton").backward(grads, samples, saved, upstream, step, beta)
    return grads


@_gradients.register_fake
def _empty_gradients(density: Tensor, features: Tensor, *_rest: Any) -> tuple[Tensor, Tensor]:
    return torch.empty(density.shape, device=density.device), torch.empty(features.shape, device=density.device)


def _remember(ctx: Any, inputs: tuple, output: tuple) -> None:
    density, features, background, entry, ctx.step, ctx.beta = inputs
    out_features, depth, opacity, _emptiness, d_emptiness = output
    ctx.mark_non_differentiable(d_emptiness)
    ctx.save_for_backward(density, features, background, entry, out_features, depth, opacity, d_emptiness)


def _chain(
    ctx: Any, v_features: Tensor, v_depth: Tensor, v_opacity: Tensor, v_emptiness: Tensor, _d_emptiness: Any
) -> tuple:  # fmt: skip
    upstream = Composite(v_features, v_depth, v_opacity, v_emptiness)
    *_samples, _features, _depth, opacity, _sum = ctx.saved_tensors
    to_density, to_features = _gradients(*ctx.saved_tensors, *upstream, ctx.step, ctx.beta)
    return to_density, to_features, (1 - opacity)[:, None] * v_features, v_depth * opacity, None, None


_composite.register_autograd(_chain, setup_context=_remember)

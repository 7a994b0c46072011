"""A rendering from what the rays left, its emptiness, and the way back, with PyTorch's own operators."""

from __future__ import annotations

import torch
from torch import Tensor

from ..contract import Rendering, Saved, Upstream


def _count_slots(ray_slots: Tensor) -> Tensor:
    """Sample slots of each view [V]: those of its longest ray, of [V, h, w]."""
    return ray_slots.flatten(1).amax(1).long()


def _mean_emptiness(penalty: Tensor, slots: Tensor) -> Tensor:
    """Mean of log(1 + beta w) over the slots of all rays [V], of the rays' sums [V, h, w]; misses count."""
    _views, height, width = penalty.shape
    return penalty.flatten(1).sum(1) / (slots * (height * width))


def gather_results(
    features: Tensor,
    depth: Tensor,
    opacity: Tensor,
    penalty: Tensor,
    d_emptiness: Tensor,
    ray_slots: Tensor,
    stop: Tensor,
    state: Tensor,
    slots: Tensor | None,
) -> tuple[Rendering, Saved]:
    """What a march returns, from what its rays wrote; `slots` [V] are counted where they are not given."""
    counted = _count_slots(ray_slots) if slots is None else slots.clone()
    rendering = Rendering(features, depth, opacity, _mean_emptiness(penalty, counted))
    return rendering, Saved(features, depth, opacity, d_emptiness, stop, counted, state)


def penalty_gradient(saved: Saved, upstream: Upstream) -> Tensor:
    """dL/d log(1 + beta w) of a slot of each view, [V]."""
    views, height, width = saved.depth.shape
    if upstream.emptiness is None:
        return torch.zeros(views, device=saved.depth.device)
    return upstream.emptiness / (saved.slots * (height * width))

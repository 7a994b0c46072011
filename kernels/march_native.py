"""How the compiled C++ code runs the march: what it is given is made plain float32 first. See csrc/kernels.inc."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from .native import load


def split(_rays: int) -> tuple[int, int]:
    """A ray is one piece: threads take whole rays."""
    return 1, 1


def forward(
    scene: tuple[Tensor, ...],
    shape: tuple[int, int, float, float, bool, float],
    *,
    lanes: int,
    segments: int,
    channels: int | None = None,
    bricks: Tensor | None = None,
    skip_below: float = 0.0,
) -> tuple[Tensor, ...]:
    """Render: features, depth, opacity, penalty, slope, slots, stop, state (see `march.Views`)."""
    density, features, background, log_scale, c2w, fov, box = scene
    height, width, step, density_shift, sigmoid, beta = shape
    empty = None
    if bricks is not None:
        empty = softplus(log_scale.exp() * bricks + density_shift) * step < skip_below
    views = load().march_forward(
        density, features[..., :channels], background, log_scale, c2w, fov, box,
        None if empty is None else empty.byte(), height, width, step, density_shift, sigmoid, beta,
    )  # fmt: skip
    return *views, views[0].new_empty(2, len(c2w), segments - 1, 4 * height * width)


def backward(
    grads: tuple[Tensor, ...],
    forward: tuple[Tensor, ...],
    upstream: tuple[Tensor | None, ...],
    shape: tuple[float, float, bool, float],
    lanes: int,
    segments: int,
    scales: None,
) -> None:
    """Add the gradients to `grads`."""
    density, features, background, log_scale, c2w, fov, box, image, depth, opacity, slope, stop, slots, _ = forward
    v_features, v_depth, v_opacity, v_emptiness = upstream
    step, density_shift, sigmoid, beta = shape
    views, channels, height, width = image.shape
    v_penalty = torch.zeros(views) if v_emptiness is None else v_emptiness / (slots * (height * width))
    load().march_backward(
        *grads, density, features[..., :channels], background, log_scale, c2w, fov, box, image, depth, opacity, slope,
        stop, v_features, v_depth, v_opacity, v_penalty, step, density_shift, sigmoid, beta,
    )  # fmt: skip

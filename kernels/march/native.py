"""How the compiled C++ code runs the march: what it is given is made plain float32 first. See csrc/kernels.inc."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import softplus

from ..contract import Gradients, Quadrature, Rendering, Saved, Scene, Upstream, state_shape
from ..native import load
from .emptiness import gather_results, penalty_gradient


def split(_rays: int) -> tuple[int, int]:
    """Lanes and segments of a ray: one, since threads take whole rays."""
    return 1, 1


def forward(
    scene: Scene,
    size: tuple[int, int],
    quadrature: Quadrature,
    plan: tuple[int, int],
    *,
    channels: int | None = None,
    slots: Tensor | None = None,
    bricks: Tensor | None = None,
    skip_below: float = 0.0,
) -> tuple[Rendering, Saved]:
    """Render height x width pixels; `channels` of padded features count."""
    (height, width), (_lanes, segments) = size, plan
    empty = None
    if bricks is not None:
        thickest = softplus(scene.log_scale.exp() * bricks + quadrature.density_shift) * quadrature.step
        empty = (thickest < skip_below).byte()
    features, depth, opacity, penalty, d_emptiness, ray_slots, stop = load().march_forward(
        *scene._replace(features=scene.features[..., :channels]), empty, height, width, *quadrature
    )
    state = features.new_empty(state_shape(len(scene.c2w), features.shape[1], height * width, segments))
    return gather_results(features, depth, opacity, penalty, d_emptiness, ray_slots, stop, state, slots)


def backward(
    grads: Gradients,
    scene: Scene,
    saved: Saved,
    upstream: Upstream,
    quadrature: Quadrature,
    plan: tuple[int, int],
    scales: None,
) -> None:
    """Add the gradients to `grads`."""
    read = scene._replace(features=scene.features[..., : saved.features.shape[1]])
    load().march_backward(
        *grads, *read, saved.features, saved.depth, saved.opacity, saved.d_emptiness, saved.stop,
        upstream.features, upstream.depth, upstream.opacity, penalty_gradient(saved, upstream), *quadrature,
    )  # fmt: skip


def fixed_scales(*_arguments: object) -> None:
    """None: the sums of this code have one order, and need no fixed point."""

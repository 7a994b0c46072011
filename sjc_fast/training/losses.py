"""The regularizers of the paper: emptiness and center depth. Each gives its upstream gradient and its schedule.

A new loss is a subclass of `Loss` in `LOSSES`, and its settings in `LossConfig`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..kernels.contract import Rendering, Upstream
from .config import LossConfig


class Loss:
    """A term of the objective that is a function of what was rendered."""

    def weights(self, steps: int, config: LossConfig) -> Tensor:
        """Its weight at every step, [steps] float32."""
        raise NotImplementedError

    def is_used(self, config: LossConfig) -> bool:
        """Whether its weight is ever other than 0."""
        raise NotImplementedError

    def upstream(self, rendering: Rendering, views: int, config: LossConfig) -> dict[str, Tensor | float]:
        """Gradients of the mean over an object's views, for weight 1, by the names of what was rendered.

        A number is for all. The views of several objects may be rendered at once.
        """
        raise NotImplementedError


class Emptiness(Loss):
    """Mean of log(1 + beta w) over a view's sample slots, which keeps empty space empty (paper, section 4.3)."""

    def weights(self, steps: int, config: LossConfig) -> Tensor:
        return emptiness_weights(steps, config.emptiness_weight, config.emptiness_start, config.emptiness_multiplier)

    def is_used(self, config: LossConfig) -> bool:
        return config.emptiness_weight != 0

    def upstream(self, rendering: Rendering, views: int, config: LossConfig) -> dict[str, Tensor | float]:  # noqa: ARG002
        return {"emptiness": 1 / views}


class CenterDepth(Loss):
    """`center_depth_loss`, which pulls the object in front of its surroundings."""

    def weights(self, steps: int, config: LossConfig) -> Tensor:
        return torch.full((steps,), config.depth_weight)

    def is_used(self, config: LossConfig) -> bool:
        return config.depth_weight != 0

    def upstream(self, rendering: Rendering, views: int, config: LossConfig) -> dict[str, Tensor | float]:
        with torch.enable_grad():
            depth = rendering.depth.detach().requires_grad_()
            loss = _center_depth_losses(depth, config.depth_window).sum() / views
            (gradient,) = torch.autograd.grad(loss, depth)
        return {"depth": gradient}


#: Every loss, in the order of the schedule's columns.
LOSSES: tuple[Loss, ...] = (Emptiness(), CenterDepth())


def loss_weights(steps: int, config: LossConfig) -> Tensor:
    """The weights of all losses at every step, [steps, losses]."""
    return torch.stack([loss.weights(steps, config) for loss in LOSSES], dim=1)


def upstream_gradients(v_features: Tensor, rendering: Rendering, weights: Tensor, config: LossConfig) -> Upstream:
    """The whole upstream gradient of a step: that of the features (from the score), and of every loss that is used.

    Args:
        v_features: [V, C, H, W].
        weights: a row of `loss_weights`, [losses], or [S, losses] of S objects; on the device, and never read on the
            host.
    """
    total = {"features": v_features}
    objects = len(weights) if weights.ndim == 2 else 1
    views = len(v_features) // objects
    for loss, weight in zip(LOSSES, weights.unbind(-1), strict=True):
        if loss.is_used(config):
            for name, gradient in loss.upstream(rendering, views, config).items():
                rendered: Tensor = getattr(rendering, name)
                of_view = weight.reshape(-1, 1).expand(objects, views).reshape(-1, *[1] * (rendered.ndim - 1))
                share = (of_view * gradient).expand_as(rendered)
                total[name] = total[name] + share if name in total else share
    return Upstream(**total)


def emptiness_weights(steps: int, weight: float, start: float, multiplier: float) -> Tensor:
    """Weight of the emptiness loss at every step: `weight`, times `multiplier` where step >= start * steps. [steps]."""
    late = torch.arange(steps, dtype=torch.float64) >= start * steps
    return torch.where(late, weight * multiplier, weight).float()


def center_depth_loss(depth: Tensor, window: float = 50 / 64) -> Tensor:
    """Ask the border of the view to be farther than its center, so that the object comes nearer than what surrounds it.

    ``-log(u)``, u = mean border depth - mean depth of the central window, continued linearly below u = 0.01 with the
    slope it has there. (The paper's code takes the logarithm of the opposite difference, which is undefined exactly
    when the object is in front; this is the intent.)

    Args:
        depth: [V, H, W].
        window: side of the central window, as a share of the image's, in (0, 1).

    Returns:
        Mean over views, a scalar.

    Raises:
        ValueError: the window leaves no center or no border.
    """
    return _center_depth_losses(depth, window).mean()


def _center_depth_losses(depth: Tensor, window: float) -> Tensor:
    """`center_depth_loss` of each view, [V]."""
    height, width = depth.shape[-2:]
    h, w = round(height * window), round(width * window)
    if not (0 < h < height and 0 < w < width):
        raise ValueError(f"a window of {window} leaves no center or no border in a {height} x {width} view")
    top, left = (height - h) // 2, (width - w) // 2
    inside = torch.zeros(height, width, dtype=torch.bool, device=depth.device)
    inside[top : top + h, left : left + w].fill_(True)
    center = torch.where(inside, depth, 0).sum(dim=(1, 2)) / (h * w)
    border = torch.where(inside, 0, depth).sum(dim=(1, 2)) / (height * width - h * w)
    return guarded_negative_log(border - center)


def guarded_negative_log(u: Tensor, floor: float = 0.01) -> Tensor:
    """``-log(u)``, continued linearly below `floor` with the slope -1 / floor: finite for any u."""
    safe = u.clamp_min(floor)
    return -safe.log() + (safe - u) / floor

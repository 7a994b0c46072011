"""The two regularisers of the paper: emptiness (its step schedule) and centre depth."""

from __future__ import annotations

import torch
from torch import Tensor


def emptiness_weights(steps: int, weight: float, start: float, multiplier: float) -> Tensor:
    """Weight of the emptiness loss at every step: `weight`, times `multiplier` where step >= start * steps. [steps]."""
    late = torch.arange(steps, dtype=torch.float64) >= start * steps
    return torch.where(late, weight * multiplier, weight).float()


def centre_depth_loss(depth: Tensor, window: float = 50 / 64) -> Tensor:
    """Ask the border of the view to be farther than its centre, so that the object comes nearer than what surrounds it.

    ``-log(u)``, u = mean border depth - mean depth of the central window, continued linearly below u = 0.01 with the
    slope it has there. (The paper's code takes the logarithm of the opposite difference, which is undefined exactly
    when the object is in front; this is the intent.)

    Args:
        depth: [V, H, W].
        window: side of the central window, as a share of the image's, in (0, 1).

    Returns:
        Mean over views, a scalar.

    Raises:
        ValueError: the window leaves no centre or no border.
    """
    height, width = depth.shape[-2:]
    h, w = round(height * window), round(width * window)
    if not (0 < h < height and 0 < w < width):
        raise ValueError(f"a window of {window} leaves no centre or no border in a {height} x {width} view")
    top, left = (height - h) // 2, (width - w) // 2
    inside = torch.zeros(height, width, dtype=torch.bool, device=depth.device)
    inside[top : top + h, left : left + w].fill_(True)
    centre = torch.where(inside, depth, 0).sum(dim=(1, 2)) / (h * w)
    border = torch.where(inside, 0, depth).sum(dim=(1, 2)) / (height * width - h * w)
    return guarded_negative_log(border - centre).mean()


def guarded_negative_log(u: Tensor, floor: float = 0.01) -> Tensor:
    """``-log(u)``, continued linearly below `floor` with the slope -1 / floor: finite for any u."""
    safe = u.clamp_min(floor)
    return -safe.log() + (safe - u) / floor

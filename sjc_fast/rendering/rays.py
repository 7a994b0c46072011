"""Where rays meet the box, and how many sample slots a view has: shared by every renderer and by the schedule."""

from __future__ import annotations

import torch
from torch import Tensor

from ..scene.cameras import Cameras


def intersect_box(origins: Tensor, directions: Tensor, box: Tensor) -> tuple[Tensor, Tensor]:
    """Entry and exit distances of rays and an axis-aligned box.

    Args:
        origins: [..., 3]; they may lie inside the box (entry is then 0).
        directions: unit vectors, [..., 3].
        box: minimum and maximum corner, [2, 3].

    Returns:
        t_min and t_max, [...]. A ray meets the box where t_min < t_max; a NaN (a ray inside one of the box's planes)
        compares false, so such a ray counts as a miss.
    """
    near, far = (box[0] - origins) / directions, (box[1] - origins) / directions
    t_min = torch.minimum(near, far).amax(dim=-1).clamp_min(0)
    t_max = torch.maximum(near, far).amin(dim=-1)
    return t_min, t_max


def sample_slots(t_min: Tensor, t_max: Tensor, step: float) -> Tensor:
    """Sample slots a ray, K = max(1, floor(longest / step) + 1), of views given as [V, rays]; int64 [V].

    Emptiness is a mean over K slots of every ray of the view, so K is part of the loss.
    """
    length = torch.where(t_min < t_max, t_max - t_min, 0.0).amax(dim=-1)
    return (length / step).floor().long() + 1


def count_slots(cameras: Cameras, size: int, box: Tensor, step: float) -> Tensor:
    """`sample_slots` of many cameras at size x size pixels, in chunks of views; int64 [V]."""
    counts = []
    chunk = max(1, 2**18 // size**2)
    for i in range(0, len(cameras), chunk):
        origins, directions = cameras[i : i + chunk].rays(size, size)
        t_min, t_max = intersect_box(origins[:, None, None], directions, box)
        counts.append(sample_slots(t_min.flatten(1), t_max.flatten(1), step))
    return torch.cat(counts)

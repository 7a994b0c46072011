"""The reference renderer: plain PyTorch autograd, the specification that every faster backend must match."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..kernels.contract import Rendering
from ..scene.cameras import Cameras
from ..scene.field import VoxelField
from .rays import intersect_box, sample_slots

GATE = 1e-4  # features are fetched only where the weight exceeds this; the gate changes no weight
EARLY_STOP = 1e-6  # transmittance below which a ray ends: later weights and gradients are exactly 0
FAR_DEPTH = 10.0  # depth given to the light that passes through
MAX_SLOTS = 1 << 22  # samples held at once; larger views are rendered in bands of rays
_LANES = 4  # grid_sample on CPU is parallel over its batch only; fixed, so that results do not depend on the machine


def render_reference(
    field: VoxelField,
    cameras: Cameras,
    height: int,
    width: int,
    *,
    background: Tensor | None,
    beta: float,
    step_ratio: float,
    slots: Tensor | None,
    skip_empty: bool,  # noqa: ARG001  (there is nothing that could be left out)
) -> Rendering:
    """Render views one by one; see `sjc_fast.render` for the arguments."""
    step = field.step_size(step_ratio)
    origins, directions = cameras.rays(height, width)
    views = []
    for v in range(len(cameras)):
        rays = directions[v].reshape(-1, 3)
        t_min, t_max = intersect_box(origins[v], rays, field.box)
        longest = sample_slots(t_min, t_max, step)
        view_slots, count = longest if slots is None else slots[v], int(longest)
        plain = None if background is None else background[v]
        bands = [  # a band of rays at a time, where all of them are too many to hold
            composite(field, origins[v], *band, count, step, plain, beta)
            for band in zip(*(x.split(max(1, MAX_SLOTS // count)) for x in (rays, t_min, t_max)), strict=True)
        ]
        features, depth, opacity, penalty = (torch.cat(x) for x in zip(*bands, strict=True))
        views.append(
            (
                features.T.reshape(-1, height, width),
                depth.reshape(height, width),
                opacity.reshape(height, width),
                penalty.sum() / (view_slots * height * width),
            )
        )
    return Rendering(*(torch.stack(x) for x in zip(*views, strict=True)))


def composite(
    field: VoxelField,
    origin: Tensor,  # [3]
    rays: Tensor,  # [R, 3] unit directions
    t_min: Tensor,  # [R]
    t_max: Tensor,  # [R]
    count: int,
    step: float,
    plain: Tensor | None,  # [C]
    beta: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Quadrature along R rays: features [R, C], depth, opacity and sum over samples of log(1 + beta w), [R] each.

    ``alpha = 1 - exp(-density d)``, ``T_k = prod_{j<k} (1 - alpha_j)``, ``w_k = alpha_k T_k``; samples at
    ``t_min + k d`` while ``k d < t_max - t_min``.
    """
    offset = torch.arange(count, device=rays.device, dtype=rays.dtype) * step
    inside = offset < (t_max - t_min)[:, None]  # NaN and misses compare false
    ray, k = inside.nonzero(as_tuple=True)
    t = t_min[ray] + offset[k]
    points = normalize(origin + t[:, None] * rays[ray], field.box)

    raw = sample_grid(field.density[None], points)[0]
    thickness = torch.zeros_like(inside, dtype=raw.dtype).index_put((ray, k), field.activate_density(raw) * step)
    optical_depth = torch.nn.functional.pad(thickness[:, :-1], (1, 0)).cumsum(dim=1)  # exclusive, so nothing cancels
    transmittance = torch.exp(-optical_depth)  # T_k
    weights = torch.where(transmittance >= EARLY_STOP, transmittance * -torch.expm1(-thickness), 0)
    opacity = weights.sum(dim=1)

    w = weights[ray, k]
    bright = (w > GATE).nonzero()[:, 0]
    fetched = field.activate_features(sample_grid(field.features.permute(3, 0, 1, 2), points[bright]).T)
    behind = sample_background(field, rays) if plain is None else plain.expand(len(rays), -1)
    lit = torch.zeros_like(behind).index_add(0, ray[bright], w[bright, None] * fetched)
    features = lit + (1 - opacity)[:, None] * behind
    depth = torch.zeros_like(opacity).index_add(0, ray, w * t) + (1 - opacity) * FAR_DEPTH
    return features, depth, opacity, torch.log1p(beta * weights).sum(dim=1)


def normalize(points: Tensor, box: Tensor) -> Tensor:
    """World points [P, 3] to grid_sample's coordinates: the box becomes [-1, 1]^3."""
    return (points - box[0]) / (box[1] - box[0]) * 2 - 1


def sample_grid(grid: Tensor, points: Tensor) -> Tensor:
    """Trilinear values of a grid [C, D, H, W] at points [P, 3] in [-1, 1]; 0 outside. Returns [C, P]."""
    lanes = _LANES if points.device.type == "cpu" and len(points) > 4096 else 1
    points_a_lane = -(-len(points) // lanes)
    padded = torch.nn.functional.pad(points, (0, 0, 0, lanes * points_a_lane - len(points)))
    lookup = padded.reshape(lanes, 1, 1, points_a_lane, 3)
    values = grid_sample(grid.expand(lanes, -1, -1, -1, -1), lookup, align_corners=False, padding_mode="zeros")
    return values[:, :, 0, 0].transpose(0, 1).reshape(len(grid), -1)[:, : len(points)]


def sample_background(field: VoxelField, rays: Tensor) -> Tensor:
    """The background texture in the direction of each ray: [R, 3] to [R, C] (the authors' mapping, seam and all)."""
    u = torch.atan2(rays[:, :2].norm(dim=-1), rays[:, 2]) / math.pi
    v = torch.atan2(rays[:, 1], rays[:, 0]) / (2 * math.pi) + 0.5
    lookup = torch.stack([u, v], dim=-1) * 2 - 1
    texture = grid_sample(field.background[None], lookup[None, None], align_corners=False, padding_mode="zeros")
    return field.activate_features(texture[0, :, 0].T)

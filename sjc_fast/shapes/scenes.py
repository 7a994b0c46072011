"""Exact pictures of the procedural objects in soft light: what teaches the embedded model and judges its objects."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .objects import ACCENT, MAIN, MATERIALS, OBJECTS, Part

#: Key light, pointing from the object to the light: above, a little in front and to the object's left.
LIGHT = torch.nn.functional.normalize(torch.tensor([-0.45, 0.8, 0.4]), dim=0)


@dataclass
class Layers:
    """A picture of an object before the prompt's colors and the background are chosen.

    It is then ``main * color + accent * second + fixed + (1 - coverage) * background``.
    """

    main: Tensor  # [..., 1, H, W] light falling on the material that takes the prompt's color, times coverage
    accent: Tensor  # [..., 1, H, W] the same for the part that takes the second color
    fixed: Tensor  # [..., 3, H, W] lit RGB of the other materials, times coverage
    coverage: Tensor  # [..., 1, H, W] share of the pixel that the object covers

    def lit(self, color: Tensor, second: Tensor) -> Tensor:
        """RGB in [0, 1] times coverage, [..., 3, H, W], from colors given as [..., 3]."""
        lit = self.main * color[..., None, None] + self.accent * second[..., None, None] + self.fixed
        return torch.minimum(lit, self.coverage)

    def paint(self, color: Tensor, second: Tensor, background: Tensor) -> Tensor:
        """RGB in [0, 1], [..., 3, H, W], over a background given as [..., 3]."""
        return self.lit(color, second) + (1 - self.coverage) * background[..., None, None]


def _distances(parts: list[Part], points: Tensor) -> Tensor:
    return torch.stack([part.distance(points) for part in parts])


def _normals(parts: list[Part], points: Tensor, step: float = 2e-3) -> Tensor:
    """Unit normals by central differences of the distance."""
    offsets = torch.cat([torch.eye(3), -torch.eye(3)]) * step
    around = (points[:, None] + offsets).reshape(-1, 3)
    values = _distances(parts, around).amin(dim=0).reshape(-1, 2, 3)
    return torch.nn.functional.normalize(values[:, 0] - values[:, 1], dim=-1)


def _light(parts: list[Part], points: Tensor, normals: Tensor) -> Tensor:
    """Half-Lambert key light over a sky ambient, times a short-range ambient occlusion; brightness about 0.4 to 1.1."""
    key = (0.5 + 0.5 * normals @ LIGHT) ** 1.5
    sky = 0.5 + 0.5 * normals[:, 1]
    occlusion = torch.zeros(len(points))
    for reach in (0.05, 0.12, 0.22):
        gap = _distances(parts, points + normals * reach).amin(dim=0)
        occlusion += (reach - gap).clamp_min(0) / reach / 3
    return (0.38 + 0.20 * sky + 0.50 * key) * (1 - 0.55 * occlusion)


def _trace(parts: list[Part], origins: Tensor, directions: Tensor, far: float) -> Tensor:
    """Sphere tracing. Returns the distance to the surface [R], infinity where a ray misses."""
    depth = torch.zeros(len(origins))
    hit = torch.zeros(len(origins), dtype=torch.bool)
    live = torch.arange(len(origins))
    for _ in range(96):
        gap = _distances(parts, origins[live] + depth[live, None] * directions[live]).amin(dim=0)
        hit[live] = gap < 1e-3
        depth[live] += gap * 0.9  # some of the distances are only first-order estimates
        live = live[(gap >= 1e-3) & (depth[live] < far)]
        if len(live) == 0:
            break
    return torch.where(hit, depth, torch.inf)


@torch.no_grad()
def render_layers(name: str, origins: Tensor, directions: Tensor) -> Layers:
    """Exact picture of an object along given rays.

    Args:
        name: a key of `OBJECTS`.
        origins: ray origins, [H, W, 3].
        directions: unit ray directions, [H, W, 3].

    Returns:
        `Layers` of shape [., H, W], one sample a pixel (average several for anti-aliasing).
    """
    height, width = origins.shape[:2]
    o, d = origins.reshape(-1, 3), directions.reshape(-1, 3)
    parts = OBJECTS[name].parts()
    depth = _trace(parts, o, d, far=float(o.norm(dim=-1).max()) + 2)
    hit = depth.isfinite().nonzero()[:, 0]
    points = o[hit] + depth[hit, None] * d[hit]
    distances = _distances(parts, points)
    owner = torch.tensor([part.material for part in parts])[distances.argmin(dim=0)]
    light = _light(parts, points, _normals(parts, points))

    main, accent, coverage = torch.zeros(3, len(o))
    fixed = torch.zeros(len(o), 3)
    main[hit] = light * (owner == MAIN)
    accent[hit] = light * (owner == ACCENT)
    fixed[hit] = light[:, None] * MATERIALS[owner]
    coverage[hit] = 1
    return Layers(
        main.reshape(1, height, width),
        accent.reshape(1, height, width),
        fixed.T.reshape(3, height, width),
        coverage.reshape(1, height, width),
    )

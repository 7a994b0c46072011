"""Fields whose shape is known."""

import torch

from sjc_fast import MixtureModel, VoxelField
from sjc_fast.shapes.objects import COLORS

CENTER, RADIUS = torch.tensor([0.3, -0.2, 0.1]), 0.5
WHITE = (1.0, 1.0, 1.0)


def sphere(resolution=48, channels=3):
    """A ball off the center, red for x above the center's and blue below; the rest of the box is empty."""
    field = VoxelField(resolution, channels)
    axis = (torch.arange(resolution) + 0.5) * 2 / resolution - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    distance = (torch.stack([x, y, z], dim=-1) - CENTER).norm(dim=-1)
    field.density.data = (RADIUS - distance) * 200  # raw 0 at the surface
    red, blue = torch.tensor([6.0, -6.0, -6.0]), torch.tensor([-6.0, -6.0, 6.0])
    if channels == 3:
        field.features.data = torch.where((x > CENTER[0])[..., None], red, blue)
    return field


def solid(inside, colors):
    """A hard field: `inside` and RGB of points [..., 3]."""
    field = VoxelField(64, 3, activation="sigmoid")
    axis = (torch.arange(64) + 0.5) / 32 - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    points = torch.stack([x, y, z], dim=-1)
    with torch.no_grad():
        field.density.copy_(torch.where(inside(points), 300.0, -300.0))
        field.features.copy_(colors(points).clamp(0.01, 0.99).logit())
    return field


def ball(radius):
    return solid(lambda p: p.norm(dim=-1) < radius, lambda p: torch.tensor(COLORS["blue"]).expand_as(p))


def pixel_model():
    return MixtureModel(torch.zeros(1, 3, 8, 8))

"""Solids by their signed distance: what the procedural objects are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Distance = Callable[[Tensor], Tensor]  # points [P, 3] -> signed distance [P], negative inside


def sphere(x: float, y: float, z: float, radius: float) -> Distance:
    """Ball around (x, y, z)."""
    center = torch.tensor([x, y, z])
    return lambda p: (p - center).norm(dim=-1) - radius


def ellipsoid(x: float, y: float, z: float, rx: float, ry: float, rz: float) -> Distance:
    """First-order distance to an ellipsoid: exact on the surface, a safe step length near it."""
    center, radii = torch.tensor([x, y, z]), torch.tensor([rx, ry, rz])

    def distance(p: Tensor) -> Tensor:
        q = (p - center) / radii
        k0, k1 = q.norm(dim=-1), (q / radii).norm(dim=-1)
        return k0 * (k0 - 1) / k1.clamp_min(1e-6)

    return distance


def box(x: float, y: float, z: float, hx: float, hy: float, hz: float, rounding: float = 0.02) -> Distance:
    """Box around (x, y, z) with half sides (hx, hy, hz) and rounded edges."""
    center, half = torch.tensor([x, y, z]), torch.tensor([hx, hy, hz]) - rounding

    def distance(p: Tensor) -> Tensor:
        q = (p - center).abs() - half
        return q.clamp_min(0).norm(dim=-1) + q.amax(dim=-1).clamp_max(0) - rounding

    return distance


def cone(x: float, z: float, y0: float, y1: float, r0: float, r1: float) -> Distance:
    """Upright cone frustum from height y0 (radius r0) to y1 (radius r1), by the distance to its 2D profile."""
    slope = torch.tensor([y1 - y0, r0 - r1])
    slope = slope / slope.norm()

    def distance(p: Tensor) -> Tensor:
        radial = ((p[:, 0] - x) ** 2 + (p[:, 2] - z) ** 2).sqrt()
        side = (radial - r0) * slope[0] + (p[:, 1] - y0) * slope[1]
        return torch.stack([side, y0 - p[:, 1], p[:, 1] - y1]).amax(dim=0)

    return distance


def cylinder(axis: int, center: tuple[float, float, float], radius: float, half: float) -> Distance:
    """Cylinder along an axis (0 is x), `half` long to either side of its center."""
    middle = torch.tensor(center)
    across = [i for i in range(3) if i != axis]

    def distance(p: Tensor) -> Tensor:
        q = p - middle
        q = torch.stack([q[:, across].norm(dim=-1) - radius, q[:, axis].abs() - half], dim=-1)
        return q.clamp_min(0).norm(dim=-1) + q.amax(dim=-1).clamp_max(0)

    return distance


def torus(radius: float, tube: float) -> Distance:
    """Torus around the x axis, so that its hole is seen from the front."""

    def distance(p: Tensor) -> Tensor:
        ring = p[:, 1:].norm(dim=-1) - radius
        return (ring**2 + p[:, 0] ** 2).sqrt() - tube

    return distance


def prism(y0: float, y1: float, half_width: float, half_length: float) -> Distance:
    """Gable roof: a triangle in (z, y), swept along x."""
    slope = torch.tensor([y1 - y0, half_width])
    slope = slope / slope.norm()

    def distance(p: Tensor) -> Tensor:
        side = (p[:, 2].abs() - half_width) * slope[0] + (p[:, 1] - y0) * slope[1]
        return torch.stack([side, y0 - p[:, 1], p[:, 0].abs() - half_length]).amax(dim=0)

    return distance


def cut_below(inner: Distance, height: float) -> Distance:
    """What lies above a height."""
    return lambda p: torch.maximum(inner(p), height - p[:, 1])


def cut_above(inner: Distance, height: float) -> Distance:
    """What lies below a height."""
    return lambda p: torch.maximum(inner(p), p[:, 1] - height)


def without(inner: Distance, hole: Distance) -> Distance:
    """A solid with another taken out of it."""
    return lambda p: torch.maximum(inner(p), -hole(p))


def moved(inner: Distance, x: float, y: float, z: float) -> Distance:
    """A solid somewhere else."""
    offset = torch.tensor([x, y, z])
    return lambda p: inner(p - offset)


def turned(inner: Distance) -> Distance:
    """A solid with its x and z axes exchanged."""
    return lambda p: inner(p[:, [2, 1, 0]])

"""Cameras: poses on a sphere around the object, and rays through pixels.

World: right-handed, y up. Cameras follow OpenGL: x right, y up, looking down their own -z. Azimuth 0, the front, is a
camera at -x; azimuth 90 is a camera at +z. Angles are degrees, lengths are world units (the voxel box is [-1, 1]^3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .directions import Direction


@dataclass(frozen=True)
class Cameras:
    """A batch of V pinhole cameras."""

    c2w: Tensor  # [V, 4, 4] camera-to-world, OpenGL axes, float32
    fov: Tensor  # [V] field of view across the image width, degrees

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, index: slice) -> Cameras:
        return Cameras(self.c2w[index], self.fov[index])

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras on another device."""
        return Cameras(self.c2w.to(device), self.fov.to(device))

    def rays(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """World-space rays through the pixel centers; row 0 is the top of the image.

        Returns:
            origins [V, 3] and unit directions [V, height, width, 3], so that distances along a ray are lengths.
        """
        focal = width / 2 / torch.tan(torch.deg2rad(self.fov) / 2)  # pixels; from the WIDTH, as in the paper's code
        x = torch.arange(width, device=self.c2w.device, dtype=self.c2w.dtype) - (width / 2 - 0.5)
        y = torch.arange(height, device=self.c2w.device, dtype=self.c2w.dtype) - (height / 2 - 0.5)
        y, x = torch.meshgrid(y, x, indexing="ij")
        f = focal[:, None, None].to(x)
        local = torch.stack([x / f, -y / f, -torch.ones_like(x).expand(len(self), -1, -1)], dim=-1)
        world = torch.einsum("vij,vhwj->vhwi", self.c2w[:, :3, :3], local)
        return self.c2w[:, :3, 3], torch.nn.functional.normalize(world, dim=-1)


def orbit(azimuth: Tensor, elevation: Tensor, radius: Tensor | float, fov: Tensor | float) -> Cameras:
    """Cameras on a sphere, looking at the origin with y up.

    Args:
        azimuth: [V] degrees; 0 is the front (a camera at -x), 90 a camera at +z.
        elevation: [V] degrees above the horizon, within (-90, 90).
        radius: distance from the origin, one for all or [V].
        fov: degrees, one for all or [V].
    """
    a, e = torch.deg2rad(azimuth.double()), torch.deg2rad(elevation.double())
    eye = torch.stack([-e.cos() * a.cos(), e.sin(), e.cos() * a.sin()], dim=-1)
    eye *= radius[:, None] if isinstance(radius, Tensor) else radius
    fov = torch.as_tensor(fov, dtype=torch.float32).expand(len(eye)).clone()
    return Cameras(look_at(eye).float(), fov)


def look_at(eye: Tensor, target: Sequence[float] = (0, 0, 0), up: Sequence[float] = (0, 1, 0)) -> Tensor:
    """Camera-to-world matrices [V, 4, 4] of cameras at `eye` [V, 3]; OpenGL axes, so -z points at the target."""
    backward = torch.nn.functional.normalize(eye - eye.new_tensor(target), dim=-1)
    right = torch.nn.functional.normalize(torch.cross(eye.new_tensor(up).expand_as(eye), backward, dim=-1), dim=-1)
    true_up = torch.cross(backward, right, dim=-1)
    c2w = torch.eye(4, dtype=eye.dtype, device=eye.device).repeat(len(eye), 1, 1)
    c2w[:, :3, :] = torch.stack([right, true_up, backward, eye], dim=-1)
    return c2w


def ring(count: int, elevation: float, radius: float, fov: float, start: float = 0.0) -> Cameras:
    """`count` cameras evenly around the object, the first at azimuth `start`, turning once without repeating it."""
    azimuth = start + torch.arange(count) * (360 / count)
    return orbit(azimuth, torch.full((count,), float(elevation)), radius, fov)


def sample_sphere(count: int, v_range: tuple[float, float], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The authors' law for viewpoints: azimuth uniform, v uniform, cos(polar angle) = 1 - 2 v / pi.

    `v_range` is in degrees; over (0, 180) the points are uniform on the sphere. v is clipped to [0.01, pi - 0.01]
    radians, which keeps the camera off the poles.

    Returns:
        azimuth and elevation, [count] degrees each, float64.
    """
    unit = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    low, high = v_range
    v = torch.deg2rad(low + (high - low) * unit[:, 1]).clamp(0.01, math.pi - 0.01)
    return 360 * unit[:, 0], torch.rad2deg(torch.asin(1 - 2 * v / math.pi))


def sample_directions(
    count: int, directions: Sequence[Direction], spread: float, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Viewpoints drawn direction by direction, in shuffled rounds, so that every direction is seen equally often.

    Args:
        spread: 0 puts every camera at the middle of its patch, 1 anywhere in it.

    Returns:
        azimuth and elevation ([count] degrees, float64) and the index of each one's direction ([count], int64).
    """
    rounds = -(-count // len(directions))
    index = torch.cat([torch.randperm(len(directions), generator=generator) for _ in range(rounds)])[:count]
    offset = (torch.rand(count, 2, generator=generator, dtype=torch.float64) - 0.5) * spread
    patch = torch.tensor([(*d.azimuth, *d.elevation) for d in directions], dtype=torch.float64)[index]
    azimuth = (patch[:, 0] + patch[:, 1]) / 2 + offset[:, 0] * (patch[:, 1] - patch[:, 0])
    elevation = (patch[:, 2] + patch[:, 3]) / 2 + offset[:, 1] * (patch[:, 3] - patch[:, 2])
    return azimuth % 360, elevation, index


def sample_rig(
    count: int, views: int, elevation: tuple[float, float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rigs of `views` viewpoints evenly around the object, from anywhere, each at one elevation in a range.

    Returns:
        azimuth and elevation, [count] degrees each, float64; a rig's follow each other.
    """
    unit = torch.rand(count // views, 2, generator=generator, dtype=torch.float64)
    azimuth = (360 * unit[:, :1] + torch.arange(views) * (360 / views)).flatten() % 360
    low, high = elevation
    return azimuth, (low + (high - low) * unit[:, 1]).repeat_interleave(views)


def name_directions(azimuth: Tensor, elevation: Tensor, directions: Sequence[Direction]) -> Tensor:
    """Index [V] of the first direction whose patch contains each viewpoint.

    Raises:
        ValueError: a viewpoint lies in none of them.
    """
    inside = torch.stack([d.contains(azimuth, elevation) for d in directions])
    if not bool(inside.any(dim=0).all()):
        raise ValueError("the direction words leave part of the viewing sphere without a name")
    return inside.int().argmax(dim=0)


def blend_directions(azimuth: Tensor, elevation: Tensor, directions: Sequence[Direction]) -> Tensor:
    """How much of each direction is in each viewpoint, [V, directions], rows sum to 1: linear in both angles.

    A direction counts fully in the middle of its patch and not at all one patch's width away. A viewpoint that is near
    none counts as the direction whose patch contains it.

    Raises:
        ValueError: a viewpoint lies in no patch.
    """
    patches = torch.tensor([(*d.azimuth, *d.elevation) for d in directions], dtype=torch.float64)
    width = patches[:, 1::2] - patches[:, ::2]
    away = torch.stack([azimuth, elevation], dim=-1)[:, None] - patches.reshape(-1, 2, 2).mean(dim=-1)
    away[..., 0] = (away[..., 0] + 180) % 360 - 180
    near = (1 - away.abs() / width.clamp_min(1e-6)).clamp_min(0)
    near[..., 0].masked_fill_(width[:, 0] >= 360, 1.0)
    weight = near.prod(dim=-1)
    lost = weight.sum(dim=1) < 1e-6
    if bool(lost.any()):
        index = name_directions(azimuth[lost], elevation[lost], directions)
        weight[lost] = torch.nn.functional.one_hot(index, len(directions)).to(weight)
    return (weight / weight.sum(dim=1, keepdim=True)).float()

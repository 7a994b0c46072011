"""A field from posed photographs, coarse to fine: the renderer and its gradients without any diffusion model."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate, mse_loss

from ..rendering import render
from ..scene.field import VoxelField
from ..scene.photos import Photos

#: Density for one unit of its raw value: Adam moves raw values by its learning rate, and surfaces need tens of units.
SHARPNESS = 10.0


@dataclass
class FitSettings:
    """How a field is fitted."""

    resolutions: tuple[int, ...] = (32, 64, 96)
    """Voxels a side, one after the other."""
    steps: int = 300
    """At each resolution."""
    views: int = 2
    """Photographs a step."""
    lr: float = 0.1
    """Of Adam; falls to a tenth over each resolution's steps."""
    bound: float = 1.0
    """Half the side of the box that holds the object, world units."""
    seed: int = 0
    backend: str = "auto"


def fit_steps(photos: Photos, settings: FitSettings, device: torch.device | str = "cpu") -> Iterator[VoxelField]:
    """Fit, yielding the field after every step.

    Each step compares views over random plain backgrounds, so that opacity is learned with the colors. A finer grid
    starts as the coarser one, interpolated.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    corners = torch.tensor([[-1.0] * 3, [1.0] * 3]) * settings.bound
    field = VoxelField(settings.resolutions[0], 3, feature_std=0.1, box=corners, generator=generator).to(device)
    with torch.no_grad():
        field.density_scale.fill_(math.log(SHARPNESS))
    height, width = photos.pictures.shape[-2:]
    for resolution in settings.resolutions:
        field = refine(field, resolution)
        grids = [field.density, field.features]
        optimizer = torch.optim.Adam(grids, lr=settings.lr, betas=(0.9, 0.99))
        fall = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.1 ** (1 / settings.steps))
        for _ in range(settings.steps):
            chosen = torch.randint(len(photos.pictures), (settings.views,), generator=generator)
            background = torch.rand(settings.views, 3, generator=generator)
            some = photos.take(chosen)
            out = render(
                field,
                some.cameras.to(device),
                (height, width),
                background=background.to(device) * 2 - 1,
                backend=settings.backend,
            )
            loss = mse_loss(out.features / 2 + 0.5, some.over(background).to(device))
            loss.backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
            optimizer.zero_grad()
            fall.step()
            yield field


@torch.no_grad()
def refine(field: VoxelField, resolution: int) -> VoxelField:
    """The same field on a cubic grid of another resolution, interpolated."""
    if tuple(field.density.shape) == (resolution,) * 3:
        return field
    finer = VoxelField(
        resolution,
        field.channels,
        activation=field.activation,
        density_shift=field.density_shift,
        box=field.box.cpu(),
    ).to(field.box.device)

    def resample(grid: Tensor) -> Tensor:  # [C, D, H, W]
        return interpolate(grid[None], (resolution,) * 3, mode="trilinear", align_corners=False)[0]

    finer.density.copy_(resample(field.density[None])[0])
    finer.features.copy_(resample(field.features.permute(3, 0, 1, 2)).permute(1, 2, 3, 0))
    finer.background.copy_(field.background)
    finer.density_scale.copy_(field.density_scale)
    return finer


@torch.no_grad()
def measure(field: VoxelField, photos: Photos, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """PSNR of every photograph over white, dB, [V], and the field's views of them, [V, 3, H, W] in [0, 1]."""
    height, width = photos.pictures.shape[-2:]
    white = torch.ones(1, 3, device=field.box.device)
    views: list[Tensor] = []
    for v in range(len(photos.pictures)):
        camera = photos.cameras[v : v + 1].to(white.device)
        views.append(render(field, camera, (height, width), background=white, backend=backend).features.cpu() / 2 + 0.5)
    pictures = torch.cat(views)
    error = (pictures - photos.over(torch.ones(3))).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10(), pictures

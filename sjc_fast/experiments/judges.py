"""What experiments stand on with one model: things to make, pictures, and a judge."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..errors import UserError, setting
from ..scene.field import VoxelField
from ..shapes.truth import read_whole

SOLID = 0.05  # opacity from which a voxel is no mere haze


class Judge(Protocol):
    """What experiments stand on."""

    labels: ClassVar[dict[str, str]]
    """Figures that `judge` gives, and what they are called; more is better, and the first one is the quality."""
    picture_label: str
    """What the figure of `judge_picture` is called."""
    recognizable: float
    """What that figure is at least where the picture shows what it should."""
    strays: ClassVar[dict[str, str]]
    """Figures that `stray` gives, and what they are called; less is better, and the first one says what floats."""
    negligible: float
    """Differences of quality that count as none."""

    def prompts(self, *known: str) -> tuple[str, ...]:
        """What to make: some of the given, or what the user asked for."""
        ...

    def captions(self) -> list[str]:
        """Four prompts of pictures."""
        ...

    def truth(self, x: Tensor, sigma: Tensor) -> Tensor | None:
        """The exact denoiser's answer to noisy features [B, C, size, size] without words, where there is one."""
        ...

    def unfinished(self) -> tuple[Tensor, str]:
        """A rendering half-way, features [1, C, size, size], and its prompt."""
        ...

    def judge(self, field: VoxelField, prompt: str) -> dict[str, Any]:
        """Figures of a field, `labels` and perhaps more."""
        ...

    def judge_picture(self, x: Tensor, caption: str) -> float:
        """Quality of features [C, size, size], dB."""
        ...

    def stray(self, field: VoxelField, prompt: str) -> dict[str, float]:
        """What floats, and how far the object's center is off, half sides of the box: the figures of `strays`."""
        ...

    def faces(self, field: VoxelField, prompt: str) -> float:
        """Share of the other sides that look more like the front than like themselves."""
        ...

    def views(self, field: VoxelField) -> Tensor:
        """8 pictures from around, from the front on, [8, 3, H, W] in [0, 1]."""
        ...


def check_prompt(model: str, scenes: str, prompt: str) -> None:
    """Refuse what cannot be made, before anything is loaded.

    Raises:
        UserError: the model needs a prompt, or the prompt names no known scene.
    """
    if scenes == "shapes":
        asked = read_whole(prompt) if prompt else None
        if asked and asked.direction is not None:
            raise UserError(f"{prompt!r}: leave the direction out, an object has all of them")
    elif not prompt.strip():
        raise UserError(f'say what {model} should make, e.g. {setting("prompt")} "a ripe strawberry"')


def half_done(x: Tensor) -> Tensor:
    """What a rendering looks like half-way."""
    return 0.6 * avg_pool2d(x, 9, stride=1, padding=4, count_include_pad=False)


def mass_of(field: VoxelField) -> tuple[Tensor, Tensor]:
    """Opacity of every voxel, [voxels], and their middles, [voxels, 3] in [-1, 1], both float64."""
    side = field.density.shape[0]
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    density = field.activate_density(field.density).flatten().cpu().double()
    return -torch.expm1(-density * 2 / side), torch.stack([x, y, z], dim=-1).reshape(-1, 3)


def mass_fraction(mass: Tensor, some: Tensor) -> float:
    """Of a mass, how much lies in some voxels; 0 where there is none at all."""
    return float(mass[some].sum() / mass.sum().clamp_min(1e-9))


def middle_of(opacity: Tensor, lens: tuple[float, float]) -> Tensor:
    """Centroids of silhouettes [V, H, W], [V, 2] in world units at the distance of the box's middle.

    Args:
        lens: radius and FoV (degrees) of the cameras, which look at the box's middle.
    """
    radius, fov = lens
    axes = [torch.linspace(-1, 1, n) * radius * math.tan(math.radians(fov) / 2) for n in opacity.shape[1:]]
    total = opacity.sum(dim=(1, 2)).clamp_min(1e-9)
    moments = [(opacity.sum(dim=2 - i) * axis).sum(dim=1) for i, axis in enumerate(axes)]
    return torch.stack(moments, dim=1) / total[:, None]

"""What experiments stand on with one model: things to make, pictures, and a judge."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ..config import TrainConfig
from ..errors import UserError
from ..field import VoxelField
from ..scores.diffusers import DiffusersModel
from ..scores.protocol import ScoreModel

SEEN = 0.05  # opacity of a voxel; what softplus leaves in empty space adds up, and is seen by nobody


class Stage(Protocol):
    """What experiments stand on."""

    labels: dict[str, str]
    """Figures that `judge` gives, and what they are called; more is better, and the first one is the quality."""
    picture_label: str
    """What the figure of `judge_picture` is called."""
    recognisable: float
    """What that figure is at least where the picture shows what it should."""
    exact: ScoreModel | None
    """The exact denoiser, where there is one."""
    outside: str
    """Outside of what floaters are."""

    def prompts(self, *known: str) -> tuple[str, ...]:
        """What to make: some of the given, or what the user asked for."""

    def captions(self) -> list[str]:
        """Four prompts of pictures."""

    def disc(self) -> tuple[Tensor, str]:
        """A clean orange disc over grey, features [1, C, size, size], and its prompt."""

    def unfinished(self) -> tuple[Tensor, str]:
        """A rendering half-way, features [1, C, size, size], and its prompt."""

    def judge(self, field: VoxelField, prompt: str) -> dict[str, Any]:
        """Figures of a field, `labels` and perhaps more."""

    def judge_picture(self, x: Tensor, caption: str) -> float:
        """Quality of features [C, size, size], dB."""

    def stray(self, field: VoxelField, prompt: str) -> dict[str, float]:
        """Share of the density's mass that floats ("floaters"), and how far the centre is off ("offset")."""

    def faces(self, field: VoxelField, prompt: str) -> float:
        """Share of the other sides that look more like the front than like themselves."""

    def views(self, field: VoxelField) -> Tensor:
        """8 pictures from around, from the front on, [8, 3, H, W] in [0, 1]."""


def choose_stage(model: DiffusersModel, scenes: str, base: TrainConfig, prompt: str) -> Stage:
    """Held against the truth where the model's scenes are known ("shapes"), else judged by the model itself.

    Raises:
        UserError: the prompt is missing, or names no known scene.
    """
    from .known import KnownScenes
    from .unknown import UnknownScenes

    if scenes == "shapes":
        return KnownScenes(model, prompt)
    if not prompt.strip():
        raise UserError(f'say what {base.model} should make, e.g. --prompt "a ripe strawberry"')
    return UnknownScenes(model, base, prompt)


def half_done(x: Tensor) -> Tensor:
    """What a rendering looks like half-way."""
    return 0.6 * avg_pool2d(x, 9, stride=1, padding=4, count_include_pad=False)


def mass_of(field: VoxelField) -> tuple[Tensor, Tensor]:
    """Opacity of every voxel that can be seen, [voxels], and their middles, [voxels, 3] in [-1, 1]."""
    side = field.density.shape[0]
    axis = (torch.arange(side) + 0.5) / side * 2 - 1
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    density = field.activate_density(field.density).flatten().cpu().double()
    opacity = -torch.expm1(-density * 2 / side)
    return torch.where(opacity > SEEN, opacity, 0.0), torch.stack([x, y, z], dim=-1).reshape(-1, 3)


def total(mass: Tensor) -> Tensor:
    """Sum that can be divided by."""
    return mass.sum().clamp_min(1e-9)


def centre(points: Tensor, mass: Tensor) -> Tensor:
    """Centre of mass, [3]."""
    return (points.double() * mass[:, None]).sum(dim=0) / total(mass)

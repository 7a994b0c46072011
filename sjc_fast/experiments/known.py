"""The embedded model's scenes are known: what it makes is held against the truth."""

from __future__ import annotations

import functools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..scene.field import VoxelField
from ..shapes.dataset import FOV, RADIUS, direction_cameras, render_views
from ..shapes.objects import OBJECTS
from ..shapes.prompts import DIRECTIONS, read
from ..shapes.scenes import Layers
from ..shapes.truth import around_cameras, held_out_cameras, judge, true_views, views_of
from ..shapes.world import ExactWorld
from .judges import SOLID, half_done, mass_fraction, mass_of, middle_of

GRAY = torch.full((3,), 0.5)
MARGIN = 0.06  # beyond the true surface, so that what is merely soft is no floater; voxels are 2 / 48 wide


class KnownScenes:
    """See `Judge`.

    Args:
        asked: what to make, "" for the experiments' own choices.
        small: the exact denoiser knows the pictures from two directions only.
    """

    labels: ClassVar = {"psnr": "PSNR at held-out views, dB", "iou": "silhouette IoU"}
    picture_label, recognizable = "PSNR on the object, dB", 15.0
    strays: ClassVar = {
        "outside": "mass outside the object",
        "solid": "solid mass outside it",
        "haze": "opacity beside it",
        "offset": "offset of its center",
    }
    negligible = 0.5

    def __init__(self, asked: str = "", small: bool = False) -> None:
        self.asked, self.small = asked, small

    def prompts(self, *known: str) -> tuple[str, ...]:
        """See `Judge`."""
        return (self.asked,) if self.asked else known

    def captions(self) -> list[str]:
        """See `Judge`."""
        views = "front", "front left", "left", "front right"
        things = self.prompts("a red mushroom", "a green house", "a yellow duck", "a blue car") * 4
        return [f"{view} view of {thing}" for view, thing in zip(views, things, strict=False)]

    def truth(self, x: Tensor, sigma: Tensor) -> Tensor | None:
        """See `Judge`: the posterior mean over every known scene."""
        return exact_world(self.small).denoise(x.cpu(), sigma.cpu())

    def unfinished(self) -> tuple[Tensor, str]:
        """See `Judge`: the true picture, blurred and dimmed, over gray."""
        caption = self.captions()[1] if self.asked else "front left view of a red mushroom"
        return half_done(true_picture(caption)), caption

    def judge(self, field: VoxelField, prompt: str) -> dict[str, Any]:
        """See `Judge`."""
        return judge(field, prompt).figures()

    def judge_picture(self, x: Tensor, caption: str) -> float:
        """See `Judge`: PSNR where no background shows, which may be any; without direction, from the nearest one."""
        asked, best = read(caption), -math.inf
        for view in range(len(DIRECTIONS)) if asked.direction is None else [asked.direction]:
            layers = _layers(asked.name, view)
            inside = layers.coverage[0, 0] > 0.999
            error = (x.cpu() / 2 + 0.5 - layers.lit(*asked.colors())[0])[:, inside]
            best = max(best, float(-10 * error.square().mean().log10()))
        return best

    @torch.no_grad()
    def stray(self, field: VoxelField, prompt: str) -> dict[str, float]:
        """See `Judge`: against the true solids and silhouettes."""
        mass, points = mass_of(field)
        parts = OBJECTS[read(prompt).name].parts()
        outside = torch.stack([part.distance(points.float()) for part in parts]).amin(dim=0) > MARGIN
        opacity, coverage = views_of(field, held_out_cameras())[1], true_views(prompt)[1]
        centers = [middle_of(silhouettes, (RADIUS, FOV)) for silhouettes in (opacity, coverage)]
        return {
            "outside": mass_fraction(mass, outside),
            "solid": mass_fraction(mass.where(mass > SOLID, 0.0), outside),
            "haze": float(opacity[coverage == 0].mean()),
            "offset": float((centers[0] - centers[1]).norm(dim=1).mean()),
        }

    def faces(self, field: VoxelField, prompt: str) -> float:
        """See `Judge`: by mean squared error, of seven sides."""
        views = self.views(field)
        truth, _ = true_views(prompt, held_out=False)
        own = (views - truth).square().mean(dim=(1, 2, 3))
        front = (views - truth[:1]).square().mean(dim=(1, 2, 3))
        return float((front < own)[1:].float().mean())

    def views(self, field: VoxelField) -> Tensor:
        """See `Judge`: over white."""
        return views_of(field, around_cameras())[0]


def true_picture(caption: str) -> Tensor:
    """What a caption shows, over gray, [1, 3, size, size] in [-1, 1]."""
    asked = read(caption)
    return _layers(asked.name, asked.direction).paint(*asked.colors(), background=GRAY) * 2 - 1


@functools.lru_cache(maxsize=1)
def exact_world(small: bool = False) -> ExactWorld:
    """Every scene: rendering them takes half a minute."""
    return ExactWorld(directions=slice(8, 10) if small else slice(None))


@functools.lru_cache(maxsize=32)
def _layers(name: str, direction: int) -> Layers:
    """Rendering takes a second, and the same picture is often judged by."""
    return render_views(name, direction_cameras()[direction : direction + 1])

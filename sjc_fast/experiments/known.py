"""The embedded model's scenes are known: what it makes is held against the truth."""

from __future__ import annotations

import functools
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..field import VoxelField
from ..scores.diffusers import DiffusersModel
from ..shapes.dataset import direction_cameras, render_views
from ..shapes.exact import ExactScenes
from ..shapes.objects import OBJECTS
from ..shapes.prompts import read
from ..shapes.scenes import Layers
from ..shapes.truth import around_cameras, judge, read_whole, true_views, views_of
from .stages import centre, half_done, mass_of, total

GREY = torch.full((3,), 0.5)
MARGIN = 0.06  # beyond the true surface, so that what is merely soft is no floater; voxels are 2 / 48 wide


class KnownScenes:
    """See `Stage`.

    Args:
        asked: what to make, "" for the experiments' own choices.

    Raises:
        UserError: what is asked has no known truth.
    """

    labels: ClassVar = {"psnr": "PSNR at held-out views, dB", "iou": "silhouette IoU"}
    picture_label, recognisable = "PSNR on the object, dB", 15.0
    outside = "the true object"

    def __init__(self, model: DiffusersModel, asked: str = "") -> None:
        if asked:
            read_whole(asked)
        self.exact, self.asked = ExactScenes(model.sigmas, {}), asked

    def prompts(self, *known: str) -> tuple[str, ...]:
        """See `Stage`."""
        return (self.asked,) if self.asked else known

    def captions(self) -> list[str]:
        """See `Stage`."""
        views = "front", "front left", "left", "front right"
        things = self.prompts("a red mushroom", "a green house", "a yellow duck", "a blue car") * 4
        return [f"{view} view of {thing}" for view, thing in zip(views, things, strict=False)]

    def disc(self) -> tuple[Tensor, str]:
        """See `Stage`: the true picture of a ball."""
        caption = "front view of an orange ball"
        return true_picture(caption), caption

    def unfinished(self) -> tuple[Tensor, str]:
        """See `Stage`: the true picture, blurred and dimmed, over grey."""
        caption = self.captions()[1] if self.asked else "front left view of a red mushroom"
        return half_done(true_picture(caption)), caption

    def judge(self, field: VoxelField, prompt: str) -> dict[str, Any]:
        """See `Stage`."""
        return judge(field, prompt).figures()

    def judge_picture(self, x: Tensor, caption: str) -> float:
        """See `Stage`: PSNR where no background shows, which may be any."""
        asked = read(caption)
        layers = _layers(asked.name, asked.direction)
        inside = layers.coverage[0, 0] > 0.999
        error = (x.cpu() / 2 + 0.5 - layers.lit(*asked.colours())[0])[:, inside]
        return float(-10 * error.square().mean().log10())

    @torch.no_grad()
    def stray(self, field: VoxelField, prompt: str) -> dict[str, float]:
        """See `Stage`: mass outside the true object, and the distance between its centre and the true one."""
        mass, points = mass_of(field)
        distance = torch.stack([part.distance(points) for part in OBJECTS[read(prompt).name].parts()]).amin(dim=0)
        shell = (distance.abs() < MARGIN).double()  # only surfaces are seen, so only they have a place
        true = (points.double() * shell[:, None]).sum(dim=0) / shell.sum()
        offset = centre(points, mass * shell) - true
        return {"floaters": float(mass[distance > MARGIN].sum() / total(mass)), "offset": float(offset.norm())}

    def faces(self, field: VoxelField, prompt: str) -> float:
        """See `Stage`: by mean squared error, of seven sides."""
        views = self.views(field)
        truth, _ = true_views(prompt, held_out=False)
        own = (views - truth).square().mean(dim=(1, 2, 3))
        front = (views - truth[:1]).square().mean(dim=(1, 2, 3))
        return float((front < own)[1:].float().mean())

    def views(self, field: VoxelField) -> Tensor:
        """See `Stage`: over white."""
        return views_of(field, around_cameras())[0]


def true_picture(caption: str) -> Tensor:
    """What a caption shows, over grey, [1, 3, size, size] in [-1, 1]."""
    asked = read(caption)
    return _layers(asked.name, asked.direction).paint(*asked.colours(), GREY) * 2 - 1


@functools.lru_cache(maxsize=16)
def _layers(name: str, direction: int) -> Layers:
    """Rendering takes a second, and the same picture is often judged by."""
    return render_views(name, direction_cameras()[direction : direction + 1])

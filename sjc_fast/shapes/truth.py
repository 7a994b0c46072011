"""Fields held against the true scene of their prompt, at cameras between the training directions."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..cameras import Cameras, ring
from ..errors import UserError
from ..field import VoxelField
from ..rendering import render
from .dataset import FOV, RADIUS, render_views
from .objects import COLOURS, OBJECTS
from .prompts import Asked, read

SIZE = 128  # pixels a side of a view that is judged
ELEVATION = 20.0  # degrees

#: Objects whose front (-x) and back differ by more than a mirror.
FACING = ("snowman", "house", "car", "duck", "chair", "rocket", "boat", "robot", "penguin")


class Judgement(NamedTuple):
    """How near a field comes to the truth, and the views that it was judged by."""

    iou: float
    """Of the silhouettes, opacity > 0.5; the mean over views, as all that follow."""
    psnr: float
    """dB, peak 1, of the object over white, whole picture."""
    psnr_object: float
    """dB, on the union of both silhouettes."""
    facing: bool | None
    """Whether the front is nearer (in mean squared error) to the true front than to the true back, and the back the
    other way round; None for an object that looks the same from both."""
    views: Tensor  # [8, 3, SIZE, SIZE] in [0, 1], over white
    truth: Tensor  # likewise

    def figures(self) -> dict[str, float | bool | None]:
        """What is a number."""
        return {k: v for k, v in self._asdict().items() if not isinstance(v, Tensor)}


def held_out_cameras() -> Cameras:
    """8 cameras half-way between the training azimuths, 20 degrees above the horizon."""
    return ring(8, ELEVATION, RADIUS, FOV, start=22.5)


def read_whole(prompt: str) -> Asked:
    """What a prompt asks for, if that is one scene.

    Raises:
        UserError: the prompt names no known object, or no colour.
    """
    asked = read(prompt)
    if not asked.colour:
        raise UserError(f"{prompt!r} has no known truth: it names no colour")
    return asked


def true_views(prompt: str, cameras: Cameras, size: int = SIZE) -> tuple[Tensor, Tensor]:
    """What a prompt asks for: RGB in [0, 1] over white, [V, 3, size, size], and coverage, [V, size, size].

    Raises:
        UserError: the prompt has no known truth.
    """
    asked = read_whole(prompt)
    layers = render_views(asked.name, cameras, size)
    colours = torch.tensor([COLOURS[asked.colour], OBJECTS[asked.name].second(asked.second)])
    return layers.paint(*colours, torch.ones(3)), layers.coverage[:, 0]


@torch.no_grad()
def judge(field: VoxelField, prompt: str, backend: str = "auto") -> Judgement:
    """Compare a field (of RGB, [-1, 1]) with the scene that its prompt asks for; its own background is left out.

    Raises:
        UserError: the prompt has no known truth.
    """
    cameras, device = held_out_cameras(), field.box.device
    truth, coverage = true_views(prompt, cameras)
    views, opacity = _views(field, cameras.to(device), backend)
    mine, theirs = opacity > 0.5, coverage > 0.5
    union = mine | theirs
    iou = (mine & theirs).sum(dim=(1, 2)) / union.sum(dim=(1, 2))
    error = (views - truth).square().mean(dim=1)
    near = (error * union).sum(dim=(1, 2)) / union.sum(dim=(1, 2))
    psnr = lambda mse: float(-10 * mse.log10().mean())  # noqa: E731
    whole = psnr(error.mean(dim=(1, 2)))
    return Judgement(float(iou.mean()), whole, psnr(near), _faces_front(field, prompt, backend), views, truth)


def _views(field: VoxelField, cameras: Cameras, backend: str) -> tuple[Tensor, Tensor]:
    white = torch.ones(len(cameras), 3, device=field.box.device)
    out = render(field, cameras, SIZE, background=white, backend=backend)
    return out.features.cpu() / 2 + 0.5, out.opacity.cpu()


def _faces_front(field: VoxelField, prompt: str, backend: str) -> bool | None:
    if read(prompt).name not in FACING:
        return None
    cameras = ring(2, ELEVATION, RADIUS, FOV)  # from the front, from the back
    truth, _ = true_views(prompt, cameras)
    views, _ = _views(field, cameras.to(field.box.device), backend)
    error = (views[:, None] - truth).square().mean(dim=(2, 3, 4))
    return bool(error[0, 0] < error[0, 1] and error[1, 1] < error[1, 0])


def mean(rows: list[dict]) -> dict[str, float]:
    """Means of the figures of several judgements; of `facing`, the share of those that have one."""
    kept = {k: [r[k] for r in rows if r[k] is not None] for k in rows[0] if not isinstance(rows[0][k], str)}
    return {k: math.fsum(v) / len(v) for k, v in kept.items() if v}

"""Fields held against the true scene of their prompt, at cameras between the training directions."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError
from ..rendering import render
from ..scene.cameras import Cameras, ring
from ..scene.field import VoxelField
from .dataset import FOV, RADIUS, render_views
from .prompts import ParsedPrompt, read
from .scenes import Layers

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


def around_cameras() -> Cameras:
    """8 cameras at the training azimuths, the first in front of the object, 20 degrees above the horizon."""
    return ring(8, ELEVATION, RADIUS, FOV)


def read_whole(prompt: str) -> ParsedPrompt:
    """What a prompt asks for, if that is one scene.

    Raises:
        UserError: the prompt names no known object, or no color.
    """
    asked = read(prompt)
    if not asked.color:
        raise UserError(f"{prompt!r} has no known truth: it names no color")
    return asked


def true_views(prompt: str, *, held_out: bool = True) -> tuple[Tensor, Tensor]:
    """What a prompt asks for, from `held_out_cameras` or `around_cameras`.

    Returns:
        RGB in [0, 1] over white, [8, 3, SIZE, SIZE], and coverage, [8, SIZE, SIZE].

    Raises:
        UserError: the prompt has no known truth.
    """
    asked = read_whole(prompt)
    layers = _layers(asked.name, held_out)
    return layers.paint(*asked.colors(), background=torch.ones(3)), layers.coverage[:, 0]


@functools.lru_cache(maxsize=64)
def _layers(name: str, held_out: bool) -> Layers:
    """Rendering an object takes a second, and the same one is often judged again."""
    return render_views(name, held_out_cameras() if held_out else around_cameras(), SIZE)


@torch.no_grad()
def judge(field: VoxelField, prompt: str, backend: str = "auto") -> Judgement:
    """Compare a field (of RGB, [-1, 1]) with the scene that its prompt asks for; its own background is left out.

    Raises:
        UserError: the prompt has no known truth.
    """
    truth, coverage = true_views(prompt)
    views, opacity = views_of(field, held_out_cameras(), backend)
    mine, theirs = opacity > 0.5, coverage > 0.5
    union = mine | theirs
    iou = (mine & theirs).sum(dim=(1, 2)) / union.sum(dim=(1, 2))
    error = (views - truth).square().mean(dim=1)
    near = (error * union).sum(dim=(1, 2)) / union.sum(dim=(1, 2))
    psnr = lambda mse: float(-10 * mse.log10().mean())  # noqa: E731
    whole = psnr(error.mean(dim=(1, 2)))
    return Judgement(float(iou.mean()), whole, psnr(near), _faces_front(field, prompt, backend), views, truth)


@torch.no_grad()
def views_of(field: VoxelField, cameras: Cameras, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """A field as it is judged: RGB over white, [V, 3, SIZE, SIZE] in [0, 1], and opacity, [V, SIZE, SIZE]."""
    device = field.box.device
    white = torch.ones(len(cameras), 3, device=device)
    out = render(field, cameras.to(device), SIZE, background=white, backend=backend)
    return out.features.cpu() / 2 + 0.5, out.opacity.cpu()


def _faces_front(field: VoxelField, prompt: str, backend: str) -> bool | None:
    if read(prompt).name not in FACING:
        return None
    truth = true_views(prompt, held_out=False)[0][::4]  # from the front, from the back
    views, _ = views_of(field, ring(2, ELEVATION, RADIUS, FOV), backend)
    error = (views[:, None] - truth).square().mean(dim=(2, 3, 4))
    return bool(error[0, 0] < error[0, 1] and error[1, 1] < error[1, 0])


def mean(rows: list[dict]) -> dict[str, float]:
    """Means of the figures of several judgements; of `facing`, the share of those that have one."""
    kept = {k: [r[k] for r in rows if r[k] is not None] for k in rows[0] if not isinstance(rows[0][k], str)}
    return {k: math.fsum(v) / len(v) for k, v in kept.items() if v}

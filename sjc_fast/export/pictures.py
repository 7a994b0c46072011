"""Pictures of a field: RGB and depth views, and the preview grid of a run."""

from __future__ import annotations

from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from torch import Tensor

from ..cameras import Cameras
from ..field import VoxelField
from ..files import atomic
from ..rendering import render
from ..rendering.reference import FAR_DEPTH
from ..scores.protocol import ScoreModel


@torch.no_grad()
def take_pictures(
    field: VoxelField,
    model: ScoreModel,
    cameras: Cameras,
    size: int,
    background: tuple[float, float, float] | None = None,
    backend: str = "auto",
    *,
    decoded: bool = True,
) -> tuple[Tensor, Tensor]:
    """RGB and depth pictures as people see them.

    Args:
        cameras: V cameras.
        size: pixels a side of the RGB picture (a latent model renders size / upscale and decodes).
        background: plain colour, RGB in [0, 1]; None for the field's own texture.
        decoded: through the model's decoder; else its cheap preview, enlarged.

    Returns:
        rgb [V, 3, size', size'] and depth shading [V, 1, h, w], both in [0, 1]; near is bright, nothing is black.
    """
    plain = None
    if background is not None:
        plain = torch.tensor(background, device=field.box.device).expand(len(cameras), 3) * 2 - 1
    out = render(field, cameras, max(1, size // model.upscale), background=plain, backend=backend, skip_empty=True)
    rgb = model.decode(out.features) if decoded else model.preview(out.features)
    factor = out.features.shape[-1] * model.upscale // rgb.shape[-1]  # a preview may have a latent's size
    rgb = rgb.repeat_interleave(factor, dim=-2).repeat_interleave(factor, dim=-1)
    return rgb, shade_depth(out.depth, out.opacity, cameras, field.box)[:, None]


def shade_depth(depth: Tensor, opacity: Tensor, cameras: Cameras, box: Tensor) -> Tensor:
    """Depth as brightness, [V, H, W] in [0, 1]: 1 half a box in front of its centre, 0.15 half a box behind it."""
    surface = (depth - (1 - opacity) * FAR_DEPTH) / opacity.clamp_min(1e-3)
    radius = float((box[1] - box[0]).mean() / 2)
    distance = (cameras.c2w[:, :3, 3] - box.mean(dim=0)).norm(dim=-1)[:, None, None]
    nearness = (1 - (surface - (distance - radius)) / (2 * radius)).clamp(0, 1)
    return opacity * (0.15 + 0.85 * nearness)


def to_bytes(picture: Tensor) -> np.ndarray:
    """[C, H, W] in [0, 1] to [H, W, 3] uint8; one channel becomes grey."""
    array = (picture.clamp(0, 1) * 255).round().byte().cpu()
    return array.expand(3, -1, -1).permute(1, 2, 0).numpy()


def contact_sheet(rgb: Tensor, depth: Tensor) -> Tensor:
    """Views side by side, RGB above depth, [3, H, W]."""
    depth = torch.nn.functional.interpolate(depth, rgb.shape[-2:], mode="bilinear").expand_as(rgb)
    return torch.cat([torch.cat(list(rgb), dim=-1), torch.cat(list(depth), dim=-1)], dim=-2)


def save_picture(picture: Tensor, path: Path) -> None:
    """Write [C, H, W] in [0, 1] as PNG, atomically."""
    with atomic(path, "the picture") as partial:
        partial.write_bytes(iio.imwrite("<bytes>", to_bytes(picture), extension=".png"))

"""Pictures of a field: RGB and depth views, and the preview grid of a run."""

from __future__ import annotations

import math
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ..rendering import Rendering, render
from ..rendering.reference import FAR_DEPTH
from ..scene.cameras import Cameras
from ..scene.field import VoxelField
from ..scores.protocol import ScoreModel
from ..storage.files import atomic


def look(
    field: VoxelField,
    cameras: Cameras,
    size: tuple[int, int],
    background: tuple[float, float, float] | None = None,
    backend: str = "auto",
) -> Rendering:
    """`render` for pictures: empty space skipped, over a plain color (RGB in [0, 1]), or None for the field's own."""
    plain = None
    if background is not None:
        plain = torch.tensor(background, device=field.box.device).expand(len(cameras), 3) * 2 - 1
    return render(field, cameras, size, background=plain, backend=backend, skip_empty=True)


@torch.no_grad()
def take_pictures(
    field: VoxelField,
    model: ScoreModel,
    cameras: Cameras,
    size: int | tuple[int, int],
    background: tuple[float, float, float] | None = None,
    backend: str = "auto",
    *,
    decoded: bool = True,
    rays: int = 1,
) -> tuple[Tensor, Tensor]:
    """RGB and depth pictures as people see them.

    Args:
        cameras: V cameras.
        size: pixels a side, or height and width, of the pictures. A latent model renders 1 / upscale of it and decodes.
        background: plain color, RGB in [0, 1]; None for the field's own texture.
        decoded: through the model's decoder; else its cheap preview, which may have the size of the latents.
        rays: a rendered pixel and axis; their mean is what is decoded.

    Returns:
        rgb [V, 3, height, width] (or as the preview has it) and depth shading [V, 1, h, w], as rendered, both in
        [0, 1]; near is bright, nothing is black.
    """
    wanted = (size, size) if isinstance(size, int) else size
    coarse = tuple(math.ceil(n / model.upscale) for n in wanted)
    out = look(field, cameras, (coarse[0] * rays, coarse[1] * rays), background, backend)
    features, depth, opacity = (avg_pool2d(x, rays) for x in (out.features, out.depth[:, None], out.opacity[:, None]))
    rgb = model.decode(features) if decoded else model.preview(features)
    if decoded and rgb.shape[-2:] != wanted:  # which is no multiple of upscale
        rgb = interpolate(rgb, wanted, mode="bilinear", antialias=True)
    return rgb, shade_depth(depth[:, 0], opacity[:, 0], cameras, field.box)[:, None]


def shade_depth(depth: Tensor, opacity: Tensor, cameras: Cameras, box: Tensor) -> Tensor:
    """Depth as brightness, [V, H, W] in [0, 1]: 1 half a box in front of its center, 0.15 half a box behind it."""
    surface = (depth - (1 - opacity) * FAR_DEPTH) / opacity.clamp_min(1e-3)
    radius = float((box[1] - box[0]).mean() / 2)
    distance = (cameras.c2w[:, :3, 3] - box.mean(dim=0)).norm(dim=-1)[:, None, None]
    nearness = (1 - (surface - (distance - radius)) / (2 * radius)).clamp(0, 1)
    return opacity * (0.15 + 0.85 * nearness)


def to_bytes(picture: Tensor) -> np.ndarray:
    """[C, H, W] in [0, 1] to [H, W, 3] uint8; one channel becomes gray."""
    array = (picture.clamp(0, 1) * 255).round().byte().cpu()
    return array.expand(3, -1, -1).permute(1, 2, 0).numpy()


def contact_sheet(rgb: Tensor, depth: Tensor) -> Tensor:
    """Views side by side, RGB above depth, [3, H, W]."""
    return torch.cat([torch.cat(list(rgb), dim=-1), torch.cat(list(gray(depth, rgb)), dim=-1)], dim=-2)


def gray(depth: Tensor, rgb: Tensor) -> Tensor:
    """Depth shading [V, 1, h, w] as RGB pictures of the size of others, [V, 3, H, W]."""
    return interpolate(depth, rgb.shape[-2:], mode="bilinear").expand_as(rgb)


def save_picture(picture: Tensor, path: Path) -> None:
    """Write [C, H, W] in [0, 1] as PNG, atomically."""
    with atomic(path, "the picture") as partial:
        partial.write_bytes(iio.imwrite("<bytes>", to_bytes(picture), extension=".png"))

"""Compare a field with the true scene at cameras between the training directions."""

from __future__ import annotations

from typing import Any

import torch

from sjc_fast.cameras import ring
from sjc_fast.field import VoxelField
from sjc_fast.rendering import render
from sjc_fast.shapes.dataset import FOV, RADIUS, render_views
from sjc_fast.shapes.scenes import COLOURS


@torch.no_grad()
def compare(field: VoxelField, name: str, colour: str, size: int = 128) -> dict[str, Any]:
    """Silhouette IoU (opacity > 0.5) and PSNR over white (dB, peak 1), means over 8 held-out views.

    The views lie between the training directions: azimuths 22.5 + 45 i, elevation 20 degrees.
    """
    cameras = ring(8, 20.0, RADIUS, FOV, start=22.5)
    layers = render_views(name, cameras, size)
    truth = layers.paint(torch.tensor(COLOURS[colour]).expand(8, 3), torch.ones(8, 3)).clamp(0, 1)
    out = render(field, cameras, size, background=torch.ones(8, 3))
    mine, theirs = out.opacity > 0.5, layers.coverage[:, 0] > 0.5
    iou = (mine & theirs).sum(dim=(1, 2)) / (mine | theirs).sum(dim=(1, 2))
    psnr = -10 * (out.features / 2 + 0.5 - truth).square().mean(dim=(1, 2, 3)).log10()
    return {"iou": float(iou.mean()), "psnr": float(psnr.mean()), "views": out, "truth": truth}

"""Cheap pictures of latents: linear maps to RGB that were published for known VAEs, without their weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class LinearMap(NamedTuple):
    """RGB in [0, 1] of latents, about."""

    rows: tuple[tuple[float, float, float], ...]  # [latent channel][RGB]
    offset: tuple[float, float, float]


STABLE_DIFFUSION_SCALE = 0.18215  # the scaling factor of the VAE of Stable Diffusion 1.x and 2.x

#: By a VAE's scaling factor. Stable Diffusion 1.x and 2.x: a fit by K. Turner, 2022 (discuss.huggingface.co/t/23204),
#: of RGB in [-1, 1]. XL: a fit by T. A. Vass, 2024 (diffusers' documentation, "Display image after each generation
#: step"), of RGB in [0, 255].
LINEAR_MAPS = {
    STABLE_DIFFUSION_SCALE: LinearMap(
        ((0.149, 0.1035, 0.104), (0.0935, 0.143, 0.0865), (-0.079, 0.0945, 0.132), (-0.092, -0.1355, -0.2365)),
        (0.5, 0.5, 0.5),
    ),
    0.13025: LinearMap(
        (
            (60 / 255, 60 / 255, 60 / 255),
            (-60 / 255, -5 / 255, 10 / 255),
            (25 / 255, 15 / 255, -5 / 255),
            (-70 / 255, -50 / 255, -35 / 255),
        ),
        (150 / 255, 140 / 255, 130 / 255),
    ),
}


def linear_preview(latents: Tensor, scale: float | None) -> Tensor | None:
    """RGB in [0, 1], [V, 3, h, w], of latents [V, C, h, w] of the VAE with a scaling factor; None if none is known."""
    known = LINEAR_MAPS.get(scale or 0.0)
    if known is None or len(known.rows) != latents.shape[1]:
        return None
    rgb = torch.einsum("vchw,cr->vrhw", latents, torch.tensor(known.rows).to(latents))
    return (rgb + torch.tensor(known.offset).to(latents)[:, None, None]).clamp(0, 1)

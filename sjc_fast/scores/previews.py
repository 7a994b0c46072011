"""Cheap pictures of latents: linear maps to RGB, published for known VAEs or fitted to others once."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ..kernels.native import NativeError, cache_folder
from ..storage.files import atomic


class LinearMap(NamedTuple):
    """RGB in [0, 1] of latents, about."""

    rows: tuple[tuple[float, ...], ...]  # [latent channel][RGB]
    offset: tuple[float, ...]  # RGB

    def __call__(self, latents: Tensor) -> Tensor:
        """RGB in [0, 1], [V, 3, h, w], of latents [V, C, h, w]."""
        rgb = torch.einsum("vchw,cr->vrhw", latents, torch.tensor(self.rows).to(latents))
        return (rgb + torch.tensor(self.offset).to(latents)[:, None, None]).clamp(0, 1)


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
PICTURES, LATENTS = 8, 32  # that a map is fitted to, and latents a side of each


def fit_linear_map(encode: Callable[[Tensor], Tensor], upscale: int) -> LinearMap:
    """The least-squares map from latents to the mean colors of the squares of pixels that they stand for.

    Args:
        encode: RGB in [0, 1], [1, 3, H, W], to latents [1, C, H / upscale, W / upscale].
    """
    pictures = _pictures(LATENTS * upscale)
    latents = torch.cat([encode(picture[None]) for picture in pictures]).double().cpu()
    columns = torch.cat([latents, torch.ones_like(latents[:, :1])], dim=1).transpose(0, 1).flatten(1).T
    colors = avg_pool2d(pictures, upscale).double().transpose(0, 1).flatten(1).T
    # A little is added to the diagonal: latents that say the same as others then share.
    gram = columns.T @ columns
    gram += 1e-6 * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution: list[list[float]] = torch.linalg.solve(gram, columns.T @ colors).tolist()
    return LinearMap(tuple(map(tuple, solution[:-1])), tuple(solution[-1]))


def _pictures(side: int) -> Tensor:
    """Colored clouds, coarse and fine, [PICTURES, 3, side, side] in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(PICTURES, 3, side, side)
    for cells in (2, 4, 8, 16):
        clouds = torch.randn(PICTURES, 3, cells, cells, generator=generator)
        total += interpolate(clouds, size=(side, side), mode="bilinear", align_corners=True) * (2 / cells) ** 0.5
    return total.sigmoid()


def load_linear_map(vae: Any) -> LinearMap | None:
    """The map that was fitted to a VAE before, if it is in the cache and whole."""
    try:
        raw = json.loads(_place(vae).read_text(encoding="utf-8"))
        found = LinearMap(tuple(tuple(map(float, row)) for row in raw["rows"]), tuple(map(float, raw["offset"])))
    except (OSError, ValueError, KeyError, TypeError, NativeError):
        return None
    return found if {len(row) for row in found.rows} == {3} and len(found.offset) == 3 else None


def save_linear_map(vae: Any, found: LinearMap) -> None:
    """Keep a map; where the cache cannot be written, it is fitted again next time."""
    with contextlib.suppress(OSError, NativeError):
        path = _place(vae)
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic(path, "the preview's map") as partial:
            partial.write_text(json.dumps(found._asdict()), encoding="utf-8")


def _place(vae: Any) -> Path:
    """Where the map of a VAE is kept, by its configuration and its first weights."""
    known = hashlib.sha256(json.dumps(dict(vae.config), sort_keys=True, default=str).encode())
    known.update(next(vae.encoder.parameters()).detach().float().cpu().numpy().tobytes())
    return cache_folder() / "previews" / f"{known.hexdigest()[:20]}.json"

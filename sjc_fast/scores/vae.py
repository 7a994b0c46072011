"""Pictures and latents: a model's VAE, loaded when it is first needed, and cheap previews without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .previews import LINEAR_MAPS, LinearMap, fit_linear_map, load_linear_map, save_linear_map


class LatentSpace:
    """What a VAE makes of pictures, and pictures of that.

    Args:
        source: loads the VAE, one of diffusers'.
        scale: its scaling factor; where a linear preview was published for it, that is used.
    """

    def __init__(self, source: Callable[[], Any], scale: float | None = None) -> None:
        self._source, self.scale = source, scale
        self.vae: Any = None
        self._fitted: LinearMap | None = None

    def prepare(self) -> None:
        """Load the VAE into the host's memory, if it is not loaded yet."""
        if self.vae is None:
            self.vae = self._source().eval().requires_grad_(False)

    def _ready(self, device: torch.device) -> Any:
        self.prepare()
        return self.vae.to(device)

    @property
    def _shift(self) -> float:
        return getattr(self.vae.config, "shift_factor", None) or 0.0

    @torch.no_grad()
    def decode(self, latents: Tensor, device: torch.device) -> Tensor:
        """Latents [V, C, h, w] to RGB in [0, 1], [V, 3, H, W], one view at a time to bound memory."""
        vae = self._ready(device)
        plain = latents.detach().to(device, vae.dtype) / vae.config.scaling_factor + self._shift
        pictures = torch.cat([vae.decode(view[None]).sample for view in plain])
        return (pictures.to(latents) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode(self, rgb: Tensor, device: torch.device) -> Tensor:
        """RGB in [0, 1], [V, 3, H, W], to latents [V, C, h, w]: the mean of what the VAE says."""
        vae = self._ready(device)
        said = vae.encode((rgb * 2 - 1).to(device, vae.dtype))
        mean = said.latent_dist.mean if hasattr(said, "latent_dist") else said.latent
        return (mean.to(rgb) - self._shift) * vae.config.scaling_factor

    @torch.no_grad()
    def preview(self, latents: Tensor, upscale: int, device: torch.device) -> Tensor:
        """RGB in [0, 1] of latents [V, C, h, w] at their own size, by a linear map.

        Where none was published, it is fitted to the VAE once, which takes it seconds, and kept in a cache.
        """
        known = LINEAR_MAPS.get(self.scale or 0.0)
        if known is None or len(known.rows) != latents.shape[1]:
            known = self._fitted = self._fitted or self._fit(upscale, device)
        return known(latents.detach())

    def _fit(self, upscale: int, device: torch.device) -> LinearMap:
        vae = self._ready(device)
        found = load_linear_map(vae)
        if found is None:
            found = fit_linear_map(lambda rgb: self.encode(rgb, device), upscale)
            save_linear_map(vae, found)
        return found

"""The exact denoiser of a finite set of images: no network, no training, a ground truth for everything else."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError


class MixtureModel:
    """Posterior mean under an equal mixture of Gaussians, one around each image.

    With images mu_i and component variance s^2, noisy data is a mixture of N(mu_i, (s^2 + sigma^2) I), so

        D(x; sigma) = sum_i p_i (mu_i + s^2 / (s^2 + sigma^2) (x - mu_i)),
        p = softmax(-|x - mu_i|^2 / (2 (s^2 + sigma^2)))

    and ``(D - x) / sigma^2`` is the exact score. s = 0 is the plain set of images.

    Args:
        images: [M, C, H, W] in [-1, 1] (or latents).
        select: which images a prompt means, as a boolean mask [M]; default all of them, whatever the prompt.
        std: s, the standard deviation around each image.
        sigmas: noise levels to offer, ascending; default 50 from 0.02 to 20.
    """

    name = "mixture"
    latent = False
    upscale = 1

    def __init__(
        self,
        images: Tensor,
        select: Callable[[str], Tensor] | None = None,
        *,
        std: float = 0.0,
        sigmas: Tensor | None = None,
    ) -> None:
        self.images = images.float()
        self.select = select or (lambda _: torch.ones(len(images), dtype=torch.bool))
        self.std = std
        self.channels, self.size = images.shape[1], images.shape[-1]
        self.sigmas = torch.logspace(math.log10(0.02), math.log10(20), 50) if sigmas is None else sigmas
        self.settings: dict[str, Any] = {}

    def log_density(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """log p_sigma(x) of noisy images: [B, C, H, W], [B], [B, M] to [B]."""
        variance = (self.std**2 + sigma**2).to(x)
        count = condition.exp().sum(dim=1).log()
        scale = 0.5 * x[0].numel() * torch.log(2 * math.pi * variance)
        return torch.logsumexp(self._exponents(x, variance, condition), dim=1) - count - scale

    def _exponents(self, x: Tensor, variance: Tensor, condition: Tensor) -> Tensor:
        images = self.images.to(x)
        distance = (x[:, None] - images).flatten(2).square().sum(dim=2)
        return condition.to(x) - distance / (2 * variance[:, None])

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """Exact posterior mean; see `ScoreModel.denoise`. The softmax is stable for any sigma > 0."""
        variance = (self.std**2 + sigma**2).to(x)
        posterior = self._exponents(x, variance, condition).softmax(dim=1)
        mean = (posterior @ self.images.to(x).flatten(1)).reshape(x.shape)
        return mean + (self.std**2 / variance)[:, None, None, None] * (x - mean)

    def encode(self, prompts: list[str]) -> Tensor:
        """Log-masks [B, M]: 0 where a prompt selects the image, -inf elsewhere; "" selects every image."""
        masks = [self.select(p) if p else torch.ones(len(self.images), dtype=torch.bool) for p in prompts]
        for prompt, mask in zip(prompts, masks, strict=True):
            if not bool(mask.any()):
                raise UserError(f"the mixture has no image for the prompt {prompt!r}")
        return torch.stack([torch.zeros(m.shape).masked_fill(~m, -math.inf) for m in masks]).to(self.images.device)

    def decode(self, features: Tensor) -> Tensor:
        """RGB in [0, 1]."""
        return (features.detach()[:, :3] / 2 + 0.5).clamp(0, 1)

    def preview(self, features: Tensor) -> Tensor:
        """As `decode`."""
        return self.decode(features)

    def release_text_encoder(self) -> None:
        """There is none."""

    def prepare_decoder(self) -> None:
        """There is none."""

    def check_prompt(self, prompt: str) -> None:
        """Any prompt will do here; `encode` refuses those that select nothing."""

"""The exact score of the procedural scenes, in place of the embedded network: the best that any network could do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from .dataset import SIZE, direction_cameras, render_views
from .prompts import VOCABULARY, read

#: Variances of a plain background in [-1, 1]: of its brightness times its three channels, and of its tint.
GRAY, TINT = 3 * 0.84**2 / 3 + 0.16**2 / 3, 0.16**2 / 3


def posterior_background(seen: Tensor, noise: Tensor) -> Tensor:
    """Mean of a plain background given its least squares [..., 3] and their variance."""
    gray = seen.mean(dim=-1, keepdim=True)
    return gray * GRAY / (GRAY + noise) + (seen - gray) * TINT / (TINT + noise)


class ExactScenes:
    """Denoiser of pictures of which everything is known but the plain background, as a `ScoreModel`.

    A prompt with a color and a direction means one picture ``lit + (1 - coverage) * b`` for every background b. With
    `plain_backgrounds` taken as the Gaussian of the same mean and covariance, the posterior mean of b, and with it that
    of the picture, is linear in the noisy picture.

    Args:
        sigmas: noise levels to offer, ascending.
        settings: what `train` should use with it.
    """

    name = "exact"
    channels, size = 3, SIZE
    latent, upscale = False, 1

    def __init__(self, sigmas: Tensor, settings: dict[str, Any]) -> None:
        self.sigmas, self.settings = sigmas, settings

    def encode(self, prompts: list[str]) -> Tensor:
        """The object of each prompt over nothing, and its coverage: [B, 4, size, size].

        Raises:
            UserError: a prompt lacks its object, color or direction.
        """
        layers: dict[str, Any] = {}
        rows = []
        for prompt in prompts:
            asked = read(prompt)
            name, view = asked.name, asked.direction
            if not asked.color or view is None:
                raise UserError(f"the exact score needs a color and a direction, and {prompt!r} lacks one")
            if name not in layers:
                layers[name] = render_views(name, direction_cameras())
            lit, coverage = layers[name].lit(*asked.colors())[view], layers[name].coverage[view]
            rows.append(torch.cat([2 * lit - coverage, coverage]))
        return torch.stack(rows)

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """See `ScoreModel.denoise`."""
        lit, clear = condition[:, :3].to(x), 1 - condition[:, 3:].to(x)
        pixels = clear.square().sum(dim=(2, 3))
        seen = ((x - lit) * clear).sum(dim=(2, 3)) / pixels  # least squares of the background, [B, 3]
        noise = sigma.to(x)[:, None] ** 2 / pixels
        background = posterior_background(seen, noise)
        return lit + clear * background[..., None, None]

    def decode(self, features: Tensor) -> Tensor:
        """RGB in [0, 1]."""
        return (features.detach() / 2 + 0.5).clamp(0, 1)

    preview = decode

    def release_text_encoder(self) -> None:
        """There is none."""

    def prepare_decoder(self) -> None:
        """There is none."""

    def check_prompt(self, prompt: str) -> None:
        """Refuse what the scenes lack."""
        VOCABULARY.check(prompt)

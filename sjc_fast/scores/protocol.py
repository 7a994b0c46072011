"""What a score model is: a denoiser with words, whatever network or formula is behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    import torch

    from .preconditioning import Preconditioning


@runtime_checkable
class ScoreModel(Protocol):
    """A denoiser ``D(x; sigma)`` conditioned on text, in the EDM convention ``x = clean + sigma * noise``."""

    name: str
    channels: int
    """Of what it denoises: 4 for latents, 3 for RGB in [-1, 1]."""
    size: int
    """Pixels a side of what it denoises."""
    latent: bool
    """Whether `decode` is needed to see anything."""
    upscale: int
    """Pixels that `decode` makes of one, a side: 8 for Stable Diffusion, 1 for pixel models."""
    sigmas: Tensor
    """Its noise levels, ascending, [levels] float32 on the CPU."""
    settings: dict[str, Any]
    """What `train` should use with this model, as a partial configuration tree; {} for the paper's settings."""

    def denoise(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """The model's estimate of the clean image.

        Args:
            x: noisy images, [B, C, H, W] float32.
            sigma: noise levels, [B].
            condition: rows of what `encode` returned, [B, ...].

        Returns:
            [B, C, H, W] float32, without gradient.
        """
        ...

    def encode(self, prompts: list[str]) -> Tensor:
        """Prompts to conditions, one row a prompt. "" is the unconditional one."""
        ...

    def decode(self, features: Tensor) -> Tensor:
        """Features [V, C, H, W] to RGB in [0, 1], [V, 3, H', W'], without gradient."""
        ...

    def preview(self, features: Tensor) -> Tensor:
        """RGB in [0, 1] of features [V, C, H, W], cheaply, at their own size or that of `decode`; no gradient."""
        ...

    def release_text_encoder(self) -> None:
        """Free what only `encode` needs; a later `encode` loads it again."""
        ...

    def prepare_decoder(self) -> None:
        """Load now what `decode` would load at its first call."""
        ...

    def check_prompt(self, prompt: str) -> None:
        """Raise `UserError` if the model cannot know what the prompt asks for."""
        ...


@runtime_checkable
class NetworkModel(ScoreModel, Protocol):
    """A score model whose network can be asked directly, so that what surrounds it can be fused."""

    preconditioning: Preconditioning
    """The numbers that make D of the network's answer."""
    patch: int
    """Squares of so many pixels a side are the network's channels (`torch.nn.functional.pixel_unshuffle`)."""
    dtype: torch.dtype
    """Of its inputs and answers."""

    views: int
    """That the network scores together, which follow each other in a batch: 1 but for multi-view models."""

    def place_cameras(self, condition: Tensor, c2w: Tensor) -> Tensor:
        """Conditions [B, ...] with what the network is told of the cameras [B, 4, 4] of their views."""
        ...

    def predict(self, batch: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        """The network's raw answer F to inputs ``c_in z``, [B, C p p, h / p, w / p] in `dtype`.

        Args:
            batch: the inputs, channels last.
            c_noise: what it is told of the noise levels, [B].
            condition: rows of what `encode` returned, [B, ...].
        """
        ...

"""The layout: a picture that a small model's text encoder draws beside its words, and its UNet sees beside the noise.

Convolutions and cross-attention learn slowly where in a picture words put things. A model folder with a `layout` part
has a decoder for that: words to feature maps of the UNet's own size, once a prompt. It is the denoiser's answer where
the noise hides everything, and the UNet is left to decide what the words leave open.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel


class LayoutDecoder(ModelMixin, ConfigMixin):
    """Text states [B, T, width] to feature maps [B, channels, size, size].

    Args:
        width: of the text encoder.
        hidden: of the perceptron that turns the last state into a map of half the size.
        features: channels inside.
        channels: of the result; the first ones are added to what the UNet answers.
        size: pixels a side of the result: the UNet's.
    """

    @register_to_config
    def __init__(self, width: int, hidden: int, features: int, channels: int, size: int) -> None:
        super().__init__()
        self.side = size // 2
        self.words = nn.Sequential(nn.Linear(width, hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU())
        self.map = nn.Linear(hidden, features * self.side**2)
        self.blocks = nn.ModuleList([Modulated(features, hidden) for _ in range(3)])
        self.out = nn.Conv2d(features, channels, 3, padding=1)

    def forward(self, states: Tensor) -> Tensor:
        """The last state has seen every word, causal as the encoder is."""
        words = self.words(states[:, -1])
        x = self.map(words).unflatten(1, (-1, self.side, self.side))
        x = self.blocks[0](x, words)
        x = nn.functional.interpolate(x, scale_factor=2, mode="nearest")
        for block in self.blocks[1:]:
            x = block(x, words)
        return self.out(nn.functional.silu(x))


class Modulated(nn.Module):
    """A residual convolution whose normalized input the words scale and shift: colors are products."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, features)
        self.modulation = nn.Linear(hidden, 2 * features)
        self.first = nn.Conv2d(features, features, 3, padding=1)
        self.second = nn.Conv2d(features, features, 3, padding=1)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        scale, shift = self.modulation(words)[..., None, None].chunk(2, dim=1)
        y = nn.functional.silu(self.norm(self.first(nn.functional.silu(x))) * (1 + scale) + shift)
        return x + self.second(y)


class TextWithLayout(nn.Module):
    """A text encoder whose states are followed by the layout, cut into rows as wide as they are."""

    def __init__(self, encoder: nn.Module, layout: LayoutDecoder) -> None:
        super().__init__()
        self.encoder, self.layout, self.config = encoder, layout, encoder.config

    def forward(self, tokens: Tensor) -> Any:
        states = self.encoder(tokens).last_hidden_state
        rows = self.layout(states).reshape(len(states), -1, states.shape[-1])
        return SimpleNamespace(last_hidden_state=torch.cat([states, rows], dim=1))


class UNetWithLayout(nn.Module):
    """A UNet that takes such conditions: it sees the layout as further channels, and answers what to add to it."""

    def __init__(self, unet: UNet2DConditionModel, channels: int) -> None:
        super().__init__()
        self.unet, self.channels, self.config = unet, channels, unet.config

    def forward(self, x: Tensor, tick: Tensor, condition: Tensor, **_: Any) -> tuple[Tensor]:
        rows = self.channels * x[0, 0].numel() // condition.shape[-1]
        words, layout = condition[:, :-rows], condition[:, -rows:]
        layout = layout.reshape(len(x), self.channels, *x.shape[2:])
        answer = self.unet(torch.cat([x, layout], dim=1), tick, words, return_dict=False)[0]
        return (answer + layout[:, : x.shape[1]],)

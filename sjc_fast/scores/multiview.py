"""Multi-view models (MVDream, Shi et al., arXiv 2308.16512): one network that scores four views of an object at once.

It is told each view's camera, and its self-attention looks at all four. Its weights fit a UNet of diffusers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from .adapters import CLIP_TOKENS, Adapter
from .text import ClipText, TextEncoder, pack, unpack

if TYPE_CHECKING:
    from .loading import PartLoader

VIEWS = 4  # of a rig: as the published model was trained
NUMBERS = 16  # of a camera matrix


def camera_numbers(c2w: Tensor) -> Tensor:
    """What the network is told of cameras [V, 4, 4]: their matrices in its world, at distance 1; [V, 16].

    Our world has y up and the front at -x; the model's z up and the front at -y: axes x, y, z are our z, x, y.
    """
    axes = torch.stack([c2w[:, 2], c2w[:, 0], c2w[:, 1]], dim=1)
    eye = axes[:, :, 3:]
    return torch.cat(
        [torch.cat([axes[:, :, :3], eye / eye.norm(dim=1, keepdim=True)], dim=2), c2w[:, 3:]], dim=1
    ).flatten(1)


class MultiViewAdapter(Adapter):
    """A UNet of Stable Diffusion's kind that reads a camera with every view, in groups of `VIEWS`."""

    pipeline = "MVDreamPipeline"
    lora_pipeline = "StableDiffusionPipeline"
    views = VIEWS
    #: As in MVDream's threestudio: configs/mvdream-sd21.yaml. There the half width of what is seen is 0.8 to 1 times
    #: that of the box whatever the lens, which a radius of 2.5 and these angles are.
    defaults: ClassVar[dict[str, Any]] = {
        "views": VIEWS,
        "guidance": 50.0,
        "cameras": {"sampling": "rig", "words": "none", "radius": 2.5, "fov": [36.0, 43.0]},
        "score": {"weighting": "sigma2", "guidance_rescale": 0.5},
    }

    def check(self, source: str) -> None:
        kind, numbers = (
            self.config.get(name) for name in ("class_embed_type", "projection_class_embeddings_input_dim")
        )
        if kind != "projection" or numbers != NUMBERS:
            raise UserError(
                f"model {source}: its UNet takes no cameras (class_embed_type {kind!r} of {numbers} numbers)"
            )
        super().check(source)

    def words(self) -> tuple[int, Any, tuple[int, ...]]:
        return CLIP_TOKENS, self.config.get("cross_attention_dim"), (NUMBERS,)

    def load_text(self, loader: PartLoader) -> TextEncoder:
        return WordsAndCamera(loader.tokenizer(), loader.weights("text_encoder"))

    def adapt(self, network: Any) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        own = {name: name.endswith("attn1.processor") for name in network.attn_processors}
        network.set_attn_processor(
            {name: JointAttention(VIEWS) if alone else AttnProcessor2_0() for name, alone in own.items()}
        )

    def place_cameras(self, condition: Tensor, c2w: Tensor) -> Tensor:
        return pack(unpack(condition, NUMBERS)[0], camera_numbers(c2w))

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        states, cameras = unpack(condition, NUMBERS)
        return network(x, tick, states, class_labels=cameras, return_dict=False)[0]


class WordsAndCamera(ClipText):
    """The states of a CLIP text encoder, and room for a camera behind them, which is NaN until there is one."""

    def __call__(self, prompts: list[str], device: torch.device) -> Tensor:
        states = super().__call__(prompts, device)
        return pack(states, states.new_full((len(states), NUMBERS), float("nan")))


class JointAttention:
    """Self-attention over the places of several views together: an attention processor of diffusers.

    Args:
        views: that follow each other in the batch and look at each other.
    """

    def __init__(self, views: int) -> None:
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.views, self.alone = views, AttnProcessor2_0()

    def __call__(self, attn: Any, hidden_states: Tensor, *arguments: Any, **options: Any) -> Tensor:
        """States [B views, places, width], likewise."""
        joined = hidden_states.reshape(-1, self.views * hidden_states.shape[1], hidden_states.shape[2])
        return self.alone(attn, joined, *arguments, **options).reshape(hidden_states.shape)

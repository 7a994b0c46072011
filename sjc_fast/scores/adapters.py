"""How the network of each kind of pipeline is asked, and which parts its folder has.

A new kind is a subclass of `Adapter` in `ADAPTERS`, by the name that diffusers gives its pipeline.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import UserError
from .text import ClipText, SdxlText, T5Text, TextEncoder, unpack

if TYPE_CHECKING:
    from .loading import PartLoader


class Adapter:
    """Stable Diffusion 1.x and 2.x: an image, a noise level, the states of a text encoder.

    Args:
        config: of the network.
        upscale: image pixels a side of one latent.
    """

    pipeline: str | None = "StableDiffusionPipeline"
    """Diffusers' name of the pipeline whose LoRA weights fit; None where none are supported."""
    network = "unet"
    """The part that is asked."""
    parts: tuple[str, ...] = ("unet", "scheduler", "tokenizer", "text_encoder")
    """What a folder must have, besides a VAE where the model has one."""
    masked = False
    """Whether conditions say which of their rows are words, so that they cannot be blended."""

    def __init__(self, config: dict[str, Any], upscale: int) -> None:
        self.config, self.upscale = config, upscale

    @property
    def channels(self) -> Any:
        """Of what is denoised, as the configuration has it."""
        return self.config.get("out_channels")

    def check(self, source: str) -> None:
        """Refuse a network that wants something else.

        Raises:
            UserError: by its configuration.
        """
        if self.config.get("addition_embed_type"):
            raise UserError(f"model {source}: its UNet wants more than an image and a text, which is not supported")

    def load_text(self, loader: PartLoader) -> TextEncoder:
        """The encoder of words."""
        return ClipText(loader.tokenizer(), loader.weights("text_encoder"))

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        """The network's raw answer to inputs [B, C, h, w], noise levels [B] and rows of conditions, like the inputs."""
        return network(x, tick, condition, return_dict=False)[0]


class SdxlAdapter(Adapter):
    """Stable Diffusion XL: beside these, a pooled vector of the words, and the sizes of the picture.

    The sizes are those of a whole picture at the network's own size (original size, upper left corner, size).
    """

    pipeline = "StableDiffusionXLPipeline"
    parts = ("unet", "scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    SIZES = 6

    def __init__(self, config: dict[str, Any], upscale: int) -> None:
        super().__init__(config, upscale)
        side = config.get("sample_size", 0) * upscale
        self.sizes = torch.tensor([side, side, 0, 0, side, side], dtype=torch.float32)
        times = self.SIZES * (config.get("addition_time_embed_dim") or 0)
        self.pooled = (config.get("projection_class_embeddings_input_dim") or 0) - times

    def check(self, source: str) -> None:
        if self.config.get("addition_embed_type") != "text_time" or self.pooled <= 0:
            kind = self.config.get("addition_embed_type")
            raise UserError(
                f"model {source}: its UNet is not one of Stable Diffusion XL's (addition_embed_type {kind!r})"
            )

    def load_text(self, loader: PartLoader) -> TextEncoder:
        from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

        return SdxlText(loader.pipeline(StableDiffusionXLPipeline, unet=None, vae=None, add_watermarker=False))

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        states, pooled = unpack(condition, self.pooled)
        self.sizes = self.sizes.to(x.device)  # once, before a step is captured
        added = {"text_embeds": pooled, "time_ids": self.sizes.to(x.dtype).expand(len(x), -1)}
        return network(x, tick, states, added_cond_kwargs=added, return_dict=False)[0]


class DeepFloydAdapter(Adapter):
    """DeepFloyd IF, stage I: RGB, states of T5; of six channels that it answers, three are a variance (not used)."""

    pipeline = None

    @property
    def channels(self) -> Any:
        return self.config.get("in_channels")

    def check(self, source: str) -> None:
        seen, said = self.config.get("in_channels"), self.config.get("out_channels")
        if seen != 3 or said != 6:
            raise UserError(
                f"model {source}: stage I of DeepFloyd IF has 3 channels and answers 6, not {seen} and {said}"
            )

    def load_text(self, loader: PartLoader) -> TextEncoder:
        from diffusers.pipelines.deepfloyd_if.pipeline_if import IFPipeline

        absent = dict.fromkeys(("unet", "safety_checker", "feature_extractor", "watermarker"))
        return T5Text(loader.pipeline(IFPipeline, t5=True, **absent, requires_safety_checker=False))

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        return network(x, tick, condition, return_dict=False)[0][:, : x.shape[1]]


class PixArtAdapter(Adapter):
    """PixArt-Sigma: a transformer, states of T5 with a mask; half of the channels that it answers are a variance."""

    pipeline = None
    network = "transformer"
    parts = ("transformer", "scheduler", "tokenizer", "text_encoder")
    masked = True
    TOKENS = 300

    @property
    def channels(self) -> Any:
        return self.config.get("in_channels")

    def check(self, source: str) -> None:
        seen, said = self.config.get("in_channels"), self.config.get("out_channels")
        if said not in (seen, 2 * (seen or 0)):
            raise UserError(f"model {source}: PixArt answers its {seen} channels or twice as many, not {said}")

    def load_text(self, loader: PartLoader) -> TextEncoder:
        from diffusers.pipelines.pixart_alpha.pipeline_pixart_sigma import PixArtSigmaPipeline

        return T5Text(loader.pipeline(PixArtSigmaPipeline, t5=True, transformer=None, vae=None), self.TOKENS)

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        states, mask = unpack(condition, self.TOKENS)
        answer = network(
            x,
            encoder_hidden_states=states,
            timestep=tick,
            encoder_attention_mask=mask,
            added_cond_kwargs={"resolution": None, "aspect_ratio": None},
            return_dict=False,
        )[0]
        return answer[:, : x.shape[1]]


#: By the name of the pipeline in `model_index.json`.
ADAPTERS: dict[str, type[Adapter]] = {
    "StableDiffusionPipeline": Adapter,
    "StableDiffusionXLPipeline": SdxlAdapter,
    "IFPipeline": DeepFloydAdapter,
    "PixArtSigmaPipeline": PixArtAdapter,
}


def adapter_of(source: str, index: dict[str, Any]) -> type[Adapter]:
    """The adapter for a model, by what its `model_index.json` says (nothing, where it has none).

    What is not known and has a UNet with a text encoder is taken for Stable Diffusion: many pipelines share its parts.

    Raises:
        UserError: it is of a kind that is not known.
    """
    name = index.get("_class_name")
    if name in ADAPTERS:
        return ADAPTERS[name]
    if name is None or {"unet", "text_encoder"} <= set(index):
        return Adapter
    raise UserError(f"model {source} is a {name}, which is not supported; known: {', '.join(ADAPTERS)}")

"""How networks that were trained on tables of noise levels are asked; see flow.py for the others.

A kind of pipeline is a subclass of `Adapter`, with a row in families.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ..errors import UserError
from .text import ClipText, PipelineText, TextEncoder, encode_deepfloyd, encode_sdxl, encode_with_mask, unpack

if TYPE_CHECKING:
    from .loading import PartLoader


CLIP_TOKENS = 77  # of every published CLIP text encoder

#: A number in the configuration of a text encoder, by its folder and the setting's name; None where it has none.
Said = Callable[[str, str], Any]
#: Settings of a network, and the numbers of text encoders that must add up to each.
Widths = dict[str, list[tuple[str, str]]]


class Adapter:
    """Stable Diffusion 1.x and 2.x: an image, a noise level, the states of a text encoder.

    Args:
        config: of the network.
        upscale: image pixels a side of one latent.
    """

    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    """Diffusers' name of it."""
    network: ClassVar[str] = "unet"
    """The part that is asked."""
    kind: ClassVar[str] = "UNet2DConditionModel"
    """Diffusers' name of its class."""
    parts: ClassVar[tuple[str, ...]] = ("unet", "scheduler", "tokenizer", "text_encoder")
    """What a folder must have, besides a VAE where the model has one."""
    clip: ClassVar[bool] = True
    """Whether its words go through CLIP alone, which learned words (textual inversion) are for."""
    masked: ClassVar[bool] = False
    """Whether conditions say which of their rows are words, so that they cannot be blended."""
    lora_pipeline: ClassVar[str] = ""
    """Diffusers' name of the pipeline whose LoRA weights fit, where it is another one."""
    capturable: ClassVar[bool] = True
    """Whether a call never waits for the host, and so can be part of a CUDA graph."""
    picture_guidance: ClassVar[float] = 7.5
    """Guidance scale of its pipeline, for pictures."""
    views: ClassVar[int] = 1
    """That the network scores together, which follow each other in a batch."""
    law: ClassVar[str] = "beta"
    """Of noise, a key of `preconditioning.FAMILIES`."""
    half: ClassVar[torch.dtype] = torch.float16
    """The precision with 16 bits that the network was made for."""
    defaults: ClassVar[dict[str, Any]] = {}
    """What `train` should use, as a partial configuration tree; {} for the paper's settings."""

    def __init__(self, config: dict[str, Any], upscale: int) -> None:
        self.config, self.upscale = config, upscale

    @property
    def channels(self) -> Any:
        """Of what is denoised, as the configuration has it."""
        return self.config.get("out_channels")

    @property
    def seen(self) -> Any:
        """Channels of what the network reads."""
        return self.config.get("in_channels")

    @property
    def size(self) -> Any:
        """Pixels a side of what the network was made for."""
        return self.config.get("sample_size")

    @property
    def multiple(self) -> int:
        """What the sides of its inputs must be multiples of."""
        return 1

    @property
    def timestep_scale(self) -> float:
        """With the law "flow": what the network calls t = 1."""
        return 1000.0

    def check(self, source: str) -> None:
        """Refuse a network that wants something else.

        Raises:
            UserError: by its configuration.
        """
        if self.config.get("addition_embed_type"):
            raise UserError(f"model {source}: its UNet wants more than an image and a text, which is not supported")

    def words(self) -> tuple[int, Any, tuple[int, ...]]:
        """Of a condition: tokens, numbers a token, and lengths of the vectors that are packed behind them."""
        return CLIP_TOKENS, self.config.get("cross_attention_dim"), ()

    def condition_shape(self) -> tuple[int, int]:
        """[rows, width] of the condition that a prompt becomes, with a text encoder of the usual length."""
        tokens, width, vectors = self.words()
        return tokens + sum(-(-length // width) for length in vectors), width

    def widths(self) -> Widths:
        """What must fit between the network and its text encoders."""
        return {"cross_attention_dim": [("text_encoder", "hidden_size")]}

    def check_text(self, source: str, said: Said) -> None:
        """Refuse text encoders of another width than the network reads.

        Raises:
            UserError: which.
        """
        for setting, numbers in self.widths().items():
            wanted, found = self.config.get(setting), [said(part, name) for part, name in numbers]
            if found and isinstance(wanted, int) and None not in found and sum(found) != wanted:
                parts = " and ".join(part for part, _ in numbers)
                raise UserError(
                    f"model {source}: its {self.network} reads {wanted} numbers a word, and {parts} say {sum(found)}"
                )

    def load_text(self, loader: PartLoader) -> TextEncoder:
        """The encoder of words."""
        return ClipText(loader.tokenizer(), loader.weights("text_encoder"))

    def adapt(self, network: Any) -> None:
        """Change how the network works before it is called."""

    def place_cameras(self, condition: Tensor, c2w: Tensor) -> Tensor:  # noqa: ARG002
        """Conditions [B, ...] with what the network is told of the cameras [B, 4, 4] of their views."""
        return condition

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        """The network's raw answer to inputs [B, C, h, w], noise levels [B] and rows of conditions, like the inputs."""
        return network(x, tick, condition, return_dict=False)[0]


class SdxlAdapter(Adapter):
    """Stable Diffusion XL: beside these, a pooled vector of the words, and the sizes of the picture.

    The sizes are those of a whole picture at the network's own size (original size, upper left corner, size).
    """

    pipeline = "StableDiffusionXLPipeline"
    picture_guidance = 5.0
    parts = ("unet", "scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    SIZES = 6

    def __init__(self, config: dict[str, Any], upscale: int) -> None:
        super().__init__(config, upscale)
        side = config.get("sample_size")
        side = side * upscale if isinstance(side, int) else 0  # which is refused where sizes are checked
        self.sizes = torch.tensor([side, side, 0, 0, side, side], dtype=torch.float32)
        times = self.SIZES * (config.get("addition_time_embed_dim") or 0)
        self.pooled = (config.get("projection_class_embeddings_input_dim") or 0) - times
        self.config = config | {"pooled": self.pooled}

    def check(self, source: str) -> None:
        if self.config.get("addition_embed_type") != "text_time" or self.pooled <= 0:
            kind = self.config.get("addition_embed_type")
            raise UserError(
                f"model {source}: its UNet is not one of Stable Diffusion XL's (addition_embed_type {kind!r})"
            )

    def words(self) -> tuple[int, Any, tuple[int, ...]]:
        return CLIP_TOKENS, self.config.get("cross_attention_dim"), (self.pooled,)

    def widths(self) -> Widths:
        states = [("text_encoder", "hidden_size"), ("text_encoder_2", "hidden_size")]
        return {"cross_attention_dim": states, "pooled": [("text_encoder_2", "projection_dim")]}

    def load_text(self, loader: PartLoader) -> TextEncoder:
        pipeline = loader.pipeline(self.pipeline, unet=None, vae=None, add_watermarker=False)
        return PipelineText(pipeline, encode_sdxl)

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        states, pooled = unpack(condition, self.pooled)
        self.sizes = self.sizes.to(x.device)  # once, before a step is captured
        added = {"text_embeds": pooled, "time_ids": self.sizes.to(x.dtype).expand(len(x), -1)}
        return network(x, tick, states, added_cond_kwargs=added, return_dict=False)[0]


class DeepFloydAdapter(Adapter):
    """DeepFloyd IF, stage I: RGB, states of T5; of six channels that it answers, three are a variance (not used)."""

    pipeline = "IFPipeline"
    clip = False
    TOKENS = 77  # as its pipeline has it
    picture_guidance = 7.0
    defaults: ClassVar[dict[str, Any]] = {"guidance": 20.0}  # threestudio, configs/dreamfusion-if.yaml

    @property
    def multiple(self) -> int:
        return 2 ** (len(self.config.get("block_out_channels") or [0]) - 1)

    @property
    def channels(self) -> Any:
        return self.config.get("in_channels")

    def check(self, source: str) -> None:
        seen, said = self.config.get("in_channels"), self.config.get("out_channels")
        if seen != 3 or said != 6:
            raise UserError(
                f"model {source}: stage I of DeepFloyd IF has 3 channels and answers 6, not {seen} and {said}"
            )

    def words(self) -> tuple[int, Any, tuple[int, ...]]:
        return self.TOKENS, self.config.get("encoder_hid_dim") or self.config.get("cross_attention_dim"), ()

    def widths(self) -> Widths:
        return {"encoder_hid_dim": [("text_encoder", "d_model")]}

    def load_text(self, loader: PartLoader) -> TextEncoder:
        absent = dict.fromkeys(("unet", "safety_checker", "feature_extractor", "watermarker"))
        pipeline = loader.pipeline(self.pipeline, large=True, **absent, requires_safety_checker=False)
        return PipelineText(pipeline, encode_deepfloyd, tokens=self.TOKENS)

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        return network(x, tick, condition, return_dict=False)[0][:, : x.shape[1]]


class PixArtAdapter(Adapter):
    """PixArt-Sigma: a transformer, states of T5 with a mask; half of the channels that it answers are a variance."""

    pipeline = "PixArtSigmaPipeline"
    network = "transformer"
    kind = "PixArtTransformer2DModel"
    picture_guidance = 4.5
    parts = ("transformer", "scheduler", "tokenizer", "text_encoder")
    clip = False
    masked = True
    TOKENS = 300

    @property
    def channels(self) -> Any:
        return self.config.get("in_channels")

    @property
    def multiple(self) -> int:
        return self.config.get("patch_size", 2)

    def check(self, source: str) -> None:
        seen, said = self.config.get("in_channels"), self.config.get("out_channels")
        if said not in (seen, 2 * (seen or 0)):
            raise UserError(f"model {source}: PixArt answers its {seen} channels or twice as many, not {said}")

    def words(self) -> tuple[int, Any, tuple[int, ...]]:
        return self.TOKENS, self.config.get("caption_channels"), (self.TOKENS,)

    def widths(self) -> Widths:
        return {"caption_channels": [("text_encoder", "d_model")]}

    def load_text(self, loader: PartLoader) -> TextEncoder:
        pipeline = loader.pipeline(self.pipeline, large=True, transformer=None, vae=None)
        return PipelineText(pipeline, encode_with_mask, tokens=self.TOKENS)

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

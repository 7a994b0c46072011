"""How networks that were trained on straight paths from pictures to noise (rectified flow) are asked.

With t = sigma / (1 + sigma) they see ``(1 - t) z`` and answer noise less picture; see preconditioning.py.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..errors import UserError
from .adapters import CLIP_TOKENS, Adapter, Widths
from .text import (
    Z_IMAGE_TOKENS,
    PipelineText,
    TextEncoder,
    encode_flux,
    encode_sana,
    encode_sd3,
    encode_z_image,
    unpack,
)

if TYPE_CHECKING:
    from .loading import PartLoader


class FlowAdapter(Adapter):
    """What flow transformers share."""

    network = "transformer"
    clip = False
    law = "flow"
    half = torch.bfloat16
    needs: ClassVar[tuple[str, ...]] = ("in_channels",)
    """Numbers that the network's configuration must have."""

    @property
    def channels(self) -> Any:
        return self.seen

    @property
    def multiple(self) -> int:
        return self.config.get("patch_size", 2)

    def check(self, source: str) -> None:
        for name in self.needs:
            if not isinstance(self.config.get(name), int):
                raise UserError(f"model {source}: the configuration of its {self.network} does not say {name}")
        said = self.config.get("out_channels")
        if said not in (None, self.config.get("in_channels")):
            seen = self.config.get("in_channels")
            raise UserError(f"model {source}: its {self.kind} reads {seen} channels and answers {said}")

    def texts(self, loader: PartLoader, **absent: None) -> Any:
        """The pipeline, of which only tokenizers and text encoders are there."""
        return loader.pipeline(self.pipeline, large=True, transformer=None, vae=None, **absent)


class StableDiffusion3Adapter(FlowAdapter):
    """Stable Diffusion 3 and 3.5 (Esser et al., arXiv 2403.03206): states of up to three encoders, pooled vectors."""

    pipeline = "StableDiffusion3Pipeline"
    kind = "SD3Transformer2DModel"
    parts = ("transformer", "scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")  # T5 may lack
    half = torch.float16
    picture_guidance = 7.0
    needs = ("in_channels", "joint_attention_dim", "pooled_projection_dim")
    TOKENS = 256

    def load_text(self, loader: PartLoader) -> TextEncoder:
        if loader.has("text_encoder_3"):
            return PipelineText(self.texts(loader), encode_sd3, "tokenizer_3", self.TOKENS)
        pipeline = self.texts(loader, text_encoder_3=None, tokenizer_3=None)
        pipeline.transformer = _Width(self.config["joint_attention_dim"])  # which it asks how wide T5's states were
        return PipelineText(pipeline, encode_sd3)

    def words(self) -> tuple[int, Any, tuple[int, ...]]:
        c = self.config
        return CLIP_TOKENS + self.TOKENS, c.get("joint_attention_dim"), (c["pooled_projection_dim"],)

    def widths(self) -> Widths:
        pooled = [("text_encoder", "projection_dim"), ("text_encoder_2", "projection_dim")]
        return {"joint_attention_dim": [("text_encoder_3", "d_model")], "pooled_projection_dim": pooled}

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        states, pooled = unpack(condition, self.config["pooled_projection_dim"])
        options = {"encoder_hidden_states": states, "pooled_projections": pooled}
        return network(x, timestep=tick, **options, return_dict=False)[0]


class _Width(torch.nn.Module):
    """In place of a transformer: its configuration's `joint_attention_dim`."""

    dtype = torch.float32

    def __init__(self, joint_attention_dim: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(joint_attention_dim=joint_attention_dim)


class UnsizedAdapter(FlowAdapter):
    """Networks whose configuration names no size, and which are told t itself."""

    SIDE = 128  # 1024 pixels a side, as their pipelines have it

    @property
    def size(self) -> Any:
        return self.SIDE

    @property
    def timestep_scale(self) -> float:
        return 1.0


class FluxAdapter(UnsizedAdapter):
    """Flux.1: squares of 2 x 2 latents are tokens; the guidance that it was distilled from is an input of its own."""

    pipeline = "FluxPipeline"
    kind = "FluxTransformer2DModel"
    parts = ("transformer", "scheduler", "tokenizer", "text_encoder", "tokenizer_2", "text_encoder_2")
    TOKENS = 512  # as its pipeline has it
    needs = ("in_channels", "joint_attention_dim", "pooled_projection_dim")
    picture_guidance = 1.0  # beside the one that follows
    DISTILLED = 3.5  # its pipeline's guidance, of which the network is told where it was distilled with it

    def __init__(self, config: dict[str, Any], upscale: int) -> None:
        super().__init__(config, upscale)
        self._places: dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor | None]] = {}

    @property
    def multiple(self) -> int:
        return 2

    @property
    def seen(self) -> Any:
        channels = self.config.get("in_channels")
        return channels // 4 if isinstance(channels, int) and channels % 4 == 0 else None

    def load_text(self, loader: PartLoader) -> TextEncoder:
        return PipelineText(self.texts(loader), encode_flux, "tokenizer_2", self.TOKENS)

    def words(self) -> tuple[int, Any, tuple[int, ...]]:
        return self.TOKENS, self.config.get("joint_attention_dim"), (self.config["pooled_projection_dim"],)

    def widths(self) -> Widths:
        pooled = [("text_encoder", "hidden_size")]
        return {"joint_attention_dim": [("text_encoder_2", "d_model")], "pooled_projection_dim": pooled}

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        states, pooled = unpack(condition, self.config["pooled_projection_dim"])
        words, picture, guidance = self._constants(x, states.shape[1])
        tokens = pixel_unshuffle(x, 2)  # [B, 4 C, h / 2, w / 2]
        answer = network(
            tokens.flatten(2).mT,
            timestep=tick,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=states,
            txt_ids=words,
            img_ids=picture,
            return_dict=False,
        )[0]
        return pixel_shuffle(answer.mT.unflatten(2, tokens.shape[2:]), 2)

    def _constants(self, x: Tensor, tokens: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Places of words and of squares [n, 3], and the guidance of each input [B]; made once a shape."""
        key = (*x.shape, tokens)
        if key not in self._places:
            down, across = (torch.arange(side // 2, dtype=x.dtype, device=x.device) for side in x.shape[2:])
            grid = torch.stack(torch.meshgrid(0 * down[:1], down, across, indexing="ij"), dim=-1).reshape(-1, 3)
            guidance = torch.full((len(x),), self.DISTILLED, device=x.device)
            told = guidance if self.config.get("guidance_embeds") else None
            self._places[key] = (x.new_zeros(tokens, 3), grid, told)
        return self._places[key]


class SanaAdapter(FlowAdapter):
    """Sana (Xie et al., arXiv 2410.10629): states of Gemma with a mask; latents of a DC-AE."""

    pipeline = "SanaPipeline"
    kind = "SanaTransformer2DModel"
    picture_guidance = 4.5
    parts = ("transformer", "scheduler", "tokenizer", "text_encoder")
    masked = True
    TOKENS = 300

    @property
    def timestep_scale(self) -> float:
        return 1000.0 * self.config.get("timestep_scale", 1.0)

    def check(self, source: str) -> None:
        if self.config.get("guidance_embeds"):
            raise UserError(f"model {source}: Sana networks that were distilled (Sana-Sprint) are not supported")
        super().check(source)

    def load_text(self, loader: PartLoader) -> TextEncoder:
        return PipelineText(self.texts(loader), encode_sana, tokens=self.TOKENS)

    def words(self) -> tuple[int, Any, tuple[int, ...]]:
        return self.TOKENS, self.config.get("caption_channels"), (self.TOKENS,)

    def widths(self) -> Widths:
        return {"caption_channels": [("text_encoder", "hidden_size")]}

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        states, mask = unpack(condition, self.TOKENS)
        options = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
        return network(x, timestep=tick, **options, return_dict=False)[0]


class ZImageAdapter(UnsizedAdapter):
    """Z-Image: lists of pictures and of states, as many as a prompt has words; 1 - t, and the answer is negated.

    How many words there are is read on the host, so that steps with it cannot be captured as a CUDA graph.
    """

    pipeline = "ZImagePipeline"
    kind = "ZImageTransformer2DModel"
    capturable = False
    picture_guidance = 5.0
    parts = ("transformer", "scheduler", "tokenizer", "text_encoder")
    masked = True

    def load_text(self, loader: PartLoader) -> TextEncoder:
        return PipelineText(self.texts(loader), encode_z_image, tokens=Z_IMAGE_TOKENS)

    def words(self) -> tuple[int, Any, tuple[int, ...]]:
        return Z_IMAGE_TOKENS, self.config.get("cap_feat_dim"), (Z_IMAGE_TOKENS,)

    def widths(self) -> Widths:
        return {"cap_feat_dim": [("text_encoder", "hidden_size")]}

    def ask(self, network: Any, x: Tensor, tick: Tensor, condition: Tensor) -> Tensor:
        states, mask = unpack(condition, Z_IMAGE_TOKENS)
        # Where nothing is computed (shapes are counted), every row is a word.
        lengths: list[int] = [mask.shape[1]] * len(mask) if mask.is_meta else (mask > 0).sum(1).tolist()
        words = [row[:length] for row, length in zip(states, lengths, strict=True)]
        pictures = list(x.contiguous()[:, :, None].unbind())
        answer = network(pictures, 1 - tick, words, return_dict=False)[0]
        return -torch.stack(list(answer))[:, :, 0]

"""Stand-ins for Stable Diffusion: real diffusers pipelines with random weights, tiny or of its exact shape."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sjc_fast.scores.diffusers import DiffusersModel
from sjc_fast.scores.vae import LatentSpace

#: Configurations of unet, vae and text encoder, as changes to the libraries' defaults.
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    # 16 x 16 latents, 32 x 32 pictures
    "tiny": {
        "unet": {
            "sample_size": 16,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "block_out_channels": (32, 64),
            "layers_per_block": 1,
            "cross_attention_dim": 32,
            "norm_num_groups": 8,
        },
        "vae": {"block_out_channels": [16, 32], "sample_size": 32, "norm_num_groups": 8},
        "text_encoder": {
            "hidden_size": 32,
            "intermediate_size": 37,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 24,
        },
    },
    # Stable Diffusion 1.5
    "1.5": {
        "unet": {"sample_size": 64, "cross_attention_dim": 768},
        "vae": {"block_out_channels": [128, 256, 512, 512], "sample_size": 512, "layers_per_block": 2},
        "text_encoder": {
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "max_position_embeddings": 77,
        },
    },
}
NOISE_TABLE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def tokenizer(folder: Path, length: int) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer over its byte alphabet: every prompt encodes, letter by letter."""
    alphabet = [*map(chr, range(33, 127))]
    vocabulary = {
        t: i for i, t in enumerate(["<|startoftext|>", "<|endoftext|>", *alphabet, *(c + "</w>" for c in alphabet)])
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length)


def unet(shape: str = "tiny", channels: int = 4) -> UNet2DConditionModel:
    """The UNet of a shape."""
    return UNet2DConditionModel(in_channels=channels, out_channels=channels, **SHAPES[shape]["unet"])


def stable_diffusion(
    folder: Path,
    prediction: str = "epsilon",
    *,
    vae: bool = True,
    seed: int = 0,
    shape: str = "tiny",
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Save a Stable-Diffusion-shaped pipeline with random weights; without a VAE it makes pixels."""
    torch.manual_seed(seed)
    sizes = SHAPES[shape]
    length = sizes["text_encoder"]["max_position_embeddings"]
    words = tokenizer(folder.parent / f"{folder.name}-tokenizer", length)
    tokens = {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    blocks = len(sizes["vae"]["block_out_channels"])
    autoencoder = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * blocks,
        up_block_types=["UpDecoderBlock2D"] * blocks,
        latent_channels=4,
        **sizes["vae"],
    )
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=CLIPTextModel(CLIPTextConfig(**tokens, **sizes["text_encoder"])),
        tokenizer=words,
        unet=unet(shape, 4 if vae else 3),
        scheduler=PNDMScheduler(**NOISE_TABLE, prediction_type=prediction, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.to(dtype).save_pretrained(folder)
    if not vae:
        shutil.rmtree(folder / "vae")
    return folder


def ddim(folder: Path) -> DDIMScheduler:
    """The noise table of a saved pipeline."""
    return DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False)


class StandIn(DiffusersModel):
    """A score model of a UNet with random weights; its texts are random embeddings, and it has no VAE."""

    def __init__(self, unet: Any, device: torch.device | str, dtype: torch.dtype) -> None:
        table, latents = DDIMScheduler(**NOISE_TABLE), LatentSpace(_no_vae)
        super().__init__(unet, table, _no_text, latents, device=device, dtype=dtype, upscale=8)

    def encode(self, prompts: list[str]) -> Tensor:
        """Random numbers of the size that CLIP's have, another row for every prompt."""
        width = self.network.config.cross_attention_dim
        generator = torch.Generator().manual_seed(len(prompts))
        return torch.randn(len(prompts), 77, width, generator=generator).to(self.device)


def _no_text() -> Any:
    raise RuntimeError("a stand-in has no text encoder")


def _no_vae() -> Any:
    raise RuntimeError("a stand-in has no VAE")

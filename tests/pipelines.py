"""Tiny real diffusers pipelines, built with diffusers' own classes and saved to disk."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sjc_fast.scores.diffusers import DiffusersModel

WORDS = ["a", "red", "blue", "cube", "ball", "front", "view", "of", "side", "overhead", "back"]


def tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-pair tokenizer over its byte alphabet: every prompt encodes, letter by letter."""
    alphabet = [*map(chr, range(33, 127))]
    vocabulary = {
        t: i for i, t in enumerate(["<|startoftext|>", "<|endoftext|>", *alphabet, *(c + "</w>" for c in alphabet)])
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)


def stable_diffusion(folder: Path, prediction: str = "epsilon", *, vae: bool = True, seed: int = 0) -> Path:
    """A Stable-Diffusion-shaped pipeline with random weights: 16 x 16 latents, 32 x 32 pictures."""
    torch.manual_seed(seed)
    words = tokenizer(folder.parent / f"{folder.name}-tokenizer")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=24,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4 if vae else 3,
        out_channels=4 if vae else 3,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    autoencoder = AutoencoderKL(
        block_out_channels=[16, 32],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )
    table = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "prediction_type": prediction}
    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text,
        tokenizer=words,
        unet=unet,
        scheduler=PNDMScheduler(**table, skip_prk_steps=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    if not vae:
        import shutil

        shutil.rmtree(folder / "vae")
    return folder


def ddim(folder: Path) -> DDIMScheduler:
    return DDIMScheduler.from_pretrained(folder / "scheduler", clip_sample=False)


def bare_model(unet: UNet2DConditionModel, dtype: torch.dtype, device: str) -> DiffusersModel:
    """A score model of a UNet and Stable Diffusion's noise table, without texts or pictures."""
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return DiffusersModel(unet.to(dtype), scheduler, lambda: None, lambda: None, device=device, dtype=dtype)

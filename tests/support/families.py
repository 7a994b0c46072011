"""Tiny pipelines of other families than Stable Diffusion 1.x, with random weights, as diffusers saves them."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    IFPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from benchmarks.pipelines import NOISE_TABLE, SHAPES, tokenizer

TOKENS = 24  # of CLIP's prompts


def vae() -> AutoencoderKL:
    """Of 16 x 16 latents, 32 x 32 pictures."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        scaling_factor=0.13025,
        force_upcast=True,
        **SHAPES["tiny"]["vae"],
    )


def t5() -> tuple[T5Tokenizer, T5EncoderModel]:
    """A tokenizer of letters, and an encoder of 32 numbers a token."""
    letters = [(letter, -3.0) for letter in map(chr, range(33, 127))]
    words = T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *letters], extra_ids=0)
    config = T5Config(vocab_size=len(words), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return words, T5EncoderModel(config)


def stable_diffusion_xl(folder: Path) -> Path:
    torch.manual_seed(0)
    words = tokenizer(folder.parent / f"{folder.name}-tokenizer", TOKENS)
    tokens = {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    text = tokens | SHAPES["tiny"]["text_encoder"] | {"max_position_embeddings": TOKENS}
    unet = SHAPES["tiny"]["unet"] | {"cross_attention_dim": 64, "in_channels": 4, "out_channels": 4}
    network = UNet2DConditionModel(
        **unet,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 20,
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        attention_head_dim=(2, 4),
    )
    StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(CLIPTextConfig(**text)),
        text_encoder_2=CLIPTextModelWithProjection(CLIPTextConfig(**text, projection_dim=20)),
        tokenizer=words,
        tokenizer_2=words,
        unet=network,
        scheduler=EulerDiscreteScheduler(**NOISE_TABLE, steps_offset=1, timestep_spacing="leading"),
    ).save_pretrained(folder)
    return folder


def deepfloyd(folder: Path) -> Path:
    torch.manual_seed(0)
    words, encoder = t5()
    network = UNet2DConditionModel(
        sample_size=16,
        in_channels=3,
        out_channels=6,
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=32,
        encoder_hid_dim=32,
        attention_head_dim=8,
        addition_embed_type="text",
        addition_embed_type_num_heads=2,
        resnet_time_scale_shift="scale_shift",
        cross_attention_norm="group_norm",
        act_fn="gelu",
        norm_num_groups=8,
    )
    IFPipeline(
        tokenizer=words,
        text_encoder=encoder,
        unet=network,
        scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2", variance_type="learned_range", clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


def pixart_sigma(folder: Path) -> Path:
    torch.manual_seed(0)
    words, encoder = t5()
    network = PixArtTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        out_channels=8,
        num_layers=2,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=16,
        norm_num_groups=8,
        interpolation_scale=1,
        use_additional_conditions=False,
    )
    for parameter in network.parameters():  # its output starts at zero
        parameter.data += 0.02 * torch.randn_like(parameter)
    PixArtSigmaPipeline(
        tokenizer=words,
        text_encoder=encoder,
        vae=vae(),
        transformer=network,
        scheduler=DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
    ).save_pretrained(folder)
    return folder

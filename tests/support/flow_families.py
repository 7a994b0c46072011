"""Tiny pipelines of flow models, with random weights, as diffusers saves them."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaPipeline,
    SanaTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    GemmaTokenizer,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
)

from benchmarks.pipelines import SHAPES, tokenizer
from tests.support.families import TOKENS, t5

TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}{% endfor %} go"
LETTERS = [chr(c) for c in range(33, 127)]


def vae() -> AutoencoderKL:
    """Of 16 channels: 8 x 8 latents, 16 x 16 pictures; with a shift."""
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        **SHAPES["tiny"]["vae"],
    )


def clip(folder: Path, projection: int | None = None):
    """A tokenizer of letters, and an encoder of 32 numbers a token."""
    words = tokenizer(folder.parent / f"{folder.name}-tokenizer", TOKENS)
    tokens = {"vocab_size": len(words), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = tokens | SHAPES["tiny"]["text_encoder"] | {"max_position_embeddings": TOKENS}
    if projection:
        return words, CLIPTextModelWithProjection(CLIPTextConfig(**config, projection_dim=projection))
    return words, CLIPTextModel(CLIPTextConfig(**config))


def settled(network: torch.nn.Module) -> torch.nn.Module:
    """With what starts at zero moved away from it."""
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return network


def stable_diffusion_3(folder: Path, t5_too: bool = True) -> Path:
    torch.manual_seed(0)
    words, encoder = clip(folder, 20)
    _, second = clip(folder, 12)
    third_words, third = t5() if t5_too else (None, None)
    if third is not None:
        third = type(third)(type(third.config)(**(third.config.to_dict() | {"d_model": 128})))
    network = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=16,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        joint_attention_dim=128,
        caption_projection_dim=32,
        pooled_projection_dim=32,
        out_channels=16,
        pos_embed_max_size=8,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )
    StableDiffusion3Pipeline(
        transformer=settled(network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(),
        text_encoder=encoder,
        tokenizer=words,
        text_encoder_2=second,
        tokenizer_2=words,
        text_encoder_3=third,
        tokenizer_3=third_words,
    ).save_pretrained(folder)
    return folder


def flux(folder: Path) -> Path:
    torch.manual_seed(0)
    words, encoder = clip(folder)
    second_words, second = t5()
    network = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(),
        text_encoder=encoder,
        tokenizer=words,
        text_encoder_2=second,
        tokenizer_2=second_words,
        transformer=settled(network),
    ).save_pretrained(folder)
    return folder


def sana(folder: Path) -> Path:
    torch.manual_seed(0)
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "▁"]
    words = GemmaTokenizer(vocab={word: i for i, word in enumerate([*special, *LETTERS])}, merges=[])
    text = Gemma2Model(
        Gemma2Config(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=4096,
        )
    )
    network = SanaTransformer2DModel(
        in_channels=32,
        out_channels=32,
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=16,
        cross_attention_dim=32,
        caption_channels=32,
        sample_size=8,
        timestep_scale=0.5,
    )
    decoder = AutoencoderDC(
        latent_channels=32,
        attention_head_dim=8,
        encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
        encoder_block_out_channels=(16, 32),
        decoder_block_out_channels=(16, 32),
        encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)),
        encoder_layers_per_block=(1, 1),
        decoder_layers_per_block=(1, 1),
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_act_fns="silu",
        decoder_norm_types="rms_norm",
        scaling_factor=0.41407,
    )
    SanaPipeline(
        tokenizer=words,
        text_encoder=text,
        vae=decoder,
        transformer=settled(network),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    ).save_pretrained(folder)
    return folder


def z_image(folder: Path) -> Path:
    torch.manual_seed(0)
    letters = [*LETTERS, "Ġ", "<|endoftext|>"]
    words = Qwen2Tokenizer(vocab={word: i for i, word in enumerate(letters)}, merges=[])
    words.chat_template = TEMPLATE
    text = Qwen3Model(
        Qwen3Config(
            vocab_size=len(words),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
        )
    )
    network = ZImageTransformer2DModel(
        in_channels=16,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=32,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 32, 32],
    )
    ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(),
        text_encoder=text,
        tokenizer=words,
        transformer=settled(network),
    ).save_pretrained(folder)
    return folder

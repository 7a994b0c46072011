"""The embedded model's architecture: a small text-conditional diffusion model in diffusers folder format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from ..scores.layout import LayoutDecoder
from .dataset import FOV, RADIUS, SIZE
from .prompts import DIRECTIONS, VOCABULARY

PATCH = 4  # pixel_unshuffle before the UNet: 48 channels of 16x16 instead of 3 of 64x64
LAYOUT = 4 * PATCH**2  # RGB and coverage
WIDTH = 128  # of the text encoder
MAX_WORDS = 12
SPECIAL = ("<pad>", "<unk>", "<start>", "<end>")


def build_unet() -> UNet2DConditionModel:
    """Three levels, attention at the lowest; sees the layout beside the noisy picture."""
    return UNet2DConditionModel(
        sample_size=SIZE // PATCH,
        in_channels=3 * PATCH**2 + LAYOUT,
        out_channels=3 * PATCH**2,
        down_block_types=("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        block_out_channels=(96, 128, 128),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=32,
        norm_num_groups=16,
    )


def build_layout() -> LayoutDecoder:
    """From words to the object over nothing and its coverage, patches as channels."""
    return LayoutDecoder(width=WIDTH, hidden=384, features=64, channels=LAYOUT, size=SIZE // PATCH)


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise table. The network answers the clean picture: simpler than noise of 48 channels."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="sample",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def build_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; what it does not know becomes <unk>."""
    known = VOCABULARY
    words = [*SPECIAL, *known.other, *known.colors, *known.objects, *known.parts.values()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(w, words.index(w)) for w in ("<start>", "<end>")]
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A <end>", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=MAX_WORDS,
    )


def build_text_encoder(tokenizer: PreTrainedTokenizerFast) -> CLIPTextModel:
    """A two-layer CLIP text model, trained together with the rest."""
    special: Any = tokenizer  # transformers types the numbers of its special tokens too widely
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=MAX_WORDS,
        projection_dim=WIDTH,
        pad_token_id=special.pad_token_id,
        bos_token_id=special.bos_token_id,
        eos_token_id=special.eos_token_id,
    )
    return CLIPTextModel(config)


def settings() -> dict:
    """The content of `sjc_fast.json`: what `train` should use with this model."""
    return {
        "name": "shapes",
        "pixel_patch": PATCH,
        "scenes": "shapes",
        "vocabulary": VOCABULARY.table(),
        "defaults": {
            "steps": 400,
            "noise_samples": 2,
            # It knows few pictures and knows them well: guidance only over-saturates its colors.
            "guidance": 1.0,
            "field": {"resolution": 48, "feature_std": 0.1, "background": "random"},
            "score": {"antithetic": True, "sigma": {"mode": "annealed", "low": 0.1, "high": 14.0}},
            "losses": {"emptiness_weight": 300.0},
            "optimizer": {"lr": 0.2, "decay": "cosine", "final_lr": 0.1},
            "cameras": {
                "sampling": "directions",
                "radius": RADIUS,
                "fov": [FOV, FOV],
                "spread": 0.0,
                "directions": [
                    {"words": d.words, "azimuth": list(d.azimuth), "elevation": list(d.elevation)} for d in DIRECTIONS
                ],
            },
        },
    }


def save_model(
    folder: Path, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, layout: LayoutDecoder, run: dict
) -> None:
    """Write a complete model folder with half-precision weights.

    Args:
        run: how it was trained, kept in `sjc_fast.json` under "training".
    """
    unet.half().save_pretrained(folder / "unet")
    layout.half().save_pretrained(folder / "layout")
    text_encoder.half().save_pretrained(folder / "text_encoder")
    _prefix_text_weights(folder / "text_encoder" / "model.safetensors")
    build_scheduler().save_pretrained(folder / "scheduler")
    build_tokenizer().save_pretrained(folder / "tokenizer")
    config = folder / "tokenizer" / "tokenizer_config.json"
    # Name the class that every transformers version knows, so that AutoTokenizer finds it in all of them.
    tokenizer = json.loads(config.read_text()) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    config.write_text(json.dumps(tokenizer, indent=2) + "\n")
    (folder / "sjc_fast.json").write_text(json.dumps(settings() | {"training": run}, indent=2) + "\n")


def _prefix_text_weights(path: Path) -> None:
    """Name the weights as transformers 4 does ("text_model. …"), which every version reads; 5 writes them without."""
    tensors = load_file(path)
    renamed = {k if k.startswith("text_model.") else f"text_model.{k}": v for k, v in tensors.items()}
    save_file(renamed, path, metadata={"format": "pt"})

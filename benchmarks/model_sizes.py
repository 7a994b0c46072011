"""Parameters and operations of published networks, from their configurations: ``python -m benchmarks.model_sizes``.

Nothing is downloaded or computed: shapes are followed through networks without numbers. Writes
results/model_sizes.json.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from sjc_fast.scores.families import ADAPTERS
from sjc_fast.scores.sizes import count_network

from .report import save


class Published(NamedTuple):
    """A network as its publishers configured it, where that differs from the defaults of diffusers' class."""

    name: str
    pipeline: str
    config: dict[str, Any]


STABLE_DIFFUSION = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
STABLE_DIFFUSION_2 = {
    "sample_size": 64,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
XL = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
PIXART = {
    "sample_size": 128,
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "in_channels": 4,
    "out_channels": 8,
    "cross_attention_dim": 1152,
    "caption_channels": 4096,
    "use_additional_conditions": False,
}
SD3 = {
    "sample_size": 128,
    "num_layers": 24,
    "num_attention_heads": 24,
    "attention_head_dim": 64,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
CAMERAS = {"sample_size": 32, "class_embed_type": "projection", "projection_class_embeddings_input_dim": 16}
MODELS = (
    Published("Stable Diffusion 1.5", "StableDiffusionPipeline", STABLE_DIFFUSION),
    Published("Stable Diffusion 2.1 base", "StableDiffusionPipeline", STABLE_DIFFUSION_2),
    Published("Stable Diffusion XL", "StableDiffusionXLPipeline", XL),
    Published("PixArt-Sigma XL, 1024", "PixArtSigmaPipeline", PIXART),
    Published("Stable Diffusion 3 medium", "StableDiffusion3Pipeline", SD3),
    Published("Flux.1 dev", "FluxPipeline", {"guidance_embeds": True}),
    Published("Sana 1600M, 1024", "SanaPipeline", {}),
    Published("Z-Image", "ZImagePipeline", {}),
    Published("MVDream, a view", "MVDreamPipeline", STABLE_DIFFUSION_2 | CAMERAS),
)


def main() -> None:
    """Count all of them."""
    rows = []
    for model in MODELS:
        found = count_network(ADAPTERS[model.pipeline], model.config)
        rows.append({"model": model.name, "pipeline": model.pipeline, "config": model.config, **found})
        print(
            f"{model.name:28} {found['parameters'] / 1e9:7.3f} G  {found['flops'] / 1e12:7.2f} TFLOP  {found['shape']}"
        )
    print(save("model_sizes", {"torch": torch.__version__, "rows": rows}))


if __name__ == "__main__":
    main()

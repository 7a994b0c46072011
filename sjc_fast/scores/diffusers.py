"""Score models from diffusers: Stable-Diffusion-shaped folders or hub ids, with a VAE (latents) or without (pixels)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..errors import UserError
from .vocabulary import Vocabulary

PARTS = ("unet", "scheduler", "tokenizer", "text_encoder")
PREDICTIONS = ("epsilon", "v_prediction", "sample")


@dataclass
class FolderSettings:
    """A model folder's own `sjc_fast.json`, or nothing special."""

    name: str = ""
    pixel_patch: int = 1
    timestep: str = "nearest"
    """"nearest" tick of the noise table, or "interpolated" between ticks."""
    vocabulary: Vocabulary | None = None
    defaults: dict[str, Any] = field(default_factory=dict)
    """A partial configuration tree for `train`."""

    @classmethod
    def read(cls, folder: Path) -> FolderSettings:
        """Settings of a local folder; the plain ones if it has no `sjc_fast.json`."""
        path = folder / "sjc_fast.json"
        if not path.exists():
            return cls()
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            words = raw.get("vocabulary")
            vocabulary = Vocabulary(**{k: tuple(v) for k, v in words.items()}) if words else None
            return cls(
                name=raw.get("name", folder.name),
                pixel_patch=int(raw.get("pixel_patch", 1)),
                timestep=raw.get("timestep", "nearest"),
                vocabulary=vocabulary,
                defaults=dict(raw.get("defaults", {})),
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is not valid: {error}") from None


class DiffusersModel:
    """A UNet, its text encoder and noise table, as a `ScoreModel`.

    Args:
        unet: a `UNet2DConditionModel` in `dtype` (or anything called like one).
        scheduler_config: the scheduler's configuration: `prediction_type` and what defines its betas.
        tokenizer, text_encoder: a transformers pair.
        vae_source: loads the VAE when something is first decoded; None for a pixel model.
        upscale: image pixels a side of one latent.
        settings: the folder's own.
        device, dtype: where and in what precision the network runs.
    """

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        tokenizer: Any,
        text_encoder: Any,
        vae_source: Any = None,
        *,
        upscale: int = 1,
        settings: FolderSettings | None = None,
        name: str = "diffusers",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        own = settings or FolderSettings()
        self.prediction = scheduler.config.get("prediction_type", "epsilon")
        if self.prediction not in PREDICTIONS or not hasattr(scheduler, "alphas_cumprod"):
            kind = f"{type(scheduler).__name__} with prediction type {self.prediction!r}"
            raise UserError(
                f"model {name}: {kind} is not supported; known: {', '.join(PREDICTIONS)} on a beta schedule"
            )
        self.device, self.dtype = torch.device(device), dtype
        self.unet = unet.to(self.device).eval().requires_grad_(False)
        self.text_encoder = text_encoder.to(self.device).eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self._vae_source, self._vae = vae_source, None
        self.patch, self.timestep = own.pixel_patch, own.timestep
        self.vocabulary, self.settings = own.vocabulary, own.defaults
        self.name = own.name or name
        self.latent, self.upscale = vae_source is not None, upscale
        self.channels = unet.config.in_channels // self.patch**2
        self.size = unet.config.sample_size * self.patch
        alphas = scheduler.alphas_cumprod.double()
        self.sigmas = ((1 - alphas) / alphas).sqrt().float()
        self._table = self.sigmas.to(self.device)

    def ticks(self, sigma: Tensor) -> Tensor:
        """Time steps for noise levels [B]: the nearest tick in log sigma, or interpolated between two (float)."""
        table = self._table.log()
        level = sigma.to(table).log()
        above = torch.searchsorted(table, level.contiguous()).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        share = ((level - low) / (high - low)).clamp(0, 1)
        tick = above - 1 + share
        return tick if self.timestep == "interpolated" else tick.round().long()

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """See `ScoreModel.denoise`. The network sees ``x / sqrt(1 + sigma^2)``; its answer becomes D in float32."""
        s = sigma.to(x)[:, None, None, None]
        scale = (1 + s**2).sqrt()
        scaled = pixel_unshuffle(x / scale, self.patch) if self.patch > 1 else x / scale
        answer = self.unet(scaled.to(self.dtype), self.ticks(sigma), condition.to(self.dtype)).sample.float()
        answer = pixel_shuffle(answer, self.patch) if self.patch > 1 else answer
        if self.prediction == "epsilon":
            return x - s * answer
        if self.prediction == "v_prediction":
            return x / scale**2 - s / scale * answer
        return answer

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Tensor:
        """Text embeddings, [B, tokens, width]."""
        if self.vocabulary:
            prompts = [" ".join(self.vocabulary.words(p)) for p in prompts]
        length = self.tokenizer.model_max_length
        limit = getattr(self.text_encoder.config, "max_position_embeddings", length)
        tokens = self.tokenizer(
            prompts, padding="max_length", max_length=min(length, limit), truncation=True, return_tensors="pt"
        )
        return self.text_encoder(tokens.input_ids.to(self.device)).last_hidden_state

    @property
    def vae(self) -> Any:
        """The VAE, loaded at first use."""
        if self._vae is None:
            self._vae = self._vae_source().to(self.device).eval().requires_grad_(False)
        return self._vae

    @torch.no_grad()
    def decode(self, features: Tensor) -> Tensor:
        """RGB in [0, 1]: through the VAE for latents, one view at a time to bound memory."""
        if not self.latent:
            return (features.detach() / 2 + 0.5).clamp(0, 1)
        config = self.vae.config
        latents = features.detach().to(self.device, self.dtype) / config.scaling_factor
        latents = latents + (getattr(config, "shift_factor", None) or 0.0)
        pictures = torch.cat([self.vae.decode(view[None]).sample for view in latents])
        return (pictures.float() / 2 + 0.5).clamp(0, 1)

    def check_prompt(self, prompt: str) -> None:
        """With a vocabulary, refuse prompts that name nothing known; without, take anything."""
        if self.vocabulary:
            self.vocabulary.check(prompt)


def load_diffusers(source: str, device: torch.device | str, dtype: torch.dtype) -> DiffusersModel:
    """Load a model from a local folder or a hub id, through diffusers' and transformers' own loaders.

    Raises:
        UserError: a part is missing or damaged, or the hub cannot be reached.
    """
    folder = Path(source)
    local = folder.is_dir()
    if local:
        missing = [part for part in PARTS if not (folder / part).is_dir()]
        if missing:
            raise UserError(
                f"model folder {source} lacks {', '.join(missing)}: a diffusers folder has {', '.join(PARTS)}"
            )
    settings = FolderSettings.read(folder) if local else FolderSettings()
    # diffusers takes seconds to import, and a bad folder should be refused before that.
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from diffusers.utils import logging as diffusers_logging
    from transformers import AutoTokenizer, CLIPTextModel
    from transformers.utils import logging as transformers_logging

    for quiet in (diffusers_logging, transformers_logging):
        quiet.set_verbosity_error()
        quiet.disable_progress_bar()

    def part(cls: Any, name: str, **kwargs: Any) -> Any:
        try:
            # Local parts are addressed by path: every loader takes one, and none then asks the hub.
            where = {} if local else {"subfolder": name}
            return cls.from_pretrained(folder / name if local else source, **where, **kwargs)
        except Exception as error:  # the loaders raise many kinds; to the caller they are one
            raise UserError(f"model {source}: cannot load {name}: {_one_line(error)}") from None

    vae_config = None
    if not local or (folder / "vae").is_dir():
        vae_config = _read_config(AutoencoderKL, folder / "vae" if local else source, None if local else "vae")
    return DiffusersModel(
        part(UNet2DConditionModel, "unet", torch_dtype=dtype),
        part(DDIMScheduler, "scheduler"),
        part(AutoTokenizer, "tokenizer"),
        part(CLIPTextModel, "text_encoder").to(dtype),
        (lambda: part(AutoencoderKL, "vae", torch_dtype=dtype)) if vae_config else None,
        upscale=2 ** (len(vae_config["block_out_channels"]) - 1) if vae_config else 1,
        settings=settings,
        name=source,
        device=device,
        dtype=dtype,
    )


def _read_config(cls: Any, source: Path | str, subfolder: str | None) -> dict[str, Any]:
    """A part's configuration, without its weights."""
    try:
        return cls.load_config(source, subfolder=subfolder)
    except Exception as error:  # as above
        raise UserError(f"model {source}: cannot read the configuration of vae: {_one_line(error)}") from None


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]

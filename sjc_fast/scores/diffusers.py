"""Score models from diffusers: Stable-Diffusion-shaped folders or hub ids, with a VAE (latents) or without (pixels)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from logging import CRITICAL
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
            vocabulary = Vocabulary.read(words) if words else None
            patch, timestep = raw.get("pixel_patch", 1), raw.get("timestep", "nearest")
            if not isinstance(patch, int) or not 1 <= patch <= 64 or timestep not in ("nearest", "interpolated"):
                raise ValueError(f"pixel_patch {patch} or timestep {timestep!r}")
            personal = {"prompt", "model", "output", "resume", "device", "seed"} & set(raw.get("defaults", {}))
            if personal:
                raise ValueError(f"defaults may not set {', '.join(sorted(personal))}")
            return cls(
                name=str(raw.get("name", folder.name)),
                pixel_patch=patch,
                timestep=timestep,
                vocabulary=vocabulary,
                defaults=dict(raw.get("defaults", {})),
            )
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"{path} is not valid: {error}") from None


class DiffusersModel:
    """A UNet, its text encoder and noise table, as a `ScoreModel`.

    Args:
        unet: a `UNet2DConditionModel` in `dtype` (or anything called like one).
        scheduler: a diffusers scheduler on a beta schedule, for its prediction type and noise table.
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
        scaled = pixel_unshuffle(x / scale, self.patch).to(self.device, self.dtype)
        condition = condition.to(self.device, self.dtype)
        answer = self.unet(scaled, self.ticks(sigma.to(self.device)), condition).sample
        answer = pixel_shuffle(answer.to(x), self.patch)
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

    def prepare_decoder(self) -> None:
        """Load the VAE, if there is one and it is not loaded yet."""
        if self.latent and self._vae is None:
            self._vae = self._vae_source().to(self.device).eval().requires_grad_(False)

    @torch.no_grad()
    def decode(self, features: Tensor) -> Tensor:
        """RGB in [0, 1]: through the VAE for latents, one view at a time to bound memory."""
        if not self.latent:
            return (features.detach() / 2 + 0.5).clamp(0, 1)
        self.prepare_decoder()
        config = self._vae.config
        latents = features.detach().to(self.device, self.dtype) / config.scaling_factor
        latents = latents + (getattr(config, "shift_factor", None) or 0.0)
        pictures = torch.cat([self._vae.decode(view[None]).sample for view in latents])
        return (pictures.to(features) / 2 + 0.5).clamp(0, 1)

    def check_prompt(self, prompt: str) -> None:
        """With a vocabulary, refuse prompts that name nothing known; without, take anything."""
        if self.vocabulary:
            self.vocabulary.check(prompt)


def load_diffusers(source: str, device: torch.device | str, dtype: torch.dtype) -> DiffusersModel:
    """Load a model from a local folder or a hub id, through diffusers' and transformers' own loaders.

    Raises:
        UserError: a part is missing, damaged or of another kind, or the hub cannot be reached.
    """
    loader = PartLoader(source, dtype)
    scheduler = loader.scheduler()  # the small parts first: they say whether the model is of a kind that is known
    vae = loader.config("vae") if loader.has("vae") else None
    unet = loader.config("unet")
    settings = FolderSettings.read(loader.folder) if loader.folder else FolderSettings()
    if unet.get("in_channels") != unet.get("out_channels") or unet.get("addition_embed_type"):
        raise UserError(f"model {source}: its UNet wants more than an image and a text, which is not supported")
    channels, patch, size = unet["in_channels"], settings.pixel_patch, unet.get("sample_size")
    if vae is None and channels != 3 * patch**2:
        raise UserError(
            f"model {source}: without a vae it must make RGB; its UNet has {channels} channels for pixel_patch {patch}"
        )
    if not isinstance(size, int) or size < 1:
        raise UserError(f"model {source}: the sample_size of its UNet is {size!r}, and one number of pixels is needed")
    model = DiffusersModel(
        loader.weights("unet"),
        scheduler,
        loader.tokenizer(),
        loader.weights("text_encoder"),
        (lambda: loader.weights("vae")) if vae else None,
        upscale=2 ** (len(vae["block_out_channels"]) - 1) if vae else 1,
        settings=settings,
        name=source,
        device=device,
        dtype=dtype,
    )
    try:
        model.encode(["a"])
    except Exception as error:  # whatever is wrong with the pair, it is met here and not in the middle of a run
        raise UserError(f"model {source}: its tokenizer and text encoder do not work: {_one_line(error)}") from None
    return model


class PartLoader:
    """The parts of one model, from a folder or the hub, every failure as one line.

    Raises:
        UserError: a local folder lacks a part.
    """

    def __init__(self, source: str, dtype: torch.dtype) -> None:
        self.source, self.dtype = source, dtype
        self.folder = Path(source) if Path(source).is_dir() else None
        if self.folder:
            missing = [part for part in PARTS if not (self.folder / part).is_dir()]
            if missing:
                known = ", ".join(PARTS)
                raise UserError(f"model folder {source} lacks {', '.join(missing)}: a diffusers folder has {known}")
            self._quiet()

    @staticmethod
    def _quiet() -> None:
        """Local parts load in a moment, without bars; downloads keep theirs."""
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        for library in (diffusers_logging, transformers_logging):
            library.set_verbosity(CRITICAL)
            library.disable_progress_bar()

    def has(self, part: str) -> bool:
        """Whether there is such a part (hub models are taken to be latent models)."""
        return (self.folder / part).is_dir() if self.folder else True

    def _where(self, part: str) -> tuple[str, dict[str, str]]:
        """Local parts are addressed by path: every loader takes one, and none then asks the hub."""
        return (str(self.folder / part), {}) if self.folder else (self.source, {"subfolder": part})

    def _load(self, part: str, call: Any, **options: Any) -> Any:
        place, where = self._where(part)
        try:
            return call(place, **where, **options)
        except Exception as error:  # the loaders raise many kinds; to the caller they are one
            raise UserError(f"model {self.source}: cannot load {part}: {_one_line(error)}") from None

    def config(self, part: str) -> dict[str, Any]:
        """A part's configuration, without its weights."""
        from diffusers import DDIMScheduler, UNet2DConditionModel

        kind = DDIMScheduler if part == "scheduler" else UNet2DConditionModel  # they differ in the file's name
        config = self._load(part, kind.load_config)
        if not isinstance(config, dict):
            raise UserError(f"model {self.source}: the configuration of {part} is not a table of settings")
        return config

    def scheduler(self) -> Any:
        """The noise table, whatever sampler the model ships with."""
        from diffusers import DDIMScheduler

        config = self.config("scheduler")
        if "beta_schedule" not in config or config.get("prediction_type", "epsilon") not in PREDICTIONS:
            kind = f"{config.get('_class_name')} with prediction type {config.get('prediction_type')!r}"
            known = ", ".join(PREDICTIONS)
            raise UserError(f"model {self.source}: {kind} is not supported; known: {known} on a beta schedule")
        return self._load("scheduler", DDIMScheduler.from_pretrained)

    def tokenizer(self) -> Any:
        """The tokenizer, by whatever class its folder names."""
        from transformers import AutoTokenizer

        return self._load("tokenizer", AutoTokenizer.from_pretrained)

    def weights(self, part: str) -> Any:
        """A network, in the loader's precision, from safetensors only, with every tensor found.

        Raises:
            UserError: it is missing, damaged, or lacks tensors (the libraries would make those up at random).
        """
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel

        kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}[part]
        precision = {"torch_dtype": self.dtype} if part != "text_encoder" else {}
        options = {"use_safetensors": True, "output_loading_info": True, **precision}
        network, info = self._load(part, kind.from_pretrained, **options)
        absent = [k for k in info["missing_keys"] if not k.endswith("position_ids")]
        if absent or info.get("mismatched_keys"):
            raise UserError(f"model {self.source}: cannot load {part}: its weights lack {len(absent)} tensors")
        return network.to(self.dtype)


def _one_line(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:300]

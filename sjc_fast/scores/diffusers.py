"""Score models from diffusers: Stable-Diffusion-shaped folders or hub ids, with a VAE (latents) or without (pixels)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..errors import UserError, setting
from .adapters import Adapter, adapter_of
from .attention import AttentionChoice, check_attention, choose_attention
from .fused_unet import FusedUNet, obstacle
from .layout import TextWithLayout, UNetWithLayout
from .loading import FolderSettings, PartLoader, one_line
from .lora import Lora
from .preconditioning import Preconditioning
from .previews import STABLE_DIFFUSION_SCALE, linear_preview
from .text import ClipText, TextEncoder

LOG = logging.getLogger(__name__)


class DiffusersModel:
    """A UNet, its text encoder and noise table, as a `ScoreModel` whose network can be asked directly (`predict`).

    Args:
        unet: a `UNet2DConditionModel` in `dtype` (or anything called like one).
        scheduler: a diffusers scheduler on a beta schedule, for its prediction type and noise table.
        text_source: loads the encoder of words, when something is encoded.
        vae_source: loads the VAE when something is first decoded; None for a pixel model.
        upscale: image pixels a side of one latent.
        latent_scale: the VAE's scaling factor; those of Stable Diffusion have a linear preview.
        settings: the folder's own.
        adapter: how the network is asked; that of Stable Diffusion 1.x and 2.x by default.
        device, dtype: where and in what precision the network runs.
    """

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        text_source: Callable[[], TextEncoder],
        vae_source: Callable[[], Any] | None = None,
        *,
        upscale: int = 1,
        latent_scale: float | None = None,
        settings: FolderSettings | None = None,
        adapter: Adapter | None = None,
        name: str = "diffusers",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        own = settings or FolderSettings()
        self.device, self.dtype = torch.device(device), dtype
        self.unet = unet.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._text_source, self._vae_source = text_source, vae_source
        self._text: TextEncoder | None = None
        self.adapter = adapter or Adapter(dict(unet.config), upscale)
        self.channels, self.masked = self.adapter.channels // own.pixel_patch**2, self.adapter.masked
        self._vae: Any = None
        self.patch = own.pixel_patch
        self.vocabulary, self.settings = own.vocabulary, own.defaults
        self.name = own.name or name
        self.latent, self.upscale, self.latent_scale = vae_source is not None, upscale, latent_scale
        self.size = unet.config.sample_size * self.patch
        self.attention = AttentionChoice("sdpa")
        self.most: int | None = None  # inputs that fit into one call, once more were too many
        alphas = scheduler.alphas_cumprod.double()
        self.sigmas = ((1 - alphas) / alphas).sqrt().float()
        prediction = scheduler.config.get("prediction_type", "epsilon")
        self.preconditioning = Preconditioning("beta", prediction, self.sigmas.to(self.device), own.timestep)

    @torch.no_grad()
    def predict(self, batch: Tensor, c_noise: Tensor, condition: Tensor) -> Tensor:
        """The network's raw answer, in one call where memory allows.

        Where it does not, the batch goes through in equal parts from then on, which a warning says once.

        Args:
            batch: inputs as the network wants them, ``c_in z`` with patches as channels, in `dtype`:
                [B, C p p, h / p, w / p].
            c_noise: what it is told of the noise levels, [B].
            condition: rows of what `encode` returned, [B, ...].

        Returns:
            Like `batch`.

        Raises:
            torch.OutOfMemoryError: not even one input fits.
        """
        inputs = (batch, c_noise.to(self.device), condition.to(self.device, self.dtype))
        warned = self.most is not None
        while True:
            size = _equal_part(len(batch), self.most)
            try:
                answer = self._ask(inputs, size)
            except torch.OutOfMemoryError:
                capturing = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
                if size == 1 or capturing:
                    raise
                self.most = _equal_part(len(batch), size - 1)
            else:
                break
            torch.cuda.empty_cache()  # outside of the handler, whose traceback holds what was allocated
        if self.most is not None and not warned:
            LOG.warning("memory is short: %d inputs go through the network %d at a time", len(batch), size)
        return answer

    def _ask(self, inputs: tuple[Tensor, Tensor, Tensor], size: int) -> Tensor:
        parts = zip(*(x.split(size) for x in inputs), strict=True)
        with self.attention.active():
            answers = [self.adapter.ask(self.unet, *part) for part in parts]
        return answers[0] if len(answers) == 1 else torch.cat(answers)

    @torch.no_grad()
    def denoise(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """See `ScoreModel.denoise`: ``D = c_skip z + c_out F(c_in z; c_noise)``, in float32 around the network."""
        numbers = self.preconditioning.coefficients(sigma.to(x.device))
        c_in, c_skip, c_out = (c.to(x)[:, None, None, None] for c in (numbers.c_in, numbers.c_skip, numbers.c_out))
        scaled = pixel_unshuffle(c_in * x, self.patch).to(self.device, self.dtype, memory_format=torch.channels_last)
        answer = pixel_shuffle(self.predict(scaled, numbers.c_noise, condition).to(x), self.patch)
        return c_skip * x + c_out * answer

    @torch.no_grad()
    def encode(self, prompts: list[str]) -> Tensor:
        """Text embeddings, [B, tokens, width]. Loads the text encoder if `release_text_encoder` let it go."""
        self._text = self._text or self._text_source()
        if self.vocabulary:
            prompts = [" ".join(self.vocabulary.words(p)) for p in prompts]
        return self._text(prompts, self.device)

    def release_text_encoder(self) -> None:
        """See `ScoreModel.release_text_encoder`."""
        self._text = None

    def prepare_decoder(self) -> None:
        """Load the VAE into the host's memory, if there is one and it is not loaded yet."""
        if self._vae_source is not None and self._vae is None:
            self._vae = self._vae_source().eval().requires_grad_(False)

    @torch.no_grad()
    def decode(self, features: Tensor) -> Tensor:
        """RGB in [0, 1]: through the VAE for latents, one view at a time to bound memory."""
        if not self.latent:
            return (features.detach() / 2 + 0.5).clamp(0, 1)
        self.prepare_decoder()
        self._vae.to(self.device)
        config = self._vae.config
        latents = features.detach().to(self.device, self._vae.dtype) / config.scaling_factor
        latents = latents + (getattr(config, "shift_factor", None) or 0.0)
        pictures = torch.cat([self._vae.decode(view[None]).sample for view in latents])
        return (pictures.to(features) / 2 + 0.5).clamp(0, 1)

    @torch.no_grad()
    def encode_image(self, rgb: Tensor) -> Tensor:
        """The opposite of `decode`: RGB in [0, 1], [V, 3, H, W], to features; the mean of the VAE's for latents."""
        signed = rgb * 2 - 1
        if not self.latent:
            return signed
        self.prepare_decoder()
        self._vae.to(self.device)
        config = self._vae.config
        mean = self._vae.encode(signed.to(self.device, self._vae.dtype)).latent_dist.mean.to(rgb)
        return (mean - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor

    @torch.no_grad()
    def preview(self, features: Tensor) -> Tensor:
        """See `ScoreModel.preview`: a linear map for the latents of known VAEs, without their weights."""
        linear = linear_preview(features.detach(), self.latent_scale) if self.latent else None
        return self.decode(features) if linear is None else linear

    def check_prompt(self, prompt: str) -> None:
        """With a vocabulary, refuse prompts that name nothing known; without, take anything."""
        if self.vocabulary:
            self.vocabulary.check(prompt)


def _equal_part(count: int, most: int | None) -> int:
    """The largest divisor of `count` that is at most `most`."""
    return next(size for size in range(min(count, most or count), 0, -1) if count % size == 0)


def load_diffusers(
    source: str,
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    attention: str = "sdpa",
    fused: bool = True,
    compiled: bool = False,
    lora: Path | None = None,
) -> DiffusersModel:
    """Load a model from a local folder or a hub id, through diffusers' and transformers' own loaders.

    Args:
        attention: "sdpa" (PyTorch chooses), "flash", "cudnn", "efficient" or "xformers".
        fused: call the UNet our way (`fused_unet`), where it is of that kind and runs on CUDA.
        compiled: compile the UNet with `torch.compile` instead, at its first call.
        lora: LoRA weights to add to UNet and text encoder.

    Raises:
        UserError: a part is missing, damaged or of another kind, or the hub cannot be reached.
    """
    device = torch.device(device)
    check_attention(attention, device)
    loader = PartLoader(source, dtype)
    kind = adapter_of(source, loader.index)
    loader.require(kind.parts)
    added = load_lora(lora, kind, source) if lora else None
    scheduler = loader.scheduler()  # the small parts first: they say whether the model is of a kind that is known
    vae = loader.config("vae") if loader.has("vae") else None
    settings = FolderSettings.read(loader.folder) if loader.folder else FolderSettings()
    has_layout = loader.has("layout")
    upscale = 2 ** (len(vae["block_out_channels"]) - 1) if vae else 1
    adapter = kind(loader.config(kind.network), upscale)
    adapter.check(source)
    check_kind(source, adapter, vae, settings, loader.config("layout") if has_layout else None)
    unet = loader.weights(kind.network)
    if added:
        added.add_to_unet(unet)
    choice = choose_attention(unet, attention, device, dtype)
    network = prepare(unet, device, fused=fused, compiled=compiled)
    model = DiffusersModel(
        UNetWithLayout(network, unet.config.in_channels - unet.config.out_channels) if has_layout else network,
        scheduler,
        lambda: load_text(loader, adapter, added),
        loader.vae if vae else None,
        upscale=upscale,
        latent_scale=vae.get("scaling_factor", STABLE_DIFFUSION_SCALE) if vae else None,
        settings=settings,
        adapter=adapter,
        name=source,
        device=device,
        dtype=dtype,
    )
    model.attention = choice
    try:
        model.encode(["a"])
    except UserError:
        raise
    except Exception as error:  # whatever is wrong with the pair, it is met here and not in the middle of a run
        raise UserError(f"model {source}: its tokenizer and text encoder do not work: {one_line(error)}") from None
    return model


def load_lora(path: Path, kind: type[Adapter], source: str) -> Lora:
    """LoRA weights for a kind of model.

    Raises:
        UserError: there are none for it, or these cannot be read.
    """
    if kind.pipeline is None:
        raise UserError(f"{setting('lora')} {path}: LoRA weights are not supported for models like {source}")
    return Lora(path, kind.pipeline)


def load_text(loader: PartLoader, adapter: Adapter, added: Lora | None) -> TextEncoder:
    """A model's encoder of words, with its LoRA weights and its layout, if it has any."""
    encoder = adapter.load_text(loader)
    if added:
        for name, part in encoder.networks.items():
            added.add_to_text_encoder(part, name)
    if loader.has("layout") and isinstance(encoder, ClipText):
        encoder.encoder = TextWithLayout(encoder.encoder, loader.weights("layout"))
    return encoder


def prepare(unet: Any, device: torch.device, *, fused: bool = True, compiled: bool = False) -> Any:
    """The UNet as it is called: compiled, with fused kernels where it runs on CUDA and is of their kind, or itself."""
    if compiled:
        unet.compile(dynamic=False)
    elif fused and device.type == "cuda":
        problem = obstacle(unet)
        if problem is None:
            return FusedUNet(unet)
        LOG.info("the network is called as diffusers does: %s", problem)
    return unet


def check_kind(
    source: str,
    adapter: Adapter,
    vae: dict[str, Any] | None,
    settings: FolderSettings,
    layout: dict[str, Any] | None = None,
) -> None:
    """Refuse networks that want or make something else.

    Raises:
        UserError: what is wrong with the configurations of the network, `vae` and `layout`.
    """
    unet = adapter.config
    seen: list[Any] = [adapter.channels, *([layout.get("channels")] if layout else [])]
    counted = all(isinstance(n, int) for n in seen)
    if not counted or unet.get("in_channels") != sum(seen):
        raise UserError(f"model {source}: its UNet wants more than an image and a text, which is not supported")
    channels, patch, size = adapter.channels, settings.pixel_patch, unet.get("sample_size")
    if vae is None and channels != 3 * patch**2:
        raise UserError(
            f"model {source}: without a vae it must make RGB; its UNet has {channels} channels for pixel_patch {patch}"
        )
    if not isinstance(size, int) or size < 1:
        raise UserError(f"model {source}: the sample_size of its UNet is {size!r}, and one number of pixels is needed")
    if layout and layout.get("size") != size:
        raise UserError(f"model {source}: its layout has {layout.get('size')} pixels, its UNet {size}")

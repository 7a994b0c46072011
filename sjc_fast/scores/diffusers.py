"""Score models from diffusers: Stable-Diffusion-shaped folders or hub ids, with a VAE (latents) or without (pixels)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from ..errors import UserError
from .attention import AttentionChoice, check_attention, choose_attention
from .fused_unet import FusedUNet, obstacle
from .layout import TextWithLayout, UNetWithLayout
from .loading import FolderSettings, PartLoader, one_line
from .lora import Lora
from .preconditioning import Preconditioning

LOG = logging.getLogger(__name__)

#: RGB in [-1, 1] of a Stable Diffusion 1.x or 2.x latent, approximately: a linear fit published by K. Turner in 2022
#: (discuss.huggingface.co/t/23204). Rows are the latent's channels.
LATENT_TO_RGB = (
    (0.298, 0.207, 0.208),
    (0.187, 0.286, 0.173),
    (-0.158, 0.189, 0.264),
    (-0.184, -0.271, -0.473),
)
STABLE_DIFFUSION_SCALE = 0.18215  # the scaling factor of the VAE whose latents that fit is for


class DiffusersModel:
    """A UNet, its text encoder and noise table, as a `ScoreModel` whose network can be asked directly (`predict`).

    Args:
        unet: a `UNet2DConditionModel` in `dtype` (or anything called like one).
        scheduler: a diffusers scheduler on a beta schedule, for its prediction type and noise table.
        text_source: loads the transformers pair of tokenizer and text encoder, when something is encoded.
        vae_source: loads the VAE when something is first decoded; None for a pixel model.
        upscale: image pixels a side of one latent.
        latent_scale: the VAE's scaling factor; that of Stable Diffusion has a linear preview.
        settings: the folder's own.
        device, dtype: where and in what precision the network runs.
    """

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        text_source: Callable[[], tuple[Any, Any]],
        vae_source: Callable[[], Any] | None = None,
        *,
        upscale: int = 1,
        latent_scale: float | None = None,
        settings: FolderSettings | None = None,
        name: str = "diffusers",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        own = settings or FolderSettings()
        self.device, self.dtype = torch.device(device), dtype
        self.unet = unet.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._text_source, self._vae_source = text_source, vae_source
        self._text: tuple[Any, Any] | None = None
        self._vae: Any = None
        self.patch = own.pixel_patch
        self.vocabulary, self.settings = own.vocabulary, own.defaults
        self.name = own.name or name
        self.latent, self.upscale, self.latent_scale = vae_source is not None, upscale, latent_scale
        self.channels = unet.config.out_channels // self.patch**2
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
            answers = [self.unet(x, tick, text, return_dict=False)[0] for x, tick, text in parts]
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
        if self._text is None:
            tokenizer, encoder = self._text_source()
            self._text = tokenizer, encoder.to(self.device).eval().requires_grad_(False)
        tokenizer, encoder = self._text
        if self.vocabulary:
            prompts = [" ".join(self.vocabulary.words(p)) for p in prompts]
        length = tokenizer.model_max_length
        limit = getattr(encoder.config, "max_position_embeddings", length)
        tokens = tokenizer(
            prompts, padding="max_length", max_length=min(length, limit), truncation=True, return_tensors="pt"
        )
        return encoder(tokens.input_ids.to(self.device)).last_hidden_state

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
        latents = features.detach().to(self.device, self.dtype) / config.scaling_factor
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
        mean = self._vae.encode(signed.to(self.device, self.dtype)).latent_dist.mean.to(rgb)
        return (mean - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor

    @torch.no_grad()
    def preview(self, features: Tensor) -> Tensor:
        """See `ScoreModel.preview`: a linear fit for Stable Diffusion's latents, without the VAE's weights."""
        if self.latent_scale != STABLE_DIFFUSION_SCALE or self.channels != len(LATENT_TO_RGB):
            return self.decode(features)
        matrix = torch.tensor(LATENT_TO_RGB).to(features)
        return (torch.einsum("vchw,cr->vrhw", features.detach(), matrix) / 2 + 0.5).clamp(0, 1)

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
    check_attention(attention, torch.device(device))
    loader = PartLoader(source, dtype)
    adapter = Lora(lora) if lora else None
    scheduler = loader.scheduler()  # the small parts first: they say whether the model is of a kind that is known
    vae = loader.config("vae") if loader.has("vae") else None
    settings = FolderSettings.read(loader.folder) if loader.folder else FolderSettings()
    has_layout = loader.has("layout")
    check_kind(source, loader.config("unet"), vae, settings, loader.config("layout") if has_layout else None)
    unet = loader.weights("unet")

    def text() -> tuple[Any, Any]:
        encoder = loader.weights("text_encoder")
        if adapter:
            adapter.add_to_text_encoder(encoder)
        if has_layout:
            encoder = TextWithLayout(encoder, loader.weights("layout"))
        return loader.tokenizer(), encoder

    if adapter:
        adapter.add_to_unet(unet)
    choice = choose_attention(unet, attention, torch.device(device), dtype)
    network = prepare(unet, torch.device(device), fused=fused, compiled=compiled)
    model = DiffusersModel(
        UNetWithLayout(network, unet.config.in_channels - unet.config.out_channels) if has_layout else network,
        scheduler,
        text,
        (lambda: loader.weights("vae")) if vae else None,
        upscale=2 ** (len(vae["block_out_channels"]) - 1) if vae else 1,
        latent_scale=vae.get("scaling_factor", STABLE_DIFFUSION_SCALE) if vae else None,
        settings=settings,
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
    unet: dict[str, Any],
    vae: dict[str, Any] | None,
    settings: FolderSettings,
    layout: dict[str, Any] | None = None,
) -> None:
    """Refuse networks that want or make something else.

    Raises:
        UserError: what is wrong with the configurations of `unet`, `vae` and `layout`.
    """
    seen: list[Any] = [unet.get("out_channels"), *([layout.get("channels")] if layout else [])]
    counted = all(isinstance(n, int) for n in seen)
    if not counted or unet.get("in_channels") != sum(seen) or unet.get("addition_embed_type"):
        raise UserError(f"model {source}: its UNet wants more than an image and a text, which is not supported")
    channels, patch, size = unet["out_channels"], settings.pixel_patch, unet.get("sample_size")
    if vae is None and channels != 3 * patch**2:
        raise UserError(
            f"model {source}: without a vae it must make RGB; its UNet has {channels} channels for pixel_patch {patch}"
        )
    if not isinstance(size, int) or size < 1:
        raise UserError(f"model {source}: the sample_size of its UNet is {size!r}, and one number of pixels is needed")
    if layout and layout.get("size") != size:
        raise UserError(f"model {source}: its layout has {layout.get('size')} pixels, its UNet {size}")

"""Networks of diffusers as score models, with a VAE (latents) or without (pixels)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from .adapters import Adapter
from .attention import AttentionChoice
from .loading import FolderSettings
from .preconditioning import Preconditioning
from .text import TextEncoder
from .vae import LatentSpace

LOG = logging.getLogger(__name__)


class DiffusersModel:
    """A network, its text encoder and noise levels, as a `ScoreModel` that can be asked directly (`predict`).

    Args:
        network: one of diffusers' in `dtype` (or anything that the adapter can ask).
        scheduler: a diffusers scheduler on a beta schedule, for its prediction type and noise table; None for the
            noise law "flow".
        text_source: loads the encoder of words, when something is encoded.
        latents: the VAE; None for a pixel model.
        upscale: image pixels a side of one latent.
        settings: the folder's own.
        adapter: how the network is asked; that of Stable Diffusion 1.x and 2.x by default.
        device, dtype: where and in what precision the network runs.
    """

    def __init__(
        self,
        network: Any,
        scheduler: Any,
        text_source: Callable[[], TextEncoder],
        latents: LatentSpace | None = None,
        *,
        upscale: int = 1,
        settings: FolderSettings | None = None,
        adapter: Adapter | None = None,
        name: str = "diffusers",
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        own = settings or FolderSettings()
        self.device, self.dtype = torch.device(device), dtype
        self.network = network.to(self.device, memory_format=torch.channels_last).eval().requires_grad_(False)
        self._text_source = text_source
        self._text: TextEncoder | None = None
        self.adapter = adapter or Adapter(dict(network.config), upscale)
        self.channels, self.masked = self.adapter.channels // own.pixel_patch**2, self.adapter.masked
        self.views, self.multiple = self.adapter.views, self.adapter.multiple * own.pixel_patch
        self.capturable = self.adapter.capturable
        self.picture_guidance = own.guidance or self.adapter.picture_guidance
        self.patch = own.pixel_patch
        self.vocabulary, self.settings = own.vocabulary, own.defaults
        self.name = own.name or name
        self.latents, self.latent, self.upscale = latents, latents is not None, upscale
        self.size = self.adapter.size * self.patch
        self.attention = AttentionChoice("sdpa")
        self.most: int | None = None  # inputs that fit into one call, once more were too many
        self.sigmas, prediction = (
            (FLOW_SIGMAS, "velocity") if self.adapter.law == "flow" else (beta_sigmas(scheduler), predicted(scheduler))
        )
        self.preconditioning = Preconditioning(
            self.adapter.law, prediction, self.sigmas.to(self.device), own.timestep, self.adapter.timestep_scale
        )

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
            ValueError: a batch that is not a multiple of the views that the network scores together.
        """
        if len(batch) % self.views:
            raise ValueError(f"{self.name} scores {self.views} views at once, and not {len(batch)}")
        inputs = (batch, c_noise.to(self.device), condition.to(self.device, self.dtype))
        warned = self.most is not None
        while True:
            size = _equal_part(len(batch), self.most, self.views)
            try:
                answer = self._ask(inputs, size)
            except torch.OutOfMemoryError:
                capturing = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
                if size == self.views or capturing:
                    raise
                self.most = _equal_part(len(batch), size - 1, self.views)
            else:
                break
            torch.cuda.empty_cache()  # outside of the handler, whose traceback holds what was allocated
        if self.most is not None and not warned:
            LOG.warning("memory is short: %d inputs go through the network %d at a time", len(batch), size)
        return answer

    def _ask(self, inputs: tuple[Tensor, Tensor, Tensor], size: int) -> Tensor:
        parts = zip(*(x.split(size) for x in inputs), strict=True)
        with self.attention.active():
            answers = [self.adapter.ask(self.network, *part) for part in parts]
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

    def place_cameras(self, condition: Tensor, c2w: Tensor) -> Tensor:
        """Conditions [B, ...] with what the network is told of the cameras [B, 4, 4], if it wants to know any."""
        return self.adapter.place_cameras(condition, c2w)

    def release_text_encoder(self) -> None:
        """See `ScoreModel.release_text_encoder`."""
        self._text = None

    def prepare_decoder(self) -> None:
        """Load the VAE into the host's memory, if there is one and it is not loaded yet."""
        if self.latents:
            self.latents.prepare()

    @torch.no_grad()
    def decode(self, features: Tensor) -> Tensor:
        """See `ScoreModel.decode`: through the VAE for latents."""
        if self.latents:
            return self.latents.decode(features, self.device)
        return (features.detach() / 2 + 0.5).clamp(0, 1)

    def encode_image(self, rgb: Tensor) -> Tensor:
        """The opposite of `decode`: RGB in [0, 1], [V, 3, H, W], to features."""
        return self.latents.encode(rgb, self.device) if self.latents else rgb * 2 - 1

    def preview(self, features: Tensor) -> Tensor:
        """See `ScoreModel.preview`: a linear map for latents."""
        return self.latents.preview(features, self.upscale, self.device) if self.latents else self.decode(features)

    def check_prompt(self, prompt: str) -> None:
        """With a vocabulary, refuse prompts that name nothing known; without, take anything."""
        if self.vocabulary:
            self.vocabulary.check(prompt)


#: Noise levels of the law "flow": t in steps of a thousandth.
FLOW_SIGMAS = (torch.arange(1, 1000, dtype=torch.float64) / torch.arange(999, 0, -1, dtype=torch.float64)).float()


def beta_sigmas(scheduler: Any) -> Tensor:
    """Noise levels of a scheduler's table, ascending."""
    alphas = scheduler.alphas_cumprod.double()
    return ((1 - alphas) / alphas).sqrt().float()


def predicted(scheduler: Any) -> str:
    """What a scheduler's network predicts."""
    return scheduler.config.get("prediction_type", "epsilon")


def _equal_part(count: int, most: int | None, together: int = 1) -> int:
    """The largest divisor of `count` that is at most `most` and a multiple of `together`."""
    sizes = range(min(count, most or count), 0, -1)
    return next((size for size in sizes if count % size == 0 and size % together == 0), together)

"""A model whose scenes nobody knows judges its own views: by how much words help it to take noise away from them.

That compares the log-likelihood of the views with words to that without (Kong et al., arXiv 2302.03792; Li et al.,
arXiv 2303.16203, classify by it).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ..export.pictures import look
from ..rendering import Rendering
from ..runs.settings import sampling_guidance
from ..scene.cameras import name_directions, ring
from ..scene.field import VoxelField
from ..scores.diffusers import DiffusersModel
from ..scores.sampling import Sampler, sample
from ..training.config import TrainConfig
from .judges import SOLID, half_done, mass_fraction, mass_of, middle_of

LEVELS = (0.5, 1.0, 2.0, 4.0)  # sigmas at which a model judges


class UnknownScenes:
    """See `Judge`.

    Args:
        config: the model's own settings.
        asked: what to make.
    """

    labels: ClassVar = {"gain": "gain by the words, dB"}
    picture_label, recognizable = labels["gain"], 0.0
    strays: ClassVar = {"solid": "solid mass apart from the largest piece", "offset": "offset of the center"}
    negligible = 0.05

    def __init__(self, model: DiffusersModel, config: TrainConfig, asked: str) -> None:
        self.model, self.config, self.asked = model, config, asked
        self.cameras = ring(8, 20.0, *config.cameras.lens)
        azimuth, elevation = 45.0 * torch.arange(8), torch.full((8,), 20.0)
        named = name_directions(azimuth, elevation, config.cameras.directions)
        self.words = [config.cameras.directions[i].words for i in named.tolist()]

    def prompts(self, *known: str) -> tuple[str, ...]:  # noqa: ARG002 - of other scenes
        """See `Judge`."""
        return (self.asked,)

    def captions(self) -> list[str]:
        """See `Judge`."""
        return [self.asked] * 4

    def truth(self, x: Tensor, sigma: Tensor) -> Tensor | None:  # noqa: ARG002
        """See `Judge`: nobody knows."""
        return None

    def unfinished(self) -> tuple[Tensor, str]:
        """See `Judge`: a sample of the model's, blurred and dimmed."""
        options = {"guidance": sampling_guidance(self.model), "generator": torch.Generator().manual_seed(0)}
        return half_done(sample(self.model, [self.asked], Sampler(12), **options).cpu()), self.asked

    def judge(self, field: VoxelField, prompt: str) -> dict[str, Any]:
        """See `Judge`."""
        words = self.model.encode([f"{words} {prompt}" for words in self.words])
        return {"gain": self._gain(self._features(field), words)}

    def judge_picture(self, x: Tensor, caption: str) -> float:
        """See `Judge`."""
        return self._gain(x[None], self.model.encode([caption]))

    @torch.no_grad()
    def stray(self, field: VoxelField, prompt: str) -> dict[str, float]:  # noqa: ARG002 - its shape is not known
        """See `Judge`: what does not hang together with most of it; the middle of the silhouettes."""
        from scipy.ndimage import label

        mass = mass_of(field)[0]
        solid = mass.where(mass > SOLID, 0.0)
        labeled: Any = label((solid > 0).reshape(field.density.shape).numpy())  # scipy has no types
        pieces = torch.from_numpy(labeled[0]).flatten().long()
        largest = int(torch.bincount(pieces, solid)[1:].argmax()) + 1 if bool((solid > 0).any()) else 0
        opacity = self._render(field).opacity.cpu()
        offset = middle_of(opacity, self.config.cameras.lens).norm(dim=1).mean()
        return {"solid": mass_fraction(solid, pieces != largest), "offset": float(offset)}

    def faces(self, field: VoxelField, prompt: str) -> float:
        """See `Judge`: sides, of those with other words, where the model finds the front's words more likely."""
        views = self._features(field)
        own = self._errors(views, self.model.encode([f"{words} {prompt}" for words in self.words]))
        front = self._errors(views, self.model.encode([f"{self.words[0]} {prompt}"]).expand(len(views), -1, -1))
        others = torch.tensor([words != self.words[0] for words in self.words])
        weight = torch.tensor(LEVELS)[:, None] ** -2.0
        return float(((front - own) * weight).sum(dim=0)[others].lt(0).float().mean()) if bool(others.any()) else 0.0

    def views(self, field: VoxelField) -> Tensor:
        """See `Judge`: as the model's decoder shows them."""
        return self.model.decode(self._features(field)).cpu()

    def _features(self, field: VoxelField) -> Tensor:
        return self._render(field).features

    @torch.no_grad()
    def _render(self, field: VoxelField) -> Rendering:
        size = (self.model.size,) * 2
        return look(field, self.cameras.to(field.box.device), size, self.config.field.backdrop)

    def _gain(self, x: Tensor, words: Tensor) -> float:
        """How much smaller words make the error of D, dB, mean over the levels."""
        without = self._errors(x, self.model.encode([""]).expand_as(words))
        return float(10 * (without.mean(dim=1) / self._errors(x, words).mean(dim=1)).log10().mean())

    def _errors(self, x: Tensor, words: Tensor) -> Tensor:
        """Mean squared error of D of noised features [V, C, H, W], always by the same noise: [levels, V]."""
        noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
        answers = [self.model.denoise(x + s * noise, torch.full((len(x),), s, device=x.device), words) for s in LEVELS]
        return torch.stack([(answer - x).square().mean(dim=(1, 2, 3)) for answer in answers]).cpu()

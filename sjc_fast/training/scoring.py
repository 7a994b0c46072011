"""From clean views to their weighted score: with any score model, or with kernels around a network."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..kernels.noise import normal
from ..kernels.paas import ALL, Coefficients, fused_paas_update, perturb
from ..paas import ESTIMATORS, average_scores, denoise_copies, draw_noise, noise_shape, rescaled, weigh
from ..scores.protocol import NetworkModel, ScoreModel
from .config import CameraConfig, TrainConfig
from .schedule import Row


@dataclass
class Conditions:
    """The encoded prompts of a run; or of several that step together, one after the other."""

    prompts: Tensor  # [directions, ...] one row a direction
    unconditional: Tensor | None  # [1, ...], or a row a prompt; None without guidance

    def of(self, row: Row) -> Tensor:
        """The words of a row's views, [V, ...]."""
        if row.blend.shape[-1] == 0:
            return self.prompts[row.direction]
        return torch.tensordot(row.blend.to(self.prompts), self.prompts, dims=1)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]

    def avoided(self, row: Row) -> Tensor | None:
        """What guidance leads a row's views away from, [1, ...] or [V, ...]."""
        if self.unconditional is None or len(self.unconditional) == 1:
            return self.unconditional
        return self.unconditional[row.direction]

    @classmethod
    def join(cls, parts: Sequence[Conditions]) -> Conditions:
        """Those of several objects.

        Raises:
            UserError: a model that encodes these prompts to different sizes.
        """
        if len({part.prompts.shape for part in parts}) > 1:
            raise UserError("the model encodes these prompts to different sizes, so they cannot be scored together")
        avoided = [part.unconditional for part in parts]
        rows = [a.expand_as(p.prompts) for a, p in zip(avoided, parts, strict=True) if a is not None]
        return cls(torch.cat([part.prompts for part in parts]), torch.cat(rows) if rows else None)

    def put(self, slot: int, part: Conditions) -> None:
        """Replace one object's, in the same memory."""
        own = slice(slot * len(part.prompts), (slot + 1) * len(part.prompts))
        if part.prompts.shape != self.prompts[own].shape:
            raise UserError("the model encodes these prompts to different sizes, so they cannot be scored together")
        self.prompts[own] = part.prompts
        if self.unconditional is not None and part.unconditional is not None:
            self.unconditional[own] = part.unconditional


def encode_prompts(
    model: ScoreModel, prompt: str, negative: str | None, cameras: CameraConfig, device: torch.device
) -> Conditions:
    """Encode a prompt once for every direction, and what guidance leads away from; None without guidance."""
    words = [""] * len(cameras.directions) if cameras.words == "none" else [f"{d.words} " for d in cameras.directions]
    unconditional = None if negative is None else model.encode([negative]).to(device)
    return Conditions(model.encode([before + prompt for before in words]).to(device), unconditional)


@dataclass(frozen=True)
class ScoreSettings:
    """How scores are estimated in a run."""

    estimator: str  # a key of `ESTIMATORS`
    weighting: str  # a key of `WEIGHTS`
    noise_samples: int
    antithetic: bool
    guidance_rescale: float

    @classmethod
    def of(cls, config: TrainConfig) -> ScoreSettings:
        """What a run's configuration says of it."""
        names = (config.score.estimator, config.weighting, config.noise_samples, config.antithetic)
        return cls(*names, config.score.guidance_rescale)


class Scorer:
    """The weighted PAAS of clean views with the noise of a row's step, for any score model.

    Args:
        model, conditions, settings: of the run, or of several that step together.
        seeds: of the noise, one an object.
    """

    fused = False
    """Whether kernels make the network's input and the update, so that nothing waits for the host."""
    share: tuple[int, int, int] = ALL
    """Of the object's views and draws, where others score the rest: first view, first draw, draws in all."""

    def __init__(
        self, model: ScoreModel, conditions: Conditions, settings: ScoreSettings, seeds: Sequence[int]
    ) -> None:
        self.model, self.conditions, self.settings, self.seeds = model, conditions, settings, list(seeds)

    def put(self, slot: int, other: Scorer) -> None:
        """Score the object of another scorer in place of one of several, in the same memory."""
        self.conditions.put(slot, other.conditions)
        self.seeds[slot] = other.seeds[0]

    @torch.no_grad()
    def __call__(self, x: Tensor, row: Row) -> Tensor:
        """The update of views [V, C, H, W], likewise."""
        s = self.settings
        noise = draw_noise(x, s.noise_samples, s.antithetic, self._noise(x, row))
        text, unconditional = self.conditions.of(row), self.conditions.avoided(row)
        together = 1
        if isinstance(self.model, NetworkModel):
            text, together = self.model.place_cameras(text, row.c2w), self.model.views
            if unconditional is not None and together > 1:
                avoided = unconditional.expand(len(x), *unconditional.shape[1:])
                unconditional = self.model.place_cameras(avoided, row.c2w)
        guided = (row.guidance, noise, s.guidance_rescale, together)
        denoised = denoise_copies(self.model, x, row.sigma, text, unconditional, *guided)
        score = average_scores(x, row.sigma, denoised, noise, ESTIMATORS[s.estimator], s.antithetic)
        return weigh(score, row.sigma, s.weighting)

    def _noise(self, x: Tensor, row: Row) -> Tensor:
        """The independent draws of each object's views."""
        views, draws, *image = noise_shape(x, self.settings.noise_samples, self.settings.antithetic)
        views //= len(self.seeds)
        first_view, first_draw, in_all = self.share
        shape = (first_view + views, in_all or draws, *image)
        parts = [
            normal(seed, at, math.prod(shape), x.device).reshape(shape)[first_view:, first_draw : first_draw + draws]
            for seed, at in zip(self.seeds, row.step.reshape(-1), strict=True)
        ]
        return torch.cat(parts)


class FusedScorer(Scorer):
    """The same around a network: two kernels and one call, with noise made where it is used."""

    fused = True

    def __init__(
        self,
        model: NetworkModel,
        conditions: Conditions,
        settings: ScoreSettings,
        seeds: Sequence[int],
        device: torch.device,
    ) -> None:
        super().__init__(model, conditions, settings, seeds)
        self.network = model
        self.seed = torch.tensor(seeds, device=device)
        self._prompts = self._as_taken(conditions)

    def _as_taken(self, conditions: Conditions) -> Tensor:
        """[1 or 2, directions, ...] as the network takes them."""
        prompts, avoided = conditions.prompts, conditions.unconditional
        halves = [prompts] if avoided is None else [prompts, avoided.expand_as(prompts)]
        return torch.stack(halves).to(self.network.dtype)

    def put(self, slot: int, other: Scorer) -> None:
        super().put(slot, other)
        rows = len(other.conditions.prompts)
        self._prompts[:, slot * rows : (slot + 1) * rows] = self._as_taken(other.conditions)
        self.seed[slot] = other.seeds[0]

    def __call__(self, x: Tensor, row: Row) -> Tensor:
        s, network = self.settings, self.network
        numbers = Coefficients(*row.coefficients)
        options: dict[str, Any] = {"noise_samples": s.noise_samples, "antithetic": s.antithetic, "patch": network.patch}
        options["share"] = self.share
        noise = (self.seed.reshape(row.step.shape), row.step)
        doubled = self.conditions.unconditional is not None
        batch = perturb(x, row.sigma, numbers.c_in, *noise, doubled=doubled, dtype=network.dtype, **options)
        c_noise = _repeated(numbers.c_noise, s.noise_samples)
        text = self.text_of(row)
        if doubled:
            c_noise = c_noise.expand(2, -1).reshape(-1)
        answer = network.predict(batch, c_noise, text)
        options["coefficient"] = ESTIMATORS[s.estimator]
        update_by = functools.partial(fused_paas_update, x, row.sigma, numbers, row.score_scale, answer, *noise)
        update = update_by(row.guidance, **options)
        if not (doubled and s.guidance_rescale):
            return update
        scale = row.score_scale[:, None, None, None]
        guided, plain = (part / scale + x for part in (update, update_by(torch.ones_like(row.guidance), **options)))
        again = rescaled(guided[:, None], plain[:, None], s.guidance_rescale, network.views)[:, 0]
        return scale * (again - x)

    def text_of(self, row: Row) -> Tensor:
        """The conditions of a row's batch: each view's, `noise_samples` times, and as often what guidance avoids."""
        times = self.settings.noise_samples
        text = self._words_of(row, times)
        if self.network.views == 1:
            return text
        return self.network.place_cameras(text, row.c2w.repeat(len(text) // len(row.c2w), 1, 1))

    def _words_of(self, row: Row, times: int) -> Tensor:
        if row.blend.shape[-1] == 0:  # one look-up
            text = self._prompts.index_select(1, row.direction)
            return text[:, :, None].expand(-1, -1, times, *text.shape[2:]).flatten(0, 2)
        text = _repeated(self.conditions.of(row).to(self._prompts), times)
        if len(self._prompts) == 1:
            return text
        return torch.cat([text, _repeated(self._prompts[1].index_select(0, row.direction), times)])


def _repeated(x: Tensor, times: int) -> Tensor:
    """[V, ...] to [V times, ...], every row so often; a view of it where that is possible."""
    return x[:, None].expand(len(x), times, *x.shape[1:]).flatten(0, 1)


def make_scorer(
    model: ScoreModel,
    conditions: Conditions,
    settings: ScoreSettings,
    seeds: Sequence[int],
    backend: str,
    device: torch.device,
) -> Scorer:
    """Fused where there is a network to ask directly and the backend has kernels for what surrounds it."""
    # To rescale guidance, the fused scorer takes D out of the update, which must be D - x of one copy.
    plain = settings.noise_samples == 1 and ESTIMATORS[settings.estimator] == 0
    if backend == "triton" and isinstance(model, NetworkModel) and (plain or not settings.guidance_rescale):
        return FusedScorer(model, conditions, settings, seeds, device)
    return Scorer(model, conditions, settings, seeds)

"""One step of a run, two ways: with autograd, which specifies it, and with fused kernels, which a CUDA graph can hold.

A step reads one row of the schedule and draws nothing. It renders V views, asks for their score, and chains it through
the renderer (Eq. 11): the score enters the backward pass as the upstream gradient, and nothing is differentiated
through the network. Scores and losses are summed over the views and divided by V.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..kernels.noise import normal
from ..paas import ESTIMATORS, POWERS, combine, denoise_copies, draw_noise, noise_shape, sds_weight, weigh
from ..rendering import render
from ..rendering.fused import march_settings, scene_of
from ..scene.field import VoxelField, parameter_groups
from ..scores.protocol import NetworkModel, ScoreModel
from .config import TrainConfig
from .losses import centre_depth_loss
from .schedule import Row


class Metrics(NamedTuple):
    """What a step measured, each a scalar tensor on the device."""

    sigma: Tensor  # mean over views
    opacity: Tensor  # mean over views and pixels
    emptiness: Tensor  # mean over views, unweighted
    update_rms: Tensor  # root mean square of the update
    field_sum: Tensor  # sum of what the field stores, after the step: finite where all of it is


@dataclass
class Conditions:
    """The encoded prompts of a run."""

    prompts: Tensor  # [directions, ...] one row a direction
    unconditional: Tensor | None  # [1, ...]; None without guidance

    def of(self, row: Row) -> Tensor:
        """The conditions of a row's views, [V, ...]."""
        if row.blend.shape[-1] == 0:
            return self.prompts[row.direction]
        return torch.tensordot(row.blend.to(self.prompts), self.prompts, dims=1)


class Views(NamedTuple):
    """A rendering, and what its way back needs."""

    features: Tensor  # [V, C, H, W]
    depth: Tensor  # [V, H, W]
    opacity: Tensor  # [V, H, W]
    emptiness: Tensor  # [V]
    kept: Any = None


class Step:
    """What both ways share. Called with a row of the schedule, it takes the step.

    Args:
        config, field, model, conditions: of the run.
        size: pixels a side of a view.
        backend: the renderer.
    """

    capturable = False
    """Whether the step never waits for the host, and so can be captured as a CUDA graph."""

    def __init__(
        self, config: TrainConfig, field: VoxelField, model: ScoreModel, conditions: Conditions, size: int, backend: str
    ) -> None:
        self.config, self.field, self.model, self.conditions = config, field, model, conditions
        self.size, self.backend = size, backend
        kinds = {"adamax": torch.optim.Adamax, "adam": torch.optim.Adam}
        rates = config.optimizer.lr, config.optimizer.background_lr
        self.optimizer = kinds[config.optimizer.name](parameter_groups(field, *rates))

    def __call__(self, row: Row) -> Metrics:
        views = self.render(row)
        update = self.score(views.features.detach(), row)
        if self.config.score.estimator == "sds":
            update = update * sds_weight(row.sigma)
        share = 1 / self.config.views
        v_depth = None
        if self.config.losses.depth_weight:
            v_depth = row.depth_weight * _depth_gradient(views.depth.detach(), self.config.losses.depth_window)
        self.chain(views, update * -share, (row.emptiness_weight * share).expand(len(update)), v_depth)
        self.optimise(row)
        return Metrics(
            row.sigma.mean(),
            views.opacity.detach().mean(),
            views.emptiness.detach().mean(),
            update.square().mean().sqrt(),
            sum(parameter.detach().sum() for parameter in self.field.parameters()),
        )

    def render(self, row: Row) -> Views:
        """The row's views."""
        raise NotImplementedError

    def score(self, x: Tensor, row: Row) -> Tensor:
        """The weighted PAAS of clean views [V, C, H, W], with the noise of the row's step."""
        return score_views(self.config, self.model, self.conditions, x, row)

    def chain(self, views: Views, v_features: Tensor, v_emptiness: Tensor, v_depth: Tensor | None) -> None:
        """Upstream gradients, like what they belong to, to gradients of the field."""
        raise NotImplementedError

    def optimise(self, row: Row) -> None:
        """Move the field, and forget its gradients."""
        raise NotImplementedError

    def background(self, row: Row) -> Tensor | None:
        """The row's plain background, [V, 3] in [-1, 1]; None where the field has a texture."""
        return None if self.config.field.background == "texture" else row.background * 2 - 1


class AutogradStep(Step):
    """With any renderer, autograd and `torch.optim`."""

    def render(self, row: Row) -> Views:
        beta = self.config.losses.emptiness_beta
        options = {"background": self.background(row), "beta": beta, "slots": row.slots}
        return Views(*render(self.field, row.cameras, self.size, backend=self.backend, **options))

    def chain(self, views: Views, v_features: Tensor, v_emptiness: Tensor, v_depth: Tensor | None) -> None:
        roots, upstream = [views.features, views.emptiness], [v_features, v_emptiness]
        if v_depth is not None:
            roots, upstream = [*roots, views.depth], [*upstream, v_depth]
        torch.autograd.backward(roots, upstream)

    def optimise(self, row: Row) -> None:
        for group, lr in zip(self.optimizer.param_groups, (row.lr, row.background_lr), strict=True):
            group["lr"] = float(lr)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


class FusedStep(Step):
    """With the fused kernels: gradients in buffers of its own, noise made where it is used, rates read on the device.

    The optimiser's state has the names and shapes of `torch.optim`, so that a run can change from one way to the other.
    """

    def __init__(
        self, config: TrainConfig, field: VoxelField, model: ScoreModel, conditions: Conditions, size: int, backend: str
    ) -> None:
        super().__init__(config, field, model, conditions, size, backend)
        device = field.density.device
        self.capturable = backend == "triton" and isinstance(model, NetworkModel)
        self.march = march_settings(field, backend, config.losses.emptiness_beta)
        self.grads = (
            torch.zeros_like(field.density),
            torch.zeros(*field.density.shape, 4, device=device),  # a voxel's features are padded to four
            torch.zeros(4, 4, 4, device=device),  # [y, x, channel]
            torch.zeros((), device=device),
        )
        self.seed = torch.tensor(config.seed, device=device)
        self.guidance = torch.tensor(float(config.guidance), device=device)
        second = {"adamax": "exp_inf", "adam": "exp_avg_sq"}[config.optimizer.name]
        self.moments = ("exp_avg", second)
        for parameter in (field.density, field.features, field.density_scale, *self._texture()):
            zeros = {name: torch.zeros_like(parameter, requires_grad=False) for name in self.moments}
            self.optimizer.state[parameter] = {"step": torch.zeros(()), **zeros}

    def _texture(self) -> tuple[Tensor, ...]:
        return (self.field.background,) if self.config.field.background == "texture" else ()

    def render(self, row: Row) -> Views:
        from ..kernels.march import march_forward

        scene = tuple(t.detach() for t in scene_of(self.field, row.cameras, self.background(row)))
        saved = march_forward(scene, height=self.size, width=self.size, slots=row.slots, **self.march)
        return Views(*saved[:4], kept=(scene, saved))

    def score(self, x: Tensor, row: Row) -> Tensor:
        from ..kernels.paas import combine, perturb

        config, model = self.config, self.model
        if not self.capturable:  # no network to ask directly, or no kernels for it
            return super().score(x, row)
        estimator, unconditional = config.score, self.conditions.unconditional
        options = {"noise_samples": config.noise_samples, "antithetic": config.antithetic, "patch": model.patch}
        noise = (self.seed, row.step)
        batch = perturb(x, row.sigma, *noise, doubled=unconditional is not None, dtype=model.dtype, **options)
        level = row.sigma.repeat_interleave(config.noise_samples)
        text = self.conditions.of(row).repeat_interleave(config.noise_samples, dim=0)
        if unconditional is not None:
            level, text = torch.cat([level, level]), torch.cat([text, unconditional.to(text).expand_as(text)])
        answer = model.predict(batch, level, text)
        kind = {"prediction": model.prediction, "coefficient": ESTIMATORS[estimator.estimator]}
        kind["power"] = POWERS[estimator.weighting]
        return combine(x, row.sigma, answer, *noise, self.guidance, **kind, **options)

    def chain(self, views: Views, v_features: Tensor, v_emptiness: Tensor, v_depth: Tensor | None) -> None:
        from ..kernels.march import march_accumulate

        march_accumulate(self.grads, *views.kept, v_features, v_emptiness, v_depth, **self.march)

    def optimise(self, row: Row) -> None:
        from ..kernels.adamax import adam_step, adamax_step

        field, number = self.field, row.step + 1
        density, features, texture, scale = self.grads
        step = adam_step if self.config.optimizer.name == "adam" else adamax_step
        native = self.march["native"]
        moves = [(field.density, density), (field.features, features), (field.density_scale, scale)]
        for parameter in self._texture():
            moves.append((parameter, texture.permute(2, 0, 1)[: field.channels].contiguous()))
            texture.zero_()
        for parameter, gradient in moves:
            state = self.optimizer.state[parameter]
            rate = row.background_lr if parameter is field.background else row.lr
            step(parameter.detach(), gradient, *(state[name] for name in self.moments), rate, number, native=native)


def make_step(
    config: TrainConfig, field: VoxelField, model: ScoreModel, conditions: Conditions, size: int, backend: str
) -> Step:
    """The fused step where the backend has kernels for it; with autograd elsewhere, and where the same bits are asked
    for from run to run (`torch.use_deterministic_algorithms`), which the sums of Triton's fused step do not give."""
    fused = backend == "cpu" or (backend == "triton" and not torch.are_deterministic_algorithms_enabled())
    return (FusedStep if fused else AutogradStep)(config, field, model, conditions, size, backend)


@torch.no_grad()
def score_views(config: TrainConfig, model: ScoreModel, conditions: Conditions, x: Tensor, row: Row) -> Tensor:
    """The weighted PAAS of clean views [V, C, H, W] with the noise of the row's step, for any score model."""
    score = config.score
    shape = noise_shape(x, config.noise_samples, config.antithetic)
    noise = normal(config.seed, row.step, math.prod(shape), x.device).reshape(shape)
    noise = draw_noise(x, config.noise_samples, config.antithetic, noise)
    condition = conditions.of(row)
    denoised = denoise_copies(model, x, row.sigma, condition, conditions.unconditional, config.guidance, noise)
    estimate = combine(x, row.sigma, denoised, noise, ESTIMATORS[score.estimator], config.antithetic)
    return weigh(estimate, row.sigma, score.weighting)


def _depth_gradient(depth: Tensor, window: float) -> Tensor:
    """Of the centre-depth loss, like the depth [V, H, W]."""
    with torch.enable_grad():
        leaf = depth.requires_grad_()
        (gradient,) = torch.autograd.grad(centre_depth_loss(leaf, window), leaf)
    return gradient

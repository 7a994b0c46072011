"""The trainer: one step function that chains 2D scores through the renderer (Eq. 11), and the state it acts on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from .config import TrainConfig, digest
from .errors import UserError
from .field import VoxelField, check_tensors, parameter_groups
from .kernels.noise import normal
from .losses import centre_depth_loss
from .paas import ESTIMATORS, combine, denoise_copies, draw_noise, noise_shape, weigh
from .rendering import choose_backend, render
from .schedule import Row, Schedule, draw_schedule
from .scores.protocol import ScoreModel


class Metrics(NamedTuple):
    """What a step measured, as tensors on the device (reading one waits for the device)."""

    sigma: Tensor  # [] mean over views
    opacity: Tensor  # [] mean over views and pixels
    emptiness: Tensor  # [] mean over views, unweighted
    score: Tensor  # [] root mean square of the update


@dataclass
class Conditions:
    """The encoded prompts of a run."""

    prompts: Tensor  # [directions, ...] one row a direction
    unconditional: Tensor | None  # [1, ...]; None without guidance


class Trainer:
    """A run in memory: the field, its optimiser, the schedule, and where in it the run stands.

    Args:
        config: the run; `size` defaults to what the model scores.
        model: the score model.
        device: where field and schedule live.

    Raises:
        UserError: something in the configuration does not fit the model.
    """

    def __init__(self, config: TrainConfig, model: ScoreModel, device: torch.device | str = "cpu") -> None:
        config.check()
        model.check_prompt(config.prompt)
        if model.latent and config.field.background != "texture":
            raise UserError(
                f"--field.background {config.field.background} is a colour, and {model.name} works on latents; "
                "use texture"
            )
        self.config, self.model, self.device = config, model, torch.device(device)
        self.backend = choose_backend(config.backend, self.device)
        self.size = config.size or model.size
        self.field = build_field(config, model).to(self.device)
        groups = parameter_groups(self.field, config.optimizer.lr, config.optimizer.background_lr)
        kinds = {"adamax": torch.optim.Adamax, "adam": torch.optim.Adam}
        self.optimizer = kinds[config.optimizer.name](groups)
        self.schedule: Schedule = draw_schedule(config, self.field, model.sigmas, self.size).to(self.device)
        self.conditions = encode_prompts(config, model, self.device)
        self.position = 0

    def step(self) -> Metrics:
        """Take the next step of the schedule."""
        metrics = train_step(self, self.schedule[self.position])
        self.position += 1
        return metrics

    def remaining(self) -> Iterator[tuple[int, Metrics]]:
        """Take the steps that are left, yielding the number of steps taken so far and what the last one measured."""
        while self.position < len(self.schedule):
            metrics = self.step()
            yield self.position, metrics

    def is_finite(self) -> bool:
        """Whether every parameter is a finite number."""
        return all(bool(p.isfinite().all()) for p in self.field.parameters())

    def checkpoint(self) -> Checkpoint:
        """The run as it stands."""
        return Checkpoint(
            self.position, digest(self.config), dict(self.field.state_dict()), optimizer_tensors(self.optimizer)
        )

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of the same configuration.

        Raises:
            UserError: it belongs to another configuration.
        """
        if checkpoint.digest != digest(self.config):
            raise UserError("the checkpoint was made with another configuration: resume with the run's own config.yaml")
        try:
            if not 0 < checkpoint.step <= len(self.schedule):
                raise ValueError(f"it was made after step {checkpoint.step}")
            check_tensors(checkpoint.field, self.field.density_shift)
            self.field.load_state_dict(checkpoint.field)
            restore_optimizer(self.optimizer, dict(checkpoint.optimizer))
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the checkpoint is damaged: {' '.join(str(error).split())}") from None
        self.position = checkpoint.step


def train_step(run: Trainer, row: Row) -> Metrics:
    """Render, score, chain, update: one step, which reads one row of the schedule and nothing random besides.

    The score enters the renderer's backward pass as its upstream gradient (Eq. 11): nothing is differentiated through
    the network. Scores and losses are summed over the V views and divided by V.
    """
    config, views = run.config, run.config.views
    cameras = row.cameras
    background = None if config.field.background == "texture" else row.background * 2 - 1
    beta = config.losses.emptiness_beta
    view = render(run.field, cameras, run.size, backend=run.backend, background=background, beta=beta, slots=row.slots)
    update = score_views(run, view.features.detach(), row)

    loss = row.emptiness_weight * view.emptiness.sum() / views
    if config.losses.depth_weight:
        loss = loss + row.depth_weight * centre_depth_loss(view.depth, config.losses.depth_window)
    run.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward([view.features, loss], [-update / views, None])
    for group, lr in zip(run.optimizer.param_groups, (row.lr, row.background_lr), strict=True):
        group["lr"] = float(lr)
    run.optimizer.step()
    return Metrics(
        row.sigma.mean(),
        view.opacity.detach().mean(),
        view.emptiness.detach().mean(),
        update.square().mean().sqrt(),
    )


@torch.no_grad()
def score_views(run: Trainer, x: Tensor, row: Row) -> Tensor:
    """The weighted PAAS of clean views [V, C, H, W], with the noise of the row's step."""
    config, score = run.config, run.config.score
    shape = noise_shape(x, config.noise_samples, score.antithetic)
    noise = normal(config.seed, row.step, math.prod(shape), x.device).reshape(shape)
    noise = draw_noise(x, config.noise_samples, score.antithetic, noise)
    condition = run.conditions.prompts[row.direction]
    denoised = denoise_copies(run.model, x, row.sigma, condition, run.conditions.unconditional, config.guidance, noise)
    estimate = combine(x, row.sigma, denoised, noise, ESTIMATORS[score.estimator], score.antithetic)
    return weigh(estimate, row.sigma, score.weighting)


def build_field(config: TrainConfig, model: ScoreModel) -> VoxelField:
    """The field a run starts from; its random features come from the seed."""
    start = config.field
    return VoxelField(
        start.resolution,
        model.channels,
        activation="raw" if model.latent else "sigmoid",
        density_shift=start.density_shift,
        density_init=start.density_init,
        feature_std=start.feature_std,
        generator=torch.Generator().manual_seed(config.seed * 8 + 7),
    )


def encode_prompts(config: TrainConfig, model: ScoreModel, device: torch.device) -> Conditions:
    """Encode the prompt once for every direction, and the negative prompt if there is guidance."""
    prompts = [f"{d.words} {config.prompt}" for d in config.cameras.directions]
    unconditional = model.encode([config.score.negative_prompt]).to(device) if config.guidance != 1 else None
    return Conditions(model.encode(prompts).to(device), unconditional)

"""The schedule: every random or scheduled quantity of a run, drawn once from the seed, as tensors indexed by step.

A step reads one row and draws nothing. That makes runs reproducible, resuming exact, and CPU and GPU comparable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..errors import UserError
from ..rendering.rays import count_slots
from ..scene.cameras import Cameras, blend_directions, name_directions, orbit, sample_directions, sample_sphere
from ..scene.field import VoxelField
from .config import CameraConfig, FieldConfig, OptimizerConfig, SigmaConfig, TrainConfig
from .losses import emptiness_weights


@dataclass(frozen=True)
class Row:
    """What one step reads."""

    step: Tensor  # [] int64; counter of the step's noise
    c2w: Tensor  # [V, 4, 4]
    fov: Tensor  # [V] degrees
    direction: Tensor  # [V] int64, row of the encoded prompts
    blend: Tensor  # [V, directions] share of each such row, or [V, 0] where one is taken whole
    sigma: Tensor  # [V]
    slots: Tensor  # [V] int64, sample slots of each view (emptiness is a mean over them)
    background: Tensor  # [V, 3] plain background, RGB in [0, 1] (unused with a texture)
    emptiness_weight: Tensor  # []
    depth_weight: Tensor  # []
    lr: Tensor  # []
    background_lr: Tensor  # []

    @property
    def cameras(self) -> Cameras:
        return Cameras(self.c2w, self.fov)


@dataclass(frozen=True)
class Schedule:
    """All rows of a run, stacked: the fields of `Row` with a leading [steps]."""

    rows: Row

    def __len__(self) -> int:
        return len(self.rows.step)

    def __getitem__(self, step: int) -> Row:
        return Row(*(getattr(self.rows, f.name)[step] for f in fields(Row)))

    def at(self, counter: Tensor) -> Row:
        """The row of a step whose number the device holds, [1] int64: nothing is read on the host."""
        return Row(*(getattr(self.rows, f.name).index_select(0, counter)[0] for f in fields(Row)))

    def to(self, device: torch.device | str) -> Schedule:
        """The same schedule on another device."""
        return Schedule(Row(*(getattr(self.rows, f.name).to(device) for f in fields(Row))))


def draw_schedule(config: TrainConfig, field: VoxelField, sigmas: Tensor, size: int) -> Schedule:
    """Draw a run's schedule from its seed, on the CPU.

    Each quantity has a generator of its own, so that changing how one is drawn leaves the others as they are.

    Args:
        config: the run.
        field: for its box and step size.
        sigmas: the score model's noise levels, ascending.
        size: pixels a side of a view.
    """
    steps, views = config.steps, config.views
    count = steps * views
    generator = lambda k: torch.Generator().manual_seed(config.seed * 8 + k)  # noqa: E731
    cameras, direction, blend = draw_cameras(count, config.cameras, generator(0))
    lr = learning_rates(steps, config.optimizer)
    losses = config.losses
    fold = lambda x: x.reshape(steps, views, *x.shape[1:])  # noqa: E731
    rows = Row(
        step=torch.arange(steps),
        c2w=fold(cameras.c2w),
        fov=fold(cameras.fov),
        direction=fold(direction),
        blend=fold(blend),
        sigma=fold(draw_sigmas(count, steps, sigmas, config.score.sigma, generator(1))),
        slots=fold(count_slots(cameras, size, field.box.cpu(), field.step_size())),
        background=fold(draw_backgrounds(count, config.field, generator(2))),
        emptiness_weight=emptiness_weights(
            steps, losses.emptiness_weight, losses.emptiness_start, losses.emptiness_multiplier
        ),
        depth_weight=torch.full((steps,), losses.depth_weight),
        lr=lr,
        background_lr=lr / config.optimizer.lr * config.optimizer.background_lr,
    )
    return Schedule(rows)


def draw_cameras(count: int, config: CameraConfig, generator: torch.Generator) -> tuple[Cameras, Tensor, Tensor]:
    """Training cameras, the index of each one's direction, [count], and, where words are blended, all shares."""
    low, high = config.fov
    fov = low + (high - low) * torch.rand(count, generator=generator)
    if config.law == "directions":
        azimuth, elevation, index = sample_directions(count, config.directions, config.spread, generator)
    else:
        azimuth, elevation = sample_sphere(count, config.v, generator)
        try:
            index = name_directions(azimuth, elevation, config.directions)
        except ValueError as error:
            raise UserError(f"--cameras.law sphere: {error}; narrow --cameras.v, or use the law directions") from None
    blended = config.words == "blended"
    blend = blend_directions(azimuth, elevation, config.directions) if blended else torch.empty(count, 0)
    return orbit(azimuth, elevation, config.radius, fov), index, blend


def draw_sigmas(count: int, steps: int, table: Tensor, config: SigmaConfig, generator: torch.Generator) -> Tensor:
    """Noise levels [count], in step order. `table` is ascending; `config` says which part of it and in what order.

    Raises:
        UserError: nothing of the table is left.
    """
    kept = table[config.drop_smallest : max(0, len(table) - config.drop_largest)]
    low, high = (
        config.low or float(kept.min() if len(kept) else 0),
        config.high or float(kept.max() if len(kept) else 0),
    )
    kept = kept[(kept >= low) & (kept <= high)]
    if config.mode == "random":
        if len(kept) == 0:
            raise UserError(f"no noise level of the model's table lies between sigma {low:g} and {high:g}")
        return kept[torch.randint(len(kept), (count,), generator=generator)]
    unit = torch.rand(count, generator=generator)
    if not 0 < low <= high:
        raise UserError("the model's table leaves no noise levels: set --score.sigma.low and --score.sigma.high")
    if config.mode == "log-uniform":
        return low * (high / low) ** unit
    progress = (torch.arange(count) // max(1, count // steps)) / max(1, steps - 1)
    jitter = torch.exp(config.jitter * (2 * unit - 1))
    return (high * (low / high) ** progress * jitter).clamp(low, high)


def draw_backgrounds(count: int, config: FieldConfig, generator: torch.Generator) -> Tensor:
    """Plain backgrounds, RGB in [0, 1], [count, 3]."""
    if config.background == "random":
        return plain_backgrounds(count, generator)
    return torch.tensor(config.background_colour).expand(count, 3).clone()


def plain_backgrounds(count: int, generator: torch.Generator) -> Tensor:
    """Near-greys of any brightness, RGB in [0, 1], [count, 3].

    A grey never matches a saturated object, and no single brightness can hide its pale or dark parts for long.
    """
    grey = 0.08 + 0.84 * torch.rand(count, 1, generator=generator)
    return (grey + 0.16 * (torch.rand(count, 3, generator=generator) - 0.5)).clamp(0, 1)


def learning_rates(steps: int, config: OptimizerConfig) -> Tensor:
    """The main learning rate at every step, [steps] float64."""
    if config.decay == "constant":
        return torch.full((steps,), config.lr, dtype=torch.float64)
    progress = torch.arange(steps, dtype=torch.float64) / steps
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + torch.cos(math.pi * progress)))

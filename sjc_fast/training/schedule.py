"""The schedule: every random or scheduled quantity of a run, drawn once from the seed, as tensors indexed by step.

A step reads one row and draws nothing. That makes runs reproducible, resuming exact, and CPU and GPU comparable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError, setting
from ..paas import WEIGHTS
from ..rendering.rays import count_slots
from ..scene.cameras import (
    Cameras,
    blend_directions,
    name_directions,
    orbit,
    sample_directions,
    sample_rig,
    sample_sphere,
)
from ..scene.field import VoxelField
from ..scores.preconditioning import Preconditioning
from .config import RIG, CameraConfig, FieldConfig, OptimizerConfig, SigmaConfig, TrainConfig
from .losses import loss_weights


@dataclass(frozen=True)
class Row:
    """What one step reads. Of S objects that step together: [S, …] for what is not a view's, and all views in turn."""

    step: Tensor  # [] int64; counter of the step's noise
    number: Tensor  # [] int64; of the step, from 1
    c2w: Tensor  # [V, 4, 4]
    fov: Tensor  # [V] degrees
    direction: Tensor  # [V] int64, row of the encoded prompts
    blend: Tensor  # [V, directions] share of each such row, or [V, 0] where one is taken whole
    sigma: Tensor  # [V]
    coefficients: Tensor  # [5, V] `Coefficients` of the network at sigma; [0, V] for a model without one
    score_scale: Tensor  # [V] weight(sigma) / sigma^2: what D - x is multiplied by
    guidance: Tensor  # [V] classifier-free guidance scale
    slots: Tensor  # [V] int64, sample slots of each view (emptiness is a mean over them)
    background: Tensor  # [V, 3] plain background, RGB in [0, 1] (unused with a texture)
    loss_weights: Tensor  # [losses] in the order of `LOSSES`
    lr: Tensor  # []
    background_lr: Tensor  # []

    @property
    def cameras(self) -> Cameras:
        return Cameras(self.c2w, self.fov)

    def object(self, which: int, directions: int) -> Row:
        """The part of one of the objects, of which each has so many encoded prompts, as if it stepped alone."""
        views = len(self.sigma) // len(self.step)
        seen = self.of_views(slice(which * views, (which + 1) * views))
        parts: dict[str, Tensor] = {name: getattr(self, name)[which] for name in SHARED_BY_VIEWS}
        parts["direction"] = seen.direction - which * directions
        if seen.blend.shape[1]:
            parts["blend"] = seen.blend[:, which * directions : (which + 1) * directions]
        return replace(seen, **parts)

    def of_views(self, own: slice) -> Row:
        """The same with some of the views."""
        parts: dict[str, Tensor] = {}
        for f in fields(Row):
            value: Tensor = getattr(self, f.name)
            if f.name not in SHARED_BY_VIEWS:
                parts[f.name] = value[:, own] if f.name == "coefficients" else value[own]
        return replace(self, **parts)


#: The parts of a row that are not a view's.
SHARED_BY_VIEWS = ("step", "number", "loss_weights", "lr", "background_lr")


class Schedule:
    """All rows of a run.

    Args:
        rows: stacked, the fields of `Row` with a leading [steps].
    """

    def __init__(self, rows: Row) -> None:
        self.rows = rows
        self._packed, self._places = _pack(rows)

    def __len__(self) -> int:
        return len(self.rows.step)

    def __getitem__(self, step: int) -> Row:
        return Row(*(getattr(self.rows, f.name)[step] for f in fields(Row)))

    def at(self, counter: Tensor) -> Row:
        """The row of a step whose number the device holds, [1] int64: nothing is read on the host."""
        found = self._packed.index_select(0, counter)[0]
        return Row(*(found[start:end].view(kind).view(shape) for kind, start, end, shape in self._places))

    def to(self, device: torch.device | str) -> Schedule:
        """The same schedule on another device."""
        return Schedule(Row(*(getattr(self.rows, f.name).to(device) for f in fields(Row))))


class ScheduleStack:
    """The schedules of S objects that step together, each wherever it stands.

    Args:
        schedules: of one layout, that is with as many views and directions.
        steps: that the longest schedule may ever have.
        directions: rows of encoded prompts of an object; those of all objects follow each other.
    """

    def __init__(self, schedules: Sequence[Schedule], steps: int, directions: int) -> None:
        first, objects = schedules[0]._packed, len(schedules)  # pyright: ignore[reportPrivateUsage]
        self._packed = first.new_zeros(objects, steps, first.shape[1])
        self._places = schedules[0]._places  # pyright: ignore[reportPrivateUsage]
        self._begin = torch.arange(objects, device=first.device)
        self._directions, self._steps = directions, steps
        for slot, schedule in enumerate(schedules):
            self.put(slot, schedule)

    def put(self, slot: int, schedule: Schedule) -> None:
        """Replace a schedule, in the same memory."""
        self._packed[slot, : len(schedule)] = schedule._packed  # pyright: ignore[reportPrivateUsage]

    def at(self, counters: Tensor) -> Row:
        """The rows of steps whose numbers the device holds, [S] int64, as one: nothing is read on the host."""
        objects = len(counters)
        found = self._packed.flatten(0, 1).index_select(0, self._begin * self._steps + counters)
        parts: dict[str, Tensor] = {}
        for f, (kind, start, end, shape) in zip(fields(Row), self._places, strict=True):
            value = found[:, start:end].view(kind).reshape(objects, *shape)
            if f.name == "coefficients":  # [S, 5, V]
                parts[f.name] = value.transpose(0, 1).flatten(1)
            else:
                parts[f.name] = value if f.name in SHARED_BY_VIEWS else value.flatten(0, 1)
        own = self._begin[:, None].expand(objects, len(parts["sigma"]) // objects).reshape(-1)
        parts["direction"] = parts["direction"] + own * self._directions
        if parts["blend"].shape[1]:  # each view's shares of its own object's prompts
            apart = (own[:, None] == self._begin)[:, :, None] * parts["blend"][:, None]
            parts["blend"] = apart.flatten(1)
        return Row(**parts)


Place = tuple[torch.dtype, int, int, tuple[int, ...]]


def _pack(rows: Row) -> tuple[Tensor, list[Place]]:
    """All fields in one table, [steps, words] int32, so that a step is one look-up; and where in a row the fields lie:
    type, first and last word, shape. Fields begin at multiples of 16 bytes, as kernels like their tensors."""
    columns: list[Tensor] = []
    places: list[Place] = []
    start = 0
    for f in fields(Row):
        field: Tensor = getattr(rows, f.name)
        words = field.reshape(len(field), math.prod(field.shape[1:])).contiguous().view(torch.int32)
        places.append((field.dtype, start, start + words.shape[1], tuple(field.shape[1:])))
        columns.append(torch.nn.functional.pad(words, (0, -words.shape[1] % 4)))
        start += columns[-1].shape[1]
    return torch.cat(columns, dim=1), places


#: Every random quantity of a run has a stream of its own, so that changing how one is drawn leaves the others alone.
STREAMS = {"cameras": 0, "sigmas": 1, "backgrounds": 2, "field": 7}


def stream(seed: int, name: str) -> torch.Generator:
    """The generator of one of a run's random quantities, at its start."""
    return torch.Generator().manual_seed(seed * 8 + STREAMS[name])


def draw_schedule(
    config: TrainConfig, field: VoxelField, sigmas: Tensor, size: int, preconditioning: Preconditioning | None = None
) -> Schedule:
    """Draw a run's schedule from its seed, on the CPU.

    Args:
        config: the run.
        field: for its box and step size.
        sigmas: the score model's noise levels, ascending.
        size: pixels a side of a view.
        preconditioning: of the score model's network, if it has one that can be asked directly.
    """
    steps, views = config.steps, config.views
    count = steps * views
    cameras, direction, blend = draw_cameras(count, config.cameras, stream(config.seed, "cameras"))
    together = RIG if config.cameras.sampling == "rig" else 1  # these have one noise level
    sigma = draw_sigmas(count // together, steps, sigmas, config.score.sigma, stream(config.seed, "sigmas"))
    sigma = sigma.repeat_interleave(together)
    lr = learning_rates(steps, config.optimizer)

    def fold(x: Tensor) -> Tensor:  # [count, ...] to [steps, views, ...]
        return x.reshape(steps, views, *x.shape[1:])

    rows = Row(
        step=torch.arange(steps),
        number=torch.arange(1, steps + 1),
        c2w=fold(cameras.c2w),
        fov=fold(cameras.fov),
        direction=fold(direction),
        blend=fold(blend),
        sigma=fold(sigma),
        coefficients=fold(network_numbers(sigma, preconditioning)).transpose(1, 2).contiguous(),
        score_scale=fold((WEIGHTS[config.weighting](sigma.double()) / sigma.double() ** 2).float()),
        guidance=fold(torch.full((count,), float(config.guidance))),
        slots=fold(count_slots(cameras, size, field.box.cpu(), field.step_size())),
        background=fold(draw_backgrounds(count, config.field, stream(config.seed, "backgrounds"))),
        loss_weights=loss_weights(steps, config.losses),
        lr=lr,
        background_lr=lr / config.optimizer.lr * config.optimizer.background_lr,
    )
    return Schedule(rows)


def network_numbers(sigma: Tensor, preconditioning: Preconditioning | None) -> Tensor:
    """`Coefficients` at noise levels [B] as columns, [B, 5] float32; [B, 0] without a network."""
    if preconditioning is None:
        return torch.empty(len(sigma), 0)
    return torch.stack([number.float() for number in preconditioning.coefficients(sigma)], dim=1)


def draw_cameras(count: int, config: CameraConfig, generator: torch.Generator) -> tuple[Cameras, Tensor, Tensor]:
    """Training cameras, the index of each one's direction, [count], and, where words are blended, all shares."""
    low, high = config.fov
    together = RIG if config.sampling == "rig" else 1
    fov = low + (high - low) * torch.rand(count // together, generator=generator).repeat_interleave(together)
    if config.sampling == "directions":
        azimuth, elevation, index = sample_directions(count, config.directions, config.spread, generator)
    else:
        if config.sampling == "rig":
            azimuth, elevation = sample_rig(count, RIG, config.elevation, generator)
        else:
            azimuth, elevation = sample_sphere(count, config.v, generator)
        try:
            index = name_directions(azimuth, elevation, config.directions)
        except ValueError as error:
            narrow = setting("cameras.elevation" if config.sampling == "rig" else "cameras.v")
            name = setting("cameras.sampling")
            raise UserError(f"{name} {config.sampling}: {error}; narrow {narrow}, or choose directions") from None
    blended = config.words == "blended"
    blend = blend_directions(azimuth, elevation, config.directions) if blended else torch.empty(count, 0)
    return orbit(azimuth, elevation, config.radius, fov), index, blend


def draw_sigmas(count: int, steps: int, table: Tensor, config: SigmaConfig, generator: torch.Generator) -> Tensor:
    """Noise levels [count], in step order. `table` is ascending; `config` says which part of it and in what order.

    Raises:
        UserError: nothing of the table is left.
    """
    kept = table[config.drop_smallest : max(0, len(table) - config.drop_largest)]
    low = config.low or float(kept.min() if len(kept) else 0)
    high = config.high or float(kept.max() if len(kept) else 0)
    kept = kept[(kept >= low) & (kept <= high)]
    if config.mode == "random" and len(kept) == 0:
        raise UserError(f"no noise level of the model's table lies between sigma {low:g} and {high:g}")
    if config.mode != "random" and not 0 < low <= high:
        names = f"{setting('score.sigma.low')} and {setting('score.sigma.high')}"
        raise UserError(f"the model's table leaves no noise levels: set {names}")
    progress = (torch.arange(count) // max(1, count // steps)) / max(1, steps - 1)
    return SIGMA_MODES[config.mode](SigmaRange(kept, low, high, progress, config.jitter), generator)


class SigmaRange(NamedTuple):
    """What a sigma mode draws from."""

    ticks: Tensor  # [ticks] of the model's table, ascending
    low: float
    high: float
    progress: Tensor  # [count] how far the run is, from 0 to 1
    jitter: float


def random_ticks(of: SigmaRange, generator: torch.Generator) -> Tensor:
    """Uniform over the ticks of the model's table (paper)."""
    return of.ticks[torch.randint(len(of.ticks), of.progress.shape, generator=generator)]


def log_uniform(of: SigmaRange, generator: torch.Generator) -> Tensor:
    """Uniform in log sigma."""
    return of.low * (of.high / of.low) ** torch.rand(of.progress.shape, generator=generator)


def annealed(of: SigmaRange, generator: torch.Generator) -> Tensor:
    """From high to low, evenly in log sigma, with jitter."""
    unit = torch.rand(of.progress.shape, generator=generator)
    jitter = torch.exp(of.jitter * (2 * unit - 1))
    return (of.high * (of.low / of.high) ** of.progress * jitter).clamp(of.low, of.high)


#: By the name of the setting `score.sigma.mode`.
SIGMA_MODES = {"random": random_ticks, "log-uniform": log_uniform, "annealed": annealed}


def draw_backgrounds(count: int, config: FieldConfig, generator: torch.Generator) -> Tensor:
    """Plain backgrounds, RGB in [0, 1], [count, 3]."""
    if config.background == "random":
        return plain_backgrounds(count, generator)
    return torch.tensor(config.background_color).expand(count, 3).clone()


def plain_backgrounds(count: int, generator: torch.Generator) -> Tensor:
    """Near-grays of any brightness, RGB in [0, 1], [count, 3].

    A gray never matches a saturated object, and no single brightness can hide its pale or dark parts for long.
    """
    gray = 0.08 + 0.84 * torch.rand(count, 1, generator=generator)
    return (gray + 0.16 * (torch.rand(count, 3, generator=generator) - 0.5)).clamp(0, 1)


def learning_rates(steps: int, config: OptimizerConfig) -> Tensor:
    """The main learning rate at every step, [steps] float64."""
    if config.decay == "constant":
        return torch.full((steps,), config.lr, dtype=torch.float64)
    progress = torch.arange(steps, dtype=torch.float64) / steps
    return config.lr * (config.final_lr + (1 - config.final_lr) * 0.5 * (1 + torch.cos(math.pi * progress)))

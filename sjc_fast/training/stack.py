"""Several runs that advance together: their views are marched in one launch, and scored in one network call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..scene.stack import FieldStack, move_in
from .config import TrainConfig, to_dict
from .graphs import Graphed
from .schedule import Row, ScheduleStack
from .scoring import Conditions, Scorer, ScoreSettings, make_scorer
from .steps import FusedStep, Metrics, StepSettings
from .trainer import Trainer

#: What may differ between runs that advance together: numbers that their schedules, prompts and fields hold.
OWN = (
    "prompt", "seed", "steps", "output", "resume", "guidance", "log", "score.negative_prompt", "score.sigma",
    "cameras.radius", "cameras.fov", "cameras.v", "cameras.elevation", "cameras.spread", "field.density_init",
    "field.feature_std", "field.background_color", "losses.emptiness_weight", "losses.emptiness_start",
    "losses.emptiness_multiplier", "losses.depth_weight", "optimizer.lr", "optimizer.background_lr", "optimizer.decay",
    "optimizer.final_lr",
)  # fmt: skip


def family(config: TrainConfig) -> str:
    """A key that is the same for runs that can advance together."""
    shared = to_dict(config)
    for name in OWN:
        *group, key = name.split(".")
        (shared[group[0]] if group else shared).pop(key)
    used = (config.guidance != 1, config.losses.emptiness_weight != 0, config.losses.depth_weight != 0)
    return f"{shared} {used} {len(config.cameras.directions)}"


def can_stack(trainer: Trainer) -> bool:
    """Whether a run's step can be taken together with others: only the fused step can."""
    return isinstance(trainer.train_step, FusedStep)


def fits(one: Trainer, other: Trainer) -> bool:
    """Whether two runs of a family can advance together: whether their prompts are encoded to the same size."""
    shapes = [t.train_step.scorer.conditions.prompts.shape for t in (one, other)]
    return shapes[0] == shapes[1]


class Stack(Graphed):
    """S runs of one `family` that advance together, each with its own schedule, from wherever it stands.

    A run in it is still a `Trainer` that can be looked at and saved; its tensors lie in the stack's memory. On a GPU
    the step of all is one CUDA graph, which goes on to be used when a run's place is taken by another.

    Args:
        trainers: whose steps are fused.
        steps: that the longest run may ever have.
    """

    def __init__(self, trainers: Sequence[Trainer], steps: int) -> None:
        first = trainers[0]
        self.trainers = list(trainers)
        super().__init__(first.device, first.graph)
        self.field = FieldStack([t.field for t in trainers], first.config.views)
        directions = len(first.config.cameras.directions)
        self.schedule = ScheduleStack([t.schedule for t in trainers], steps, directions)
        scorers = [t.train_step.scorer for t in trainers]
        self.scorer = join_scorers(scorers, ScoreSettings.of(first.config), first)
        settings = StepSettings.of(first.config, first.size, first.backend)
        self.train_step = FusedStep(self.field, self.scorer, settings)  # pyright: ignore[reportArgumentType]
        self.counters = torch.zeros(len(trainers), dtype=torch.int64, device=self.device)
        self.log = torch.zeros(len(trainers), steps, len(Metrics._fields), device=self.device)
        self._lines = torch.arange(len(trainers), device=self.device) * steps
        for slot, trainer in enumerate(trainers):
            self._move_in(slot, trainer)

    def put(self, slot: int, trainer: Trainer) -> None:
        """Let a run take the place of another, which `take` took out."""
        self.trainers[slot] = trainer
        self.field.put(slot, trainer.field)
        self.schedule.put(slot, trainer.schedule)
        self.scorer.put(slot, trainer.train_step.scorer)
        self._move_in(slot, trainer)

    def _move_in(self, slot: int, trainer: Trainer) -> None:
        """What field and schedule are not: moments, measurements, and where the run stands."""
        for mine, own in zip(self.train_step.moved(), trainer.train_step.moved(), strict=True):
            state, stacked = trainer.train_step.optimizer.state[own], self.train_step.optimizer.state[mine]
            for name in self.train_step.kind.moments:
                move_in(stacked[name][slot], state[name])
        move_in(self.log[slot, : len(trainer.log)], trainer.log)
        self.counters[slot] = trainer.position

    def take(self, slot: int) -> Trainer:
        """The run of a slot, in memory of its own: as if it had been alone."""
        trainer = self.trainers[slot]
        self.field.take(trainer.field)
        for parameter in trainer.train_step.moved():
            state = trainer.train_step.optimizer.state[parameter]
            for name in self.train_step.kind.moments:
                state[name].data = state[name].clone()
        trainer.log.data = trainer.log.clone()
        trainer.move_to(trainer.position)
        return trainer

    def step(self) -> None:
        """Take the next step of every run."""
        self._take_step()
        for trainer in self.trainers:
            trainer.position += 1

    def _advance(self) -> None:
        metrics = self.train_step(self.schedule.at(self.counters))
        self.log.flatten(0, 1).index_copy_(0, self._lines + self.counters, torch.stack(metrics, dim=-1))
        self.counters += 1


class Turns:
    """Runs that take their steps one after the other, each as if it were alone: for what a `Stack` cannot take."""

    def __init__(self, trainers: Sequence[Trainer]) -> None:
        self.trainers = list(trainers)

    def put(self, slot: int, trainer: Trainer) -> None:
        """As that of a stack, like the others."""
        self.trainers[slot] = trainer

    def take(self, slot: int) -> Trainer:
        """As that of a stack; the run's own graph and buffers are let go."""
        trainer = self.trainers[slot]
        trainer.move_to(trainer.position)
        trainer.train_step.__dict__.pop("grads", None)
        return trainer

    def step(self) -> None:
        for trainer in self.trainers:
            trainer.step()


class ApartScorer(Scorer):
    """Each object's views by a call of their own, so that the bits are those of a run that steps alone: what a network
    answers to a row of a batch may depend, by rounding, on the size of the batch."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self.scorers = list(scorers)

    def put(self, slot: int, other: Scorer) -> None:
        self.scorers[slot] = other

    def __call__(self, x: Tensor, row: Row) -> Tensor:
        parts = zip(self.scorers, x.chunk(len(self.scorers)), strict=True)
        directions = len(self.scorers[0].conditions.prompts)
        return torch.cat([scorer(own, row.object(i, directions)) for i, (scorer, own) in enumerate(parts)])


def join_scorers(scorers: Sequence[Scorer], settings: ScoreSettings, first: Trainer) -> Scorer:
    """One scorer for all; where the same bits are asked for (`torch.use_deterministic_algorithms`), one for each.

    Raises:
        UserError: prompts that the model cannot take in one batch.
    """
    if torch.are_deterministic_algorithms_enabled():
        return ApartScorer(scorers)
    conditions = Conditions.join([scorer.conditions for scorer in scorers])
    seeds = [scorer.seeds[0] for scorer in scorers]
    return make_scorer(first.model, conditions, settings, seeds, first.backend, first.device)

"""The trainer: the state of a run, and the loop that takes its steps, eagerly or as a CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import UserError, setting
from ..rendering import choose_backend
from ..scene.field import VoxelField, check_tensors
from ..scores.protocol import NetworkModel, ScoreModel
from .checkpoint import Checkpoint, optimizer_tensors, restore_optimizer
from .config import FieldConfig, TrainConfig, digest
from .distributed import Ranks, SharedScorer
from .graphs import Graphed
from .schedule import Schedule, draw_schedule, stream
from .scoring import ScoreSettings, encode_prompts, make_scorer
from .steps import Metrics, Step, StepSettings, make_step


class Trainer(Graphed):
    """A run in memory: the field, its optimizer, the schedule, and where in it the run stands.

    Args:
        config: the run; `size` defaults to what the model scores.
        model: the score model.
        device: where field and schedule live.
        release: let the model's text encoder go once the prompts are encoded; False where more will be.
        ranks: processes that share the work, of which this is one.

    Raises:
        UserError: something in the configuration does not fit the model.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: ScoreModel,
        device: torch.device | str = "cpu",
        *,
        release: bool = True,
        ranks: Ranks | None = None,
    ) -> None:
        config.check()
        model.check_prompt(config.prompt)
        if model.latent and config.field.background != "texture":
            name = setting("field.background")
            raise UserError(
                f"{name} {config.field.background} is a color, and {model.name} works on latents; use texture"
            )
        if getattr(model, "masked", False) and config.cameras.words == "blended":
            name = setting("cameras.words")
            raise UserError(f"{name} blended: the prompts of {model.name} have masks, which cannot be blended")
        check_views(config, model)
        self.config, self.model, self.device = config, model, torch.device(device)
        self.backend = choose_backend(config.backend, self.device)
        # Shapes do not change, so the search for fast convolutions pays; what it finds may differ from run to run.
        torch.backends.cudnn.benchmark = not torch.are_deterministic_algorithms_enabled()
        self.size = config.size or model.size
        if self.size % getattr(model, "multiple", 1):
            name = setting("size")
            raise UserError(f"{name} {self.size}: {model.name} takes multiples of {getattr(model, 'multiple', 1)}")
        self.field = build_field(config.field, model, stream(config.seed, "field")).to(self.device)
        numbers = model.preconditioning if isinstance(model, NetworkModel) else None
        self.schedule: Schedule = draw_schedule(config, self.field, model.sigmas, self.size, numbers).to(self.device)
        negative = config.score.negative_prompt if config.guidance != 1 else None
        conditions = encode_prompts(model, config.prompt, negative, config.cameras, self.device)
        if release:
            model.release_text_encoder()
        settings = ScoreSettings.of(config)
        scorer = make_scorer(model, conditions, settings, [config.seed], self.backend, self.device)
        if ranks is not None:
            scorer = SharedScorer(scorer, ranks, config.views)
        how = StepSettings.of(config, self.size, self.backend, same_bits=ranks is not None)
        self.train_step: Step = make_step(self.field, scorer, how)
        capturable = self.train_step.capturable and getattr(model, "capturable", True)
        super().__init__(self.device, config.graph and capturable and self.device.type == "cuda")
        self.position = 0
        self.log = torch.zeros(len(self.schedule), len(Metrics._fields), device=self.device)  # a row a step taken
        self._counter = torch.zeros(1, dtype=torch.int64, device=self.device)

    def step(self) -> None:
        """Take the next step of the schedule; what it measures becomes row `position` of `log`.

        The first steps are taken eagerly, and are the graph's warm-up.
        """
        self._take_step()
        self.position += 1

    def _advance(self) -> None:
        metrics = self.train_step(self.schedule.at(self._counter))
        self.log.index_copy_(0, self._counter, torch.stack(metrics)[None])
        self._counter += 1

    def remaining(self) -> Iterator[int]:
        """Take the steps that are left, yielding the number of steps taken so far."""
        while self.position < len(self.schedule):
            self.step()
            yield self.position

    def is_finite(self) -> bool:
        """Whether every parameter is a finite number (waits for the device)."""
        return all(bool(p.isfinite().all()) for p in self.field.parameters())

    def first_bad_step(self) -> int | None:
        """The first step that left the field with NaN or infinity, counted from 1 (waits for the device)."""
        bad = (~self.log[: self.position, Metrics._fields.index("field_sum")].isfinite()).nonzero()
        return int(bad[0]) + 1 if len(bad) else None

    def checkpoint(self) -> Checkpoint:
        """The run as it stands."""
        for state in self.train_step.optimizer.state.values():
            state["step"].fill_(self.position)  # the fused step counts with the schedule
        optimizer = optimizer_tensors(self.train_step.optimizer)
        return Checkpoint(self.position, digest(self.config), dict(self.field.state_dict()), optimizer)

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
            restore_optimizer(self.train_step.optimizer, dict(checkpoint.optimizer))
        except (RuntimeError, ValueError) as error:
            raise UserError(f"the checkpoint is damaged: {' '.join(str(error).split())}") from None
        self.move_to(checkpoint.step)

    def move_to(self, position: int) -> None:
        """Go on from a step, with the tensors that the field and its optimizer hold now."""
        self.position = position
        self._counter.fill_(position)
        self._replay, self._eager = None, 0  # a graph holds the addresses of the old state


def check_views(config: TrainConfig, model: ScoreModel) -> None:
    """Refuse cameras that a multi-view model cannot score.

    Raises:
        UserError: what it wants.
    """
    if getattr(model, "views", 1) == 1:
        return
    if config.cameras.sampling != "rig":
        name = setting("cameras.sampling")
        raise UserError(f"{name} {config.cameras.sampling}: {model.name} scores views of a rig at once; choose rig")
    if config.noise_samples > 1:
        name = setting("noise_samples")
        raise UserError(f"{name} {config.noise_samples}: {model.name} scores one a view; raise {setting('views')}")


class Readout:
    """What steps measured, on its way to the host: copied while the device goes on, read once it has arrived.

    At most `AHEAD` copies are under way, so that the host never runs far ahead of the device.
    """

    AHEAD = 2

    def __init__(self, log: Tensor) -> None:
        self.log = log
        self._pending: list[tuple[int, Tensor, torch.cuda.Event | None]] = []

    def send(self, position: int) -> None:
        """Start copying what step `position` (from 1) measured."""
        cuda = self.log.device.type == "cuda"
        row = torch.empty(self.log.shape[1], pin_memory=cuda)
        row.copy_(self.log[position - 1], non_blocking=True)
        event = torch.cuda.Event() if cuda else None
        if event:
            event.record()
        self._pending.append((position, row, event))

    def arrived(self, everything: bool = False) -> Iterator[tuple[int, dict[str, float]]]:
        """Step and metrics by name, oldest first, of all copies that are there; or wait for everything."""
        while self._pending:
            position, row, event = self._pending[0]
            if event is not None and not event.query():
                if len(self._pending) < self.AHEAD and not everything:
                    return
                event.synchronize()
            del self._pending[0]
            values: list[float] = row.tolist()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
            yield position, dict(zip(Metrics._fields, values, strict=True))


def build_field(start: FieldConfig, model: ScoreModel, generator: torch.Generator) -> VoxelField:
    """The field that a run starts from."""
    return VoxelField(
        start.resolution,
        model.channels,
        activation="raw" if model.latent else "sigmoid",
        density_shift=start.density_shift,
        density_init=start.density_init,
        feature_std=start.feature_std,
        generator=generator,
    )

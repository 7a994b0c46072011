"""Experiment trackers: a run's scalars, previews and settings to TensorBoard and Weights & Biases."""

from __future__ import annotations

import hashlib
import importlib.util
import queue
from pathlib import Path
from typing import Any

from torch import Tensor

from ..errors import UserError, setting
from ..export.pictures import to_bytes
from ..training.config import settings_of
from ..training.steps import Metrics
from ..training.trainer import Trainer
from .folder import RunFolder
from .reporter import Reporter


class TensorBoardReporter(Reporter):
    """Scalars, previews and hyperparameters as TensorBoard events in the run folder."""

    _writer: Any = None

    def start(self, trainer: Trainer, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self._writer = SummaryWriter(folder, purge_step=trainer.position + 1)
        if trainer.position == 0:
            settings = settings_of(trainer.config)
            self._writer.add_text("config", "\n".join(f"    {k}: {v}" for k, v in settings.items()))
            names = {f"train/{name}": 0.0 for name in Metrics._fields}
            # What `add_hparams` does, without its second event file.
            for summary in hparams(
                {k: v if isinstance(v, bool | int | float) else str(v) for k, v in settings.items()}, names
            ):
                self._writer.file_writer.add_summary(summary)

    def measured(self, position: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(f"train/{name}", value, position)

    def preview(self, position: int, picture: Tensor) -> None:
        self._writer.add_image("preview", picture.clamp(0, 1), position)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbReporter(Reporter):
    """Scalars, previews and settings to Weights & Biases.

    Args:
        project: theirs.

    Raises:
        UserError: the package is not installed.
    """

    _run: Any = None

    def __init__(self, project: str) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise UserError(f"{setting('wandb')} {project}: it is not installed: pip install 'sjc-fast[wandb]'")
        self.project = project
        # Previews come from another thread, and are sent with the next measurements: in the order of steps.
        self._pictures: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()

    def start(self, trainer: Trainer, folder: Path) -> None:
        import wandb

        # A resumed run goes on where it was: the same folder and the same start are the same run.
        started = RunFolder(folder).config.stat().st_mtime_ns
        name = hashlib.sha256(f"{folder.resolve()} {started}".encode()).hexdigest()[:12]
        options = {"project": self.project, "name": folder.name, "id": name, "resume": "allow", "dir": folder}
        try:
            self._run = wandb.init(**options, config=settings_of(trainer.config))
        except (wandb.Error, ValueError) as error:
            raise UserError(f"{setting('wandb')} {self.project}: {' '.join(str(error).split())}") from None

    def measured(self, position: int, metrics: dict[str, float]) -> None:
        self._send_pictures(position)
        self._run.log({f"train/{name}": value for name, value in metrics.items()}, step=position)

    def preview(self, position: int, picture: Tensor) -> None:
        import wandb

        self._pictures.put((position, wandb.Image(to_bytes(picture))))

    def _send_pictures(self, position: int) -> None:
        while not self._pictures.empty():
            taken, picture = self._pictures.get()
            self._run.log({"preview": picture}, step=max(taken, position))

    def close(self) -> None:
        if self._run is not None:
            self._send_pictures(0)
            self._run.finish()

"""How a run looks while it runs: a progress bar for people, TensorBoard events for later."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from ..config import flatten, to_dict
from ..trainer import Metrics, Trainer


class ProgressReporter:
    """A progress bar with rate, time left, sigma and opacity on stderr, and events in the run folder."""

    def start(self, trainer: Trainer, folder: Path) -> None:
        """Say what is used and how to change it."""
        from torch.utils.tensorboard import SummaryWriter

        config = trainer.config
        where = f"model {trainer.model.name}, renderer {trainer.backend}, device {trainer.device}"
        print(f"{where} (change with --model, --backend, --device)", flush=True)
        print(f"run folder {folder}", flush=True)
        self._every = config.log.metrics_every
        self._writer = SummaryWriter(folder, purge_step=trainer.position or None)
        if trainer.position == 0:
            table = "\n".join(f"    {k}: {v}" for k, v in flatten(to_dict(config)).items() if "directions" not in k)
            self._writer.add_text("config", table)
        self._bar = tqdm(
            total=config.steps,
            initial=trainer.position,
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
            mininterval=0.5,
        )

    def step(self, position: int, metrics: Metrics) -> None:
        """Advance the bar; read the metrics every few steps only, since reading them waits for the device."""
        self._bar.update()
        if position % self._every == 0:
            values = {k: float(v) for k, v in metrics._asdict().items()}
            self._bar.set_postfix(sigma=f"{values['sigma']:.2f}", opacity=f"{values['opacity']:.2f}", refresh=False)
            for name, value in values.items():
                self._writer.add_scalar(f"train/{name}", value, position)

    def preview(self, position: int, picture: Tensor) -> None:
        """Keep the preview as an event too."""
        self._writer.add_image("preview", picture.clamp(0, 1), position)

    def note(self, message: str) -> None:
        """Something that people should know."""
        self._bar.write(message, file=sys.stderr)

    def close(self) -> None:
        """End the bar and flush the events."""
        self._bar.close()
        self._writer.close()

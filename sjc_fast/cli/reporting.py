"""How a run looks while it runs: a progress bar for people, TensorBoard events for later."""

from __future__ import annotations

import sys
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from ..config import flatten, to_dict
from ..run import Reporter
from ..trainer import Trainer
from . import say


class ProgressReporter(Reporter):
    """A progress bar with rate, time left, sigma and opacity on stderr, and events in the run folder."""

    _bar: tqdm | None = None

    def announce(self, message: str) -> None:
        """Say what is used."""
        say(message)

    def start(self, trainer: Trainer, folder: Path) -> None:
        """Open the bar and the events."""
        from torch.utils.tensorboard import SummaryWriter

        config = trainer.config
        say(f"run folder {folder}")
        self._writer = SummaryWriter(folder, purge_step=trainer.position + 1)
        if trainer.position == 0:
            table = "\n".join(f"    {k}: {v}" for k, v in flatten(to_dict(config)).items() if "directions" not in k)
            self._writer.add_text("config", table)
        self._bar = tqdm(
            total=config.steps,
            initial=trainer.position,
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 15,  # a log file needs fewer lines than a screen
        )

    def step(self, position: int) -> None:
        """Advance the bar."""
        self._bar.update(position - self._bar.n)

    def measured(self, position: int, metrics: dict[str, float]) -> None:
        """Show some of the metrics, and keep all as events."""
        self._bar.set_postfix(sigma=f"{metrics['sigma']:.2f}", opacity=f"{metrics['opacity']:.2f}", refresh=False)
        for name, value in metrics.items():
            self._writer.add_scalar(f"train/{name}", value, position)

    def preview(self, position: int, picture: Tensor) -> None:
        """Keep the preview as an event too."""
        self._writer.add_image("preview", picture.clamp(0, 1), position)

    def note(self, message: str) -> None:
        """Something that people should know."""
        self._bar.write(message, file=sys.stderr)

    def close(self) -> None:
        """End the bar and flush the events."""
        if self._bar is not None:
            self._bar.close()
            self._writer.close()

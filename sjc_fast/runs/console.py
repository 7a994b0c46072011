"""What a run prints: lines that survive a reader who goes away, and a progress bar."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .reporter import Reporter

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..training.trainer import Trainer


def say(message: str) -> None:
    """Print a line of a long job, which goes on when nobody reads any more."""
    try:
        print(message, flush=True)
    except BrokenPipeError:
        silence()


def silence() -> None:
    """Send all further output nowhere: whoever read it is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ProgressReporter(Reporter):
    """A progress bar with rate, time left, sigma and opacity on stderr."""

    _bar: tqdm | None = None

    def announce(self, message: str) -> None:
        say(message)

    def start(self, trainer: Trainer, folder: Path) -> None:
        say(f"run folder {folder}")
        from tqdm import tqdm

        self._bar = tqdm(
            total=trainer.config.steps,
            initial=trainer.position,
            unit="step",
            dynamic_ncols=True,
            file=sys.stderr,
            mininterval=0.5 if sys.stderr.isatty() else 15,  # a log file needs fewer lines than a screen
        )

    def step(self, position: int) -> None:
        assert self._bar is not None  # `start` came first
        self._bar.update(position - self._bar.n)

    def measured(self, position: int, metrics: dict[str, float]) -> None:  # noqa: ARG002
        assert self._bar is not None  # `start` came first
        self._bar.set_postfix(sigma=f"{metrics['sigma']:.2f}", opacity=f"{metrics['opacity']:.2f}", refresh=False)

    def note(self, message: str) -> None:
        assert self._bar is not None  # `start` came first
        self._bar.write(message, file=sys.stderr)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

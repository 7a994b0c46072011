"""Who hears what happens in a run, and says what people want of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from ..training.trainer import Trainer


@dataclass
class ControlRequest:
    """What people want of a run in progress."""

    pause: bool = False
    stop: bool = False
    save: bool = False


class Reporter:
    """Hears what happens in a run. This one says nothing."""

    def announce(self, message: str) -> None:
        """Before anything is loaded: what will be used."""

    def start(self, trainer: Trainer, folder: Path) -> None:
        """Before the first step."""

    def step(self, position: int) -> None:
        """After every step; `position` counts the steps taken."""

    def asked(self) -> ControlRequest:
        """After every step: what people want of the run. While it is paused this is asked again and again."""
        return ControlRequest()

    def measured(self, position: int, metrics: dict[str, float]) -> None:
        """What step `position` measured, by name, every few steps; it comes when the device has got there."""

    def preview(self, position: int, picture: Tensor) -> None:
        """After every preview, [3, H, W] in [0, 1]; called by the thread that encodes and writes."""

    def note(self, message: str) -> None:
        """Something that people should know."""

    def close(self) -> None:
        """At the end, whatever that was."""


class CompositeReporter(Reporter):
    """Several reporters as one: each hears everything, and what any of them asks for is asked for."""

    def __init__(self, reporters: Sequence[Reporter]) -> None:
        self.reporters = reporters

    def announce(self, message: str) -> None:
        for reporter in self.reporters:
            reporter.announce(message)

    def start(self, trainer: Trainer, folder: Path) -> None:
        for reporter in self.reporters:
            reporter.start(trainer, folder)

    def step(self, position: int) -> None:
        for reporter in self.reporters:
            reporter.step(position)

    def asked(self) -> ControlRequest:
        wishes = [reporter.asked() for reporter in self.reporters]
        return ControlRequest(any(w.pause for w in wishes), any(w.stop for w in wishes), any(w.save for w in wishes))

    def measured(self, position: int, metrics: dict[str, float]) -> None:
        for reporter in self.reporters:
            reporter.measured(position, metrics)

    def preview(self, position: int, picture: Tensor) -> None:
        for reporter in self.reporters:
            reporter.preview(position, picture)

    def note(self, message: str) -> None:
        for reporter in self.reporters:
            reporter.note(message)

    def close(self) -> None:
        for reporter in self.reporters:
            reporter.close()

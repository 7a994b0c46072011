"""What a run needs besides its steps: measurements, previews and checkpoints on the way, and its results at the end."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from ..errors import UserError, setting
from ..export.pictures import save_picture
from ..training.checkpoint import save_checkpoint
from ..training.trainer import Readout, Trainer
from .folder import RunFolder
from .journal import Journal
from .report import write_report
from .reporter import Reporter
from .results import take_preview, write_results
from .writer import BackgroundWriter


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run in the folder was asked to stop, and its checkpoint is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


class Cadence:
    """When something regular is due: after a number of steps, or else of seconds.

    Args:
        steps: from one to the next, if they are what counts.
        seconds: likewise.
    """

    def __init__(self, steps: int | None, seconds: float) -> None:
        self.steps, self.seconds, self._last = steps, seconds, time.monotonic()

    def due(self, position: int) -> bool:
        """Whether it is, after step `position`; it then counts as done."""
        if self.steps:
            return position % self.steps == 0
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


class Attendant:
    """Attends to one run: a context around its steps, which keeps its folder up to date.

    Args:
        trainer: the run.
        folder: where its files go.
        reporter: hears what happens.
        loading: seconds that were spent before.
        beside: runs that share the device with it; previews come so much more rarely, so that their share of the time
            stays the same.
        saved: called after every checkpoint, by the thread that writes.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: RunFolder,
        reporter: Reporter,
        loading: float = 0.0,
        beside: int = 1,
        saved: Callable[[], None] | None = None,
    ) -> None:
        self.trainer, self.folder, self.reporter, self._saved = trainer, folder, reporter, saved
        self.journal = Journal(folder, len(trainer.schedule), trainer.position)
        self.journal.add("loading", loading)
        log = trainer.config.log
        self._readout = Readout(trainer.log)
        self._checkpoints = Cadence(log.checkpoint_every, log.checkpoint_seconds)
        self._previews = Cadence(log.preview_every, log.preview_seconds * beside)
        self._writer = BackgroundWriter()
        self._contexts, self._writing = contextlib.ExitStack(), contextlib.ExitStack()

    def __enter__(self) -> Attendant:
        with contextlib.ExitStack() as contexts:
            contexts.callback(self._close)
            self.reporter.start(self.trainer, self.folder.path)
            where = {"device": device_name(self.trainer.device), "renderer": self.trainer.backend}
            contexts.enter_context(self.journal.ending(self.trainer, Interrupted, **where))
            self._writing.enter_context(self._writer)
            contexts.push(self._writing)
            self._contexts = contexts.pop_all()
        self.journal.phase("training")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._contexts.__exit__(kind, error, at)

    def _close(self) -> None:
        self.reporter.close()
        if self.journal.status != "failed":
            write_report(self.folder)

    def after_step(self, stopping: bool = False) -> None:
        """Measure, show and save what is due after the step that was taken last.

        Args:
            stopping: the run is to end here, so that its checkpoint is due.

        Raises:
            UserError: a NaN (the last good checkpoint is kept), or no space.
        """
        trainer, journal, log = self.trainer, self.journal, self.trainer.config.log
        position, last = trainer.position, trainer.position == len(trainer.schedule)
        if position % log.metrics_every == 0:
            self._readout.send(position)
        self._read(everything=last)
        keep, show = stopping or last or self._checkpoints.due(position), last or self._previews.due(position)
        if keep or show:
            journal.phase("previews and checkpoints")
            if keep:
                self.save()
            if show:
                view = take_preview(trainer, decoded=last or log.preview == "decoded")
                self._writer.submit(self._write_preview, position, view)
            journal.phase("training")
        if stopping and not last:
            raise Interrupted(self.folder.path)

    def _read(self, everything: bool) -> None:
        for at, metrics in self._readout.arrived(everything):
            if not math.isfinite(metrics["field_sum"]):
                raise self._bad_field()
            self.reporter.measured(at, metrics)
            self.journal.measured(at, metrics)

    def save(self) -> None:
        """Write the checkpoint.

        Raises:
            UserError: the field holds NaN (the last good checkpoint is kept), or no space.
        """
        if not self.trainer.is_finite():
            raise self._bad_field()
        save_checkpoint(self.folder.checkpoint, self.trainer.checkpoint())
        if self._saved is not None:
            self._writer.submit(self._saved)

    def finish(self) -> None:
        """Write the results, once all steps are taken.

        Raises:
            UserError: they cannot be written.
        """
        self._writing.close()  # waits for what is being written
        self.journal.phase("mesh and video")
        self.journal.results |= write_results(self.trainer, self.folder, self.reporter)

    def _write_preview(self, position: int, view: Tensor) -> None:
        """Encode and write a preview [3, H, W], wherever it lies; not by the thread that takes the steps."""
        view = view.cpu()
        save_picture(view, self.folder.preview)
        self.journal.preview(position, view)
        self.reporter.preview(position, view)

    def _bad_field(self) -> UserError:
        kept = self.folder.checkpoint
        where = f"the last good checkpoint is {kept}" if kept.exists() else "there is no checkpoint yet"
        step = self.trainer.first_bad_step() or self.trainer.position
        lower = setting("optimizer.lr")
        return UserError(f"the field holds NaN or infinity at step {step}; {where}; try a lower {lower}")


def device_name(device: torch.device) -> str:
    """What a run's record calls its device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_threads()} threads"

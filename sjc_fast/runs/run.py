"""A whole run: from a configuration to a folder that people can open."""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, setting
from ..export.pictures import save_picture
from ..rendering import choose_backend
from ..scene.field import VoxelField
from ..scores.diffusers import DiffusersModel
from ..scores.load import load_score_model
from ..scores.lora import parse_lora
from ..scores.protocol import ScoreModel
from ..training.checkpoint import load_checkpoint, save_checkpoint
from ..training.config import TrainConfig, save_yaml
from ..training.trainer import Readout, Trainer
from .folder import RunFolder
from .journal import Journal
from .report import write_report
from .reporter import Reporter
from .results import take_preview, write_results
from .settings import check_words, limit_memory, network_dtype, pick_device
from .writer import BackgroundWriter


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run in the folder was asked to stop, and its checkpoint is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(str(folder))
        self.folder = folder


@dataclass
class Result:
    """A finished run."""

    field: VoxelField
    config: TrainConfig
    model: ScoreModel
    folder: Path


def check_early(config: TrainConfig) -> None:
    """Settings and a run folder that cannot be, refused before anything is loaded.

    Raises:
        UserError: see the message.
    """
    config.check()
    if not str(config.output or "").isprintable():
        raise UserError(f"{setting('output')} {str(config.output)!r}: give a name of readable characters")
    if config.resume is None and config.output:
        RunFolder(config.output).check_free()


def make_folder(config: TrainConfig) -> RunFolder:
    """The run folder: the one that is asked for or resumed, else the first free one in runs/.

    Raises:
        UserError: it cannot be made.
    """
    if wanted := config.resume or config.output:
        folder = RunFolder(wanted)
        folder.make()
    else:
        folder = RunFolder.first_free(config.prompt)
    if not config.resume:
        save_yaml(replace(config, output=folder.path), folder.config)
    return folder


def run(config: TrainConfig, reporter: Reporter, model: ScoreModel | None = None) -> Result:
    """Train, and write everything a run folder holds.

    Args:
        config: the run. With `resume` set it goes on from that folder's checkpoint, or from the start if the run was
            stopped before its first one.
        reporter: hears what happens.
        model: a loaded score model; default, the one that the configuration names.

    Raises:
        UserError: a wrong input, no space, or a NaN (the last good checkpoint is kept).
        Interrupted: Ctrl-C or SIGTERM; the checkpoint is written first.
    """
    started = time.monotonic()
    check_early(config)
    if config.lora:  # by full paths, so that the run can be resumed from anywhere
        config = replace(config, lora=tuple(map(absolute_lora, config.lora)))
    if config.embeddings:
        config = replace(config, embeddings=tuple(path.absolute() for path in config.embeddings))
    device = pick_device(config.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # events and graphs belong to the current device
    limit_memory(config.memory_limit, device)
    backend = choose_backend(config.backend, device)
    if model is None:
        check_words(config.model, config.prompt)
    used = f"model {model.name if model else config.model}, renderer {backend}, device {device}"
    reporter.announce(f"{used} (change with {', '.join(map(setting, ('model', 'backend', 'device')))})")
    try:
        model = model or load_model(config, device)
        choice = getattr(model, "attention", None)
        if choice and config.attention != "sdpa":
            reporter.announce(f"attention {choice.name}")
        trainer = Trainer(config, model, device)
        if config.resume and RunFolder(config.resume).checkpoint.exists():
            trainer.restore(load_checkpoint(RunFolder(config.resume).checkpoint))
        model.prepare_decoder()  # a VAE that does not load is met now, not in the middle of the run
        folder = make_folder(config)
        journal = Journal(folder, len(trainer.schedule), trainer.position)
        journal.add("loading", time.monotonic() - started)
        try:
            reporter.start(trainer, folder.path)
            with journal.ending(trainer, Interrupted, device=_device_name(device), renderer=backend):
                with BackgroundWriter() as writer:
                    train(trainer, folder, reporter, journal, writer)
                journal.phase("mesh and video")
                journal.results |= write_results(trainer, folder, reporter)
        finally:
            reporter.close()
            if journal.status != "failed":
                write_report(folder)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the device has too little memory: lower {setting('field.resolution')}, {setting('views')} or "
            f"{setting('log.turntable_size')}, or raise {setting('memory_limit')} ({str(error).splitlines()[0]})"
        ) from None
    return Result(trainer.field, trainer.config, model, folder.path)


def load_model(config: TrainConfig, device: torch.device, additions: bool = True) -> DiffusersModel:
    """The score model that a configuration names, as it wants it.

    Args:
        additions: LoRA weights and learned words too, which pictures of a field do not need.
    """
    options: dict[str, Any] = {"quantize": config.quantize}
    if additions:
        options |= {"attention": config.attention, "compiled": config.compile, "fused": config.fuse}
        options |= {"lora": config.lora, "embeddings": config.embeddings}
    return load_score_model(config.model, device, network_dtype(config.precision), **options)


def absolute_lora(text: str) -> str:
    """The same weights, by their full path."""
    path, weight = parse_lora(text)
    return f"{path.absolute()}{'' if weight == 1 else f':{weight:g}'}"


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"the CPU, {torch.get_num_threads()} threads"


def train(trainer: Trainer, folder: RunFolder, reporter: Reporter, journal: Journal, writer: BackgroundWriter) -> None:
    """Take the steps that are left, with their regular work."""
    readout, log = Readout(trainer.log), trainer.config.log
    checkpoints = Cadence(log.checkpoint_every, log.checkpoint_seconds)
    previews = Cadence(log.preview_every, log.preview_seconds)
    journal.phase("training")
    with stop_requests() as stop:
        for position in trainer.remaining():
            reporter.step(position)
            if position % log.metrics_every == 0:
                readout.send(position)
            last = position == len(trainer.schedule)
            for at, metrics in readout.arrived(everything=last):
                if not math.isfinite(metrics["field_sum"]):
                    raise _bad_field(trainer, folder)
                reporter.measured(at, metrics)
                journal.measured(at, metrics)
            stopping = _wait(trainer, folder, reporter, journal, stop) or bool(stop)
            keep, show = stopping or last or checkpoints.due(position), last or previews.due(position)
            if keep or show:
                journal.phase("previews and checkpoints")
                if keep:
                    _save(trainer, folder)
                if show:
                    view = take_preview(trainer, decoded=last or log.preview == "decoded")
                    writer.submit(_write_preview, folder, reporter, journal, position, view)
                journal.phase("training")
            if stopping and not last:
                raise Interrupted(folder.path)


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


def _write_preview(folder: RunFolder, reporter: Reporter, journal: Journal, position: int, view: Tensor) -> None:
    """Encode and write a preview [3, H, W], wherever it lies; not by the thread that takes the steps."""
    view = view.cpu()
    save_picture(view, folder.preview)
    journal.preview(position, view)
    reporter.preview(position, view)


def _wait(trainer: Trainer, folder: RunFolder, reporter: Reporter, journal: Journal, stop: list[int]) -> bool:
    """Do what people ask for between two steps, and wait while the run is paused. Returns whether it is to stop."""
    wish = reporter.asked()
    if not (wish.pause or wish.save):
        return wish.stop
    journal.phase("paused")
    while True:
        if wish.save:
            _save(trainer, folder)
        if wish.stop or stop or not wish.pause:
            break
        time.sleep(0.05)
        wish = reporter.asked()
    journal.phase("training")
    return wish.stop


def _bad_field(trainer: Trainer, folder: RunFolder) -> UserError:
    kept = folder.checkpoint
    where = f"the last good checkpoint is {kept}" if kept.exists() else "there is no checkpoint yet"
    step = trainer.first_bad_step() or trainer.position
    return UserError(f"the field holds NaN or infinity at step {step}; {where}; try a lower {setting('optimizer.lr')}")


def _save(trainer: Trainer, folder: RunFolder) -> None:
    if not trainer.is_finite():
        raise _bad_field(trainer, folder)
    save_checkpoint(folder.checkpoint, trainer.checkpoint())


@contextlib.contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM during the block, so that a step is never torn; a second Ctrl-C is not held."""
    seen: list[int] = []

    def note(number: int, _: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's business
        before = {}
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
